"""golden.matmul against exact rational arithmetic and against plain float64."""

from fractions import Fraction

import numpy as np
import pytest

from tilewright.sim.golden.matmul import linear, linear_fp16, linear_int4
from tilewright.sim.golden.weights import Int4Matrix, dequantise

SEED = 20


def _round(x):
    """An exact Fraction as FP32, rounded once."""
    value = np.float64(x.numerator) / np.float64(x.denominator)  # denominator is a power of two, numerator < 2^53
    assert Fraction(float(value)) == x
    return np.float32(value)


def _exact(total, code, d):
    return Fraction(int(total)) * Fraction(4 + (int(code) & 3), 4) * Fraction(2) ** ((int(code) >> 2) - 22) \
        * Fraction(float(d))


def test_a_term_is_the_exact_product_rounded_once():
    rng = np.random.default_rng(SEED)
    m, n = 40, 75
    q, w = rng.integers(-127, 128, (m, 32)), rng.integers(-128, 128, (n, 32))
    q[0], w[0], w[1] = 127, -128, 127
    code = rng.permutation(152)[:m].astype(np.uint8)[:, None]
    d = rng.integers(0, 1 << 16, (n, 1)).astype(np.uint16).view(np.float16)
    d = np.where(np.isfinite(d), d, np.float16(6e-8))
    got = linear(q.astype(np.int8), code, w.astype(np.int8), d)
    expected = np.array([[_round(_exact(q[r] @ w[c], code[r, 0], d[c, 0])) for c in range(n)] for r in range(m)])
    assert np.array_equal(got.view(np.uint32), (expected + np.float32(0)).view(np.uint32))


@pytest.mark.parametrize(("total", "d", "bits"), [
    (0, -1.0, 0), (-3, -0.0, 0), (0, np.inf, 0x7FC00000), (-2, np.inf, 0xFF800000), (5, np.nan, 0x7FC00000),
    (0, -np.inf, 0x7FC00000),
])
def test_corners_of_a_term(total, d, bits):
    got = linear(np.array([[total]], np.int8), np.array([[88]], np.uint8), np.ones((1, 1), np.int8),
                 np.array([[d]], np.float16))
    assert int(got.view(np.uint32)[0, 0]) == bits


@pytest.mark.parametrize(("m", "n"), [(1, 70001), (64, 1025), (129, 1030)])
def test_large_products_equal_small_ones(m, n):
    """What is taken in parts is the same as row by row, a few outputs at a time."""
    rng = np.random.default_rng(SEED)
    q, w = (rng.integers(-127, 128, (count, 40)).astype(np.int8) for count in (m, n))
    code = rng.integers(0, 152, (m, 2)).astype(np.uint8)
    d, minimum = rng.normal(size=(2, n, 2)).astype(np.float16)
    whole = linear_int4(q, code, Int4Matrix(w, d, minimum))
    for row in (0, m // 2, m - 1):
        for first in (0, n // 2, n - 7):
            part = slice(first, first + 7)
            got = linear_int4(q[row:row + 1], code[row:row + 1], Int4Matrix(w[part], d[part], minimum[part]))
            assert np.array_equal(got[0], whole[row, part])


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


# FP16.

def _halves(rng, *shape):
    """Every kind of finite FP16 number alike: all exponents, subnormals, zeros of both signs."""
    bits = rng.integers(0, 1 << 16, shape).astype(np.uint16)
    return np.where(bits & 0x7C00 == 0x7C00, bits & 0x83FF, bits).astype(np.uint16).view(np.float16)


def _round_once(x):
    """A Fraction to the nearest FP32 number, ties to even, by integers alone."""
    if x == 0:
        return 0.0
    magnitude, exponent = abs(x), 0
    while magnitude >= 1 << 24:
        magnitude, exponent = magnitude / 2, exponent + 1
    while magnitude < 1 << 23:
        magnitude, exponent = magnitude * 2, exponent - 1
    return float(round(magnitude) * Fraction(2)**exponent) * (-1 if x < 0 else 1)  # round: ties to even


def _bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


@pytest.mark.parametrize("k", [1, 2, 3, 8, 172, 576])
def test_linear_fp16_is_the_exact_sum_rounded_once(k):
    rng = np.random.default_rng(SEED + k)
    a, w = _halves(rng, 3, k), _halves(rng, 5, k)
    w[0] = (rng.normal(size=k) * 0.05).astype(np.float16)
    expected = [[_round_once(sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(row, column, strict=True)))
                 for column in w] for row in a]
    assert np.array_equal(_bits(linear_fp16(a, w)), _bits(expected))


def test_linear_fp16_rounds_ties_and_cancels():
    """One product dominates; the rest is half a unit in its last place, or a little more or less; or all cancels."""
    one, half, tiny = 1.0, 2.0**-12, 2.0**-24  # half * half: half a unit in the last place of 1.0
    rows = [
        ([one, half], [one, half], 1.0), ([one, half, tiny], [one, half, tiny], 1.0 + 2.0**-23),
        ([one, half, tiny], [one, half, -tiny], 1.0), ([-one, half, tiny], [one, -half, -tiny], -1.0 - 2.0**-23),
        ([one + 2.0**-10, half], [one, half], 1.0 + 2.0**-10), ([one, -half], [one, half], 1.0 - 2.0**-24),
        ([65504, 65504, tiny], [65504, -65504, tiny], 2.0**-48), ([65504, 65504, -tiny], [65504, -65504, tiny],
                                                                  -2.0**-48),
        ([65504, -65504], [65504, 65504], 0.0), ([0.0, -0.0], [-1.0, 1.0], 0.0), ([-tiny], [0.0], 0.0),
    ]
    for a, w, expected in rows:
        got = linear_fp16(np.array([a], np.float16), np.array([w], np.float16))
        assert int(_bits(got)[0, 0]) == int(_bits(expected)), (a, w)


def test_linear_fp16_at_the_longest():
    """2^16 - 1 largest products, and one more bit at the other end."""
    a = np.full((1, 65535), 65504, np.float16)
    w = np.stack([a[0], -a[0]])
    exact = 65535 * 65504**2
    assert np.array_equal(_bits(linear_fp16(a, w)), _bits([[exact, -exact]]))
    a[0, -1] = w[0, -1] = w[1, -1] = 2.0**-24
    exact = _round_once(Fraction(65534 * 65504**2) + Fraction(2)**-48)
    assert np.array_equal(_bits(linear_fp16(a, w)), _bits([[exact, -exact]]))


@pytest.mark.parametrize(("a", "w", "bits"), [
    ([np.inf, 1], [1, 1], 0x7F800000), ([np.inf, 1], [-1, np.inf], 0x7FC00000),
    ([-np.inf, 1], [1, -np.inf], 0xFF800000),
    ([np.inf, 1], [0, 1], 0x7FC00000), ([0, 1], [np.inf, 1], 0x7FC00000), ([np.nan, 1], [0, 1], 0x7FC00000),
    ([1, 1], [1, -np.nan], 0x7FC00000), ([np.inf, np.inf], [-1, 1], 0x7FC00000), ([np.inf, np.inf], [2, 1], 0x7F800000),
    ([np.inf, np.nan, np.inf], [1, 1, 1], 0x7FC00000), ([np.inf, np.inf, np.inf], [-1, 1, 1], 0x7FC00000),
    ([np.inf, 65504], [2.0**-24, -65504], 0x7F800000),
])
def test_linear_fp16_specials(a, w, bits):
    got = linear_fp16(np.array([a], np.float16), np.array([w], np.float16))
    assert int(_bits(got)[0, 0]) == bits


def test_linear_fp16_in_pieces():
    """More weights than are taken at once, and a reduction in several spans: the same as output by output."""
    rng = np.random.default_rng(SEED)
    a, w = _halves(rng, 2, 9000), _halves(rng, 200, 9000)
    w[150, 8000] = np.inf
    whole = linear_fp16(a, w)
    for n in (0, 1, 115, 116, 117, 150, 199):
        assert np.array_equal(_bits(whole[:, [n]]), _bits(linear_fp16(a, w[n:n + 1])))


def test_linear_fp16_refusals():
    with pytest.raises(ValueError, match="operands must be float16, not float32"):
        linear_fp16(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float16))
    with pytest.raises(ValueError, match="shapes do not fit"):
        linear_fp16(np.zeros((1, 2), np.float16), np.zeros((1, 3), np.float16))


