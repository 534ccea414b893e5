"""Rotary position embedding: its tables, and the order of dimensions in which the accelerator rotates."""

import numpy as np

__all__ = ["PAIRINGS", "frequencies", "interleaved_order", "rope_tables"]

PAIRINGS = ("interleaved", "half_split")
"""Dimensions rotated together: (2i, 2i + 1), or (i, i + rotary_dim / 2)."""


def frequencies(rotary_dim, theta, scaling=None):
    """Angle per position of each pair, float64 [rotary_dim / 2]: theta^(-2i / rotary_dim), scaled.

    scaling : None, or an object with factor, low_freq_factor, high_freq_factor and original_context (Llama 3):
        a pair that turns fewer than low_freq_factor times within original_context positions turns ``factor`` times
        more slowly, one that turns more than high_freq_factor times is left as it is, between them the two blend.
    """
    if rotary_dim < 0 or rotary_dim % 2:
        raise ValueError(f"rotary_dim must be even, not {rotary_dim}")
    plain = theta ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    if scaling is None:
        return plain
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if not 0 < low < high or scaling.factor <= 0 or scaling.original_context < 1:
        raise ValueError("RoPE scaling needs 0 < low_freq_factor < high_freq_factor, a positive factor and a positive "
                         f"original_context, not {low}, {high}, {scaling.factor}, {scaling.original_context}")
    turns = scaling.original_context * plain / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def rope_tables(*, rotary_dim, theta, first, count, scaling=None):
    """Cosines and signed sines of positions first .. first + count - 1, for interleaved pairs.

    Pair i of position p turns by p * frequencies(...)[i]; both are computed in float64 and rounded once.

    Returns
    -------
    cos : float32 [count, rotary_dim]   cos at 2i and at 2i + 1
    sin : float32 [count, rotary_dim]   -sin at 2i, +sin at 2i + 1
    """
    angle = np.arange(first, first + count, dtype=np.float64)[:, None] * frequencies(rotary_dim, theta, scaling)
    cos = np.repeat(np.cos(angle), 2, axis=1)
    sin = np.stack([-np.sin(angle), np.sin(angle)], axis=-1).reshape(count, rotary_dim)
    return cos.astype(np.float32), sin.astype(np.float32)


def interleaved_order(head_dim, rotary_dim=None):
    """Order of dimensions that turns half_split pairs into interleaved ones: 0, h, 1, h + 1, ..., h = rotary_dim / 2.

    Only the first ``rotary_dim`` dimensions of a head (None: all of them) are rotated; the rest stay where they are.
    Permuting the rows of q_proj and k_proj alike leaves every score as it was, so one rotation serves both pairings.
    """
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    if rotary_dim % 2 or not 0 <= rotary_dim <= head_dim:
        raise ValueError(f"rotary_dim must be even and in 0 .. head_dim = {head_dim}, not {rotary_dim}")
    return np.concatenate([np.arange(rotary_dim).reshape(2, -1).T.ravel(), np.arange(rotary_dim, head_dim)])
