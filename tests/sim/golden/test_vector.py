"""Vector operations element by element, in Python floats and integers, without the array code."""

import math
import struct

import numpy as np
import pytest

from tilewright.sim.golden import vector

SEED = 5


def fl32(x):
    """One rounding to FP32 with the flush rule; x is exact or a sum of two FP32 numbers in double (see add)."""
    if abs(x) < 2.0**-126:
        return math.copysign(0.0, x)
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def mul(a, b):
    return fl32(a * b)


def add(a, b):
    return fl32(a + b)  # double's rounding before FP32's is harmless for a sum of two FP32 numbers: 53 >= 2 * 24 + 2


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32).tolist()


@pytest.fixture
def rng():
    print(f"seed {SEED}")
    return np.random.default_rng(SEED)


def normal(rng, *shape):
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 8, shape)).astype(np.float32)


def test_chain_element_by_element(rng):
    a, c = normal(rng, 3, 14), normal(rng, 3, 14)
    b, d = normal(rng, 3, 1), normal(rng, 1)
    t3, t4 = vector.apply(a, b, c, d, c_negate=True, swap=True, valid=[14, 5, 0])
    for r, valid in enumerate([14, 5, 0]):
        for i in range(14):
            expected = add(mul(float(a[r, i ^ 1]), float(b[r, 0])), -float(c[r, i])) if i < valid else 0.0
            assert bits(t3[r, i]) == bits(expected)
            assert bits(t4[r, i]) == bits(mul(expected, float(d[0])) if i < valid else 0.0)


def test_neutral_operands():
    a = np.array([[1.5, -0.0, np.inf, 1e-40, -1e-40]], np.float32)
    t3, t4 = vector.apply(a)
    assert bits(t3) == bits(t4) == bits([[1.5, -0.0, np.inf, 0.0, -0.0]])
    # The neutral c is -0; negated it is +0, and -0 + +0 = +0.
    assert bits(vector.apply(a, c_negate=True)[0]) == bits([[1.5, 0.0, np.inf, 0.0, 0.0]])


def test_square_takes_the_swapped_element():
    a = np.array([[2.0, 3.0, 4.0, 5.0]], np.float32)
    assert vector.apply(a, np.float32(7.0), square=True, swap=True)[0].tolist() == [[9.0, 4.0, 25.0, 16.0]]


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 172, 576])
def test_sum_order(rng, n):
    x = normal(rng, 3, n)
    for row, total in zip(x, vector.sum_rows(x), strict=True):
        s = [0.0] * 32
        for i, value in enumerate(row):
            s[i % 32] = add(s[i % 32], float(value))
        h = 16
        while h:
            for p in range(h):
                s[p] = add(s[p], s[p + h])
            h //= 2
        assert bits(total) == bits(s[0])


def test_order_of_the_sum_shows():
    # In another order the small numbers would survive or the large ones cancel differently.
    x = np.zeros((1, 64), np.float32)
    x[0, [0, 16, 32]] = [1.0, -(2.0**24), 2.0**24]
    assert vector.sum_rows(x)[0] == 0.0
    x[0, [0, 16, 32]] = [2.0**24, -(2.0**24), 1.0]
    assert vector.sum_rows(x)[0] == 0.0
    x[0, [0, 1, 16, 32]] = [2.0**24, 1.0, -(2.0**24), 0.0]
    assert vector.sum_rows(x)[0] == 1.0


def test_maximum_is_by_bit_patterns():
    x = np.array([[-0.0, 0.0, -1.0], [-0.0, -0.0, -3.0], [np.inf, np.nan, 5.0], [-np.inf, -1e38, 7.0]], np.float32)
    assert bits(vector.max_rows(x)) == bits([0.0, -0.0, np.nan, 7.0])
    assert bits(vector.max_rows(x, [1, 3, 1, 2])) == bits([-0.0, -0.0, np.inf, -1e38])
    assert bits(vector.max_rows(x, [0, 0, 0, 0])) == bits([-np.inf] * 4)


