"""A board's top level: pads, clock and reset around ``BoardTop`` or ``DirectTop``."""

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from ..direct_top import DirectTop
from ..parts import PARTS
from ..primitives.pll import Pll
from ..top import BoardTop
from .board import SdramMemory

__all__ = ["BoardPins"]


class BoardPins(Elaboratable):
    """``BoardTop``, or ``DirectTop``, for ``board`` with the accelerator ``config``, its ports at the platform's pins.

    The SDRAM's clock comes three quarters of a period behind ``sync``, through a double-data-rate register: a quarter
    of a period is left to hold commands and write data, and read data, late by t_ac and both ways over the board, come
    well inside the period in which they are taken (docs/decisions/0011-own-sdram-controller.md).
    """

    def __init__(self, board, config):
        self._board, self._config = board, config
        self._family = PARTS[board.part].family

    def elaborate(self, platform):
        m = Module()
        board = self._board
        rates = {"frequency": board.frequency, "baud": board.baud}
        if not self._config.vector_lanes:
            top = DirectTop(self._config, family="ice40" if self._family == "ice40" else None, **rates)
        else:
            top = BoardTop(self._config, memory=board.memory, **rates,
                           pin_registers="ecp5" if self._family == "ecp5" else "fabric")
        m.submodules.top = top
        self._build_clock(m, platform)
        uart = platform.request("uart", dir="-")
        m.submodules.rx_pad = rx_pad = io.Buffer("i", uart.rx)
        m.submodules.tx_pad = tx_pad = io.Buffer("o", uart.tx)
        m.d.comb += [top.rx.eq(rx_pad.i), tx_pad.o.eq(top.tx)]
        for number in range(len(top.leds)):
            m.submodules[f"led{number}_pad"] = pad = io.Buffer("o", platform.request("led", number, dir="-"))
            m.d.comb += pad.o.eq(top.leds[number])
        if isinstance(board.memory, SdramMemory):
            self._build_sdram(m, platform.request("sdram", dir="-"), top.sdram)
        return m

    def _build_clock(self, m, platform):
        pin = platform.request(platform.default_clk, dir="-")
        pad = pin.io if self._family == "ice40" else None     # its loop sits at the pin
        m.submodules.pll = pll = Pll(family=self._family, input_frequency=platform.default_clk_frequency,
                                     frequency=self._board.frequency, pad=pad)
        if pad is None:
            m.submodules.clock_pad = clock_pad = io.Buffer("i", pin)
            m.d.comb += pll.i.eq(clock_pad.i)
        m.domains.sdram = ClockDomain(reset_less=True)
        m.d.comb += ClockSignal("sdram").eq(pll.late)
        if self._family == "ecp5":
            # The clock begins once the PLL is stable: a reset's way through the whole part would be the longest.
            m.domains.sync = ClockDomain(reset_less=True)
            m.submodules.gate = Instance("DCCA", i_CLKI=pll.o, i_CE=pll.locked, o_CLKO=ClockSignal())
        else:
            m.domains.sync = ClockDomain()
            m.d.comb += ClockSignal().eq(pll.o)   # the PLL locks later than the block RAM of an iCE40 can be read
            m.submodules.reset = ResetSynchronizer(~pll.locked, domain="sync")

    def _build_sdram(self, m, pads, pins):
        m.submodules.sdram_clk_pad = clock = io.DDRBuffer("o", pads.clk, o_domain="sdram")
        m.d.comb += [clock.o[0].eq(1), clock.o[1].eq(0)]
        # The platform knows its pins by their function, ours by their level.
        named = {"cke": pads.clk_en, "cs_n": ~pads.cs, "ras_n": ~pads.ras, "cas_n": ~pads.cas, "we_n": ~pads.we,
                 "ba": pads.ba, "a": pads.a, "dqm": pads.dqm}
        for name, port in named.items():
            m.submodules[f"sdram_{name}_pad"] = pad = io.Buffer("o", port)
            m.d.comb += pad.o.eq(getattr(pins, name))
        m.submodules.sdram_dq_pad = dq = io.Buffer("io", pads.dq)
        m.d.comb += [dq.o.eq(pins.dq_o), dq.oe.eq(pins.dq_oe), pins.dq_i.eq(dq.i)]
