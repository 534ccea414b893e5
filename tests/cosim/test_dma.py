# amaranth: UnusedElaboratable=no
"""The memory side in Verilator, against cocotbext-axi's slave; the benches are in dma_bench.py."""

import importlib.util
import os
from pathlib import Path

import pytest
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from tilewright.gen.verilog import emit
from tilewright.sim.verilator import environment

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "tests"


def load_top():
    spec = importlib.util.spec_from_file_location("dma_top", HERE / "dma_top.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DmaTop


@pytest.fixture(scope="module", params=[64, 128])
def build(request):
    """Folder and runner of a build with that bus width."""
    folder = BUILD / f"dma-{request.param}"
    emit(load_top()(width=request.param), name="dma", path=folder / "dma.v")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        runner = get_runner("verilator")
        runner.build(sources=[folder / "dma.v"], hdl_toplevel="dma", build_dir=folder,
                     build_args=["-Wno-fatal", "--x-initial", "fast"], log_file=folder / "build.log")
    return runner, folder


@pytest.mark.parametrize("case", ["random_transfers", "page_boundaries", "whole_region", "errors", "aborts",
                                  "streams_beside_loads"])
def test_dma(build, case, monkeypatch, tmp_path):
    run(build, case, monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_transfers_at_length(build, seed, monkeypatch, tmp_path):
    run(build, "random_transfers", monkeypatch, tmp_path, DMA_SEED=str(100 + seed), DMA_ROUNDS="60")


def run(build, case, monkeypatch, tmp_path, **extra_env):
    runner, folder = build
    monkeypatch.syspath_prepend(str(HERE))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    results = runner.test(test_module="dma_bench", testcase=case, hdl_toplevel="dma", build_dir=folder,
                          test_dir=tmp_path, results_xml=str(tmp_path / "results.xml"), extra_env=extra_env,
                          log_file=tmp_path / "run.log")
    count, failed = get_results(results)
    assert (count, failed) == (1, 0), (tmp_path / "run.log").read_text()[-4000:]
    assert os.path.getsize(results) > 0
