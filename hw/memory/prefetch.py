"""Weight prefetch: the stream of weight beats and block scales, read ahead of the matmul engine."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..commands import Format, Opcode, layout
from ..config import BLOCK
from ..ports import BeatRead, UnitStatus, WeightRead
from ..registers import ErrorCode
from .buffer import ReplayBuffer
from .errors import report_first
from .requests import RunRequests
from .rows import misaligned

__all__ = ["Prefetch"]

WORDS_A_SCALE_WORD = 2     # the scale buffer is so many times smaller than the data buffer
BLOCKS_IN_FLIGHT = 32

class Prefetch(wiring.Component):
    """Reads the tiles of STREAM commands into two buffers, as far ahead as there is room.

    A tile has a byte a lane for each of k, in INT4 half a byte (whole beats; the last may be half full); where
    ``scaled``, an FP16 scale a lane follows each block of 32 k and the last, shorter one, and with ``minimum`` an FP16
    minimum. Scales and minima are entries of the same buffer. Bursts run on over blocks, and over tiles that follow
    each other without a gap. Room is reserved block by block before a beat is asked for. A tile that is replayed has to
    fit into the buffer as a whole; otherwise the engine and the prefetch wait for each other for ever.

    Throughput: a beat a cycle, over blocks, tiles without gaps and commands; tiles apart cost about 8 cycles each,
    hidden as long as they have more beats than that. Latency: 4 cycles from a beat to ``weights``.
    A command is taken as soon as the last block of the one before it is planned, so that reading runs on over commands;
    ``done`` comes when its last beat is in the buffer. It keeps no state on the bus, so that an abort just resets it.

    Errors: BAD_FIELD: k or tiles is 0, offset or stride is not a multiple of a beat, INT4 without ``int4``, ``minimum``
    without INT4 and ``scaled``; READ_RANGE, READ_RESPONSE. An
    error is reported after ``done`` of all commands before it.

    Parameters
    ----------
    width : int         bits of a beat
    lanes : int         lanes of the array: width / 8 or width / 4
    beats : int         weight beats the data buffer holds, a power of two; half as many beats of scales lie beside
    burst_beats : int   longest burst
    int4 : bool         reads INT4 too

    Members
    -------
    full : Out(1)       the next block has no room
    """

    def __init__(self, *, width, lanes, beats, burst_beats, int4=False):
        if lanes not in (width // 8, width // 4):
            raise ValueError(f"lanes must be width / 8 = {width // 8} or width / 4 = {width // 4}, not {lanes!r}")
        self._block, self._scale_beats = BLOCK * 8 * lanes // width, 16 * lanes // width
        if beats < self._block or beats & (beats - 1):
            raise ValueError(f"beats must be a power of two from {self._block} on, not {beats!r}")
        if not 1 <= burst_beats * width // 8 <= 4096 or burst_beats & (burst_beats - 1):
            raise ValueError(f"burst_beats must be a power of two, bursts at most 4096 bytes, not {burst_beats!r}")
        self._width, self._beats, self._burst_beats, self._int4 = width, beats, burst_beats, int4
        # A block on its way: its last beat of data, its last beat, last of its command.
        self._block_layout = data.StructLayout({
            "last_data": range(self._block), "last_beat": range(self._block + 2 * self._scale_beats), "last": 1})
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.STREAM))),
            "status": Out(UnitStatus()),
            "read": Out(BeatRead(width=width)),
            "weights": In(WeightRead(width=width, lanes=lanes)),
            "full": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        scales = self._beats // (WORDS_A_SCALE_WORD * self._scale_beats)
        m.submodules.data = self._data = ReplayBuffer(width=self._width, entries=self._beats)
        m.submodules.scales = self._scales = ReplayBuffer(width=self._width, entries=scales, words=self._scale_beats)
        m.submodules.blocks = self._blocks = SyncFIFO(width=self._block_layout.size, depth=BLOCKS_IN_FLIGHT)
        m.submodules.requests = self._requests = RunRequests(
            width=self._width, burst_beats=self._burst_beats,
            most=self._block + (2 if self._int4 else 1) * self._scale_beats,
            beats_out=self._beats + self._scale_beats * scales)
        wiring.connect(m, self._requests.read, wiring.flipped(self.read))
        self._build_plan(m)
        self._build_arrival(m)
        weights = self.weights
        for buffer, valid, front, take, rewind in (
                (self._data, weights.beat_valid, weights.beat, weights.beat_take, weights.rewind),
                (self._scales, weights.scale_valid, weights.scale, weights.scale_take, weights.rewind_scales)):
            m.d.comb += [valid.eq(buffer.valid), front.eq(buffer.front), buffer.take.eq(take),
                         buffer.keep.eq(weights.keep), buffer.rewind.eq(rewind)]
        m.d.comb += [self._data.turn.eq(weights.turn), self._data.length.eq(weights.length)]
        return m

    def _build_plan(self, m):
        """Walk over tiles and blocks; a block is reserved, noted in ``blocks`` and added to the run of requests."""
        requests, beat_log = self._requests, (self._width // 8).bit_length() - 1
        command = Signal(layout(Opcode.STREAM), reset_less=True)
        tile_offset, tiles_left = Signal(32, reset_less=True), Signal(16, reset_less=True)  # left behind this one
        tile_beats, adjacent = Signal(19, reset_less=True), Signal(reset_less=True)
        data_beats, scale_beats = Signal(17, reset_less=True), Signal(15, reset_less=True)   # of a tile
        left = Signal(17, reset_less=True)      # data beats of the tile that are not planned
        int4, minimum = self._narrow(command)
        bad, fits = Signal(), Signal()
        plan, refused = Signal(), Signal()      # the next block is planned; the command is bad
        block = Signal(self._block_layout)
        # Of the next block: beats of data and in all, last of its tile; settled in FIT.
        beats, all_beats = Signal(range(self._block + 1)), Signal.like(requests.add)
        block_ends, beats_in_fit = Signal(), Signal.like(beats)
        entries = Cat(command.scaled & ~minimum, minimum)   # in the scale buffer
        whole = Mux(int4, self._block // 2, self._block)
        m.d.comb += [
            beats_in_fit.eq(Mux(left <= whole, left, whole)),
            block.last_data.eq(beats - 1), block.last_beat.eq(all_beats - 1),
            block.last.eq(block_ends & (tiles_left == 0)),
            requests.region.eq(command.region), requests.offset.eq(tile_offset),
            self._blocks.w_data.eq(block), self._blocks.w_en.eq(plan),
            self._data.reserve.eq(Mux(plan, beats, 0)), self._scales.reserve.eq(Mux(plan, entries, 0)),
            requests.add.eq(Mux(plan, all_beats, 0)),
        ]
        m.d.sync += [
            block_ends.eq(left <= whole), beats.eq(beats_in_fit),
            all_beats.eq(beats_in_fit + self._scale_beats * entries),
            fits.eq((self._data.room >= beats_in_fit) & (self._scales.room >= entries)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += command.eq(self.command.payload)
                with m.If(self.command.valid):
                    m.next = "SIZE"
            with m.State("SIZE"):
                blocks, halves = (command.k + BLOCK - 1) >> (BLOCK.bit_length() - 1), self._block // BLOCK
                m.d.sync += [
                    tile_offset.eq(command.offset), tiles_left.eq(command.tiles - 1),
                    data_beats.eq(Mux(int4, (command.k * halves + 1) >> 1, command.k * halves)),
                    scale_beats.eq(Mux(command.scaled, (self._scale_beats * blocks) << minimum, 0)),
                    bad.eq((command.k == 0) | (command.tiles == 0) | self._bad_format(command)
                           | misaligned(beat_log, command.offset, command.tile_stride)),
                ]
                m.next = "SUM"
            with m.State("SUM"):
                m.d.sync += tile_beats.eq(data_beats + scale_beats)
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += adjacent.eq(command.tile_stride == tile_beats << beat_log)
                m.next = "TILE"
                with m.If(bad):
                    m.next = "REFUSED"
            with m.State("TILE"):
                m.d.sync += left.eq(data_beats)
                with m.If(requests.empty):
                    m.d.comb += requests.start.eq(1)
                    m.d.sync += [requests.close.eq(0), tile_offset.eq(tile_offset + command.tile_stride)]
                    m.next = "FIT"
            with m.State("FIT"):     # room is that behind the last block from here on, and fits a cycle later
                m.next = "PLAN"
            with m.State("PLAN"):
                m.d.comb += [
                    plan.eq(fits & self._blocks.w_rdy & requests.wants), self.full.eq(~fits),
                    requests.stuck.eq(~fits | ~self._blocks.w_rdy),
                ]
                with m.If(plan):
                    m.d.sync += left.eq(left - whole)
                    m.next = "FIT"
                    with m.If(block_ends):
                        m.d.sync += [left.eq(data_beats), tiles_left.eq(tiles_left - 1)]
                        with m.If(block.last | ~adjacent):
                            m.d.sync += requests.close.eq(1)
                            m.next = "TILE"
                        with m.If(block.last):
                            m.next = "IDLE"
            with m.State("REFUSED"):
                m.d.comb += refused.eq(requests.empty)
        self._failed = report_first(
            m, self.status, (requests.idle & refused, ErrorCode.BAD_FIELD),
            (requests.idle & requests.faulted, ErrorCode.READ_RANGE),
            (self.read.beat_valid & self.read.beat_error, ErrorCode.READ_RESPONSE))

    def _narrow(self, command):
        """The command's weights are INT4; it has minima."""
        if not self._int4:
            return Const(0), Const(0)
        return command.format == Format.INT4, command.minimum

    def _bad_format(self, command):
        int4 = command.format == Format.INT4
        return ~self._int4 & int4 | command.minimum & ~(int4 & command.scaled)

    def _build_arrival(self, m):
        """Sort the beats: of a block first the weights, then the scales, then the minima."""
        # The block in work leaves the queue for a register, long before its first beat comes.
        block, loaded = Signal(self._block_layout, reset_less=True), Signal()
        index = Signal(range(self._block + 2 * self._scale_beats))
        is_scale, block_ends = Signal(), Signal()
        m.d.comb += [
            self._blocks.r_en.eq(~loaded | (block_ends & self.read.beat_valid)),
            is_scale.eq(block.last_data < index), block_ends.eq(index == block.last_beat),
            self._data.data.eq(self.read.beat), self._scales.data.eq(self.read.beat),
            self._data.write.eq(self.read.beat_valid & ~is_scale),
            self._scales.write.eq(self.read.beat_valid & is_scale),
        ]
        with m.If(self.read.beat_valid):
            m.d.sync += index.eq(Mux(block_ends, 0, index + 1))
        with m.If(self._blocks.r_en):
            m.d.sync += [block.eq(self._blocks.r_data), loaded.eq(self._blocks.r_rdy)]
        m.d.sync += self.status.done.eq(self.read.beat_valid & block_ends & block.last & ~self.read.beat_error
                                        & ~self._failed)
