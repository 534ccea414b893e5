"""FP32 multiply, then add."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .add import FP32Add
from .multiply import FP32Multiply

__all__ = ["FP32MultiplyAdd"]


class FP32MultiplyAdd(wiring.Component):
    """o = madd(a, b, c) = add(mul(a, b), c) of docs/numerics.md: two roundings, so not IEEE 754's fusedMultiplyAdd.

    Latency: ``delay`` cycles, the multiplier's and the adder's; c is taken together with a and b and waits inside.
    Throughput: one result a cycle. Flow control: none; valid travels beside the data.

    Parameters
    ----------
    dsps : int    multiplier primitives, 1 to 4 (see FP32Multiply)

    Members
    -------
    a, b, c : In(32)    operands, FP32 bits
    o : Out(32)         result, FP32 bits
    """

    def __init__(self, *, dsps=4):
        self._multiply = FP32Multiply(dsps=dsps)
        self._add = FP32Add()
        super().__init__({"a": In(32), "b": In(32), "c": In(32), "o": Out(32)})

    @property
    def delay(self):
        """Cycles from operands to result."""
        return self._multiply.delay + self._add.delay

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiply = multiply = self._multiply
        m.submodules.add = add = self._add
        c = self.c
        for i in range(multiply.delay):
            waiting = Signal(32, reset_less=True, name=f"c_wait{i}")
            m.d.sync += waiting.eq(c)
            c = waiting
        m.d.comb += [
            multiply.a.eq(self.a),
            multiply.b.eq(self.b),
            add.a.eq(multiply.o),
            add.b.eq(c),
            self.o.eq(add.o),
        ]
        return m
