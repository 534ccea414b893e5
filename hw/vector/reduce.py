"""Sum, maximum and the place of the maximum of a row."""

import itertools
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..commands import Reduce
from ..fp.add import FP32Add
from .issue import slot_layout

__all__ = ["Reducer", "PARTIALS"]

PARTIALS = 32
"""Partial sums of a row (docs/numerics.md)."""

LUT_RAM_DEPTH = 16

NEGATIVE_INFINITY_KEY = 0x007FFFFF


def _key(bits):
    """FP32 bits to an unsigned number of the same order."""
    return Cat(bits[:31] ^ bits[31].replicate(31), ~bits[31])


@dataclass(frozen=True)
class _Level:
    """A level of the halving tree: addition ``offset`` begins ``ages[offset]`` cycles after the row's last slot."""

    ages: tuple
    distance: int
    """Between the lanes whose partial sums are added; 0: both in one lane."""


def _tree(lanes, loop, interval):
    """Levels of the tree, each addition as early as its operands and the adder allow.

    Within the lanes, addition ``offset`` of h has the operands j and j + h, j = (number of the row's last slot + 1 +
    offset) mod h: those that wait longest come first. ``loop``: cycles from reading a partial sum to reading it again.
    """
    count = PARTIALS // lanes // 2
    ready = [loop - interval * (count - 1 - offset) for offset in range(count)]
    levels, age, distance = [], 1, 0
    while True:
        order = range(count)
        if count > loop:  # results take the places of operands: both that will share a place before the first is back
            order = [i // 2 + i % 2 * (count // 2) for i in order]
        ages = [0] * count
        for offset in order:
            age = max(age + 1, ready[offset])
            age += -(age + 1) % interval  # between two slots of the next row that follow each other
            ages[offset] = age
        levels.append(_Level(tuple(ages), distance))
        if count > 1:
            count //= 2
            ready = [loop + max(ages[offset], ages[offset + count]) for offset in range(count)]
        else:
            distance = distance // 2 if distance else lanes // 2
            ready = [loop + ages[0]]
            if not distance:
                return levels


class Reducer(wiring.Component):
    """Reduces rows in the order of docs/numerics.md, a slot of ``lanes`` elements a cycle.

    SUM: lane l keeps the partial sums p with p mod lanes = l in two LUT RAMs, lower and upper half, so that the halving
    tree reads both operands at once; its last levels cross the lanes. One adder a lane does both: the tree's additions
    take cycles of the rows behind, which have partial sums of their own. With one lane there is no room for these, and
    the next row waits until half of the places are free.
    MAX, ARGMAX: a pipelined tree over the lanes, then a running maximum; what was the greatest so far keeps its number.

    Throughput: a slot a cycle, for SUM every ``interval`` cycles. With SUM no slot may come ``holes`` cycles after the
    last one of any row, nor the last slots of two rows ``apart`` cycles apart; with MAX and ARGMAX a row begins
    ``tail_max`` cycles after the last slot of the row before. Flow control: none for slots, ``result_ready`` takes a
    result, which waits until then (at most until the next). Latency: ``tail_sum`` cycles from a row's last slot.

    Parameters
    ----------
    lanes : int    elements of a slot, a power of two up to 8

    Members
    -------
    reduce : In(2)             Reduce, constant while rows are in work; NONE ignores the slots
    index : In(32)             ARGMAX: number of a row's first element; likewise
    carry : In(1)              ARGMAX: go on from the reduction before, which was an ARGMAX; likewise
    slot : In(slot_layout)     elements without ``keep`` count as +0, for the maximum not at all
    i : In(32 * lanes)         the slot's elements
    result_valid, result_ready, result    the reduced row
    busy : Out(1)              work after a row's last slot
    """

    def __init__(self, *, lanes):
        slot = slot_layout(lanes)
        self._lanes = lanes
        self._adders = [FP32Add() for _ in range(lanes)]
        # From the cycle in which a partial sum is read to the first in which it can be read again.
        self._loop = self._adders[0].delay + 2
        self._slots = PARTIALS // lanes
        self._levels = _tree(lanes, self._loop, self.interval)
        # Rows that have partial sums of their own.
        self._banks = max(1, LUT_RAM_DEPTH // (self._slots // 2))
        super().__init__({
            "reduce": In(Reduce), "index": In(32), "carry": In(1), "slot": In(slot), "i": In(32 * lanes),
            "result_valid": Out(1), "result_ready": In(1), "result": Out(32), "busy": Out(1),
        })

    @property
    def interval(self):
        """Cycles from slot to slot with SUM, at least: a partial sum must be back when its turn comes again."""
        return -(-self._loop // self._slots)

    @property
    def holes(self):
        """Cycles after a row's last slot that belong to its tree: a set."""
        holes = {age for level in self._levels for age in level.ages}
        if self._banks == 1:  # the first two levels leave a quarter of the places in use, where the next row comes last
            holes |= set(range(1, max(self._levels[1].ages)))
        return holes

    @property
    def apart(self):
        """Cycles that must not lie between the last slots of two rows: a set."""
        ages = [age for level in self._levels for age in level.ages]
        ends = [0, *(max(level.ages) for level in self._levels)]
        # A level's row stays until its additions are done, a row's partial sums until the tree has read the last ones.
        nearest = max(end - before for before, end in itertools.pairwise(ends))
        if self._banks > 1:
            nearest = max(nearest, -(-(ends[-1] - self._loop) // (self._banks - 1)))
        return set(range(1, nearest)) | {late - early for early in ages for late in ages if early < late}

    @property
    def tail_sum(self):
        return max(self._levels[-1].ages) + self._loop

    @property
    def tail_max(self):
        return 2

    def elaborate(self, platform):
        m = Module()
        sum_valid, sum_result, sum_busy = self._sum(m)
        max_valid, max_carried, max_result, max_busy = self._max(m)
        result = Signal(32, reset_less=True)
        m.d.comb += [
            self.result.eq(result),
            self.busy.eq(sum_busy | max_busy | self.result_valid),
        ]
        with m.If(self.result_ready):
            m.d.sync += self.result_valid.eq(0)
        with m.If(sum_valid | max_valid):
            m.d.sync += self.result_valid.eq(1)
        with m.If(sum_valid | (max_valid & ~max_carried)):
            m.d.sync += result.eq(Mux(sum_valid, sum_result, max_result))
        return m

    def _sum(self, m):
        index, first_pass = Signal(range(self._slots)), Signal(init=1)
        bank = Signal(range(self._banks))
        accumulate, ended = Signal(), Signal()
        m.d.comb += [
            accumulate.eq(self.slot.valid & (self.reduce == Reduce.SUM)),
            ended.eq(accumulate & self.slot.row_end),
        ]
        with m.If(accumulate):
            m.d.sync += index.eq(index + 1)
            with m.If(index == self._slots - 1):
                m.d.sync += first_pass.eq(0)
        with m.If(ended):
            m.d.sync += [index.eq(0), first_pass.eq(1), bank.eq(bank + 1)]

        step = self._steps(m, ended, index, first_pass, bank)
        tag = data.StructLayout({"valid": 1, "result": 1, "upper": 1, "place": len(step.place)})
        here, now = Cat(index[:-1], bank), Signal(tag)
        m.d.comb += [
            now.valid.eq(accumulate | step.valid),
            now.result.eq(step.valid & step.last),
            now.upper.eq(Mux(step.valid, step.upper, index[-1])),
            now.place.eq(Mux(step.valid, step.target, here)),
        ]
        tags = [now]
        for i in range(self._loop - 1):
            later = Signal(tag, name=f"tag{i}")
            m.d.sync += later.eq(tags[-1])
            tags.append(later)
        self._operands(m, tags[-1], Mux(step.valid, step.place, here), step, first_pass, index[-1])

        pending = Signal(range(self.tail_sum + 1))
        with m.If(ended):
            m.d.sync += pending.eq(self.tail_sum)
        with m.Elif(pending != 0):
            m.d.sync += pending.eq(pending - 1)
        return tags[-1].valid & tags[-1].result, self._adders[0].o, pending != 0

    def _steps(self, m, ended, index, first_pass, bank):
        """The addition of a tree in this cycle: places of operands and result, and operands that are zero as the row
        was too short for them. Each level of each tree has its cycles, so that trees of several rows may be in work."""
        half, kept = self._slots // 2, self._slots // 2 - max(1, self._slots // 8)
        place, target = (Signal(range(half), name=name) for name in ("place", "target"))
        step = Signal(data.StructLayout({
            "valid": 1, "last": 1, "upper": 1, "place": len(place) + len(bank), "target": len(place) + len(bank),
            "lower_zero": 1, "upper_zero": 1, "distance": self._lanes,
        }))
        ages = [ended]
        for age in range(1, max(self._levels[-1].ages)):
            later = Signal(name=f"age{age}")
            m.d.sync += later.eq(ages[-1])
            ages.append(later)

        m.d.sync += [step.valid.eq(0), step.lower_zero.eq(0), step.upper_zero.eq(0)]
        begin, last, row, upper, short = ended, index[:-1], bank, Signal(), Signal()
        with m.If(ended):
            m.d.sync += [upper.eq(index[-1]), short.eq(first_pass)]
        for number, level in enumerate(self._levels):
            width = len(level.ages).bit_length() - 1
            # The row whose turn it is on this level, from the level before as soon as that has done with it.
            before = last[:width], row
            last, row = (Signal(len(x), reset_less=True, name=f"{name}{number}")
                         for name, x in zip(("last", "row"), before, strict=True))
            with m.If(begin):
                m.d.sync += [last.eq(before[0]), row.eq(before[1])]
            begin = ages[max(level.ages) - 1]
            due = Cat(ages[age - 1] for age in level.ages)
            ahead = Cat(Cat(due[offset] for offset in range(len(due)) if (offset + 1) >> bit & 1).any()
                        for bit in range(width + 1))
            j = Signal(width + 1, name=f"j{number}")
            m.d.comb += j.eq(last + ahead)
            with m.If(due.any()):
                m.d.comb += [
                    place.eq(j[:width] | (kept if number > 1 else 0)),
                    target.eq(j[:max(0, width - 1)] | (kept if number > 0 else 0)),
                ]
                m.d.sync += [
                    step.valid.eq(1),
                    step.last.eq(number == len(self._levels) - 1),
                    step.upper.eq(j[width - 1] if width else 0),
                    step.place.eq(Cat(place, row)),
                    step.target.eq(Cat(target, row)),
                    step.distance.eq(level.distance),
                ]
                if number == 0:  # where j has not come round, it lies behind the row's last slot
                    m.d.sync += [
                        step.lower_zero.eq(short & ~upper & ~j[width]),
                        step.upper_zero.eq(short & ~(upper & j[width])),
                    ]
        return step

    def _operands(self, m, done, place, step, first_pass, upper):
        """Partial sums, adders, and the registers in front of these."""
        lower_reads, upper_reads = [], []
        for lane, adder in enumerate(self._adders):
            m.submodules[f"adder{lane}"] = adder
            for name, reads in (("lower", lower_reads), ("upper", upper_reads)):
                bank = Memory(shape=unsigned(32), depth=1 << len(place), init=[])
                m.submodules[f"{name}{lane}"] = bank
                write, read = bank.write_port(), bank.read_port(domain="comb")
                m.d.comb += [
                    read.addr.eq(place),
                    write.addr.eq(done.place),
                    write.data.eq(adder.o),
                    write.en.eq(done.valid & ~done.result & (done.upper == (name == "upper"))),
                ]
                reads.append(read.data)
        for lane, adder in enumerate(self._adders):
            a, b = (Signal(32, reset_less=True, name=f"{name}{lane}") for name in "ab")
            other = upper_reads[lane]
            for d in (1 << i for i in range(self._lanes.bit_length() - 1)):
                if lane < d:
                    other = Mux(step.distance == d, lower_reads[lane + d], other)
            m.d.sync += [
                a.eq(Mux(~step.valid & upper, upper_reads[lane], lower_reads[lane])),
                b.eq(Mux(step.valid, other, self.i.word_select(lane, 32))),
            ]
            with m.If(Mux(step.valid, step.lower_zero, first_pass)):
                m.d.sync += a.eq(0)
            with m.If(Mux(step.valid, step.upper_zero, ~self.slot.keep[lane])):
                m.d.sync += b.eq(0)
            m.d.comb += [adder.a.eq(a), adder.b.eq(b)]

    def _max(self, m):
        """Greatest element of a row, or its number: (valid, the result before stays, result, busy)."""
        flags = data.StructLayout({"valid": 1, "row_end": 1, "first": 1})
        searching, fresh = Signal(), Signal(init=1)
        m.d.comb += searching.eq(self.slot.valid & ((self.reduce == Reduce.MAX) | (self.reduce == Reduce.ARGMAX)))
        with m.If(searching):
            m.d.sync += fresh.eq(self.slot.row_end)
        entries = []  # (key, number of its lane)
        for lane in range(self._lanes):
            key = Signal(32, reset_less=True, name=f"key{lane}")
            m.d.sync += key.eq(_key(self.i.word_select(lane, 32)))
            with m.If(~self.slot.keep[lane]):
                m.d.sync += key.eq(NEGATIVE_INFINITY_KEY)
            entries.append((key, Const(0, 0)))
        stages = [Signal(flags, name="flags")]
        m.d.comb += stages[0].eq(Cat(searching, self.slot.row_end, fresh))
        while True:
            stages.append(Signal(flags, name=f"flags{len(entries)}"))
            m.d.sync += stages[-1].eq(stages[-2])
            if len(entries) == 1:
                break
            entries = [self._greater(m, *pair, name=f"larger{len(entries)}_of{i}")
                       for i, pair in enumerate(zip(entries[::2], entries[1::2], strict=True))]

        (key, lane), before, now = entries[0], stages[-2], stages[-1]
        best, place, done = Signal(32, reset_less=True), Signal(16, reset_less=True), Signal()
        slots = Signal(16 - len(lane), reset_less=True)
        carry, carried = Signal(), Signal(reset_less=True)
        m.d.comb += carry.eq(self.carry & (self.reduce == Reduce.ARGMAX))
        m.d.sync += done.eq(now.valid & now.row_end)
        with m.If(now.valid):
            m.d.sync += slots.eq(slots + 1)
        # A cycle before a row's first key, behind the last one of the row before.
        with m.If(before.valid & before.first):
            m.d.sync += [place.eq(0), slots.eq(0), carried.eq(carry)]
            with m.If(~carry):
                m.d.sync += best.eq(NEGATIVE_INFINITY_KEY)
        with m.Elif(now.valid & (best < key)):
            m.d.sync += [best.eq(key), place.eq(Cat(lane, slots)), carried.eq(0)]
        bits = Cat(best[:31] ^ (~best[31]).replicate(31), ~best[31])
        result = Mux(self.reduce == Reduce.ARGMAX, (self.index + place)[:32], bits)
        return done, carried, result, Cat(stage.valid for stage in stages[1:]).any() | done

    @staticmethod
    def _greater(m, low, high, *, name):
        """The greater of two (key, lane number), of equal ones the lower lane's; a register."""
        (low_key, low_lane), (high_key, high_lane) = low, high
        key = Signal(32, reset_less=True, name=name)
        lane = Signal(len(low_lane) + 1, reset_less=True, name=f"{name}_lane")
        above = low_key < high_key
        m.d.sync += [key.eq(Mux(above, high_key, low_key)), lane.eq(Cat(Mux(above, high_lane, low_lane), above))]
        return key, lane
