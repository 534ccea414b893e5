"""An accelerator with its memory as a device that answers requests, inside the simulator (cocotb). See ``transport``.

Between requests the simulation stands still: the process waits for the next message and no clock passes.
"""

import os
from multiprocessing.connection import Client

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer

from .bench import PERIOD_NS, RegisterTransport

REPORT_CYCLES = 50_000
"""How often a wait tells how long it has lasted, and notices that nobody listens any more."""


class Device:
    """What requests do: each is a method's name and its arguments, the answer is what the method returns."""

    def __init__(self, top, connection):
        self._top, self._connection = top, connection
        self._registers = RegisterTransport(top)
        self.read, self.write = self._registers.read, self._registers.write

    async def reset(self):
        """A running clock, and the accelerator as after power-up."""
        top = self._top
        top.dump.value = top.fill.value = 0
        top.rst.value = 1
        Clock(top.clk, PERIOD_NS, unit="ns").start()
        await ClockCycles(top.clk, 4)
        top.rst.value = 0
        await ClockCycles(top.clk, 2)

    async def wait(self):
        """Until the interrupt; meanwhile the cycles that have passed are sent."""
        cycles = 0
        while not self._top.irq.value:
            await First(RisingEdge(self._top.irq), Timer(REPORT_CYCLES * PERIOD_NS, unit="ns"))
            cycles += REPORT_CYCLES
            if not self._top.irq.value:
                self._connection.send(("waiting", cycles))

    async def fill(self, first, beats):
        """Beats of memory from the file of ``+fill``."""
        await self._transfer(self._top.fill, first, beats)

    async def dump(self, first, beats):
        """Beats of memory to the file of ``+dump``."""
        await self._transfer(self._top.dump, first, beats)

    async def _transfer(self, trigger, first, beats):
        self._top.dump_first.value, self._top.dump_beats.value, trigger.value = first, beats, 1
        await ClockCycles(self._top.clk, 2)
        trigger.value = 0
        await ClockCycles(self._top.clk, 1)


@cocotb.test()
async def serve(top):
    """Answer requests from the socket that the environment names, until it is closed."""
    with Client(os.environ["TILEWRIGHT_SOCKET"]) as connection:
        device = Device(top, connection)
        await device.reset()
        try:
            while True:
                name, *arguments = connection.recv()
                connection.send(("done", await getattr(device, name)(*arguments)))
        except (EOFError, ConnectionError):
            pass   # the host has gone
