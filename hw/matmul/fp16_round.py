"""The end of an exact FP16 sum: rounded to FP32."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..fp.normalise import normalise, round_up
from .fp16_array import exact_sum

__all__ = ["RoundSum"]

STEPS = ((64,), (32,), (16, 8), (4, 2, 1))
"""Left shifts of each stage that normalises."""

FLAGS = {"sign": 1, "positive": 1, "negative": 1}


class RoundSum(wiring.Component):
    """o = the exact sum as FP32, rounded to nearest, ties to even ("FP16 matmul" in docs/numerics.md).

    Latency: ``delay`` = 6 cycles. Throughput: one result a cycle. Flow control: none; valid travels beside the data.

    A sum is zero or lies between 2^-48 and 2^48: it neither overflows nor becomes subnormal.

    Parameters
    ----------
    depth : int   most products of a sum

    Members
    -------
    sum : In(exact_sum(depth))
    o : Out(32)                  FP32 bits
    """

    delay = 2 + len(STEPS)

    def __init__(self, *, depth):
        self._width = exact_sum(depth)["value"].width - 1  # of a magnitude
        if self._width > 127:
            raise ValueError(f"depth must be at most 2^47, not {depth!r}")
        super().__init__({"sum": In(exact_sum(depth)), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        # Stage 1: sign and magnitude.
        sign = self.sum.value[-1]
        value = Signal(self._width, reset_less=True, name="magnitude")
        m.d.sync += value.eq((self.sum.value ^ sign.replicate(len(self.sum.value))) + sign)
        flags = Signal(data.StructLayout(FLAGS), reset_less=True, name="flags_1")
        m.d.sync += flags.eq(Cat(sign, self.sum.positive, self.sum.negative))

        # Stages 2 to 5: normalise. Behind a step by s the leading one is among the top s bits: below them 24 and a
        # sticky one are enough.
        zeros = []
        for stage, steps in enumerate(STEPS):
            shifted, taken = normalise(m, value, steps=steps, name=f"sum_{stage}")
            keep = min(steps[-1] + 24, len(value))
            value = Signal(keep + (keep < len(shifted)), reset_less=True, name=f"normalised_{stage}")
            next_zeros = Signal(len(Cat(zeros)) + len(steps), reset_less=True, name=f"zeros_{stage}")
            next_flags = Signal(data.StructLayout(FLAGS), reset_less=True, name=f"flags_{stage + 2}")
            rest = shifted[:len(shifted) - keep]
            m.d.sync += [value.eq(Cat(rest.any(), shifted[len(rest):]) if len(rest) else shifted),
                         next_zeros.eq(Cat(taken, zeros)), next_flags.eq(flags)]
            zeros, flags = next_zeros, next_flags

        # Stage 6: one carry chain rounds and computes the exponent: E + 1 + ~zeros = E - zeros (modulo 2^8).
        exponent = 127 - 48 + self._width - 1
        up = round_up(value, keep=24)
        rounded = Signal(32)
        o = Signal(32, reset_less=True)
        m.d.comb += [
            rounded.eq((Cat(up, value[-24:-1], Const(exponent + 1, 8))
                        + Cat(up, Const(0, 23), ~zeros, 1))[:32]),
            self.o.eq(o),
        ]
        with m.If(flags.positive | flags.negative):
            nan = flags.positive & flags.negative
            m.d.sync += o.eq(Cat(Const(0, 22), nan, Const(0xFF, 8), flags.negative & ~nan))
        with m.Elif(~value[-1]):
            m.d.sync += o.eq(0)
        with m.Else():
            m.d.sync += o.eq(Cat(rounded[1:], flags.sign))
        return m
