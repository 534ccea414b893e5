"""Vector unit: streaming FP32 lanes, table functions, reductions, A8 quantiser."""
