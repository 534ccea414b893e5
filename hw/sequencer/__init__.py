"""Sequencer: program fetch, scalar registers, issue of commands to the units."""
