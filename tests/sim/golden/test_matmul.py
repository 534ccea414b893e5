"""golden.matmul against exact rational arithmetic and against plain float64."""

from fractions import Fraction

import numpy as np
import pytest

from tilewright.sim.golden.matmul import block_term, linear

SEED = 20


def _round(x):
    """An exact Fraction as FP32, rounded once."""
    value = np.float64(x.numerator) / np.float64(x.denominator)  # denominator is a power of two, numerator < 2^53
    assert Fraction(float(value)) == x
    return np.float32(value)


def _exact(total, code, d):
    return Fraction(int(total)) * Fraction(4 + (int(code) & 3), 4) * Fraction(2) ** ((int(code) >> 2) - 22) \
        * Fraction(float(d))


def test_block_term_is_the_exact_product_rounded_once():
    rng = np.random.default_rng(SEED)
    total = rng.integers(-(1 << 19) + 1, 1 << 19, 3000)
    code = rng.integers(0, 152, 3000).astype(np.uint8)
    d = rng.integers(0, 1 << 16, 3000).astype(np.uint16).view(np.float16)
    d = np.where(np.isfinite(d), d, np.float16(6e-8))
    term = block_term(total, code, d)
    expected = np.array([_round(_exact(*x)) for x in zip(total, code, d, strict=True)], np.float32)
    assert np.array_equal(term.view(np.uint32), (expected + np.float32(0)).view(np.uint32))


@pytest.mark.parametrize(("total", "d", "bits"), [
    (0, -1.0, 0), (-3, -0.0, 0), (0, np.inf, 0x7FC00000), (-2, np.inf, 0xFF800000), (5, np.nan, 0x7FC00000),
    (0, -np.inf, 0x7FC00000),
])
def test_block_term_corners(total, d, bits):
    assert int(block_term(total, np.uint8(88), np.float16(d)).view(np.uint32)) == bits


@pytest.mark.parametrize("k", [1, 8, 31, 32, 33, 172])
@pytest.mark.parametrize("scaled", [False, True])
def test_linear_adds_blocks_in_ascending_order(k, scaled):
    rng = np.random.default_rng(SEED + k)
    m, n, blocks = 3, 5, -(-k // 32)
    q = rng.integers(-127, 128, (m, k)).astype(np.int8)
    w = rng.integers(-128, 128, (n, k)).astype(np.int8)
    code = rng.integers(60, 110, (m, blocks)).astype(np.uint8)
    d = rng.normal(size=(n, blocks)).astype(np.float16) if scaled else None
    expected = np.zeros((m, n), np.float32)
    for r in range(m):
        for c in range(n):
            for b in range(blocks):
                total = sum(int(x) * int(y) for x, y in zip(q[r, 32 * b:32 * b + 32], w[c, 32 * b:32 * b + 32],
                                                            strict=True))
                expected[r, c] += _round(_exact(total, code[r, b], d[c, b] if scaled else 1))
    assert np.array_equal(linear(q, code, w, d), expected)


def test_linear_refuses_shapes_that_do_not_fit():
    q, w = np.zeros((2, 40), np.int8), np.zeros((3, 40), np.int8)
    with pytest.raises(ValueError, match="shapes do not fit"):
        linear(q, np.zeros((2, 1), np.uint8), w)
