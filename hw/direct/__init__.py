"""The matmul engine under the direct control of a host: for parts too small for the whole accelerator."""
