"""Matrix products as docs/numerics.md defines them: A8 activations and INT8 or INT4 weights with block scales; FP16."""

import numpy as np

from .a8 import scale
from .fp32 import add

__all__ = ["BLOCK", "linear", "linear_int4", "block_term", "linear_fp16"]

BLOCK = 32
"""Reduction indices that share one scale."""


def block_term(total, code, d):
    """One block's FP32 term: total * (activation scale of ``code``) * d, exact, then rounded once.

    ``total`` integer, ``code`` uint8 and ``d`` float16 broadcast against each other. The product has at most
    20 + 3 + 11 significant bits, so float64 holds it exactly; its magnitude is zero or at least 2^-46, so nothing
    is ever flushed.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.asarray(total, np.float64) * scale(code).astype(np.float64) * np.asarray(d, np.float64)
        term = (product + 0.0).astype(np.float32)  # + 0.0: a zero sum times a negative scale is +0
    return np.where(np.isnan(term), np.uint32(0x7FC00000).view(np.float32), term)


def linear(q, code, w, d=None):
    """q @ w.T with scales: float32 [m, n].

    Parameters
    ----------
    q : int8 [m, k]            activations
    code : uint8 [m, blocks]   their scale codes, blocks = ceil(k / 32)
    w : int8 [n, k]            weights
    d : float16 [n, blocks]    weight scales; None: each is 1
    """
    q, code, w = np.asarray(q), np.asarray(code), np.asarray(w)
    (m, k), n = q.shape, w.shape[0]
    blocks = -(-k // BLOCK)
    if w.shape[1] != k or code.shape != (m, blocks) or (d is not None and d.shape != (n, blocks)):
        raise ValueError(f"shapes do not fit: q {q.shape}, code {code.shape}, w {w.shape}, "
                         f"d {None if d is None else d.shape}")
    # |block sum| < 2^19: float32 sums of products are exact in any order, and far faster than integer ones.
    q, w = q.astype(np.float32), w.astype(np.float32)
    acc = np.zeros((m, n), np.float32)
    for block in range(blocks):
        span = slice(block * BLOCK, (block + 1) * BLOCK)
        total = q[:, span] @ w[:, span].T
        column = np.float16(1) if d is None else d[:, block]
        acc = add(acc, block_term(total, code[:, block, None], column))
    return acc


def linear_int4(q, code, w):
    """q @ w.T for weights in 4 bits: float32 [m, n].

    Parameters
    ----------
    q : int8 [m, k]            activations
    code : uint8 [m, blocks]   their scale codes
    w : weights.Int4Matrix     [n, k]; where it has minima, each block adds a second term, q's sum times the minimum
    """
    q, code = np.asarray(q), np.asarray(code)
    (m, k), n = q.shape, len(w.q)
    blocks = -(-k // BLOCK)
    if w.q.shape[1] != k or code.shape != (m, blocks) or any(
            part is not None and part.shape != (n, blocks) for part in (w.d, w.m)):
        raise ValueError(f"shapes do not fit: q {q.shape}, code {code.shape}, w {w.q.shape}, d {w.d.shape}, "
                         f"m {None if w.m is None else w.m.shape}")
    a, values = q.astype(np.float32), w.q.astype(np.float32)  # sums are exact, as in ``linear``
    acc = np.zeros((m, n), np.float32)
    for block in range(blocks):
        span = slice(block * BLOCK, (block + 1) * BLOCK)
        column = code[:, block, None]
        acc = add(acc, block_term(a[:, span] @ values[:, span].T, column, w.d[:, block]))
        if w.m is not None:
            acc = add(acc, block_term(a[:, span].sum(1, keepdims=True), column, w.m[:, block]))
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