def test_swap_needs_pairs():
    with pytest.raises(ValueError, match="swap with n = 3: n must be even"):
        vector.apply(np.zeros((1, 3), np.float32), swap=True)


def by_rule(first, valid, i):
    """Element i counts, from the page's words, for the values that a row has."""
    first = max(first, 0)
    return first <= i < valid if first < valid else i >= first or i < valid


@pytest.mark.parametrize("first, valid", [(0, 9), (3, 9), (-4, 9), (8, 9), (9, 9), (9, 2), (12, 1), (13, 13), (0, 1)])
def test_masks(rng, first, valid):
    x = normal(rng, 1, 13)
    keep = [by_rule(first, valid, i) for i in range(13)]
    t3, t4 = vector.apply(x, valid=[valid], first=[first])
    assert bits(t3) == bits(t4) == bits(np.where(keep, x, np.float32(0)))
    assert bits(vector.max_rows(x, [valid], [first])) == bits([max(x[0][keep], default=-np.inf)])


def test_a_valid_of_zero_keeps_nothing():
    first, valid = vector.window(0, 0, 0, 0, 2)
    assert not vector.kept(valid, first, (2, 5)).any()


@pytest.mark.parametrize("ring, size, start", [(8, 8, 0), (8, 5, 2), (8, 1, 6), (13, 10, 5), (13, 13, 11)])
def test_window_in_a_ring(ring, size, start):
    """Position p stands at p mod ring; a query at p sees the last ``size`` positions up to its own."""
    rows = 40
    first = start - size + 1
    first = first if first < 0 else first % ring
    lower, upper = vector.window(first & 0xFFFF, start % ring + 1, 1, ring, rows)
    got = vector.kept(upper, lower, (rows, ring))
    for r in range(rows):
        p = start + r
        seen = {q % ring for q in range(max(0, p - size + 1), p + 1)}
        assert set(np.flatnonzero(got[r])) == seen


def test_window_without_a_ring():
    assert [x.tolist() for x in vector.window(0, 3, 1, 0, 3)] == [[-1, -1, -1], [3, 4, 5]]
    assert [x.tolist() for x in vector.window(2, 5, 1, 0, 3)] == [[2, 3, 4], [5, 6, 7]]
    assert [x.tolist() for x in vector.window(0xFFFE, 1, 1, 0, 4)] == [[-2, -1, 0, 1], [1, 2, 3, 4]]
    assert [x.tolist() for x in vector.window(0, 2, 0xFFFF, 0, 3)] == [[-1, -1, -1], [2, 1, 0]]
    assert [x.tolist() for x in vector.window(3, 5, 0, 8, 2)] == [[3, 3], [5, 5]]


def test_argmax_takes_the_first():
    x = np.array([[1, 5, -0.0, 5, 5], [-0.0, 0.0, 0.0, -1, -2], [-np.inf] * 5, [np.nan, np.inf, 0, 0, 0]], np.float32)
    number, best = vector.argmax_rows(x, index=0xFFFFFFFF)
    assert number.tolist() == [0, 0, 0xFFFFFFFF, 0xFFFFFFFF]
    assert bits(best) == bits([5.0, 0.0, -np.inf, np.nan])
    keep = np.array([[1, 0, 1, 1, 1], [0, 0, 0, 1, 1], [1] * 5, [0] * 5], bool)
    assert vector.argmax_rows(x, keep, 100)[0].tolist() == [103, 103, 100, 100]


def test_argmax_in_parts(rng):
    x = normal(rng, 1, 301)
    x[0, [60, 200]] = 1e9  # a tie across parts: the first stays
    carry = None
    for start in range(0, 301, 50):
        carry = vector.argmax_rows(x[:, start:start + 50], index=start, carry=carry)
    assert carry[0].tolist() == vector.argmax_rows(x)[0].tolist() == [60]
