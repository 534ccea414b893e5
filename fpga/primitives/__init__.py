"""Primitives of the parts, each behind one class with a portable twin for simulation."""
