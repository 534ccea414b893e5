"""Operand fetch of the vector unit: requests to the scratchpad, and the buffers that the lanes read."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..commands import Opcode, Operand, layout
from ..ports import SCRATCH_ADDRESS_WIDTH, ScratchRead

__all__ = ["OperandBuffer", "OperandFetch"]


class OperandBuffer(wiring.Component):
    """Groups of one operand between scratchpad and lanes, and the constant that stands in for them.

    A slot is what the lanes take in a cycle: ``lanes`` words. ``take`` reads the next one, which is on ``o`` a cycle
    later. A STREAM operand gives the words of its groups in order and starts a new group with each row; a ROW operand
    gives the first word of one group for a whole row; NONE and IMMEDIATE give a constant, kept in place of a group.
    With ``repeat`` the first row's groups, ``depth`` at most, serve all rows of the command.

    Each buffer counts for itself, so a later operand of the same row is read later by a delayed ``take``, and no
    delay line is needed for it.

    Latency: 1 cycle. Throughput: one slot a cycle. No flow control: the user takes only what has been written.

    Parameters
    ----------
    lanes : int          words of a slot, a power of two
    group_words : int    words of a group, a power of two, at least ``lanes``
    depth : int          groups held, a power of two
    neutral : int        FP32 bits for NONE

    Members
    -------
    start : In(1)            a command begins; nothing of the one before is left
    kind : In(2)             Operand, constant while a command runs
    immediate : In(32)       FP32 bits for IMMEDIATE
    swap : In(1)             exchange the elements of each pair
    repeat : In(1)           each row has the groups of the first one; constant while elements are in work
    write, data : In         a group arrives
    take, row_end : In(1)    a slot is taken; it is the last of its row
    released : Out(1)        this take is the last of a group
    o : Out(32 * lanes)      the slot
    """

    def __init__(self, *, lanes, group_words, depth, neutral):
        self._lanes, self._words, self._depth, self._neutral = lanes, group_words, depth, neutral
        super().__init__({
            "start": In(1), "kind": In(Operand), "immediate": In(32), "swap": In(1), "repeat": In(1),
            "write": In(1), "data": In(32 * group_words), "take": In(1), "row_end": In(1), "released": Out(1),
            "o": Out(32 * lanes),
        })

    def elaborate(self, platform):
        m = Module()
        phases = self._words // self._lanes
        m.submodules.groups = memory = Memory(shape=unsigned(32 * self._words), depth=self._depth, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        phase, next_phase = Signal(range(phases)), Signal(range(phases))
        index = Signal(range(phases))  # slot of the group to read, ahead of the wide multiplexer
        stream, constant = Signal(), Signal()
        o = Signal(32 * self._lanes, reset_less=True)
        m.d.comb += [
            stream.eq(self.kind == Operand.STREAM),
            write.en.eq(self.write | constant),
            write.data.eq(self.data),
            self.released.eq(self.take & (self.row_end | (phase == phases - 1))),
            next_phase.eq(Mux(self.released, 0, phase + self.take)),
            self.o.eq(o),
        ]
        m.d.sync += constant.eq(self.start & ~stream & (self.kind != Operand.ROW))   # long before the first slot
        with m.If(constant):
            m.d.comb += write.data[:32].eq(Mux(self.kind == Operand.IMMEDIATE, self.immediate, self._neutral))
        with m.If(write.en):
            m.d.sync += write.addr.eq(write.addr + 1)
        m.d.sync += [
            phase.eq(next_phase),
            index.eq(Mux(stream, next_phase ^ (self.swap & (self._lanes == 1)), 0)),
        ]
        with m.If((stream & self.released) | ((self.kind == Operand.ROW) & self.take & self.row_end)):
            m.d.sync += read.addr.eq(read.addr + 1)
        first = Signal.like(read.addr)
        with m.If(self.repeat & self.take & self.row_end):
            m.d.sync += read.addr.eq(first)
        with m.If(self.start):  # a constant or repeated groups of the command before go
            m.d.sync += [read.addr.eq(write.addr), first.eq(write.addr)]
        for lane, word in enumerate(self._select(read.data, index, stream)):
            m.d.sync += o.word_select(lane, 32).eq(word)
        return m

    def _select(self, group, index, stream):
        """Word of each lane out of a group: those of a slot where it is streamed, else word 0 for all."""
        words = [group.word_select(i, 32) for i in range(self._words)]
        slot = [Array(words[lane::self._lanes])[index] for lane in range(self._lanes)]
        if self._lanes == 1:
            return slot
        return [Mux(stream, Mux(self.swap, slot[lane ^ 1], slot[lane]), words[0]) for lane in range(self._lanes)]


class OperandFetch(wiring.Component):
    """Asks the scratchpad for the groups of a command's operands and says which operand each answer belongs to.

    Row after row, group after group: one read for each STREAM operand in the order a, b, c, d; with a row's first group
    also one for each ROW operand. At most one request a cycle, so a group takes as many cycles as it has operands.
    Where d is the same row for all rows (``d_stride`` 0) and its buffer holds that, it is asked for but once.
    A group is begun only while the buffers have room, which the ``released`` inputs give back.

    The scratchpad must answer within 14 cycles of a request.

    Parameters
    ----------
    group_words : int    FP32 words of a group
    depths : (int, int)  groups that the buffers of a, b and c hold, and that of d; powers of two

    Members
    -------
    command : In(layout(Opcode.VECTOR))    held while the command runs
    last_group : In(16)                    (n - 1) // group_words
    start : In(1)                          begin with the command
    read : Out(ScratchRead)
    released : In(2)                       a group was freed in the buffers of a, b and c; in that of d
    repeat : Out(1)                        d is asked for with the first row alone
    write : Out(4)                         the answer on ``read.data`` belongs to operand a, b, c, d
    arrived : Out(1)                       with it, a group has all its operands
    """

    def __init__(self, *, group_words, depths):
        self._depths = depths
        super().__init__({
            "command": In(layout(Opcode.VECTOR)), "last_group": In(16), "start": In(1),
            "read": Out(ScratchRead(width=32 * group_words)), "released": In(2),
            "repeat": Out(1), "write": Out(4), "arrived": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        command = self.command
        kinds = (command.b_kind, command.c_kind, command.d_kind)
        streams, with_rows, again = Signal(4), Signal(4), Signal(4)   # of a group; of a row's first one; without d
        used = Cat(1, ~command.square, 1, 1)  # b is then a itself
        m.d.comb += [
            streams.eq(Cat(1, *(kind == Operand.STREAM for kind in kinds)) & used),
            with_rows.eq(Cat(1, *((kind == Operand.STREAM) | (kind == Operand.ROW) for kind in kinds)) & used),
        ]

        # Where the walk stands: operands still to ask for in this group, group in the row, rows left.
        active, first_row, first_group, beginning = Signal(), Signal(), Signal(), Signal()
        pending, operand, last = Signal(4), Signal(2), Signal()  # the first of them, and whether it is the only one
        stride, is_d = Signal(16), Signal()                      # of that operand
        group, rows = Signal(16), Signal(16)
        in_group, group_ends = Signal(16), Signal()   # the row's number in its row group; whether it is the last one
        held = Signal()                               # d stays: the row before was of the same row group
        advance, row_ends, following = Signal(), Signal(), Signal(4)
        waiting = Signal()                            # a request that came while another one was not taken
        final, single, penultimate = Signal(), Signal(), Signal(16)   # the row's last group; it has but one
        m.d.comb += [
            single.eq(self.last_group == 0),
            again.eq(~Cat(Const(0, 3), self.repeat)),
            row_ends.eq(last & final),
            group_ends.eq((in_group + 1)[:16] == command.group_rows),
            advance.eq(active & ~waiting & (~beginning | self._room(m, beginning & advance))),
        ]
        m.d.sync += [
            self.repeat.eq((command.d_kind == Operand.STREAM) & (command.d_stride == 0) & (command.group_rows == 0)
                           & (self.last_group < self._depths[1])),
            penultimate.eq(self.last_group - 1),
        ]
        # Operands of the group to come.
        upcoming = Mux(final, with_rows & again, streams & (again | first_row.replicate(4)))
        m.d.comb += following.eq(Mux(last, upcoming, pending & (pending - 1)))
        first = Signal(2)
        m.d.comb += first.eq(Mux(following[0], 0, Mux(following[1], 1, Mux(following[2], 2, 3))))
        with m.If(advance):
            m.d.sync += [
                pending.eq(following), operand.eq(first), stride.eq(self._stride(first)), is_d.eq(first == 3),
                last.eq(following & (following - 1) == 0),
            ]
        with m.If(advance):
            m.d.sync += beginning.eq(last)
            with m.If(last):
                m.d.sync += [
                    first_group.eq(final), group.eq(Mux(final, 0, group + 1)),
                    final.eq(single | (~final & (group == penultimate))),
                ]
            with m.If(row_ends):
                m.d.sync += [
                    first_row.eq(0), rows.eq(rows - 1), active.eq(rows != 1),
                    in_group.eq(Mux(group_ends, 0, in_group + 1)), held.eq(~group_ends & (command.group_rows != 0)),
                ]
        with m.If(self.start):
            m.d.sync += [
                active.eq(1), first_row.eq(1), first_group.eq(1), beginning.eq(1), group.eq(0), rows.eq(command.rows),
                in_group.eq(0), final.eq(single),
                pending.eq(with_rows), operand.eq(0), stride.eq(command.a_stride), is_d.eq(0), last.eq(with_rows == 1),
            ]

        step = Mux(first_group, Mux(held & is_d, 0, stride), group)
        address = self._address(m, operand, first_row & first_group, first_group, step, advance)
        self._request(m, advance, address, waiting)
        self._answers(m, advance, operand, last)
        return m

    def _request(self, m, advance, address, waiting):
        """Two places, so that ``advance`` does not depend on the scratchpad's ``ready``."""
        spare = Signal.like(address, reset_less=True)
        with m.If(~self.read.valid | self.read.ready):
            m.d.sync += [
                self.read.valid.eq(advance | waiting), waiting.eq(0),
                self.read.address.eq(Mux(waiting, spare, address)),
            ]
        with m.Elif(advance):
            m.d.sync += waiting.eq(1)
        with m.If(advance):
            m.d.sync += spare.eq(address)

    def _room(self, m, begin):
        """Both counts of groups asked for and not yet freed leave room for one more."""
        room = Const(1)
        for i, depth in enumerate(self._depths):
            count = Signal(range(depth + 1), name=f"count_{'abc' if i == 0 else 'd'}")
            m.d.sync += count.eq(count + begin - self.released[i])
            room = room & ~count[-1]
        return room

    def _stride(self, operand):
        command = self.command
        return Array([command.a_stride, command.b_stride, command.c_stride, command.d_stride])[operand]

    def _address(self, m, operand, fresh, first_group, step, advance):
        """One adder: base, or base of the row before plus stride, or base of the row plus group."""
        command = self.command
        m.submodules.bases = bases = Memory(shape=SCRATCH_ADDRESS_WIDTH, depth=4, init=[])
        write, read = bases.write_port(), bases.read_port(domain="comb")
        start = Array([command.a, command.b, command.c, command.d])[operand]
        address = Signal(SCRATCH_ADDRESS_WIDTH)
        m.d.comb += [
            read.addr.eq(operand),
            address.eq(Mux(fresh, start, read.data) + Mux(fresh, 0, step)),
            write.addr.eq(operand),
            write.data.eq(address),
            write.en.eq(advance & first_group),
        ]
        return address

    def _answers(self, m, advance, operand, last):
        """Remember for each request where its answer goes; answers come in order."""
        tag = data.StructLayout({"operand": 2, "last": 1})
        m.submodules.tags = tags = Memory(shape=tag, depth=16, init=[])
        write, read = tags.write_port(), tags.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(advance),
            write.data.operand.eq(operand),
            write.data.last.eq(last),
            self.arrived.eq(self.read.data_valid & read.data.last),
        ]
        m.d.comb += [self.write[i].eq(self.read.data_valid & (read.data.operand == i)) for i in range(4)]
        with m.If(advance):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(self.read.data_valid):
            m.d.sync += read.addr.eq(read.addr + 1)
