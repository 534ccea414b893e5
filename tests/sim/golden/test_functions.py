"""The golden evaluation of a table against exact rational arithmetic, one value at a time."""

import math
import struct
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from tilewright.sim.golden import functions

SEED = 20240611


def make_table(rng, segments=256):
    """A table with random descriptors and coefficients within the ranges of the format."""
    k = rng.integers(0, 8, 128)
    return SimpleNamespace(
        name="random", e_min=int(rng.integers(60, 120)), log2_segments=k.tolist(),
        base=[int(rng.integers(0, segments - (1 << n) + 1)) for n in k],
        exponent=rng.integers(-140, 140, 128).tolist(),
        c0=rng.integers(-(1 << 25), 1 << 25, segments).tolist(),
        c1=rng.integers(-(1 << 15), 1 << 15, segments).tolist(),
        c2=rng.integers(-(1 << 15), 1 << 15, segments).tolist(), y=rng.integers(-10, 10, segments).tolist())


def reference(table, bits):
    """Bit pattern of the result, from docs/numerics.md in Python integers and fractions."""
    sign, field, fraction = bits >> 31, bits >> 23 & 255, bits & 0x7FFFFF
    if field == 255 and fraction:
        return 0x7FC00000
    w = field - table.e_min
    if w < 0:
        w, fraction = 0, 0
    if w > 63:
        w, fraction = 63, 0x7FFFFF
    d = 64 * sign + w
    parts = 1 << table.log2_segments[d]
    position = Fraction(fraction, 1 << 23) * parts
    j = table.base[d] + math.floor(position)
    u = math.floor((position - math.floor(position)) * 2**17)
    p1 = table.c1[j] + math.floor(Fraction(table.c2[j] * u, 2**17))
    p0 = table.c0[j] + math.floor(Fraction(p1 * u, 2**7))
    if p0 == 0:
        return 0
    value = abs(p0) * Fraction(2) ** (table.exponent[d] + table.y[j] - 26)
    top = 1 << 31 if p0 < 0 else 0
    if value < Fraction(2) ** -126:
        return top
    if value >= 2**128:
        return top | 0x7F800000
    e = 127
    while value < Fraction(2) ** e:
        e -= 1
    return top | e + 127 << 23 | math.floor(value / Fraction(2) ** e * 2**23) & 0x7FFFFF


@pytest.mark.parametrize("case", range(4))
def test_evaluate_matches_rationals(case):
    rng = np.random.default_rng(SEED + case)
    table = make_table(rng)
    bits = rng.integers(0, 1 << 32, 1500, dtype=np.uint32)
    near = (rng.integers(table.e_min - 2, table.e_min + 66, 1000).astype(np.uint32) << 23
            | rng.integers(0, 1 << 23, 1000, dtype=np.uint32) | rng.integers(0, 2, 1000, dtype=np.uint32) << 31)
    corners = np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF],
                       dtype=np.uint32)
    bits = np.concatenate([bits, near, corners, corners | 1 << 31])
    got = functions.evaluate(functions.table_from(table), bits.view(np.float32)).view(np.uint32)
    expected = np.array([reference(table, int(b)) for b in bits], dtype=np.uint32)
    wrong = np.flatnonzero(got != expected)
    assert wrong.size == 0, [(hex(bits[i]), hex(got[i]), hex(expected[i])) for i in wrong[:5]]


def test_shape_and_type():
    table = functions.table_from(make_table(np.random.default_rng(SEED)))
    x = np.zeros((2, 3), dtype=np.float32)
    result = functions.evaluate(table, x)
    assert result.shape == (2, 3) and result.dtype == np.float32


def test_scale_is_26_fraction_bits():
    """c0 = 2^26 with exponent 0 is one; a slope of one over a binade is the identity."""
    table = SimpleNamespace(name="identity", e_min=100, base=[0] * 128, log2_segments=[0] * 128,
                            exponent=[w + 100 - 127 for w in range(64)] * 2, c0=[1 << 26], c1=[1 << 16], c2=[0], y=[0])
    x = np.float32([1, 1.5, 3.25, 1000, 2**-20])
    assert (functions.evaluate(functions.table_from(table), x) == x).all()
    one = struct.unpack("<f", struct.pack("<I", reference(table, 0x3F800000)))[0]
    assert one == 1.0
