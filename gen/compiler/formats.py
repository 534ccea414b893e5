"""Number formats of a matmul, and what follows from them for commands and memory."""

from dataclasses import dataclass

import numpy as np

from tilewright.hw.commands import Dest, Format
from tilewright.hw.config import BLOCK

__all__ = ["MatrixFormat", "format_of", "tile_matrix"]


@dataclass(frozen=True)
class MatrixFormat:
    """Format ``name`` ('int8' or 'fp16') of a matmul's weights and activations on a build.

    outputs : int       of a tile
    rows : int          of the array; more are taken in groups
    """

    config: object
    name: str

    @property
    def outputs(self):
        return self.config.lanes if self.name == "int8" else self.config.lanes // 2

    @property
    def rows(self):
        return self.config.rows if self.name == "int8" else self.config.fp16_rows

    def groups(self, rows):
        """Row groups of so many rows."""
        return -(-rows // self.rows)

    def tiles(self, n):
        """Tiles of n outputs."""
        return -(-n // self.outputs)

    def tile_bytes(self, k):
        """A tile of a weight matrix or of K: a beat for each of k, and in INT8 two beats of scales for each block."""
        scales = 2 * -(-k // BLOCK) if self.name == "int8" else 0
        return self.config.lanes * (k + scales)

    @property
    def scaled(self):
        """Field ``scaled`` of STREAM and MATMUL for a weight matrix or K."""
        return int(self.name == "int8")

    @property
    def matmul(self):
        """Field of a MATMUL."""
        return {"format": Format[self.name.upper()]}

    @property
    def activation(self):
        """Fields of a VECTOR whose result is an operand of the MATMUL."""
        return {"dest": Dest.ACTIVATION, "half": int(self.name == "fp16")}


def format_of(matrix):
    """Format of a matrix: with ``q`` and ``d`` it is INT8 in blocks, else a float16 array."""
    return "int8" if hasattr(matrix, "d") else "fp16"


def tile_matrix(matrix, lanes):
    """Weights in the order in which they are eaten: uint8 [tiles, bytes of a tile].

    INT8 (q int8 [n, k], d float16 [n, blocks]): a tile has ``lanes`` outputs; each block of 32 k (the last may be
    shorter) is one beat for each k, then the FP16 scales of its outputs in two beats. FP16 (float16 [n, k]): a tile has
    half as many outputs and one beat for each k. Lanes past n are zero.
    """
    if format_of(matrix) == "fp16":
        n, k = matrix.shape
        tiles = -(-2 * n // lanes)
        padded = np.zeros((tiles * lanes // 2, k), "<f2")
        padded[:n] = matrix
        return np.ascontiguousarray(padded.reshape(tiles, lanes // 2, k).swapaxes(1, 2)).reshape(tiles, -1).view("u1")
    n, k = matrix.q.shape
    tiles, blocks = -(-n // lanes), -(-k // BLOCK)
    padded_q = np.zeros((tiles * lanes, k), np.int8)
    padded_d = np.zeros((tiles * lanes, blocks), "<f2")
    padded_q[:n], padded_d[:n] = matrix.q, matrix.d
    weights = padded_q.reshape(tiles, lanes, k).swapaxes(1, 2).reshape(tiles, -1).view(np.uint8)
    scales = padded_d.reshape(tiles, lanes, blocks).swapaxes(1, 2)
    parts = []
    for block in range(blocks):
        parts.append(weights[:, block * BLOCK * lanes:(block + 1) * BLOCK * lanes])
        parts.append(np.ascontiguousarray(scales[:, block]).view(np.uint8))
    return np.concatenate(parts, axis=1)
