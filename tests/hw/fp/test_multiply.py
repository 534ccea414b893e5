# amaranth: UnusedElaboratable=no
"""FP32Multiply against Berkeley SoftFloat."""

import pytest

from tilewright.hw.fp.multiply import FP32Multiply


@pytest.mark.parametrize("dsps, count", [(4, 10_000), (3, 6_000), (2, 6_000), (1, 6_000)])
def test_product(run_simulator, check, softfloat, fp32_operands, dsps, count):
    a, b, _ = fp32_operands(count, seed=100 + dsps)
    check(run_simulator(FP32Multiply(dsps=dsps), a=a, b=b), softfloat.mul(a, b), a=a, b=b)


@pytest.mark.slow
@pytest.mark.parametrize("dsps", [4, 3, 2, 1])
def test_product_million(run_verilator, check, softfloat, fp32_operands, dsps):
    a, b, _ = fp32_operands(1_000_000, seed=110 + dsps)
    check(run_verilator(FP32Multiply(dsps=dsps), a=a, b=b), softfloat.mul(a, b), a=a, b=b)


@pytest.mark.parametrize("dsps", [0, 5])
def test_refuses_other_numbers_of_multipliers(dsps):
    with pytest.raises(ValueError, match=f"dsps must be from 1 to 4, not {dsps}"):
        FP32Multiply(dsps=dsps)
