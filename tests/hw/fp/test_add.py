"""FP32Add against Berkeley SoftFloat."""

import numpy as np
import pytest

from tilewright.hw.fp.add import FP32Add


def test_sum(run_simulator, check, softfloat, fp32_operands):
    a, b, _ = fp32_operands(12_000, seed=120)
    check(run_simulator(FP32Add(), a=a, b=b), softfloat.add(a, b), a=a, b=b)


@pytest.mark.slow
def test_sum_million(run_verilator, check, softfloat, fp32_operands):
    a, b, _ = fp32_operands(1_000_000, seed=121)
    check(run_verilator(FP32Add(), a=a, b=b), softfloat.add(a, b), a=a, b=b)


def test_every_distance_and_lost_bit(run_simulator, check, softfloat):
    # One fraction bit of the smaller operand decides a tie or a borrow, wherever the shift takes it.
    cases = [(127 << 23 | odd, sign << 31 | (127 - distance) << 23 | bit)
             for odd in (0, 1, 0x7FFFFF) for sign in (0, 1) for distance in range(33)
             for bit in (0, *(1 << i for i in range(23)))]
    a, b = np.array(cases, dtype=np.uint32).T
    check(run_simulator(FP32Add(), a=a, b=b), softfloat.add(a, b), a=a, b=b)
