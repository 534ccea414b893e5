"""Images: the bytes that the accelerator's memory regions start with, and where they lie."""

from dataclasses import dataclass

import numpy as np

from tilewright.hw.config import BLOCK

from .plan import FFN_CHUNK, ceil_to

__all__ = ["Image", "KvLayout", "tile_matrix", "pad_rows", "rope_rows", "layer_constants", "WEIGHT_ALIGNMENT"]

WEIGHT_ALIGNMENT = 4096
"""Where streams begin, so that no burst is cut short at a 4 KiB boundary."""


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


def tile_matrix(q, d, lanes):
    """Weights in the order in which they are eaten: uint8 [tiles, bytes of a tile].

    q : int8 [n, k], d : float16 [n, blocks]. A tile has ``lanes`` outputs; each block of 32 k (the last may be shorter)
    is one beat for each k, then the FP16 scales of its outputs in two beats. Lanes past n are zero.
    """
    n, k = q.shape
    tiles, blocks = -(-n // lanes), -(-k // BLOCK)
    padded_q = np.zeros((tiles * lanes, k), np.int8)
    padded_d = np.zeros((tiles * lanes, blocks), "<f2")
    padded_q[:n], padded_d[:n] = q, d
    weights = padded_q.reshape(tiles, lanes, k).swapaxes(1, 2).reshape(tiles, -1).view(np.uint8)
    scales = padded_d.reshape(tiles, lanes, blocks).swapaxes(1, 2)
    parts = []
    for block in range(blocks):
        parts.append(weights[:, block * BLOCK * lanes:(block + 1) * BLOCK * lanes])
        parts.append(np.ascontiguousarray(scales[:, block]).view(np.uint8))
    return np.concatenate(parts, axis=1)


def pad_rows(x, config):
    """FP32 rows [rows, n] padded with zeros to whole beats."""
    rows, n = x.shape
    padded = np.zeros((rows, ceil_to(n, config.group_words)), "<f4")
    padded[:, :n] = x
    return padded


def rope_rows(shape, context, config):
    """Table of RoPE: for each position a row of cosines, then one of signed sines (-sin, +sin), each padded to beats.

    Angles, cosines and sines are computed in float64 and rounded once.
    """
    frequency = shape.rope_theta ** (-np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim)
    angle = np.arange(context, dtype=np.float64)[:, None] * frequency
    cos = np.repeat(np.cos(angle), 2, axis=1)
    sin = np.stack([-np.sin(angle), np.sin(angle)], axis=-1).reshape(context, -1)
    return np.concatenate([pad_rows(cos, config), pad_rows(sin, config)], axis=1)


@dataclass(frozen=True, kw_only=True)
class KvLayout:
    """Where one layer's KV cache lies, in bytes from its base.

    K of a KV head is a weight matrix with positions as outputs; V has tiles of lanes dimensions with one beat for each
    position; V scales are FP32.
    """

    lanes: int
    kv_heads: int
    head_dim: int
    context: int

    @property
    def k_tile_bytes(self):
        """A tile of K: lanes positions."""
        return self.lanes * (self.head_dim + 2 * -(-self.head_dim // BLOCK))

    @property
    def k_block_bytes(self):
        """A whole block of 32 dimensions with its scales."""
        return self.lanes * (BLOCK + 2)

    @property
    def k_head_bytes(self):
        return -(-self.context // self.lanes) * self.k_tile_bytes

    @property
    def v_tiles(self):
        return -(-self.head_dim // self.lanes)

    @property
    def v_tile_bytes(self):
        return self.context * self.lanes

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
        return ceil_to(4 * self.context, self.lanes)

    @property
    def size(self):
        return self.scale_offset + self.kv_heads * self.scale_head_bytes


def layer_constants(image, config, shape, weights, context):
    """Put a layer's constants and weights into ``image``; returns their offsets by name.

    k_proj, v_proj and q_proj follow each other, and so do chunks of gate_proj and up_proj in turn: one STREAM each.
    """
    lanes = config.lanes
    rotated = {name: _interleave(getattr(weights, name), shape) for name in ("q_proj", "k_proj")}

    def tiles(name):
        return tile_matrix(*rotated.get(name, getattr(weights, name)), lanes).tobytes()

    ffn = []
    for first in range(0, shape.ffn, FFN_CHUNK):
        for matrix in (weights.gate_proj, weights.up_proj):
            part = slice(first, first + FFN_CHUNK)
            ffn.append(tile_matrix(matrix.q[part], matrix.d[part], lanes).tobytes())
    return {
        "attn_norm": image.add(pad_rows(weights.attn_norm[None], config).tobytes()),
        "ffn_norm": image.add(pad_rows(weights.ffn_norm[None], config).tobytes()),
        "rope": image.add(rope_rows(shape, context, config).tobytes()),
        "projections": image.add(b"".join(tiles(name) for name in ("k_proj", "v_proj", "q_proj")),
                                 align=WEIGHT_ALIGNMENT),
        "o_proj": image.add(tiles("o_proj"), align=WEIGHT_ALIGNMENT),
        "gate_up": image.add(b"".join(ffn), align=WEIGHT_ALIGNMENT),
        "down_proj": image.add(tiles("down_proj"), align=WEIGHT_ALIGNMENT),
    }


def _interleave(matrix, shape):
    """Rows of q_proj or k_proj in the order in which RoPE's pairs are neighbours."""
    if shape.rope_pairing == "interleaved":
        return matrix
    half = shape.head_dim // 2
    within = np.arange(shape.head_dim).reshape(2, half).T.ravel()
    order = (np.arange(0, len(matrix.q), shape.head_dim)[:, None] + within).ravel()
    return type(matrix)(matrix.q[order], matrix.d[order])
