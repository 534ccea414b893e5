"""Operations of the vector unit (docs/numerics.md): elementwise chain, sum, maximum."""

import numpy as np

from . import fp32, functions

__all__ = ["apply", "sum_rows", "max_rows", "PARTIALS"]

PARTIALS = 32
"""Partial sums of a row."""


def apply(a, b=None, c=None, d=None, *, square=False, c_negate=False, swap=False, table=None, valid=None):
    """t3 = F(a * b + c) and t4 = t3 * d for rows of elements.

    Parameters
    ----------
    a : float32 [rows, n]
    b, c, d : float32, broadcastable to [rows, n], or None for 1.0, -0.0, 1.0
    square : bool      b is a itself (as swapped)
    c_negate : bool    c with its sign bit inverted
    swap : bool        elements of each pair (2i, 2i+1) of a exchanged; n must be even
    table : functions.Table or None
    valid : int [rows] or None    elements from this one on become +0

    Returns
    -------
    t3, t4 : float32 [rows, n]
    """
    a = np.asarray(a, np.float32)
    if swap:
        if a.shape[-1] % 2:
            raise ValueError(f"swap with n = {a.shape[-1]}: n must be even")
        a = a.reshape(*a.shape[:-1], -1, 2)[..., ::-1].reshape(a.shape)
    b = a if square else _operand(b, 1.0, a.shape)
    c = _operand(c, -0.0, a.shape)
    if c_negate:
        c = (c.view(np.uint32) ^ np.uint32(1 << 31)).view(np.float32)
    t3 = fp32.add(fp32.mul(a, b), c)
    if table is not None:
        t3 = functions.evaluate(table, t3)
    t4 = fp32.mul(t3, _operand(d, 1.0, a.shape))
    if valid is not None:
        keep = _mask(valid, a.shape)
        t3, t4 = np.where(keep, t3, np.float32(0)), np.where(keep, t4, np.float32(0))
    return t3, t4


def sum_rows(t3):
    """Sum of each row in the order of the hardware: 32 partial sums by i mod 32, then a halving tree.

    float32 [rows, n] -> float32 [rows]
    """
    t3 = np.asarray(t3, np.float32)
    rows, n = t3.shape
    steps = -(-n // PARTIALS)
    padded = np.zeros((rows, steps * PARTIALS), np.float32)
    padded[:, :n] = t3
    partial = np.zeros((rows, PARTIALS), np.float32)
    for step in range(steps):
        partial = fp32.add(partial, padded[:, step * PARTIALS:(step + 1) * PARTIALS])
    half = PARTIALS // 2
    while half:
        partial = fp32.add(partial[:, :half], partial[:, half:2 * half])
        half //= 2
    return partial[:, 0]


def max_rows(t3, valid=None):
    """Maximum of each row by the total order of bit patterns, over the elements below ``valid``; -inf for none.

    float32 [rows, n] -> float32 [rows]
    """
    t3 = np.asarray(t3, np.float32)
    if valid is not None:
        t3 = np.where(_mask(valid, t3.shape), t3, np.float32(-np.inf))
    best = np.full(t3.shape[0], -np.inf, np.float32)
    for i in range(t3.shape[1]):
        best = fp32.maximum(best, t3[:, i])
    return best


def _operand(value, neutral, shape):
    value = np.float32(neutral) if value is None else np.asarray(value, np.float32)
    return np.ascontiguousarray(np.broadcast_to(value, shape))


def _mask(valid, shape):
    return np.arange(shape[-1]) < np.asarray(valid)[:, None]
