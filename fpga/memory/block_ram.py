"""Block RAM behind an AXI port pair: memory for boards whose own cannot be used, and for models that fit into it."""

from itertools import pairwise

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In

from tilewright.hw.ports import DECERR, OKAY, AxiRead, AxiWrite

__all__ = ["BlockRam"]

BANK_WORDS = 2048
"""Words of a bank: what a DP16KD, or Gowin's DPB, holds of bytes."""
GROUP = 4
"""Banks that one register chooses from."""
BEATS = 8
"""Beats between memory and R, at most: those on their way, while the first of them is taken."""


class BlockRam(wiring.Component):
    """``bytes`` bytes of block RAM, zero at first, in banks of 2048 beats.

    Bursts are INCR of whole beats inside 4 KiB. Throughput: a beat a cycle in each direction, without a gap between
    read bursts; a write burst begins 1 cycle after the response of the one before. Latency: ``delay`` cycles from AR to
    the first R. Addresses from ``bytes`` on answer DECERR and are not written. A read sees a write whose response came
    before its AR.

    The banks lie all over the part. So each has a register behind it, the choice of one takes two steps, and R comes
    out of a queue: ``rready`` reaches no bank. Of the banks only the one that is read toggles.

    Members
    -------
    read : In(AxiRead), write : In(AxiWrite)
    """

    delay = 5

    def __init__(self, *, address_width=32, width, bytes):
        if bytes < 4096 or bytes % 4096:
            raise ValueError(f"bytes must be a multiple of 4096, not {bytes!r}")
        if width not in (32, 64, 128):
            raise ValueError(f"width must be 32, 64 or 128, not {width!r}")
        if address_width < bytes.bit_length():
            raise ValueError(f"address_width must be at least {bytes.bit_length()}, not {address_width!r}")
        self._width, self._words = width, bytes * 8 // width
        self._beat_log, self._bytes = (width // 8).bit_length() - 1, bytes
        super().__init__({"read": In(AxiRead(address_width=address_width, width=width)),
                          "write": In(AxiWrite(address_width=address_width, width=width))})

    def elaborate(self, platform):
        m = Module()
        reads, writes = [], []
        for first in range(0, self._words, BANK_WORDS):
            # no_rw_check: what a read sees of a write that is not yet answered is undefined on AXI.
            m.submodules[f"bank{first // BANK_WORDS}"] = bank = memory.Memory(
                shape=self._width, depth=min(BANK_WORDS, self._words - first), init=[], attrs={"no_rw_check": 1})
            reads.append(bank.read_port())
            writes.append(bank.write_port(granularity=8))
        self._build_read(m, reads)
        self._build_write(m, writes)
        return m

    def _split(self, address):
        """Word in a bank, bank, and whether the address is outside."""
        index, bits = address[self._beat_log:(self._bytes - 1).bit_length()], BANK_WORDS.bit_length() - 1
        return index[:bits], index[bits:], address >= self._bytes

    def _build_read(self, m, ports):
        """Stages: address, memory, the banks' registers, the groups' registers. They never stand still: a beat is asked
        for only where the queue has room for it."""
        axi = self.read
        m.submodules.queue = queue = SyncFIFO(width=self._width + 2, depth=BEATS)
        address, left = Signal.like(axi.araddr, reset_less=True), Signal(8, reset_less=True)
        active, asked, room = Signal(), Signal(), Signal(range(BEATS + 1), init=BEATS)
        m.d.comb += [
            asked.eq(active & (room != 0)), axi.arready.eq(~active | asked & (left == 0)),
            axi.rvalid.eq(queue.r_rdy), queue.r_en.eq(axi.rready),
            Cat(axi.rdata, axi.rlast, axi.rresp[1]).eq(queue.r_data), axi.rresp[0].eq(axi.rresp[1]),
        ]
        m.d.sync += room.eq(room - asked + (axi.rvalid & axi.rready))
        with m.If(asked):
            m.d.sync += [address.eq(address + (1 << self._beat_log)), left.eq(left - 1), active.eq(left != 0)]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [active.eq(1), address.eq(axi.araddr), left.eq(axi.arlen)]
        m.d.comb += queue.w_en.eq(self._build_choice(m, ports, address, asked, left == 0, queue.w_data))

    def _build_choice(self, m, ports, address, asked, last, result):
        """Stages behind the address: ``result`` is the beat with ``last`` and whether it is outside; returns whether
        there is one."""
        word, bank, outside = self._split(address)
        for i, port in enumerate(ports):
            m.d.comb += [port.addr.eq(word), port.en.eq(asked & (bank == i))]
        layout = data.StructLayout({"valid": 1, "last": 1, "outside": 1, "bank": len(bank)})
        stored, banked, grouped = beats = [Signal(layout, name=name) for name in ("stored", "banked", "grouped")]
        m.d.sync += stored.eq(Cat(asked, last, outside, bank))
        for beat, following in pairwise(beats):
            m.d.sync += following.eq(beat)
        values = [_register(m, port.data, f"bank{i}_data") for i, port in enumerate(ports)]
        low = GROUP.bit_length() - 1
        groups = [_register(m, Array(values[first:first + GROUP])[banked.bank[:low]], f"group{first // GROUP}_data")
                  for first in range(0, len(values), GROUP)]
        m.d.comb += result.eq(Cat(Array(groups)[grouped.bank[low:]], grouped.last, grouped.outside))
        return grouped.valid

    def _build_write(self, m, ports):
        """The beat is put into a register, and a cycle later into its bank."""
        axi = self.write
        address, active = Signal.like(axi.awaddr, reset_less=True), Signal()
        beat, strobes = Signal.like(axi.wdata, reset_less=True), Signal.like(axi.wstrb)
        place = Signal.like(axi.awaddr, reset_less=True)
        stored = axi.wvalid & axi.wready
        word, bank, _ = self._split(place)
        *_, outside = self._split(address)
        m.d.comb += [axi.awready.eq(~active & ~axi.bvalid), axi.wready.eq(active)]
        m.d.sync += [beat.eq(axi.wdata), place.eq(address), strobes.eq(Mux(stored & ~outside, axi.wstrb, 0))]
        for i, port in enumerate(ports):
            m.d.comb += [port.addr.eq(word), port.data.eq(beat), port.en.eq(Mux(bank == i, strobes, 0))]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [active.eq(1), address.eq(axi.awaddr)]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(stored):
            m.d.sync += [address.eq(address + (1 << self._beat_log)), active.eq(~axi.wlast)]
            with m.If(axi.wlast):
                m.d.sync += [axi.bvalid.eq(1), axi.bresp.eq(Mux(outside, DECERR, OKAY))]


def _register(m, value, name):
    register = Signal.like(value, name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register
