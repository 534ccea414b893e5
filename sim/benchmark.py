"""Benchmarks of the generated hardware: how busy array and bus are kept, and how long simulation and generation take.

What the hardware computes is compared with the golden model word for word, as in ``layer_run``.
"""

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np

from tilewright.gen.compiler.formats import MatrixFormat
from tilewright.gen.compiler.gemm import compile_gemm
from tilewright.gen.configuration import load_preset

from .benchmark_models import decode_of_model, decode_on_chip, filled_cache, prefill_of_layer
from .benchmark_shapes import gemm_shapes, gemv_shapes
from .gemm_job import GemmJob
from .golden import weights
from .golden.weights import BLOCK
from .measurement import Measurement

__all__ = ["BENCHMARKS", "GOALS"]

GEMM = (512, 576, 1536)
"""m, k, n."""
SLICES = (2, 6)
"""Rows that are simulated where the array takes few at a time, in sets of two row groups, which share a tile."""
CONTEXTS = (64, 512)
"""Positions that a decode step attends to, its own included."""
SEED = 20
GOALS = {"mac_share": 0.995, "bus_share": 0.92, "bytes": 1.03,
         "seconds": 60.0, "cycles_per_second": 100_000, "token_seconds": 300.0, "verilog_seconds": 10.0}
"""Shares and rates at least, the others at most."""


def gemm(bench, name, number_format="int8", size=GEMM, title=None):
    """Share of the array's peak over a whole GEMM, from start to END."""
    m, k, n = size
    compiled, outcome = _product(bench, name, number_format, size)
    yield outcome.measurement(
        name=f"gemm-{number_format}-{name}-{m}x{k}x{n}", unit="of peak MACs", goal=GOALS["mac_share"],
        title=f"GEMM {m}x{k}x{n}, {number_format.upper()}, {name}, from start to end" if title is None else title,
        value=compiled.macs / compiled.peak / outcome.cycles)


def _product(bench, name, number_format, size):
    """(CompiledGemm, Outcome)."""
    (m, k, n), config, random = size, bench.preset(name).config, np.random.default_rng(SEED)
    x, w = random.normal(size=(m, k)).astype(np.float32), random.normal(size=(n, k))
    matrix = weights.quantise(w) if number_format == "int8" else w.astype(np.float16)
    compiled = compile_gemm(config, matrix, rows=m)
    return compiled, bench.run(name, GemmJob(config, compiled, x, matrix))


def gemm_from_slices(bench, name, number_format="int8", size=GEMM, slices=SLICES):
    """The same from two GEMMs with fewer rows, whose difference is what each more row takes."""
    (m, k, n), found = size, []
    rows = [each * 2 * MatrixFormat(bench.preset(name).config, number_format).rows for each in slices]
    for each in rows:
        compiled, outcome = _product(bench, name, number_format, (each, k, n))
        found.append(outcome)
        yield outcome.measurement(name=f"gemm-{number_format}-{name}-{each}x{k}x{n}", unit="of peak MACs",
                                  value=compiled.macs / compiled.peak / outcome.cycles)
    few, many = found
    whole = many.plus(many.without(few), (m - rows[1]) / (rows[1] - rows[0]))
    yield whole.measurement(name=f"gemm-{number_format}-{name}-{m}x{k}x{n}", unit="of peak MACs", kind="derived",
                            goal=GOALS["mac_share"], value=m * k * n / compiled.peak / whole.cycles,
                            title=f"GEMM {m}x{k}x{n}, {number_format.upper()}, {name}, from start to end")


def decode(bench, name, contexts=CONTEXTS):
    """Share of bus beats that carry weights, keys or values for the first time, in a decode step of a layer."""
    config, (checkpoint, tokens) = bench.preset(name).config, bench.model
    shape, arrays, _ = bench.layer(name)
    for context in contexts:
        job = bench.layer_job(name, checkpoint.embedding(tokens[-1:]), prefill=0, first=context - 1,
                              cache=filled_cache(shape, context - 1, bench.context))
        outcome = bench.run(name, job)
        counters, (chunk,) = outcome.counters[0], job.chunks
        yield outcome.measurement(
            name=f"decode-{name}-{context}", unit="of bus beats", goal=GOALS["bus_share"], about={"context": context},
            title=f"SmolLM2-135M layer 0, decode at context {context}, {name}: weights and KV, share of the bus",
            value=job.streamed_bytes(chunk, arrays) / (outcome.cycles * config.bus_bytes))
        moved = config.bus_bytes * (counters["read_beats"] + counters["write_beats"])
        yield outcome.measurement(
            name=f"decode-{name}-{context}-bytes", unit="of least bytes", goal=GOALS["bytes"], at_most=True,
            title=f"SmolLM2-135M layer 0, decode at context {context}, {name}: bytes moved, against weights and KV "
                  "once",
            about={"context": context},
            value=moved / job.streamed_bytes(chunk, arrays))


