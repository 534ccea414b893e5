"""Reads commands, patches them with scalar registers, carries out SCALAR, BRANCH and END, passes the rest on."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..commands import (
    COMMAND_BYTES,
    COMMAND_WORDS,
    HEADER,
    PATCHES,
    Condition,
    Opcode,
    Unit,
    last_word,
    layout,
)
from ..ports import BeatRead
from ..registers import ARGUMENTS, ErrorCode
from .fetch import ProgramFetch
from .scalar import ScalarUnit

__all__ = ["Issue"]

FIRST_WORD = 2  # behind header and patches


class Issue(wiring.Component):
    """One command at a time, in program order.

    A command takes 2 cycles of header, one for each word up to its last one that means something, one for each patch,
    and the wait. It waits with its words already in the unit's queue, so that it begins soon after what it waits for.

    Members
    -------
    start : In(1), program : In(32), arguments : In(256)   begin at ``program`` with registers 1 to 8 set
    read : Out(BeatRead)      program fetch and READ
    waits : Out               wait fields of the command in work
    allowed : In(1)           they are met
    room : In(units)          a bit a unit: it can take another command
    idle : In(1)              every unit is idle
    unit, word, value, write : Out   words of a unit's command, with ``written`` beside the last
    commit : Out(1)           it may be carried out
    in_work : Out(1)          a command is in work, from behind its first word to its end
    address : Out(32)         its offset; between commands that of the next
    finished : Out(1)         END was reached and everything is done
    waiting : Out(1)          the command in work is held back
    error : Out(8)            ErrorCode of the command in work, not NONE as long as it stands
    """

    def __init__(self, *, width):
        self._width = width
        super().__init__({
            "start": In(1), "program": In(32), "arguments": In(32 * ARGUMENTS),
            "read": Out(BeatRead(width=width)),
            "waits": Out(4 * len(Unit)), "allowed": In(1), "room": In(len(Unit)), "idle": In(1),
            "unit": Out(range(len(Unit))), "word": Out(range(COMMAND_WORDS)), "value": Out(32),
            "write": Out(1), "written": Out(1), "commit": Out(1),
            "in_work": Out(1), "address": Out(32), "finished": Out(1), "waiting": Out(1), "error": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetch = self._fetch = fetch = ProgramFetch(width=self._width)
        m.submodules.scalar = self._scalar = scalar = ScalarUnit()
        wiring.connect(m, fetch.read, wiring.flipped(self.read))
        wiring.connect(m, scalar.memory, fetch.data)

        self._opcode = opcode = Signal(8)
        self._is_unit = is_unit = Signal()
        self._patches = Signal(data.ArrayLayout(data.StructLayout({"word": 4, "register": 4}), PATCHES))
        self._decoded = Signal(64)          # words 2 and 3, of SCALAR and BRANCH
        self._jump = Signal()
        self._target = Signal(32, reset_less=True)
        self._last = Signal(range(COMMAND_WORDS))    # last word of the command in work
        argument, last = Signal(range(ARGUMENTS)), Signal(range(COMMAND_WORDS), init=FIRST_WORD + 1)
        for unit in Unit:
            with m.If(opcode == Opcode[unit.name]):
                m.d.comb += [self.unit.eq(unit), is_unit.eq(1), last.eq(last_word(Opcode[unit.name]))]
        self._command = Cat(Const(0, 32 * FIRST_WORD), self._decoded)
        m.d.comb += scalar.command.payload.as_value().eq(self._command)
        m.d.comb += self.error.eq(scalar.error)

        header = fetch.word.payload
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += fetch.target.eq(self.program)
                m.d.sync += [argument.eq(0), self.address.eq(self.program)]
                with m.If(self.start):
                    m.d.comb += fetch.jump.eq(1)
                    m.d.sync += fetch.enable.eq(1)
                    m.next = "ARGUMENTS"
            with m.State("ARGUMENTS"):
                m.d.comb += [scalar.put.eq(1), scalar.put_index.eq(argument + 1),
                             scalar.put_value.eq(self.arguments.word_select(argument, 32))]
                m.d.sync += argument.eq(argument + 1)
                with m.If(argument == ARGUMENTS - 1):
                    m.next = "HEADER"
            with m.State("HEADER"):
                first_wait = HEADER[f"wait_{Unit(0).name.lower()}"].lsb
                m.d.comb += fetch.word.ready.eq(1)
                m.d.sync += [opcode.eq(header[:8]), self.waits.eq(header[first_wait:])]
                self._fetch_errors(m)
                with m.If(fetch.word.valid):
                    m.next = "PATCHES"
            with m.State("PATCHES"):
                m.d.comb += fetch.word.ready.eq(1)
                m.d.sync += [self._patches.eq(header), self.word.eq(FIRST_WORD), self._last.eq(last)]
                self._fetch_errors(m)
                with m.If(fetch.word.valid):
                    m.next = "WORDS"
            with m.State("WORDS"):
                self._build_words(m)
            with m.State("WAIT"):
                with m.If(self.allowed):
                    m.next = "EXECUTE"
                with m.Else():
                    m.d.comb += self.waiting.eq(1)
            with m.State("EXECUTE"):
                self._build_execute(m)
            with m.State("JUMP"):
                m.d.comb += [fetch.target.eq(self._target), fetch.jump.eq(self._jump)]
                m.d.sync += self.address.eq(self._target)
                m.next = "HEADER"
        m.d.comb += self.in_work.eq(~(fsm.ongoing("IDLE") | fsm.ongoing("ARGUMENTS") | fsm.ongoing("HEADER")))
        return m

    def _fetch_errors(self, m):
        with m.If(self._fetch.fault):
            m.d.comb += self.error.eq(ErrorCode.READ_RANGE)
        with m.If(self._fetch.error):
            m.d.comb += self.error.eq(ErrorCode.READ_RESPONSE)

    def _build_words(self, m):
        """The words of a command, once its unit has room for them; the end of the program."""
        known = Cat(self._opcode == code for code in Opcode).any()
        with m.If(~known):
            m.d.comb += self.error.eq(ErrorCode.BAD_OPCODE)
        with m.Elif(self._opcode == Opcode.END):
            with m.If(self.idle):
                m.d.comb += self.finished.eq(1)
                m.d.sync += self._fetch.enable.eq(0)
                m.next = "IDLE"
        with m.Elif(~self._is_unit | self.room.bit_select(self.unit, 1)):
            self._build_patching(m)
        with m.Else():
            m.d.comb += self.waiting.eq(1)

    def _build_patching(self, m):
        """Each word plus the registers patched into it; a patch takes a cycle before its word passes."""
        fetch, scalar = self._fetch, self._scalar
        addend = Signal(32)
        applied = Signal(PATCHES)
        pending = Signal(PATCHES)
        registers = Array(patch.register for patch in self._patches)
        m.d.comb += pending.eq(Cat((patch.word == self.word) & (patch.register != 0)
                                   for patch in self._patches) & ~applied)
        m.d.comb += self.value.eq(fetch.word.payload + addend)
        for i in reversed(range(PATCHES)):
            with m.If(pending[i]):
                m.d.comb += scalar.index.eq(registers[i])
        with m.If(pending.any()):
            m.d.sync += [addend.eq(addend + scalar.value), applied.eq(applied | (pending & (~pending + 1)))]
        with m.Else():
            self._fetch_errors(m)
            m.d.comb += [fetch.word.ready.eq(1), fetch.skip.eq(self.word == self._last),
                         self.write.eq(fetch.word.valid & self._is_unit)]
            with m.If(fetch.word.valid):
                m.d.sync += [self.word.eq(self.word + 1), addend.eq(0)]
                with m.If(self.word < FIRST_WORD + 2):
                    m.d.sync += self._decoded.word_select(self.word[0], 32).eq(self.value)
                with m.If(self.word == self._last):
                    m.d.comb += self.written.eq(self._is_unit)
                    m.d.sync += applied.eq(0)
                    m.next = "WAIT"
                    with m.If(self.allowed):
                        m.next = "EXECUTE"

    def _build_execute(self, m):
        scalar = self._scalar
        branch = Signal(layout(Opcode.BRANCH))
        m.d.comb += branch.as_value().eq(self._command)
        following = Signal(32)
        tested, jump = Signal(32), Signal()
        m.d.comb += [
            following.eq(self.address + COMMAND_BYTES),
            tested.eq(scalar.value - (branch.condition == Condition.LOOP)),
            jump.eq((branch.condition == Condition.ALWAYS)
                    | ((tested == 0) == (branch.condition == Condition.ZERO))),
        ]
        with m.If(self._is_unit):
            m.d.comb += self.commit.eq(1)
            m.d.sync += self.address.eq(following)
            m.next = "HEADER"
        with m.Elif(self._opcode == Opcode.SCALAR):
            m.d.comb += scalar.command.valid.eq(1)
            with m.If(scalar.command.ready):
                m.d.sync += self.address.eq(following)
                m.next = "HEADER"
        with m.Else():
            m.d.comb += [
                scalar.index.eq(branch.rs), scalar.put_index.eq(branch.rs), scalar.put_value.eq(tested),
                scalar.put.eq(branch.condition == Condition.LOOP),
            ]
            m.d.sync += [
                self._jump.eq(jump),
                self._target.eq(Mux(jump, self.address + branch.distance * COMMAND_BYTES, following)),
            ]
            m.next = "JUMP"
