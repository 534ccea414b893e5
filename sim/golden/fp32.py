"""FP32 with the flush and NaN rules of docs/numerics.md, on NumPy arrays.

Every function takes arrays (or scalars) that broadcast against each other and returns an array of the broadcast shape.
"""

import numpy as np

__all__ = ["MIN_NORMAL", "NAN", "NAN16", "add", "flush", "from_exact", "from_fp16", "from_int", "madd", "maximum",
           "mul", "to_fp16"]

MIN_NORMAL = np.float32(2.0 ** -126)
NAN = np.uint32(0x7FC00000).view(np.float32)
NAN16 = np.uint16(0x7E00).view(np.float16)


def flush(x):
    """x as float32 with subnormals replaced by zero of their sign, as operands are taken."""
    x = np.asarray(x, dtype=np.float32)
    return np.where(np.abs(x) < MIN_NORMAL, np.copysign(np.float32(0), x), x)


def from_exact(x):
    """Round a float64 that holds an operation's exact result to FP32: the one rounding, flush and NaN rules."""
    x = np.asarray(x, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        r = x.astype(np.float32)
    # The test is on the exact value: what would round up to 2^-126 is zero too.
    r = np.where(np.abs(x) < np.float64(MIN_NORMAL), np.copysign(np.float32(0), r), r)
    return np.where(np.isnan(x), NAN, r)


def mul(a, b):
    """a * b, one rounding."""
    with np.errstate(invalid="ignore"):
        # 24 x 24 significand bits are exact in float64's 53, and 2^-252 is a normal number there.
        return from_exact(flush(a).astype(np.float64) * flush(b).astype(np.float64))


def add(a, b):
    """a + b, one rounding."""
    with np.errstate(over="ignore", invalid="ignore"):
        r = flush(a) + flush(b)
    # Both operands are multiples of 2^-149, so a sum below 2^-125 is exact: flushing after rounding is the same.
    return np.where(np.isnan(r), NAN, flush(r))


def madd(a, b, c):
    """add(mul(a, b), c): two roundings."""
    return add(mul(a, b), c)


def _order(x):
    bits = np.asarray(x, dtype=np.float32).view(np.int32)
    return np.where(bits < 0, np.int32(0x7FFFFFFF) ^ bits, bits)


def maximum(a, b):
    """The larger of a and b by the total order of the bit patterns; the bits pass unchanged."""
    a, b = np.broadcast_arrays(np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32))
    # Selected as integers, so that no conversion touches a NaN's payload.
    return np.where(_order(a) > _order(b), a.view(np.int32), b.view(np.int32)).view(np.float32)


def from_fp16(h):
    """float16 to float32, exact; NaN becomes 0x7FC00000."""
    h = np.asarray(h, dtype=np.float16)
    return np.where(np.isnan(h), NAN, h.astype(np.float32))


def to_fp16(x):
    """float32 to float16, one rounding, subnormal results kept; NaN becomes 0x7E00."""
    x = np.asarray(x, dtype=np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.where(np.isnan(x), NAN16, x.astype(np.float16))


def from_int(i):
    """Integer (up to 64 bits, signed or unsigned) to float32, one rounding."""
    return np.asarray(i).astype(np.float32)
