"""Benchmarks of the matrices of ten models: prefill (GEMM) keeps the array busy, decode (GEMV) the bus.

A matrix too large to simulate is measured on slices of it: fewer outputs, and no more reduction indices than the
activation buffer holds. Tiles follow each other alike, so that a longer row of them only makes the ends weigh less.
"""

from dataclasses import replace
from itertools import groupby

import numpy as np

from tilewright.gen.compiler.formats import STREAMS, MatrixFormat
from tilewright.gen.compiler.gemm import compile_gemm
from tilewright.gen.model import load_model

from .gemm_job import GemmJob
from .golden import weights

__all__ = ["TEN_MODELS", "matrices", "products", "gemm_shapes", "gemv_shapes"]

TEN_MODELS = ("llama-3.2-1b", "tinyllama-1.1b", "phi-1.5", "kosmos-2", "stablelm-2-1.6b", "gemma-2b", "dolly-v2-3b",
              "mistral-7b", "orca-2-7b", "solar-10.7b")
MOST_OUTPUTS = 1024
"""Outputs of a slice for GEMV, at most; the rest of the last tile is kept."""
SLICES = (256, 512)
"""Outputs of the slices for GEMM, in whole MATMULs; what lies between them is what that many more outputs take."""
ROWS = 4
"""Rows of a GEMM, in groups of the array's."""
SEED = 21
GOALS = {"gemm_best": 0.995, "gemm_worst": 0.90, "gemv": 0.92, "gemv_typical": 0.97}


def _layer_tensors(name):
    """Shapes [n, k] of the matrices of a model's layer, by name, and of what stands outside of the layers."""
    tensors = {tensor: shape for tensor, shape in load_model(name).architecture.tensors().items()
               if len(shape) == 2 and tensor != "positions"}
    layer = {tensor.removeprefix("layers.0."): shape for tensor, shape in tensors.items()
             if tensor.startswith("layers.0.")}
    return layer, {tensor: shape for tensor, shape in tensors.items() if "." not in tensor}


def matrices(depth, outputs):
    """Slices of all matrices of the ten models: {(n, k): names of the matrices}; ``outputs`` of a tile, ``depth`` of
    the activation buffer."""
    found = {}
    for name in TEN_MODELS:
        layer, others = _layer_tensors(name)
        for tensor, (n, k) in (layer | others).items():   # the embedding stands for the output layer: it has its shape
            size = (min(n, MOST_OUTPUTS + n % outputs), min(k, depth))
            found.setdefault(size, []).append(f"{name} {tensor}")
    return found


def products(depth, outputs):
    """GEMMs of prefill: {(n, k): names}, n in whole tiles, k at most ``depth``. Matrices that lie behind each other and
    have one input are one product; the output layer has but one row and is none."""
    found = {}
    for name in TEN_MODELS:
        layer, _ = _layer_tensors(name)
        for stream, tensors in STREAMS.items():
            shapes = [layer[tensor] for tensor in tensors if tensor in layer]
            size = sum(-(-n // outputs) * outputs for n, _ in shapes), min(shapes[0][1], depth)
            found.setdefault(size, []).append(f"{name} {stream}")
    return found


def _measure(bench, preset, size, number_format, rows):
    """(CompiledGemm, Outcome) of one product."""
    (n, k), config = size, bench.preset(preset).config
    random = np.random.default_rng(SEED)
    x, w = random.normal(size=(rows, k)).astype(np.float32), random.normal(size=(n, k)).astype(np.float32)
    matrix = weights.quantise(w) if number_format == "int8" else w.astype(np.float16)
    compiled = compile_gemm(config, matrix, rows=rows)
    return compiled, bench.run(preset, GemmJob(config, compiled, x, matrix))


def gemm_shapes(bench, preset, number_format="int8"):
    """Share of peak MACs for each product, derived from two slices of it, the best and the worst."""
    config = bench.preset(preset).config
    fmt = MatrixFormat(config, number_format)
    rows, wholes = ROWS * fmt.rows, []
    by_depth = sorted(products(config.activation_depth, fmt.outputs).items(), key=lambda item: item[0][1])
    for k, group in groupby(by_depth, key=lambda item: item[0][1]):
        (_, few), (compiled, many) = (_measure(bench, preset, (n, k), number_format, rows) for n in SLICES)
        more = many.without(few)
        for n, outcome in zip(SLICES, (few, many), strict=True):
            yield outcome.measurement(name=f"gemm-{number_format}-{preset}-{rows}x{k}x{n}", unit="of peak MACs",
                                      value=rows * k * n / compiled.peak / outcome.cycles)
        for (n, _), names in group:
            whole = many.plus(more, (n - SLICES[1]) / (SLICES[1] - SLICES[0]))
            wholes.append(whole.measurement(name=f"gemm-{number_format}-{preset}-{rows}x{k}x{n}-whole",
                                            value=rows * k * n / compiled.peak / whole.cycles, unit="of peak MACs",
                                            kind="derived", about={"products": names}))
            yield wholes[-1]
    wholes.sort(key=lambda whole: whole.value)
    for whole, which in ((wholes[-1], "best"), (wholes[0], "worst")):
        yield replace(whole, name=f"gemm-{number_format}-{preset}-{which}-of-ten-models", goal=GOALS[f"gemm_{which}"],
                      title=f"GEMM of {rows} rows, layers of ten models, {number_format.upper()}, {preset}: {which} "
                            "share of peak MACs")


def gemv_shapes(bench, preset, number_format="int8"):
    """Share of the bus's beats that carry weights and scales, for a slice of each matrix, the worst and the median."""
    config, found = bench.preset(preset).config, []
    fmt = MatrixFormat(config, number_format)
    for (n, k), names in matrices(config.activation_depth, fmt.outputs).items():
        compiled, outcome = _measure(bench, preset, (n, k), number_format, 1)
        found.append((compiled.weight_beats / outcome.cycles, outcome))
        yield outcome.measurement(name=f"gemv-{number_format}-{preset}-1x{k}x{n}", value=found[-1][0],
                                  unit="of bus beats", about={"matrices": names})
    worst, outcome = min(found, key=lambda each: each[0])
    for name, share, goal in (("worst", worst, GOALS["gemv"]),
                              ("typical", float(np.median([share for share, _ in found])), GOALS["gemv_typical"])):
        yield outcome.measurement(name=f"gemv-{number_format}-{preset}-{name}-of-ten-models", value=share, goal=goal,
                                  unit="of bus beats", kind="derived",
                                  title=f"GEMV, matrices of ten models, {number_format.upper()}, {preset}: {name} "
                                        "share of the bus")
