"""Memory side: scratchpad, AXI read and write, weight prefetch."""
