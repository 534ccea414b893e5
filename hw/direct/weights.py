"""The stream of weights straight out of a RAM, without a buffer in between."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Opcode, layout
from ..config import BLOCK
from ..memory.errors import report_first
from ..ports import UnitStatus, WeightRead
from ..registers import ErrorCode

__all__ = ["WeightStream"]

LANES, WIDTH, SCALE_WORDS = 4, 32, 2


class WeightStream(wiring.Component):
    """Carries out STREAM commands for INT8 from a RAM that is region 0 as a whole: in place of ``Prefetch``, where the
    memory answers at once. A tile is read again for each row instead of being stored.

    Throughput: a beat in two cycles with ``grant``, and some 10 cycles between tiles, until the last scales are taken.
    ``done`` comes when the last beat and the last scales have been taken. Offsets count modulo 128 KiB.

    Errors: BAD_FIELD: k or tiles is 0, offset or stride is not a multiple of a beat; READ_RANGE.

    Parameters
    ----------
    depth : int     words of the RAM, a power of two, at most 2^14

    Members
    -------
    command : In(stream), status : Out(UnitStatus)
    weights : In(WeightRead)          a tile whose beats were taken with ``keep`` comes again by itself
    scale_held : In(1)                the scales taken last are still read
    enable : Out(1), address : Out    a word is to be read; it is, in a cycle with ``grant``
    grant : In(1), value : In(32)     the RAM is this reader's; its word, a cycle after
    """

    def __init__(self, *, depth):
        if not 2 <= depth <= 1 << 14 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two up to 2^14, not {depth!r}")
        self._depth_log = depth.bit_length() - 1
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.STREAM))), "status": Out(UnitStatus()),
            "weights": In(WeightRead(width=WIDTH, lanes=LANES)), "scale_held": In(1),
            "enable": Out(1), "address": Out(range(depth)), "grant": In(1), "value": In(WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        command, weights = self.command.payload, self.weights
        active, bad, outside, base = Signal(), Signal(), Signal(), Signal(15)
        tiles_left = Signal(15, reset_less=True)
        start, over, failed = Signal(), Signal(), Signal()    # a tile starts; all of it was taken
        again = Signal()      # its last beat with ``keep``, which may change behind that
        beats_over, scales_over = Signal(), Signal()
        m.d.comb += [
            bad.eq((command.k == 0) | (command.tiles == 0) | command.offset[:2].any() | command.tile_stride[:2].any()),
            over.eq(active & ~start & beats_over & (scales_over | ~command.scaled)),
        ]
        m.d.sync += [start.eq(0), self.status.done.eq(0), self.command.ready.eq(0)]
        with m.If(weights.beat_take):
            m.d.sync += again.eq(weights.keep)
        with m.If(~active):
            m.d.sync += [base.eq(command.offset[2:]), tiles_left.eq(command.tiles)]
            with m.If(self.command.valid & ~self.command.ready & ~bad & ~failed):
                m.d.sync += [active.eq(1), start.eq(1)]
        with m.Elif(over):
            m.d.sync += start.eq(1)
            with m.If(~again):
                m.d.sync += [base.eq(base + command.tile_stride[2:]), tiles_left.eq(tiles_left - 1)]
                with m.If(tiles_left == 1):
                    m.d.sync += [start.eq(0), active.eq(0), self.status.done.eq(1), self.command.ready.eq(1)]
        m.d.comb += failed.eq(report_first(
            m, self.status, (self.command.valid & ~active & ~self.command.ready & bad, ErrorCode.BAD_FIELD),
            (outside, ErrorCode.READ_RANGE)))
        self._build_reading(m, active & ~start & ~failed, start, base, beats_over, scales_over, outside)
        return m

    def _build_reading(self, m, running, start, base, beats_over, scales_over, outside):
        """Scales go before beats. What was asked for arrives a cycle later."""
        command, weights = self.command.payload, self.weights
        beat_at, beat_left, beat_index = Signal(15, reset_less=True), Signal(12, reset_less=True), Signal(5)
        scale_at, scale_left, high = Signal(15, reset_less=True), Signal(12, reset_less=True), Signal()
        beat_arrives, scale_arrives = Signal(), Signal()
        want_beat, want_scale, at = Signal(), Signal(), Signal(15)
        m.d.comb += [
            want_scale.eq(running & command.scaled & ~scales_over & ~weights.scale_valid & ~self.scale_held
                          & ~scale_arrives),
            want_beat.eq(running & ~beats_over & ~beat_arrives & (~weights.beat_valid | (
                weights.beat_take & (beat_left != 1)))),
            at.eq(Mux(want_scale, scale_at, beat_at)), self.address.eq(at),
            outside.eq((want_beat | want_scale) & at[self._depth_log:].any()),
            self.enable.eq((want_beat | want_scale) & ~outside),
        ]
        asked = self.enable & self.grant
        m.d.sync += [beat_arrives.eq(asked & ~want_scale), scale_arrives.eq(asked & want_scale)]

        # Beats: behind each block lie its scales.
        with m.If(asked & ~want_scale):
            m.d.sync += [beat_index.eq(beat_index + 1), beat_at.eq(beat_at + Mux(
                command.scaled & (beat_index == BLOCK - 1), 1 + SCALE_WORDS, 1))]
        with m.If(weights.beat_take):
            m.d.sync += [weights.beat_valid.eq(0), beat_left.eq(beat_left - 1), beats_over.eq(beat_left == 1)]
        with m.If(beat_arrives):
            m.d.sync += [weights.beat_valid.eq(1), weights.beat.eq(self.value)]

        # Scales: two words an entry, and a block of beats, or fewer, before the next.
        following = Signal(12)
        m.d.comb += following.eq(scale_left - BLOCK)
        with m.If(scale_arrives):
            m.d.sync += [weights.scale.eq(Cat(weights.scale[WIDTH:], self.value)), high.eq(~high),
                         weights.scale_valid.eq(high), scale_at.eq(scale_at + 1)]
        with m.If(weights.scale_take):
            last = scale_left <= BLOCK
            m.d.sync += [weights.scale_valid.eq(0), scale_left.eq(following), scales_over.eq(last),
                         scale_at.eq(scale_at + Mux(following < BLOCK, following[:5], Const(BLOCK, 6)))]
        with m.If(start):
            m.d.sync += [
                beat_at.eq(base), beat_left.eq(command.k), beat_index.eq(0), beats_over.eq(0), scales_over.eq(0),
                scale_left.eq(command.k), high.eq(0),
                scale_at.eq(base + Mux(command.k < BLOCK, command.k[:5], Const(BLOCK, 6))),
            ]
