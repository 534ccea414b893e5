"""Benchmarks of the generated hardware: how busy array and bus are kept, and how long simulation and generation take.

What the hardware computes is compared with the golden model word for word, as in ``layer_run``.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np

from tilewright.gen.compiler.gemm import compile_gemm
from tilewright.gen.compiler.layer import compile_layer
from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.gen.generate import build_top
from tilewright.gen.verilog import emit

from .benchmark_shapes import gemm_shapes, gemv_shapes
from .cosim import build, simulate
from .gemm_job import GemmJob
from .golden import functions, weights
from .golden.layer import KvCache, LayerShape
from .layer_job import LayerJob

__all__ = ["Measurement", "Workbench", "BENCHMARKS", "GOALS"]

GEMM = {"int8": (512, 576, 1536), "fp16": (16, 576, 1536)}
"""m, k, n; FP16 has fewer rows, since the array takes fewer at a time."""
CONTEXTS = (64, 512)
"""Positions that a decode step attends to, its own included."""
MEMORY = {"read_latency": 40, "write_latency": 20}
MEMORY_BYTES = 1 << 25
"""Holds every job, so that each preset is built once."""
SEED = 20
GOALS = {"mac_share": 0.995, "bus_share": 0.90, "seconds": 60.0, "verilog_seconds": 10.0}
"""Shares at least, seconds at most."""
SHOWN = 5  # words that differ, in the report


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One figure.

    goal : float or None   ``at_most``: the value must not be above it, else not below
    kind : str             'measured': counted or timed, a share of the possible included; 'derived': a count against
                           one that was calculated; 'projected': from an assumption, such as a clock
    configuration : dict   preset, hash and memory settings
    counters : list        of each run, by name
    problems : tuple       where the result is wrong, a line each
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = False
    kind: str = "measured"
    configuration: dict
    counters: list = ()
    problems: tuple = ()

    @property
    def met(self):
        """Whether the result is right and the goal met; None without a goal."""
        if self.problems:
            return False
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def as_json(self):
        """What scripts read."""
        return {"name": self.name, "value": self.value, "unit": self.unit, "goal": self.goal,
                "goal_is": self.goal and ("at most" if self.at_most else "at least"), "met": self.met,
                "kind": self.kind, "configuration": self.configuration, "counters": list(self.counters),
                "problems": list(self.problems)}


@dataclass(frozen=True, kw_only=True)
class _Preset:
    config: object
    tables: dict
    built: Path

    @property
    def configuration(self):
        return {"preset": self.config.name, "config_hash": self.config.sha256, "memory": MEMORY}


class Workbench:
    """What benchmarks share: builds of the presets and the model's layer, each made when first needed.

    Parameters
    ----------
    folder : path              for Verilog and builds; builds are kept and used again
    open_model : function      returns (Checkpoint, tokens of the prompt)
    new_tokens : int           how many of the prompt's tokens are decoded
    step : function            told what is being done
    """

    def __init__(self, *, folder, open_model, new_tokens, step=lambda text: None):
        self._folder, self._open_model, self.new_tokens, self._step = Path(folder), open_model, new_tokens, step
        self.preset = cache(self._build)
        self.layer = cache(self._compile)

    def _build(self, name):
        config = load_preset(name)
        self._step(f"{name}: generating Verilog")
        tables = function_tables(config.functions)
        verilog = self._folder / f"{config.module_name}.v"
        emit(build_top(config), name=config.module_name, path=verilog)
        self._step(f"{name}: building the simulation")
        built = build(config, verilog, self._folder, memory_bytes=MEMORY_BYTES)
        return _Preset(config=config, built=built,
                       tables={table.name: functions.table_from(table) for table in tables})

    @cached_property
    def model(self):
        """(Checkpoint, tokens of the prompt)."""
        self._step("reading the model")
        return self._open_model()

    def _compile(self, name):
        """(LayerShape, weights, CompiledLayer) of the model's layer 0 for a preset."""
        checkpoint, _ = self.model
        shape, arrays = LayerShape.of(checkpoint.architecture.layer(0)), checkpoint.layer(0, "int8")
        return shape, arrays, compile_layer(self.preset(name).config, shape, arrays, context=max(CONTEXTS))

    def layer_job(self, name, x, **options):
        """LayerJob of the model's layer 0 on a preset."""
        self._step(f"{name}: running the golden model")
        preset, (shape, arrays, compiled) = self.preset(name), self.layer(name)
        return LayerJob(preset.config, shape, arrays, compiled, x, tables=preset.tables, **options)

    def run(self, name, job):
        """Simulate a job: (Result, lines that tell what is wrong)."""
        def progress(done, label):
            self._step(f"{name}: simulating {label}")

        result = simulate(self.preset(name).built, job.job(MEMORY), job.image, progress=progress)
        _, differ = job.compare(result.memory)
        problems = [f"run {i}: {error[0]} at command offset {error[1]:#x}"
                    for i, error in enumerate(result.errors) if error]
        problems += [f"words that differ: {len(differ)}"] if differ else []
        problems += [f"{job.place(at)}: got {got:#010x}, expected {expected:#010x}"
                     for at, got, expected in differ[:SHOWN]]
        return result, tuple(problems)


