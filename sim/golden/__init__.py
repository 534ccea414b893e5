"""Golden model: NumPy alone, every operation of the accelerator bit for bit; imports nothing of hw, gen or fpga."""
