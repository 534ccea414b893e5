"""FP32 multiplier."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .normalise import FP32

__all__ = ["FP32Multiply"]

LOW = 6  # low bits split off the 24-bit significand, so that the high part fits an 18-bit multiplier


def _rows(x, y):
    """x * y without a multiplier: one shifted row of x a bit of y, added in pairs. Returns the sums of the pairs."""
    rows = [Mux(bit, x, 0) << i for i, bit in enumerate(y)]
    return [low + high for low, high in zip(rows[::2], rows[1::2], strict=True)]


class FP32Multiply(wiring.Component):
    """o = mul(a, b) of docs/numerics.md: one rounding to nearest even, subnormals count as zero and become zero.

    Latency: ``delay`` cycles (4, or 5 with ``dsps`` below 4). Throughput: one result a cycle. Flow control: none;
    valid travels beside the data.

    The significand product is 18 x 18, two 18 x 6 and one 6 x 6. ``dsps`` of them, the largest first, are 18 x 18
    multipliers; the others are shifted rows in logic. On ECP5 (a CCU2C counted as 2 LUTs) the unit takes 235 LUTs with
    4 multipliers, 325 with 3, 550 with 2, 770 with 1.

    Parameters
    ----------
    dsps : int    multiplier primitives, 1 to 4

    Members
    -------
    a, b : In(32)    operands, FP32 bits
    o : Out(32)      product, FP32 bits
    """

    def __init__(self, *, dsps=4):
        if not 1 <= dsps <= 4:
            raise ValueError(f"dsps must be from 1 to 4, not {dsps}")
        self.dsps = dsps
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    @property
    def delay(self):
        """Cycles from operands to result."""
        return 4 if self.dsps == 4 else 5

    def elaborate(self, platform):
        m = Module()
        exponent, sign, zero, inf, nan = self._decode(m)
        product = self._product(m)

        # Stage 2, beside the sum of products: what the exponent says for a product below 2 and for one of 2 or more.
        # exponent is biased by 128 more than the result's; a product of 2 or more counts one up.
        stage = data.StructLayout({"exponent": 8, "sign": 1, "zero": 1, "nan": 1, "under": 2, "over": 2})
        s2 = Signal(stage, reset_less=True)
        m.d.sync += [
            s2.exponent.eq(exponent - 128),
            s2.sign.eq(sign & ~nan),
            s2.zero.eq(zero),
            s2.nan.eq(nan),
            s2.under.eq(Cat(exponent <= 128, exponent < 128)),
            s2.over.eq(Cat((exponent >= 383) | inf, (exponent >= 382) | inf)),
        ]

        # Stage 3: pick the 23 fraction bits, the rounding bit, and the special results. 2^-126 is tested before
        # rounding; rounding up the largest number gives infinity's bits by itself.
        s3 = Signal(data.StructLayout({"fraction": 23, "exponent": 8, "sign": 1, "two": 1, "round": 1}),
                    reset_less=True)
        two = product[47]
        under = s2.zero | Mux(two, s2.under[1], s2.under[0])
        over = s2.nan | Mux(two, s2.over[1], s2.over[0])
        guard = Mux(two, product[23], product[22])
        odd = Mux(two, product[24], product[23])
        sticky = product[:22].any() | (two & product[22])
        m.d.sync += s3.sign.eq(s2.sign)
        with m.If(under | over):
            m.d.sync += [s3.fraction.eq(s2.nan << 22), s3.exponent.eq(Mux(over, 255, 0)), s3.two.eq(0), s3.round.eq(0)]
        with m.Else():
            m.d.sync += [
                s3.fraction.eq(Mux(two, product[24:47], product[23:46])),
                s3.exponent.eq(s2.exponent),
                s3.two.eq(two),
                s3.round.eq(guard & (odd | sticky)),
            ]

        # Stage 4: one carry chain rounds, counts the exponent up, and carries from fraction to exponent.
        o = Signal(32, reset_less=True)
        rounded = Cat(s3.round, s3.fraction, s3.exponent) + Cat(s3.round, s3.two << 23)
        m.d.sync += o.eq(Cat(rounded[1:32], s3.sign))
        m.d.comb += self.o.eq(o)
        return m

    def _decode(self, m):
        """Stage 1 (and one more where the product takes one): exponent sum + 1 and the operands' classes."""
        a, b = data.View(FP32, self.a), data.View(FP32, self.b)
        a_zero, b_zero = a.exponent == 0, b.exponent == 0
        a_top, b_top = a.exponent == 255, b.exponent == 255
        stage = data.StructLayout({"exponent": 9, "sign": 1, "zero": 1, "inf": 1, "nan": 1})
        s1 = Signal(stage, reset_less=True)
        m.d.sync += [
            s1.exponent.eq((Cat(1, a.exponent) + Cat(1, b.exponent))[1:]),  # the + 1 is the carry into the chain
            s1.sign.eq(a.sign ^ b.sign),
            s1.zero.eq(a_zero | b_zero),
            s1.inf.eq(a_top | b_top),
            s1.nan.eq((a_top & (a.fraction.any() | b_zero)) | (b_top & (b.fraction.any() | a_zero))),
        ]
        for _ in range(self.delay - 4):
            later = Signal(stage, reset_less=True)
            m.d.sync += later.eq(s1)
            s1 = later
        return s1.exponent, s1.sign, s1.zero, s1.inf, s1.nan

    def _product(self, m):
        """Stages 1 and 2: the 48-bit significand product. The hidden bit is always set: with a zero or a subnormal
        operand the product is not used."""
        a_low, a_high = self.a[:LOW], Cat(self.a[LOW:23], 1)
        b_low, b_high = self.b[:LOW], Cat(self.b[LOW:23], 1)
        parts = []
        for name, x, y in (
            ("hh", a_high, b_high), ("hl", a_high, b_low), ("lh", b_high, a_low), ("ll", a_low, b_low),
        ):
            part = Signal(len(x) + len(y), reset_less=True, name=name)
            if len(parts) < self.dsps:
                source = x * y
                if self.delay == 5:
                    source, early = Signal.like(part, name=f"{part.name}_early"), source
                    m.d.sync += source.eq(early)
            else:
                pairs = []
                for value in _rows(x, y):
                    pair = Signal(value.shape().width, reset_less=True, name=f"{part.name}_pair{len(pairs)}")
                    m.d.sync += pair.eq(value)
                    pairs.append(pair)
                source = sum(pairs[1:], start=pairs[0])
            m.d.sync += part.eq(source)
            parts.append(part)
        hh, hl, lh, ll = parts

        # Two carry chains in a row, the second of which starts while the first runs.
        middle = Signal(25)
        product = Signal(48, reset_less=True)
        m.d.comb += middle.eq(hl + lh)
        m.d.sync += product.eq(Cat(ll[:LOW], Cat(ll[LOW:], hh) + middle))
        return product
