"""Benchmarks of whole models, or of so much of one that the whole follows from it."""

from dataclasses import replace

import numpy as np

from .golden.kv_cache import KvCache
from .golden.weights import stored_bytes
from .layer_job import Chunk
from .layer_run import macs_of
from .workbench import MEMORY
from .workload import MATRICES

__all__ = ["DRAM", "ON_CHIP", "decode_of_model", "decode_on_chip", "filled_cache", "prefill_of_layer"]

DRAM = MEMORY | {"page_bytes": 2048, "page_miss": 6, "refresh_every": 780, "refresh_cycles": 32}
"""A DDR3 part of 4 Gb at 100 MHz: rows of 2 KB, of which one in each of 8 banks is open, closed by refresh each 7.8 us,
which takes 260 ns and leaves a row to be opened again; to close a row and open another takes 28 ns, and as long again
in the controller."""
ON_CHIP = {"read_latency": 3, "write_latency": 2}
"""Block RAM with an output register behind a bus."""
CONTEXT = 128
PARTS = {"ends": (1, 4096), "layers": (3, 4096), "head": (1, 8192)}
"""Layers and tokens of the vocabulary of the parts that are simulated: what a layer takes is half of what two more do,
what lm_head takes follows from twice the vocabulary."""
STORY_CONTEXT = 64
STORY = ("Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she "
         "saw a big, red ball. She wanted to play with it, but it was too high. Lily's mom said")
PREFILL, PREFILL_PARTS, PREFILL_VOCAB = 128, (1, 2), 512
"""Tokens; layers and vocabulary of the parts that are simulated."""
GOALS = {"against_peak": 1.05, "bytes": 1.03, "on_chip": 1.5, "prefill": 0.90, "weights_read": 1.0}
"""At most; ``prefill`` at least."""
SEED = 22


def filled_cache(shape, positions, slots):
    """A cache of which so many positions hold random keys and values, quantised as real ones are."""
    random, filled = np.random.default_rng(SEED), KvCache.empty(shape, slots)
    k, v = random.normal(size=(2, positions, shape.kv_heads, shape.head_dim)).astype(np.float32)
    filled.append(k, v, 0)
    return filled


def decode_of_model(bench, name, parts=PARTS, context=CONTEXT):
    """Cycles and bytes of a decode step of the model on a DRAM, against its weights, keys and values once at the DRAM's
    peak of a beat a cycle. The whole is derived from parts of the model."""
    whole, (_, tokens), bus = bench.whole_model, bench.model, bench.preset(name).config.bus_bytes
    outcomes = {}
    for part, (layers, vocab) in parts.items():
        model = _part(whole, layers, vocab)
        token = next(token for token in reversed(tokens) if token < vocab)
        caches = [filled_cache(shape, context - 1, bench.context) for shape in model.shapes]

        async def step(both, token=token):
            await both.next(token)

        outcomes[part] = bench.run_model(name, model, step, kind="decode", context=bench.context, kv_format="int8",
                                         title=f"{layers} layers, vocabulary of {vocab}", memory=DRAM, caches=caches,
                                         position=context - 1)
        yield outcomes[part].measurement(name=f"decode-dram-{name}-{layers}-{vocab}", unit="of peak time",
                                         value=outcomes[part].cycles * bus / _streamed(model, context),
                                         about={"context": context})
    (few, small), (many, _), (_, large) = (parts[part] for part in ("ends", "layers", "head"))
    ends = outcomes["ends"]
    outcome = ends.plus(outcomes["layers"].without(ends), (len(whole.shapes) - few) / (many - few))
    outcome = outcome.plus(outcomes["head"].without(ends),
                           (len(whole.tensors["embedding"]) - small) / (large - small))
    beats = sum(counters["read_beats"] + counters["write_beats"] for counters in outcome.counters)
    least = _streamed(whole, context)
    common = {"kind": "derived", "at_most": True, "about": {"context": context}}
    yield outcome.measurement(
        name=f"decode-dram-{name}", value=outcome.cycles * bus / least, unit="of peak time",
        goal=GOALS["against_peak"], **common,
        title=f"SmolLM2-135M, decode at context {context}, {name}, on DRAM with latency, page misses and refresh: "
              "cycles, against weights and KV at a beat a cycle")
    yield outcome.measurement(
        name=f"decode-dram-{name}-bytes", value=beats * bus / least, unit="of least bytes", goal=GOALS["bytes"],
        title=f"SmolLM2-135M, decode at context {context}, {name}: bytes moved, against weights and KV once", **common)


