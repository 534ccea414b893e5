"""Opening and closing of rows, refresh and initialisation of an SDRAM."""

from math import ceil

from amaranth.hdl import Array, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .bursts import PAGE_BYTES, piece_layout
from .timing import POSTPONED

__all__ = ["Command", "Rows", "command_layout"]

IDLE_LOG = 4    # cycles without work, as a power of two, before a refresh that is not yet urgent
AROUND = 40     # cycles that opening a row and waiting cost beside each piece, generously


class Command:
    """RAS, CAS, WE, each high where its pin is low."""

    NOP = 0b000
    ACTIVE = 0b001
    READ = 0b010
    WRITE = 0b110
    PRECHARGE = 0b101
    REFRESH = 0b011
    MODE = 0b111


def command_layout():
    """Command (bit 0: RAS), bank and address lines."""
    return data.StructLayout({"code": 3, "ba": 2, "a": 13})


def wait(timer, cycles):
    """Statement: ``timer[-1]``, the sign, is high from ``cycles`` cycles after this one on."""
    return timer.eq(cycles - 2)


def count_down(timer):
    """Statement for each cycle in which ``timer`` is not set."""
    return timer.eq(timer + (timer[-1] - 1))


class Rows(wiring.Component):
    """Makes the next piece's row ready while the present piece streams; between pieces it refreshes.

    After reset: pause, all banks closed, 8 refreshes, mode register. Then for each piece: nothing if its row is open,
    ACTIVE if its bank is closed, PRECHARGE and ACTIVE if it has another row open; the piece is handed on when the row
    may be used and the column unit is free. Refreshes that are due wait for a pause of 16 cycles, or until so many of
    them wait that the last must come before the ninth is due; then all are made one after another.

    Members
    -------
    pieces : In(stream of piece_layout)
    ready_pieces : Out(stream of piece_layout)    the row is open
    command : Out(command_layout), valid : Out(1), take : In(1)
    busy_bank, busy : In     bank of the piece in work; a piece is in work
    ended : In(1)            in this cycle the piece in work issues its last column command
    initialised : Out(1)     stays high
    """

    def __init__(self, *, cycles, width):
        self._cycles, self._burst = cycles, width // 16
        longest = 2 * (PAGE_BYTES // 2 + AROUND)    # the piece in work, and the one that is being made ready
        self._urgent = POSTPONED - ceil(longest / cycles.interval)
        if self._urgent < 1:
            raise ValueError(f"clock_hz must be higher: a refresh is due each {cycles.interval} cycles, at least "
                             f"{ceil(longest / (POSTPONED - 1))} are needed")
        piece = piece_layout(width=width)
        super().__init__({
            "pieces": In(stream.Signature(piece)), "ready_pieces": Out(stream.Signature(piece)),
            "command": Out(command_layout()), "valid": Out(1), "take": In(1),
            "busy_bank": In(2), "busy": In(1), "ended": In(1), "initialised": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        cycles, piece = self._cycles, self.pieces.payload
        timer = Signal(range(-1, cycles.power_up + 1), init=cycles.power_up)
        active_timer = Signal(signed(6), init=-1)     # since the last ACTIVE, until any PRECHARGE may come
        ended_timer = Signal(signed(6), init=-1)      # the same since the last column command of the last piece
        m.d.sync += [count_down(timer), count_down(active_timer), count_down(ended_timer)]
        with m.If(self.ended):
            m.d.sync += wait(ended_timer, self._burst - 1 + cycles.t_wr)
        refreshed, owed, urgent = Signal(), Signal(range(16), init=8), Signal()
        at_rest = Signal(IDLE_LOG + 1)
        self._build_debt(m, refreshed, owed, urgent)

        opened, rows = Signal(4), Array(Signal(13, reset_less=True, name=f"row_of_bank{i}") for i in range(4))
        open_row, is_open = Signal(13, reset_less=True), Signal()
        quiet, may_close = Signal(), Signal()
        m.d.comb += [
            quiet.eq(active_timer[-1] & ended_timer[-1]), self.ready_pieces.payload.eq(piece),
            may_close.eq(quiet & ~(self.busy & (self.busy_bank == piece.bank))),
        ]
        with m.If(~self.busy & ~self.pieces.valid & ~at_rest[-1]):
            m.d.sync += at_rest.eq(at_rest + 1)
        with m.If(self.busy | self.pieces.valid):
            m.d.sync += at_rest.eq(0)

        def issue(code, *, ba=0, a=0):
            m.d.comb += [self.valid.eq(1), self.command.code.eq(code), self.command.ba.eq(ba), self.command.a.eq(a)]

        with m.FSM():
            with m.State("PAUSE"):
                with m.If(timer[-1]):
                    m.next = "CLOSE"
            with m.State("LOOK"):
                m.d.sync += [open_row.eq(rows[piece.bank]), is_open.eq(opened.bit_select(piece.bank, 1))]
                with m.If(urgent & (owed != 0)):
                    m.next = "CLOSE"
                with m.Elif(self.pieces.valid):
                    m.next = "COMPARE"
                with m.Elif(at_rest[-1] & (owed != 0)):
                    m.next = "CLOSE"
            with m.State("COMPARE"):
                m.next = "PRECHARGE"
                with m.If(~is_open):
                    m.next = "ACTIVATE"
                with m.Elif(open_row == piece.row):
                    m.next = "READY"
            with m.State("PRECHARGE"):
                with m.If(may_close):
                    issue(Command.PRECHARGE, ba=piece.bank)
                    with m.If(self.take):
                        m.d.sync += [opened.bit_select(piece.bank, 1).eq(0), wait(timer, cycles.t_rp)]
                        m.next = "ACTIVATE"
            with m.State("ACTIVATE"):
                with m.If(timer[-1]):
                    issue(Command.ACTIVE, ba=piece.bank, a=piece.row)
                    with m.If(self.take):
                        # The column unit issues its first command a cycle after it took the piece.
                        m.d.sync += [opened.bit_select(piece.bank, 1).eq(1), rows[piece.bank].eq(piece.row),
                                     wait(timer, cycles.t_rcd - 1), wait(active_timer, cycles.t_ras)]
                        m.next = "READY"
            with m.State("READY"):
                m.d.comb += self.ready_pieces.valid.eq(timer[-1])
                with m.If(self.ready_pieces.valid & self.ready_pieces.ready):
                    m.d.comb += self.pieces.ready.eq(1)
                    m.next = "LOOK"
            with m.State("CLOSE"):
                with m.If(timer[-1] & quiet & ~self.busy):
                    issue(Command.PRECHARGE, a=1 << 10)
                    m.d.sync += [opened.eq(0), wait(timer, cycles.t_rp)]
                    m.next = "REFRESH"
            with m.State("REFRESH"):
                with m.If(timer[-1]):
                    issue(Command.REFRESH)
                    m.d.comb += refreshed.eq(1)
                    m.d.sync += wait(timer, cycles.t_rfc)
                    with m.If(owed == 1):
                        m.next = "LOOK"
                        with m.If(~self.initialised):
                            m.next = "MODE"
            with m.State("MODE"):
                with m.If(timer[-1]):
                    # Sequential bursts of one beat, reads and writes alike
                    issue(Command.MODE, a=cycles.cas_latency << 4 | (self._burst.bit_length() - 1))
                    m.d.sync += [wait(timer, cycles.t_mrd), self.initialised.eq(1)]
                    m.next = "LOOK"
        return m

    def _build_debt(self, m, refreshed, owed, urgent):
        """Refreshes owed: eight at first, which are those of the initialisation; one more each interval after it."""
        elapsed, due = Signal(range(self._cycles.interval)), Signal()
        m.d.sync += [due.eq(0), urgent.eq(self.initialised & (owed >= self._urgent))]
        with m.If(self.initialised):
            m.d.sync += elapsed.eq(elapsed + 1)
            with m.If(elapsed == self._cycles.interval - 1):
                m.d.sync += [elapsed.eq(0), due.eq(1)]
        m.d.sync += owed.eq(owed + due - refreshed)
