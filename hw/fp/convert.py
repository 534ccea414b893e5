"""Conversions between FP32, FP16 and integers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .normalise import FP16, FP32, normalise, round_up

__all__ = ["Fp16ToFp32", "Fp32ToFp16", "IntToFp32"]


class Fp16ToFp32(wiring.Component):
    """o = fp16_to_fp32(i) of docs/numerics.md: exact, subnormals included; NaN gives 0x7FC00000.

    Latency: ``delay`` = 1 cycle. Throughput: one result a cycle. Flow control: none; valid travels beside the data.

    Members
    -------
    i : In(16)     FP16 bits
    o : Out(32)    FP32 bits
    """

    delay = 1

    def __init__(self):
        super().__init__({"i": In(16), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        i = data.View(FP16, self.i)
        # A subnormal fraction F counts in 2^-24. Its top bit, after z steps, stands for 2^(-15 - z): exponent 112 - z.
        shifted, zeros = normalise(m, i.fraction, steps=(8, 4, 2, 1), name="fraction")
        o = Signal(FP32, reset_less=True)
        m.d.sync += o.sign.eq(i.sign)
        with m.If(i.exponent == 31):
            nan = i.fraction.any()
            m.d.sync += [o.exponent.eq(255), o.fraction.eq(nan << 22), o.sign.eq(i.sign & ~nan)]
        with m.Elif(i.exponent != 0):
            m.d.sync += [o.exponent.eq(i.exponent + 112), o.fraction.eq(i.fraction << 13)]
        with m.Elif(shifted[-1]):
            m.d.sync += [o.exponent.eq(112 - zeros), o.fraction.eq(shifted[:-1] << 14)]
        with m.Else():
            m.d.sync += [o.exponent.eq(0), o.fraction.eq(0)]
        m.d.comb += self.o.eq(o)
        return m


class Fp32ToFp16(wiring.Component):
    """o = fp32_to_fp16(i) of docs/numerics.md: one rounding, subnormal results kept, overflow to infinity, NaN 0x7E00.

    Latency: ``delay`` = 3 cycles. Throughput: one result a cycle. Flow control: none; valid travels beside the data.

    Members
    -------
    i : In(32)     FP32 bits
    o : Out(16)    FP16 bits
    """

    delay = 3

    def __init__(self):
        super().__init__({"i": In(32), "o": Out(16)})

    def elaborate(self, platform):
        m = Module()
        i = data.View(FP32, self.i)

        # Stage 1: the 11 significand bits, guard and sticky; below 2^-14 (exponent field 113) the distance that a
        # subnormal's significand moves right. From 12 on the result is zero.
        distance = Signal(signed(9))
        s1 = Signal(data.StructLayout({"value": 13, "shift": 4, "exponent": 5, "sign": 1, "nan": 1, "inf": 1}),
                    reset_less=True)
        nan = (i.exponent == 255) & i.fraction.any()
        m.d.comb += distance.eq(113 - i.exponent)
        m.d.sync += [
            s1.value.eq(Cat(i.fraction[:12].any(), i.fraction[12:], 1)),
            s1.shift.eq(Mux(distance <= 0, 0, Mux(distance > 15, 15, distance))),
            s1.exponent.eq(Mux(distance <= 0, i.exponent - 112, 0)),
            s1.sign.eq(i.sign & ~nan),
            s1.nan.eq(nan),
            s1.inf.eq(i.exponent >= 143),
        ]

        # Stage 2: shift right, sticky bit below; or the special results.
        value, sticky = s1.value, 0
        for step in (8, 4, 2, 1):
            take = s1.shift[step.bit_length() - 1]
            sticky = sticky | (take & value[:step].any())
            value = Mux(take, value >> step, value)
        s2 = Signal(data.StructLayout({"round": 1, "fraction": 10, "exponent": 5, "sign": 1}), reset_less=True)
        m.d.sync += s2.sign.eq(s1.sign)
        with m.If(s1.nan | s1.inf):
            m.d.sync += [s2.round.eq(0), s2.fraction.eq(s1.nan << 9), s2.exponent.eq(31)]
        with m.Else():
            m.d.sync += [
                s2.round.eq(value[1] & (value[2] | value[0] | sticky)),
                s2.fraction.eq(value[2:12]),
                s2.exponent.eq(s1.exponent),
            ]

        # Stage 3: rounding carries from a subnormal to 2^-14, and from the largest number to infinity.
        o = Signal(16, reset_less=True)
        m.d.sync += o.eq(Cat(s2.fraction, s2.exponent, s2.sign) + s2.round)
        m.d.comb += self.o.eq(o)
        return m


class IntToFp32(wiring.Component):
    """o = int_to_fp32(i) of docs/numerics.md: one rounding.

    Latency: ``delay`` = 4 cycles. Throughput: one result a cycle. Flow control: none; valid travels beside the data.

    Parameters
    ----------
    width : int    bits of the signed operand, 2 to 64

    Members
    -------
    i : In(signed(width))    integer
    o : Out(32)              FP32 bits
    """

    delay = 4

    def __init__(self, *, width):
        if not 2 <= width <= 64:
            raise ValueError(f"width must be from 2 to 64, not {width}")
        self.width = width
        super().__init__({"i": In(signed(width)), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        room = max(26, self.width)  # at least significand, guard and sticky
        steps = [1 << n for n in reversed(range((self.width - 1).bit_length()))]

        # Stage 1: magnitude, at the top of the word.
        magnitude = Signal(self.width)
        m.d.comb += magnitude.eq(Mux(self.i[-1], -self.i, self.i))
        s1 = Signal(data.StructLayout({"value": room, "sign": 1}), reset_less=True)
        m.d.sync += [s1.value.eq(magnitude << (room - self.width)), s1.sign.eq(self.i[-1])]

        # Stages 2 and 3: normalise, by steps of 8 and more, then by the others.
        large, large_steps = normalise(m, s1.value, steps=[s for s in steps if s >= 8], name="large")
        s2 = Signal(data.StructLayout({"value": room, "zeros": len(large_steps), "sign": 1}), reset_less=True)
        m.d.sync += [s2.value.eq(large), s2.zeros.eq(large_steps), s2.sign.eq(s1.sign)]
        small, small_steps = normalise(m, s2.value, steps=[s for s in steps if s < 8], name="small")
        zeros = Cat(small_steps, s2.zeros)
        s3 = Signal(data.StructLayout({"value": room, "zeros": len(steps), "sign": 1, "round": 1}), reset_less=True)
        m.d.sync += [s3.value.eq(small), s3.zeros.eq(zeros), s3.sign.eq(s2.sign), s3.round.eq(round_up(small, keep=24))]

        # Stage 4: one carry chain rounds and completes the exponent, 127 + width - 1 - zeros.
        # Zero leaves the top bit clear.
        o = Signal(32, reset_less=True)
        base, change = Const(127 + self.width, 8), Cat(~s3.zeros, Const(-1, 8 - len(steps)))
        rounded = Cat(s3.round, s3.value[-24:-1], base) + Cat(s3.round, Const(0, 23), change)
        with m.If(s3.value[-1]):
            m.d.sync += o.eq(Cat(rounded[1:32], s3.sign))
        with m.Else():
            m.d.sync += o.eq(0)
        m.d.comb += self.o.eq(o)
        return m
