"""Queues of commands in front of the units."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import COMMAND_WORDS, COMMANDS, Opcode, Unit, last_word, layout

__all__ = ["UnitQueues", "QUEUE_DEPTH"]

QUEUE_DEPTH = 4
FIRST_WORD = 2  # header and patches stay with the sequencer


class UnitQueues(wiring.Component):
    """Four commands deep for each unit, in one block RAM written and read word by word.

    A command costs a cycle a word in, and 4 more out; units work for hundreds, so one port for all five is enough and
    the wide queues of registers are saved. A command is read out as soon as it is written, into a holding register,
    and offered to its unit once it is committed.

    Members
    -------
    write_valid, write_unit, write_word, write_data : In   a word of the command being written for a unit
    written : In(1)         with the command's last word
    commit : In(1)          the command written last may be carried out; before the next one is written
    room : Out(len(Unit))   a bit a unit: another command can be written
    stream ... store : Out(stream)   commands to the units
    began : Out(len(Unit))  a bit a unit: a pulse in the first cycle in which a command is offered to it
    """

    def __init__(self):
        super().__init__({
            "write_valid": In(1), "write_unit": In(range(len(Unit))), "write_word": In(range(COMMAND_WORDS)),
            "write_data": In(32), "written": In(1), "commit": In(1), "room": Out(len(Unit)), "began": Out(len(Unit)),
            **{unit.name.lower(): Out(stream.Signature(layout(Opcode[unit.name]))) for unit in Unit},
        })

    def elaborate(self, platform):
        m = Module()
        # A slot is read only after its last word was written, so a read never meets a write of the same word.
        m.submodules.store = store = memory.Memory(
            shape=32, depth=len(Unit) * QUEUE_DEPTH * COMMAND_WORDS, init=[], attrs={"no_rw_check": 1})
        write, read = store.write_port(), store.read_port()
        head = Array(Signal(range(QUEUE_DEPTH), name=f"head_{unit.name.lower()}") for unit in Unit)
        tail = Array(Signal(range(QUEUE_DEPTH), name=f"tail_{unit.name.lower()}") for unit in Unit)
        count = Array(Signal(range(QUEUE_DEPTH + 1), name=f"count_{unit.name.lower()}") for unit in Unit)
        held = Signal(len(Unit))
        waiting = Signal(len(Unit))

        m.d.comb += [
            self.room.eq(Cat(c != QUEUE_DEPTH for c in count)),
            waiting.eq(Cat(c != 0 for c in count) & ~held),
            write.addr.eq(Cat(self.write_word, tail[self.write_unit], self.write_unit)),
            write.data.eq(self.write_data), write.en.eq(self.write_valid),
        ]
        unit = Signal(range(len(Unit)))     # being read out
        word = Signal(range(COMMAND_WORDS))
        last = Array(last_word(Opcode[unit.name]) for unit in Unit)
        asked, arriving = Signal(), Signal()    # a word is on read.data; on ``data``, as a block RAM is slow
        asked_word, arriving_word, data = Signal.like(word), Signal.like(word), Signal(32, reset_less=True)
        finish = Signal()
        m.d.comb += read.addr.eq(Cat(word, head[unit], unit))
        m.d.sync += [
            asked.eq(0), asked_word.eq(word), arriving.eq(asked), arriving_word.eq(asked_word), data.eq(read.data),
        ]
        with m.FSM():
            with m.State("PICK"):
                m.d.sync += word.eq(FIRST_WORD)
                for u in Unit:
                    with m.If(waiting[u]):
                        m.d.sync += unit.eq(u)
                with m.If(waiting.any()):
                    m.next = "READ"
            with m.State("READ"):
                m.d.sync += [word.eq(word + 1), asked.eq(1)]
                with m.If(word == last[unit]):
                    m.next = "ARRIVES"
            with m.State("ARRIVES"):
                m.next = "LAST"
            with m.State("LAST"):
                m.d.comb += finish.eq(1)
                m.next = "PICK"
        for u in Unit:
            self._build_unit(m, u, head[u], tail[u], count[u], held[u],
                             taken=finish & (unit == u), loading=arriving & (unit == u),
                             word=arriving_word, data=data)
        return m

    def _build_unit(self, m, unit, head, tail, count, held, *, taken, loading, word, data):
        port = getattr(self, unit.name.lower())
        written = self.written & (self.write_unit == unit)
        committed = self.commit & (self.write_unit == unit)
        granted = Signal(range(QUEUE_DEPTH + 2), name=f"granted_{unit.name.lower()}")  # committed, not yet taken
        shown, accepted = Signal(name=f"shown_{unit.name.lower()}"), port.valid & port.ready
        holding = Signal(32 * COMMAND_WORDS, name=f"holding_{unit.name.lower()}", reset_less=True)
        for i in sorted({field.word for field in COMMANDS[Opcode[unit.name]].values()}):
            with m.If(loading & (word == i)):
                m.d.sync += holding.word_select(i, 32).eq(data)
        m.d.comb += [
            port.valid.eq(held & (granted != 0)), port.payload.eq(holding), self.began[unit].eq(port.valid & ~shown),
        ]
        m.d.sync += shown.eq(port.valid & ~port.ready)
        with m.If(accepted):
            m.d.sync += held.eq(0)
        with m.If(taken):
            m.d.sync += [held.eq(1), head.eq(head + 1)]
        with m.If(written):
            m.d.sync += tail.eq(tail + 1)
        m.d.sync += [count.eq(count + written - taken), granted.eq(granted + committed - accepted)]
