"""Hardware: Amaranth only; imports nothing of gen, sim or fpga."""