def simulation(bench, name, context=CONTEXTS[0]):
    """Speed of the simulation in a decode step of the model's layer, and how long the model's token takes at that."""
    checkpoint, tokens = bench.model
    outcome = bench.run(name, bench.layer_job(
        name, checkpoint.embedding(tokens[-1:]), prefill=0, first=context - 1,
        cache=filled_cache(bench.layer(name)[0], context - 1, bench.context)))
    architecture, bus = checkpoint.architecture, bench.preset(name).config.bus_bytes
    speed = outcome.cycles / outcome.seconds
    outcome = replace(outcome, spent={})   # what the cycles went into does not matter here
    yield outcome.measurement(name=f"simulation-{name}", unit="cycles a second", value=speed,
                              title=f"co-simulation of {name}", goal=GOALS["cycles_per_second"],
                              about={"processors": os.cpu_count(), "load": os.getloadavg()[0]})
    vocab, hidden = architecture.tensors()["embedding"]
    head = vocab * (hidden + 2 * -(-hidden // BLOCK))  # streamed at the bus's speed
    cycles = architecture.layers * outcome.cycles + head / bus
    yield outcome.measurement(name=f"simulation-{name}-token", unit="s", value=cycles / speed, kind="derived",
                              goal=GOALS["token_seconds"], at_most=True,
                              title=f"a token of SmolLM2-135M in the co-simulation of {name}")


def layer(bench, name):
    """Seconds and speed of the simulation in which the model's layer runs over the prompt."""
    checkpoint, tokens = bench.model
    job = bench.layer_job(name, checkpoint.embedding(tokens), prefill=len(tokens) - bench.new_tokens)
    outcome = bench.run(name, job)
    yield outcome.measurement(name="layer", value=outcome.seconds, unit="s", goal=GOALS["seconds"], at_most=True)
    yield outcome.measurement(name="layer-speed", value=outcome.cycles / outcome.seconds, unit="cycles a second")


def verilog(bench, name):
    """Seconds in which a new process makes a preset's Verilog, the interpreter's start included."""
    program = ("import sys; from tilewright.gen.configuration import load_preset; "
               "from tilewright.gen.generate import build_top; from tilewright.gen.verilog import emit; "
               "config = load_preset(sys.argv[1]); emit(build_top(config), name=config.module_name)")
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, name], check=True)
    config = load_preset(name)
    yield Measurement(name=f"verilog-{name}", value=time.perf_counter() - started, unit="s", at_most=True,
                      goal=GOALS["verilog_seconds"], title=f"Verilog of {name}",
                      configuration={"preset": name, "config_hash": config.sha256, "memory": None})


BENCHMARKS = {
    "verilog": (verilog, "medium"),
    "layer": (layer, "medium"),
    "decode-medium": (decode, "medium"),
    "decode-small": (decode, "small"),
    "simulation-small": (simulation, "small"),
    "decode-dram": (decode_of_model, "medium"),
    "decode-on-chip": (decode_on_chip, "medium"),
    "decode-on-chip-fp16": (partial(decode_on_chip, number_format="fp16"), "medium"),
    "prefill-medium": (prefill_of_layer, "medium"),
    "gemm-medium": (gemm, "medium"),
    "gemm-fp16-medium": (partial(gemm_from_slices, number_format="fp16"), "medium"),
    "gemm-small": (gemm_from_slices, "small"),
    "gemm-shapes-medium": (gemm_shapes, "medium"),
    "gemm-shapes-fp16-medium": (partial(gemm_shapes, number_format="fp16"), "medium"),
    "gemv-shapes-medium": (gemv_shapes, "medium"),
    "gemv-shapes-fp16-medium": (partial(gemv_shapes, number_format="fp16"), "medium"),
    "gemv-shapes-small": (gemv_shapes, "small"),
}
"""By name: a function (Workbench, preset) that yields Measurements, and the preset."""
