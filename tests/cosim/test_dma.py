# amaranth: UnusedElaboratable=no
"""The memory side in Verilator, against cocotbext-axi's slave; the benches are in dma_bench.py."""

import importlib.util
from pathlib import Path

import pytest
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from tilewright.gen.verilog import emit
from tilewright.sim.verilator import environment

HERE = Path(__file__).parent
AXI_MEMORY = HERE.parents[1] / "sim" / "hdl" / "axi_memory.sv"
BUILD = HERE.parents[1] / "build" / "tests"


def load_top():
    spec = importlib.util.spec_from_file_location("dma_top", HERE / "dma_top.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DmaTop


def compile_top(width, top, *sources, parameters=None):
    """Folder and runner of a Verilator build of ``top`` around the memory side with that bus width."""
    folder = BUILD / f"{top}-{width}"
    emit(load_top()(width=width), name="dma", path=folder / "dma.v")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        runner = get_runner("verilator")
        runner.build(sources=[*sources, folder / "dma.v"], hdl_toplevel=top, parameters=parameters or {},
                     build_dir=folder, build_args=["-Wno-fatal", "--x-initial", "fast"], log_file=folder / "build.log")
    return runner, folder


@pytest.fixture(scope="module", params=[64, 128])
def build(request):
    return compile_top(request.param, "dma")


@pytest.fixture(scope="module", params=[64, 128])
def build_with_memory(request):
    return compile_top(request.param, "dma_memory", HERE / "dma_memory.sv", AXI_MEMORY,
                       parameters={"WIDTH": request.param})


@pytest.mark.parametrize("case", ["random_transfers", "full_buffers", "page_boundaries", "whole_region", "errors",
                                  "aborts", "streams_beside_loads"])
def test_dma(build, case, monkeypatch, tmp_path):
    run(build, "dma_bench", case, monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_transfers_at_length(build, seed, monkeypatch, tmp_path):
    run(build, "dma_bench", "random_transfers", monkeypatch, tmp_path, DMA_SEED=str(100 + seed), DMA_ROUNDS="60")


def test_rates(build_with_memory, monkeypatch, tmp_path):
    """LOAD, STORE and STREAM keep the bus busy although the memory answers 40 cycles late."""
    run(build_with_memory, "dma_rates", "rates", monkeypatch, tmp_path,
        plusargs=["+read_latency=40", "+write_latency=20"])


def run(build, module, case, monkeypatch, tmp_path, plusargs=(), **extra_env):
    runner, folder = build
    monkeypatch.syspath_prepend(str(HERE))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "run.log"
    try:
        results = runner.test(test_module=module, testcase=case, hdl_toplevel=folder.name.rpartition("-")[0],
                              build_dir=folder, test_dir=tmp_path, results_xml=str(tmp_path / "results.xml"),
                              extra_env=extra_env, plusargs=plusargs, log_file=log)
    except SystemExit:
        pytest.fail(f"{case}: {log.read_text()[-3000:]}")
    assert get_results(results) == (1, 0)
