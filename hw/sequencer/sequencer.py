"""The sequencer: runs a program from memory on the units, and stops cleanly on an error."""

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Opcode, Unit, layout
from ..ports import BeatRead, UnitStatus
from ..registers import ARGUMENTS, ErrorCode
from .issue import Issue
from .queues import UnitQueues
from .tracking import Tracking

__all__ = ["Sequencer"]

ABORT_CYCLES = 8
"""Shortest abort: long enough for what is under way in registers between the units and the bus."""


class Sequencer(wiring.Component):
    """Issues a program's commands to the units, in order.

    A command is issued when, for each unit, no more commands are unfinished than its wait field allows. Commands that
    need not wait follow each other every 9 to 24 cycles. END waits for all units.
    On an error (of a command, a unit, the watchdog, or ``stop``) ``abort`` goes up and stays until the bus is idle;
    it resets the units.

    Members
    -------
    start, stop : In(1)            begin the program at ``program``; end it with ABORTED
    keep : In(1)                   beside ``start``: memory still holds the commands of earlier runs
    program : In(32)               byte offset of the first command in region 0
    arguments : In(256)            registers 1 to 8 at start
    watchdog : In(32)              cycles without ``progress`` until WATCHDOG; 0: never
    progress : In(1)               something moved in this cycle
    bus_idle : In(1)               no burst is outstanding
    status_* : In(UnitStatus)      of the units
    stream ... store : Out         commands to the units
    read : Out(BeatRead)           program fetch and READ
    busy, abort : Out(1)           a program runs or is being stopped; reset the units
    finished, failed : Out(1)      pulse at the end, one of the two
    error_code, error_address : Out   of the last ``failed``
    waiting : Out(1)               a command is held back by its waits or by a full queue
    in_work : Out(1), address : Out(32)   the sequencer has a command in work; its offset
    began : Out(units)             a bit a unit: a pulse when a command is first offered to it
    """

    def __init__(self, *, width, commands):
        self._width, self._commands = width, commands
        names = [unit.name.lower() for unit in Unit]
        super().__init__({
            "start": In(1), "keep": In(1), "stop": In(1), "program": In(32), "arguments": In(32 * ARGUMENTS),
            "watchdog": In(32), "progress": In(1), "bus_idle": In(1),
            **{f"status_{name}": In(UnitStatus()) for name in names},
            **{name: Out(stream.Signature(layout(Opcode[name.upper()]))) for name in names},
            "read": Out(BeatRead(width=width)),
            "busy": Out(1), "abort": Out(1), "finished": Out(1), "failed": Out(1),
            "error_code": Out(8), "error_address": Out(32), "waiting": Out(1),
            "in_work": Out(1), "address": Out(32), "began": Out(len(Unit)),
        })

    def elaborate(self, platform):
        m = Module()
        reset = ResetInserter(self.abort)
        issue, queues, tracking = Issue(width=self._width, commands=self._commands), UnitQueues(), Tracking()
        m.submodules.issue, m.submodules.queues, m.submodules.tracking = reset(issue), reset(queues), reset(tracking)
        wiring.connect(m, issue.read, wiring.flipped(self.read))
        for name in (unit.name.lower() for unit in Unit):
            wiring.connect(m, getattr(queues, name), wiring.flipped(getattr(self, name)))
            wiring.connect(m, wiring.flipped(getattr(self, f"status_{name}")), getattr(tracking, f"status_{name}"))
        m.d.comb += [
            issue.start.eq(self.start & ~self.busy), issue.keep.eq(self.keep), issue.program.eq(self.program),
            issue.arguments.eq(self.arguments), issue.allowed.eq(tracking.allowed),
            issue.room.eq(queues.room & tracking.room), issue.idle.eq(tracking.idle),
            queues.write_valid.eq(issue.write), queues.write_unit.eq(issue.unit), queues.write_word.eq(issue.word),
            queues.write_data.eq(issue.value), queues.written.eq(issue.written), queues.commit.eq(issue.commit),
            tracking.issued.eq(issue.commit), tracking.issued_unit.eq(issue.unit), tracking.address.eq(issue.address),
            tracking.waits.eq(issue.waits), self.waiting.eq(issue.waiting),
            self.in_work.eq(issue.in_work), self.address.eq(issue.address), self.began.eq(queues.began),
        ]
        self._build_end(m, issue, tracking)
        return m

    def _build_end(self, m, issue, tracking):
        """Ending, well or not. A unit's error is older than what the issue logic stumbles on, so it goes first."""
        quiet = Signal(32)
        held = Signal(range(ABORT_CYCLES))
        expired = Signal()
        error = Signal(8)  # of the command in work; it stands, so that a cycle later does no harm
        m.d.sync += [expired.eq((self.watchdog != 0) & (quiet == self.watchdog)), error.eq(issue.error)]
        with m.If(self.progress | issue.commit | ~self.busy):
            m.d.sync += quiet.eq(0)
        with m.Else():
            m.d.sync += quiet.eq(quiet + 1)

        def fail(code, address):
            m.d.sync += [self.error_code.eq(code), self.error_address.eq(address)]
            m.next = "ABORT"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [self.error_code.eq(ErrorCode.NONE), self.error_address.eq(0)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.busy.eq(1)
                m.d.sync += held.eq(0)
                with m.If(tracking.error):
                    fail(tracking.code, tracking.error_address)
                with m.Elif(error != ErrorCode.NONE):
                    fail(error, issue.address)
                with m.Elif(self.stop):
                    fail(ErrorCode.ABORTED, issue.address)
                with m.Elif(expired):
                    fail(ErrorCode.WATCHDOG, issue.address)
                with m.Elif(issue.finished):
                    m.d.comb += self.finished.eq(1)
                    m.next = "IDLE"
            with m.State("ABORT"):
                m.d.comb += [self.busy.eq(1), self.abort.eq(1)]
                with m.If(held != ABORT_CYCLES - 1):
                    m.d.sync += held.eq(held + 1)
                with m.Elif(self.bus_idle):
                    m.d.comb += self.failed.eq(1)
                    m.next = "IDLE"
