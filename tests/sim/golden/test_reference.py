"""The float64 layer against a loop over tokens and heads that shares none of its formulas."""

import cmath
import math

import numpy as np
import pytest

from tilewright.sim.golden import reference
from tilewright.sim.golden.layer import LayerShape

SEED = 77001


def shape(hidden, heads, kv_heads, head_dim, ffn, pairing):
    return LayerShape(hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn, norm_eps=1e-5,
                      rope_theta=10000.0, rope_pairing=pairing)


SHAPES = [shape(24, 3, 1, 8, 43, "interleaved"), shape(24, 3, 3, 16, 20, "half_split"),
          shape(10, 2, 1, 64, 7, "interleaved"), shape(12, 4, 2, 6, 9, "half_split")]


def random_weights(s, rng):
    arrays = {name: rng.standard_normal(size) / math.sqrt(size[1]) for name, size in s.matrix_shapes.items()}
    return arrays | {name: rng.uniform(0.5, 1.5, s.hidden) for name in ("attn_norm", "ffn_norm")}


def rotate_complex(vector, position, theta, pairing):
    """RoPE as multiplication by e^(i angle), a pair at a time."""
    half = len(vector) // 2
    out = [0.0] * len(vector)
    for i in range(half):
        first, second = (2 * i, 2 * i + 1) if pairing == "interleaved" else (i, i + half)
        z = complex(vector[first], vector[second]) * cmath.exp(1j * position / theta ** (i / half))
        out[first], out[second] = z.real, z.imag
    return out


def norm_by_hand(x, gain, eps):
    root = math.sqrt(math.fsum(value * value for value in x) / len(x) + eps)
    return [value / root * g for value, g in zip(x, gain, strict=True)]


def matvec(matrix, vector):
    return [math.fsum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def heads(s, matrix, h):
    projected = matvec(matrix, h)
    return [projected[i:i + s.head_dim] for i in range(0, len(projected), s.head_dim)]


def layer_by_hand(s, w, sequence):
    """Every token after the other; keys and values are plain lists."""
    keys, values, outputs = [], [], []
    for position, x in enumerate(sequence):
        h = norm_by_hand(x, w["attn_norm"], s.norm_eps)
        queries, new_keys = ([rotate_complex(v, position, s.rope_theta, s.rope_pairing) for v in projected]
                             for projected in (heads(s, w["q_proj"], h), heads(s, w["k_proj"], h)))
        keys.append(new_keys)
        values.append(heads(s, w["v_proj"], h))
        attended = []
        for head, q in enumerate(queries):
            kv = head * s.kv_heads // s.heads
            weight = [math.exp(math.fsum(a * b for a, b in zip(q, k[kv], strict=True)) / math.sqrt(s.head_dim))
                      for k in keys]
            total = math.fsum(weight)
            attended += [math.fsum(p * v[kv][i] for p, v in zip(weight, values, strict=True)) / total
                         for i in range(s.head_dim)]
        x = [a + b for a, b in zip(x, matvec(w["o_proj"], attended), strict=True)]
        h = norm_by_hand(x, w["ffn_norm"], s.norm_eps)
        gated = [g * u / (1 + math.exp(-g)) for g, u in zip(matvec(w["gate_proj"], h), matvec(w["up_proj"], h),
                                                            strict=True)]
        outputs.append([a + b for a, b in zip(x, matvec(w["down_proj"], gated), strict=True)])
    return np.array(outputs)


@pytest.mark.parametrize("s", SHAPES, ids=lambda s: f"{s.heads}/{s.kv_heads}x{s.head_dim}-{s.rope_pairing}")
@pytest.mark.parametrize("chunks", [(5,), (1, 1, 1, 1, 1), (3, 2)])
def test_against_explicit_loops(s, chunks):
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    w = random_weights(s, rng)
    x = rng.standard_normal((sum(chunks), s.hidden))
    expected = layer_by_hand(s, w, x.tolist())

    cache, got = reference.ReferenceCache(s), []
    for part in np.split(x, np.cumsum(chunks)[:-1]):
        got.append(reference.decoder_layer(s, w, cache, part))
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=1e-11, atol=1e-11)
    assert len(cache.k) == len(cache.v) == sum(chunks)


def test_softmax_of_large_scores():
    assert reference.softmax(np.array([1000.0, 1000.0, -1000.0])).tolist() == [0.5, 0.5, 0.0]
