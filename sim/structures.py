"""A layer of each known model, in its exact structure and reduced sizes, one after another on one simulated build."""

from dataclasses import dataclass

import numpy as np

from .cosim import simulate
from .golden.layer import LayerShape, quantise_weights
from .layer_job import LayerJob

__all__ = ["REDUCED", "FORMATS", "Case", "Outcome", "cases", "layer_job", "prove", "matrix"]

REDUCED = {
    "llama-3.2-1b": {"hidden": 128, "heads": 8, "kv_heads": 2, "head_dim": 16, "ffn": 344},
    "tinyllama-1.1b": {"hidden": 96, "heads": 16, "kv_heads": 2, "head_dim": 16, "ffn": 172},
    "phi-1.5": {"hidden": 128, "heads": 4, "kv_heads": 4, "head_dim": 32, "ffn": 300},
    "kosmos-2": {"hidden": 96, "heads": 3, "kv_heads": 3, "head_dim": 32, "ffn": 172},
    "stablelm-2-1.6b": {"hidden": 64, "heads": 2, "kv_heads": 2, "head_dim": 32, "ffn": 132},
    "gemma-2b": {"hidden": 64, "heads": 2, "kv_heads": 1, "head_dim": 256, "ffn": 300},
    "dolly-v2-3b": {"hidden": 160, "heads": 2, "kv_heads": 2, "head_dim": 80, "ffn": 172},
    "mistral-7b": {"hidden": 128, "heads": 8, "kv_heads": 2, "head_dim": 32, "ffn": 172, "window": 8},
    "orca-2-7b": {"hidden": 128, "heads": 2, "kv_heads": 2, "head_dim": 64, "ffn": 344},
    "solar-10.7b": {"hidden": 100, "heads": 8, "kv_heads": 2, "head_dim": 24, "ffn": 229},
    "smollm2-135m": {"hidden": 576, "heads": 4, "kv_heads": 2, "head_dim": 64, "ffn": 172},
    "stories260k": {},
    "all-minilm-l6-v2": {"hidden": 96, "heads": 3, "kv_heads": 3, "head_dim": 32, "ffn": 172},
    "gemma3-270m": {"hidden": 80, "heads": 4, "kv_heads": 1, "head_dim": 40, "ffn": 172, "window": 8},
}
"""Sizes that replace a model's own, some of them awkward on purpose; stories260K needs none."""

FORMATS = ("int8", "fp16")
DECODE = 3
CONTEXT = 64
SEED = 20
MEMORY = {"read_latency": 11, "write_latency": 7, "refresh_every": 300, "refresh_cycles": 25, "stall_ar": 40,
          "stall_r": 20, "stall_aw": 40, "stall_w": 20, "stall_b": 40, "seed": 5}
"""A memory with latency, refresh and random stalls."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layer to prove: of ``model``, number ``layer``, weights and KV cache in ``number_format`` (INT4 with an INT8
    cache), so many tokens as prefill and as decode."""

    model: str
    layer: int
    shape: LayerShape
    number_format: str
    prefill: int
    decode: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a case. ``problems`` are lines; none means that every word was equal."""

    case: Case
    words: int
    cycles: int
    problems: tuple


def layer_job(config, shape, tables, *, context, prefill, decode, seed, formats=("int8", "int8")):
    """A LayerJob with random weights (``formats``: of weights, of the KV cache) and inputs."""
    from tilewright.gen.compiler.layer import compile_layer

    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=size) / np.sqrt(size[1]) for name, size in shape.matrix_shapes.items()}
    arrays |= {name: rng.normal(0 if name.endswith("bias") else 1, 0.1, size=size)
               for name, size in shape.vector_sizes.items()}
    weights = quantise_weights(shape, arrays, formats[0])
    x = rng.normal(0, 3, size=(prefill + decode, shape.hidden)).astype(np.float32)
    compiled = compile_layer(config, shape, weights, context=context, kv_format=formats[1])
    return LayerJob(config, shape, weights, compiled, x, prefill=prefill, tables=tables)


def cases(models, *, prefill, encoder_tokens, formats=FORMATS):
    """Cases of the named models: layer 0, and the last one where it differs. An encoder takes all its tokens at once.

    prefill : int           tokens of prefill in front of ``DECODE`` ones
    encoder_tokens : int
    """
    from tilewright.gen.model import load_model

    for model in models:
        architecture = load_model(model).architecture.reduced(**REDUCED[model])
        layers = {architecture.layer(index): index for index in (architecture.layers - 1, 0)}
        for shape, index in sorted(layers.items(), key=lambda item: item[1]):
            for number_format in formats:
                tokens = (prefill, DECODE) if shape.causal else (encoder_tokens, 0)
                yield Case(model=model, layer=index, shape=LayerShape.of(shape), number_format=number_format,
                           prefill=tokens[0], decode=tokens[1])


def prove(config, built, tables, case, *, progress=None):
    """Run a case on the simulation ``built`` of ``config`` and compare all of memory. Returns an Outcome."""
    context = CONTEXT if case.shape.causal else case.prefill
    job = layer_job(config, case.shape, tables, context=context, prefill=case.prefill, decode=case.decode, seed=SEED,
                    formats=(case.number_format, "int8" if case.number_format == "int4" else case.number_format))
    result = simulate(built, job.job(MEMORY), job.image, progress=progress)
    words, differ = job.compare(result.memory)
    problems = [f"run at {chunk.position}: {error[0]} at command offset {error[1]:#x}"
                for chunk, error in zip(job.chunks, result.errors, strict=True) if error]
    problems += [f"{job.place(at)}: got {got:#010x}, expected {expected:#010x}" for at, got, expected in differ[:3]]
    return Outcome(case=case, words=words, cycles=result.cycles, problems=tuple(problems))


def matrix(outcomes):
    """Outcomes as a Markdown table: a line a model, a column a format."""
    lines = ["| model | structure | " + " | ".join(name.upper() for name in FORMATS) + " |",
             "|---|---|" + "---|" * len(FORMATS)]
    for model in dict.fromkeys(outcome.case.model for outcome in outcomes):
        found = {name: [o for o in outcomes if o.case.model == model and o.case.number_format == name]
                 for name in FORMATS}
        cells = ["-" if not each else "**differs**" if any(o.problems for o in each) else
                 f"equal, {sum(o.words for o in each):,} words" for each in found.values()]
        shape = next(o.case.shape for o in outcomes if o.case.model == model)
        lines.append(f"| {model} | {describe(shape)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def describe(shape):
    """A layer's structure in a few words."""
    attention = "MHA" if shape.kv_heads == shape.heads else "MQA" if shape.kv_heads == 1 else "GQA"
    mask = "window" if shape.window else "causal" if shape.causal else "bidirectional"
    position = "no RoPE" if not shape.rotary_dim else "RoPE" if shape.rotary_dim == shape.head_dim else (
        f"RoPE {shape.rotary_dim}/{shape.head_dim}")
    extras = [name for name, there in (("sub-norms", shape.sub_norm), ("q/k norm", shape.qk_norm),
                                       (f"biases {' '.join(shape.biases)}", shape.biases)) if there]
    return ", ".join([shape.topology.replace("_", " "), shape.norm.replace("_", " "), attention,
                      f"head_dim {shape.head_dim}", mask, position, f"{shape.activation} {shape.mlp}", *extras])
