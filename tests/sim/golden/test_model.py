"""Whole models in the accelerator's arithmetic: what stands before and behind the layers, against float64."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.functions import function_tables
from tilewright.sim.golden import functions, layer, model, reference, vector, weights

SEED = 8086
VOCAB, SLOTS, TOKENS = 77, 24, 9
BIASED = {"norm": "layer_norm", "mlp": "plain", "biases": ("q", "k", "v", "o", "ffn")}


def shape(**structure):
    return layer.LayerShape(**{"hidden": 40, "heads": 4, "kv_heads": 2, "head_dim": 10, "ffn": 70, "norm_eps": 1e-5,
                               "rope_theta": 10000.0, "rope_pairing": "half_split"} | structure)


GEMMA = {"topology": "sandwich", "qk_norm": True, "activation": "gelu_tanh", "kv_heads": 1}
MODELS = {
    "llama": ([shape()] * 2, {"final_norm", "lm_head"}, None),
    "tied": ([shape()] * 2, {"final_norm", "tied"}, None),
    "phi": ([shape(**BIASED, topology="parallel_shared", activation="gelu_tanh", rotary_dim=4)] * 2,
            {"final_norm", "lm_head", "lm_head_bias"}, None),
    "kosmos": ([shape(**BIASED, sub_norm=True, activation="gelu_erf", rotary_dim=0)] * 2,
               {"final_norm", "tied", "positions"}, math.sqrt(40)),
    "gemma": ([shape(**GEMMA, window=4), shape(**GEMMA, rope_theta=1e6)], {"final_norm", "tied"}, math.sqrt(40)),
    "bert": ([shape(**BIASED, topology="post_norm", activation="gelu_erf", rotary_dim=0, causal=False)] * 2,
             {"embed_norm", "positions"}, None),
}
each_model = pytest.mark.parametrize("name", MODELS)
each_format = pytest.mark.parametrize("number_format", ["int8", "fp16"])


@pytest.fixture(scope="module")
def tables():
    names = ("exp", "silu", "gelu_erf", "gelu_tanh", "rsqrt", "recip")
    return {table.name: functions.table_from(table) for table in function_tables(names)}


def small(name, number_format):
    """The model, and the one in float64 that its rounded weights stand for."""
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    shapes, parts, scale = MODELS[name]
    hidden = shapes[0].hidden

    def matrix(w):
        return weights.quantise(w) if number_format == "int8" else w.astype(np.float16)

    def float_of(w):
        return weights.dequantise(w) if isinstance(w, weights.QuantisedMatrix) else w.astype(np.float32)

    def arrays(s):
        found = {key: rng.standard_normal(size) / np.sqrt(size[1]) for key, size in s.matrix_shapes.items()}
        return found | {key: rng.standard_normal(size) / 3 if key.endswith("_bias") else rng.uniform(0.5, 1.5, size)
                        for key, size in s.vector_sizes.items()}

    layers = [layer.quantise_weights(s, arrays(s), number_format) for s in shapes]
    embedding = matrix(rng.standard_normal((VOCAB, hidden)) * (0.2 if scale else 1))
    tensors = {"embedding": float_of(embedding)}
    if "tied" in parts:
        tensors["lm_head"] = embedding
    if "lm_head" in parts:
        tensors["lm_head"] = matrix(rng.standard_normal((VOCAB, hidden)) / 6)
    if "lm_head_bias" in parts:
        tensors["lm_head_bias"] = rng.standard_normal(VOCAB).astype(np.float32)
    if "positions" in parts:
        tensors["positions"] = model.sinusoidal_positions(first=2, count=SLOTS, hidden=hidden)
    for norm in parts & {"embed_norm", "final_norm"}:
        tensors[norm] = rng.uniform(0.5, 1.5, hidden).astype(np.float32)
        if shapes[0].norm == "layer_norm":
            tensors[f"{norm}_bias"] = rng.standard_normal(hidden).astype(np.float32)
    made = model.TransformerModel(shapes=shapes, layers=layers, tensors=tensors, embed_scale=scale)
    exact = replace(made, layers=[layer.dequantise_weights(w) for w in layers],
                    tensors={key: float_of(w) for key, w in tensors.items()})
    return made, exact


def caches_of(exact):
    return [reference.ReferenceCache(s) for s in exact.shapes]


@each_model
@each_format
def test_close_to_float64(name, number_format, tables):
    made, exact = small(name, number_format)
    tokens = np.random.default_rng(1).integers(0, VOCAB, TOKENS)
    got = model.final_states(made, made.empty_caches(SLOTS, number_format), tokens, 0, tables)
    expected = reference.states(exact, caches_of(exact), tokens)[-1]
    pairs = {"states": (got, expected)}
    if "lm_head" in made.tensors:
        pairs["logits"] = model.logits(made, got), reference.logits(exact, expected)
    for what, (a, b) in pairs.items():
        assert a.dtype == np.float32 and a.shape == b.shape
        error = abs(a - b).max() / abs(b).max()
        print(f"{name} in {number_format}, {what}: largest error {error:.1e} of the largest value")
        assert error < {"int8": 0.05, "fp16": 0.002}[number_format]


@each_model
def test_every_step_matters(name, tables):
    """Left out, each moves the result far beyond what the comparison with float64 allows."""
    made, _ = small(name, "fp16")
    tokens = np.array([3, 5, 76])

    def result(changed):
        x = model.final_states(changed, changed.empty_caches(SLOTS, "fp16"), tokens, 0, tables)
        return model.logits(changed, x) if "lm_head" in changed.tensors else x

    expected = result(made)
    steps = {"positions", "embed_norm", "embed_norm_bias", "final_norm", "final_norm_bias", "lm_head_bias"}
    for step in steps & set(made.tensors):
        if step.endswith("norm_bias"):
            changed = made.tensors | {step: np.zeros_like(made.tensors[step])}
        else:
            changed = {key: w for key, w in made.tensors.items() if key not in (step, f"{step}_bias")}
        assert abs(result(replace(made, tensors=changed)) - expected).max() > 0.1 * abs(expected).max(), step
    if made.embed_scale is not None:
        assert abs(result(replace(made, embed_scale=None)) - expected).max() > 0.1 * abs(expected).max()


@each_format
def test_embedding_rows(number_format, tables):
    """A row is what the matrix says, then scaled and moved by its position in FP32."""
    made, exact = small("kosmos", number_format)
    tokens = np.array([76, 0, 0, 5])
    plain = replace(made, tensors={"embedding": made.tensors["embedding"]}, embed_scale=None)
    rows = model.embed(plain, tokens, 3, tables)
    np.testing.assert_array_equal(rows, exact.tensors["embedding"][tokens])
    got = model.embed(made, tokens, 3, tables)
    np.testing.assert_array_equal(got, rows * np.float32(math.sqrt(40)) + made.tensors["positions"][3:7])


def test_greedy_takes_the_first_greatest(tables):
    made, _ = small("tied", "fp16")
    tokens = np.array([4, 9, 2])
    chosen = model.greedy(made, made.empty_caches(SLOTS, "fp16"), tokens, 6, tables)
    sequence = [*tokens]
    for token in chosen:  # each chosen anew from the whole sequence
        x = model.final_states(made, made.empty_caches(SLOTS, "fp16"), np.array(sequence), 0, tables)
        y = model.logits(made, x)[-1]
        assert token == np.flatnonzero(y == y.max())[0]
        sequence.append(token)
    doubled = np.array(made.tensors["lm_head"])
    doubled[[10, 60]] = doubled[chosen[0]]  # equal logits: the lowest number
    twins = replace(made, tensors=made.tensors | {"lm_head": doubled})
    first = model.greedy(twins, twins.empty_caches(SLOTS, "fp16"), tokens, 1, tables)
    assert first == [min(10, chosen[0])]
    assert vector.argmax_rows(np.full((1, 5), -np.inf, np.float32))[0] == 0


def test_positions():
    table = model.sinusoidal_positions(first=2, count=3, hidden=10)
    assert table.dtype == np.float32 and table.shape == (3, 10)
    for row in range(3):
        for i in range(5):
            angle = (row + 2) / 10000 ** (i / 4)
            assert abs(table[row, i] - math.sin(angle)) < 1e-7 and abs(table[row, 5 + i] - math.cos(angle)) < 1e-7
    for hidden in (2, 7):
        with pytest.raises(ValueError, match="even and at least 4"):
            model.sinusoidal_positions(first=0, count=1, hidden=hidden)


def test_refusals(tables):
    made, _ = small("kosmos", "fp16")
    for tokens in ([77], [-1], [[1]]):
        with pytest.raises(ValueError, match="numbers in 0 .. 76"):
            model.embed(made, tokens, 0, tables)
    for position in (-1, 23):
        with pytest.raises(ValueError, match="beyond a table of 24"):
            model.embed(made, [1, 2], position, tables)
    with pytest.raises(ValueError, match="1 shapes for 2 layers"):
        replace(made, shapes=made.shapes[:1])
