"""sim/hdl/axi_memory.sv in Verilator and Icarus: contents, timing, errors, and that it catches each violation."""

import json
import random
from pathlib import Path

import pytest
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from tilewright.sim.verilator import environment

HERE = Path(__file__).parent
SOURCES = [HERE / "axi_memory_top.sv", HERE.parents[1] / "sim" / "hdl" / "axi_memory.sv"]
BUILD = HERE.parents[1] / "build" / "tests"
SEED, BYTES = 3, 1 << 16
ARGUMENTS = {"verilator": ["-Wno-fatal", "-Wno-WIDTH"], "icarus": ["-g2012"]}
SIMULATORS = ["verilator", pytest.param("icarus", marks=pytest.mark.icarus)]
CASES = {
    "contents": {},
    "latency": {"read_latency": 40, "write_latency": 9},
    "bandwidth": {"bandwidth": 100, "read_latency": 10},
    "refresh": {"refresh_every": 100, "refresh_cycles": 13},
    "pages": {"read_latency": 10, "page_bytes": 1024, "page_miss": 7},
    "pauses": {f"stall_{channel}": 96 for channel in ("ar", "r", "aw", "w", "b")},
    "errors": {"error_first": 0x4000, "error_bytes": 16},
}
VIOLATIONS = {
    "ar_dropped": "ARVALID dropped", "ar_changed": "AR payload changed", "aw_dropped": "AWVALID dropped",
    "aw_changed": "AW payload changed", "w_dropped": "WVALID dropped", "w_changed": "W payload changed",
    "strobe_changed": "W payload changed", "read_page": "read crosses 4 KiB", "write_page": "write crosses 4 KiB",
    "read_alignment": "ARADDR not aligned", "write_alignment": "AWADDR not aligned", "last_early": "WLAST misplaced",
    "last_late": "WLAST misplaced", "none": None,
}


@pytest.fixture(scope="module")
def built():
    """Function simulator -> runner and folder; each is built once."""
    done = {}

    def build(simulator):
        if simulator not in done:
            folder = BUILD / f"axi-memory-{simulator}"
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment().items():
                    patch.setenv(name, value)
                runner = get_runner(simulator)
                runner.build(sources=SOURCES, hdl_toplevel="axi_memory_top", build_dir=folder,
                             parameters={"WIDTH": 64, "BYTES": BYTES}, build_args=ARGUMENTS[simulator],
                             log_file=folder / "build.log" if folder.exists() else None)
            done[simulator] = runner, folder
        return done[simulator]

    return build


def run(built, simulator, case, plusargs, monkeypatch, tmp_path, **extra_env):
    """Whether the case passed, and its log."""
    runner, folder = built(simulator)
    monkeypatch.syspath_prepend(str(HERE))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "image.bin").write_bytes(random.Random(SEED).randbytes(BYTES // 2))
    plusargs = plusargs | {"image": tmp_path / "image.bin", "dump": tmp_path / "dump.hex"}
    log, results = tmp_path / "run.log", tmp_path / "results.xml"
    env = {name.upper(): str(value) for name, value in plusargs.items()} | {"TRACE": str(tmp_path / "trace.json")}
    try:
        runner.test(test_module="axi_memory_bench", testcase=case, hdl_toplevel="axi_memory_top",
                    hdl_toplevel_lang="verilog", build_dir=folder, test_dir=tmp_path, results_xml=str(results),
                    extra_env=env | extra_env, plusargs=[f"+{name}={value}" for name, value in plusargs.items()],
                    log_file=log)
        passed = get_results(results) == (1, 0)
    except (SystemExit, RuntimeError):
        passed = False
    return passed, log.read_text()


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("case", [case for case in CASES if case != "pauses"])
def test_axi_memory(built, simulator, case, monkeypatch, tmp_path):
    passed, log = run(built, simulator, case, CASES[case], monkeypatch, tmp_path)
    assert passed, log[-3000:]


@pytest.mark.icarus
def test_pauses_are_the_same(built, monkeypatch, tmp_path):
    """The same seed gives the same cycle for each handshake, whichever the simulator."""
    traces = []
    for simulator in ("verilator", "icarus"):
        folder = tmp_path / simulator
        folder.mkdir()
        passed, log = run(built, simulator, "pauses", CASES["pauses"], monkeypatch, folder)
        assert passed, log[-3000:]
        traces.append(json.loads((folder / "trace.json").read_text()))
    assert traces[0] == traces[1]


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("violation", VIOLATIONS)
def test_violation(built, simulator, violation, monkeypatch, tmp_path):
    """Each violation ends the simulation and is named; the same signals set rightly do not."""
    stalls = {f"stall_{channel}": 256 for channel in ("ar", "aw", "w")} if "_dropped" in violation else {}
    stalls |= {"stall_ar": 256, "stall_aw": 256, "stall_w": 256} if "_changed" in violation else {}
    passed, log = run(built, simulator, "violation", stalls, monkeypatch, tmp_path, VIOLATION=violation)
    if violation == "none":
        assert passed, log[-3000:]
    else:
        assert not passed and f": {VIOLATIONS[violation]}" in log, log[-3000:]
