"""The FP32 scratchpad: one block RAM of groups, one group read and one written a cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In

from ..ports import SCRATCH_ADDRESS_WIDTH, ScratchRead, ScratchWrite

__all__ = ["Scratchpad"]

READERS = 2
WRITERS = 3


class Scratchpad(wiring.Component):
    """Memory of ``groups`` groups of ``width`` bits, shared by two readers and three writers.

    Latency: read data comes ``delay`` cycles after its request was taken. A read taken at least ``write_delay`` cycles
    after a write was taken returns it, of writers 1 and 2 a cycle earlier. Throughput: one read and one write a cycle;
    a reader that begins to ask may wait a cycle for its turn.

    What a read returns that is taken sooner than that after a write to the same group is undefined: units never do
    that, as programs wait for the writer's command before they issue the reader's.

    Parameters
    ----------
    groups : int    a power of two, at most 2^16
    width : int     bits of a group, a multiple of 32

    Members
    -------
    readers : In(ScratchRead), array of 2     take turns when both ask; whose turn it is, was settled the cycle before
    writers : In(ScratchWrite), array of 3    the first one asking wins; writer 0 is always taken, a cycle ahead
    """

    delay = 2
    write_delay = 3

    def __init__(self, *, groups, width):
        if not (2 <= groups <= 1 << SCRATCH_ADDRESS_WIDTH and groups & (groups - 1) == 0):
            raise ValueError(f"groups must be a power of two from 2 to {1 << SCRATCH_ADDRESS_WIDTH}, not {groups!r}")
        if width <= 0 or width % 32:
            raise ValueError(f"width must be a positive multiple of 32, not {width!r}")
        self._groups = groups
        self._width = width
        super().__init__({
            "readers": In(ScratchRead(width=width)).array(READERS),
            "writers": In(ScratchWrite(width=width)).array(WRITERS),
        })

    def elaborate(self, platform):
        m = Module()
        # no_rw_check: see the class on reads that meet a write.
        m.submodules.memory = store = memory.Memory(
            shape=self._width, depth=self._groups, init=[], attrs={"no_rw_check": 1})
        self._build_read(m, store.read_port())
        self._build_write(m, store.write_port(granularity=32))
        return m

    def _outside(self, address):
        return address[self._groups.bit_length() - 1:].any()

    def _build_read(self, m, port):
        first, second = self.readers
        turn = Signal()                     # the reader that is taken
        owner = [Signal(READERS, name=f"owner_{i}") for i in ("memory", "output")]
        fault = [Signal(name=f"fault_{i}") for i in ("memory", "output")]
        address = Signal(SCRATCH_ADDRESS_WIDTH)
        output = Signal(self._width, reset_less=True)
        m.d.comb += [
            first.ready.eq(~turn), second.ready.eq(turn),
            address.eq(Mux(turn, second.address, first.address)), port.addr.eq(address),
        ]
        taken = Cat(reader.valid & reader.ready for reader in self.readers)
        m.d.sync += turn.eq(second.valid & ~(first.valid & turn))
        # Stage 1: memory. Stage 2: its output register.
        m.d.sync += [
            owner[0].eq(taken), fault[0].eq(self._outside(address)),
            owner[1].eq(owner[0]), fault[1].eq(fault[0]),
            output.eq(port.data),
        ]
        for i, reader in enumerate(self.readers):
            m.d.comb += [reader.data.eq(output), reader.data_valid.eq(owner[1][i]),
                         reader.fault.eq(owner[1][i] & fault[1])]

    def _build_write(self, m, port):
        # Writer 0 waits a cycle, so that ready does not depend on what it does now. The winner is registered before the
        # memory, which lies far from the writers.
        enable = Signal()
        mask, word = Signal.like(port.en), Signal.like(port.data, reset_less=True)
        address = Signal.like(port.addr, reset_less=True)
        m.d.comb += [port.addr.eq(address), port.data.eq(word), port.en.eq(Mux(enable, mask, 0))]
        m.d.sync += enable.eq(0)
        ahead, *behind = self.writers
        first = Signal(data.StructLayout({"address": SCRATCH_ADDRESS_WIDTH, "data": self._width, "mask": len(mask)}),
                       reset_less=True)
        first_valid = Signal()
        others = Signal(init=1)     # the opposite, as a register of its own: first_valid drives the whole data path
        m.d.sync += [others.eq(~ahead.valid), first_valid.eq(ahead.valid), first.address.eq(ahead.address),
                     first.data.eq(ahead.data), first.mask.eq(ahead.mask)]
        m.d.comb += ahead.ready.eq(1)
        sources = [(first_valid, first)]
        for writer in behind:
            m.d.comb += writer.ready.eq(others & ~Cat(valid for valid, _ in sources[1:]).any())
            sources.append((writer.valid, writer))
        for writer in self.writers:
            m.d.comb += writer.fault.eq(self._outside(writer.address))
        for valid, source in reversed(sources):
            with m.If(valid):
                m.d.sync += [address.eq(source.address), word.eq(source.data), mask.eq(source.mask),
                             enable.eq(~self._outside(source.address))]
        return m
