"""LOAD: rows of whole beats from memory to the scratchpad."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..commands import Opcode, layout
from ..ports import SCRATCH_ADDRESS_WIDTH, BeatRead, ScratchWrite, UnitStatus
from ..registers import ErrorCode
from .buffer import ReplayBuffer
from .errors import report_first
from .rows import TRANSFER, Bursts, Rows, misaligned

__all__ = ["Load"]

BUFFERED_BURSTS = 4   # stored or on their way: covers 3 bursts' time of latency
DESCRIPTORS = 16      # the same for short bursts


class Load(wiring.Component):
    """Copies beats from memory into groups of the scratchpad, one group a beat.

    Throughput: a beat a cycle on long rows, up to a latency of three bursts; a row costs 4 cycles at least.
    The command is held until its last burst was requested; ``done`` comes once its last group was written.
    It keeps no state on the bus, so that an abort just resets it.

    Errors: BAD_FIELD: offset, count, a stride or scratch is not a multiple of a beat, or rows, planes or count is 0;
    READ_RANGE, READ_RESPONSE, SCRATCHPAD_RANGE.

    Parameters
    ----------
    group_words : int   words of a group, which is as wide as a beat
    burst_beats : int   longest burst
    """

    def __init__(self, *, group_words, burst_beats):
        self._beat_bytes = 4 * group_words
        self._burst_beats = burst_beats
        width = 8 * self._beat_bytes
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.LOAD))),
            "status": Out(UnitStatus()),
            "read": Out(BeatRead(width=width)),
            "write": Out(ScratchWrite(width=width)),
        })

    def elaborate(self, platform):
        m = Module()
        beat_log = self._beat_bytes.bit_length() - 1
        command = self.command.payload
        m.submodules.rows = rows = Rows()
        m.submodules.bursts = bursts = Bursts(beat_bytes=self._beat_bytes, burst_beats=self._burst_beats)
        bad, starting, outside, drained = Signal(), Signal(), Signal(), Signal()
        self._failed = failed = report_first(
            m, self.status,
            (starting & bad, ErrorCode.BAD_FIELD),
            (self.read.request_valid & self.read.request_ready & self.read.fault, ErrorCode.READ_RANGE),
            (self.read.beat_valid & self.read.beat_error, ErrorCode.READ_RESPONSE),
            (outside, ErrorCode.SCRATCHPAD_RANGE))
        addresses = [command[name] for name in TRANSFER.members if name not in ("rows", "planes")]
        m.d.comb += [rows.transfer[name].eq(command[name]) for name in TRANSFER.members]
        m.d.comb += [
            # Never in the cycle in which a row's last burst is accepted: the read port needs longer than that anyway.
            bursts.run.valid.eq(rows.row.valid & ~bursts.burst.valid), rows.row.ready.eq(~bursts.burst.valid),
            bursts.run.payload.offset.eq(rows.row.payload.offset),
            bursts.run.payload.count.eq(command.count >> beat_log),
            bursts.run.payload.last.eq(rows.row.payload.last),
            rows.start.eq(starting & ~bad),
        ]
        m.submodules.buffer = self._buffer = ReplayBuffer(
            width=8 * self._beat_bytes, entries=BUFFERED_BURSTS * self._burst_beats)
        m.submodules.targets = self._targets = SyncFIFO(
            width=SCRATCH_ADDRESS_WIDTH + 1 + len(bursts.burst.payload.beats) + 1, depth=DESCRIPTORS)
        self._build_requests(m, bursts, rows.row.payload.scratch[beat_log:])
        self._build_writes(m, outside, drained)

        m.d.sync += self.status.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += bad.eq(misaligned(beat_log, command.count, *addresses) | (command.rows == 0)
                                   | (command.planes == 0) | (command.count == 0))
                with m.If(self.command.valid & ~failed):
                    m.next = "START"
            with m.State("START"):
                m.d.comb += starting.eq(1)
                m.next = "REQUEST"
            requested = bursts.burst.valid & bursts.burst.ready & bursts.burst.payload.last
            with m.State("REQUEST"), m.If(requested):
                m.d.comb += self.command.ready.eq(1)
                m.next = "DRAIN"
            with m.State("DRAIN"), m.If(drained):
                m.d.sync += self.status.done.eq(1)
                m.next = "IDLE"
        return m

    def _build_requests(self, m, bursts, row_group):
        """A burst is requested once the buffer has room for it; where its beats go waits in ``targets``."""
        burst, buffer, targets = bursts.burst.payload, self._buffer, self._targets
        group = Signal(SCRATCH_ADDRESS_WIDTH + 1, reset_less=True)   # the top bit: beyond any scratchpad
        accepted, fits = Signal(), Signal()
        # Of the burst at hand, which stands until it is accepted: there is room for its beats and its descriptor.
        m.d.sync += fits.eq((buffer.room >= burst.beats) & targets.w_rdy & bursts.burst.valid & ~accepted)
        m.d.comb += [
            self.read.request_valid.eq(fits & ~self._failed),
            self.read.request_region.eq(self.command.payload.region), self.read.request_offset.eq(burst.offset),
            self.read.request_beats.eq(burst.beats),
            accepted.eq(self.read.request_valid & self.read.request_ready),
            bursts.burst.ready.eq(accepted),
            buffer.write.eq(self.read.beat_valid), buffer.data.eq(self.read.beat),
            buffer.reserve.eq(Mux(accepted, burst.beats, 0)),
            targets.w_data.eq(Cat(group, burst.beats, burst.last)), targets.w_en.eq(accepted),
        ]
        with m.If(bursts.run.valid & bursts.run.ready):
            m.d.sync += group.eq(Cat(row_group[:SCRATCH_ADDRESS_WIDTH], row_group[SCRATCH_ADDRESS_WIDTH:].any()))
        with m.Elif(accepted):
            m.d.sync += group.eq(group + burst.beats)

    def _build_writes(self, m, outside, drained):
        """The burst in work is copied into registers, and leaves the queue a cycle later."""
        buffer, targets, write = self._buffer, self._targets, self.write
        target = Signal(data.StructLayout({
            "group": SCRATCH_ADDRESS_WIDTH + 1, "beats": range(self._burst_beats + 1), "last": 1}))
        group, left = Signal.like(target.group, reset_less=True), Signal.like(target.beats, reset_less=True)
        ends, last = Signal(reset_less=True), Signal(reset_less=True)
        there, copied = Signal(), Signal()
        here, written = Signal(), Signal()
        m.d.comb += [
            target.eq(targets.r_data), targets.r_en.eq(copied), here.eq(buffer.valid & there & ~self._failed),
            write.valid.eq(here & ~group[-1]), write.address.eq(group), write.data.eq(buffer.front),
            write.mask.eq(~0), written.eq(write.valid & write.ready), buffer.take.eq(written),
            drained.eq(written & ends & last & ~outside),
            outside.eq(here & (group[-1] | (write.ready & write.fault))),
        ]
        m.d.sync += copied.eq(0)
        with m.If(written):
            m.d.sync += [group.eq(group + 1), left.eq(left - 1), ends.eq(left == 2)]
        with m.If(~there | (written & ends)):
            m.d.sync += [
                group.eq(target.group), left.eq(target.beats), ends.eq(target.beats == 1), last.eq(target.last),
                there.eq(targets.r_rdy & ~copied), copied.eq(targets.r_rdy & ~copied),
            ]
