"""Benchmarks: figures, goals, verdicts and exit codes with the functional machine in the simulator's place, and a small
GEMM on the real hardware."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tilewright.gen.cli import main
from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.gen.package import whole_model
from tilewright.hw.registers import COUNTERS
from tilewright.sim import benchmark, benchmark_models, benchmark_shapes, workbench
from tilewright.sim.benchmark import gemm
from tilewright.sim.benchmark_plot import grouped, write_plot
from tilewright.sim.benchmark_shapes import gemm_shapes, gemv_shapes, matrices, products
from tilewright.sim.cosim import Result
from tilewright.sim.machine import Machine
from tilewright.sim.measurement import ARRAY, Measurement, Outcome
from tilewright.sim.workbench import Workbench

SIZE = (17, 100, 53)
MACS = 17 * 100 * 53


@pytest.fixture
def machine(monkeypatch):
    """``simulate`` on the functional machine, no builds; ``cycles``, ``error`` and ``broken`` (byte from the end) as
    set."""
    state = SimpleNamespace(cycles=20_000, error=None, broken=None)

    def simulate(built, job, image, *, progress=None, record=None):
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
        counters |= dict.fromkeys(ARRAY, 0)
        begin = f"7 4 0 0 {job.runs[0].program:x}\n"  # nothing but the sequencer works
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(begin + f"{7 + state.cycles} 0 0 0 0\n")
        return Result([counters], [state.error], memory, 2.0)

    monkeypatch.setattr(workbench, "simulate", simulate)
    monkeypatch.setattr(workbench, "build_simulation", lambda config, *_, **__: SimpleNamespace(folder=config))
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


def test_products_of_ten_models():
    """Matrices with one input are one product, in whole tiles; lm_head is none."""
    found = products(4096, 16)
    names = [name for each in found.values() for name in each]
    assert len(names) == len(set(names)) == 40
    assert found[2560, 2048] == ["tinyllama-1.1b projections", "gemma-2b projections"]
    assert "mistral-7b down_proj" in found[4096, 4096] and found[32768, 2048] == ["gemma-2b up"]


@pytest.mark.parametrize("number_format", ["int8", "fp16"])
def test_gemv_shapes(machine, tmp_path, monkeypatch, number_format):
    monkeypatch.setattr(benchmark_shapes, "matrices", lambda *_: {(20, 64): ["a"], (9, 33): ["b"]})
    *each, worst, typical = gemv_shapes(on(tmp_path), "micro", number_format)
    beats = [5 * (64 + 4), 3 * (33 + 4)] if number_format == "int8" else [10 * 64, 5 * 33]
    assert [figure.value for figure in each] == [count / 20_000 for count in beats]
    assert (worst.value, typical.value) == (beats[1] / 20_000, sum(beats) / 2 / 20_000)
    assert not any(figure.problems for figure in each)


@pytest.mark.parametrize("number_format", ["int8", "fp16"])
def test_gemm_shapes(machine, tmp_path, monkeypatch, number_format):
    """The whole's cycles follow from those of two slices: here as many more as each output takes 10."""
    monkeypatch.setattr(benchmark_shapes, "products", lambda *_: {(100, 64): ["a"], (60, 33): ["b"], (20, 64): ["c"]})
    monkeypatch.setattr(benchmark_shapes, "SLICES", (8, 16))
    measure, peak = benchmark_shapes._measure, 8 if number_format == "int8" else 4

    def measured(bench, preset, size, *rest):
        machine.cycles = 5_000 + 10 * size[0]
        return measure(bench, preset, size, *rest)

    monkeypatch.setattr(benchmark_shapes, "_measure", measured)
    *each, best, worst = gemm_shapes(on(tmp_path), "micro", number_format)
    assert [figure.name for figure in each if figure.kind == "measured"] == [
        f"gemm-{number_format}-micro-8x{k}x{n}" for k in (33, 64) for n in (8, 16)]
    shares = [8 * n * k / peak / (5_000 + 10 * n) for n, k in ((60, 33), (100, 64), (20, 64))]
    assert [figure.value for figure in each if figure.kind == "derived"] == pytest.approx(shares)
    assert worst.value == pytest.approx(min(shares)) and worst.goal == 0.9 and worst.kind == "derived"
    assert worst.configuration["products"] == ["c"]
    assert best.value == pytest.approx(max(shares)) and best.goal == 0.995 and best.title != worst.title


