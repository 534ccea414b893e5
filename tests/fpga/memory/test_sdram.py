# amaranth: UnusedElaboratable=no
"""The SDRAM controller on the strict model, in Verilator; the benches are in sdram_bench.py.

The rates measured lie in build/tests/sdram_rates.json afterwards.
"""

import json
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


def compile_top(name, *, width, clock_hz=CLOCK, part="as4c16m16sa-7", access=1):
    """Runner and folder of a build of controller and model."""
    folder = BUILD / f"sdram-{name}"
    timing = PARTS[part] if part in PARTS else slowest(*PARTS)
    controller = SdramController(width=width, clock_hz=clock_hz, timing=timing, capture_delay=access)
    emit(controller, name="sdram", path=folder / "sdram.v")
    model = ", ".join(f".{key}({value})" for key, value in timing.model_parameters(clock_hz).items())
    built = get_runner("verilator")
    with pytest.MonkeyPatch.context() as patch, locked(folder / "build.lock"):
        for key, value in environment().items():
            patch.setenv(key, value)
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
    except SystemExit:
        pytest.fail(f"{case}: {log.read_text()[-3000:]}")
    assert get_results(results) == (1, 0)
    return json.loads(result.read_text()) if result.exists() else None


@pytest.mark.parametrize("case", ["random_traffic", "strobes", "outside", "blocked"])
def test_contents(build, case, monkeypatch, tmp_path):
    run(build, case, monkeypatch, tmp_path)


def test_latency(build, monkeypatch, tmp_path):
    hit_after_closed, hit, closed, other_row = run(build, "latency", monkeypatch, tmp_path)
    delay = build[2].delay
    assert (hit, closed, other_row) == (delay, delay + 3, delay + 6)
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
