"""The memory side wired together as in the accelerator, as a top for simulation."""

from amaranth.hdl import Module, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tilewright.hw.commands import Opcode, layout
from tilewright.hw.memory.load import Load
from tilewright.hw.memory.prefetch import Prefetch
from tilewright.hw.memory.read_port import ReadPort
from tilewright.hw.memory.scratchpad import Scratchpad
from tilewright.hw.memory.store import Store
from tilewright.hw.ports import AxiRead, AxiWrite, ScratchRead, ScratchWrite, UnitStatus, WeightRead, region_layout

ADDRESS_WIDTH = 32
GROUPS = 256
BURST_BEATS = 32
PREFETCH_BEATS = 256
INCR = 0b01


class DmaTop(wiring.Component):
    """Scratchpad, read port, prefetch, LOAD and STORE; flat AXI ports with constant IDs, sizes and burst kinds.

    ``vector_read`` and ``vector_write`` are the vector unit's ends of the scratchpad, for contention.
    """

    def __init__(self, *, width):
        self._width = width
        self._channels = (AxiRead(address_width=ADDRESS_WIDTH, width=width),
                          AxiWrite(address_width=ADDRESS_WIDTH, width=width))
        super().__init__({
            "load": In(stream.Signature(layout(Opcode.LOAD))), "load_status": Out(UnitStatus()),
            "store": In(stream.Signature(layout(Opcode.STORE))), "store_status": Out(UnitStatus()),
            "stream": In(stream.Signature(layout(Opcode.STREAM))), "stream_status": Out(UnitStatus()),
            "weights": In(WeightRead(width=width, lanes=width // 8)),
            "vector_read": In(ScratchRead(width=width)), "vector_write": In(ScratchWrite(width=width)),
            "regions": In(region_layout(ADDRESS_WIDTH).size), "abort": In(1), "idle": Out(1),
            "read_beat": Out(1), "write_beat": Out(1), "stalled": Out(1),
            **{f"m_axi_{name}": member for signature in self._channels for name, member in signature.members.items()},
            **{f"m_axi_{name}": Out(bits) for name, bits in (
                ("awid", 1), ("awsize", 3), ("awburst", 2), ("arid", 1), ("arsize", 3), ("arburst", 2))},
            "m_axi_rid": In(1), "m_axi_bid": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        width, words = self._width, self._width // 32
        reset = ResetInserter(self.abort)
        scratchpad = Scratchpad(groups=GROUPS, width=width)
        load, prefetch = (Load(group_words=words, burst_beats=BURST_BEATS),
                          Prefetch(width=width, lanes=width // 8, beats=PREFETCH_BEATS, burst_beats=BURST_BEATS))
        m.submodules.scratchpad, m.submodules.load, m.submodules.prefetch = map(reset, (scratchpad, load, prefetch))
        m.submodules.store = store = Store(address_width=ADDRESS_WIDTH, group_words=words, burst_beats=BURST_BEATS)
        m.submodules.read_port = read_port = ReadPort(requestors=2, address_width=ADDRESS_WIDTH, width=width,
                                                      outstanding=8)
        for block, name in ((load, "load"), (store, "store"), (prefetch, "stream")):
            wiring.connect(m, wiring.flipped(getattr(self, name)), block.command)
            wiring.connect(m, block.status, wiring.flipped(getattr(self, f"{name}_status")))
        wiring.connect(m, wiring.flipped(self.weights), prefetch.weights)
        wiring.connect(m, load.read, read_port.requests[0])
        wiring.connect(m, prefetch.read, read_port.requests[1])
        wiring.connect(m, wiring.flipped(self.vector_read), scratchpad.readers[0])
        wiring.connect(m, store.read, scratchpad.readers[1])
        wiring.connect(m, wiring.flipped(self.vector_write), scratchpad.writers[0])
        wiring.connect(m, load.write, scratchpad.writers[2])
        for channels, axi in zip(self._channels, (read_port.axi, store.axi), strict=True):
            for name, member in channels.members.items():
                port, inner = getattr(self, f"m_axi_{name}"), getattr(axi, name)
                m.d.comb += port.eq(inner) if member.flow == Out else inner.eq(port)
        size = (width // 8).bit_length() - 1
        m.d.comb += [
            self.m_axi_awsize.eq(size), self.m_axi_arsize.eq(size),
            self.m_axi_awburst.eq(INCR), self.m_axi_arburst.eq(INCR),
            read_port.regions.as_value().eq(self.regions), store.regions.as_value().eq(self.regions),
            read_port.abort.eq(self.abort), store.abort.eq(self.abort), self.idle.eq(read_port.idle & store.idle),
            self.read_beat.eq(read_port.beat), self.write_beat.eq(store.beat), self.stalled.eq(read_port.stalled),
        ]
        return m