def gemm(bench, name, number_format="int8", size=None):
    """Share of the array's peak over a whole GEMM, from start to END."""
    m, k, n = size or GEMM[number_format]
    config, random = bench.preset(name).config, np.random.default_rng(SEED)
    x, w = random.normal(size=(m, k)).astype(np.float32), random.normal(size=(n, k))
    matrix = weights.quantise(w) if number_format == "int8" else w.astype(np.float16)
    compiled = compile_gemm(config, matrix, rows=m)
    result, problems = bench.run(name, GemmJob(config, compiled, x, matrix))
    yield Measurement(name=f"gemm-{number_format}-{name}-{m}x{k}x{n}", unit="of peak MACs",
                      value=compiled.macs / compiled.peak / result.cycles, goal=GOALS["mac_share"],
                      configuration=bench.preset(name).configuration, counters=result.counters, problems=problems)


def decode(bench, name, contexts=CONTEXTS):
    """Share of bus beats that carry weights, keys or values for the first time, in a decode step."""
    config, (checkpoint, tokens) = bench.preset(name).config, bench.model
    shape, arrays, _ = bench.layer(name)
    for context in contexts:
        job = bench.layer_job(name, checkpoint.embedding(tokens[-1:]), prefill=0, first=context - 1,
                              cache=_filled_cache(shape, context - 1, max(CONTEXTS)))
        result, problems = bench.run(name, job)
        counters, (chunk,) = result.counters[0], job.chunks
        common = {"configuration": bench.preset(name).configuration | {"context": context},
                  "counters": result.counters, "problems": problems}
        yield Measurement(name=f"decode-{name}-{context}", unit="of bus beats", goal=GOALS["bus_share"],
                          value=job.streamed_bytes(chunk, arrays) / (result.cycles * config.bus_bytes), **common)
        moved = config.bus_bytes * (counters["read_beats"] + counters["write_beats"])
        yield Measurement(name=f"decode-{name}-{context}-bytes", unit="of least bytes",
                          value=moved / job.least_bytes(chunk, arrays), kind="derived", **common)


def _filled_cache(shape, positions, context):
    """A cache of which so many positions hold random keys and values, quantised as real ones are."""
    random, filled = np.random.default_rng(SEED), KvCache.empty(shape, context)
    k, v = random.normal(size=(2, positions, shape.kv_heads, shape.head_dim)).astype(np.float32)
    filled.append(k, v, 0)
    return filled


def layer(bench, name):
    """Seconds and speed of the simulation in which the model's layer runs over the prompt."""
    checkpoint, tokens = bench.model
    job = bench.layer_job(name, checkpoint.embedding(tokens), prefill=len(tokens) - bench.new_tokens)
    result, problems = bench.run(name, job)
    common = {"configuration": bench.preset(name).configuration | {"context": max(CONTEXTS)},
              "counters": result.counters, "problems": problems}
    yield Measurement(name="layer", value=result.seconds, unit="s", goal=GOALS["seconds"], at_most=True,
                      **common)
    yield Measurement(name="layer-speed", value=result.cycles / result.seconds, unit="cycles a second",
                      **common)


def verilog(bench, name):
    """Seconds in which a new process makes a preset's Verilog, the interpreter's start included."""
    program = ("import sys; from tilewright.gen.configuration import load_preset; "
               "from tilewright.gen.generate import build_top; from tilewright.gen.verilog import emit; "
               "config = load_preset(sys.argv[1]); emit(build_top(config), name=config.module_name)")
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, name], check=True)
    config = load_preset(name)
    yield Measurement(name=f"verilog-{name}", value=time.perf_counter() - started, unit="s", at_most=True,
                      goal=GOALS["verilog_seconds"],
                      configuration={"preset": name, "config_hash": config.sha256, "memory": None})


BENCHMARKS = {
    "verilog": (verilog, "medium"),
    "layer": (layer, "medium"),
    "decode-medium": (decode, "medium"),
    "decode-small": (decode, "small"),
    "gemm-medium": (gemm, "medium"),
    "gemm-fp16-medium": (partial(gemm, number_format="fp16"), "medium"),
    "gemm-small": (gemm, "small"),
    "gemm-shapes-medium": (partial(gemm_shapes, Measurement), "medium"),
    "gemm-shapes-fp16-medium": (partial(gemm_shapes, Measurement, number_format="fp16"), "medium"),
    "gemv-shapes-medium": (partial(gemv_shapes, Measurement), "medium"),
    "gemv-shapes-fp16-medium": (partial(gemv_shapes, Measurement, number_format="fp16"), "medium"),
    "gemv-shapes-small": (partial(gemv_shapes, Measurement), "small"),
}
"""By name: a function (Workbench, preset) that yields Measurements, and the preset."""
