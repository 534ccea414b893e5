"""The maximum by the total order of the bits, against Berkeley SoftFloat's comparison."""

import numpy as np
import pytest
import softfloatpy
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilewright.hw.fp.compare import greater, maximum


class Compare(wiring.Component):
    """o = greater(a, b) above maximum(a, b), a cycle later."""

    delay = 1

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "o": Out(33)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.o[:32].eq(maximum(self.a, self.b)), self.o[32].eq(greater(self.a, self.b))]
        return m


def expected(a, b):
    """Of bits, from SoftFloat: a > b where they are ordered and differ; else, with NaN and zeros of both signs, the
    order of the bit patterns."""
    make = softfloatpy.Float32.from_bytes
    rows = np.column_stack([a, b]).astype(">u4").tobytes()
    above = np.array([bool(softfloatpy.f32_lt_quiet(make(rows[i + 4:i + 8]), make(rows[i:i + 4])))
                      for i in range(0, len(rows), 8)])
    magnitudes = [x & 0x7FFFFFFF for x in (a, b)]
    unordered = (np.maximum(*magnitudes) > 0x7F800000) | ((magnitudes[0] | magnitudes[1]) == 0)
    keys = [np.where(x >> 31, -1 - m.astype(np.int64), m) for x, m in zip((a, b), magnitudes, strict=True)]
    above = np.where(unordered, keys[0] > keys[1], above)
    return above.astype(np.uint64) << np.uint64(32) | np.where(above, a, b)


def test_order(run_simulator, check, fp32_operands):
    a, b, _ = fp32_operands(12_000, seed=140)
    check(run_simulator(Compare(), a=a, b=b), expected(a, b), a=a, b=b)


@pytest.mark.slow
def test_order_million(run_verilator, check, fp32_operands):
    a, b, _ = fp32_operands(1_000_000, seed=141)
    check(run_verilator(Compare(), a=a, b=b), expected(a, b), a=a, b=b)
