# amaranth: UnusedElaboratable=no
"""The SDRAM controller on the strict model, in Verilator; the benches are in sdram_bench.py.

The rates measured lie in build/tests/sdram_rates.json afterwards.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from tilewright.fpga.memory.sdram import SdramController
from tilewright.fpga.memory.timing import PARTS, slowest
from tilewright.gen.verilog import emit
from tilewright.sim.cosim import locked
from tilewright.sim.verilator import environment

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "tests"
CLOCK = 100e6


def compile_top(name, *, width, clock_hz=CLOCK, timing=PARTS["as4c16m16sa-7"], access=1, power_up=2000,
                registers="fabric"):
    """Runner, folder and controller of a build with the model; the pause after power-up is shortened for both."""
    folder = BUILD / f"sdram-{name}"
    timing = replace(timing, power_up=power_up)
    controller = SdramController(width=width, clock_hz=clock_hz, timing=timing, capture_delay=access,
                                 registers=registers)
    folder.mkdir(parents=True, exist_ok=True)
    model = ", ".join(f".{key}({value})" for key, value in timing.model_parameters(clock_hz).items())
    built = get_runner("verilator")
    with pytest.MonkeyPatch.context() as patch, locked(folder / "build.lock"):
        for key, value in environment().items():
            patch.setenv(key, value)
        emit(controller, name="sdram", path=folder / "sdram.v")
        built.build(sources=[HERE / "sdram_top.sv", ROOT / "fpga" / "hdl" / "sdram_model.sv", folder / "sdram.v"],
                    hdl_toplevel="sdram_top", parameters={"WIDTH": width, "ACCESS": access},
                    defines={"MODEL_PARAMETERS": model}, build_dir=folder,
                    build_args=["-Wno-fatal", "-Wno-WIDTH", "-O3", "--x-initial", "fast", "--x-assign", "fast"],
                    log_file=folder / "build.log")
    return built, folder, controller


@pytest.fixture(scope="module", params=[32, 128])
def build(request):
    return compile_top(str(request.param), width=request.param)


def run(built, case, monkeypatch, tmp_path, **environ):
    """Run one bench; what it wrote into its result file, if anything."""
    simulator, folder, _ = built
    monkeypatch.syspath_prepend(str(HERE))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    log, result = tmp_path / "run.log", tmp_path / "result.json"
    try:
        results = simulator.test(
            test_module="sdram_bench", testcase=case, hdl_toplevel="sdram_top", build_dir=folder, test_dir=tmp_path,
            results_xml=str(tmp_path / "results.xml"), extra_env=environ | {"RESULT": str(result)}, log_file=log)
    except (SystemExit, RuntimeError):    # of cocotb's runner, as the simulation failed
        pytest.fail(f"{case}: {log.read_text()[-3000:]}")
    assert get_results(results) == (1, 0)
    return json.loads(result.read_text()) if result.exists() else None


@pytest.mark.parametrize("case", ["random_traffic", "strobes", "outside", "blocked", "reset_in_traffic"])
def test_contents(build, case, monkeypatch, tmp_path):
    run(build, case, monkeypatch, tmp_path)


def test_refresh_under_load(build, monkeypatch, tmp_path):
    run(build, "refresh_under_load", monkeypatch, tmp_path, MICROSECONDS="500")


def test_saturated(build, monkeypatch, tmp_path):
    run(build, "saturated", monkeypatch, tmp_path, MICROSECONDS="400")


def test_starved_refresh_is_seen(build, monkeypatch, tmp_path):
    """The same traffic with the refreshes withheld: the model ends it."""
    with pytest.raises(pytest.fail.Exception, match="SDRAM VIOLATION in cycle .*: REFRESH is late"):
        run(build, "saturated", monkeypatch, tmp_path, MICROSECONDS="400", STARVE="1")


def test_latency(build, monkeypatch, tmp_path):
    hit_after_closed, hit, closed, other_row = run(build, "latency", monkeypatch, tmp_path)
    delay = build[2].delay
    assert (hit, closed, other_row) == (delay, delay + 2, delay + 5)    # t_rcd and t_rp are 3 cycles
    assert hit_after_closed > closed    # it waits for the initialisation


def test_rates(build, monkeypatch, tmp_path):
    """90 % is asked for; long streams reach 97 %."""
    width = 8 * build[2].write.wdata.shape().width // 8
    bursts = {32: 64, 128: 16}    # 256 bytes, as the small presets make them
    rates = run(build, "rates", monkeypatch, tmp_path, BURST=str(bursts[width]), LENGTH=str(1 << 15))
    BUILD.mkdir(parents=True, exist_ok=True)
    file = BUILD / "sdram_rates.json"
    with locked(file.with_suffix(".lock")):
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | {f"{width} bits, {CLOCK / 1e6:.0f} MHz": rates}, indent=1))
    assert rates["read"] >= 0.97 and rates["write"] >= 0.97 and rates["both"] >= 0.9


SLOW = {
    "full_pause": {"width": 64, "timing": slowest(*PARTS), "power_up": 200_000},
    "latency_three": {"width": 32, "clock_hz": 133e6, "timing": PARTS["w9825g6kh-6"]},
    "at_once": {"width": 128, "clock_hz": 50e6, "timing": PARTS["is42s16160g-7"], "access": 0},
    "io_cells": {"width": 32, "registers": "ecp5"},
    "slow_clock": {"width": 32, "clock_hz": 25e6, "timing": PARTS["mt48lc16m16a2-75"], "access": 0},
}


@pytest.fixture(scope="module", params=SLOW)
def other_build(request):
    return compile_top(request.param, **SLOW[request.param])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_traffic_at_length(other_build, seed, monkeypatch, tmp_path):
    """Other parts, clocks, widths and data delays."""
    run(other_build, "random_traffic", monkeypatch, tmp_path, SDRAM_SEED=str(100 + seed), ROUNDS="60",
        PAUSE=str(0.3 * seed))


@pytest.mark.slow
def test_blocked_elsewhere(other_build, monkeypatch, tmp_path):
    run(other_build, "blocked", monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["saturated", "reset_in_traffic"])
def test_load_and_resets_elsewhere(other_build, case, monkeypatch, tmp_path):
    run(other_build, case, monkeypatch, tmp_path, MICROSECONDS="1000")


@pytest.mark.slow
def test_every_row_is_refreshed(build, monkeypatch, tmp_path):
    """Longer than the 64 ms in which 8192 refreshes are due; the model counts them."""
    run(build, "refresh_under_load", monkeypatch, tmp_path, MICROSECONDS="70000")
