"""Single-port RAM: the four large memories of the iCE40 UltraPlus behind one class."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from tilewright.hw.ports import RamPort

__all__ = ["SinglePortRam", "SPRAM_DEPTH"]

SPRAM_WIDTH = 16
SPRAM_DEPTH = 16384


class SinglePortRam(wiring.Component):
    """``depth`` words of ``width`` bits with byte strobes, read or written in a cycle. Its contents are undefined at
    first (the twin's are zero), and so is ``value`` behind a write.

    Latency: 1 cycle to read. Throughput: an access a cycle.

    Source: Lattice FPGA-TN-02022, SB_SPRAM256KA: 16 K x 16 with a write mask of four bits each.

    Parameters
    ----------
    family : str or None   ``ice40``: SB_SPRAM256KA side by side; None: the portable twin
    depth, width : int     at most ``SPRAM_DEPTH``; a multiple of 16

    Members
    -------
    port : In(RamPort)
    """

    def __init__(self, *, family, depth, width):
        if family not in (None, "ice40"):
            raise ValueError(f"family = {family!r}: must be None or 'ice40'")
        if not 2 <= depth <= SPRAM_DEPTH:
            raise ValueError(f"depth = {depth}: must be from 2 to {SPRAM_DEPTH}")
        if width <= 0 or width % SPRAM_WIDTH:
            raise ValueError(f"width = {width}: must be a multiple of {SPRAM_WIDTH}")
        self._family, self._depth, self._width = family, depth, width
        super().__init__({"port": In(RamPort(depth=depth, width=width))})

    def elaborate(self, platform):
        m = Module()
        port = self.port
        if self._family is None:
            m.submodules.store = store = memory.Memory(shape=self._width, depth=self._depth, init=[],
                                                       attrs={"no_rw_check": 1})    # never both in a cycle
            write, read = store.write_port(granularity=8), store.read_port()
            m.d.comb += [
                write.addr.eq(port.address), write.data.eq(port.data), write.en.eq(port.strobe & port.enable.replicate(
                    len(port.strobe))),
                read.addr.eq(port.address), read.en.eq(port.enable & ~port.strobe.any()), port.value.eq(read.data),
            ]
            return m
        for number in range(self._width // SPRAM_WIDTH):
            low, high = (port.strobe[2 * number + i].replicate(2) for i in range(2))
            m.submodules[f"ram_{number}"] = Instance(
                "SB_SPRAM256KA", i_ADDRESS=Cat(port.address, Const(0, 14 - len(port.address))),
                i_DATAIN=port.data.word_select(number, SPRAM_WIDTH), i_MASKWREN=Cat(low, high),
                i_WREN=port.strobe.any(), i_CHIPSELECT=port.enable, i_CLOCK=ClockSignal(), i_STANDBY=Const(0),
                i_SLEEP=Const(0), i_POWEROFF=Const(1), o_DATAOUT=port.value.word_select(number, SPRAM_WIDTH))
        return m
