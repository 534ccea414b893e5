"""Block RAM behind an AXI port pair: the memory of boards whose own cannot be used."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from tilewright.hw.ports import AxiRead, AxiWrite

__all__ = ["BlockRam"]

DECERR = 3


class BlockRam(wiring.Component):
    """``bytes`` bytes of block RAM, zero at first.

    Bursts are INCR of whole beats inside 4 KiB. Throughput: a beat a cycle in each direction; a read burst begins a
    cycle after the one before it has left the memory, a write burst 1 cycle after the response of the one before.
    Latency: ``delay`` cycles from AR to the first R. Addresses from ``bytes`` on answer DECERR and are not written. A
    read sees a write whose response came before its AR.

    Members
    -------
    read : In(AxiRead), write : In(AxiWrite)
    """

    delay = 3

    def __init__(self, *, address_width=32, width, bytes):
        if bytes < 4096 or bytes & (bytes - 1):
            raise ValueError(f"bytes must be a power of two from 4096 on, not {bytes!r}")
        if width not in (32, 64, 128):
            raise ValueError(f"width must be 32, 64 or 128, not {width!r}")
        if address_width < bytes.bit_length():
            raise ValueError(f"address_width must be at least {bytes.bit_length()}, not {address_width!r}")
        self._width, self._depth = width, bytes * 8 // width
        self._beat_log, self._size_log = (width // 8).bit_length() - 1, bytes.bit_length() - 1
        super().__init__({"read": In(AxiRead(address_width=address_width, width=width)),
                          "write": In(AxiWrite(address_width=address_width, width=width))})

    def elaborate(self, platform):
        m = Module()
        # no_rw_check: what a read sees of a write that is not yet answered is undefined on AXI.
        m.submodules.store = store = memory.Memory(shape=self._width, depth=self._depth, init=[],
                                                   attrs={"no_rw_check": 1})
        self._build_read(m, store.read_port())
        self._build_write(m, store.write_port(granularity=8))
        return m

    def _build_read(self, m, port):
        """Stage 0: address. Stage 1: memory. Stage 2: R. All stand still while R is not taken."""
        axi = self.read
        index, left = Signal(range(self._depth), reset_less=True), Signal(8, reset_less=True)
        active, move, last = Signal(), Signal(), Signal()
        error = Signal(reset_less=True)
        m.d.comb += [
            move.eq(~axi.rvalid | axi.rready), last.eq(left == 0), port.addr.eq(index), port.en.eq(move),
            axi.arready.eq(~active),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [active.eq(1), index.eq(axi.araddr[self._beat_log:]), left.eq(axi.arlen),
                         error.eq(axi.araddr[self._size_log:] != 0)]
        fetched, fetched_last, fetched_error = Signal(), Signal(reset_less=True), Signal(reset_less=True)
        with m.If(move):
            m.d.sync += [fetched.eq(active), fetched_last.eq(last), fetched_error.eq(error),
                         axi.rvalid.eq(fetched), axi.rdata.eq(port.data), axi.rlast.eq(fetched_last),
                         axi.rresp.eq(Mux(fetched_error, DECERR, 0))]
            with m.If(active):
                m.d.sync += [index.eq(index + 1), left.eq(left - 1), active.eq(~last)]

    def _build_write(self, m, port):
        axi = self.write
        index = Signal(range(self._depth), reset_less=True)
        active, error = Signal(), Signal(reset_less=True)
        stored = axi.wvalid & axi.wready
        m.d.comb += [
            axi.awready.eq(~active & ~axi.bvalid), axi.wready.eq(active), port.addr.eq(index), port.data.eq(axi.wdata),
            port.en.eq(axi.wstrb & (stored & ~error).replicate(len(axi.wstrb))),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [active.eq(1), index.eq(axi.awaddr[self._beat_log:]),
                         error.eq(axi.awaddr[self._size_log:] != 0)]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(stored):
            m.d.sync += [index.eq(index + 1), active.eq(~axi.wlast)]
            with m.If(axi.wlast):
                m.d.sync += [axi.bvalid.eq(1), axi.bresp.eq(Mux(error, DECERR, 0))]