def _part(whole, layers, vocab):
    """The first layers, and the first tokens of the vocabulary."""
    tensors = whole.tensors
    head = type(tensors["lm_head"])(*(rows[:vocab] for rows in tensors["lm_head"]))
    return replace(whole, shapes=whole.shapes[:layers], layers=whole.layers[:layers],
                   tensors=tensors | {"embedding": tensors["embedding"][:vocab], "lm_head": head})


def _streamed(model, context):
    from tilewright.gen.completion import streamed_bytes

    return streamed_bytes(model, [context] * len(model.shapes), "int8", context - 1)


def prefill_of_layer(bench, name, count=PREFILL, parts=PREFILL_PARTS):
    """MAC utilisation of a layer in a prefill of so many tokens, and how often it reads its weights: the difference
    between models of one layer more or less."""
    config, random = bench.preset(name).config, np.random.default_rng(SEED)
    tokens = random.integers(PREFILL_VOCAB, size=count).tolist()

    async def task(both):
        await both.prompt(tokens)

    few, many = (bench.run_model(name, _part(bench.whole_model, layers, PREFILL_VOCAB), task, kind="prefill",
                                 title=f"prefill of {layers} layers", context=bench.context, kv_format="int8")
                 for layers in parts)
    layer = many.without(few)
    shape, matrices = bench.whole_model.shapes[0], bench.whole_model.layers[0]
    macs = macs_of(shape, Chunk(0, count, False))
    once = sum(stored_bytes(matrices[matrix]) for matrix in shape.matrix_shapes) * -(-count // config.rows)
    read = sum(layer.read.get(matrix, 0) for matrix in set(MATRICES.values()) - {"lm_head"})
    about = f"SmolLM2-135M, a layer in a prefill of {count} tokens, {name}"
    yield layer.measurement(name=f"prefill-{name}-{count}", value=macs / config.macs / layer.cycles, kind="derived",
                            unit="of peak MACs", goal=GOALS["prefill"], title=f"{about}: MAC utilisation")
    yield layer.measurement(name=f"prefill-{name}-{count}-weights", value=read / once, kind="derived", at_most=True,
                            unit=f"of once per {config.rows} tokens", goal=GOALS["weights_read"],
                            title=f"{about}: weights read, against once per {config.rows} tokens")


def decode_on_chip(bench, name, number_format="int8", context=STORY_CONTEXT):
    """Cycles of a decode step of a model that is all in on-chip memory, against its multiply-accumulates."""
    from tilewright.gen.checkpoint import open_checkpoint
    from tilewright.gen.package import whole_model

    checkpoint, config = open_checkpoint("stories260k"), bench.preset(name).config
    model = whole_model(checkpoint, number_format, bench.step)
    tokens = checkpoint.tokenizer().prompt(STORY)[:context - 1]

    async def task(both):
        await both.next(await both.prompt(tokens))

    outcome = bench.run_model(name, model, task, kind="decode", title=f"stories260K in {number_format.upper()}",
                           context=checkpoint.architecture.max_context, kv_format=number_format, memory=ON_CHIP)
    step = Chunk(context - 1, 1, True)
    macs = sum(macs_of(shape, step) for shape in model.shapes) + model.tensors["embedding"].size
    a_cycle = config.lanes // 2 if number_format == "fp16" else config.lanes
    yield outcome.measurement(
        name=f"decode-on-chip-{number_format}-{name}", value=outcome.cycles * a_cycle / macs, unit="of MACs' cycles",
        goal=GOALS["on_chip"], at_most=True, about={"macs": macs, "macs_a_cycle": a_cycle},
        title=f"stories260K in {number_format.upper()}, decode at context {context}, {name}, in on-chip memory: "
              "cycles, against MACs / (MACs a cycle)")
