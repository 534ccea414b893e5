"""Matrix product of A8 activations and INT8 weights with block scales, as docs/numerics.md defines it."""

import numpy as np

from .a8 import scale
from .fp32 import add

__all__ = ["BLOCK", "linear", "block_term"]

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
