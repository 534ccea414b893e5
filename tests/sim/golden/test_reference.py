"""The float64 layer against a loop over tokens and heads that shares none of its formulas."""

import cmath
import math
from types import SimpleNamespace

import numpy as np
import pytest

from tilewright.sim.golden import reference, rope
from tilewright.sim.golden.layer import LayerShape

SEED = 77001
LLAMA3 = SimpleNamespace(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)


def shape(hidden, heads, kv_heads, head_dim, ffn, pairing, **structure):
    return LayerShape(hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn, norm_eps=1e-5,
                      rope_theta=10000.0, rope_pairing=pairing, **structure)


SHAPES = {
    "llama": shape(24, 3, 1, 8, 43, "interleaved"),
    "llama-half": shape(24, 3, 3, 16, 20, "half_split"),
    "wide-head": shape(10, 2, 1, 64, 7, "interleaved"),
    "grouped": shape(12, 4, 2, 6, 9, "half_split"),
    "scaled": shape(12, 2, 1, 16, 9, "half_split", rope_scaling=LLAMA3),
    "scaled-interleaved": shape(12, 2, 1, 16, 9, "interleaved", rope_scaling=LLAMA3),
    "parallel-shared": shape(16, 2, 2, 8, 21, "half_split", topology="parallel_shared", norm="layer_norm", mlp="plain",
                             activation="gelu_tanh", biases=("q", "k", "v", "o", "ffn"), rotary_dim=4),
    "parallel": shape(18, 3, 3, 10, 21, "half_split", topology="parallel", norm="layer_norm", mlp="plain",
                      activation="gelu_erf", biases=("q", "k", "v", "o", "ffn"), rotary_dim=2),
    "sub-norm": shape(16, 2, 1, 8, 13, "interleaved", norm="layer_norm", mlp="plain", activation="gelu_erf",
                      biases=("q", "k", "v", "o", "ffn"), rotary_dim=0, sub_norm=True),
    "sub-rms": shape(16, 2, 1, 4, 13, "interleaved", sub_norm=True, biases=("o",)),
    "qkv-bias": shape(16, 4, 4, 8, 13, "half_split", norm="layer_norm", biases=("q", "k", "v"), rotary_dim=6),
    "sandwich": shape(14, 4, 1, 6, 19, "half_split", topology="sandwich", qk_norm=True, activation="gelu_tanh",
                      window=3),
    "sandwich-layer-norm": shape(14, 2, 1, 6, 19, "interleaved", topology="sandwich", norm="layer_norm",
                                 biases=("o", "ffn"), qk_norm=True, rotary_dim=4),
    "window": shape(12, 4, 2, 6, 9, "half_split", window=2),
    "window-one": shape(12, 4, 2, 6, 9, "half_split", window=1),
    "post-norm": shape(20, 4, 4, 5, 11, "half_split", topology="post_norm", norm="layer_norm", mlp="plain",
                       activation="gelu_erf", biases=("q", "k", "v", "o", "ffn"), rotary_dim=0, causal=False),
    "quick-gelu": shape(20, 4, 2, 5, 11, "half_split", norm="layer_norm", mlp="plain", activation="quick_gelu",
                        biases=("q", "k", "v", "o", "ffn"), rotary_dim=0, causal=False),
    "bias-gated": shape(12, 2, 2, 6, 10, "interleaved", biases=("ffn",), activation="quick_gelu"),
}


def random_weights(s, rng):
    arrays = {name: rng.standard_normal(size) / math.sqrt(size[1]) for name, size in s.matrix_shapes.items()}
    for name, size in s.vector_sizes.items():
        arrays[name] = rng.standard_normal(size) / 3 if name.endswith("_bias") else rng.uniform(0.5, 1.5, size)
    return arrays


def frequency(s, i):
    """Angle per position of pair i. Llama 3's rule by the number of turns within the original context."""
    f = s.rope_theta ** (-2 * i / s.rotary_dim)
    if s.rope_scaling is None:
        return f
    turns = s.rope_scaling.original_context * f / (2 * math.pi)
    if turns <= 1:
        return f / 8
    return f if turns >= 4 else f * ((4 - turns) / 3 / 8 + (turns - 1) / 3)


def rotate_complex(s, vector, position):
    """RoPE as multiplication by e^(i angle), a pair at a time."""
    half = s.rotary_dim // 2
    out = list(vector)
    for i in range(half):
        first, second = (2 * i, 2 * i + 1) if s.rope_pairing == "interleaved" else (i, i + half)
        z = complex(vector[first], vector[second]) * cmath.exp(1j * position * frequency(s, i))
        out[first], out[second] = z.real, z.imag
    return out


