"""Table functions: a piecewise quadratic evaluated in integers (docs/numerics.md, "Table functions")."""

from typing import NamedTuple

import numpy as np

__all__ = ["Table", "table_from", "evaluate"]

WINDOW = 64
QUIET_NAN = 0x7FC00000
INFINITY = 0x7F800000


class Table(NamedTuple):
    """A function's integers. Descriptors have 128 entries (positive arguments first), coefficients one a segment."""

    name: str
    e_min: int
    base: np.ndarray
    log2_segments: np.ndarray
    exponent: np.ndarray
    c0: np.ndarray
    c1: np.ndarray
    c2: np.ndarray
    y: np.ndarray


def table_from(source):
    """Table from any object with the attributes of ``Table``; sequences become int64 arrays."""
    return Table(source.name, int(source.e_min), *(
        np.asarray(getattr(source, field), dtype=np.int64) for field in Table._fields[2:]))


def evaluate(table, x):
    """The function of each element of ``x`` (float32, any shape), as float32."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32).astype(np.int64)
    sign, field, fraction = bits >> 31, bits >> 23 & 0xFF, bits & 0x7FFFFF

    window = field - table.e_min
    fraction = np.where(window < 0, 0, np.where(window >= WINDOW, 0x7FFFFF, fraction))
    descriptor = sign * WINDOW + np.clip(window, 0, WINDOW - 1)
    k = table.log2_segments[descriptor]
    segment = table.base[descriptor] + (fraction >> 23 - k)
    u = (fraction << k & 0x7FFFFF) >> 6

    p1 = table.c1[segment] + (table.c2[segment] * u >> 17)
    p0 = table.c0[segment] + (p1 * u >> 7)
    result = _truncate(p0, table.exponent[descriptor] + table.y[segment] - 26)
    is_nan = (bits & 0x7FFFFFFF) > INFINITY
    return np.where(is_nan, QUIET_NAN, result).astype(np.uint32).view(np.float32)


def _truncate(p, exponent):
    """Bit patterns of p * 2^exponent, truncated to FP32; |p| < 2^53, so float64 holds it exactly."""
    magnitude = np.abs(p)
    length = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)
    up = np.maximum(24 - length, 0)
    down = np.maximum(length - 24, 0)
    fraction = (magnitude << up >> down) & 0x7FFFFF
    field = exponent + length - 1 + 127
    bits = np.where(field >= 255, INFINITY, field << 23 | fraction)
    bits = np.where(field <= 0, 0, bits)
    return np.where(p == 0, 0, bits | np.where(p < 0, 1 << 31, 0))
