"""Block accumulation: scales the array's block sums and adds them up in FP32."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..fp.add import FP32Add
from ..fp.scaled import ScaledSum
from .array import SUM_WIDTH, PeArray

__all__ = ["ONE", "block_job", "AccumulateLane", "BlockAccumulate"]

ONE = 0x3C00
"""FP16 1.0, the weight scale of a stream without scales."""


def block_job(*, rows, blocks):
    """Layout of what goes with a block's last beat: ``first`` and ``last`` block of its tile, ``scaled``, ``minimum``,
    the last row in use, the block of row scales in the activation buffer."""
    return data.StructLayout({
        "first": 1, "last": 1, "scaled": 1, "minimum": 1, "last_row": range(rows), "scale_block": range(blocks)})


class AccumulateLane(wiring.Component):
    """One FP32 lane: acc = add(acc, sum * activation scale * weight scale), with ``entries`` accumulators.

    Latency: ``delay`` cycles from ``sum`` to ``o``. The step's accumulator is named ``read_delay`` cycles after ``sum``
    for reading and together with ``o`` for writing, so one that was used can be used again ``spacing`` cycles later.
    Throughput: one sum a cycle. Flow control: none.

    Parameters
    ----------
    entries : int   accumulators, a power of two

    Members
    -------
    sum, code, weight_scale : In    block sum, A8 scale code, FP16 scale
    read_entry, read_zero : In      accumulator to add to; +0 instead
    write, write_entry : In         accumulator to put ``o`` into
    o : Out(32)                     the accumulator's new value
    """

    delay = ScaledSum.delay + FP32Add.delay
    read_delay = ScaledSum.delay - 1
    spacing = FP32Add.delay + 2

    def __init__(self, *, entries):
        if entries < 1 or entries & (entries - 1):
            raise ValueError(f"entries must be a power of two, not {entries!r}")
        self._entries = entries
        super().__init__({
            "sum": In(signed(SUM_WIDTH)), "code": In(8), "weight_scale": In(16),
            "read_entry": In(range(entries)), "read_zero": In(1),
            "write": In(1), "write_entry": In(range(entries)), "o": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.scaled = scaled = ScaledSum()
        m.submodules.add = add = FP32Add()
        m.submodules.accumulators = store = memory.Memory(shape=32, depth=self._entries, init=[])
        write, read = store.write_port(), store.read_port(domain="comb")
        accumulator = Signal(32, reset_less=True)
        m.d.comb += [
            scaled.s.eq(self.sum), scaled.code.eq(self.code), scaled.weight_scale.eq(self.weight_scale),
            read.addr.eq(self.read_entry),
            add.a.eq(accumulator), add.b.eq(scaled.o), self.o.eq(add.o),
            write.addr.eq(self.write_entry), write.en.eq(self.write), write.data.eq(add.o),
        ]
        with m.If(self.read_zero):
            m.d.sync += accumulator.eq(0)
        with m.Else():
            m.d.sync += accumulator.eq(read.data)
        return m


class BlockAccumulate(wiring.Component):
    """Takes the array's block sums, one PE a cycle and lane, into FP32 accumulators; a tile's sums go to ``result``.

    A block's job takes (rows in use) * lanes / outputs steps, in the order of rows, then columns; with a minimum as
    many again, of the sums of activations with the minima as weight scales. Each of these passes starts when its sums
    are held, its weight scales are there and the lanes can use its accumulators again; steps of a tile's last pass wait
    for room in the result buffer. Passes follow each other without a bubble.

    Weight scales are taken ahead, one entry beyond the pass in work, so that the last one of a tile is taken before the
    tile is replayed. Where ``compact``, none is stored here: the stream keeps the one taken last until its pass is
    over, and the next pass begins some cycles after that.

    Parameters
    ----------
    rows, lanes, outputs : int   as in ``PeArray``
    blocks : int                 blocks in the activation buffer
    results : int                entries of the result buffer
    array_delay : int            cycles from a beat's issue until the array holds its block's sums
    minimum : bool               there are jobs with a minimum; else that bit counts for nothing
    compact : bool               as in ``MatmulEngine``; not with ``minimum``

    Members
    -------
    block_begin : In(1)          first beat of a block with scales is issued
    block_end, job : In          last beat of a block is issued, with its job
    room : Out(1)                a block's last beat may be issued
    no_scales_due : Out(1)       the scales of all blocks begun are taken
    waits_for_scales : Out(1)    a pass waits for its weight scales
    idle : Out(1)                nothing in work; results may still be on their way
    hold : In(1)                 results before these are on their way: give none out
    settled : Out(1)             nothing was in work and no result on its way a cycle ago
    scale_valid, scale, scale_take    the stream's scale entries, [lanes] FP16
    scale_held : Out(1)          where compact: ``scale`` must stay, and no other be valid, as it is in use
    step, step_row, step_column, step_minimum, sums    to the array
    scale_row, scale_block, code         to the activation buffer
    result_valid, result : Out   [outputs] FP32, always taken
    free : In, claim : Out(1)    free entries of the result buffer; one of them is claimed
    """

    def __init__(self, *, rows, lanes, outputs, blocks, results, array_delay, minimum=False, compact=False):
        if lanes % outputs:
            raise ValueError(f"outputs must divide lanes = {lanes}, not {outputs!r}")
        self._rows, self._columns, self._outputs = rows, lanes // outputs, outputs
        self._steps = rows * lanes // outputs
        if compact and minimum:
            raise ValueError("compact: must be False with minimum")
        self._array_delay, self._minimum, self._compact = array_delay, minimum, compact
        self._job = block_job(rows=rows, blocks=blocks)
        super().__init__({
            "block_begin": In(1), "block_end": In(1), "job": In(self._job), "room": Out(1),
            "no_scales_due": Out(1), "waits_for_scales": Out(1), "idle": Out(1),
            "scale_valid": In(1), "scale": In(16 * lanes), "scale_take": Out(1),
            **({"scale_held": Out(1)} if compact else {}),
            "step": Out(1), "step_row": Out(range(rows)), "step_column": Out(range(self._columns)),
            "step_minimum": Out(1), "sums": In(SUM_WIDTH * outputs),
            "scale_row": Out(range(rows)), "scale_block": Out(range(blocks)), "code": In(8),
            "result_valid": Out(1), "result": Out(32 * outputs),
            "free": In(range(results + 1)), "claim": Out(1), "hold": In(1), "settled": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        scale_ready = Signal()
        start, start_minima = Signal(), Signal()  # a job's first pass, its second: the first step is in the next cycle
        pending, active = Signal(self._job), Signal(self._job)
        position = Signal(range(max(self._steps, 2)))
        self._build_jobs(m, pending, active, start, start_minima, scale_ready, position)
        if self._compact:
            self._build_scales_in_place(m, start & pending.scaled, active, position, scale_ready)
            scale = self.scale
        else:
            scale = self._build_scales(m, start_minima | (start & pending.scaled), start & ~pending.scaled, scale_ready)
        self._build_lanes(m, active, position, scale)
        return m

    def _build_minima(self, m, pending, start, start_minima, can_start):
        """The second pass of a job. Returns: it is still to come."""
        if not self._minimum:
            return Const(0)
        due = Signal()
        m.d.comb += start_minima.eq(due & can_start)
        with m.If(start):
            m.d.sync += [due.eq(pending.minimum), self.step_minimum.eq(0)]
        with m.Elif(start_minima):
            m.d.sync += [due.eq(0), self.step_minimum.eq(1)]
        return due

    def _build_jobs(self, m, pending, active, start, start_minima, scale_ready, position):
        """One job waits at most, and one is in work."""
        column_bits = exact_log2(self._columns)
        outstanding, arrived = Signal(), Signal()  # a block's last beat is issued; its sums are about to be held
        arriving = Signal(self._array_delay - 3)   # the first step selects sums in the second cycle after the start
        remaining = Signal(range(self._steps + 1))
        spacing = Signal(range(AccumulateLane.spacing))
        ends, gives = Signal(), Signal()           # no step of the pass in work is left behind; its steps give results
        minima_due = self._build_minima(m, pending, start, start_minima, ends & scale_ready & (spacing == 0))
        m.d.comb += [
            gives.eq(active.last & ~minima_due),
            self.step.eq((remaining != 0) & (~gives | ((self.free != 0) & ~self.hold))),
            self.claim.eq(self.step & gives),
            ends.eq((remaining == 0) | (self.step & (remaining == 1))),
            start.eq(arrived & ends & ~minima_due
                     & (scale_ready | ~pending.scaled) & (pending.first | (spacing == 0))),
            self.waits_for_scales.eq(((arrived & pending.scaled) | minima_due) & ~scale_ready),
            self.idle.eq(~outstanding & (remaining == 0) & ~minima_due),
        ]
        m.d.sync += [
            arriving.eq(Cat(self.block_end, arriving)),
            spacing.eq(Mux(spacing == 0, 0, spacing - 1)),
        ]
        with m.If(arriving[-1]):
            m.d.sync += arrived.eq(1)
        with m.If(self.block_end):
            m.d.sync += [pending.eq(self.job), outstanding.eq(1)]
        with m.If(self.step):
            m.d.sync += [remaining.eq(remaining - 1), position.eq(position + 1)]
        with m.If(start):
            m.d.sync += [active.eq(pending), outstanding.eq(0), arrived.eq(0)]
        with m.If(start | start_minima):
            last_row = Mux(minima_due, active.last_row, pending.last_row) if self._minimum else pending.last_row
            m.d.sync += [
                position.eq(0), remaining.eq((last_row + 1) << column_bits), spacing.eq(AccumulateLane.spacing - 1)]
        # Held sums may change from the second cycle after the last step of the job in work on. A beat issued in the
        # next cycle changes them array_delay cycles after that, so array_delay steps may be left, if none waits.
        safe = (remaining <= self._array_delay) & ~minima_due & (
            ~active.last | ((self.free >= remaining) & ~self.hold))
        m.d.sync += self.room.eq(~outstanding & ~self.block_end & safe)
        m.d.comb += [
            self.step_row.eq(position >> column_bits), self.step_column.eq(position[:column_bits]),
            self.scale_row.eq(self.step_row), self.scale_block.eq(active.scale_block),
        ]

    def _build_scales(self, m, scaled, unscaled, ready):
        """Weight scales of the pass in work, in place two cycles after its first step; 1.0 if the stream has none."""
        width = len(self.scale)
        due, owed = Signal(4), Signal()  # entries of blocks begun that are not taken; there is one
        following, scale = Signal(width, reset_less=True), Signal(width, reset_less=True)
        use, use_ones, left = Signal(2), Signal(2), Signal.like(due)
        m.d.comb += [
            self.scale_take.eq(self.scale_valid & owed & ~ready),
            self.no_scales_due.eq(~owed), left.eq(due + self._entries_begun() - self.scale_take),
        ]
        m.d.sync += [
            due.eq(left), owed.eq(left != 0),
            use.eq(Cat(scaled, use)), use_ones.eq(Cat(unscaled, use_ones)),
        ]
        with m.If(self.scale_take):
            m.d.sync += [following.eq(self.scale), ready.eq(1)]
        with m.Elif(use[0]):  # moved on in the next cycle
            m.d.sync += ready.eq(0)
        with m.If(use_ones[1]):
            m.d.sync += scale.eq(Const(ONE, 16).replicate(width // 16))
        with m.Elif(use[1]):
            m.d.sync += scale.eq(following)
        return scale

    def _build_scales_in_place(self, m, scaled, active, position, ready):
        """The same where the stream keeps the entry; steps use it two cycles after they are taken."""
        due, used, ends = Signal(4), Signal(), Signal(2)
        m.d.comb += [
            self.scale_take.eq(self.scale_valid & (due != 0)),
            self.no_scales_due.eq(due == 0), ready.eq(self.scale_held & ~used),
        ]
        m.d.sync += [
            due.eq(due + self.block_begin - self.scale_take),
            ends.eq(Cat(self.step & (position == self._steps - 1) & active.scaled, ends)),
        ]
        with m.If(self.scale_take):
            m.d.sync += self.scale_held.eq(1)
        with m.If(scaled):
            m.d.sync += used.eq(1)
        with m.If(ends[1]):
            m.d.sync += [self.scale_held.eq(0), used.eq(0)]

    def _entries_begun(self):
        """Scale entries of the block that is begun."""
        return Cat(self.block_begin & ~self.job.minimum, self.block_begin & self.job.minimum) if self._minimum \
            else self.block_begin

    def _build_lanes(self, m, active, position, scale):
        """Operands reach the lanes ``PeArray.step_delay`` cycles after the step, control walks beside them."""
        control = [Cat(self.step, self.claim, active.first & ~self.step_minimum, position,
                       *([active.scaled] * self._compact))]
        for stage in range(PeArray.step_delay + AccumulateLane.delay):
            after = Signal(len(control[0]), name=f"control_{stage}")
            m.d.sync += after.eq(control[-1])
            control.append(after)
        before_add = control[PeArray.step_delay + AccumulateLane.read_delay]
        column = control[PeArray.step_delay - 1][3:][:exact_log2(self._columns)]
        code = Signal(8, reset_less=True)  # the activation buffer is a cycle faster than the array
        m.d.sync += code.eq(self.code)
        scales = Array(scale.word_select(i, 16 * self._outputs) for i in range(self._columns))
        scales_now = Signal(16 * self._outputs, reset_less=True)
        m.d.sync += scales_now.eq(scales[column])
        if self._compact:
            with m.If(~control[PeArray.step_delay - 1][-1]):
                m.d.sync += scales_now.eq(Const(ONE, 16).replicate(self._outputs))
        for j in range(self._outputs):
            m.submodules[f"lane_{j}"] = lane = AccumulateLane(entries=self._steps)
            m.d.comb += [
                lane.sum.eq(self.sums.word_select(j, SUM_WIDTH)), lane.code.eq(code),
                lane.weight_scale.eq(scales_now.word_select(j, 16)),
                lane.read_entry.eq(before_add[3:]), lane.read_zero.eq(before_add[2]),
                lane.write.eq(control[-1][0]), lane.write_entry.eq(control[-1][3:]),
                self.result.word_select(j, 32).eq(lane.o),
            ]
        on_their_way = Cat(stage[1] for stage in control).any()
        m.d.comb += self.result_valid.eq(control[-1][1])
        m.d.sync += self.settled.eq(self.idle & ~on_their_way)
