"""The way from a board to a bitstream, with the tools that the package brings."""

import json
from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilewright.fpga import build as builder
from tilewright.fpga.boards import BOARDS, pins
from tilewright.fpga.boards.board import SdramMemory
from tilewright.fpga.flow import FLOWS
from tilewright.fpga.link.uart import UartReceiver, UartTransmitter
from tilewright.fpga.memory.block_ram import BlockRam
from tilewright.fpga.memory.pins import SdramPins
from tilewright.fpga.memory.sdram import SdramController
from tilewright.fpga.memory.timing import slowest
from tilewright.fpga.parts import PARTS
from tilewright.fpga.reroute import late_drivers
from tilewright.fpga.tools import find_tool
from tilewright.gen.configuration import read_configuration

pytestmark = pytest.mark.slow

PREAMBLE = bytes.fromhex("ffffbdb3")
"""What an ECP5 takes as the start of a bitstream, after the comments (FPGA-TN-02039)."""
HEADER = f"{0xA5C3:b}".encode()
"""The same of a Gowin bitstream, which is text."""


class EchoTop(wiring.Component):
    """A small design with the parameters and members of ``BoardTop``: a UART that sends back what it hears, and a
    memory that is read from end to end, whose words come to the LEDs (a block RAM that nobody writes is left out)."""

    def __init__(self, config, *, memory, frequency, baud, pin_registers="fabric"):
        self._receiver = UartReceiver(clock_hz=frequency, baud=baud)
        self._transmitter = UartTransmitter(clock_hz=frequency, baud=baud)
        members = {"rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(4)}
        if isinstance(memory, SdramMemory):
            self._memory = SdramController(width=32, clock_hz=frequency, timing=slowest(*memory.parts),
                                           registers=pin_registers)
            members["sdram"] = Out(SdramPins())
        else:
            self._memory = BlockRam(width=32, bytes=4096)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory, read = self._memory, self._memory.read
        m.submodules.receiver, m.submodules.transmitter = self._receiver, self._transmitter
        wiring.connect(m, self._receiver.o, self._transmitter.i)
        m.d.comb += [self._receiver.rx.eq(self.rx), self.tx.eq(self._transmitter.tx), read.arvalid.eq(1),
                     read.rready.eq(1)]
        with m.If(read.arready):
            m.d.sync += read.araddr.eq(read.araddr + 4)
        with m.If(read.rvalid):
            m.d.sync += self.leds.eq(read.rdata[:4] ^ read.rdata[-4:])
        if hasattr(self, "sdram"):
            wiring.connect(m, wiring.flipped(self.sdram), self._memory.pins)
        return m


def checked_late_drivers(lines, report):
    """Drivers on paths of a third of the longest one's length, which is as long as nextpnr says, but for the clock's
    tree."""
    lines = list(lines)
    path = max(report["critical_paths"], key=lambda each: sum(step["delay"] for step in each["path"])
               * (each["from"] == each["to"]))
    longest = 1000 * sum(step["delay"] for step in path["path"])
    assert late_drivers(lines, 0.98 * longest) and not late_drivers(lines, 1.02 * longest)
    found = late_drivers(lines, longest / 3)
    assert len(found) > 100
    return found


@pytest.mark.parametrize("name", ["icepi-zero", "ulx3s-12f", "tang-primer-20k"])
def test_board_around_a_small_design(name, tmp_path, monkeypatch):
    """Pads, PLL, memory and UART of a board, at its clock; packing again gives the same bytes."""
    board, config, heard = BOARDS[name], BOARDS[name].load_configuration(), []
    monkeypatch.setattr(pins, "BoardTop", EchoTop)
    monkeypatch.setattr(pins, "DirectTop", lambda config, *, family, **rates: EchoTop(
        config, memory=board.memory, **rates))
    part = PARTS[board.part]
    steps = ["generating Verilog", "synthesis", "place and route", "packing the bitstream"]
    if name == "ulx3s-12f":
        board = replace(board, router="router2", reroute="router1")
        steps.insert(3, "routing late nets again")
        monkeypatch.setattr(builder, "late_drivers", lambda lines, limit: checked_late_drivers(
            lines, json.loads((tmp_path / f"{name}.nextpnr.json").read_text())))
    report = builder.build(board, config, tmp_path, tools="yowasp", progress=heard.append)

    assert [step for step in heard if step in steps] == steps and "routing" in heard and len(heard) < 12
    assert json.loads(json.dumps(report)) == json.loads((tmp_path / "report.json").read_text())
    assert f"# {name}" in (tmp_path / "report.md").read_text()
    assert read_configuration(tmp_path / "configuration.toml") == config
    assert report["timing_met"], report["clocks"]
    assert board.frequency / 1e6 in [clock["constraint_mhz"] for clock in report["clocks"].values()]
    assert report["resources"]["lut"]["used"] > 50 and report["resources"]["dsp"]["used"] == 0
    assert [report["resources"][name]["available"] for name in ("lut", "ff", "dsp", "bram")] == \
        [part.lut, part.ff, part.dsp, part.bram]
    assert any(module.startswith("top") for module in report["critical_path"]["modules"])

    bitstream, flow = tmp_path / report["bitstream"], FLOWS[part.family]
    data = bitstream.read_bytes()
    if part.family == "ecp5":
        assert data[:2] == b"\xff\x00" and PREAMBLE in data[:200] and b"LFE5U-" in data[:200]
    else:
        assert HEADER in data[:2000]
    builder._run(find_tool(flow.packer, source="yowasp"), flow.pack_command(board.name), tmp_path, "again.log")
    assert bitstream.read_bytes() == data


def test_icebreaker(tmp_path):
    """The one whole bitstream that takes no long time."""
    board = BOARDS["icebreaker"]
    report = builder.build(board, board.load_configuration(), tmp_path, tools="yowasp")
    assert report["timing_met"], report["clocks"]
    used = {name: value["used"] for name, value in report["resources"].items()}
    assert used["lc"] <= 0.9 * PARTS[board.part].lut and used["spram"] == 4
    assert used["dsp"] == 6, "one a PE and two for the product with the scales"
    assert [report["resources"][name]["available"] for name in ("lc", "dsp", "bram")] == [5280, 8, 30]
    assert b"\x7e\xaa\x99\x7e" in (tmp_path / report["bitstream"]).read_bytes()[:200]
