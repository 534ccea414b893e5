"""Compiler: memory plans, images and programs."""
