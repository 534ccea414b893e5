"""Bursts over a run of beats that grows while it is read."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..ports import BeatRead

__all__ = ["RunRequests"]


class RunRequests(wiring.Component):
    """Requests the beats of a run in bursts that end at multiples of ``burst_beats``.

    A burst waits until it is whole, unless the run is closed, or it cannot grow (``stuck``) and nothing is on its way.
    Throughput: a burst in the time the read port takes to accept one, and 1 cycle. After a fault nothing more is
    requested until reset.

    Parameters
    ----------
    width, burst_beats : int   bits of a beat, beats of the longest burst
    most : int                 beats added at a time at most
    beats_out : int            beats on their way at most

    Members
    -------
    start : In(1), region, offset : In   begin a run; only while ``empty``
    add : In                  beats added to the run in this cycle; only while ``wants``
    close, stuck : In(1)      nothing more will be added to this run; nothing can be added for now
    wants, empty : Out(1)     less than a burst is waiting; nothing is
    idle : Out(1)             no beat is requested or on its way
    faulted : Out(1)          a burst lay outside its region
    read : Out(BeatRead)      its beats are only counted here
    """

    def __init__(self, *, width, burst_beats, most, beats_out):
        self._beat_log = (width // 8).bit_length() - 1
        self._burst_log = burst_beats.bit_length() - 1
        self._burst_beats, self._most, self._beats_out = burst_beats, most, beats_out
        super().__init__({
            "start": In(1), "region": In(3), "offset": In(32), "add": In(range(most + 1)),
            "close": In(1), "stuck": In(1),
            "wants": Out(1), "empty": Out(1), "idle": Out(1), "faulted": Out(1),
            "read": Out(BeatRead(width=width)),
        })

    def elaborate(self, platform):
        m = Module()
        read = self.read
        region, offset = Signal(3, reset_less=True), Signal(32, reset_less=True)
        waiting = Signal(range(self._burst_beats + self._most + 1))
        out = Signal(range(self._beats_out + 1))
        # Beats from offset to a burst's end, never 0: nothing waiting is not a whole burst.
        limit = Signal(range(self._burst_beats + 1), init=self._burst_beats, reset_less=True)
        beats = Signal(range(self._burst_beats + 1))
        whole, send, accepted = Signal(), Signal(), Signal()
        m.d.comb += [
            whole.eq(waiting >= limit), beats.eq(Mux(whole, limit, waiting)),
            self.wants.eq(waiting < self._burst_beats), self.empty.eq(waiting == 0),
            self.idle.eq((out == 0) & ~read.request_valid),
            send.eq((whole | (~self.empty & (self.close | (self.stuck & self.idle))))
                    & (~read.request_valid | accepted) & ~self.faulted),
            accepted.eq(read.request_valid & read.request_ready),
        ]
        with m.If(accepted):
            m.d.sync += [read.request_valid.eq(0), self.faulted.eq(read.fault)]
        with m.If(send & ~(accepted & read.fault)):
            m.d.sync += [
                read.request_valid.eq(1), read.request_region.eq(region), read.request_offset.eq(offset),
                read.request_beats.eq(beats), offset.eq(offset + (beats << self._beat_log)),
                limit.eq(Mux(whole, self._burst_beats, limit - waiting)),
            ]
        with m.If(self.start):
            m.d.sync += [region.eq(self.region), offset.eq(self.offset),
                         limit.eq(self._burst_beats - self.offset[self._beat_log:self._beat_log + self._burst_log])]
        m.d.sync += [
            waiting.eq(waiting + self.add - Mux(send, beats, 0)),
            out.eq(out + Mux(accepted & ~read.fault, read.request_beats, 0) - read.beat_valid),
        ]
        return m
