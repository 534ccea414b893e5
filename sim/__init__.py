"""Simulation: golden model, memory model, co-simulation runner."""
