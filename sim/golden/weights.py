"""Weight matrices in blocks of 32, in 8 bits (GGUF Q8_0) and in 4 (Q4_0, Q4_1), as docs/numerics.md defines them."""

from typing import NamedTuple

import numpy as np

__all__ = ["BLOCK", "QuantisedMatrix", "Int4Matrix", "RemoteMatrix", "quantise", "quantise_int4", "dequantise",
           "stored_bytes"]

BLOCK = 32


class QuantisedMatrix(NamedTuple):
    """A matrix of n outputs and k inputs.

    q : int8 [n, k]          values
    d : float16 [n, blocks]  scale of each block of 32 along k, the last one possibly shorter
    """

    q: np.ndarray
    d: np.ndarray


class Int4Matrix(NamedTuple):
    """A matrix of n outputs and k inputs in 4 bits; a value is q * d, plus m where there is one.

    q : int8 [n, k]           values -8 to 7 without m (Q4_0), 0 to 15 with it (Q4_1)
    d : float16 [n, blocks]   scale of each block of 32 along k, the last one possibly shorter
    m : float16 [n, blocks] or None    what q = 0 stands for
    """

    q: np.ndarray
    d: np.ndarray
    m: np.ndarray | None


class RemoteMatrix(NamedTuple):
    """A matrix whose products are computed elsewhere.

    matrix : one of the others, or float16 [n, k]
    multiply : function       of x, float32 [m, k], and the matrix: float32 [m, n]
    """

    matrix: object
    multiply: object


def quantise(w):
    """Round weights [n, k] to Q8_0, in float32: d = FP16(amax / 127), q = rint(w / d) in -127..127.

    Raises ValueError where a weight is no finite number, or too large for an FP16 scale.
    """
    padded, k = _padded(w)
    with np.errstate(over="ignore", invalid="ignore"):
        d = (np.abs(padded).max(-1) / np.float32(127)).astype(np.float16)
    if not np.isfinite(d).all():
        raise ValueError("a weight is not finite, or its block's scale is beyond FP16")
    step = d.astype(np.float32)[..., None]
    q = np.rint(np.divide(padded, step, out=np.zeros_like(padded), where=step != 0))
    q = np.clip(q, -127, 127).astype(np.int8)
    return QuantisedMatrix(_without_padding(q, k), d)


def quantise_int4(w):
    """Round weights [n, k] to Q4_1, in float32: m = FP16(least), d = FP16((greatest - least) / 15),
    q = rint((w - m) / d) in 0..15, 0 where d is.

    Raises ValueError where a weight is no finite number, or beyond an FP16 scale or minimum.
    """
    padded, k = _padded(w)
    if k % BLOCK:  # the last block's padding takes no part
        padded[:, -1, k % BLOCK:] = padded[:, -1, :1]
    with np.errstate(over="ignore", invalid="ignore"):
        least = padded.min(-1)
        d = ((padded.max(-1) - least) / np.float32(15)).astype(np.float16)
        m = least.astype(np.float16)
    if not (np.isfinite(d).all() and np.isfinite(m).all()):
        raise ValueError("a weight is not finite, or its block's scale or minimum is beyond FP16")
    step = d.astype(np.float32)[..., None]
    distance = padded - m.astype(np.float32)[..., None]
    q = np.rint(np.divide(distance, step, out=np.zeros_like(padded), where=step != 0))
    return Int4Matrix(_without_padding(np.clip(q, 0, 15).astype(np.int8), k), d, m)


def dequantise(matrix):
    """Values as float32 [n, k]. q * d is exact, as 8 bits times 11 bits never round; adding m rounds once."""
    k = matrix.q.shape[1]
    values = matrix.q * _by_element(matrix.d, k)
    m = getattr(matrix, "m", None)
    return values if m is None else values + _by_element(m, k)


def stored_bytes(matrix):
    """Bytes of a matrix, its scales and minima included, without any padding: FP16 is an array, two values of 4 bits
    share a byte."""
    if isinstance(matrix, np.ndarray):
        return matrix.nbytes
    scales = sum(part.nbytes for part in matrix[1:] if part is not None)
    return scales + (matrix.q.size // 2 if isinstance(matrix, Int4Matrix) else matrix.q.size)


def _by_element(blocks, k):
    return np.repeat(blocks.astype(np.float32), BLOCK, axis=1)[:, :k]


def _padded(w):
    """The matrix as float32 [n, blocks, 32], zeros behind its columns, and their number."""
    w = np.asarray(w, np.float32)
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"a weight matrix has two dimensions, not the shape {w.shape}")
    n, k = w.shape
    padded = np.zeros((n, -(-k // BLOCK), BLOCK), np.float32)
    padded.reshape(n, -1)[:, :k] = w
    return padded, k


def _without_padding(q, k):
    return np.ascontiguousarray(q.reshape(len(q), -1)[:, :k])
