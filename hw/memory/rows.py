"""Addresses of a transfer: its rows, and the bursts or elements of a row."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Rows", "Bursts", "TRANSFER", "misaligned"]

TRANSFER = data.StructLayout({
    "offset": 32, "rows": 16, "planes": 16, "row_stride": 32, "plane_stride": 32,
    "scratch": 32, "scratch_row_stride": 32, "scratch_plane_stride": 32,
})
"""Fields that LOAD and STORE have in common; addresses and strides in bytes."""


def misaligned(log, *values):
    """One bit: a value is not a multiple of ``2 ** log``."""
    result = 0
    for value in values:
        result = result | value[:log].any()
    return result


class Rows(wiring.Component):
    """Rows of a transfer of ``planes`` x ``rows`` rows: where each begins in memory and in the scratchpad.

    Throughput: a row a cycle. Addresses wrap at 2^32.

    Members
    -------
    start : In(1)           begin; the first row is there in the next cycle
    transfer : In(TRANSFER) stable from ``start`` until the last row was taken; rows and planes are not 0
    row : Out(stream)       offset, scratch: first byte; last: no more rows follow
    """

    start: In(1)
    transfer: In(TRANSFER)
    row: Out(stream.Signature(data.StructLayout({"offset": 32, "scratch": 32, "last": 1})))

    def elaborate(self, platform):
        m = Module()
        transfer, row = self.transfer, self.row.payload
        rows_left, planes_left = Signal(16, reset_less=True), Signal(16, reset_less=True)  # behind this one
        last_row, last_plane = Signal(reset_less=True), Signal(reset_less=True)     # none is left behind this one
        m.d.comb += row.last.eq(last_row & last_plane)
        for name, row_stride, plane_stride in (
            ("offset", transfer.row_stride, transfer.plane_stride),
            ("scratch", transfer.scratch_row_stride, transfer.scratch_plane_stride),
        ):
            address, plane = Signal(32, name=name, reset_less=True), Signal(32, name=f"{name}_plane", reset_less=True)
            following = Mux(last_row, plane, address) + Mux(last_row, plane_stride, row_stride)
            m.d.comb += row[name].eq(address)
            with m.If(self.start):
                m.d.sync += [address.eq(transfer[name]), plane.eq(transfer[name])]
            with m.Elif(self.row.ready):
                m.d.sync += address.eq(following)
                with m.If(last_row):
                    m.d.sync += plane.eq(following)
        with m.If(self.start):
            m.d.sync += [self.row.valid.eq(1), rows_left.eq(transfer.rows - 1), planes_left.eq(transfer.planes - 1),
                         last_row.eq(transfer.rows == 1), last_plane.eq(transfer.planes == 1)]
        with m.Elif(self.row.valid & self.row.ready):
            m.d.sync += [self.row.valid.eq(~row.last), rows_left.eq(rows_left - 1), last_row.eq(rows_left == 1)]
            with m.If(last_row):
                m.d.sync += [rows_left.eq(transfer.rows - 1), planes_left.eq(planes_left - 1),
                             last_row.eq(transfer.rows == 1), last_plane.eq(planes_left == 1)]
        return m


class Bursts(wiring.Component):
    """Cuts a run of beats into bursts, or steps through single elements.

    A burst ends at each multiple of ``burst_beats`` beats, so it never crosses 4 KiB. Throughput: one a cycle.

    Parameters
    ----------
    beat_bytes, burst_beats : int   powers of two; their product is at most 4096

    Members
    -------
    run : In(stream)     offset: first byte; count: beats or elements, not 0; last: handed on with the run's last burst
    single : In(1)       elements ``stride`` bytes apart instead of beats; stable while anything is in work
    stride : In(32)
    burst : Out(stream)  offset: first byte, beats; last_of_run, last: of the last run
    """

    def __init__(self, *, beat_bytes, burst_beats):
        for name, value in (("beat_bytes", beat_bytes), ("burst_beats", burst_beats)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if beat_bytes * burst_beats > 4096:
            raise ValueError(f"burst_beats must be at most 4096 / {beat_bytes} bytes, not {burst_beats!r}")
        self._beat_log = beat_bytes.bit_length() - 1
        self._burst_log = burst_beats.bit_length() - 1
        super().__init__({
            "run": In(stream.Signature(data.StructLayout({"offset": 32, "count": 32, "last": 1}))),
            "single": In(1), "stride": In(32),
            "burst": Out(stream.Signature(data.StructLayout(
                {"offset": 32, "beats": range(burst_beats + 1), "last_of_run": 1, "last": 1}))),
        })

    def elaborate(self, platform):
        m = Module()
        run, burst = self.run, self.burst
        offset, left = Signal(32, reset_less=True), Signal(32, reset_less=True)
        beats, ends = Signal.like(burst.payload.beats, reset_less=True), Signal(reset_less=True)
        last_run = Signal(reset_less=True)
        bits = slice(self._beat_log, self._beat_log + self._burst_log)   # of an offset: the beat within a burst
        most, limit = Signal.like(beats), Signal.like(beats)
        following_ends, first_ends = Signal(), Signal()
        m.d.comb += [
            # Behind the first one, a burst begins at a multiple of its greatest length.
            most.eq(Mux(self.single, 1, 1 << self._burst_log)),
            limit.eq(Mux(self.single, 1, (1 << self._burst_log) - run.payload.offset[bits])),
            following_ends.eq(left <= beats + most), first_ends.eq(run.payload.count <= limit),
            burst.payload.offset.eq(offset), burst.payload.beats.eq(beats),
            burst.payload.last_of_run.eq(ends), burst.payload.last.eq(ends & last_run),
            run.ready.eq(~burst.valid | (burst.ready & ends)),
        ]
        with m.If(run.ready):
            m.d.sync += [
                burst.valid.eq(run.valid), offset.eq(run.payload.offset), left.eq(run.payload.count),
                last_run.eq(run.payload.last), ends.eq(first_ends),
                beats.eq(Mux(first_ends, run.payload.count, limit)),
            ]
        with m.Elif(burst.ready):
            m.d.sync += [left.eq(left - beats), ends.eq(following_ends),
                         beats.eq(Mux(following_ends, left - beats, most))]
            with m.If(self.single):
                m.d.sync += offset.eq(offset + self.stride)
            with m.Else():
                m.d.sync += offset.eq((offset[bits.stop:] + 1) << bits.stop)
        return m
