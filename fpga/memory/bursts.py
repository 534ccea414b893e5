"""From AXI bursts to pieces that lie in one row of one bank."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BurstSplitter", "burst_layout", "piece_layout", "PAGE_BYTES"]

PAGE_BYTES = 1024    # a row of one bank


def burst_layout(*, width):
    """A burst: row of the banks, its first beat in that row of all four banks, beats - 1; ``error``: not in memory."""
    beat = (4 * PAGE_BYTES * 8 // width - 1).bit_length()
    return data.StructLayout({"row": 13, "beat": beat, "length": 8, "error": 1})


def piece_layout(*, width):
    """Beats in one row of one bank: ``column`` counts beats, ``length`` is beats - 1; ``last``: ends its burst."""
    column = (PAGE_BYTES * 8 // width - 1).bit_length()
    return data.StructLayout({"write": 1, "error": 1, "last": 1, "row": 13, "bank": 2, "column": column, "length": 8})


class BurstSplitter(wiring.Component):
    """Chooses reads and writes in turn and splits them where the bank ends.

    A read is chosen only when the read buffer has room for all of it, and a write when all its beats are there, so
    nothing behind this unit ever waits for the bus. Throughput: a piece every 2 cycles, a burst every 3.

    Members
    -------
    reads, writes : In(stream of burst_layout)
    room : In, reserve : Out    of the read buffer, as ReplayBuffer has them
    arrived : In(1)             the last beat of a write was stored
    pieces : Out(stream of piece_layout)
    """

    def __init__(self, *, width, entries):
        self._width, self._entries = width, entries
        self._piece = piece_layout(width=width)
        burst = burst_layout(width=width)
        super().__init__({
            "reads": In(stream.Signature(burst)), "writes": In(stream.Signature(burst)),
            "room": In(range(entries + 1)), "reserve": Out(range(entries + 1)), "arrived": In(1),
            "pieces": Out(stream.Signature(self._piece)),
        })

    def elaborate(self, platform):
        m = Module()
        reads, writes, pieces = self.reads, self.writes, self.pieces
        piece = Signal(self._piece, reset_less=True)
        columns = len(piece.column)
        left = Signal(8, reset_less=True)    # beats not yet in a piece, less one

        # Known a cycle late: a choice is made every three cycles at most, so each is made on what is true.
        whole = Signal(range(self._entries + 1))    # writes of which all beats are there
        room = Signal.like(self.room)
        may_read, may_write = Signal(), Signal()
        taken = Signal()
        m.d.comb += taken.eq(writes.valid & writes.ready)
        m.d.sync += [
            room.eq(self.room), may_read.eq(reads.valid & (reads.payload.length < room)),
            whole.eq(whole + self.arrived - taken), may_write.eq(writes.valid & (whole != 0)),
        ]
        m.d.comb += pieces.payload.eq(piece)
        with m.FSM():
            with m.State("CHOOSE"):
                write = Signal()
                m.d.comb += write.eq(may_write & ~(may_read & piece.write))
                burst = Signal(burst_layout(width=self._width))
                m.d.comb += [burst.eq(Mux(write, writes.payload, reads.payload)), writes.ready.eq(write)]
                with m.If(may_read & ~write):
                    m.d.comb += [reads.ready.eq(1), self.reserve.eq(reads.payload.length + 1)]
                m.d.sync += [
                    piece.error.eq(burst.error), piece.row.eq(burst.row), piece.bank.eq(burst.beat[columns:]),
                    piece.column.eq(burst.beat[:columns]), left.eq(burst.length),
                ]
                with m.If(may_read | may_write):
                    m.d.sync += piece.write.eq(write)
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                to_end = Signal(columns)
                m.d.comb += to_end.eq(~piece.column)
                m.d.sync += [piece.last.eq(1), piece.length.eq(left)]
                with m.If(to_end < left):
                    m.d.sync += [piece.last.eq(0), piece.length.eq(to_end)]
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += pieces.valid.eq(1)
                with m.If(pieces.ready):
                    m.d.sync += [piece.bank.eq(piece.bank + 1), piece.column.eq(0), left.eq(left - piece.length - 1)]
                    m.next = "MEASURE"
                    with m.If(piece.last):
                        m.next = "CHOOSE"
        return m
