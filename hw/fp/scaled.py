"""A block sum times its two scales."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .normalise import FP16, normalise, round_up

__all__ = ["ScaledSum"]

SUM_BITS = 20
"""Width of a block sum, signed: |S| < 2^19."""

_FLAGS = data.StructLayout({"sign": 1, "zero": 1, "inf": 1, "nan": 1})


class ScaledSum(wiring.Component):
    """term = s * (activation scale) * (weight scale), one rounding of the exact product ("Matmul with block scales" in
    docs/numerics.md).

    Latency: ``delay`` = 5 cycles. Throughput: one result a cycle. Flow control: none; valid travels beside the data.

    The product is magnitude (19 bits) * m (3) * weight significand (11). m and the significand are multiplied by two
    adds; one 18 x 18 multiplier and an add for the magnitude's top bit do the rest. Neither overflow nor a result below
    2^-126 exist: exponent fields lie between 79 and 203.

    Members
    -------
    s : In(signed(20))      block sum; -2^19 is not allowed
    code : In(8)            scale code of the activations (A8)
    weight_scale : In(16)   FP16 bits; subnormals kept, infinity and NaN as IEEE 754
    o : Out(32)             term, FP32 bits
    """

    delay = 5

    def __init__(self):
        super().__init__({"s": In(signed(SUM_BITS)), "code": In(8), "weight_scale": In(16), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        s1 = self._operands(m)

        # Stage 2: the 18-bit product; the magnitude's top bit waits with the factor.
        s2 = Signal(data.StructLayout({
            "product": 32, "factor": 14, "no_factor": 1, "exponent": 7, "flags": _FLAGS,
        }), reset_less=True)
        m.d.sync += [
            s2.product.eq(s1.magnitude[:18] * s1.factor),
            s2.factor.eq(Mux(s1.magnitude[18], s1.factor, 0)),
            s2.no_factor.eq(~s1.magnitude[18] | (s1.factor == 0)),
            s2.exponent.eq(s1.exponent),
            s2.flags.eq(s1.flags),
        ]

        # Stage 3: the 33-bit product with a zero above it, and the first step of normalising that, found beside the
        # add: a sum is zero where both addends are.
        product, step16 = Signal(34), Signal()
        m.d.comb += [
            product.eq(Cat(s2.product[:18], s2.product[18:] + s2.factor)),
            step16.eq(s2.no_factor & (s2.product[18:] == 0)),
        ]
        half = Mux(step16, Cat(Const(0, 16), product[:18]), product)
        s3 = Signal(data.StructLayout({"product": 34, "step16": 1, "exponent": 7, "flags": _FLAGS}), reset_less=True)
        m.d.sync += [
            s3.product.eq(half),
            s3.step16.eq(step16),
            s3.exponent.eq(s2.exponent),
            s3.flags.eq(s2.flags),
        ]

        # Stage 4: the other steps; fraction and rounding bit, or the special results. The exponent grows by 64 and the
        # steps not taken; the zero above makes the rest of its constant a power of two too (stage 1).
        shifted, zeros = normalise(m, s3.product, steps=(8, 4, 2, 1), name="product")
        s4 = Signal(data.StructLayout({
            "fraction": 23, "round": 1, "exponent": 8, "more": 7, "sign": 1,
        }), reset_less=True)
        m.d.sync += s4.sign.eq(s3.flags.sign)
        with m.If(s3.flags.zero | s3.flags.inf | s3.flags.nan):
            m.d.sync += [
                s4.fraction.eq(s3.flags.nan << 22),
                s4.round.eq(0),
                s4.exponent.eq(Mux(s3.flags.zero, 0, 255)),
                s4.more.eq(0),
            ]
        with m.Else():
            m.d.sync += [
                s4.fraction.eq(shifted[10:33]),
                s4.round.eq(round_up(shifted, keep=24)),
                s4.exponent.eq(s3.exponent),
                s4.more.eq(Cat(~zeros, ~s3.step16, 0, 1)),
            ]

        # Stage 5: one carry chain rounds and completes the exponent.
        o = Signal(32, reset_less=True)
        rounded = Cat(s4.round, s4.fraction, s4.exponent) + Cat(s4.round, Const(0, 23), s4.more)
        m.d.sync += o.eq(Cat(rounded[1:32], s4.sign))
        m.d.comb += self.o.eq(o)
        return m

    def _operands(self, m):
        """Stage 1: magnitude of the sum, m times the weight's significand, exponents, signs and classes.

        The product P counts in 2^(e + 22 + max(E, 1) - 49), with e + 22 in the code's upper bits and E the weight's
        exponent field. With its top bit at 32 - z of 33, z + 1 steps are taken, and the result's exponent field is
        e + 22 + max(E, 1) + 110 - z = (e + 22 + max(E, 1) + 16) + 64 + (31 - (z + 1)).
        """
        weight = data.View(FP16, self.weight_scale)
        hidden, top = weight.exponent.any(), weight.exponent == 31
        significand = Cat(weight.fraction, hidden)
        no_sum, no_fraction = self.s == 0, ~weight.fraction.any()
        infinite, nan = top & no_fraction & ~no_sum, top & (~no_fraction | no_sum)
        zero = ~top & (no_sum | (~hidden & no_fraction))
        s1 = Signal(data.StructLayout({
            "magnitude": 19, "factor": 14, "exponent": 7, "flags": _FLAGS,
        }), reset_less=True)
        m.d.sync += [
            s1.magnitude.eq(Mux(self.s[-1], -self.s, self.s)),
            s1.factor.eq((significand << 2) + (Mux(self.code[1], significand, 0) << 1)
                         + Mux(self.code[0], significand, 0)),
            s1.exponent.eq(self.code[2:] + Cat(weight.exponent[0] | ~hidden, weight.exponent[1:4],
                                               ~weight.exponent[4], weight.exponent[4])),
            s1.flags.zero.eq(zero),
            s1.flags.inf.eq(infinite),
            s1.flags.nan.eq(nan),
            s1.flags.sign.eq((self.s[-1] ^ weight.sign) & ~zero & ~nan),
        ]
        return s1
