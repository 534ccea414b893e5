"""Matmul engine: outer-product PE array with block accumulation."""
