# amaranth: UnusedElaboratable=no
"""Conversions against Berkeley SoftFloat; FP16 operands exhaustively."""

import numpy as np
import pytest

from tilewright.hw.fp.convert import Fp16ToFp32, Fp32ToFp16, IntToFp32


def integers(width, count):
    rng = np.random.default_rng(150 + width)
    i = rng.integers(-1 << (width - 1), (1 << (width - 1)) - 1, count, endpoint=True) >> rng.integers(0, width, count)
    i[:4] = -1 << (width - 1), (1 << (width - 1)) - 1, 0, -1
    return i


def test_fp16_to_fp32_all_inputs(run_simulator, check, softfloat):
    h = np.arange(1 << 16, dtype=np.uint16)
    check(run_simulator(Fp16ToFp32(), i=h), softfloat.from_fp16(h), i=h)


def test_fp32_to_fp16(run_simulator, check, softfloat, near_fp16, fp32_operands):
    x = np.concatenate([near_fp16[::8], fp32_operands(8_000, seed=150)[0]])
    check(run_simulator(Fp32ToFp16(), i=x), softfloat.to_fp16(x), i=x)


@pytest.mark.slow
def test_fp32_to_fp16_million(run_verilator, check, softfloat, near_fp16):
    rng = np.random.default_rng(151)
    low = (rng.integers(95, 150, 500_000) << 23 | rng.integers(0, 1 << 23, 500_000)).astype(np.uint32)
    x = np.concatenate([near_fp16, low, rng.integers(0, 1 << 32, 500_000, dtype=np.uint32)])
    check(run_verilator(Fp32ToFp16(), i=x), softfloat.to_fp16(x), i=x)


@pytest.mark.parametrize("width", [2, 9, 20, 26, 32, 64])
def test_int_to_fp32(run_simulator, check, softfloat, width):
    i = integers(width, 3_000)
    check(run_simulator(IntToFp32(width=width), i=i), softfloat.from_int(i), i=i)


@pytest.mark.slow
def test_int_to_fp32_million(run_verilator, check, softfloat):
    i = integers(32, 1_000_000)
    check(run_verilator(IntToFp32(width=32), i=i), softfloat.from_int(i), i=i)


@pytest.mark.parametrize("width", [1, 65])
def test_refuses_widths(width):
    with pytest.raises(ValueError, match=f"width must be from 2 to 64, not {width}"):
        IntToFp32(width=width)
