"""FP32MultiplyAdd against Berkeley SoftFloat's multiply, then its add."""

import numpy as np
import pytest

from tilewright.hw.fp.madd import FP32MultiplyAdd


@pytest.mark.parametrize("dsps, count", [(4, 10_000), (1, 5_000)])
def test_two_roundings(run_simulator, check, softfloat, fp32_operands, dsps, count):
    a, b, c = fp32_operands(count, seed=130 + dsps)
    check(run_simulator(FP32MultiplyAdd(dsps=dsps), a=a, b=b, c=c), softfloat.madd(a, b, c), a=a, b=b, c=c)


def test_is_not_a_fused_multiply_add(run_simulator):
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: the last term is lost in the product's rounding.
    a, c = np.array([0x3F800800]), np.array([0xBF801000])
    assert run_simulator(FP32MultiplyAdd(), a=a, b=a, c=c).tolist() == [0]


@pytest.mark.slow
def test_two_roundings_million(run_verilator, check, softfloat, fp32_operands):
    a, b, c = fp32_operands(1_000_000, seed=135)
    check(run_verilator(FP32MultiplyAdd(), a=a, b=b, c=c), softfloat.madd(a, b, c), a=a, b=b, c=c)
