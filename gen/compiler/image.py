"""Images: the bytes that the accelerator's memory regions start with, and where they lie."""

from dataclasses import dataclass

import numpy as np

from tilewright.hw.config import BLOCK
from tilewright.sim.golden.rope import interleaved_order, rope_tables

from .formats import stream_formats, tile_matrix
from .plan import FFN_CHUNK, ceil_to

__all__ = ["Image", "KvLayout", "pad_rows", "rope_rows", "layer_constants"]


class Image:
    """A region's content, grown piece by piece."""

    def __init__(self):
        self._data = bytearray()

    def add(self, data, *, align=64):
        """Append ``data`` at the next multiple of ``align``; returns its offset."""
        self._data += bytes(-len(self._data) % align)
        offset = len(self._data)
        self._data += bytes(data)
        return offset

    @property
    def data(self):
        return bytes(self._data)


def pad_rows(x, config):
    """FP32 rows [rows, n] padded with zeros to whole beats."""
    rows, n = x.shape
    padded = np.zeros((rows, ceil_to(n, config.group_words)), "<f4")
    padded[:, :n] = x
    return padded


def rope_rows(shape, context, config):
    """Table of RoPE: for each position a row of cosines, then one of signed sines (-sin, +sin), padded to beats."""
    tables = rope_tables(rotary_dim=shape.rotary_dim, theta=shape.rope_theta, first=0, count=context,
                         scaling=shape.rope_scaling)
    return np.concatenate([pad_rows(table, config) for table in tables], axis=1)


@dataclass(frozen=True, kw_only=True)
class KvLayout:
    """Where one layer's KV cache lies, in bytes from its base. Position p lies in slot p modulo ``slots``.

    K of a KV head is a weight matrix with slots as outputs; V has tiles of as many dimensions as a beat holds, with one
    beat for each slot; V scales (INT8) are FP32, one for each slot.

    format : MatrixFormat    of keys and values
    ring : bool              there are more positions than slots
    """

    format: object
    kv_heads: int
    head_dim: int
    slots: int
    ring: bool

    @property
    def lanes(self):
        """Bytes of a reduction index of a tile."""
        return self.format.config.lanes

    @property
    def outputs(self):
        """Slots of a tile of K, dimensions of a tile of V."""
        return self.format.outputs

    @property
    def k_tile_bytes(self):
        return self.format.tile_bytes(self.head_dim)

    @property
    def k_block_bytes(self):
        """A whole block of 32 dimensions with its scales."""
        return self.format.tile_bytes(BLOCK)

    @property
    def k_head_bytes(self):
        return self.format.tiles(self.slots) * self.k_tile_bytes

    @property
    def v_tiles(self):
        return self.format.tiles(self.head_dim)

    @property
    def v_tile_bytes(self):
        return self.slots * self.lanes

    @property
    def v_head_bytes(self):
        return self.v_tiles * self.v_tile_bytes

    @property
    def v_offset(self):
        return self.kv_heads * self.k_head_bytes

    @property
    def scale_offset(self):
        return self.v_offset + self.kv_heads * self.v_head_bytes

    @property
    def scale_head_bytes(self):
        return ceil_to(4 * self.slots, self.lanes) if self.format.scaled else 0

    @property
    def size(self):
        return self.scale_offset + self.kv_heads * self.scale_head_bytes


def layer_constants(image, config, shape, weights, context, tables):
    """Put a layer's constants and weights into ``image``; returns their offsets, and the weights' formats, by name.

    k_proj, v_proj and q_proj follow each other, and so do chunks of gate_proj and up_proj in turn: one STREAM each.
    ``tables`` maps RoPE's parameters to the offsets of tables that are there already, and grows.
    """
    order = _head_order(shape)

    def tiles(name):
        matrix = weights[name]
        if name in ("q_proj", "k_proj"):
            matrix = _take(matrix, _over_heads(order, shape.matrix_shapes[name][0]))
        return tile_matrix(matrix, config).tobytes()

    formats = stream_formats(config, weights)
    up = [weights[name] for name in ("gate_proj", "up_proj") if name in weights]
    chunks = [tile_matrix(_take(matrix, slice(first, first + FFN_CHUNK)), config).tobytes()
              for first in range(0, shape.ffn, FFN_CHUNK) for matrix in up]
    offsets = {}
    for name, size in shape.vector_sizes.items():
        vector = weights[name]
        if name in ("q_bias", "k_bias", "q_norm", "k_norm"):
            vector = vector[_over_heads(order, size)]
        offsets[name] = image.add(pad_rows(vector[None], config).tobytes())
    if shape.rotary_dim:
        parameters = shape.rotary_dim, shape.rope_theta, shape.rope_scaling
        if parameters not in tables:
            tables[parameters] = image.add(rope_rows(shape, context, config).tobytes())
        offsets["rope"] = tables[parameters]
    for name, data in (("projections", b"".join(tiles(name) for name in ("k_proj", "v_proj", "q_proj"))),
                       ("o_proj", tiles("o_proj")), ("up", b"".join(chunks)), ("down_proj", tiles("down_proj"))):
        offsets[name] = image.add(data, align=config.burst_bytes)
    return offsets, formats


def _take(matrix, rows):
    """Rows of a matrix of any format."""
    if isinstance(matrix, tuple):
        return type(matrix)(*(None if part is None else part[rows] for part in matrix))
    return matrix[rows]


def _head_order(shape):
    """Order of a head's dimensions in which RoPE's pairs are neighbours."""
    if shape.rope_pairing == "interleaved":
        return np.arange(shape.head_dim)
    return interleaved_order(shape.head_dim, shape.rotary_dim)


def _over_heads(order, size):
    """The order of a head's dimensions for each head of a row of ``size``."""
    return (np.arange(0, size, len(order))[:, None] + order).ravel()
