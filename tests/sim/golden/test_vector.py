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
