"""AXI write channels: bursts whose data is at hand."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..ports import AxiWrite

__all__ = ["WritePort"]

OUTSTANDING = 32    # a power of two


class WritePort(wiring.Component):
    """Issues bursts and sends their beats; counts the responses.

    A burst's address and first beat are offered independently of each other. Throughput: a beat a cycle, also in
    bursts of one beat. At most 32 bursts are outstanding.

    While ``abort`` is high no burst is taken, and the beats that are owed are sent without strobes, whatever ``beat``
    holds; the beat on the bus stays as it is until WREADY.

    Parameters
    ----------
    address_width, width, burst_beats : int
    tag : shape     what ``beat``'s producer wants to know of a burst

    Members
    -------
    burst : In(stream)    address, beats, tag; to be offered only when its beats will follow
    beat : In(stream)     data, strobe
    tag, last : Out       tag of the burst that ``beat`` belongs to; its last beat
    axi : Out(AxiWrite)
    abort : In(1)
    idle : Out(1)         nothing is on the bus or outstanding
    error : Out(1)        a response was not OKAY
    """

    def __init__(self, *, address_width, width, burst_beats, tag):
        self._burst_beats = burst_beats
        super().__init__({
            "burst": In(stream.Signature(data.StructLayout(
                {"address": address_width, "beats": range(burst_beats + 1), "tag": tag}))),
            "beat": In(stream.Signature(data.StructLayout({"data": width, "strobe": width // 8}))),
            "tag": Out(tag), "last": Out(1),
            "axi": Out(AxiWrite(address_width=address_width, width=width)),
            "abort": In(1), "idle": Out(1), "error": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        axi, burst, beat = self.axi, self.burst, self.beat
        left = Signal(range(self._burst_beats + 1))       # beats not yet put on the bus
        pending = Signal(range(OUTSTANDING + 1))
        owed = Signal()                                   # left is not 0
        room, step, accepted, answered = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            room.eq(~axi.wvalid | axi.wready),
            beat.ready.eq(room & owed & ~self.abort),
            step.eq(room & owed & (beat.valid | self.abort)),
            # With the last beat's step, spelt out as that drives the whole data path; last is low where none is owed.
            burst.ready.eq((~axi.awvalid | axi.awready) & (~owed | (room & self.last & beat.valid))
                           & ~pending[-1] & ~self.abort),
            accepted.eq(burst.valid & burst.ready),
            axi.bready.eq(pending != 0), answered.eq(axi.bvalid & axi.bready),
            self.error.eq(answered & (axi.bresp != 0)),
            self.idle.eq((pending == 0) & ~axi.awvalid & ~axi.wvalid & ~owed),
        ]
        m.d.sync += pending.eq(pending + accepted - answered)
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(room):
            m.d.sync += axi.wvalid.eq(step)
        with m.If(step):
            m.d.sync += [axi.wdata.eq(beat.payload.data), axi.wlast.eq(self.last), left.eq(left - 1),
                         owed.eq(~self.last), self.last.eq(left == 2),
                         axi.wstrb.eq(beat.payload.strobe)]
            with m.If(self.abort):
                m.d.sync += axi.wstrb.eq(0)
        with m.If(accepted):
            m.d.sync += [axi.awvalid.eq(1), axi.awaddr.eq(burst.payload.address),
                         axi.awlen.eq(burst.payload.beats - 1), left.eq(burst.payload.beats),
                         owed.eq(1), self.last.eq(burst.payload.beats == 1),
                         self.tag.eq(burst.payload.tag)]
        return m
