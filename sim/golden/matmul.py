"""Matrix products as docs/numerics.md defines them: A8 activations and INT8 or INT4 weights with block scales; FP16."""

import numpy as np

from .a8 import scale
from .fp32 import NAN

__all__ = ["BLOCK", "linear", "linear_int4", "linear_fp16"]

BLOCK = 32
"""Reduction indices that share one scale."""


ROWS_AT_ONCE, OUTPUTS_AT_ONCE = 64, 1 << 16
"""Rows, and elements of an output, taken at a time, so that they stay in a cache."""


def linear(q, code, w, d=None):
    """q @ w.T with scales: float32 [m, n].

    Parameters
    ----------
    q : int8 [m, k]            activations
    code : uint8 [m, blocks]   their scale codes, blocks = ceil(k / 32)
    w : int8 [n, k]            weights
    d : float16 [n, blocks]    weight scales; None: each is 1
    """
    return _block_sums(np.asarray(q), np.asarray(code), np.asarray(w), d, None)


def linear_int4(q, code, w):
    """q @ w.T for weights in 4 bits: float32 [m, n].

    Parameters
    ----------
    q : int8 [m, k]            activations
    code : uint8 [m, blocks]   their scale codes
    w : weights.Int4Matrix     [n, k]; where it has minima, each block adds a second term, q's sum times the minimum
    """
    return _block_sums(np.asarray(q), np.asarray(code), w.q, w.d, w.m)


def _block_sums(q, code, w, d, minimum):
    (m, k), n = q.shape, len(w)
    blocks = -(-k // BLOCK)
    if w.shape[1] != k or code.shape != (m, blocks) or any(
            part is not None and part.shape != (n, blocks) for part in (d, minimum)):
        raise ValueError(f"shapes do not fit: q {q.shape}, code {code.shape}, w {w.shape}, "
                         f"d {None if d is None else d.shape}, m {None if minimum is None else minimum.shape}")
    # A block's sum of q * w is below 2^19 and a scale has 3 bits, so float32 holds the sum times the scale, and each
    # partial sum of it in any order: products with d or the minimum are the first to be rounded, once.
    a = q.astype(np.float32) * np.repeat(scale(code), BLOCK, axis=1)[:, :k]
    out = np.empty((m, n), np.float32)
    rows = max(1, min(m, ROWS_AT_ONCE))
    columns = OUTPUTS_AT_ONCE // rows
    with np.errstate(invalid="ignore"):
        for first in range(0, n, columns):
            part = slice(first, first + columns)
            values = w[part].astype(np.float32)
            factors = [None if x is None else np.ascontiguousarray(x[part].T, np.float32) for x in (d, minimum)]
            for row in range(0, m, rows):
                out[row:row + rows, part] = _added_blocks(a[row:row + rows], values, *factors)
    return np.where(np.isnan(out), NAN, out)


def _added_blocks(a, w, d, minimum):
    """The sum of all blocks' terms, float32 [m, n]; d and minimum are float32 [blocks, n].

    Terms are multiples of 2^-48, or not finite, so that nothing is ever flushed; a zero term's sign has no effect, as
    a sum that starts at +0 is never -0.
    """
    acc, term = np.zeros((len(a), len(w)), np.float32), np.empty((len(a), len(w)), np.float32)
    for block in range(-(-a.shape[1] // BLOCK)):
        span = slice(block * BLOCK, (block + 1) * BLOCK)
        np.matmul(a[:, span], w[:, span].T, out=term)
        if d is not None:
            term *= d[block]
        acc += term
        if minimum is not None:
            np.multiply(a[:, span].sum(1, keepdims=True), minimum[block], out=term)
            acc += term
    return acc


LIMB = 20
"""A finite FP16 number is an integer below 2^40 times 2^-24: two limbs."""

SPAN = 4096
"""Reduction indices added up in float64 at a time: 2 * 4096 products of limbs stay below 2^53, so sums are exact."""

WEIGHTS_AT_ONCE = 1 << 20


def linear_fp16(a, w):
    """a @ w.T, each output the exact sum rounded once: float32 [m, n] of float16 [m, k] and [n, k], k < 2^16."""
    a, w = np.asarray(a), np.asarray(w)
    if a.dtype != np.float16 or w.dtype != np.float16:
        raise ValueError(f"operands must be float16, not {a.dtype} and {w.dtype}")
    if a.ndim != 2 or w.ndim != 2 or a.shape[1] != w.shape[1]:
        raise ValueError(f"shapes do not fit: a {a.shape}, w {w.shape}")
    rows = max(1, WEIGHTS_AT_ONCE // max(a.shape[1], 1))
    return np.concatenate([_exact_rows(a, w[first:first + rows]) for first in range(0, len(w), rows)], axis=1)


def _limbs(x):
    """Finite float16 as high * 2^-4 + low * 2^-24, both float64 integers of its sign; others count as zero."""
    fixed = np.where(np.isfinite(x), x, np.float16(0)).astype(np.float64) * 2.0**(2 * LIMB - 36)
    high = np.trunc(fixed)
    return high, (fixed - high) * 2.0**LIMB


def _exact_rows(a, w):
    (m, k), n = a.shape, len(w)
    high, middle, low = (np.zeros((m, n), np.int64) for _ in range(3))
    for first in range(0, k, SPAN):
        (a1, a0), (w1, w0) = _limbs(a[:, first:first + SPAN]), _limbs(w[:, first:first + SPAN])
        high += (a1 @ w1.T).astype(np.int64)
        middle += (a1 @ w0.T + a0 @ w1.T).astype(np.int64)
        low += (a0 @ w0.T).astype(np.int64)
    # The sum is high * 2^-8 + rest * 2^-48 with 0 <= rest < 2^40.
    middle += low >> LIMB
    high += middle >> LIMB
    mask = (1 << LIMB) - 1
    rest = (middle & mask) << LIMB | low & mask
    # Magnitude.
    negative = high < 0
    high = np.where(negative, ~high + (rest == 0), high)
    rest = np.where(negative & (rest != 0), (1 << 2 * LIMB) - rest, rest)
    # A conversion from int64 rounds once. Where the sum has more bits, a last bit stands for all that are cut off.
    large = high >= 1 << 22
    sticky = high << 4 | rest >> 36 | ((rest & (1 << 36) - 1) != 0)
    whole = np.where(large, 0, high) << 40 | rest
    value = np.where(large, sticky.astype(np.float32) * np.float32(2.0**-12), whole.astype(np.float32)
                     * np.float32(2.0**-48))
    return _with_specials(a, w, np.where(negative, -value, value))


def _with_specials(a, w, y):
    """``y`` with the outputs replaced that infinities and NaN take part in."""
    for k in np.flatnonzero(~(np.isfinite(a).all(axis=0) & np.isfinite(w).all(axis=0))):
        with np.errstate(invalid="ignore"):
            product = np.multiply.outer(a[:, k].astype(np.float32), w[:, k].astype(np.float32))
            y = np.where(np.isfinite(product), y, np.where(np.isfinite(y), product, y + product))
    return np.where(np.isnan(y), np.uint32(0x7FC00000).view(np.float32), y)
