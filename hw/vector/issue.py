"""Slot by slot through a vector command: what enters the lanes in which cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Dest, Opcode, Reduce, layout

__all__ = ["SlotIssue", "slot_layout"]

PACKED_GAP = 3
"""Idle slots after a row with PACKED destination, so that short rows leave the write port time for their scales."""


def slot_layout(lanes):
    """What travels beside a slot of ``lanes`` elements: ``row_end`` the row's last slot, ``keep`` elements below n that
    the command's mask keeps (the others become zero). Raises ValueError for a number of lanes that the vector unit
    cannot have."""
    if lanes not in (1, 2, 4, 8):
        raise ValueError(f"lanes = {lanes}: must be a power of two from 1 to 8")
    return data.StructLayout({"valid": 1, "row_end": 1, "keep": lanes})


class SlotIssue(wiring.Component):
    """Sends the elements of a command into the lanes, ``lanes`` a cycle, as their operands arrive.

    Rows follow each other without a gap, except where a reduction must first finish (its tail) or packed output needs
    the write port. With SUM, slots come at most every ``reducer.interval`` cycles.

    Parameters
    ----------
    lanes, group_words : int    elements of a slot, words of a group
    reducer : Reducer           states its tails and its interval

    Members
    -------
    command : In(layout(Opcode.VECTOR))    held while the command runs
    start : In(1)       begin with the command
    arrived : In(1)     a group has all its operands
    slot : Out          slot_layout(lanes): the slot taken in this cycle
    busy : Out(1)       slots of the command are still to come
    """

    def __init__(self, *, lanes, group_words, reducer):
        self._lanes, self._words, self._reducer = lanes, group_words, reducer
        super().__init__({
            "command": In(layout(Opcode.VECTOR)), "start": In(1), "arrived": In(1),
            "slot": Out(slot_layout(lanes)), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        command, slot = self.command, self.slot
        phases = self._words // self._lanes
        groups, phase = Signal(16), Signal(range(phases))
        rows, left = Signal(16), Signal(16)  # left: elements of this row up to n
        wait = Signal(range(self._longest_wait() + 1))

        group_end = Signal()
        m.d.comb += [
            slot.valid.eq(self.busy & (groups != 0) & (wait == 0)),
            slot.row_end.eq(~self._more_than(left, self._lanes)),
            group_end.eq(slot.valid & (slot.row_end | (phase == phases - 1))),
        ]
        m.d.sync += groups.eq(groups + self.arrived - group_end)

        m.d.comb += slot.keep.eq(self._mask(m) & Cat(self._more_than(left, lane) for lane in range(self._lanes)))
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(slot.valid):
            m.d.sync += [
                phase.eq(Mux(group_end, 0, phase + 1)),
                left.eq(left - self._lanes),
                wait.eq(Mux(command.reduce == Reduce.SUM, self._reducer.interval - 1, 0)),
            ]
            with m.If(slot.row_end):
                m.d.sync += [
                    left.eq(command.n), rows.eq(rows - 1), self.busy.eq(rows != 1), wait.eq(self._row_wait()),
                ]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), rows.eq(command.rows), left.eq(command.n)]
        return m

    def _mask(self, m):
        """Elements of the slot that lie between first and valid, or outside of them where a window goes over its end.

        Counters of this row, and ahead of them the next row's limits, so that rows of one slot may follow each other.
        """
        command, slot, lanes = self.command, self.slot, range(self._lanes)
        bounded, primed, step = Signal(), Signal(), Signal()
        valid, first = Signal(16, reset_less=True), Signal(16, reset_less=True)
        valid_left = Signal(signed(17), reset_less=True)
        first_left, over_end = Signal(signed(16), reset_less=True), Signal(reset_less=True)
        stepped = Signal(16)
        m.d.comb += [
            bounded.eq((command.first != 0) | (command.ring != 0)),
            stepped.eq(first + Mux(bounded, command.valid_step, 0)),
            step.eq(primed | (slot.valid & slot.row_end)),
        ]
        m.d.sync += primed.eq(self.start)
        with m.If(slot.valid):
            m.d.sync += valid_left.eq(valid_left - self._lanes)
            with m.If(~first_left[-1]):
                m.d.sync += first_left.eq(first_left - self._lanes)
        with m.If(step):
            m.d.sync += [
                valid_left.eq(valid), first_left.eq(first), over_end.eq(~first[-1] & ~(first < valid)),
                valid.eq(valid + command.valid_step), first.eq(stepped),
            ]
            with m.If((command.ring != 0) & (valid == command.ring)):
                m.d.sync += valid.eq(Mux(command.valid_step[0], 1, valid))
            with m.If(stepped == command.ring):  # without a ring this changes nothing
                m.d.sync += first.eq(0)
        with m.If(self.start):
            m.d.sync += [valid.eq(command.valid), first.eq(Mux(bounded, command.first, ~0))]
        early = Cat(~valid_left[-1] & self._more_than(valid_left[:-1], lane) for lane in lanes)
        late = Cat(first_left[-1] | ~self._more_than(first_left[:-1], lane) for lane in lanes)
        return Mux(over_end, early | late, early & late)

    @staticmethod
    def _more_than(count, limit):
        """``count > limit`` without a carry chain; count is unsigned."""
        low = limit.bit_length()
        return count[low:].any() | (count[:low] > limit)

    def _longest_wait(self):
        return max(self._reducer.tail_sum_short, self._reducer.tail_max, PACKED_GAP + 1)

    def _row_wait(self):
        """Idle cycles after a row's last slot."""
        reducer, command = self._reducer, self.command
        tail_sum = Mux(command.n < 32, reducer.tail_sum_short - 1, reducer.tail_sum - 1)
        tail_max = max(reducer.tail_max - 1, PACKED_GAP)
        return Mux(command.reduce == Reduce.SUM, tail_sum,
                   Mux(command.reduce != Reduce.NONE, tail_max,
                       Mux(command.dest == Dest.PACKED, PACKED_GAP, 0)))
