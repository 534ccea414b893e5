"""INT8 products of one activation and two weights: packed into one 18x18 multiplier, or in logic."""

from amaranth.hdl import Cat, Signal, signed, unsigned
from amaranth.lib import data

__all__ = ["PRODUCT_DELAY", "PRODUCT_WIDTH", "Multiples", "WeightPair", "multiples", "pack_weights", "packed_products",
           "logic_products"]

PRODUCT_DELAY = 2
PRODUCT_WIDTH = 15
"""Bits of a product: |activation| <= 127 (A8) and |weight| <= 128."""

PACK_SHIFT = 9
OVERLAP = PRODUCT_WIDTH - PACK_SHIFT

Multiples = data.StructLayout({"one": signed(8), "three": signed(10), "minus": signed(9)})
"""An activation's multiples that all lanes of a row share: a, 3a, -a."""

WeightPair = data.StructLayout({"low": signed(8), "high": signed(8), "packed": signed(18)})
"""Weights of two neighbouring lanes; packed = high * 2^9 + low."""


def multiples(a):
    """Expression for ``Multiples`` of the signed activation ``a``."""
    return Cat(a, (a + (a << 1))[:10], (-a)[:9])


def pack_weights(low, high):
    """Expression for a ``WeightPair``. One bit more than high takes the borrow of a negative low."""
    return Cat(low, high, low, low[7], (high - low[7])[:9])


def _digit(m, a, digit, *, width, negative=False):
    """a times a 2-bit digit of a weight, as a multiplexer; a ``negative`` one is the weight's top digit (-2..1)."""
    shape = signed(width) if width > 8 else unsigned(width)
    o = Signal(shape, name="digit")
    with m.Switch(digit):
        with m.Case(1):
            m.d.comb += o.eq(a.one)
        with m.Case(2):
            m.d.comb += o.eq((a.minus if negative else a.one) << 1)
        with m.Case(3):
            m.d.comb += o.eq(a.minus if negative else a.three)
    return o


def packed_products(m, a, pair):
    """Both products by one 18x18 multiplication. Latency: ``PRODUCT_DELAY``.

    T = a * packed = p_high * 2^9 + p_low. The low 9 bits of T are those of p_low; above them the top 6 bits of p_low
    lie over the bottom 6 of p_high. Those are computed apart: (a * high) mod 64 needs only the low bits of both. With
    the top of p_low biased by 32, so that it is not negative, one subtraction separates the two for good: the upper
    bits of the difference are p_high's, the lower ones p_low's.
    """
    # Stage 1: the multiplier's output register.
    t = Signal(signed(PACK_SHIFT + PRODUCT_WIDTH), reset_less=True, name="packed_product")
    m.d.sync += t.eq(a.one * pair.packed)
    digits = [_digit(m, a, pair.high[2 * i:2 * i + 2], width=OVERLAP - 2 * i) for i in range(OVERLAP // 2)]
    middle = Signal(OVERLAP - 2, name="middle")
    top = Signal(OVERLAP - 4, name="top")
    overlap = Signal(OVERLAP, reset_less=True, name="overlap")
    m.d.comb += [middle.eq(digits[0][2:] + digits[1]), top.eq(middle[2:] + digits[2])]
    m.d.sync += overlap.eq(Cat(digits[0][:2], middle[:2], top))

    # Stage 2: overlap - 32 is overlap with its top bit inverted, as a signed number.
    split = Signal(PRODUCT_WIDTH, name="split")
    bias = Cat(overlap[:-1], ~overlap[-1]).as_signed()
    m.d.comb += split.eq(t[PACK_SHIFT:].as_signed() - bias)
    low = Signal(signed(PRODUCT_WIDTH), reset_less=True, name="low_product")
    high = Signal(signed(PRODUCT_WIDTH), reset_less=True, name="high_product")
    m.d.sync += [
        low.eq(Cat(t[:PACK_SHIFT], split[:OVERLAP - 1], ~split[OVERLAP - 1]).as_signed()),
        high.eq(Cat(overlap, split[OVERLAP:]).as_signed()),
    ]
    return low, high


def logic_products(m, a, pair):
    """Both products by adders and multiplexers alone, written so that no tool takes a multiplier. Same latency."""
    return _logic_product(m, a, pair.low), _logic_product(m, a, pair.high)


def _logic_product(m, a, weight):
    digits = [_digit(m, a, weight[2 * i:2 * i + 2], width=10, negative=i == 3) for i in range(4)]
    low = Signal(signed(13), reset_less=True, name="low_half")
    high = Signal(signed(12), reset_less=True, name="high_half")
    product = Signal(signed(PRODUCT_WIDTH), reset_less=True, name="product")
    m.d.sync += [
        low.eq(digits[0] + (digits[1] << 2)), high.eq(digits[2] + (digits[3] << 2)),
        product.eq(low + (high << 4)),
    ]
    return product
