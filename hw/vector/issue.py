"""Slot by slot through a vector command: what enters the lanes in which cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Dest, Opcode, Reduce, layout

__all__ = ["SlotIssue", "slot_layout"]

PACKED_GAP = 3
"""Idle slots after a row with PACKED destination, so that short rows leave the write port time for their scales."""


def slot_layout(lanes):
    """What travels beside a slot of ``lanes`` elements: ``row_end`` the row's last slot, ``keep`` elements below both
    n and valid (the others become zero). Raises ValueError for a number of lanes that the vector unit cannot have."""
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
        rows, row_valid = Signal(16), Signal(16)
        left, valid_left = Signal(16), Signal(signed(17))  # elements of this row up to n, up to valid
        wait = Signal(range(self._longest_wait() + 1))

        group_end = Signal()
        m.d.comb += [
            slot.valid.eq(self.busy & (groups != 0) & (wait == 0)),
            slot.row_end.eq(left <= self._lanes),
            slot.keep.eq(Cat((left > lane) & (valid_left > lane) for lane in range(self._lanes))),
            group_end.eq(slot.valid & (slot.row_end | (phase == phases - 1))),
        ]
        m.d.sync += groups.eq(groups + self.arrived - group_end)

        next_valid = Signal(16)
        m.d.comb += next_valid.eq(row_valid + command.valid_step)
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(slot.valid):
            m.d.sync += [
                phase.eq(Mux(group_end, 0, phase + 1)),
                left.eq(left - self._lanes),
                valid_left.eq(valid_left - self._lanes),
                wait.eq(Mux(command.reduce == Reduce.SUM, self._reducer.interval - 1, 0)),
            ]
            with m.If(slot.row_end):
                m.d.sync += [
                    left.eq(command.n), valid_left.eq(next_valid), row_valid.eq(next_valid),
                    rows.eq(rows - 1), self.busy.eq(rows != 1), wait.eq(self._row_wait()),
                ]
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1), rows.eq(command.rows), left.eq(command.n),
                row_valid.eq(command.valid), valid_left.eq(command.valid),
            ]
        return m

    def _longest_wait(self):
        return max(self._reducer.tail_sum_short, self._reducer.tail_max, PACKED_GAP + 1)

    def _row_wait(self):
        """Idle cycles after a row's last slot."""
        reducer, command = self._reducer, self.command
        tail_sum = Mux(command.n < 32, reducer.tail_sum_short - 1, reducer.tail_sum - 1)
        tail_max = max(reducer.tail_max - 1, PACKED_GAP)
        return Mux(command.reduce == Reduce.SUM, tail_sum,
                   Mux(command.reduce == Reduce.MAX, tail_max,
                       Mux(command.dest == Dest.PACKED, PACKED_GAP, 0)))