def rms_by_hand(x, gain, eps):
    root = math.sqrt(math.fsum(value * value for value in x) / len(x) + eps)
    return [value / root * g for value, g in zip(x, gain, strict=True)]


def norm_by_hand(s, w, name, x):
    if s.norm == "rms_norm":
        return rms_by_hand(x, w[name], s.norm_eps)
    mean = math.fsum(x) / len(x)
    variance = math.fsum(value * value for value in x) / len(x) - mean * mean
    return [(value - mean) / math.sqrt(variance + s.norm_eps) * g + b
            for value, g, b in zip(x, w[name], w[f"{name}_bias"], strict=True)]


def matvec(w, name, vector, bias=None):
    out = [math.fsum(a * b for a, b in zip(row, vector, strict=True)) for row in w[name]]
    return [a + b for a, b in zip(out, w[bias], strict=True)] if bias in w else out


def activate(name, x):
    """GELU by the normal distribution's integral, the others by exponentials."""
    if name == "gelu_erf":
        return x * math.erfc(-x / math.sqrt(2)) / 2
    if name == "gelu_tanh":
        return x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return x / (1 + math.exp(-x * {"silu": 1, "quick_gelu": 1.702}[name]))


def heads(s, w, name, h):
    projected = matvec(w, f"{name}_proj", h, f"{name}_bias")
    return [projected[i:i + s.head_dim] for i in range(0, len(projected), s.head_dim)]


def turned_heads(s, w, name, h, position):
    found = heads(s, w, name, h)
    if s.qk_norm:
        found = [rms_by_hand(head, w[f"{name}_norm"], s.norm_eps) for head in found]
    return [rotate_complex(s, head, position) for head in found]


def attention_by_hand(s, w, sequence):
    """A of every normalised token, one after the other."""
    keys = [turned_heads(s, w, "k", h, position) for position, h in enumerate(sequence)]
    values = [heads(s, w, "v", h) for h in sequence]
    outputs = []
    for position, h in enumerate(sequence):
        last = position if s.causal else len(sequence) - 1
        seen = [p for p in range(last + 1) if not s.window or p > position - s.window]
        attended = []
        for head, q in enumerate(turned_heads(s, w, "q", h, position)):
            kv = head * s.kv_heads // s.heads
            weight = [math.exp(math.fsum(a * b for a, b in zip(q, keys[p][kv], strict=True)) / math.sqrt(s.head_dim))
                      for p in seen]
            attended += [math.fsum(e * values[p][kv][i] for e, p in zip(weight, seen, strict=True)) / math.fsum(weight)
                         for i in range(s.head_dim)]
        if s.sub_norm:
            attended = norm_by_hand(s, w, "attn_sub_norm", attended)
        outputs.append(matvec(w, "o_proj", attended, "o_bias"))
    return outputs


def feed_forward_by_hand(s, w, h):
    up = matvec(w, "up_proj", h, "up_bias")
    inner = [activate(s.activation, u) for u in up]
    if s.mlp == "glu":
        inner = [activate(s.activation, g) * u for g, u in zip(matvec(w, "gate_proj", h), up, strict=True)]
    if s.sub_norm:
        inner = norm_by_hand(s, w, "ffn_sub_norm", inner)
    return matvec(w, "down_proj", inner, "down_bias")


def plus(*vectors):
    return [sum(values) for values in zip(*vectors, strict=True)]


def layer_by_hand(s, w, xs):
    def normed(name, vectors):
        return [norm_by_hand(s, w, name, v) for v in vectors]

    def fed(vectors):
        return [feed_forward_by_hand(s, w, v) for v in vectors]

    def added(*sequences):
        return [plus(*vectors) for vectors in zip(*sequences, strict=True)]

    if s.topology == "post_norm":
        xs = normed("attn_norm", added(xs, attention_by_hand(s, w, xs)))
        return np.array(normed("ffn_norm", added(xs, fed(xs))))
    attended = attention_by_hand(s, w, normed("attn_norm", xs))
    if s.topology.startswith("parallel"):
        second = "ffn_norm" if s.topology == "parallel" else "attn_norm"
        return np.array(added(xs, attended, fed(normed(second, xs))))
    sandwich = s.topology == "sandwich"
    xs = added(xs, normed("post_attn_norm", attended) if sandwich else attended)
    fed_forward = fed(normed("ffn_norm", xs))
    return np.array(added(xs, normed("post_ffn_norm", fed_forward) if sandwich else fed_forward))


