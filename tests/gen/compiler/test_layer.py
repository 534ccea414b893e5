"""Compiled layers on the functional machine: outputs and KV cache equal to the golden layer's, waits tight."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.compiler.plan import plan_layer
from tilewright.gen.configuration import load_preset
from tilewright.gen.errors import UserError
from tilewright.hw.commands import HEADER, NO_WAIT, Unit
from tilewright.sim.machine import MachineError

STORIES = {"hidden": 64, "heads": 8, "kv_heads": 4, "head_dim": 8, "ffn": 172}
RAGGED = {"hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 16, "ffn": 172}
SMOLLM2 = {"hidden": 576, "heads": 9, "kv_heads": 3, "head_dim": 64, "ffn": 1536}


@pytest.mark.parametrize("preset, sizes", [
    ("micro", STORIES), ("micro", RAGGED), ("small", STORIES), ("small", RAGGED),
    ("medium", STORIES), ("medium", RAGGED),
    ("medium", {"hidden": 128, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 300}),
    ("micro", {"hidden": 96, "heads": 3, "kv_heads": 1, "head_dim": 80, "ffn": 132, "rope_pairing": "half_split"}),
    ("medium", {"hidden": 48, "heads": 4, "kv_heads": 4, "head_dim": 24, "ffn": 100}),  # V's last tile half used, MHA
    ("large", {"hidden": 96, "heads": 4, "kv_heads": 1, "head_dim": 48, "ffn": 172}),
])
def test_prefill_then_decode(layer_bench, preset, sizes):
    bench = layer_bench(load_preset(preset), context=44, seed=7, **sizes)
    most = bench.layer.prefill_tokens
    for tokens in (1, min(5, most), most):
        bench.check(tokens)
    for _ in range(5):
        bench.check(1, decode=True)


def test_whole_context(layer_bench):
    bench = layer_bench(load_preset("small"), context=37, seed=8, **RAGGED)
    while bench.position + bench.layer.prefill_tokens < 37:
        bench.check(bench.layer.prefill_tokens)
    bench.check(37 - bench.position, decode=37 - bench.position == 1)


def test_v_is_read_once_per_row_group_where_it_cannot_be_replayed(layer_bench):
    """Three query heads on two rows, and a context beyond the prefetch buffer."""
    config = replace(load_preset("micro"), prefetch_beats=64)
    bench = layer_bench(config, context=70, seed=9, **RAGGED)
    bench.check(2)
    bench.check(1, decode=True)
    assert sum(i.unit == Unit.STREAM and not i.fields["scaled"] for i in bench.machine.trace) == 4


@pytest.mark.parametrize("scratchpad_bytes, activation_depth, slots", [
    (32768, 4096, (3, 2, 3, 2)), (32768, 1024, (1, 2, 2, 2)), (32768, 512, (1, 2, 1, 2)), (4096, 1024, (1, 1, 2, 1)),
    (4096, 512, (1, 1, 1, 1)),
])
def test_small_buffers_change_only_the_schedule(layer_bench, scratchpad_bytes, activation_depth, slots):
    config = replace(load_preset("micro"), scratchpad_bytes=scratchpad_bytes, activation_depth=activation_depth,
                     max_hidden=256, max_context=300)
    bench = layer_bench(config, context=300, seed=10, **STORIES | {"kv_heads": 8})
    plan = plan_layer(config, bench.shape, 300, formats=("int8", "int8"), decode=True)
    assert (plan.batch, plan.score_slots, plan.probability_slots, plan.scale_slots) == slots
    for tokens, decode in ((1, False), (bench.layer.prefill_tokens, False), (1, True), (1, True)):
        bench.check(tokens, decode=decode)


STRUCTURES = {
    "parallel, one norm, biases": {"topology": "parallel_shared", "norm": "layer_norm", "mlp": "plain", "rotary_dim": 8,
                                   "activation": "gelu_tanh", "biases": ("q", "k", "v", "o", "ffn")},
    "parallel, two norms": {"topology": "parallel", "norm": "layer_norm", "mlp": "plain", "rope_pairing": "half_split",
                            "activation": "gelu_erf", "biases": ("q", "k", "v", "o", "ffn"), "rotary_dim": 4},
    "sub-norms, no RoPE": {"norm": "layer_norm", "sub_norm": True, "mlp": "plain", "activation": "gelu_erf",
                           "rotary_dim": 0, "biases": ("q", "k", "v", "o", "ffn")},
    "sandwich, q and k norm, window": {"topology": "sandwich", "qk_norm": True, "activation": "gelu_tanh",
                                       "rope_pairing": "half_split", "window": 9},
    "window of a power of two": {"window": 8, "biases": ("q", "k", "v")},
    "gate with biases": {"biases": ("o", "ffn"), "activation": "quick_gelu"},
}


FORMATS = [("int8", "int8"), ("fp16", "fp16"), ("int8", "fp16"), ("fp16", "int8")]

INT4 = ["sandwich, q and k norm, window", "parallel, one norm, biases"]


@pytest.mark.parametrize("structure, formats", [
    *((structure, formats) for structure in STRUCTURES for formats in FORMATS),
    *((structure, ("int4", "int8")) for structure in INT4)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value))
@pytest.mark.parametrize("preset", ["micro", "medium"])
def test_structures(layer_bench, preset, structure, formats):
    """Prefill in chunks, then decode, over the end of a window's ring."""
    bench = layer_bench(load_preset(preset), context=64, seed=14, formats=formats, **RAGGED | STRUCTURES[structure])
    most = bench.layer.prefill_tokens
    bench.check(1)
    while bench.position + most <= 46:
        bench.check(most)
    for _ in range(4):
        bench.check(1, decode=True)


