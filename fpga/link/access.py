"""Accesses of the link to the accelerator's registers and to memory, between a buffer and the buses."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilewright.hw.csr import AxiLite
from tilewright.hw.ports import AxiRead, AxiWrite
from tilewright.hw.registers import CSR_ADDRESS_WIDTH

from .frames import ADDRESS_BITS, BLOCK_BITS, WORD_BITS, WORDS

__all__ = ["BusAccess"]


class BusAccess(wiring.Component):
    """Moves words between a buffer of ``WORDS`` words and registers or memory; the word at an address within a block of
    4 * WORDS bytes has the same place in the buffer. An access stays within one block, and so within 4 KiB.

    Registers are read and written one by one. Memory takes one burst; a write's first and last beats have strobes for
    the words written. Throughput: to memory three cycles a word and one a beat; from memory one a word and one a beat,
    with RREADY low while the words of a beat go to the buffer.

    Parameters
    ----------
    address_width : int   of the memory, 32 to 40
    width : int           bits of a beat: 32, 64 or 128

    Members
    -------
    start : In(1)     begin; not while ``busy``
    memory, write : In(1), address : In(40), words : In    what; taken with ``start``
    busy : Out(1)     until the access is over
    done : Out(1)     pulses in the last cycle that is busy; ``error``: any response was not OKAY
    index : Out       place in the buffer; ``data : In(32)`` is the word at the index of two cycles before
    put : Out(1), word : Out(32)    write a word to that place
    registers : Out(AxiLite), read : Out(AxiRead), write_port : Out(AxiWrite)
    """

    def __init__(self, *, address_width, width):
        if not BLOCK_BITS < address_width <= ADDRESS_BITS:
            raise ValueError(f"address_width = {address_width}: must be from {BLOCK_BITS + 1} to {ADDRESS_BITS}")
        if width not in (32, 64, 128):
            raise ValueError(f"width = {width}: must be 32, 64 or 128")
        self._lanes, self._address_width = width // WORD_BITS, address_width
        sizes = {"address_width": address_width, "width": width}
        super().__init__({
            "start": In(1), "memory": In(1), "write": In(1), "address": In(ADDRESS_BITS), "words": In(range(WORDS + 1)),
            "busy": Out(1), "done": Out(1), "error": Out(1),
            "index": Out(range(WORDS)), "data": In(WORD_BITS), "put": Out(1), "word": Out(WORD_BITS),
            "registers": Out(AxiLite(address_width=CSR_ADDRESS_WIDTH)),
            "read": Out(AxiRead(**sizes)), "write_port": Out(AxiWrite(**sizes)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, lane_bits = self._lanes, self._lanes.bit_length() - 1
        self._left = left = Signal(range(WORDS + 1), reset_less=True)
        self._lane = self.index[:lane_bits] if lane_bits else Const(0, 1)
        self._last, self._beat_over, self._step = Signal(), Signal(), Signal()
        self._failed, self._response_failed = Signal(), Signal()
        self._strobe = Signal(lanes)        # words of the beat that are there
        self._memory, self._write = Signal(reset_less=True), Signal(reset_less=True)
        self._block = Signal(self._address_width - BLOCK_BITS, reset_less=True)
        self._last_index = Signal(range(WORDS), reset_less=True)
        m.d.comb += [
            self._last.eq(left == 1), self._beat_over.eq(self._last | (self._lane == lanes - 1)),
            self.error.eq(self._failed | self._response_failed),
        ]
        with m.If(self._step):
            m.d.sync += [self.index.eq(self.index + 1), left.eq(left - 1)]
        with m.If(self._response_failed):
            m.d.sync += self._failed.eq(1)
        self._build_burst(m, lane_bits)
        self._build_register_channels(m)
        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            self._build_start(m)
            self._build_write_states(m)
            self._build_read_states(m)
        return m

    def _finish(self, m):
        m.d.comb += self.done.eq(1)
        m.next = "IDLE"

    def _build_burst(self, m, lane_bits):
        """Address channels of memory: a burst from the first word's beat to the last word's."""
        first = self.index[lane_bits:]
        address = Cat(Const(0, 2 + lane_bits), first, self._block)
        self._burst = Signal()
        for valid, ready, start, length, chosen in (
                (self.write_port.awvalid, self.write_port.awready, self.write_port.awaddr, self.write_port.awlen, 1),
                (self.read.arvalid, self.read.arready, self.read.araddr, self.read.arlen, 0)):
            with m.If(self._burst):
                m.d.sync += [valid.eq(self._write == chosen), start.eq(address),
                             length.eq(self._last_index[lane_bits:] - first)]
            with m.Elif(ready):
                m.d.sync += valid.eq(0)

    def _build_register_channels(self, m):
        registers, address = self.registers, Cat(Const(0, 2), self.index)
        m.d.comb += [registers.awaddr.eq(address), registers.araddr.eq(address), registers.wstrb.eq(0xF)]
        for valid, ready in ((registers.awvalid, registers.awready), (registers.wvalid, registers.wready),
                             (registers.arvalid, registers.arready)):
            with m.If(ready):
                m.d.sync += valid.eq(0)

    def _build_start(self, m):
        with m.State("IDLE"):
            m.d.sync += [
                self._memory.eq(self.memory), self._write.eq(self.write), self._block.eq(self.address[BLOCK_BITS:]),
                self.index.eq(self.address[2:]), self._left.eq(self.words), self._failed.eq(0), self._strobe.eq(0),
            ]
            with m.If(self.start):
                m.next = "BEGIN"
        with m.State("BEGIN"):
            m.d.sync += self._last_index.eq(self.index + self._left - 1)
            m.next = "BURST"
        with m.State("BURST"):
            m.d.comb += self._burst.eq(self._memory)
            with m.If(self._write):
                m.next = "FETCH"
            with m.Elif(self._memory):
                m.d.sync += self.read.rready.eq(1)
                m.next = "TAKE_BEAT"
            with m.Else():
                m.next = "ASK"

    def _build_write_states(self, m):
        """A word comes from the buffer; to a register it goes at once, to memory with the others of its beat."""
        port, registers = self.write_port, self.registers
        data, strobe = Signal(port.wdata.shape(), reset_less=True), self._strobe
        m.d.comb += [port.wdata.eq(data), port.bready.eq(1), registers.wdata.eq(data),
                     port.wstrb.eq(Cat(lane.replicate(4) for lane in strobe))]
        with m.State("FETCH"):
            m.next = "FETCHED"
        with m.State("FETCHED"):
            m.next = "LOAD"
        with m.State("LOAD"):
            m.d.sync += [data.word_select(self._lane & self._memory.replicate(len(self._lane)), WORD_BITS)
                         .eq(self.data), strobe.bit_select(self._lane, 1).eq(1)]
            with m.If(~self._memory):
                m.d.sync += [registers.awvalid.eq(1), registers.wvalid.eq(1)]
                m.next = "REGISTER_RESPONSE"
            with m.Elif(self._beat_over):
                m.d.sync += [port.wvalid.eq(1), port.wlast.eq(self._last)]
                m.next = "SEND_BEAT"
            with m.Else():
                m.d.comb += self._step.eq(1)
                m.next = "FETCH"
        with m.State("SEND_BEAT"):
            with m.If(port.wready):
                m.d.comb += self._step.eq(1)
                m.d.sync += [strobe.eq(0), port.wvalid.eq(0)]
                m.next = "FETCH"
                with m.If(self._last):
                    m.next = "RESPONSE"
        with m.State("REGISTER_RESPONSE"):
            m.d.comb += registers.bready.eq(1)
            with m.If(registers.bvalid):
                m.d.comb += [self._response_failed.eq(registers.bresp[1]), self._step.eq(1)]
                m.next = "FETCH"
                with m.If(self._last):
                    self._finish(m)
        with m.State("RESPONSE"):
            with m.If(port.bvalid):
                m.d.comb += self._response_failed.eq(port.bresp[1])
                self._finish(m)

    def _build_read_states(self, m):
        """A beat comes from memory, then its words go to the buffer one by one."""
        port, beat = self.read, Signal.like(self.read.rdata, reset_less=True)
        value = Signal(WORD_BITS, reset_less=True)      # of a register
        m.d.comb += self.word.eq(Mux(self._memory, beat.word_select(self._lane, WORD_BITS), value))
        with m.State("TAKE_BEAT"):
            m.d.sync += beat.eq(port.rdata)
            with m.If(port.rvalid):
                m.d.sync += port.rready.eq(0)
                m.d.comb += self._response_failed.eq(port.rresp[1])
                m.next = "PUT"
        with m.State("PUT"):
            m.d.comb += [self.put.eq(1), self._step.eq(1)]
            with m.If(self._last):
                self._finish(m)
            with m.Elif(~self._memory):
                m.next = "ASK"
            with m.Elif(self._beat_over):
                m.d.sync += port.rready.eq(1)
                m.next = "TAKE_BEAT"
        with m.State("ASK"):
            m.d.sync += self.registers.arvalid.eq(1)
            m.next = "VALUE"
        with m.State("VALUE"):
            m.d.comb += self.registers.rready.eq(1)
            m.d.sync += value.eq(self.registers.rdata)
            with m.If(self.registers.rvalid):
                m.d.comb += self._response_failed.eq(self.registers.rresp[1])
                m.next = "PUT"

