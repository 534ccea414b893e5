"""A8: activations in 8 bits, a block of values with one scale 2^e * m/4 (docs/numerics.md)."""

import numpy as np

__all__ = ["CODES", "quantise", "scale", "scale_fp16"]

CODES = 152
"""Scale codes: (e + 22) * 4 + (m - 4) for e in -22..15, m in 4..7."""

E_MIN, E_MAX = -22, 15
# Largest fraction field of amax = 1.f * 2^E for each (m, e - E), in rising order; behind the last one m = 5, e = E - 6.
_LIMITS = np.array([(158.75 / 128 - 1), (190.5 / 128 - 1), (222.25 / 128 - 1), (254 / 128 - 1)]) * 2**23
_LIMITS = _LIMITS.astype(np.int64)
_M = np.array([5, 6, 7, 4, 5])
_E_OFFSET = np.array([-7, -7, -7, -6, -6])
_RECIPROCAL = np.array([131072, 104858, 87381, 74898])  # 2^17 * 4/m for m = 4..7


def quantise(x, block=32):
    """Quantise along the last axis.

    Parameters
    ----------
    x : float32 [..., n]
    block : int or None    values that share a scale, the last block may be shorter; None: the whole row

    Returns
    -------
    q : int8 [..., n]           in -127..127
    code : uint8 [..., blocks]  scale codes
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    n = x.shape[-1]
    block = n if block is None else block
    if n < 1 or block < 1:
        raise ValueError(f"n = {n}, block = {block}: both must be at least 1")
    blocks = -(-n // block)
    bits = np.zeros((*x.shape[:-1], blocks * block), np.int64)
    bits[..., :n] = x.view(np.uint32)
    bits = bits.reshape(*x.shape[:-1], blocks, block)
    magnitude = bits & 0x7FFFFFFF
    exponent, fraction = magnitude >> 23, magnitude & 0x7FFFFF

    # Scale of each block: an infinity or NaN counts as 2^128, a subnormal as zero.
    amax = np.minimum(np.where(exponent == 0, 0, magnitude), 255 << 23).max(axis=-1)
    case = np.searchsorted(_LIMITS, amax & 0x7FFFFF, side="left")
    m, e = _M[case], (amax >> 23) - 127 + _E_OFFSET[case]
    m = np.where(e < E_MIN, 4, np.where(e > E_MAX, 7, m))
    e = np.clip(e, E_MIN, E_MAX)

    # Quotient P * 2^-shift. Below a shift of 26 every quotient is past 127, beyond 40 it rounds to zero.
    product = (fraction | 1 << 23) >> 6
    product = product * _RECIPROCAL[m - 4][..., None]
    shift = np.clip(34 + e[..., None] - (exponent - 127), 26, 40)
    q = (product + (1 << shift - 1) - 1 + (product >> shift & 1)) >> shift
    q = np.where(exponent == 0, 0, np.where(exponent == 255, 127, np.minimum(q, 127)))
    q = np.where(bits >> 31, -q, q).reshape(*x.shape[:-1], -1)[..., :n]
    return q.astype(np.int8), ((e - E_MIN) * 4 + m - 4).astype(np.uint8)


def scale(code):
    """Value of scale codes, float32 (exact)."""
    code = np.asarray(code).astype(np.int64)
    if np.any((code < 0) | (code >= CODES)):
        raise ValueError(f"scale code outside 0..{CODES - 1}")
    return np.ldexp((4 + code % 4) / 4, code // 4 + E_MIN).astype(np.float32)


def scale_fp16(code):
    """Value of scale codes, float16 (exact)."""
    return scale(code).astype(np.float16)
