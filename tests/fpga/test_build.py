"""A bitstream from a configuration, with the tools that the package brings."""

import csv
import json
from dataclasses import replace

import pytest

from tilewright.fpga import build as builder
from tilewright.fpga.boards import BOARDS
from tilewright.fpga.estimate import estimate
from tilewright.fpga.flow import FLOWS
from tilewright.fpga.parts import PARTS
from tilewright.fpga.report import append_history
from tilewright.fpga.tools import find_tool
from tilewright.gen.configuration import read_configuration

PREAMBLE = bytes.fromhex("ffffbdb3")
"""What an ECP5 takes as the start of a bitstream, after the comments (FPGA-TN-02039, table of the bitstream format)."""


@pytest.mark.slow
def test_bitstream(tmp_path):
    board = replace(BOARDS["ulx3s-12f"], frequency=40_000_000)
    config = BOARDS["tang-primer-20k"].load_configuration()
    heard = []
    report = builder.build(board, config, tmp_path, tools="yowasp", progress=heard.append)

    assert [stage for stage in heard if stage not in ("packing", "placing", "refining the placement", "routing")] == \
        ["generating Verilog", "synthesis", "place and route", "packing the bitstream"]
    assert "routing" in heard and len(heard) < 10
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert read_configuration(tmp_path / "configuration.toml") == config
    assert report["timing_met"] and report["clocks"]["pll.o"]["constraint_mhz"] == 40
    used = {figure: value["used"] for figure, value in report["resources"].items()}
    count = estimate(config, board, PARTS[board.part])
    assert used["dsp"] == count["dsp"] and used["bram"] >= count["bram"]
    assert 0.75 * count["lut"] < used["lut"] < 1.5 * count["lut"]
    assert any("accelerator" in module for module in report["critical_path"]["modules"])
    assert append_history(tmp_path / "history.csv", report)
    with open(tmp_path / "history.csv", newline="") as file:
        assert next(csv.DictReader(file))["lut"] == str(used["lut"])

    bitstream = tmp_path / report["bitstream"]
    data = bitstream.read_bytes()
    assert data[:2] == b"\xff\x00" and PREAMBLE in data[:200] and b"LFE5U-" in data[:200]
    packer = find_tool("ecppack", source="yowasp")
    builder._run(packer, FLOWS["ecp5"].pack_command(board.name), tmp_path, "again.log")
    assert bitstream.read_bytes() == data
