"""What is read out of nextpnr's report. ``nextpnr_report.json`` is a report of nextpnr 0.11.1, shortened by hand."""

import csv
import json
from pathlib import Path

import pytest

from tilewright.fpga import report
from tilewright.fpga.flow import FLOWS


@pytest.fixture
def routed():
    return json.loads((Path(__file__).parent / "nextpnr_report.json").read_text())


def test_resources(routed):
    assert report.resources(routed, FLOWS["ecp5"]) == {
        "lut": {"used": 1234, "available": 24288}, "ff": {"used": 999, "available": 24288},
        "dsp": {"used": 28, "available": 28}, "bram": {"used": 7, "available": 56}}


def test_resources_in_the_same_place():
    """Gowin: multipliers of several widths stand where 48 of 18x18 would; an ALU in a LUT's place, LUT RAM in eight."""
    utilisation = {"MULT18X18": {"used": 14, "available": 48}, "MULT9X9": {"used": 2, "available": 96},
                   "LUT4": {"used": 5, "available": 20736}, "ALU": {"used": 40, "available": 15552},
                   "RAM16SDP4": {"used": 3, "available": 648}}
    found = report.resources({"utilization": utilisation}, FLOWS["gowin"])
    assert (found["dsp"], found["lut"]) == ({"used": 16, "available": 48}, {"used": 69, "available": 20736})


def test_logic_cells_count_as_luts_in_the_history(tmp_path, routed):
    """iCE40: a LUT and a flip-flop share a cell; the single-port RAMs have no column."""
    utilisation = {"ICESTORM_LC": {"used": 4543, "available": 5280}, "ICESTORM_RAM": {"used": 16, "available": 30},
                   "ICESTORM_DSP": {"used": 6, "available": 8}, "ICESTORM_SPRAM": {"used": 4, "available": 4}}
    whole = _whole(routed)
    whole["resources"] = report.resources({"utilization": utilisation}, FLOWS["ice40"])
    assert whole["resources"]["spram"] == {"used": 4, "available": 4}
    assert "| lc | 4543 | 5280 | 86 % |" in report.markdown(whole)
    assert report.append_history(tmp_path / "h.csv", whole) and not report.append_history(tmp_path / "h.csv", whole)
    with open(tmp_path / "h.csv", newline="") as file:
        row, = csv.DictReader(file)
    assert [row[name] for name in ("lut", "ff", "dsp", "bram")] == ["4543", "", "6", "16"]


def test_clocks(routed):
    assert report.clocks(routed) == {
        "clk": {"mhz": 173.91, "constraint_mhz": 200.0, "met": False},
        "clk25_0__io": {"mhz": 666.67, "constraint_mhz": 25.0, "met": True}}


def test_critical_path(routed):
    path = report.critical_path(routed)
    assert path["modules"] == {"top.accelerator.sequencer.issue": 3.5, "top.memory.rows.registers": 2.25}
    del path["modules"]
    assert path == {"clock": "clk", "ns": 5.75, "from": "top.accelerator.sequencer.issue.fsm_state",
                    "to": "top.accelerator.sequencer.issue._target", "levels": 2, "logic_ns": 1.0, "routing_ns": 4.75}


def test_critical_path_of_the_other_clock(routed):
    path = report.critical_path(routed, clock="clk25_0__io")
    assert (path["ns"], path["from"], path["modules"]) == (1.5, "reset", {"top": 1.5})
    assert report.critical_path(routed, clock="none") is None


def _whole(routed):
    return {"board": "b", "title": "Board", "part": "P", "configuration": {"name": "micro"},
            "configuration_hash": "0123456789abcdef0", "frequency_mhz": 200.0, "timing_met": False,
            "resources": report.resources(routed, FLOWS["ecp5"]), "clocks": report.clocks(routed),
            "critical_path": report.critical_path(routed), "seconds": {"synthesis": 1.5, "all": 1.5},
            "tools": {"yosys": "1"}, "files": {"b.bit": "ff"}}


def test_markdown(routed):
    text = report.markdown(_whole(routed))
    for line in ("| lut | 1234 | 24288 | 5 % |", "| clk | 173.91 MHz | 200.0 MHz | NOT met |", "timing NOT met",
                 "| top.memory.rows.registers | 2.25 |", "| b.bit | `ff` |"):
        assert line in text


def test_history_keeps_changes_only(routed, tmp_path):
    path, whole = tmp_path / "results" / "resources.csv", _whole(routed)
    assert report.append_history(path, whole)
    assert not report.append_history(path, whole | {"seconds": {"all": 9.0}})
    assert report.append_history(path, whole | {"board": "c"})
    assert not report.append_history(path, whole)
    whole["resources"]["lut"]["used"] = 1235
    assert report.append_history(path, whole)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["board"], row["lut"], row["mhz"]) for row in rows] == [
        ("b", "1234", "173.91"), ("c", "1234", "173.91"), ("b", "1235", "173.91")]