@pytest.mark.parametrize("k", [1, 8, 31, 32, 33, 172])
@pytest.mark.parametrize("minimum", [False, True])
def test_linear_int4_adds_scale_and_minimum_of_each_block(k, minimum):
    rng = np.random.default_rng(SEED + k)
    m, n, blocks = 3, 5, -(-k // 32)
    q = rng.integers(-127, 128, (m, k)).astype(np.int8)
    w = (rng.integers(0, 16, (n, k)) - (0 if minimum else 8)).astype(np.int8)
    code = rng.integers(60, 110, (m, blocks)).astype(np.uint8)
    d, least = (rng.normal(size=(n, blocks)).astype(np.float16) for _ in range(2))
    expected = np.zeros((m, n), np.float32)
    for r in range(m):
        for c in range(n):
            for b in range(blocks):
                a, span = [int(x) for x in q[r, 32 * b:32 * b + 32]], w[c, 32 * b:32 * b + 32]
                total = sum(x * int(y) for x, y in zip(a, span, strict=True))
                expected[r, c] += _round(_exact(total, code[r, b], d[c, b]))
                if minimum:
                    expected[r, c] += _round(_exact(sum(a), code[r, b], least[c, b]))
    got = linear_int4(q, code, Int4Matrix(w, d, least if minimum else None))
    assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_linear_int4_without_minimum_is_linear():
    rng = np.random.default_rng(SEED)
    q, w = rng.integers(-127, 128, (4, 77)).astype(np.int8), rng.integers(-8, 8, (9, 77)).astype(np.int8)
    code, d = rng.integers(0, 152, (4, 3)).astype(np.uint8), rng.normal(size=(9, 3)).astype(np.float16)
    assert np.array_equal(linear_int4(q, code, Int4Matrix(w, d, None)), linear(q, code, w, d))
    # float64 of what the matrices stand for
    least = rng.normal(size=(9, 3)).astype(np.float16)
    matrix = Int4Matrix((w + 8).astype(np.int8), d, least)
    scales = np.repeat([[float(_exact(1, c, 1)) for c in row] for row in code], 32, axis=1)[:, :77]
    expected = (q * scales) @ dequantise(matrix).astype(np.float64).T
    np.testing.assert_allclose(linear_int4(q, code, matrix), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("change", [{"q": (4, 76)}, {"code": (4, 2)}, {"w": (9, 78)}, {"d": (9, 2)}, {"m": (8, 3)}])
def test_linear_int4_refuses_shapes_that_do_not_fit(change):
    sizes = {"q": (4, 77), "code": (4, 3), "w": (9, 77), "d": (9, 3), "m": (9, 3)} | change
    q, code, w, d, m = (np.zeros(sizes[name], kind) for name, kind in (
        ("q", np.int8), ("code", np.uint8), ("w", np.int8), ("d", np.float16), ("m", np.float16)))
    with pytest.raises(ValueError, match="shapes do not fit"):
        linear_int4(q, code, Int4Matrix(w, d, m))