def on(folder, open_model=None):
    return Workbench(folder=folder, open_model=open_model, new_tokens=1, context=512)


def test_share_of_peak(machine, tmp_path):
    (figure,) = gemm(on(tmp_path), "micro", size=SIZE)
    assert figure.value == MACS / 8 / 20_000
    assert figure.met is False and not figure.problems
    machine.cycles = int(MACS / 8 / 0.996)
    (figure,) = gemm(on(tmp_path), "micro", size=SIZE)
    assert figure.met is True
    assert figure.configuration == {"preset": "micro", "config_hash": load_preset("micro").sha256,
                                    "memory": {"read_latency": 40, "write_latency": 20}}


def test_a_wrong_word_is_told(machine, tmp_path):
    machine.cycles, machine.broken = 1, 4
    (figure,) = gemm(on(tmp_path), "micro", size=SIZE)
    assert figure.met is False
    assert figure.problems[0] == "words that differ: 1"
    assert figure.problems[1].startswith("C, row 16, column 52: got")


def test_an_error_is_told(machine, tmp_path):
    machine.error = ("WATCHDOG", 0x40)
    (figure,) = gemm(on(tmp_path), "micro", size=SIZE)
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
    assert ("20,000 cycles: sequencer alone, start and end 100.0%" in " ".join(shown.split()))
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
    bench = on(tmp_path, lambda: (smollm2, [1, 2, 3]))
    share, moved = benchmark.decode(bench, "medium", contexts=(64,))
    assert not share.problems
    weights = (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536) * 34 // 32
    cache = 64 * 3 * (2 * 64 + 2 * 2 + 4)
    assert share.value == (weights + cache) / (300_000 * 16)
    assert moved.value == 60_000 * 16 / (weights + cache) and moved.at_most and moved.goal == 1.03
    speed, token = benchmark.simulation(bench, "medium", context=64)
    assert speed.value == 150_000 and speed.met
    assert token.value == pytest.approx((30 * 300_000 + 49152 * 576 * 34 / 32 / 16) / 150_000) and token.met


def test_whole_from_two_slices(machine, tmp_path, monkeypatch):
    """Each row more than the larger slice's costs what it costs between the slices."""
    outcomes = iter((1_000, 2_200))
    product = benchmark._product

    def measured(*arguments):
        machine.cycles = next(outcomes)
        return product(*arguments)

    monkeypatch.setattr(benchmark, "_product", measured)
    *slices, whole = benchmark.gemm_from_slices(on(tmp_path), "micro", "fp16", size=(20, 33, 9), slices=(1, 2))
    assert [each.value for each in slices] == [4 * 33 * 9 / 4 / 1_000, 8 * 33 * 9 / 4 / 2_200]
    assert whole.value == pytest.approx(20 * 33 * 9 / 4 / (2_200 + 12 * 300))
    assert whole.kind == "derived" and whole.name == "gemm-fp16-micro-20x33x9" and not whole.problems


def model_bench(smollm2, run_model):
    """A bench that runs models by ``run_model``."""
    return SimpleNamespace(model=(smollm2, [1, 2, 3]), whole_model=whole_model(smollm2, "int8"), context=512,
                           run_model=run_model, preset=lambda name: SimpleNamespace(config=load_preset(name)))


def test_prefill(smollm2):
    """What two layers take more than one."""
    def run_model(name, model, task, *, kind, title, **options):
        layers = len(model.shapes)
        assert kind == "prefill" and len(model.tensors["lm_head"].q) == 512
        counters = [{"cycles": 1_000 + 50_000 * layers}] * 2
        return Outcome(counters=counters, seconds=1.0, problems=(), configuration={},
                       read={"o_proj": 400_000 * layers, "lm_head": 7, "keys": 5 * layers},
                       spent={"array multiplies": 90_000 * layers, "vector alone, lm_head": 4})

    share, read = benchmark_models.prefill_of_layer(model_bench(smollm2, run_model), "medium", count=19)
    linear = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
    assert share.value == (19 * linear + 2 * 190 * 9 * 64) / 256 / 100_000 and share.goal == 0.9
    assert read.value == 400_000 / (2 * linear * 34 / 32) and read.at_most
    assert share.spent == {"array multiplies": 90_000} and share.kind == read.kind == "derived"


