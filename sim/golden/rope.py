"""Rotary position embedding: its tables, and the order of dimensions in which the accelerator rotates."""

import numpy as np

__all__ = ["PAIRINGS", "interleaved_order", "rope_tables"]

PAIRINGS = ("interleaved", "half_split")
"""Dimensions rotated together: (2i, 2i + 1), or (i, i + head_dim / 2)."""


def rope_tables(*, head_dim, theta, first, count):
    """Cosines and signed sines of positions first .. first + count - 1, for interleaved pairs.

    Pair i of position p turns by p * theta^(-2i / head_dim); both are computed in float64 and rounded once.

    Returns
    -------
    cos : float32 [count, head_dim]   cos at 2i and at 2i + 1
    sin : float32 [count, head_dim]   -sin at 2i, +sin at 2i + 1
    """
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"head_dim must be even, not {head_dim}")
    frequency = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angle = np.arange(first, first + count, dtype=np.float64)[:, None] * frequency
    cos = np.repeat(np.cos(angle), 2, axis=1)
    sin = np.stack([-np.sin(angle), np.sin(angle)], axis=-1).reshape(count, head_dim)
    return cos.astype(np.float32), sin.astype(np.float32)


def interleaved_order(head_dim):
    """Order of dimensions that turns half_split pairs into interleaved ones: 0, h, 1, h + 1, ... with h = head_dim / 2.

    Permuting the rows of q_proj and k_proj alike leaves every score as it was, so one rotation serves both pairings.
    """
    return np.arange(head_dim).reshape(2, -1).T.ravel()
