"""Benchmarks of the matrices of ten models: prefill (GEMM) keeps the array busy, decode (GEMV) the bus.

A matrix too large to simulate is measured on a slice of it: fewer outputs, and no more reduction indices than the
activation buffer holds. Tiles follow each other alike, so that a longer row of them only makes the ends weigh less.
"""

import numpy as np

from tilewright.gen.compiler.formats import MatrixFormat
from tilewright.gen.compiler.gemm import compile_gemm
from tilewright.gen.model import load_model

from .gemm_job import GemmJob
from .golden import weights

__all__ = ["TEN_MODELS", "matrices", "gemm_shapes", "gemv_shapes"]

TEN_MODELS = ("llama-3.2-1b", "tinyllama-1.1b", "phi-1.5", "kosmos-2", "stablelm-2-1.6b", "gemma-2b", "dolly-v2-3b",
              "mistral-7b", "orca-2-7b", "solar-10.7b")
MOST_OUTPUTS = 1024
"""Outputs of a slice, at most; the rest of the last tile is kept."""
ROWS = 4
"""Rows of a GEMM, in groups of the array's."""
SEED = 21
GOALS = {"gemm": 0.90, "gemv": 0.92, "gemv_typical": 0.97}


def matrices(depth, outputs):
    """Slices of all matrices of the ten models: {(n, k): names of the matrices}; ``outputs`` of a tile, ``depth`` of
    the activation buffer."""
    found = {}
    for name in TEN_MODELS:
        tensors = load_model(name).architecture.tensors()
        for tensor, shape in tensors.items():
            # The embedding stands for the output layer, too: it has its shape.
            if len(shape) == 2 and tensor != "positions" and (tensor.startswith("layers.0.") or "." not in tensor):
                n, k = shape
                size = (min(n, MOST_OUTPUTS + n % outputs), min(k, depth))
                found.setdefault(size, []).append(f"{name} {tensor.removeprefix('layers.0.')}")
    return found


def _measure(bench, preset, size, number_format, rows):
    """(CompiledGemm, Outcome) of one product."""
    (n, k), config = size, bench.preset(preset).config
    random = np.random.default_rng(SEED)
    x, w = random.normal(size=(rows, k)).astype(np.float32), random.normal(size=(n, k)).astype(np.float32)
    matrix = weights.quantise(w) if number_format == "int8" else w.astype(np.float16)
    compiled = compile_gemm(config, matrix, rows=rows)
    return compiled, bench.run(preset, GemmJob(config, compiled, x, matrix))


def _shapes(bench, preset, kind, number_format, rows, value, unit):
    """A measurement for each slice; returns their values and the worst one's Outcome."""
    config, found = bench.preset(preset).config, {}
    fmt = MatrixFormat(config, number_format)
    for (n, k), names in matrices(config.activation_depth, fmt.outputs).items():
        compiled, outcome = _measure(bench, preset, (n, k), number_format, rows)
        found[n, k] = value(compiled, outcome), outcome
        yield outcome.measurement(name=f"{kind}-{number_format}-{preset}-{rows}x{k}x{n}", value=found[n, k][0],
                                  unit=unit, about={"matrices": names})
    worst = min(found, key=lambda size: found[size][0])
    return [share for share, _ in found.values()], found[worst][1]


def gemm_shapes(bench, preset, number_format="int8"):
    """Share of peak MACs for each slice, and the worst."""
    rows = ROWS * MatrixFormat(bench.preset(preset).config, number_format).rows
    values, worst = yield from _shapes(bench, preset, "gemm", number_format, rows,
                                       lambda compiled, outcome: compiled.macs / compiled.peak / outcome.cycles,
                                       "of peak MACs")
    yield worst.measurement(name=f"gemm-{number_format}-{preset}-worst-of-ten-models", value=min(values),
                            goal=GOALS["gemm"], unit="of peak MACs", kind="derived",
                            title=f"GEMM of {rows} rows, matrices of ten models, {number_format.upper()}, {preset}: "
                                  "worst share of peak MACs")


def gemv_shapes(bench, preset, number_format="int8"):
    """Share of the bus's beats that carry weights and scales, for each slice, the worst and the median."""
    values, outcome = yield from _shapes(bench, preset, "gemv", number_format, 1,
                                         lambda compiled, outcome: compiled.weight_beats / outcome.cycles,
                                         "of bus beats")
    for name, found, goal in (("worst", min(values), GOALS["gemv"]),
                              ("typical", float(np.median(values)), GOALS["gemv_typical"])):
        yield outcome.measurement(name=f"gemv-{number_format}-{preset}-{name}-of-ten-models", value=found, goal=goal,
                                  unit="of bus beats", kind="derived",
                                  title=f"GEMV, matrices of ten models, {number_format.upper()}, {preset}: {name} "
                                        "share of the bus")
