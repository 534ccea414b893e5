"""Generator: presets, emission, headers and documents, compiler, command line."""