def test_whole_model_from_parts(smollm2):
    """Cycles that are linear in layers and vocabulary give the whole's."""
    def run_model(name, model, task, *, kind, title, caches, **options):
        layers, vocab = len(model.shapes), len(model.tensors["embedding"])
        assert len(model.layers) == len(caches) == layers and len(model.tensors["lm_head"].q) == vocab
        counters = {"cycles": 5_000 + 250_000 * layers + 40 * vocab, "read_beats": 100 * layers, "write_beats": vocab}
        return Outcome(counters=[counters], seconds=1.0, problems=(), spent={}, read={}, configuration={})

    *parts, cycles, moved = benchmark_models.decode_of_model(model_bench(smollm2, run_model), "medium")
    layer = (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536) * 34 // 32 + 128 * 3 * (2 * 64 + 2 * 2 + 4)
    least = 30 * layer + 49152 * 576 * 34 // 32
    assert len(parts) == 3 and cycles.kind == "derived" and not parts[0].title
    assert cycles.value == pytest.approx((5_000 + 250_000 * 30 + 40 * 49152) * 16 / least)
    assert moved.value == pytest.approx((100 * 30 + 49152) * 16 / least)


def test_picture(tmp_path):
    """Shares add up to one; a run with several figures has one bar."""
    spent = {"array multiplies": 50, "vector alone, attention": 20, "vector alone, up_proj": 10,
             "sequencer alone, start and end": 20}
    shares = grouped(spent)
    assert shares["vector unit alone"] == pytest.approx(0.3) and sum(shares.values()) == pytest.approx(1)
    figures = [Measurement(name=name, value=1.0, unit="s", configuration={}, spent=spent if name else None)
               for name in ("first", "second", "")]
    assert not write_plot(tmp_path / "none.svg", figures[2:]) and not (tmp_path / "none.svg").exists()
    assert write_plot(tmp_path / "bars.svg", figures)
    drawn = (tmp_path / "bars.svg").read_text()
    assert "<!-- first -->" in drawn and "<!-- second -->" not in drawn
    write_plot(tmp_path / "again.svg", figures)
    assert (tmp_path / "again.svg").read_text() == drawn


def test_readme(machine, tmp_path, monkeypatch, capsys):
    """Figures with a title stand between the marks, with what the cycles of those that miss their goal went into."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "BENCHMARKS", {
        "a": (lambda bench, _: gemm(bench, "micro", size=SIZE, title="GEMM, micro"), "micro"),
        "b": (lambda bench, _: gemm(bench, "micro", size=SIZE, title=""), "micro")})
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nbehind\n")
    with pytest.raises(SystemExit) as end:
        main(["bench", "--readme", "README.md"])
    assert end.value.code == 0
    assert readme.read_text() == (
        "before\n<!-- bench: begin -->\n| what | goal | measured |\n|---|---|---|\n"
        f"| GEMM, micro | >= 0.995 | {MACS / 8 / 20_000:.3f} of peak MACs |\n\n"
        "Where the cycles of those went that miss their goal:\n\n- GEMM, micro: 20,000 cycles: sequencer alone, start "
        "and end 100.0%\n<!-- bench: end -->\nbehind\n")
    for arguments, line in ((["--readme", "README.md", "--only", "a"], "--readme with --only: the table would lose"),
                            (["--readme", "none.md"], "none.md: has no lines <!-- bench: begin --> and")):
        with pytest.raises(SystemExit) as end:
            main(["bench", *arguments])
        assert end.value.code == 2 and line in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_on_hardware(tmp_path):
    """A GEMM, and a decode step of a whole model: right, and each cycle told once."""
    bench = on(tmp_path)
    (figure,) = gemm(bench, "micro", size=SIZE)
    assert not figure.problems
    assert 0.5 < figure.value < 1
    assert figure.counters[0]["matmul_busy"] >= MACS / 8
    (step,) = benchmark_models.decode_on_chip(bench, "micro", context=4)
    assert not step.problems
    assert 1 < step.value < 3
    for each in (figure, step):
        assert sum(each.spent.values()) == pytest.approx(each.counters[0]["cycles"], rel=0.01)
