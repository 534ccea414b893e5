"""A8 against exact rationals, written from the definition: the smallest scale that does not clip."""

from fractions import Fraction

import numpy as np
import pytest

from tilewright.sim.golden import a8

SCALES = [Fraction(4 + code % 4, 4) * Fraction(2) ** (code // 4 - 22) for code in range(a8.CODES)]


def value(bits):
    """Magnitude of a float32 as the format sees it."""
    exponent, fraction = int(bits) >> 23 & 0xFF, int(bits) & 0x7FFFFF
    if exponent == 0:
        return Fraction(0)
    if exponent == 255:
        return Fraction(2) ** 128
    return Fraction(fraction | 1 << 23) * Fraction(2) ** (exponent - 150)


def reference(bits):
    """(q, code) of one block of float32 bit patterns."""
    amax = max(value(b) for b in bits)
    code = next((i for i, s in enumerate(SCALES) if amax <= 127 * s), a8.CODES - 1)
    reciprocal = [131072, 104858, 87381, 74898][code % 4]
    out = []
    for b in bits:
        if value(b) == 2**128:
            magnitude = 127
        else:
            exponent = (int(b) >> 23 & 0xFF) - 127
            x18 = int(value(b) / Fraction(2) ** (exponent - 17)) if value(b) else 0
            magnitude = min(127, round(x18 * reciprocal * Fraction(2) ** (exponent - 34 - (code // 4 - 22))))
        out.append(-magnitude if int(b) >> 31 else magnitude)
    return out, code


def check(bits, block):
    q, code = a8.quantise(bits.view(np.float32), block)
    for row in range(bits.shape[0]):
        width = block or bits.shape[1]
        for j, start in enumerate(range(0, bits.shape[1], width)):
            expected, expected_code = reference(bits[row, start:start + width])
            assert code[row, j] == expected_code
            assert q[row, start:start + width].tolist() == expected


@pytest.mark.parametrize("n, block", [(1, 32), (31, 32), (32, 32), (33, 32), (64, None), (172, 32), (5, None)])
def test_random_blocks(n, block):
    rng = np.random.default_rng(n)
    scale = np.float32(2.0) ** rng.integers(-30, 25, (40, 1)).astype(np.float32)
    x = (rng.standard_normal((40, n)).astype(np.float32) * scale).astype(np.float32)
    check(x.view(np.uint32), block)


def test_thresholds_and_neighbours():
    limits = [158.75 / 128, 190.5 / 128, 222.25 / 128, 254 / 128, 1.0]
    rows = [[int(np.float32(limit * 2.0 ** e).view(np.uint32)) + step, 0x3F000000]
            for limit in limits for e in (-100, -17, -16, -15, 0, 21, 22, 23, 127) for step in (-1, 0, 1)]
    check(np.array(rows, np.uint32), 32)


def test_ties_are_to_even():
    # Scale 1 (amax 127): halves are exact ties.
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -3.5, 126.5, 0.50001]], np.float32)
    q, code = a8.quantise(x)
    assert code.tolist() == [[88]] and a8.scale(code) == 1.0
    assert q.tolist() == [[127, 0, 2, 2, 0, -4, 126, 1]]


def test_special_values():
    bits = np.array([[0x7F800000, 0xFFC00001, 0x3F800000, 0x80000001],
                     [0x00000001, 0x807FFFFF, 0x00000000, 0x80000000],
                     [0x00800000, 0x80800000, 0x33800000, 0x34FE0000],
                     [0x7F7FFFFF, 0x4B000000, 0x4A7FFFFF, 0xCB7F0000]], np.uint32)
    check(bits, 32)
    assert a8.quantise(bits.view(np.float32))[0][0].tolist() == [127, -127, 0, 0]


def test_scales_are_exact_in_both_formats():
    codes = np.arange(a8.CODES, dtype=np.uint8)
    assert [Fraction(float(s)) for s in a8.scale(codes)] == SCALES
    assert [Fraction(float(s)) for s in a8.scale_fp16(codes)] == SCALES


def test_refusals():
    with pytest.raises(ValueError, match="scale code outside"):
        a8.scale(np.array([152]))
    with pytest.raises(ValueError, match="must be at least 1"):
        a8.quantise(np.zeros((2, 0), np.float32))
