"""The layer of every known model in reduced sizes: the accelerator's arithmetic against float64, in INT8 and FP16."""

import numpy as np
import pytest

from tilewright.gen.functions import function_tables
from tilewright.gen.model import known_models, load_model
from tilewright.sim.golden import functions, layer, reference

SEED = 60601
TOKENS, PREFILL = 21, 15

SIZES = {
    "llama-3.2-1b": {"hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 16, "ffn": 172},
    "tinyllama-1.1b": {"hidden": 64, "heads": 8, "kv_heads": 1, "head_dim": 8, "ffn": 88},
    "phi-1.5": {"hidden": 100, "heads": 4, "kv_heads": 4, "head_dim": 16, "ffn": 130},
    "kosmos-2": {"hidden": 72, "heads": 3, "kv_heads": 3, "head_dim": 24, "ffn": 150},
    "stablelm-2-1.6b": {"hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "ffn": 90},
    "gemma-2b": {"hidden": 50, "heads": 2, "kv_heads": 1, "head_dim": 256, "ffn": 180},
    "dolly-v2-3b": {"hidden": 160, "heads": 2, "kv_heads": 2, "head_dim": 80, "ffn": 140},
    "mistral-7b": {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 99, "window": 6},
    "orca-2-7b": {"hidden": 60, "heads": 3, "kv_heads": 3, "head_dim": 20, "ffn": 86},
    "solar-10.7b": {"hidden": 80, "heads": 8, "kv_heads": 2, "head_dim": 10, "ffn": 112},
    "smollm2-135m": {"hidden": 72, "heads": 9, "kv_heads": 3, "head_dim": 8, "ffn": 96},
    "stories260k": {},
    "all-minilm-l6-v2": {"hidden": 72, "heads": 6, "kv_heads": 6, "head_dim": 12, "ffn": 100},
    "gemma3-270m": {"hidden": 40, "heads": 4, "kv_heads": 1, "head_dim": 48, "ffn": 128, "window": 7},
}

# Least cosine between the two, of what the layer adds, or of its output where that is a norm.
BOUNDS = {"int8": 0.9997, "fp16": 0.9999995}




def layers():
    """Each different layer of each model by name."""
    found = {}
    for name, sizes in SIZES.items():
        architecture = load_model(name).architecture.reduced(**sizes)
        first = {architecture.layer(index): index for index in reversed(range(architecture.layers))}
        found |= {f"{name}-{index}": shape for shape, index in first.items()}
    return found


CASES = layers()
each_case = pytest.mark.parametrize("name", CASES)
each_format = pytest.mark.parametrize("number_format", BOUNDS)


@pytest.fixture(scope="module")
def tables():
    names = ("exp", "silu", "gelu_erf", "gelu_tanh", "quick_gelu", "rsqrt", "recip")
    return {table.name: functions.table_from(table) for table in function_tables(names)}


def random_case(shape, number_format):
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    arrays = {name: rng.standard_normal(size) / np.sqrt(size[1]) for name, size in shape.matrix_shapes.items()}
    arrays["q_proj"] *= 2  # attention that is not nearly uniform
    for name, size in shape.vector_sizes.items():
        arrays[name] = rng.standard_normal(size) / 3 if name.endswith("_bias") else rng.uniform(0.5, 1.5, size)
    x = rng.standard_normal((TOKENS, shape.hidden)).astype(np.float32)
    return layer.quantise_weights(shape, arrays, number_format), x


def run(shape, weights, x, tables, number_format, portions):
    cache, out, position = layer.KvCache.empty(shape, len(x), number_format), [], 0
    for part in np.split(x, np.cumsum(portions)[:-1]):
        out.append(layer.transformer_layer(shape, weights, cache, part, position, tables))
        position += len(part)
    return np.concatenate(out)


def cosine(a, b):
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_every_model_is_here():
    assert sorted(SIZES) == known_models() and len(SIZES) == 14
    assert {"gemma3-270m-0", "gemma3-270m-5"} <= set(CASES) and len(CASES) == 15


@each_case
@each_format
def test_close_to_float64(name, number_format, tables):
    shape = CASES[name]
    weights, x = random_case(shape, number_format)
    got = run(shape, weights, x, tables, number_format, [TOKENS])
    arrays = layer.dequantise_weights(weights)
    expected = reference.decoder_layer(shape, arrays, reference.ReferenceCache(shape), x)
    start = 0 if shape.topology == "post_norm" else x
    worst = min(cosine(a, b) for a, b in zip(got - start, expected - start, strict=True))
    print(f"{name} in {number_format}: cosine {cosine(got - start, expected - start):.8f}, of the worst token "
          f"{worst:.8f}, largest difference {abs(got - expected).max():.5f} of {abs(expected).max():.2f}")
    assert cosine(got - start, expected - start) > BOUNDS[number_format]
    assert 1 - worst < 3 * (1 - BOUNDS[number_format])


@pytest.mark.parametrize("name", [name for name, shape in CASES.items() if shape.causal])
@each_format
def test_portions_do_not_matter(name, number_format, tables):
    shape = CASES[name]
    weights, x = random_case(shape, number_format)
    at_once = run(shape, weights, x, tables, number_format, [TOKENS])
    for portions in ([PREFILL] + [1] * (TOKENS - PREFILL), [4, 8, TOKENS - 12]):
        parts = run(shape, weights, x, tables, number_format, portions)
        np.testing.assert_array_equal(at_once.view(np.uint32), parts.view(np.uint32))
