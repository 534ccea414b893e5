"""The PE array: rows x lanes multiply-accumulators of exact block sums."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .products import PRODUCT_DELAY, Multiples, WeightPair, logic_products, multiples, pack_weights, packed_products
from .sums import any_of, delayed, held_sum, shown_sum, step_sums, sum_control

__all__ = ["SUM_WIDTH", "PeRow", "ActivationSums", "PeArray"]

SUM_WIDTH = 20
"""Bits of a block sum: 32 * 127 * 128 < 2^19."""

ROW_SUM_WIDTH = 13
"""Bits of the sum of a block's activations: 32 * 127 < 2^12."""


class PeRow(wiring.Component):
    """The PEs of one row: products, block sums, holding registers.

    Latency: products are added ``PRODUCT_DELAY`` cycles after their operands came; the caller delays ``valid`` and
    ``last`` by a cycle less. A held sum is in ``sums`` the cycle after its ``select``; it is zero where not selected,
    so that rows and columns are joined by OR.

    Parameters
    ----------
    lanes : int       PEs, even
    dsp_pairs : int   pairs of lanes that share a multiplier primitive, from lane 0 on; the rest is logic

    Members
    -------
    activation : In(Multiples)    operand of all lanes
    weights : In                  [lanes / 2] WeightPair, as plain bits
    valid : In(1)                 add the products
    last : In(1)                  with ``valid``: hand the sum over to the holding register
    select : In(lanes)            held sums to show
    sums : Out(20 * lanes)        signed
    """

    def __init__(self, *, lanes, dsp_pairs):
        if lanes < 2 or lanes % 2:
            raise ValueError(f"lanes must be even and at least 2, not {lanes!r}")
        if not 0 <= dsp_pairs <= lanes // 2:
            raise ValueError(f"dsp_pairs must be from 0 to lanes / 2 = {lanes // 2}, not {dsp_pairs!r}")
        self._lanes, self._dsp_pairs = lanes, dsp_pairs
        super().__init__({
            "activation": In(Multiples), "weights": In(WeightPair.size * lanes // 2),
            "valid": In(1), "last": In(1), "select": In(lanes), "sums": Out(SUM_WIDTH * lanes),
        })

    def elaborate(self, platform):
        m = Module()
        products = []
        for pair in range(self._lanes // 2):
            build = packed_products if pair < self._dsp_pairs else logic_products
            weights = data.View(WeightPair, self.weights.word_select(pair, WeightPair.size))
            products += build(m, self.activation, weights)
        add, last, clear = sum_control(m, valid=self.valid, last=self.last)
        for lane, product in enumerate(products):
            total, accumulator, held = held_sum(m, signed(SUM_WIDTH), add=add, last=last, clear=clear, name=lane)
            shown = shown_sum(m, held, select=self.select[lane], name=lane)
            m.d.comb += [total.eq(accumulator + product), self.sums.word_select(lane, SUM_WIDTH).eq(shown)]
        return m


class ActivationSums(wiring.Component):
    """The activations of each row added up over a block, beside the PEs: operand of the minimum of INT4 blocks.

    Latency: as ``PeRow``'s from ``activations`` and ``select``, but that the rows are joined already.

    Parameters
    ----------
    rows : int

    Members
    -------
    activations : In(8 * rows)          INT8 operands, as the PEs have them
    valid, last : In(1)                 as in ``PeRow``
    select : In(rows)                   held sum to show; none: zero
    sum : Out(signed(13))
    """

    def __init__(self, *, rows):
        self._rows = rows
        super().__init__({
            "activations": In(8 * rows), "valid": In(1), "last": In(1), "select": In(rows),
            "sum": Out(signed(ROW_SUM_WIDTH)),
        })

    def elaborate(self, platform):
        m = Module()
        operands = self.activations
        for stage in range(PRODUCT_DELAY):
            later = Signal.like(operands, name=f"operands_{stage}", reset_less=True)
            m.d.sync += later.eq(operands)
            operands = later
        add, last, clear = sum_control(m, valid=self.valid, last=self.last)
        parts = []
        for i in range(self._rows):
            total, accumulator, held = held_sum(m, signed(ROW_SUM_WIDTH), add=add, last=last, clear=clear, name=i)
            m.d.comb += total.eq(accumulator + operands.word_select(i, 8).as_signed())
            parts.append(Mux(self.select[i], held, 0))
        shown = Signal(signed(ROW_SUM_WIDTH), reset_less=True)
        m.d.sync += shown.eq(any_of(parts))
        m.d.comb += self.sum.eq(shown)
        return m


class PeArray(wiring.Component):
    """``rows`` x ``lanes`` PEs. Each beat multiplies one activation a row by one weight a lane into every PE's block
    sum.

    Latency: the block sums are held ``delay`` cycles after the block's last beat, and until the next block's. A step
    reads the sums held in the cycle after it, of ``outputs`` neighbouring lanes of one row; ``sums`` has them
    ``step_delay`` cycles after the step.
    Throughput: a beat and a step a cycle. Flow control: none; a cycle without ``valid`` is a bubble.

    Parameters
    ----------
    rows, lanes : int   PEs
    outputs : int       sums read a step; a divisor of lanes
    dsps : int          multiplier primitives used, two lanes each, from row 0 on; the rest is logic
    minimum : bool      sums of the activations too

    Members
    -------
    valid, last : In(1)                  a beat; the last one of its block
    activations : In(8 * rows)           INT8, row 0 lowest
    weights : In(8 * lanes)              INT8, lane 0 lowest
    step, step_row, step_column : In     read the sums of lanes step_column * outputs + j
    step_minimum : In(1)                 with ``minimum``: instead of them the sum of the row's activations, for each j
    sums : Out(20 * outputs)             signed
    """

    delay = 2 + PRODUCT_DELAY
    step_delay = 3

    def __init__(self, *, rows, lanes, outputs, dsps, minimum=False):
        if rows < 1:
            raise ValueError(f"rows must be at least 1, not {rows!r}")
        if outputs < 1 or lanes % outputs:
            raise ValueError(f"outputs must divide lanes = {lanes}, not {outputs!r}")
        if not 0 <= dsps <= rows * lanes // 2:
            raise ValueError(f"dsps must be from 0 to rows * lanes / 2 = {rows * lanes // 2}, not {dsps!r}")
        self._rows, self._lanes, self._outputs, self._dsps = rows, lanes, outputs, dsps
        self._minimum = minimum
        super().__init__({
            "valid": In(1), "last": In(1), "activations": In(8 * rows), "weights": In(8 * lanes),
            "step": In(1), "step_row": In(range(rows)), "step_column": In(range(lanes // outputs)),
            **({"step_minimum": In(1)} if minimum else {}),
            "sums": Out(SUM_WIDTH * outputs),
        })

    def elaborate(self, platform):
        m = Module()
        valid, last = delayed(m, valid=self.valid, last=self.last, product_delay=PRODUCT_DELAY)
        # Stage 1: operands; what all rows or all lanes share is computed here.
        weights = Signal(WeightPair.size * self._lanes // 2, reset_less=True)
        for pair in range(self._lanes // 2):
            low, high = (self.weights.word_select(2 * pair + i, 8).as_signed() for i in range(2))
            m.d.sync += weights.word_select(pair, WeightPair.size).eq(pack_weights(low, high))
        rows, operands = [], []
        for i in range(self._rows):
            pairs = self._lanes // 2
            m.submodules[f"row_{i}"] = row = PeRow(
                lanes=self._lanes, dsp_pairs=min(max(self._dsps - i * pairs, 0), pairs))
            activation = Signal(Multiples, reset_less=True, name=f"activation_{i}")
            rows.append(row)
            operands.append(activation.one)
            m.d.sync += activation.eq(multiples(self.activations.word_select(i, 8).as_signed()))
            m.d.comb += [
                row.activation.eq(activation), row.weights.eq(weights),
                row.valid.eq(valid), row.last.eq(last),
            ]
        step, beside = self.step, []
        if self._minimum:
            m.submodules.activation_sums = sums = ActivationSums(rows=self._rows)
            select = Signal(self._rows, reset_less=True)
            m.d.sync += select.eq(Mux(self.step & self.step_minimum, 1 << self.step_row, 0))
            m.d.comb += [sums.activations.eq(Cat(operands)), sums.valid.eq(valid), sums.last.eq(last),
                         sums.select.eq(select)]
            row_sum = Signal(signed(SUM_WIDTH))
            m.d.comb += row_sum.eq(sums.sum)
            step, beside = self.step & ~self.step_minimum, [row_sum]
        step_sums(m, rows, self.sums, step=step, step_row=self.step_row, step_column=self.step_column,
                  outputs=self._outputs, beside=beside)
        return m
