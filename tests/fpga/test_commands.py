"""``tilewright build``, ``boards``, ``flash`` and ``speed``: what they refuse, and in which words."""

import json
import sys
from dataclasses import asdict

import pytest

from tilewright.fpga import build as builder
from tilewright.fpga import flash as loader
from tilewright.fpga import tools
from tilewright.fpga.boards import BOARDS
from tilewright.gen.configuration import load_preset
from tilewright.gen.errors import ToolError, UserError


def _one_line(error):
    assert error.startswith("tilewright: ") and error.count("\n") == 1
    return error


def test_boards(command):
    code, out, _ = command("boards", "--json")
    assert code == 0 and [row["name"] for row in json.loads(out)] == list(BOARDS)
    code, out, _ = command("boards")
    assert code == 0 and all(f" {name} " in out for name in BOARDS)


@pytest.mark.parametrize("arguments", [("build", "--board", "ulx4s"), ("flash", "--board", "ulx4s"),
                                       ("speed", "--board", "ulx4s")])
def test_unknown_board(command, arguments):
    code, _, error = command(*arguments)
    assert code == 2 and "board 'ulx4s': unknown; allowed are ulx3s-85f, " in _one_line(error)


def test_unknown_tools(command):
    code, _, error = command("build", "--board", "icepi-zero", "--tools", "vendor")
    assert code == 2 and "'vendor': unknown; allowed are auto, yowasp, native" in _one_line(error)


def test_too_large_before_synthesis(command, tmp_path):
    values = asdict(load_preset("medium"))
    (tmp_path / "big.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    code, _, error = command("build", "--board", "icepi-zero", "--config", tmp_path / "big.toml", "-o", "out")
    assert code == 2
    assert "configuration medium: needs about" in _one_line(error) and "LFE5U-25F-6BG256 on icepi-zero has" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("board, preset, told", [
    ("icebreaker", "micro", "configuration micro: needs about 18240 LUTs, iCE40UP5K-SG48 on icebreaker has 5280, "
                            "enough for a matmul engine alone; take vector_lanes = 0"),
    ("ulx3s-12f", "nano", "configuration nano: vector_lanes = 0: ulx3s-12f takes whole accelerators")])
def test_configuration_of_the_other_kind(command, tmp_path, board, preset, told):
    (tmp_path / "other.toml").write_text("".join(
        f"{name} = {json.dumps(value)}\n" for name, value in asdict(load_preset(preset)).items()))
    code, _, error = command("build", "--board", board, "--config", tmp_path / "other.toml", "-o", "out")
    assert code == 2 and told in _one_line(error)
    assert not (tmp_path / "out").exists()


def _script(folder, name, text):
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return path


def test_native_tool_is_taken_if_new_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="nextpnr-ecp5: not on PATH; install it, or leave out --tools native"):
        tools.find_tool("nextpnr-ecp5", source="native")
    path = _script(tmp_path, "nextpnr-ecp5", "print('nextpnr-ecp5 (Version nextpnr-0.11.1-3-gabc)')")
    found = tools.find_tool("nextpnr-ecp5")
    assert found.command == (str(path),) and "0.11.1" in found.version
    assert "yowasp" in tools.find_tool("nextpnr-ecp5", source="yowasp").version
    _script(tmp_path, "nextpnr-ecp5", "print('nextpnr-ecp5 (Version 0.4-1+b1)')")
    assert "yowasp" in tools.find_tool("nextpnr-ecp5").version
    with pytest.raises(UserError, match=r"nextpnr-ecp5 0\.4-1\+b1: too old, 0\.8 or newer is needed"):
        tools.find_tool("nextpnr-ecp5", source="native")


def test_tool_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    gone = tools._Known("no-such-package", "no_such:main", (1, 0), "no-such-program", (1, 0))
    monkeypatch.setitem(tools.TOOLS, "ecppack", gone)
    with pytest.raises(UserError, match=r"ecppack: not installed; pip install 'tilewright\[board\]'"):
        tools.find_tool("ecppack")
    monkeypatch.setitem(tools.TOOLS, "ecppack", tools._Known("numpy", "numpy:main", (999,), "no-such-program", ()))
    with pytest.raises(UserError, match="numpy .*: too old, 999 or newer is needed"):
        tools.find_tool("ecppack")


def _tool(tmp_path, text):
    return tools.Tool("nextpnr-ecp5", (sys.executable, str(_script(tmp_path, "tool.py", text))), "1")


def test_router_that_finds_the_part_too_small(tmp_path):
    tool = _tool(tmp_path, "print('Info: Packing LUTs..'); print(\"ERROR: Unable to place cell 'x', no BELs remaining "
                           "to implement cell type 'DP16KD'\"); raise SystemExit(1)")
    heard = []
    with pytest.raises(UserError, match="c is too large for p: Unable to place cell 'x', no BELs remaining .* another"):
        builder._run(tool, [], tmp_path, "log", progress=heard.append, too_large="c is too large for p")
    assert heard == ["packing"] and "Packing LUTs" in (tmp_path / "log").read_text()


