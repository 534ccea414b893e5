"""FP32Add against Berkeley SoftFloat."""

import pytest

from tilewright.hw.fp.add import FP32Add


def test_sum(run_simulator, check, softfloat, fp32_operands):
    a, b, _ = fp32_operands(12_000, seed=120)
    check(run_simulator(FP32Add(), a=a, b=b), softfloat.add(a, b), a=a, b=b)


@pytest.mark.slow
def test_sum_million(run_verilator, check, softfloat, fp32_operands):
    a, b, _ = fp32_operands(1_000_000, seed=121)
    check(run_verilator(FP32Add(), a=a, b=b), softfloat.add(a, b), a=a, b=b)
