"""Benchmarks: figures, goals, verdicts and exit codes with the functional machine in the simulator's place, and a small
GEMM on the real hardware."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tilewright.gen.cli import main
from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.hw.registers import COUNTERS
from tilewright.sim import benchmark, benchmark_shapes
from tilewright.sim.benchmark import Measurement, Workbench, gemm
from tilewright.sim.benchmark_shapes import gemm_shapes, gemv_shapes, matrices
from tilewright.sim.cosim import Result
from tilewright.sim.machine import Machine

SIZE = (17, 100, 53)
MACS = 17 * 100 * 53


@pytest.fixture
def machine(monkeypatch):
    """``simulate`` on the functional machine, no builds; ``cycles``, ``error`` and ``broken`` (byte from the end) as
    set."""
    state = SimpleNamespace(cycles=20_000, error=None, broken=None)

    def simulate(built, job, image, *, progress=None):
        config = built
        runner, memory = Machine(config, function_tables(config.functions)), np.frombuffer(image, np.uint8).copy()
        for run in job.runs:
            runner.regions[:3] = [bytearray(memory[base:base + size]) for base, size, _ in run.regions]
            runner.run(run.program, run.arguments)
            for (base, size, _), region in zip(run.regions, runner.regions, strict=False):
                memory[base:base + size] = np.frombuffer(region, np.uint8)
        if state.broken:
            memory[-state.broken] ^= 1
        counters = dict.fromkeys((name for name, _ in COUNTERS), state.cycles // 10) | {"cycles": state.cycles}
        return Result([counters], [state.error], memory, 2.0)

    monkeypatch.setattr(benchmark, "simulate", simulate)
    monkeypatch.setattr(benchmark, "build_top", lambda config: None)  # Amaranth warns of what is never elaborated
    monkeypatch.setattr(benchmark, "emit", lambda *_, **__: None)
    monkeypatch.setattr(benchmark, "build", lambda config, *_, **__: config)
    monkeypatch.setitem(benchmark.BENCHMARKS, "gemm-small", (lambda bench, _: gemm(bench, "micro", size=SIZE), "small"))
    return state


def test_slices_of_ten_models():
    """Every matrix of the ten models stands in one slice; a ragged last tile stays ragged."""
    slices = matrices(4096, 16)
    names = [name for each in slices.values() for name in each]
    assert len(names) == len(set(names)) > 60
    assert slices[1027, 4096] == ["orca-2-7b embedding", "orca-2-7b lm_head"]
    assert "mistral-7b down_proj" in slices[1024, 4096] and "tinyllama-1.1b k_proj" in slices[256, 2048]
    assert all(n <= 1039 and k <= 4096 for n, k in slices)


@pytest.mark.parametrize("number_format", ["int8", "fp16"])
def test_shapes(machine, tmp_path, monkeypatch, number_format):
    monkeypatch.setattr(benchmark_shapes, "matrices", lambda *_: {(20, 64): ["a"], (9, 33): ["b"]})
    bench, peak = workbench(tmp_path), 8 if number_format == "int8" else 4
    *each, worst = gemm_shapes(Measurement, bench, "micro", number_format)
    assert [figure.value for figure in each] == [8 * n * k / peak / 20_000 for n, k in ((20, 64), (9, 33))]
    assert worst.value == each[1].value and worst.goal == 0.9 and worst.kind == "derived"
    *each, worst, typical = gemv_shapes(Measurement, bench, "micro", number_format)
    beats = [5 * (64 + 4), 3 * (33 + 4)] if number_format == "int8" else [10 * 64, 5 * 33]
    assert [figure.value for figure in each] == [count / 20_000 for count in beats]
    assert (worst.value, typical.value) == (beats[1] / 20_000, sum(beats) / 2 / 20_000)
    assert not any(figure.problems for figure in each)


def workbench(folder):
    return Workbench(folder=folder, open_model=None, new_tokens=0)


def test_share_of_peak(machine, tmp_path):
    (figure,) = gemm(workbench(tmp_path), "micro", size=SIZE)
    assert figure.value == MACS / 8 / 20_000
    assert figure.met is False and not figure.problems
    machine.cycles = int(MACS / 8 / 0.996)
    (figure,) = gemm(workbench(tmp_path), "micro", size=SIZE)
    assert figure.met is True
    assert figure.configuration == {"preset": "micro", "config_hash": load_preset("micro").sha256,
                                    "memory": {"read_latency": 40, "write_latency": 20}}


def test_a_wrong_word_is_told(machine, tmp_path):
    machine.cycles, machine.broken = 1, 4
    (figure,) = gemm(workbench(tmp_path), "micro", size=SIZE)
    assert figure.met is False
    assert figure.problems[0] == "words that differ: 1"
    assert figure.problems[1].startswith("C, row 16, column 52: got")


def test_an_error_is_told(machine, tmp_path):
    machine.error = ("WATCHDOG", 0x40)
    (figure,) = gemm(workbench(tmp_path), "micro", size=SIZE)
    assert figure.problems == ("run 0: WATCHDOG at command offset 0x40",)


@pytest.mark.parametrize("value, at_most, goal, problems, met", [
    (0.95, False, 0.95, (), True), (0.94, False, 0.95, (), False), (0.94, True, 0.95, (), True),
    (0.96, True, 0.95, (), False), (1.0, False, None, (), None), (1.0, False, None, ("wrong",), False),
    (1.0, False, 0.95, ("wrong",), False),
])
def test_met(value, at_most, goal, problems, met):
    figure = Measurement(name="x", value=value, unit="s", goal=goal, at_most=at_most, configuration={},
                         problems=problems)
    assert figure.met is met
    assert figure.as_json()["met"] is met


@pytest.mark.parametrize("broken, code", [(None, 0), (4, 1)])
def test_command(machine, tmp_path, monkeypatch, capsys, broken, code):
    """A missed goal is shown and no error; a wrong result is one."""
    monkeypatch.chdir(tmp_path)
    machine.broken = broken
    with pytest.raises(SystemExit) as end:
        main(["bench", "--only", "gemm-small", "--output", "out/bench.json"])
    assert end.value.code == code
    shown = capsys.readouterr().out
    assert ("WRONG" in shown) == bool(broken)
    assert "20,000 cycles; matmul_busy 10.0%" in " ".join(shown.split())
    (entry,) = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert entry["met"] is False and entry["goal"] == 0.995 and entry["goal_is"] == "at least"
    assert entry["kind"] == "measured" and entry["counters"][0]["cycles"] == 20_000


def test_json_on_standard_output(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["bench", "--only", "gemm-small", "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "build" / "bench.json").read_text())


def test_unknown_name(capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "--only", "nothing"])
    assert end.value.code == 2
    assert "--only nothing: unknown; allowed are verilog, layer" in capsys.readouterr().err


def test_decode_counts_bytes_that_must_move(machine, tmp_path, smollm2):
    """SmolLM2's layer 0 at a context of 64: weights and scales, K and V with theirs."""
    machine.cycles = 300_000
    bench = Workbench(folder=tmp_path, open_model=lambda: (smollm2, [1, 2, 3]), new_tokens=1)
    share, moved = benchmark.decode(bench, "medium", contexts=(64,))
    assert not share.problems
    weights = (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536) * 34 // 32
    cache = 64 * 3 * (2 * 64 + 2 * 2 + 4)
    assert share.value == (weights + cache) / (300_000 * 16)
    assert moved.value == 60_000 * 16 / (weights + cache + 3 * (2 * 64 + 2 * 2 + 4) + 2 * 576 * 4)
    assert moved.met is None and moved.kind == "derived"


@pytest.mark.slow
def test_gemm_on_hardware(tmp_path):
    (figure,) = gemm(workbench(tmp_path), "micro", size=SIZE)
    assert not figure.problems
    assert 0.5 < figure.value < 1
    assert figure.counters[0]["matmul_busy"] >= MACS / 8
