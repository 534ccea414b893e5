"""The FP16 part of the PE array: fp16_rows x lanes / 2 multiply-accumulators of exact sums, in fixed point."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..fp.normalise import FP16
from .sums import delayed, held_sum, shown_sum, step_sums, sum_control

__all__ = ["Operand", "decode", "exact_sum", "Fp16Row", "Fp16Array"]

PRODUCT_BITS = 80
"""A finite FP16 number is an integer below 2^40 times 2^-24; so a product has 80 bits, the lowest worth 2^-48."""

Operand = data.StructLayout({"significand": 18, "high": 2, "sign": 1, "zero_or_nan": 1, "special": 1})
"""A decoded FP16 number: significand * 2^(8 * high - 24), shared by all PEs of its row or lane. ``special`` is an
infinity or NaN; NaN is also ``zero_or_nan``, so that a special product is NaN where either operand is."""

_SHIFTED = 44   # a product of significands, moved by one byte at most


def decode(bits):
    """Expression for the ``Operand`` of FP16 ``bits``."""
    x = data.View(FP16, bits)
    normal, top = x.exponent.any(), x.exponent.all()
    shift = (x.exponent - normal)[:5]  # of the significand as an integer; what it is for a special does not matter
    significand = (Cat(x.fraction, normal) << shift[:3])[:18]
    return Cat(significand, shift[3:], x.sign, Mux(top, x.fraction.any(), ~normal & ~x.fraction.any()), top)


def exact_sum(depth):
    """Layout of a sum of up to ``depth`` products: two's complement in units of 2^-48, and whether +infinity and
    -infinity were among them; both after a NaN."""
    return data.StructLayout({"value": PRODUCT_BITS + ceil_log2(depth) + 1, "positive": 1, "negative": 1})


class Fp16Row(wiring.Component):
    """The PEs of one row. A sum never rounds and never overflows, so its order does not matter.

    A PE multiplies the significands (18 x 18 bits, one multiplier primitive), moves the product by ``high`` bytes of
    both operands and adds it, inverted for a negative one, in one carry chain.

    Latency: products are added ``PRODUCT_DELAY`` cycles after their operands came; the caller delays ``valid`` and
    ``last`` by a cycle less. A held sum is in ``sums`` the cycle after its ``select``; it is zero where not selected,
    so that rows and columns are joined by OR.

    Parameters
    ----------
    lanes : int   PEs
    depth : int   most products of a sum

    Members
    -------
    activation : In(Operand)      operand of all lanes
    weights : In                  [lanes] Operand, as plain bits
    valid : In(1)                 add the products
    last : In(1)                  with ``valid``: hand the sum over to the holding register
    select : In(lanes)            held sums to show
    sums : Out                    [lanes] exact_sum(depth), as plain bits
    """

    PRODUCT_DELAY = 3

    def __init__(self, *, lanes, depth):
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes!r}")
        self._lanes, self._layout = lanes, exact_sum(depth)
        super().__init__({
            "activation": In(Operand), "weights": In(Operand.size * lanes),
            "valid": In(1), "last": In(1), "select": In(lanes),
            "sums": Out(self._layout.size * lanes),
        })

    def elaborate(self, platform):
        m = Module()
        layout = self._layout
        add, last, clear = sum_control(m, valid=self.valid, last=self.last)
        for lane in range(self._lanes):
            term = self._build_product(m, data.View(Operand, self.weights.word_select(lane, Operand.size)))
            total, accumulator, held = held_sum(m, layout, add=add, last=last, clear=clear, name=lane)
            shown = shown_sum(m, held, select=self.select[lane], name=lane)
            width = layout["value"].width
            extended = Cat(term.value, term.sign.replicate(width - PRODUCT_BITS))
            m.d.comb += [
                # A negative term is inverted; its + 1 is the carry into the chain.
                total.value.eq((Cat(1, accumulator.value) + Cat(term.sign, extended))[1:]),
                total.positive.eq(accumulator.positive | term.positive),
                total.negative.eq(accumulator.negative | term.negative),
                self.sums.word_select(lane, layout.size).eq(shown),
            ]
        return m

    def _build_product(self, m, weight):
        """One PE's product, in place and inverted where negative."""
        a = self.activation
        flags = {"sign": 1, "positive": 1, "negative": 1}

        # Stage 1: the multiplier's output register; how far to move; infinity and NaN.
        s1 = Signal(data.StructLayout({"product": 36, "high": 3, **flags}), reset_less=True, name="product")
        special = Signal(name="special")
        m.d.comb += special.eq(a.special | weight.special)
        nan, sign = a.zero_or_nan | weight.zero_or_nan, a.sign ^ weight.sign
        m.d.sync += [
            s1.product.eq(a.significand * weight.significand), s1.high.eq(a.high + weight.high), s1.sign.eq(sign),
            s1.positive.eq(special & (nan | ~sign)), s1.negative.eq(special & (nan | sign)),
        ]

        # Stage 2: by no byte or one, and inverted.
        s2 = Signal(data.StructLayout({"value": _SHIFTED, "pairs": 2, **flags}), reset_less=True, name="moved")
        m.d.sync += [
            s2.value.eq(Mux(s1.high[0], s1.product << 8, s1.product) ^ s1.sign.replicate(_SHIFTED)),
            s2.pairs.eq(s1.high[1:]), *(s2[name].eq(s1[name]) for name in flags),
        ]

        # Stage 3: by pairs of bytes. What comes in at both ends is the sign, as all is inverted.
        s3 = Signal(data.StructLayout({"value": PRODUCT_BITS, **flags}), reset_less=True, name="term")
        places = Array(
            Cat(s2.sign.replicate(16 * pairs), s2.value, s2.sign.replicate(PRODUCT_BITS))[:PRODUCT_BITS]
            for pairs in range(4))
        m.d.sync += [
            s3.value.eq(places[s2.pairs]),
            *(s3[name].eq(s2[name]) for name in flags),
        ]
        return s3


