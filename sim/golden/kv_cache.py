"""The KV cache of one layer."""

from dataclasses import dataclass

import numpy as np

from tilewright.sim.golden import a8, fp32, matmul
from tilewright.sim.golden.weights import BLOCK

__all__ = ["KvCache"]


@dataclass(frozen=True, eq=False)
class KvCache:
    """Keys and values of one layer. Position p lies in slot p modulo the number of slots.

    In 8 bits:
    k       : int8 [kv_heads, slots, head_dim]     rotated keys, rotated pairs interleaved
    k_scale : float16 [kv_heads, slots, blocks]    a scale for each 32 dimensions
    v       : int8 [kv_heads, slots, head_dim]
    v_scale : float32 [kv_heads, slots]            a scale for each row

    In FP16: k and v are float16, k_scale and v_scale None.
    """

    k: np.ndarray
    k_scale: np.ndarray | None
    v: np.ndarray
    v_scale: np.ndarray | None

    @classmethod
    def empty(cls, shape, slots, kv_format="int8"):
        rows = (shape.kv_heads, slots)
        if kv_format == "fp16":
            return cls(np.zeros((*rows, shape.head_dim), np.float16), None,
                       np.zeros((*rows, shape.head_dim), np.float16), None)
        return cls(np.zeros((*rows, shape.head_dim), np.int8),
                   np.zeros((*rows, -(-shape.head_dim // BLOCK)), np.float16),
                   np.zeros((*rows, shape.head_dim), np.int8),
                   np.zeros(rows, np.float32))

    @property
    def slots(self):
        return self.k.shape[1]

    def append(self, k, v, position):
        """Store float32 keys and values [tokens, kv_heads, head_dim] of the positions from ``position`` on."""
        at = np.s_[:, (position + np.arange(len(k))) % self.slots]
        k, v = k.swapaxes(0, 1), v.swapaxes(0, 1)
        if self.k_scale is None:
            self.k[at], self.v[at] = fp32.to_fp16(k), fp32.to_fp16(v)
            return
        self.k[at], code = a8.quantise(k, block=BLOCK)
        self.k_scale[at] = a8.scale_fp16(code)
        self.v[at], code = a8.quantise(v, block=None)
        self.v_scale[at] = a8.scale(code)[..., 0]

    def scores(self, q, head, used):
        """Products of queries [rows, head_dim] with the keys of the first ``used`` slots of a KV head."""
        k = self.k[head, :used]
        if self.k_scale is None:
            return matmul.linear_fp16(fp32.to_fp16(q), k)
        return matmul.linear(*a8.quantise(q, block=BLOCK), k, self.k_scale[head, :used])

    def value_scales(self, head, used):
        """What a probability is multiplied by before it is rounded; None in FP16."""
        return None if self.v_scale is None else self.v_scale[head, :used]

    def weighted_sum(self, p, head):
        """Sum of the values of a KV head, weighted with probabilities [rows, slots used] times ``value_scales``."""
        v = np.ascontiguousarray(self.v[head, :p.shape[1]].T)
        if self.v_scale is None:
            return matmul.linear_fp16(fp32.to_fp16(p), v)
        return matmul.linear(*a8.quantise(p, block=BLOCK), v, None)
