"""AXI bursts as single accesses, one at a time."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..ports import OKAY, SLVERR, AxiRead, AxiWrite

__all__ = ["AxiWindow"]


class AxiWindow(wiring.Component):
    """An AXI port pair for a host that is in no hurry.

    Throughput: a beat in 1 cycle to write and in 3 to read; one burst at a time, a write before a read. An access that
    faults answers SLVERR.

    Parameters
    ----------
    address_width, width : int   of the bus, in bits

    Members
    -------
    read : In(AxiRead), write : In(AxiWrite)
    valid : Out(1), ready : In(1)                  an access; taken in a cycle with both
    address : Out                                  its word
    strobe : Out, data : Out(width)                bytes to write; without any the word is read
    fault : In(1)                                  beside ``ready``: nothing is there
    value : In(width)                              what was read, in the cycle after it was taken
    """

    def __init__(self, *, address_width, width):
        sizes = {"address_width": address_width, "width": width}
        self._beat_log = (width // 8).bit_length() - 1
        super().__init__({
            "read": In(AxiRead(**sizes)), "write": In(AxiWrite(**sizes)),
            "valid": Out(1), "ready": In(1), "address": Out(address_width - self._beat_log),
            "strobe": Out(width // 8), "data": Out(width), "fault": In(1), "value": In(width),
        })

    def elaborate(self, platform):
        m = Module()
        read, write = self.read, self.write
        left, failed, taken = Signal(8, reset_less=True), Signal(), Signal()
        m.d.comb += [
            taken.eq(self.valid & self.ready), self.data.eq(write.wdata), read.rlast.eq(left == 0),
            read.rresp.eq(Mux(failed, SLVERR, OKAY)), write.bresp.eq(Mux(failed, SLVERR, OKAY)),
        ]
        with m.If(taken):
            m.d.sync += [self.address.eq(self.address + 1), failed.eq(failed | self.fault)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [write.awready.eq(1), read.arready.eq(~write.awvalid)]
                m.d.sync += [failed.eq(0), left.eq(read.arlen),
                             self.address.eq(Mux(write.awvalid, write.awaddr, read.araddr) >> self._beat_log)]
                with m.If(write.awvalid):
                    m.next = "WRITE"
                with m.Elif(read.arvalid):
                    m.next = "READ"
            with m.State("WRITE"):
                # A beat without strobes is no access.
                m.d.comb += [self.strobe.eq(write.wstrb), self.valid.eq(write.wvalid & write.wstrb.any()),
                             write.wready.eq(self.ready | ~write.wstrb.any())]
                with m.If(write.wvalid & write.wready):
                    with m.If(~write.wstrb.any()):
                        m.d.sync += self.address.eq(self.address + 1)
                    with m.If(write.wlast):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += write.bvalid.eq(1)
                with m.If(write.bready):
                    m.next = "IDLE"
            with m.State("READ"):
                m.d.comb += self.valid.eq(1)
                with m.If(self.ready):
                    m.next = "VALUE"
            with m.State("VALUE"):
                m.d.sync += read.rdata.eq(self.value)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += read.rvalid.eq(1)
                with m.If(read.rready):
                    m.d.sync += [left.eq(left - 1), failed.eq(0)]
                    m.next = "READ"
                    with m.If(read.rlast):
                        m.next = "IDLE"
        return m