@pytest.mark.parametrize("formats", [("int4", "int8"), ("int8", "fp16"), ("fp16", "int8")], ids="-".join)
@pytest.mark.parametrize("sizes", [{}, {"head_dim": 32, "hidden": 64}], ids=["ragged", "whole"])
def test_twice_as_many_lanes_as_bytes_of_a_beat(layer_bench, formats, sizes):
    config = replace(load_preset("micro"), lanes=8)
    bench = layer_bench(config, context=24, seed=16, formats=formats, **RAGGED | sizes)
    most = bench.layer.prefill_tokens
    while bench.position + most <= 18:
        bench.check(most)
    for _ in range(4):
        bench.check(1, decode=True)


@pytest.mark.parametrize("formats", [("int8", "int8"), ("fp16", "fp16")], ids="-".join)
@pytest.mark.parametrize("preset, tokens", [("micro", 5), ("medium", 21)])
def test_encoder(layer_bench, preset, tokens, formats):
    """The whole sequence in one run, in several row groups."""
    bench = layer_bench(load_preset(preset), context=tokens, seed=15, formats=formats, causal=False, norm="layer_norm",
                        topology="post_norm", mlp="plain", activation="gelu_erf", biases=("q", "k", "v", "o", "ffn"),
                        hidden=96, heads=3, kv_heads=3, head_dim=32, ffn=172, rotary_dim=0)
    assert bench.layer.decode is None and bench.layer.prefill_tokens == tokens
    bench.check(tokens)


@pytest.mark.slow
def test_smollm2_on_small(layer_bench):
    bench = layer_bench(load_preset("small"), context=512, seed=11, **SMOLLM2)
    bench.check(bench.layer.prefill_tokens)
    bench.check(1, decode=True)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("sizes", [RAGGED, {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 140}])
def test_every_wait_is_needed(layer_bench, sizes, decode):
    """At the end of the context, any one wait loosened by one is a hazard that the checker sees: none is wasted."""
    bench = layer_bench(load_preset("micro"), context=40, seed=12, **sizes)
    layer, machine = bench.layer, bench.machine
    program, tokens = (layer.decode, 1) if decode else (layer.prefill, layer.prefill_tokens)
    arguments = (40 - tokens, tokens)
    machine.regions[1:3] = bytearray(layer.kv.size), bytearray(layer.io_size)
    machine.run(program, arguments)
    waits = sorted({(issued.offset, unit) for issued in machine.trace
                    for unit, count in zip(Unit, issued.waits, strict=True) if count != NO_WAIT})
    assert len(waits) > 30
    for offset, unit in waits:
        image = bytearray(layer.image)
        word = np.frombuffer(image, np.uint32, 1, offset)
        word += np.uint32(1 << HEADER[f"wait_{unit.name.lower()}"].lsb)
        machine.regions[0] = image
        with pytest.raises(MachineError, match="may not have finished|dead-lock"):
            machine.run(program, arguments)


def test_weights_are_read_once_in_decode(layer_bench):
    """The streams of a decode run are the weights and the context's K and V, and nothing else."""
    bench = layer_bench(load_preset("small"), context=64, seed=13, **RAGGED)
    bench.check(4)
    bench.check(1, decode=True)
    beats = sum((f["k"] + 2 * -(-f["k"] // 32) * f["scaled"]) * f["tiles"] for i in bench.machine.trace
                if i.unit == Unit.STREAM for f in [i.fields])
    weights = sum(-(-n // 8) * (k + 2 * -(-k // 32)) for n, k in bench.shape.matrix_shapes.values())
    assert beats == weights + 2 * (16 + 2) + 2 * 2 * 5


@pytest.mark.parametrize("preset, sizes, context, message", [
    ("micro", SMOLLM2, 256, "micro: prefill .*activation_depth = 2112, 1088 more than 1024.*preset small holds it"),
    ("small", RAGGED | {"head_dim": 256}, 16,
     "head_dim = 256: is 128 more than max_head_dim = 128.*preset medium holds it"),
    ("small", RAGGED, 5000, "context = 5000: is 904 more than max_context = 4096.*preset large holds it"),
    ("small", SMOLLM2, 4000, "prefill with a context of 4000 needs scratchpad_bytes = .*reduce the context"),
    ("large", STORIES, 16, "head_dim = 8: must be a multiple of the 16 words.*preset micro holds it"),
    ("large", STORIES | {"hidden": 20000}, 16, "hidden = 20000.*no preset holds it"),
])
def test_refusals(layer_bench, preset, sizes, context, message):
    with pytest.raises(UserError, match=message):
        layer_bench(load_preset(preset), context=context, seed=1, **sizes)


def test_refuses_a_build_without_a_function(layer_bench):
    config = replace(load_preset("micro"), functions=("exp", "rsqrt", "recip"))
    with pytest.raises(UserError, match="the layer needs 'silu'; add it"):
        layer_bench(config, context=16, seed=1, **STORIES)
