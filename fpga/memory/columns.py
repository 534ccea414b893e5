"""READ and WRITE commands and their data."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .bursts import piece_layout
from .rows import Command, command_layout, count_down, wait

__all__ = ["Columns", "mark_layout"]


def mark_layout():
    """What goes with a beat that is read: last of its burst; not in memory."""
    return data.StructLayout({"last": 1, "error": 1})


class Columns(wiring.Component):
    """Streams pieces: a READ or WRITE for each beat, at the rate of the bus; the row unit's commands go between.

    The SDRAM's burst is one beat of the AXI port (2 to 8 words), so two of two slots at most are taken.
    Latency: 1 cycle from a decision to ``command`` and the first word. One idle cycle lies between data read and data
    written.

    Members
    -------
    pieces : In(stream of piece_layout)    taken when the one before is done
    row_command : In(command_layout), row_valid : In(1), row_take : Out(1)
    busy_bank, busy, ended : Out           as Rows has them
    beat : In(stream)                      data, strobe; there when a WRITE's turn comes
    command : Out(command_layout), dq, dqm, dq_oe : Out
    read : Out(1), mark : Out(mark_layout)    beside ``command``: it is a READ
    written : Out(1), written_error : Out(1)  the last WRITE of a burst was issued
    """

    def __init__(self, *, cycles, width):
        self._cycles, self._width = cycles, width
        self._piece = piece_layout(width=width)
        super().__init__({
            "pieces": In(stream.Signature(self._piece)),
            "row_command": In(command_layout()), "row_valid": In(1), "row_take": Out(1),
            "busy_bank": Out(2), "busy": Out(1), "ended": Out(1),
            "beat": In(stream.Signature(data.StructLayout({"data": width, "strobe": width // 8}))),
            "command": Out(command_layout()), "dq": Out(16), "dqm": Out(2), "dq_oe": Out(1),
            "read": Out(1), "mark": Out(mark_layout()), "written": Out(1), "written_error": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        burst = self._width // 16
        piece = Signal(self._piece, reset_less=True)
        gap = Signal(signed(5), init=-1)     # to the next command
        turn = Signal(signed(5), init=-1)    # from a READ to a WRITE
        go, final = Signal(), Signal()
        m.d.comb += [
            go.eq(self.busy & gap[-1] & (~piece.write | (turn[-1] & self.beat.valid))), final.eq(piece.length == 0),
            self.ended.eq(go & final), self.busy_bank.eq(piece.bank), self.beat.ready.eq(go & piece.write),
            self.row_take.eq(~go), self.pieces.ready.eq(~self.busy),
        ]
        m.d.sync += [count_down(gap), count_down(turn)]
        with m.If(~self.busy):
            m.d.sync += [piece.eq(self.pieces.payload), self.busy.eq(self.pieces.valid)]
        with m.If(go):
            m.d.sync += [wait(gap, burst), piece.column.eq(piece.column + 1), piece.length.eq(piece.length - 1),
                         self.busy.eq(~final)]
            with m.If(~piece.write):
                m.d.sync += wait(turn, self._cycles.cas_latency + burst + 1)

        # Commands
        m.d.sync += [
            self.command.code.eq(Command.NOP), self.command.ba.eq(self.row_command.ba),
            self.command.a.eq(self.row_command.a), self.read.eq(go & ~piece.write),
            self.written.eq(go & piece.write & final & piece.last), self.written_error.eq(piece.error),
            self.mark.last.eq(final & piece.last), self.mark.error.eq(piece.error),
        ]
        with m.If(go):
            m.d.sync += [
                self.command.code.eq(Mux(piece.write, Command.WRITE, Command.READ)), self.command.ba.eq(piece.bank),
                self.command.a.eq(piece.column << (burst.bit_length() - 1)),
            ]
        with m.Elif(self.row_valid):
            m.d.sync += self.command.code.eq(self.row_command.code)

        # Words of a beat, the first beside its command
        words, strobes = Signal(self._width, reset_less=True), Signal(self._width // 8, reset_less=True)
        driving = Signal(burst)
        m.d.sync += [words.eq(words >> 16), strobes.eq(strobes >> 2), driving.eq(driving >> 1)]
        with m.If(self.beat.ready):
            m.d.sync += [words.eq(self.beat.payload.data), driving.eq(~0),
                         strobes.eq(Mux(piece.error, 0, self.beat.payload.strobe))]
        enable = driving[0]
        m.d.comb += [self.dq.eq(words[:16]), self.dq_oe.eq(enable),
                     self.dqm.eq(Cat(~strobes[0] & enable, ~strobes[1] & enable))]
        return m
