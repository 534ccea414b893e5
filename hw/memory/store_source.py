"""Where a STORE's data comes from: groups of the scratchpad, and elements cut out of them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Element
from ..ports import SCRATCH_ADDRESS_WIDTH, ScratchRead
from .buffer import ReplayBuffer

__all__ = ["GroupFetch", "Pack", "beat_tag"]


def beat_tag(beat_log):
    """What ``Pack`` has to know of a burst: byte position of the element in its group and in its beat, whether the
    group is used up with it, whether the burst's last beat is the last of its row."""
    return data.StructLayout({"slot": beat_log, "lane": beat_log, "group_ends": 1, "row_ends": 1})


class GroupFetch(wiring.Component):
    """Reads rows of groups from the scratchpad ahead of their use.

    Throughput: a group a cycle, as far as the scratchpad grants it, and a cycle for each row. One entry stays empty.

    Parameters
    ----------
    width, entries : int   bits of a group, groups stored

    Members
    -------
    row : In(stream)      group: the first one's address (top bit: beyond any scratchpad); groups: how many, not 0
    read : Out(ScratchRead)
    hold : In(1)          ask for nothing more
    arrived : Out(1)      one more group is stored
    fault : Out(1)        a group lies outside the scratchpad
    valid, front, take    as ReplayBuffer
    """

    def __init__(self, *, width, entries):
        self._width, self._entries = width, entries
        super().__init__({
            "row": In(stream.Signature(data.StructLayout({"group": SCRATCH_ADDRESS_WIDTH + 1, "groups": 32}))),
            "read": Out(ScratchRead(width=width)),
            "hold": In(1), "arrived": Out(1), "fault": Out(1),
            "valid": Out(1), "front": Out(width), "take": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = ReplayBuffer(width=self._width, entries=self._entries)
        read, row = self.read, self.row
        group, left = Signal(SCRATCH_ADDRESS_WIDTH + 1, reset_less=True), Signal(32)
        some, active, asked, room = Signal(), Signal(), Signal(), Signal()    # some: groups are left
        m.d.sync += room.eq(buffer.room > 1)    # one may be asked for in this cycle
        m.d.comb += [
            active.eq(some & ~self.hold),
            read.valid.eq(active & ~group[-1] & room), read.address.eq(group),
            asked.eq(read.valid & read.ready), buffer.reserve.eq(asked),
            row.ready.eq(~some),
            self.arrived.eq(read.data_valid), buffer.write.eq(read.data_valid), buffer.data.eq(read.data),
            self.fault.eq((active & group[-1]) | (read.data_valid & read.fault)),
            self.valid.eq(buffer.valid), self.front.eq(buffer.front), buffer.take.eq(self.take),
        ]
        with m.If(asked):
            m.d.sync += [group.eq(group + 1), left.eq(left - 1), some.eq(left != 1)]
        with m.If(row.valid & row.ready):
            m.d.sync += [group.eq(row.payload.group), left.eq(row.payload.groups), some.eq(1)]
        return m


class Pack(wiring.Component):
    """A group, or an element of it, as a beat with its strobes. Combinational.

    Members
    -------
    element : In(Element)  what is moved at a time
    tail : In              last byte used of a row's last beat
    tag, last : In         of the burst that the beat belongs to; its last beat
    group : In(width)
    group_ends : Out(1)    the group is used up with this beat
    data, strobe : Out     the beat; an element stands in all of its lanes
    """

    def __init__(self, *, width):
        self._width = width
        beat_log = (width // 8).bit_length() - 1
        super().__init__({
            "element": In(Element), "tail": In(beat_log), "tag": In(beat_tag(beat_log)), "last": In(1),
            "group": In(width), "group_ends": Out(1), "data": Out(width), "strobe": Out(width // 8),
        })

    def elaborate(self, platform):
        m = Module()
        tag, lanes = self.tag, self._width // 8
        word = Signal(32)
        m.d.comb += [word.eq(self.group.word_select(tag.slot >> 2, 32)), self.group_ends.eq(tag.group_ends)]
        with m.Switch(self.element):
            for element, bits in ((Element.BYTE, 8), (Element.HALF, 16), (Element.WORD, 32)):
                with m.Case(element):
                    value = word.word_select(tag.slot[:2], 8) if element == Element.BYTE else word[:bits]
                    m.d.comb += [self.data.eq(value.replicate(self._width // bits)),
                                 self.strobe.eq(Const((1 << bits // 8) - 1, lanes) << tag.lane)]
            with m.Case(Element.ROW):
                tail = Cat(self.tail >= i for i in range(lanes))
                m.d.comb += [self.data.eq(self.group), self.group_ends.eq(1),
                             self.strobe.eq(Mux(self.last & tag.row_ends, tail, ~0))]
        return m
