"""The elementwise chain of the vector unit."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..fp.add import FP32Add
from ..fp.convert import Fp32ToFp16
from ..fp.multiply import FP32Multiply
from .function import TableFunction

__all__ = ["Lane"]


class Lane(wiring.Component):
    """t3 = F(a * b + c), t4 = t3 * d, each operation rounded as docs/numerics.md says.

    Operands are taken where they are used: c ``c_delay`` cycles after a and b, d ``d_delay`` cycles after them. t3 is
    there together with d, t4 ``delay`` cycles after a and b, and as FP16 ``half_delay`` cycles after them.
    Throughput: one element a cycle. Flow control: none.

    Parameters
    ----------
    tables : tuple of FunctionTable
    multiply_dsps : int    multiplier primitives of each of the two FP32 multipliers
    fp16 : bool            t4 is there as FP16 too

    Members
    -------
    function : In(4)             0: none, else 1 + position in ``tables``; constant while elements are in work
    c_negate : In(1)             c with its sign changed; likewise
    a, b, c, d : In(32)          FP32
    t3, t4 : Out(32)             FP32
    half : Out(16)               t4 as FP16; with ``fp16``
    """

    def __init__(self, *, tables, multiply_dsps, fp16=False):
        self._multiply = FP32Multiply(dsps=multiply_dsps)
        self._add = FP32Add()
        self._function = TableFunction(tables=tables)
        self._scale = FP32Multiply(dsps=multiply_dsps)
        self._half = Fp32ToFp16() if fp16 else None
        super().__init__({
            "function": In(4), "c_negate": In(1), "a": In(32), "b": In(32), "c": In(32), "d": In(32),
            "t3": Out(32), "t4": Out(32), **({"half": Out(16)} if fp16 else {}),
        })

    @property
    def c_delay(self):
        return self._multiply.delay

    @property
    def d_delay(self):
        return self.c_delay + self._add.delay + self._function.delay

    @property
    def delay(self):
        return self.d_delay + self._scale.delay

    @property
    def half_delay(self):
        return self.delay + Fp32ToFp16.delay

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiply = multiply = self._multiply
        m.submodules.add = add = self._add
        m.submodules.function = function = self._function
        m.submodules.scale = scale = self._scale
        m.d.comb += [
            multiply.a.eq(self.a),
            multiply.b.eq(self.b),
            add.a.eq(multiply.o),
            add.b.eq(Cat(self.c[:31], self.c[31] ^ self.c_negate)),
            function.x.eq(add.o),
            function.select.eq(self.function),
            self.t3.eq(function.o),
            scale.a.eq(function.o),
            scale.b.eq(self.d),
            self.t4.eq(scale.o),
        ]
        if self._half:
            m.submodules.half = half = self._half
            m.d.comb += [half.i.eq(scale.o), self.half.eq(half.o)]
        return m
