"""The maximum by the total order of the bits."""

import numpy as np
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


def key(bits):
    return -(bits & 0x7FFFFFFF) - 1 if bits >> 31 else bits


def test_order(run_simulator, check, fp32_operands):
    a, b, _ = fp32_operands(8_000, seed=140)
    expected = np.array([(key(x) > key(y)) << 32 | max(x, y, key=key)
                         for x, y in zip(a.tolist(), b.tolist(), strict=True)], dtype=np.uint64)
    check(run_simulator(Compare(), a=a, b=b), expected, a=a, b=b)
