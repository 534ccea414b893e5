"""The presets' Verilog as other tools see it: no warnings, no latches, the documented ports, the same every time."""

import functools
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.generate import build_top
from tilewright.gen.verilog import emit
from tilewright.gen.yosys import YosysError, run_script
from tilewright.sim.verilator import environment

WAIVERS = Path(__file__).parents[2] / "sim" / "hdl" / "waivers.vlt"
PRESETS = ["micro", *(pytest.param(name, marks=pytest.mark.slow) for name in ("small", "medium", "large"))]
ADDRESS = {"addr": None, "len": 8, "size": 3, "burst": 2, "cache": 4, "prot": 3, "id": 1, "valid": 1, "ready": 1}


def documented_ports(config):
    """Name -> (direction, width) of every port; ``ready`` comes from the other side."""
    def flip(direction):
        return {"input": "output", "output": "input"}[direction]

    address, data = config.address_width, config.bus_width
    ports = {"clk": ("input", 1), "rst": ("input", 1), "irq": ("output", 1)}

    def channel(prefix, direction, **widths):
        for name, width in widths.items():
            ports[prefix + name] = flip(direction) if name == "ready" else direction, width

    for name in ("m_axi_ar", "m_axi_aw"):
        channel(name, "output", **ADDRESS | {"addr": address})
    channel("m_axi_r", "input", id=1, data=data, resp=2, last=1, valid=1, ready=1)
    channel("m_axi_w", "output", data=data, strb=data // 8, last=1, valid=1, ready=1)
    channel("m_axi_b", "input", id=1, resp=2, valid=1, ready=1)
    for name in ("s_axil_ar", "s_axil_aw"):
        channel(name, "input", addr=10, prot=3, valid=1, ready=1)
    channel("s_axil_r", "output", data=32, resp=2, valid=1, ready=1)
    channel("s_axil_w", "input", data=32, strb=4, valid=1, ready=1)
    channel("s_axil_b", "output", resp=2, valid=1, ready=1)
    channel("trace_", "output", busy=1, command=1, waiting=1, address=32, begin=5, done=5)
    return ports


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    """Function preset -> (config, path of its Verilog)."""
    @functools.cache
    def emission(preset):
        config = load_preset(preset)
        path = tmp_path_factory.mktemp(preset) / f"{config.module_name}.v"
        emit(build_top(config), name=config.module_name, path=path)
        return config, path
    return emission


def lint(path, *, waivers=WAIVERS, top):
    """What Verilator says of a file."""
    return subprocess.run(["verilator", "--lint-only", "-Wall", "--top-module", top, str(waivers), str(path)],
                          env=environment(), capture_output=True, text=True)


@pytest.mark.parametrize("preset", PRESETS)
def test_verilator_lint(emitted, preset):
    config, path = emitted(preset)
    result = lint(path, top=config.module_name)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("fault, rule", [
    ("wire [7:0] narrow = wide;", "WIDTHTRUNC"), ("wire nobody = clk;", "UNUSEDSIGNAL"),
    ("reg latch; always @* if (clk) latch = rst;", "LATCH"), ("wire open;", "UNDRIVEN"),
    ("wire loop; assign loop = ~loop;", "UNOPTFLAT"), ("wire [3:0] off = wide[18:15];", "SELRANGE"),
])
def test_waivers_hide_no_real_fault(tmp_path, fault, rule):
    used = "".join(f" ^ {name}" for name in ("narrow[0]", "latch", "loop", "off[0]", "open")
                   if name.partition("[")[0] in fault)
    path = tmp_path / "specimen.v"
    path.write_text(f"module specimen(input clk, input rst, input [15:0] wide, output o);\n  {fault}\n"
                    f"  assign o = ^wide ^ clk ^ rst{used};\nendmodule\n")
    result = lint(path, top="specimen")
    assert result.returncode == 1
    assert f"-{rule}:" in result.stderr


def test_every_waiver_has_a_reason():
    lines = WAIVERS.read_text().splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if line.startswith("lint_off"):
            assert before.startswith(("// ", "lint_off")), line


@pytest.mark.parametrize("preset", PRESETS)
def test_yosys_accepts(emitted, tmp_path, preset):
    """Also: no latch, no combinational loop, no net with two drivers or none.

    Yosys unrolls the loops that set memories to zero, and takes 25 minutes over those of ``large``, 8 seconds without
    them: it is the smaller presets whose loops it reads here.
    """
    config, path = emitted(preset)
    text = path.read_text()
    if preset in ("medium", "large"):
        text, loops = re.subn(r"    begin : init_\d+\n.*?\n    end\n", "", text, flags=re.DOTALL)
        assert loops
    (tmp_path / "design.v").write_text(text)
    script = ["read_verilog design.v", f"hierarchy -check -top {config.module_name}", "proc", "check -assert",
              "select -assert-none t:$dlatch t:$adlatch t:$tribuf"]
    run_script(script, folder=tmp_path)
    assert "Warning" not in (tmp_path / "yosys.log").read_text()


@pytest.mark.parametrize("body", ["assign b = ~(a & b);", "assign b = ~a; assign b = a & c;",
                                  "wire d; assign b = d & c;"])
def test_yosys_check_finds(tmp_path, body):
    """A loop, two drivers, none."""
    (tmp_path / "specimen.v").write_text(f"module specimen(input a, input c, output b);\n  {body}\nendmodule\n")
    with pytest.raises(YosysError, match="Found 1 problems"):
        run_script(["read_verilog specimen.v", "hierarchy -check -top specimen", "proc", "check -assert"],
                   folder=tmp_path)


@pytest.mark.icarus
@pytest.mark.parametrize("standard", ["2005", "2012"])
@pytest.mark.parametrize("preset", PRESETS)
def test_icarus_accepts(emitted, preset, standard):
    config, path = emitted(preset)
    result = subprocess.run(["iverilog", f"-g{standard}", "-Wall", "-t", "null", "-s", config.module_name, str(path)],
                            capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("preset", PRESETS)
def test_names(emitted, preset):
    """One top module of the documented name and ports; all other modules carry its name in front."""
    config, path = emitted(preset)
    text = path.read_text()
    modules = re.findall(r"^module (\S+?)\(", text, re.MULTILINE)
    assert modules[0] == config.module_name == f"tilewright_{preset}"
    assert all(name.startswith(f"{config.module_name}_") for name in modules[1:])
    assert len(modules) == len(set(modules)) == len(re.findall(r"^module ", text, re.MULTILINE))
    header, body = text[text.index("\nmodule"):text.index("endmodule")].split(";", 1)
    listed = re.sub(r"\s", "", header.partition("(")[2].rstrip(")")).split(",")
    declared = {name: (direction, int(high or 0) + 1) for direction, high, name in re.findall(
        r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", body, re.MULTILINE)}
    assert declared == documented_ports(config)
    assert sorted(listed) == sorted(declared)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_in_every_process(emitted, preset):
    config, path = emitted(preset)
    script = ("import hashlib, sys; from tilewright.gen.configuration import load_preset; "
              "from tilewright.gen.generate import build_top; from tilewright.gen.verilog import emit; "
              "c = load_preset(sys.argv[1]); "
              "print(hashlib.sha256(emit(build_top(c), name=c.module_name).encode()).hexdigest())")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    for seed in ("1", "2"):
        result = subprocess.run([sys.executable, "-c", script, preset], env=os.environ | {"PYTHONHASHSEED": seed},
                                capture_output=True, text=True, check=True)
        assert result.stdout.strip() == expected


def test_what_no_tool_likes(emitted):
    """No process that needs an event to start, no tri-state, no delay, no vendor's primitive, no machine's path."""
    _, path = emitted("micro")
    text = path.read_text()
    for word in ("@*", "1'hz", "inout", "specify", "`timescale", "MULT18X18D", "DP16KD", "src = ", str(Path.home())):
        assert word not in text, word
    assert not re.search(r"#\s*\d", text)
