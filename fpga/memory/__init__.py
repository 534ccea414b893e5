"""Memories of the boards behind the accelerator's AXI ports."""
