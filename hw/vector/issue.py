"""Slot by slot through a vector command: what enters the lanes in which cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
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

    Rows follow each other without a gap, except where a maximum must first finish (its tail) or packed output needs the
    write port. With SUM, slots come at most every ``reducer.interval`` cycles, and leave its tree's cycles free.

    Parameters
    ----------
    lanes, group_words : int    elements of a slot, words of a group
    reducer : Reducer           states its tail, its interval, and the cycles of its trees

    Members
    -------
    command : In(layout(Opcode.VECTOR))    held while the command runs
    last : In(16)       n - 1, from ``start`` on
    start : In(1)       begin with the command
    arrived : In(1)     a group has all its operands
    slot : Out          slot_layout(lanes): the slot taken in this cycle
    busy : Out(1)       slots of the command are still to come
    """

    def __init__(self, *, lanes, group_words, reducer):
        self._lanes, self._words, self._reducer = lanes, group_words, reducer
        super().__init__({
            "command": In(layout(Opcode.VECTOR)), "last": In(16), "start": In(1), "arrived": In(1),
            "slot": Out(slot_layout(lanes)), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        command, slot = self.command, self.slot
        phases = self._words // self._lanes
        groups, phase = Signal(16), Signal(range(phases))
        rows, number = Signal(16), Signal(16 - self._lane_bits)  # number of the slot in its row
        wait = Signal(range(self._longest_wait() + 1))

        hole, apart = self._spacing(m)
        # Whether the slot to come is the row's last one, from a comparison with the slot before that.
        row_end, penultimate = Signal(), Signal.like(number)
        single = self.last[self._lane_bits:] == 0
        m.d.sync += penultimate.eq(self.last[self._lane_bits:] - 1)
        group_end = Signal()
        m.d.comb += [
            slot.valid.eq(self.busy & (groups != 0) & (wait == 0) & ~hole & ~(slot.row_end & apart)),
            slot.row_end.eq(row_end),
            slot.keep.eq(self._mask(m, number) & Cat(~slot.row_end | (self._rest(self.last) >= lane)
                                                     for lane in range(self._lanes))),
            group_end.eq(slot.valid & (slot.row_end | (phase == phases - 1))),
        ]
        m.d.sync += groups.eq(groups + self.arrived - group_end)

        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(slot.valid):
            m.d.sync += [
                phase.eq(Mux(group_end, 0, phase + 1)),
                number.eq(number + 1),
                row_end.eq(single | (number == penultimate)),
                wait.eq(Mux(command.reduce == Reduce.SUM, self._reducer.interval - 1, 0)),
            ]
            with m.If(slot.row_end):
                m.d.sync += [
                    number.eq(0), rows.eq(rows - 1), self.busy.eq(rows != 1), wait.eq(self._row_wait()),
                ]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), rows.eq(command.rows), row_end.eq(single)]
        return m

    @property
    def _lane_bits(self):
        return self._lanes.bit_length() - 1

    def _rest(self, count):
        """Elements that ``count`` has beyond whole slots."""
        return count[:self._lane_bits] if self._lanes > 1 else Const(0)

    def _mask(self, m, number):
        """Elements of slot ``number`` between first and valid, or outside of them where a window goes over its end.

        The next row's limits are ready while a row is in work, so that rows of one slot may follow each other."""
        command, slot, low = self.command, self.slot, self._lane_bits
        unbounded, primed, step = Signal(), Signal(), Signal()
        limits = data.StructLayout({"valid": 16, "first": 16})
        row, following = Signal(limits, reset_less=True), Signal(limits, reset_less=True)
        over_end, behind_valid, behind_first = (Signal(name=name, reset_less=True) for name in (
            "over_end", "behind_valid", "behind_first"))
        at_valid, at_first, stepped = Signal(), Signal(), Signal(16)
        m.d.comb += [
            unbounded.eq((command.first == 0) & (command.ring == 0)),
            stepped.eq(following.first + command.valid_step),
            step.eq(primed | (slot.valid & slot.row_end)),
            at_valid.eq(number == row.valid[low:]),
            at_first.eq(number == row.first[low:]),
        ]
        m.d.sync += primed.eq(self.start)
        with m.If(slot.valid):
            m.d.sync += [behind_valid.eq(behind_valid | at_valid), behind_first.eq(behind_first | at_first)]
        with m.If(step):
            m.d.sync += [
                row.eq(following), behind_valid.eq(0), behind_first.eq(unbounded | following.first[-1]),
                over_end.eq(~unbounded & ~following.first[-1] & ~(following.first < following.valid)),
                following.valid.eq(following.valid + command.valid_step), following.first.eq(stepped),
            ]
            with m.If((command.ring != 0) & (following.valid == command.ring) & command.valid_step[0]):
                m.d.sync += following.valid.eq(1)
            with m.If(stepped == command.ring):  # without a ring this changes nothing
                m.d.sync += following.first.eq(0)
        with m.If(self.start):
            m.d.sync += [following.valid.eq(command.valid), following.first.eq(command.first)]
        early = Cat(~behind_valid & (~at_valid | (lane < self._rest(row.valid))) for lane in range(self._lanes))
        late = Cat(behind_first | (at_first & (lane >= self._rest(row.first))) for lane in range(self._lanes))
        return Mux(over_end, early | late, early & late)

    def _spacing(self, m):
        """Cycles without a slot, and those without a row's last one, since these would disturb the tree of a SUM."""
        last = Signal()
        m.d.comb += last.eq(self.slot.valid & self.slot.row_end & (self.command.reduce == Reduce.SUM))
        ages = [last]  # cycles since the rows' last slots
        for age in range(1, max(self._reducer.holes | self._reducer.apart) + 1):
            later = Signal(name=f"age{age}")
            m.d.sync += later.eq(ages[-1])
            ages.append(later)
        return (self._during(m, ages, self._reducer.holes, "hole"),
                self._during(m, ages, self._reducer.apart, "apart"))

    @staticmethod
    def _during(m, ages, cycles, name):
        """Whether any of ``ages`` in ``cycles`` is high: a flag for each run of these, as no run is longer than the
        distance of two rows' last slots."""
        flags = []
        for end in (age for age in sorted(cycles) if age + 1 not in cycles):
            begin = max(age for age in cycles if age <= end and age - 1 not in cycles)
            if begin == end:
                flags.append(ages[end])
                continue
            flag = Signal(name=f"{name}{begin}")
            with m.If(ages[begin - 1]):
                m.d.sync += flag.eq(1)
            with m.Elif(ages[end]):
                m.d.sync += flag.eq(0)
            flags.append(flag)
        return Cat(flags).any()

    def _longest_wait(self):
        return max(self._reducer.tail_max, self._reducer.interval, PACKED_GAP + 1)

    def _row_wait(self):
        """Idle cycles after a row's last slot."""
        reducer, command = self._reducer, self.command
        maximum = (command.reduce == Reduce.MAX) | (command.reduce == Reduce.ARGMAX)
        longest = max(reducer.tail_max - 1, PACKED_GAP)
        return Mux(maximum, longest, Mux(command.dest == Dest.PACKED, PACKED_GAP,
                                         Mux(command.reduce == Reduce.SUM, reducer.interval - 1, 0)))
