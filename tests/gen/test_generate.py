"""Generation into a folder: what is written, all or nothing, and nothing that is not needed."""

import json
import subprocess
import sys

import pytest
from amaranth.hdl import Fragment, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilewright.gen.configuration import PRESETS, load_preset
from tilewright.gen.errors import UserError
from tilewright.gen.generate import build_top, generate, ports_of


class StandIn(wiring.Component):
    """A component with ports in both directions, quick to emit."""

    a: In(8)
    b: Out(wiring.Signature({"x": Out(4), "y": In(1)}))

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.b.x.eq(self.a + self.b.y)
        return m


FILES = ["tilewright_commands.h", "tilewright_micro.json", "tilewright_micro.v", "tilewright_registers.h",
         "tilewright_registers.rdl", "registers/index.html"]


def stand_in(config):
    return StandIn()


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_what_is_written(tmp_path):
    config = load_preset("micro")
    folder = tmp_path / "deep" / "out"
    description = generate(config, folder, top=stand_in)
    assert description["files"] == FILES
    assert all((folder / name).is_file() for name in FILES)
    assert list(folder.parent.iterdir()) == [folder], "no temporary folder stays behind"
    beside = json.loads((folder / "tilewright_micro.json").read_text())
    assert beside == {name: value for name, value in description.items() if name != "files"} | {
        "configuration": beside["configuration"]}
    assert beside["top"] == "tilewright_micro"
    assert beside["config_hash"] == config.sha256
    assert beside["configuration"]["functions"] == list(config.functions)
    assert beside["tools"]["amaranth"] == "0.5.10"
    assert beside["ports"] == [
        {"name": "clk", "direction": "input", "width": 1}, {"name": "rst", "direction": "input", "width": 1},
        {"name": "a", "direction": "input", "width": 8}, {"name": "b__x", "direction": "output", "width": 4},
        {"name": "b__y", "direction": "input", "width": 1}]
    assert "module tilewright_micro(" in (folder / "tilewright_micro.v").read_text()


def test_again_changes_no_file_and_keeps_others(tmp_path):
    config = load_preset("micro")
    generate(config, tmp_path, top=stand_in)
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "tilewright_micro.v").write_text("spoilt")
    before = times(tmp_path)
    generate(config, tmp_path, top=stand_in)
    after = times(tmp_path)
    assert {path.name for path in after if after[path] != before[path]} == {"tilewright_micro.v"}
    assert "spoilt" not in (tmp_path / "tilewright_micro.v").read_text()
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_nothing_is_written_on_failure(tmp_path):
    def broken(config):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        generate(load_preset("micro"), tmp_path / "out", top=broken)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: not a folder that can be written"):
        generate(load_preset("micro"), tmp_path / "file", top=stand_in)
    with pytest.raises(UserError, match="cannot be written"):
        generate(load_preset("micro"), tmp_path / "file" / "below", top=stand_in)
    with pytest.raises(UserError, match="cannot be written"):
        generate(load_preset("micro"), "/proc/nowhere", top=stand_in)


@pytest.mark.parametrize("preset", ["micro", "small"])
def test_top_ports_are_flat(preset):
    config = load_preset(preset)
    top = build_top(config)
    Fragment.get(top, None)  # Amaranth warns of a component that nobody elaborates
    ports = {port["name"]: port for port in ports_of(top)}
    assert ports["irq"] == {"name": "irq", "direction": "output", "width": 1}
    assert ports["m_axi_araddr"]["width"] == config.address_width
    assert ports["m_axi_wdata"] == {"name": "m_axi_wdata", "direction": "output", "width": config.bus_width}
    assert ports["m_axi_rdata"]["direction"] == "input"
    assert ports["s_axil_awvalid"]["direction"] == "input"
    assert all(name in ("clk", "rst", "irq") or name.startswith(("m_axi_", "s_axil_", "trace_")) for name in ports)


def tilewright(*arguments, cwd=None):
    return subprocess.run([sys.executable, "-c", "from tilewright.gen.cli import main; main()", *arguments],
                          capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(("arguments", "message"), [
    (("generate", "--preset", "tiny"), "preset 'tiny': unknown; allowed are nano, micro, small, medium, large"),
    (("generate",), "give either --preset (nano, micro, small, medium, large) or --config FILE"),
    (("generate", "--preset", "micro", "--config", "a.toml"), "give either"),
    (("generate", "--config", "nowhere.toml"), "nowhere.toml: cannot be read"),
    (("generate", "--preset", "micro", "-o", "/proc/nowhere"), "cannot be written"),
    (("generate", "--wrong"), "No such option"),
    (("layers", "--preset", "nano"), "nano: vector_lanes = 0: a build without vector unit and sequencer"),
    (("synth", "nothing"), "target 'nothing': unknown; allowed are micro_engine, small_engine"),
    (("wrong",), "No such command"),
])
def test_mistakes_are_one_line(arguments, message, tmp_path):
    result = tilewright(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("tilewright: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_configuration_file_is_one_line(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text('name = "wrong"\nrows = 3\n')
    result = tilewright("generate", "--config", str(path), "-o", str(tmp_path / "out"))
    assert result.returncode == 2
    assert result.stderr.startswith(f"tilewright: {path}: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_presets_are_listed():
    result = tilewright("presets", "--json")
    assert [entry["name"] for entry in json.loads(result.stdout)] == list(PRESETS)
    assert all(name in tilewright("presets").stdout for name in PRESETS)


def test_help_without_arguments():
    result = tilewright()
    assert result.returncode == 0
    assert "generate" in result.stdout


@pytest.mark.slow
def test_preset_as_a_user_generates_it(tmp_path):
    result = tilewright("generate", "--preset", "micro", "-o", str(tmp_path / "out"), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["files"] == FILES
    text = (tmp_path / "out" / "tilewright_micro.v").read_text()
    assert "@*" not in text
    assert "m_axi_arvalid" in text
