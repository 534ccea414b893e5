"""Weight matrices in blocks of 32 (GGUF Q8_0), as docs/numerics.md defines them."""

from typing import NamedTuple

import numpy as np

__all__ = ["BLOCK", "QuantisedMatrix", "quantise", "dequantise"]

BLOCK = 32


class QuantisedMatrix(NamedTuple):
    """A matrix of n outputs and k inputs.

    q : int8 [n, k]          values
    d : float16 [n, blocks]  scale of each block of 32 along k, the last one possibly shorter
    """

    q: np.ndarray
    d: np.ndarray


def quantise(w):
    """Round weights [n, k] to Q8_0, in float32: d = FP16(amax / 127), q = rint(w / d) in -127..127.

    Raises ValueError where a weight is no finite number, or too large for an FP16 scale.
    """
    w = np.asarray(w, np.float32)
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"a weight matrix has two dimensions, not the shape {w.shape}")
    n, k = w.shape
    blocks = -(-k // BLOCK)
    padded = np.zeros((n, blocks, BLOCK), np.float32)
    padded.reshape(n, -1)[:, :k] = w
    with np.errstate(over="ignore", invalid="ignore"):
        d = (np.abs(padded).max(-1) / np.float32(127)).astype(np.float16)
    if not np.isfinite(d).all():
        raise ValueError("a weight is not finite, or its block's scale is beyond FP16")
    step = d.astype(np.float32)[..., None]
    q = np.rint(np.divide(padded, step, out=np.zeros_like(padded), where=step != 0))
    q = np.clip(q, -127, 127).astype(np.int8)
    return QuantisedMatrix(np.ascontiguousarray(q.reshape(n, -1)[:, :k]), d)


def dequantise(matrix):
    """The exact values q * d as float32 [n, k]: 8 bits times 11 bits never round."""
    scale = np.repeat(matrix.d.astype(np.float32), BLOCK, axis=1)[:, :matrix.q.shape[1]]
    return matrix.q * scale
