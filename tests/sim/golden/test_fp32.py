"""The golden FP32 operations against Berkeley SoftFloat."""

import numpy as np
import pytest

from tilewright.sim.golden import fp32

COUNT = 60_000


def floats(bits):
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


@pytest.mark.parametrize("name, operands, seed", [("mul", 2, 11), ("add", 2, 12), ("madd", 3, 13)])
def test_operation_equals_softfloat(softfloat, fp32_operands, name, operands, seed):
    columns = fp32_operands(COUNT, seed)[:operands]
    result = getattr(fp32, name)(*map(floats, columns))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result.view(np.uint32), getattr(softfloat, name)(*columns))


@pytest.mark.slow
@pytest.mark.parametrize("name, operands, seed", [("mul", 2, 21), ("add", 2, 22), ("madd", 3, 23)])
def test_operation_equals_softfloat_on_a_million(softfloat, fp32_operands, name, operands, seed):
    columns = fp32_operands(1_000_000, seed)[:operands]
    result = getattr(fp32, name)(*map(floats, columns))
    np.testing.assert_array_equal(result.view(np.uint32), getattr(softfloat, name)(*columns))


def test_rules_of_the_small_end():
    tiny, minus_zero = np.float32(2.0 ** -126), np.uint32(0x80000000).view(np.float32)
    below_one = np.nextafter(np.float32(1), np.float32(0))
    cases = [
        (fp32.mul(tiny, below_one), 0x00000000),  # rounds to 2^-126, but the exact product is below
        (fp32.mul(-tiny, below_one), 0x80000000),
        (fp32.mul(tiny, 1), 0x00800000),
        (fp32.mul(tiny / 2, 2), 0x00000000),  # a subnormal operand is zero
        (fp32.add(tiny * np.float32(1.5), -tiny), 0x00000000),
        (fp32.add(-tiny * np.float32(1.5), tiny), 0x80000000),
        (fp32.add(tiny, -tiny), 0x00000000),
        (fp32.add(minus_zero, minus_zero), 0x80000000),
        (fp32.add(minus_zero, 0), 0x00000000),
        (fp32.add(-tiny / 2, -0.0), 0x80000000),
        (fp32.add(np.inf, -np.inf), 0x7FC00000),
        (fp32.mul(0, -np.inf), 0x7FC00000),
    ]
    for result, bits in cases:
        assert int(result.view(np.uint32)) == bits


def test_maximum_is_the_order_of_the_bits(fp32_operands):
    a, b, _ = fp32_operands(COUNT, seed=14)
    expected = [max(x, y, key=lambda bits: -(bits & 0x7FFFFFFF) - 1 if bits >> 31 else bits)
                for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_array_equal(fp32.maximum(floats(a), floats(b)).view(np.uint32), np.array(expected, np.uint32))


def test_from_fp16_all_inputs(softfloat):
    h = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(fp32.from_fp16(h.view(np.float16)).view(np.uint32), softfloat.from_fp16(h))


def test_to_fp16(softfloat, near_fp16, fp32_operands):
    x = np.concatenate([near_fp16, fp32_operands(20_000, seed=15)[0]])
    np.testing.assert_array_equal(fp32.to_fp16(floats(x)).view(np.uint16), softfloat.to_fp16(x))


def test_from_int(softfloat):
    rng = np.random.default_rng(16)
    i = rng.integers(-2 ** 63, 2 ** 63, 20_000) >> rng.integers(0, 64, 20_000)
    i[:3] = -2 ** 63, 2 ** 63 - 1, 0
    np.testing.assert_array_equal(fp32.from_int(i).view(np.uint32), softfloat.from_int(i))
