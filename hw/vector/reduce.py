"""Sum, maximum and the place of the maximum of a row."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..commands import Reduce
from ..fp.add import FP32Add
from .issue import slot_layout

__all__ = ["Reducer", "PARTIALS"]

PARTIALS = 32
"""Partial sums of a row (docs/numerics.md)."""

NEGATIVE_INFINITY_KEY = 0x007FFFFF


def _key(bits):
    """FP32 bits to an unsigned number of the same order."""
    return Cat(bits[:31] ^ bits[31].replicate(31), ~bits[31])


class Reducer(wiring.Component):
    """Reduces rows in the order of docs/numerics.md, a slot of ``lanes`` elements a cycle.

    SUM: lane l keeps the partial sums p with p mod lanes = l in two LUT RAM banks, lower and upper half, so that the
    halving tree reads both operands at once; its last levels cross the lanes. One adder a lane does both.
    MAX, ARGMAX: a pipelined tree over the lanes, then a running maximum; what was the greatest so far keeps its number.

    Throughput: a slot a cycle, for SUM every ``interval`` cycles; after the last slot of a row the first of the next
    may come ``tail_sum`` (``tail_sum_short`` where n < 32) or ``tail_max`` cycles later at the earliest. Flow control:
    none for slots, ``result_ready`` takes a result, which waits until then (at most until the next).

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
        super().__init__({
            "reduce": In(Reduce), "index": In(32), "carry": In(1), "slot": In(slot), "i": In(32 * lanes),
            "result_valid": Out(1), "result_ready": In(1), "result": Out(32), "busy": Out(1),
        })

    @property
    def interval(self):
        """Cycles from slot to slot with SUM, at least: a partial sum must be back when its turn comes again."""
        return -(-self._loop // self._slots)

    @property
    def tail_sum(self):
        return self._loop + sum(cycles for _, _, cycles in self._levels)

    @property
    def tail_sum_short(self):
        """As ``tail_sum``, with the time to clear partial sums that a row of less than 32 elements leaves out."""
        return self.tail_sum + self._slots

    @property
    def tail_max(self):
        return 2

    @property
    def _levels(self):
        """Levels of the tree: (additions in each lane, distance in lanes or 0, cycles until the next level)."""
        loop, levels = self._loop, []
        half = self._slots // 2
        while half:
            levels.append((half, 0, max(half, half // 2 + loop)))
            half //= 2
        distance = self._lanes // 2
        while distance:
            levels.append((1, distance, loop))
            distance //= 2
        # The last result leaves by itself; the next row may follow at once.
        levels[-1] = (*levels[-1][:2], 1)
        return levels

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
        half, levels = self._slots // 2, self._levels
        index, first_pass = Signal(range(self._slots)), Signal(init=1)
        level, step = Signal(range(len(levels))), Signal(range(max(self._loop, *(c for _, _, c in levels)) + 1))
        additions = Array([a for a, _, _ in levels])[level]
        cycles = Array([c for _, _, c in levels])[level]
        accumulate, last_level = Signal(), Signal()
        tree = Signal()  # an addition of the tree begins; a register, as operands are read in the same cycle
        m.d.comb += last_level.eq(level == len(levels) - 1)

        with m.FSM(name="sum") as fsm:
            with m.State("ACCUMULATE"):
                m.d.comb += accumulate.eq(self.slot.valid & (self.reduce == Reduce.SUM))
                with m.If(accumulate):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == self._slots - 1):
                        m.d.sync += first_pass.eq(0)
                    with m.If(self.slot.row_end):
                        m.next = "SETTLE"
                        with m.If(first_pass & (index != self._slots - 1)):
                            m.next = "PAD"
            with m.State("PAD"):  # partial sums that no element reached become +0 + +0
                m.d.comb += accumulate.eq(1)
                m.d.sync += index.eq(index + 1)
                with m.If(index == self._slots - 1):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += step.eq(step + 1)
                with m.If(step == self._loop - 2):
                    m.d.sync += [step.eq(0), level.eq(0), tree.eq(1)]
                    m.next = "TREE"
            with m.State("TREE"):
                m.d.sync += step.eq(step + 1)
                with m.If(step == additions - 1):
                    m.d.sync += tree.eq(0)
                with m.If(step == cycles - 1):
                    m.d.sync += [step.eq(0), level.eq(level + 1), tree.eq(1)]
                    with m.If(last_level):
                        m.d.sync += [index.eq(0), first_pass.eq(1), tree.eq(0)]
                        m.next = "ACCUMULATE"

        # Address of the operands, and of the result when it leaves the adder.
        width = max(1, (half - 1).bit_length())
        tag = data.StructLayout({"valid": 1, "result": 1, "upper": 1, "index": width})
        address, now = Signal(width), Signal(tag)
        m.d.comb += [
            address.eq(Mux(tree, step, index[:width] if half > 1 else 0)),
            now.valid.eq(accumulate | tree),
            now.result.eq(tree & last_level),
        ]
        with m.If(tree):
            upper = (step >= (additions >> 1)) & (additions != 1)
            m.d.comb += [now.upper.eq(upper), now.index.eq(step - Mux(upper, additions >> 1, 0))]
        with m.Else():
            m.d.comb += [now.upper.eq(index[-1]), now.index.eq(address)]
        tags = [now]
        for i in range(self._loop - 1):
            later = Signal(tag, name=f"tag{i}")
            m.d.sync += later.eq(tags[-1])
            tags.append(later)
        self._banks(m, tags[-1], address, accumulate, first_pass, index[-1],
                    Array([d for _, d, _ in levels])[level])
        busy = ~fsm.ongoing("ACCUMULATE") | Cat(t.valid for t in tags[1:]).any()
        return tags[-1].valid & tags[-1].result, self._adders[0].o, busy

    def _banks(self, m, done, address, accumulate, first_pass, upper, distance):
        """Partial sums, adders, and the registers in front of these."""
        lower_reads, upper_reads = [], []
        for lane, adder in enumerate(self._adders):
            m.submodules[f"adder{lane}"] = adder
            for name, reads in (("lower", lower_reads), ("upper", upper_reads)):
                bank = Memory(shape=unsigned(32), depth=max(2, self._slots // 2), init=[])
                m.submodules[f"{name}{lane}"] = bank
                write, read = bank.write_port(), bank.read_port(domain="comb")
                m.d.comb += [
                    read.addr.eq(address),
                    write.addr.eq(done.index),
                    write.data.eq(adder.o),
                    write.en.eq(done.valid & (done.upper == (name == "upper"))),
                ]
                reads.append(read.data)
        for lane, adder in enumerate(self._adders):
            a, b = (Signal(32, reset_less=True, name=f"{name}{lane}") for name in "ab")
            other = upper_reads[lane]
            for d in (1 << i for i in range(self._lanes.bit_length() - 1)):
                if lane < d:
                    other = Mux(distance == d, lower_reads[lane + d], other)
            element = Mux(self.slot.valid & self.slot.keep[lane], self.i.word_select(lane, 32), 0)
            m.d.sync += [
                a.eq(Mux(accumulate & upper, upper_reads[lane], lower_reads[lane])),
                b.eq(Mux(accumulate, element, other)),
            ]
            with m.If(accumulate & first_pass):
                m.d.sync += a.eq(0)
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
