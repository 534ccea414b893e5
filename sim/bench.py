"""Runs a job inside the simulator (cocotb): registers through AXI4-Lite, everything else in HDL. See ``cosim``."""

import json
import os
import time
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, Timer
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from tilewright.gen.driver import Driver, ProgramError, Region

PERIOD_NS = 10


class RegisterTransport:
    """Registers over AXI4-Lite, and the interrupt line."""

    def __init__(self, top):
        self._top = top
        self._master = AxiLiteMaster(AxiLiteBus.from_prefix(top, "s_axil"), top.clk, top.rst)

    async def read(self, offset):
        """Value of a 32-bit register."""
        return int.from_bytes((await self._master.read(offset, 4)).data, "little")

    async def write(self, offset, value):
        """Write a 32-bit register."""
        await self._master.write(offset, value.to_bytes(4, "little"))

    async def wait(self):
        """Until the interrupt is pending."""
        if not self._top.irq.value:
            await RisingEdge(self._top.irq)


async def abort_later(driver, top, cycles):
    """Stop the program some cycles on."""
    await ClockCycles(top.clk, cycles)
    await driver.abort()


@cocotb.test()
async def job(top):
    """The job in the folder that the environment names."""
    folder = Path(os.environ["TILEWRIGHT_JOB"])
    job = json.loads((folder / "job.json").read_text())
    top.dump.value = top.fill.value = 0
    top.rst.value = 1
    Clock(top.clk, PERIOD_NS, unit="ns").start()
    driver = Driver(RegisterTransport(top))
    await ClockCycles(top.clk, 4)
    top.rst.value = 0
    await ClockCycles(top.clk, 2)
    await driver.check(job["config_hash"])

    counters, errors = [], []
    started = time.perf_counter()
    for i, run in enumerate(job["runs"]):
        (folder / "progress.json").write_text(json.dumps({"done": i}))
        await driver.configure([Region(*region) for region in run["regions"]], watchdog=job["watchdog"])
        if run["abort_after"]:
            cocotb.start_soon(abort_later(driver, top, run["abort_after"]))
        try:
            await driver.run(run["program"], run["arguments"])
            errors.append(None)
        except ProgramError as error:
            errors.append((error.code.name, error.address))
        counters.append(await driver.counters())
    seconds = time.perf_counter() - started

    first, size = job["read_back"]
    beat_bytes = (await driver.read_fields("config_array"))["bus_bytes"]
    top.dump_first.value = first // beat_bytes
    top.dump_beats.value = -(-size // beat_bytes)
    await Timer(1, "ns")
    top.dump.value = 1
    await ClockCycles(top.clk, 2)
    (folder / "result.json").write_text(json.dumps({"counters": counters, "errors": errors, "seconds": seconds}))
