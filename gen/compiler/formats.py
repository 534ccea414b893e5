"""Number formats of a matmul, and what follows from them for commands and memory."""

from dataclasses import dataclass

import numpy as np

from tilewright.gen.errors import UserError
from tilewright.hw.commands import Dest, Format
from tilewright.hw.config import BLOCK

__all__ = ["MatrixFormat", "unit_of", "format_of", "widest_format", "stream_formats", "tile_matrix"]


@dataclass(frozen=True)
class MatrixFormat:
    """Format ``name`` of a matmul's weights, with the activations that go with it, on a build.

    name : 'int8', 'fp16', 'int4' (blocks have a minimum, as Q4_1) or 'int4_symmetric' (they have none, as Q4_0)
    outputs : int       of a tile
    rows : int          of the array; more are taken in groups
    """

    config: object
    name: str

    @property
    def unit(self):
        """Format of the configuration that it needs."""
        return unit_of(self.name)

    @property
    def outputs(self):
        return self.config.lanes // 2 if self.name == "fp16" else self.config.lanes

    @property
    def rows(self):
        return self.config.fp16_rows if self.name == "fp16" else self.config.rows

    @property
    def operands(self):
        """Format of the activations, which is that of a KV cache's values too."""
        return MatrixFormat(self.config, "fp16" if self.name == "fp16" else "int8")

    def groups(self, rows):
        """Row groups of so many rows."""
        return -(-rows // self.rows)

    def tiles(self, n):
        """Tiles of n outputs."""
        return -(-n // self.outputs)

    def tile_beats(self, k):
        """Beats of weights alone in a tile."""
        lanes, beat = self.config.lanes, self.config.bus_bytes
        return -(-k * (lanes // 2 if self.unit == "int4" else lanes) // beat)

    def tile_bytes(self, k):
        """A tile of a weight matrix or of K, with the scales and minima of its blocks."""
        parts = {"int8": 1, "int4_symmetric": 1, "int4": 2, "fp16": 0}[self.name]
        return self.tile_beats(k) * self.config.bus_bytes + 2 * self.config.lanes * parts * -(-k // BLOCK)

    @property
    def scaled(self):
        """Whether blocks have scales."""
        return self.name != "fp16"

    @property
    def stream(self):
        """Fields of a STREAM of a weight matrix or of K, and of its MATMUL."""
        return {"format": Format[self.unit.upper()], "scaled": int(self.scaled), "minimum": int(self.name == "int4")}

    @property
    def unscaled_stream(self):
        """Fields of a STREAM of V, and of its MATMUL."""
        return {"format": Format[self.unit.upper()], "scaled": 0, "minimum": 0}

    @property
    def activation(self):
        """Fields of a VECTOR whose result is an operand of the MATMUL."""
        return {"dest": Dest.ACTIVATION, "half": int(self.name == "fp16")}


def unit_of(name):
    """Format of the configuration that the format ``name`` of a matrix needs."""
    return name.removesuffix("_symmetric")


def format_of(matrix):
    """Format of a matrix: with ``q`` and ``d`` it is INT8 in blocks, with ``q``, ``d`` and ``m`` (or None) INT4; else a
    float16 array."""
    if not hasattr(matrix, "d"):
        return "fp16"
    if not hasattr(matrix, "m"):
        return "int8"
    return "int4_symmetric" if matrix.m is None else "int4"


STREAMS = {"projections": ("k_proj", "v_proj", "q_proj"), "o_proj": ("o_proj",), "up": ("gate_proj", "up_proj"),
           "down_proj": ("down_proj",)}
"""Matrices of a layer that lie behind each other and are read by one STREAM."""


def widest_format(matrices):
    """The format that needs most room of those of ``matrices`` (mapping), which share activations. Raises UserError
    where some are FP16 and some not."""
    formats = {name: format_of(matrix) for name, matrix in matrices.items()}
    widest = next(name for name in ("fp16", "int8", "int4", "int4_symmetric") if name in formats.values())
    other = next((name for name, each in formats.items() if (each == "fp16") != (widest == "fp16")), None)
    if other:
        raise UserError(f"{other} is in {unit_of(formats[other])}, other weights are in FP16: FP16 mixes with no other "
                        "format; round all to the same")
    return widest


def stream_formats(config, weights):
    """MatrixFormat of a layer's weights by STREAM. Raises UserError where matrices of one have several formats, or the
    configuration does not have it."""
    result = {}
    for stream, names in STREAMS.items():
        formats = {name: format_of(weights[name]) for name in names if name in weights}
        if len(set(formats.values())) > 1:
            raise UserError(f"{', '.join(f'{name} in {each}' for name, each in formats.items())}: must have one "
                            "format, as they share a stream; round them to the same")
        result[stream] = MatrixFormat(config, next(iter(formats.values())))
        if result[stream].unit not in config.formats:
            raise UserError(f"{config.name}: {names[0]} in {result[stream].unit} needs it in formats = "
                            f"{list(config.formats)}; add it")
    return result


def tile_matrix(matrix, config):
    """Weights in the order in which they are eaten: uint8 [tiles, bytes of a tile].

    INT8 (q int8 [n, k], d float16 [n, blocks]): a tile has ``config.lanes`` outputs; each block of 32 k (the last may
    be shorter) has the bytes of its outputs for each k, then their FP16 scales. INT4 likewise, with half as many bytes,
    and with m (float16 [n, blocks]) the minima behind the scales. Where a beat has a byte a lane, byte l holds lane l's
    weights of two k, else byte j those of lanes 2 j and 2 j + 1; the first one in the low half. FP16 (float16 [n, k]):
    a tile has half as many outputs, and two bytes of each for each k. Lanes past n are zero.
    """
    fmt = MatrixFormat(config, format_of(matrix))
    if fmt.name == "fp16":
        n, k = matrix.shape
        padded = np.zeros((fmt.tiles(n) * fmt.outputs, k), "<f2")
        padded[:n] = matrix
        tiles = padded.reshape(-1, fmt.outputs, k).swapaxes(1, 2)
        return np.ascontiguousarray(tiles).reshape(len(tiles), -1).view("u1")
    (n, k), lanes = matrix.q.shape, config.lanes
    tiles = fmt.tiles(n)

    def tiled(part, kind):
        padded = np.zeros((tiles * lanes, part.shape[1]), kind)
        padded[:n] = part
        return padded.reshape(tiles, lanes, -1).swapaxes(1, 2)

    weights = tiled(matrix.q, np.int8).view(np.uint8)
    factors = [tiled(part, "<f2") for part in (matrix.d, getattr(matrix, "m", None)) if part is not None]
    parts = []
    for block, first in enumerate(range(0, k, BLOCK)):
        values = weights[:, first:first + BLOCK]
        parts.append((_packed(values, config) if fmt.unit == "int4" else values).reshape(tiles, -1))
        parts += [np.ascontiguousarray(factor[:, block]).view(np.uint8) for factor in factors]
    return np.concatenate(parts, axis=1)


def _packed(values, config):
    """Two INT4 weights a byte, of a block [tiles, k, lanes]."""
    if config.lanes == config.bus_bytes:
        values = np.pad(values, ((0, 0), (0, values.shape[1] % 2), (0, 0)))
        low, high = values[:, 0::2], values[:, 1::2]
    else:
        low, high = values[:, :, 0::2], values[:, :, 1::2]
    return low & 15 | high << 4
