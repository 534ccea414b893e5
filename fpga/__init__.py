"""Boards: memory controllers, host bridges, builds."""