def test_router_that_finds_no_places(tmp_path):
    """In the words of nextpnr-ice40 on a part that is nearly full."""
    tool = _tool(tmp_path, "print('ERROR: Unable to find legal placement for all cells, design is probably at "
                           "utilisation limit.'); raise SystemExit(1)")
    with pytest.raises(UserError, match="c is too large for p: Unable to find legal placement .* utilisation limit"):
        builder._run(tool, [], tmp_path, "log", too_large="c is too large for p")


def test_router_that_fails(tmp_path):
    tool = _tool(tmp_path, "print('ERROR: chip database is damaged'); raise SystemExit(1)")
    with pytest.raises(ToolError, match="nextpnr-ecp5: ERROR: chip database is damaged; its log is .*log"):
        builder._run(tool, [], tmp_path, "log", too_large="c is too large for p")


@pytest.mark.parametrize("reached, code", [(79.99, 1), (80.0, 0)])
def test_timing_that_is_not_met(command, monkeypatch, tmp_path, reached, code):
    """The report is printed in either case, and the history keeps it."""
    report = {
        "board": "icepi-zero", "configuration": {"name": "small"}, "part": "P", "bitstream": "b.bit",
        "resources": {"lut": {"used": 5, "available": 10}}, "timing_met": code == 0, "frequency_mhz": 80.0,
        "clocks": {"pll.o": {"mhz": reached, "constraint_mhz": 80.0, "met": code == 0}}, "configuration_hash": "0" * 64,
        "critical_path": {"ns": 12.5, "from": "a", "to": "b"}, "seconds": {"synthesis": 1.5, "all": 1.5}}
    monkeypatch.setattr(builder, "build", lambda *arguments, **options: report)
    got, out, error = command("build", "--board", "icepi-zero", "-o", "out", "--history", "h.csv")
    assert got == code
    for line in ("lut: 5 of 10", f"clock pll.o: {reached} MHz reached, 80.0 MHz asked", "synthesis 1.5 s, all 1.5 s",
                 "critical path: 12.5 ns from a to b", "out/b.bit"):
        assert line in out.splitlines()
    assert str(reached) in (tmp_path / "h.csv").read_text()
    if code:
        assert "timing is not met: clock pll.o reaches 79.99 of 80.0 MHz; the critical path is in out/report.md" in \
            _one_line(error)


def test_folder_that_cannot_be_written(command, tmp_path):
    (tmp_path / "out").write_text("")
    code, _, error = command("build", "--board", "icepi-zero", "-o", "out/here")
    assert code == 2 and "out/here: cannot be written" in _one_line(error)


def test_flash_without_a_bitstream(command):
    code, _, error = command("flash", "--board", "ulx3s-85f")
    assert code == 2 and "build/ulx3s-85f/ulx3s-85f.bit: no bitstream; tilewright build --board" in _one_line(error)
    code, _, error = command("flash", "--board", "ulx3s-85f", "--bitstream", "none.bit")
    assert code == 2 and "none.bit: no such file" in _one_line(error)


@pytest.mark.parametrize("said, told", [
    ("unable to open ftdi device: -3 (device not found)", "no board was found; is it plugged in"),
    ("mismatch between target's idcode and bitstream idcode", "the part on the board is another one"),
    ("libusb: error while loading shared libraries: libusb-1.0.so.0", "apt-get install"),
    ("something new", "openFPGALoader: something new")])
def test_loader_that_fails(tmp_path, monkeypatch, said, told):
    _script(tmp_path, "openFPGALoader",
            f"import sys\nif '--version' in sys.argv: print('openFPGALoader v1.1.1')\nelse: sys.exit({said!r})")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=told):
        loader.detect(BOARDS["ulx3s-85f"])


def test_board_that_is_loaded_from_flash_alone(command, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"")
    code, _, error = command("flash", "--board", "icebreaker", "--bitstream", tmp_path / "x.bin")
    assert code == 2 and "icebreaker: its part is loaded from the flash alone; add --permanent" in _one_line(error)


def test_loader_is_told_board_and_file(tmp_path, monkeypatch):
    _script(tmp_path, "openFPGALoader",
            "import sys\nprint('openFPGALoader v1.1.1' if '--version' in sys.argv else sys.argv[1:])")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "['-b', 'ulx3s', '--write-sram', 'x.bit']" in loader.flash(BOARDS["ulx3s-85f"], "x.bit")
    assert "['-b', 'icepi-zero', '--write-flash', 'x.bit']" in loader.flash(BOARDS["icepi-zero"], "x.bit",
                                                                           permanent=True)
    assert "['-b', 'ice40_generic', '--write-flash', 'x.bin']" in loader.flash(BOARDS["icebreaker"], "x.bin",
                                                                               permanent=True)


@pytest.mark.parametrize("options, told", [
    (("--weights", "int5"), "--weights int5: no format of the machine; allowed are file, int8, fp16, int4"),
    (("--model", "story"), "story: neither a known model"),
    (("--preset", "nano"), "configuration nano: vector_lanes = 0: ulx3s-85f takes whole accelerators"),
    (("--preset", "micro", "--config", "own.toml"), "give either --preset ("),
    (("--tokens", "1"), "'--tokens': Input should be greater than or equal to 2"),
])
def test_speed_refuses_before_it_builds(command, tmp_path, options, told):
    code, _, error = command("speed", "--board", "ulx3s-85f", *options)
    assert code == 2 and told in _one_line(error)
    assert not list(tmp_path.iterdir())
