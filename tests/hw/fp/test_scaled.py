"""ScaledSum against exact integer arithmetic."""

import numpy as np
import pytest

from tilewright.hw.fp.scaled import ScaledSum


def reference(s, code, weight):
    """FP32 bits of s * 2^(code // 4 - 22) * (4 + code % 4) / 4 * weight (FP16 bits), rounded once from the integers."""
    exponent, fraction = weight >> 10 & 31, weight & 1023
    negative = (s < 0) ^ (weight >> 15)
    if exponent == 31:
        return 0x7FC00000 if fraction or not s else 0x7F800000 | negative << 31
    product = abs(s) * (4 + code % 4) * (fraction + (1024 if exponent else 0))
    if not product:
        return 0
    scale = code // 4 - 22 - 2 + max(exponent, 1) - 25  # product * 2^scale
    excess = product.bit_length() - 24
    kept = product << max(-excess, 0)
    if excess > 0:
        kept, half = product >> excess, 1 << (excess - 1)
        rest = product & (2 * half - 1)
        kept += rest > half or (rest == half and kept & 1)
    # A kept of 2^24 carries into the exponent by itself.
    return (negative << 31) + ((scale + excess + 23 + 127) << 23) + kept - (1 << 23)


def operands(count, seed):
    """Sums, codes and weight scales; small sums, ends of the range, zeros and FP16's specials often."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    s = rng.integers(-(1 << 19) + 1, 1 << 19, count) >> rng.integers(0, 19, count)
    ends = [0, 1, -1, (1 << 19) - 1, 1 - (1 << 19), 1 << 18]
    s = np.where(rng.integers(0, 8, count) == 0, rng.choice(ends, count), s)
    code = rng.integers(0, 152, count)
    corners = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00]
    weight = rng.integers(0, 1 << 16, count)
    weight = np.where(rng.integers(0, 4, count) == 0, weight & 0x83FF, weight)
    weight = np.where(rng.integers(0, 4, count) == 0, rng.choice(corners, count), weight)
    # Short significands, so that products end in halves.
    weight = np.where(rng.integers(0, 3, count) == 0, weight & 0xFFE0, weight)
    return s, code, weight


def expected(s, code, weight):
    return np.array([reference(*row) for row in zip(s.tolist(), code.tolist(), weight.tolist(), strict=True)])


def test_term(run_simulator, check):
    s, code, weight = operands(12_000, seed=160)
    check(run_simulator(ScaledSum(), s=s, code=code, weight_scale=weight), expected(s, code, weight),
          s=s, code=code, weight=weight)


def test_reference_on_values_worked_by_hand():
    assert reference(1, 88, 0x3C00) == 0x3F800000
    assert reference(-3, 88, 0x4000) == 0xC0C00000
    assert reference(5, 89, 0x3C00) == 0x40C80000  # 5 * 1.25
    assert reference(1, 0, 0x0001) == (127 - 46) << 23
    assert reference(0, 3, 0xFC00) == 0x7FC00000
    assert reference(-7, 3, 0x0000) == 0


@pytest.mark.slow
def test_term_million(run_verilator, check):
    s, code, weight = operands(1_000_000, seed=161)
    check(run_verilator(ScaledSum(), s=s, code=code, weight_scale=weight), expected(s, code, weight),
          s=s, code=code, weight=weight)
