"""Whole models out of files: architecture, weights in the machine's formats, tokenizer."""

from tilewright.gen.checkpoint.base import MACHINE_FORMATS, WEIGHTS_FORMATS, Checkpoint, TensorError
from tilewright.gen.checkpoint.opening import open_checkpoint

__all__ = ["Checkpoint", "TensorError", "MACHINE_FORMATS", "WEIGHTS_FORMATS", "open_checkpoint"]
