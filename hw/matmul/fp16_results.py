"""From held FP16 sums to results: rounds a tile's sums one after the other and gathers them."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .fp16_array import Fp16Array, exact_sum
from .fp16_round import RoundSum

__all__ = ["Fp16Results"]


class Fp16Results(wiring.Component):
    """Takes the sums of a finished tile, ``round_lanes`` a cycle, rounds them and puts ``outputs`` into a result each.

    A tile takes (rows in use) * lanes / round_lanes steps, in the order of rows, then columns. They start when its sums
    are held, the result buffer has room for all of its results and ``hold`` is low; the next tile is summed up
    meanwhile.

    Parameters
    ----------
    rows, lanes : int   FP16 PEs
    round_lanes : int   sums rounded a cycle, a divisor of ``outputs``
    outputs : int       words of a result, a divisor of ``lanes``
    depth : int         most products of a sum
    results : int       entries of the result buffer
    array_delay : int   cycles from a beat's issue until the array holds its sums

    Members
    -------
    tile_end : In(1), last_row : In     last beat of a tile is issued; the last row in use
    room : Out(1)                       a tile's last beat may be issued
    hold : In(1)                        results before these are on their way: start no tile
    settled : Out(1)                    all results of tiles that ended had been given out a cycle ago
    step, step_row, step_column, sums   to Fp16Array
    result_valid, result : Out          [outputs] FP32, always taken
    free : In, claim : Out(1)           free entries of the result buffer; one of them is claimed
    """

    def __init__(self, *, rows, lanes, round_lanes, outputs, depth, results, array_delay):
        if lanes % outputs or outputs % round_lanes:
            raise ValueError(f"outputs must divide lanes = {lanes} and be a multiple of round_lanes = {round_lanes}, "
                             f"not {outputs!r}")
        if results * outputs < rows * lanes:
            raise ValueError(f"results must be at least rows * lanes / outputs = {rows * lanes // outputs}, "
                             f"not {results!r}")
        self._rows, self._lanes, self._round_lanes, self._outputs = rows, lanes, round_lanes, outputs
        self._depth, self._array_delay = depth, array_delay
        super().__init__({
            "tile_end": In(1), "last_row": In(range(rows)), "room": Out(1), "hold": In(1), "settled": Out(1),
            "step": Out(1), "step_row": Out(range(rows)), "step_column": Out(range(lanes // round_lanes)),
            "sums": In(exact_sum(depth).size * round_lanes),
            "result_valid": Out(1), "result": Out(32 * outputs),
            "free": In(range(results + 1)), "claim": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        steps = self._rows * self._lanes // self._round_lanes
        column_bits = exact_log2(self._lanes // self._round_lanes)
        part_bits = exact_log2(self._outputs // self._round_lanes)   # steps of a result
        position = Signal(range(max(steps, 2)))
        remaining = Signal(range(steps + 1))
        last_row = Signal.like(self.last_row, reset_less=True)
        outstanding, arrived, start = Signal(), Signal(), Signal()  # a tile ended; its sums are about to be held
        arriving = Signal(self._array_delay - 3)   # the first step selects sums in the second cycle after the start
        needed = (last_row + 1) << exact_log2(self._lanes // self._outputs)
        m.d.comb += [
            start.eq(arrived & (remaining == 0) & ~self.hold & (self.free >= needed)),
            self.step.eq(remaining != 0),
            self.step_row.eq(position >> column_bits), self.step_column.eq(position[:column_bits]),
            self.claim.eq(self.step & (position[:part_bits] == 0)),
        ]
        m.d.sync += arriving.eq(Cat(self.tile_end, arriving))
        with m.If(arriving[-1]):
            m.d.sync += arrived.eq(1)
        with m.If(self.tile_end):
            m.d.sync += [outstanding.eq(1), last_row.eq(self.last_row)]
        with m.If(self.step):
            m.d.sync += [remaining.eq(remaining - 1), position.eq(position + 1)]
        with m.If(start):
            m.d.sync += [
                outstanding.eq(0), arrived.eq(0), position.eq(0), remaining.eq((last_row + 1) << column_bits)]
        # Steps never wait, and held sums may change from the second cycle after the last one on. A beat issued in the
        # next cycle changes them array_delay cycles after that, so array_delay steps may be left, if no tile waits.
        m.d.sync += self.room.eq(~outstanding & ~self.tile_end & (remaining <= self._array_delay))
        m.d.sync += self.settled.eq(~self._build_results(m, position[:part_bits]) & ~outstanding & ~self.step)
        return m

    def _build_results(self, m, part):
        """Round, and gather the parts of a result. Returns whether a step's sums are on their way."""
        words = 32 * self._round_lanes
        last_part = part.all() if len(part) else 1
        steps, ends = (Signal(Fp16Array.step_delay + RoundSum.delay, name=name) for name in ("steps", "ends"))
        m.d.sync += [steps.eq(Cat(self.step, steps)), ends.eq(Cat(self.step & last_part, ends))]
        rounded = Signal(words)
        for j in range(self._round_lanes):
            m.submodules[f"round_{j}"] = lane = RoundSum(depth=self._depth)
            m.d.comb += [lane.sum.eq(self.sums.word_select(j, exact_sum(self._depth).size)),
                         rounded.word_select(j, 32).eq(lane.o)]
        earlier = Signal(32 * self._outputs - words, reset_less=True)
        m.d.comb += [self.result.eq(Cat(earlier, rounded)), self.result_valid.eq(ends[-1])]
        with m.If(steps[-1]):
            m.d.sync += earlier.eq(self.result >> words)
        return steps.any()