class Fp16Array(wiring.Component):
    """``rows`` x ``lanes`` PEs. Each beat multiplies one activation a row by one weight a lane into every PE's sum.

    Latency: the sums are held ``delay`` cycles after their last beat, and until the next ones. A step reads the sums
    held in the cycle after it, of ``outputs`` neighbouring lanes of one row; ``sums`` has them ``step_delay`` cycles
    after the step.
    Throughput: a beat and a step a cycle. Flow control: none; a cycle without ``valid`` is a bubble.

    Parameters
    ----------
    rows, lanes : int   PEs, one multiplier primitive each
    outputs : int       sums read a step; a divisor of lanes
    depth : int         most beats of a sum

    Members
    -------
    valid, last : In(1)                  a beat; the last one of its sums
    activations : In(16 * rows)          FP16, row 0 lowest
    weights : In(16 * lanes)             FP16, lane 0 lowest
    step, step_row, step_column : In     read the sums of lanes step_column * outputs + j
    sums : Out                           [outputs] exact_sum(depth), as plain bits
    """

    delay = 2 + Fp16Row.PRODUCT_DELAY
    step_delay = 3

    def __init__(self, *, rows, lanes, outputs, depth):
        if rows < 1:
            raise ValueError(f"rows must be at least 1, not {rows!r}")
        if outputs < 1 or lanes % outputs:
            raise ValueError(f"outputs must divide lanes = {lanes}, not {outputs!r}")
        self._rows, self._lanes, self._outputs, self._depth = rows, lanes, outputs, depth
        self._sum_bits = exact_sum(depth).size
        super().__init__({
            "valid": In(1), "last": In(1), "activations": In(16 * rows), "weights": In(16 * lanes),
            "step": In(1), "step_row": In(range(rows)), "step_column": In(range(lanes // outputs)),
            "sums": Out(self._sum_bits * outputs),
        })

    def elaborate(self, platform):
        m = Module()
        valid, last = delayed(m, valid=self.valid, last=self.last, product_delay=Fp16Row.PRODUCT_DELAY)
        # Stage 1: operands, decoded once for all rows or all lanes.
        weights = Signal(Operand.size * self._lanes, reset_less=True)
        for lane in range(self._lanes):
            m.d.sync += weights.word_select(lane, Operand.size).eq(decode(self.weights.word_select(lane, 16)))
        rows = []
        for i in range(self._rows):
            m.submodules[f"row_{i}"] = row = Fp16Row(lanes=self._lanes, depth=self._depth)
            activation = Signal(Operand, reset_less=True, name=f"activation_{i}")
            rows.append(row)
            m.d.sync += activation.eq(decode(self.activations.word_select(i, 16)))
            m.d.comb += [
                row.activation.eq(activation), row.weights.eq(weights),
                row.valid.eq(valid), row.last.eq(last),
            ]
        step_sums(m, rows, self.sums, step=self.step, step_row=self.step_row, step_column=self.step_column,
                  outputs=self._outputs)
        return m
