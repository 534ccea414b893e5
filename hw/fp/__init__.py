"""FP32 and FP16 arithmetic units."""
