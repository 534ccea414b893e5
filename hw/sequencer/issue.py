"""Reads commands, patches them with scalar registers, carries out SCALAR, BRANCH and END, passes the rest on."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
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
PATCH = data.StructLayout({"word": 4, "register": 4})


class Issue(wiring.Component):
    """One command at a time, in program order.

    A command takes 2 cycles of header, one for each word up to its last one that means something, one for each patch
    and one more for each patched word, and the wait, of a cycle at least. It waits with its words already in the unit's
    queue, so that it begins soon after what it waits for.

    Members
    -------
    start : In(1), program : In(32), arguments : In(256)   begin at ``program`` with registers 1 to 8 set
    keep : In(1)              beside ``start``: memory still holds the commands of earlier runs
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

    def __init__(self, *, width, commands):
        self._width, self._commands = width, commands
        super().__init__({
            "start": In(1), "keep": In(1), "program": In(32), "arguments": In(32 * ARGUMENTS),
            "read": Out(BeatRead(width=width)),
            "waits": Out(4 * len(Unit)), "allowed": In(1), "room": In(len(Unit)), "idle": In(1),
            "unit": Out(range(len(Unit))), "word": Out(range(COMMAND_WORDS)), "value": Out(32),
            "write": Out(1), "written": Out(1), "commit": Out(1),
            "in_work": Out(1), "address": Out(32), "finished": Out(1), "waiting": Out(1), "error": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetch = self._fetch = fetch = ProgramFetch(width=self._width, commands=self._commands)
        m.submodules.scalar = self._scalar = scalar = ScalarUnit()
        wiring.connect(m, fetch.read, wiring.flipped(self.read))
        wiring.connect(m, scalar.memory, fetch.data)

        self._opcode = opcode = Signal(8)
        self._is_unit = Signal()
        self._patches = Signal(data.ArrayLayout(PATCH, PATCHES))
        self._pending = Signal(PATCHES)     # of the word in work, those that are still to be added
        self._decoded = Signal(64)          # words 2 and 3, of SCALAR and BRANCH
        self._jump = Signal()
        self._unknown = Signal()            # the opcode is none
        self._ready = Signal()              # the command's unit has room for it
        self._last = Signal(range(COMMAND_WORDS))    # last word of the command in work
        self._at_last = Signal()
        argument, last = Signal(range(ARGUMENTS)), Signal(range(COMMAND_WORDS), init=FIRST_WORD + 1)
        for unit in Unit:
            with m.If(self._is_unit & (self.unit == unit)):
                m.d.comb += last.eq(last_word(Opcode[unit.name]))
        self._branch = Signal(layout(Opcode.BRANCH))
        command = Cat(Const(0, 32 * FIRST_WORD), self._decoded)
        m.d.comb += [scalar.command.payload.as_value().eq(command), self._branch.as_value().eq(command)]
        m.d.comb += [self.error.eq(scalar.error), fetch.jump.eq(self._jump)]
        known = Cat(opcode == code for code in Opcode).any()
        m.d.sync += [
            self._jump.eq(0), self._unknown.eq(~known),
            self._ready.eq(known & (opcode != Opcode.END) & (~self._is_unit | self.room.bit_select(self.unit, 1))),
        ]

        header = fetch.word.payload
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.sync += [argument.eq(0), self.address.eq(self.program), fetch.target.eq(self.program)]
                with m.If(self.start):
                    m.d.sync += [fetch.enable.eq(1), fetch.forget.eq(~self.keep)]
                    m.next = "ARGUMENTS"
            with m.State("ARGUMENTS"):
                m.d.comb += [scalar.put.eq(1), scalar.put_index.eq(argument + 1),
                             scalar.put_value.eq(self.arguments.word_select(argument, 32))]
                m.d.sync += [argument.eq(argument + 1), self._jump.eq(argument == 0)]
                with m.If(argument == ARGUMENTS - 1):
                    m.next = "HEADER"
            with m.State("HEADER"):
                first_wait = HEADER[f"wait_{Unit(0).name.lower()}"].lsb
                m.d.comb += fetch.word.ready.eq(1)
                m.d.sync += [opcode.eq(header[:8]), self.waits.eq(header[first_wait:]), self._is_unit.eq(0)]
                for unit in Unit:
                    with m.If(header[:8] == Opcode[unit.name]):
                        m.d.sync += [self.unit.eq(unit), self._is_unit.eq(1)]
                self._fetch_errors(m)
                with m.If(fetch.word.valid):
                    m.next = "PATCHES"
            with m.State("PATCHES"):
                m.d.comb += fetch.word.ready.eq(1)
                m.d.sync += [
                    self._patches.eq(header), self.word.eq(FIRST_WORD), self._last.eq(last),
                    self._at_last.eq(last == FIRST_WORD),
                    self._pending.eq(_matches(data.View(self._patches.shape(), header), FIRST_WORD)),
                ]
                self._fetch_errors(m)
                with m.If(fetch.word.valid):
                    m.next = "WORDS"
            with m.State("WORDS"):
                self._build_words(m)
            with m.State("WAIT"):
                m.d.comb += self.waiting.eq(~self.allowed)
                with m.If(self.allowed):
                    self._build_execute(m)
            with m.State("SCALAR"):
                m.d.comb += scalar.command.valid.eq(1)
                with m.If(scalar.command.ready):
                    m.d.sync += self.address.eq(self.address + COMMAND_BYTES)
                    m.next = "HEADER"
            self._build_branch(m)
        m.d.comb += self.in_work.eq(~(fsm.ongoing("IDLE") | fsm.ongoing("ARGUMENTS") | fsm.ongoing("HEADER")))
        return m

    def _fetch_errors(self, m):
        with m.If(self._fetch.fault):
            m.d.comb += self.error.eq(ErrorCode.READ_RANGE)
        with m.If(self._fetch.error):
            m.d.comb += self.error.eq(ErrorCode.READ_RESPONSE)

    def _build_words(self, m):
        """The words of a command, once its unit has room for them; the end of the program."""
        with m.If(self._ready):
            self._build_patching(m)
        with m.Elif(self._unknown):
            m.d.comb += self.error.eq(ErrorCode.BAD_OPCODE)
        with m.Elif(self._opcode != Opcode.END):
            m.d.comb += self.waiting.eq(1)
        with m.Elif(self.idle):
            m.d.comb += self.finished.eq(1)
            m.d.sync += self._fetch.enable.eq(0)
            m.next = "IDLE"

    def _build_patching(self, m):
        """Each word plus the registers patched into it: a register is read in one cycle and added in the next."""
        fetch, scalar, pending = self._fetch, self._scalar, self._pending
        addend, register = Signal(32), Signal(32)
        adding = Signal()
        m.d.comb += self.value.eq(fetch.word.payload + addend)
        for i in reversed(range(PATCHES)):
            with m.If(pending[i]):
                m.d.comb += scalar.index.eq(self._patches[i].register)
        m.d.sync += [register.eq(scalar.value), adding.eq(pending.any())]
        with m.If(adding):
            m.d.sync += addend.eq(addend + register)
        with m.If(pending.any()):
            m.d.sync += pending.eq(pending & (pending - 1))
        with m.Elif(~adding):
            self._fetch_errors(m)
            m.d.comb += [fetch.word.ready.eq(1), fetch.skip.eq(self._at_last),
                         self.write.eq(fetch.word.valid & self._is_unit)]
            with m.If(fetch.word.valid):
                following = Signal.like(self.word)
                m.d.comb += following.eq(self.word + 1)
                m.d.sync += [self.word.eq(following), addend.eq(0), self._at_last.eq(following == self._last),
                             pending.eq(_matches(self._patches, following))]
                with m.If(self.word < FIRST_WORD + 2):
                    m.d.sync += self._decoded.word_select(self.word[0], 32).eq(self.value)
                with m.If(self._at_last):
                    m.d.comb += self.written.eq(self._is_unit)
                    m.next = "WAIT"

    def _build_execute(self, m):
        with m.If(self._is_unit):
            m.d.comb += self.commit.eq(1)
            m.d.sync += self.address.eq(self.address + COMMAND_BYTES)
            m.next = "HEADER"
        with m.Elif(self._opcode == Opcode.SCALAR):
            m.next = "SCALAR"
        with m.Else():
            m.next = "BRANCH"

    def _build_branch(self, m):
        """States of a branch: read the register, test it, jump."""
        fetch, scalar = self._fetch, self._scalar
        branch = self._branch
        loop = branch.condition == Condition.LOOP
        tested = Signal(32)
        m.d.sync += tested.eq(scalar.value - loop)
        with m.State("BRANCH"):
            m.d.comb += scalar.index.eq(branch.rs)
            m.d.sync += [fetch.target.eq(self.address + branch.distance * COMMAND_BYTES), fetch.forget.eq(0)]
            m.next = "TEST"
        with m.State("TEST"):
            m.d.comb += [scalar.put_index.eq(branch.rs), scalar.put_value.eq(tested), scalar.put.eq(loop)]
            m.d.sync += self._jump.eq((branch.condition == Condition.ALWAYS)
                                      | ((tested == 0) == (branch.condition == Condition.ZERO)))
            m.next = "JUMP"
        with m.State("JUMP"):
            m.d.sync += self.address.eq(Mux(self._jump, fetch.target, self.address + COMMAND_BYTES))
            m.next = "HEADER"


def _matches(patches, word):
    return Cat((patch.word == word) & (patch.register != 0) for patch in patches)
