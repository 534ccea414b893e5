"""FP32 adder."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .normalise import FP32, normalise, round_up

__all__ = ["FP32Add"]

_FLAGS = data.StructLayout({"sign": 1, "both_negative": 1, "both_zero": 1, "subtract": 1, "nan": 1})


class FP32Add(wiring.Component):
    """o = add(a, b) of docs/numerics.md: one rounding to nearest even, subnormals count as zero and become zero.

    Latency: ``delay`` = 6 cycles. Throughput: one result a cycle. Flow control: none; valid travels beside the data.

    One path for all cases: order by magnitude, align the smaller, add or subtract, normalise, round. Infinity, NaN and
    overflow need little beside it: a largest exponent drops the smaller operand, and the sum then is the result.

    Members
    -------
    a, b : In(32)    operands, FP32 bits
    o : Out(32)      sum, FP32 bits
    """

    delay = 6

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        s3 = self._align(m, self._order(m))

        # Stage 4: significands with two more bits, sticky below them as the last bit of the sum. The smaller operand
        # arrives inverted for a difference; its + 1 passes the sticky bit only if that is 0.
        total = Cat(1, Const(0, 2), s3.fraction, 1, 0) + Cat(s3.flags.subtract & ~s3.sticky, s3.small)
        half, step16 = normalise(m, Cat(s3.sticky, total[1:28]), steps=(16,), name="sum")
        s4 = Signal(data.StructLayout({"sum": 28, "step16": 1, "carry": 1, "exponent": 8, "flags": _FLAGS}),
                    reset_less=True)
        m.d.sync += [
            s4.sum.eq(half),
            s4.step16.eq(step16),
            s4.carry.eq(total[27]),
            s4.exponent.eq(s3.exponent),
            s4.flags.eq(s3.flags),
        ]

        # Stage 5: normalise the rest. Bit 27 is the carry, so the exponent to come is exponent + 1 - leading zeros.
        # A sum of zero leaves the top bit clear.
        shifted, zeros = normalise(m, s4.sum, steps=(8, 4, 2, 1), name="sum")
        overflow = (s4.exponent == 254) & s4.carry
        exact_zero = ~shifted[27] | s4.flags.both_zero
        s5 = Signal(data.StructLayout({
            "fraction": 23, "round": 1, "exponent": 9, "zeros": 5, "sign": 1, "zero": 1,
        }), reset_less=True)
        m.d.sync += [
            s5.exponent.eq(s4.exponent + 2),
            s5.zeros.eq(Cat(zeros, s4.step16)),
            s5.sign.eq(Mux(exact_zero, s4.flags.both_negative, s4.flags.sign) & ~s4.flags.nan),
            s5.zero.eq(exact_zero),
        ]
        with m.If(s4.flags.nan | overflow):
            m.d.sync += [s5.fraction.eq(s4.flags.nan << 22), s5.round.eq(0)]
        with m.Else():
            m.d.sync += [s5.fraction.eq(shifted[4:27]), s5.round.eq(round_up(shifted, keep=24))]

        # Stage 6: one carry chain rounds and corrects the exponent: e + 2 + ~zeros = e + 1 - zeros (modulo 2^9).
        # A result below 2^-126 is exact, so its exponent before rounding is the one after it, at most 0.
        o = Signal(32, reset_less=True)
        rounded = Signal(33)
        m.d.comb += rounded.eq(Cat(s5.round, s5.fraction, s5.exponent)
                               + Cat(s5.round, Const(0, 23), ~s5.zeros, Const(15, 4)))
        m.d.sync += o[31].eq(s5.sign)
        with m.If(s5.zero | rounded[32] | (rounded[24:32] == 0)):
            m.d.sync += o[:31].eq(0)
        with m.Else():
            m.d.sync += o[:31].eq(rounded[1:32])
        m.d.comb += self.o.eq(o)
        return m

    def _order(self, m):
        """Stage 1: the operand of larger magnitude, the exponent and fraction of the other, and signs."""
        a, b = data.View(FP32, self.a), data.View(FP32, self.b)
        s1 = Signal(data.StructLayout({
            "big": 31, "small": 31, "sign": 1, "both_negative": 1, "subtract": 1,
        }), reset_less=True)
        swap = Signal()
        m.d.comb += swap.eq(self.a[:31] < self.b[:31])
        m.d.sync += [
            s1.big.eq(Mux(swap, self.b[:31], self.a[:31])),
            s1.small.eq(Mux(swap, self.a[:31], self.b[:31])),
            s1.sign.eq(Mux(swap, b.sign, a.sign)),
            s1.both_negative.eq(a.sign & b.sign),
            s1.subtract.eq(a.sign ^ b.sign),
        ]
        return s1

    def _align(self, m, s1):
        """Stages 2 and 3: shift the smaller significand right by the difference of the exponents, sticky bit below."""
        big, small = s1.big[23:], s1.small[23:]

        # Stage 2: the distance, 31 (all shifted out) where it is larger or the smaller operand does not count.
        distance, far, shift = Signal(8), Signal(), Signal(5)
        small_zero, top = small == 0, big == 255
        m.d.comb += [
            distance.eq(big - small),
            far.eq(distance[5:].any() | small_zero | top),
            shift.eq(distance[:5] | far.replicate(5)),
        ]
        s2 = Signal(data.StructLayout({
            "exponent": 8, "fraction": 23, "small": 26, "shift": 4, "drop": 1, "sticky": 1, "flags": _FLAGS,
        }), reset_less=True)
        significand = Cat(Const(0, 2), s1.small[:23], 1)
        m.d.sync += [
            s2.exponent.eq(big),
            s2.fraction.eq(s1.big[:23]),
            s2.small.eq(Mux(shift[4], significand >> 16, significand)),
            s2.shift.eq(shift),
            s2.drop.eq(small_zero | top),
            s2.sticky.eq(shift[4] & significand[:16].any()),
            s2.flags.sign.eq(s1.sign),
            s2.flags.both_negative.eq(s1.both_negative),
            s2.flags.both_zero.eq(big == 0),
            s2.flags.subtract.eq(s1.subtract),
            s2.flags.nan.eq(top & (s1.big[:23].any() | (s1.subtract & (small == 255)))),
        ]

        # Stage 3: the other steps, and the inversion for a difference, which shares the last step's LUTs.
        value, sticky = s2.small, s2.sticky
        for i in (3, 2, 1, 0):
            sticky = sticky | (s2.shift[i] & value[:1 << i].any())
            value = Mux(s2.shift[i], value >> (1 << i), value)
        s3 = Signal(data.StructLayout({
            "exponent": 8, "fraction": 23, "small": 27, "sticky": 1, "flags": _FLAGS,
        }), reset_less=True)
        m.d.sync += [
            s3.exponent.eq(s2.exponent),
            s3.fraction.eq(s2.fraction),
            s3.small.eq(Cat(value, 0) ^ s2.flags.subtract.replicate(27)),
            s3.sticky.eq(sticky & ~s2.drop),
            s3.flags.eq(s2.flags),
        ]
        return s3