def by_reference(s, w, x, chunks):
    cache = reference.ReferenceCache(s)
    parts = [reference.decoder_layer(s, w, cache, part) for part in np.split(x, np.cumsum(chunks)[:-1])]
    assert len(cache.k) == len(cache.v) == len(x)
    return np.concatenate(parts)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("chunks", [(5,), (1, 1, 1, 1, 1), (3, 2)], ids=str)
def test_against_explicit_loops(name, chunks):
    s = SHAPES[name]
    if not s.causal:
        chunks = (sum(chunks),)
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    w = random_weights(s, rng)
    x = rng.standard_normal((sum(chunks), s.hidden))
    expected = layer_by_hand(s, {key: value.tolist() for key, value in w.items()}, x.tolist())
    np.testing.assert_allclose(by_reference(s, w, x, chunks), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SHAPES)
def test_every_tensor_matters(name):
    """A changed tensor changes the output, so none is left out on both sides."""
    s, rng = SHAPES[name], np.random.default_rng(SEED)
    w, x = random_weights(s, rng), rng.standard_normal((4, s.hidden))
    before = by_reference(s, w, x, (4,))
    for changed in w:
        # A bias of all keys alike moves every score of a query by the same amount, but for RoPE or a norm behind it.
        if changed == "k_bias" and not s.rotary_dim and not s.qk_norm:
            continue
        if s.window == 1 and changed in ("q_proj", "k_proj"):
            continue
        after = by_reference(s, w | {changed: w[changed] * 1.5 + 0.1 * rng.standard_normal(w[changed].shape)}, x, (4,))
        assert np.abs(after - before).max() > 1e-6, changed


def test_order_of_pairs():
    """Partial half_split rotation is the interleaved one with the first dimensions in another order."""
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    x, positions = rng.standard_normal((4, 3, 20)), np.arange(7, 11)
    order = rope.interleaved_order(20, 12)
    assert order.tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    assert rope.interleaved_order(6).tolist() == [0, 3, 1, 4, 2, 5]
    assert rope.interleaved_order(3, 0).tolist() == [0, 1, 2]
    for scaling in (None, LLAMA3):
        settings = {"rotary_dim": 12, "theta": 500.0, "scaling": scaling}
        split = reference.rope(x, positions, pairing="half_split", **settings)
        pairs = reference.rope(x[..., order], positions, pairing="interleaved", **settings)
        np.testing.assert_allclose(split[..., order], pairs, rtol=0, atol=1e-15)
        np.testing.assert_array_equal(split[..., 12:], x[..., 12:])

        cos, sin = rope.rope_tables(first=7, count=4, **settings)
        swapped = x[..., order].reshape(4, 3, 10, 2)[..., ::-1].reshape(x.shape)[..., :12]
        table = x[..., order[:12]] * cos[:, None] + swapped * sin[:, None]
        np.testing.assert_allclose(table, pairs[..., :12], rtol=0, atol=1e-6)
    for wrong in (5, 22, -2):
        with pytest.raises(ValueError, match="even and in 0 .. head_dim = 20"):
            rope.interleaved_order(20, wrong)


def test_scaling_of_llama_3():
    """The 32 frequencies of Llama 3.2 1B: 15 unchanged, 3 blended, 14 divided; both writings agree."""
    scaling = SimpleNamespace(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    plain = rope.frequencies(64, 500000.0)
    scaled = rope.frequencies(64, 500000.0, scaling)
    np.testing.assert_allclose(scaled, reference.rope_frequencies(64, 500000.0, scaling), rtol=1e-14)
    ratio = plain / scaled
    kinds = [ratio == 1, (ratio > 1.001) & (ratio < 31.9), abs(ratio - 32) < 1e-12]
    assert [kind.sum() for kind in kinds] == [15, 3, 14]
    assert (np.diff(scaled) < 0).all() and ratio[0] == 1 and ratio[-1] == 32
    for wrong in ({"factor": 0.0}, {"low_freq_factor": 4.0}, {"original_context": 0}):
        with pytest.raises(ValueError, match="RoPE scaling needs"):
            rope.frequencies(64, 500000.0, SimpleNamespace(**vars(scaling) | wrong))


def test_softmax_of_large_scores():
    assert reference.softmax(np.array([1000.0, 1000.0, -1000.0])).tolist() == [0.5, 0.5, 0.0]


def test_refuses_unknown_topology():
    s = SHAPES["llama"]
    description = SimpleNamespace(**vars(s) | {"topology": "series"})
    with pytest.raises(ValueError, match="unknown topology 'series'"):
        reference.decoder_layer(description, random_weights(s, np.random.default_rng(1)), reference.ReferenceCache(s),
                                np.zeros((1, s.hidden)))
