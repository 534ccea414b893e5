"""The quantised layer: against a second writing of its order, against float64, and against itself in other portions."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.functions import function_tables
from tilewright.sim.golden import a8, functions, layer, matmul, reference, rope
from tilewright.sim.golden.weights import QuantisedMatrix

SEED = 4711


def shape(hidden, heads, kv_heads, head_dim, ffn, pairing="interleaved"):
    return layer.LayerShape(hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn, norm_eps=1e-5,
                            rope_theta=10000.0, rope_pairing=pairing)


SHAPES = [
    shape(96, 6, 2, 16, 172),                # groups of 3, ragged ffn
    shape(96, 3, 3, 8, 172, "half_split"),   # groups of 1, q narrower than hidden
    shape(172, 3, 1, 64, 96),                # ragged hidden, two K scales for a row
    shape(44, 4, 4, 40, 50, "half_split"),   # a ragged K block
]
ids = [f"{s.hidden}-{s.heads}/{s.kv_heads}x{s.head_dim}-{s.ffn}-{s.rope_pairing}" for s in SHAPES]
each_shape = pytest.mark.parametrize("s", SHAPES, ids=ids)


@pytest.fixture(scope="module")
def tables():
    built = function_tables(("exp", "silu", "rsqrt", "recip"))
    return {table.name: functions.table_from(table) for table in built}


def random_arrays(s, rng):
    arrays = {name: rng.standard_normal(size) / np.sqrt(size[1]) for name, size in s.matrix_shapes.items()}
    arrays["q_proj"] *= 2  # attention that is not nearly uniform
    return arrays | {name: rng.uniform(0.5, 1.5, size) for name, size in s.vector_sizes.items()}


def random_case(s, tokens):
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    weights = layer.quantise_weights(s, random_arrays(s, rng))
    return weights, rng.standard_normal((tokens, s.hidden)).astype(np.float32)


def run(s, weights, x, tables, portions=None, max_context=64):
    cache = layer.KvCache.empty(s, max_context)
    out, position = [], 0
    for part in np.split(x, np.cumsum(portions)[:-1]) if portions else [x]:
        out.append(layer.transformer_layer(s, weights, cache, part, position, tables))
        position += len(part)
    return np.concatenate(out), cache


def bits(x):
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


def cosine(a, b):
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return a @ b / np.sqrt((a @ a) * (b @ b))


# A second writing of the order: one token, one head at a time, NumPy's own float32 (no value here is subnormal).

def by_hand(s, w, sequence, tables):
    f32 = np.float32
    keys = [[] for _ in range(s.kv_heads)]
    values, value_scales, outputs = [[] for _ in keys], [[] for _ in keys], []

    def project(activation, matrix):
        q, code = a8.quantise(activation)
        return matmul.linear(q[None], code[None], matrix.q, matrix.d)[0]

    def row_sum(row):
        partial = [f32(0)] * 32
        for i, value in enumerate(row):
            partial[i % 32] += value
        while len(partial) > 1:
            half = len(partial) // 2
            partial = [partial[i] + partial[i + half] for i in range(half)]
        return partial[0]

    def function(name, values):
        return functions.evaluate(tables[name], np.atleast_1d(values))

    def norm(x, gain):
        r = function("rsqrt", row_sum(x * x) * f32(1 / s.hidden) + f32(s.norm_eps))
        return (x * r) * gain

    def turned(head, position):
        if s.rope_pairing == "half_split":
            head = np.stack([head[:s.head_dim // 2], head[s.head_dim // 2:]], axis=1).ravel()
        out = np.empty_like(head)
        for i in range(0, s.head_dim, 2):
            angle = position / s.rope_theta ** (i / s.head_dim)
            c, sn = f32(np.cos(angle)), f32(np.sin(angle))
            out[i] = head[i] * c + head[i + 1] * -sn
            out[i + 1] = head[i + 1] * c + head[i] * sn
        return out

    for position, x in enumerate(sequence):
        h = norm(x, w["attn_norm"])
        k, v, q = (project(h, m).reshape(-1, s.head_dim) for m in (w["k_proj"], w["v_proj"], w["q_proj"]))
        for kv in range(s.kv_heads):
            keys[kv].append(a8.quantise(turned(k[kv], position)))
            q8, code = a8.quantise(v[kv], block=None)
            values[kv].append(q8)
            value_scales[kv].append(a8.scale(code)[0])
        attended = []
        for head in range(s.heads):
            kv = head // (s.heads // s.kv_heads)
            q8, code = a8.quantise(turned(q[head], position))
            scores = matmul.linear(q8[None], code[None], np.array([key for key, _ in keys[kv]]),
                                   np.array([a8.scale_fp16(c) for _, c in keys[kv]]))[0] * f32(1 / np.sqrt(s.head_dim))
            e = function("exp", scores - scores.max())
            p8, code = a8.quantise(e * np.array(value_scales[kv]))
            o = matmul.linear(p8[None], code[None], np.array(values[kv]).T)[0]
            attended.append(o * function("recip", row_sum(e)))
        x = x + project(np.concatenate(attended), w["o_proj"])
        h = norm(x, w["ffn_norm"])
        gate, up = project(h, w["gate_proj"]), project(h, w["up_proj"])
        outputs.append(x + project(function("silu", gate) * up, w["down_proj"]))
    return np.array(outputs)


@each_shape
def test_order_of_operations(s, tables):
    w, x = random_case(s, 35)  # past the first block of 32 positions
    got, _ = run(s, w, x, tables)
    assert got.dtype == np.float32 and got.shape == x.shape
    np.testing.assert_array_equal(bits(got), bits(by_hand(s, w, x, tables)))


def test_order_within_rms_norm(tables):
    """8 bits hide which product is taken first, so this looks at what would be quantised."""
    s = SHAPES[0]
    w, x = random_case(s, 50)
    h = layer.rms_norm(x, w["attn_norm"], s.norm_eps, tables)
    partial = sum(np.split(x * x, s.hidden // 32, axis=1))
    while partial.shape[1] > 1:
        partial = np.add(*np.split(partial, 2, axis=1))
    r = functions.evaluate(tables["rsqrt"], partial * np.float32(1 / s.hidden) + np.float32(s.norm_eps))
    np.testing.assert_array_equal(bits(h), bits(x * r * w["attn_norm"]))
    assert (h != x * w["attn_norm"] * r).any()


@each_shape
def test_close_to_float64(s, tables):
    w, x = random_case(s, 40)
    got, _ = run(s, w, x, tables)
    expected = reference.decoder_layer(s, layer.dequantise_weights(w), reference.ReferenceCache(s), x)
    whole, added = cosine(got, expected), cosine(got - x, expected - x)
    print(f"cosine {whole:.6f}, of what the layer adds {added:.6f}, largest difference {abs(got - expected).max():.4f} "
          f"of {abs(expected).max():.2f}")
    assert whole > 0.9995 and added > 0.999


@each_shape
@pytest.mark.parametrize("portions", [[1] * 11, [4, 7], [10, 1], [3, 1, 5, 2]], ids=str)
def test_portions_do_not_matter(s, portions, tables):
    w, x = random_case(s, 11)
    whole, whole_cache = run(s, w, x, tables)
    parts, parts_cache = run(s, w, x, tables, portions)
    np.testing.assert_array_equal(bits(whole), bits(parts))
    for name in ("k", "k_scale", "v", "v_scale"):
        np.testing.assert_array_equal(bits(getattr(whole_cache, name)), bits(getattr(parts_cache, name)))


@each_shape
def test_causal(s, tables):
    w, x = random_case(s, 9)
    changed = x.copy()
    changed[4] += 1
    before, _ = run(s, w, x, tables)
    after, _ = run(s, w, changed, tables)
    np.testing.assert_array_equal(bits(before[:4]), bits(after[:4]))
    assert (bits(before[4:]) != bits(after[4:])).any(axis=1).all()


def test_unwritten_positions_do_not_matter(tables):
    s = SHAPES[0]
    w, x = random_case(s, 6)
    clean, _ = run(s, w, x, tables)
    cache = layer.KvCache.empty(s, 16)
    cache.k[:], cache.k_scale[:], cache.v[:], cache.v_scale[:] = 127, np.nan, -127, np.inf
    dirty = [layer.transformer_layer(s, w, cache, x[first:last], first, tables) for first, last in ((0, 4), (4, 6))]
    np.testing.assert_array_equal(bits(clean), bits(np.concatenate(dirty)))
    assert np.isnan(cache.k_scale[:, 6:]).all() and (cache.v[:, 6:] == -127).all()  # and stay unwritten


def test_pairings_are_one_rotation(tables):
    """Rows of q_proj and k_proj permuted turn one pairing into the other, to the bit."""
    split = SHAPES[1]
    w, x = random_case(split, 8)
    order = (np.arange(split.heads)[:, None] * split.head_dim + rope.interleaved_order(split.head_dim)).ravel()
    permuted = w | {name: QuantisedMatrix(w[name].q[order], w[name].d[order]) for name in ("q_proj", "k_proj")}
    expected, _ = run(split, w, x, tables)
    got, _ = run(replace(split, rope_pairing="interleaved"), permuted, x, tables)
    np.testing.assert_array_equal(bits(got), bits(expected))
    other, _ = run(replace(split, rope_pairing="interleaved"), w, x, tables)
    assert (bits(other[1:]) != bits(expected[1:])).any()


def test_cache_holds_keys_and_values(tables):
    """What the cache stands for is what float64 computes, to the precision of 8 bits."""
    s = SHAPES[2]
    w, x = random_case(s, 5)
    _, cache = run(s, w, x, tables, max_context=7)
    exact = reference.ReferenceCache(s)
    reference.decoder_layer(s, layer.dequantise_weights(w), exact, x)
    assert (cache.k.shape, cache.k_scale.shape) == ((1, 7, 64), (1, 7, 2))
    assert (cache.v.shape, cache.v_scale.shape) == ((1, 7, 64), (1, 7))
    k = cache.k * np.repeat(cache.k_scale.astype(np.float64), 32, axis=2)
    v = cache.v * cache.v_scale[..., None].astype(np.float64)
    for got, expected in ((k, exact.k), (v, exact.v)):
        assert cosine(got[:, :5], expected.swapaxes(0, 1)) > 0.9997
        assert not got[:, 5:].any()


@pytest.mark.parametrize("position, tokens", [(-1, 2), (15, 2), (16, 1), (0, 17)])
def test_refuses_positions_beyond_the_cache(position, tokens, tables):
    s = SHAPES[0]
    w, x = random_case(s, tokens)
    with pytest.raises(ValueError, match="beyond a cache of 16"):
        layer.transformer_layer(s, w, layer.KvCache.empty(s, 16), x, position, tables)


@pytest.mark.parametrize("change, message", [
    ({"kv_heads": 4}, "multiple of kv_heads"), ({"rotary_dim": 15}, "even"), ({"ffn": 0}, "positive"),
    ({"rope_pairing": "pairs"}, "interleaved, half_split"),
])
def test_refuses_impossible_shapes(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SHAPES[0], **change)


def test_rope_tables():
    cos, sin = rope.rope_tables(rotary_dim=64, theta=100000.0, first=5, count=3)
    assert cos.dtype == sin.dtype == np.float32
    for row, position in enumerate((5, 6, 7)):
        for i in range(32):
            angle = position * 100000.0 ** (-2 * i / 64)
            for column, got in ((2 * i, cos), (2 * i + 1, cos)):
                assert abs(got[row, column] - np.cos(angle)) <= 2.0**-24
            assert abs(sin[row, 2 * i] + np.sin(angle)) <= 2.0**-24 and sin[row, 2 * i] == -sin[row, 2 * i + 1]
    with pytest.raises(ValueError, match="even"):
        rope.rope_tables(rotary_dim=7, theta=10000.0, first=0, count=1)


PROMPT = ("The quick brown fox jumps over the lazy dog. In 2024, a small language model runs on a small chip, and "
          "each token reads every weight once.")


def test_real_layer(smollm2, tables):
    """Layer 0 of SmolLM2-135M: a prompt of 16 tokens at once, then 4 tokens one by one."""
    s = layer.LayerShape.of(smollm2.architecture.layer(0))
    tokens = smollm2.tokenizer().encode(PROMPT)[:20]
    assert len(tokens) == 20
    x = smollm2.embedding(tokens)
    w = smollm2.layer(0, "int8")
    got, _ = run(s, w, x, tables, [16, 1, 1, 1, 1], max_context=512)
    for name, arrays in (("Q8_0 weights", layer.dequantise_weights(w)),
                         ("weights of the file", smollm2.layer(0, "float32"))):
        expected = reference.decoder_layer(s, arrays, reference.ReferenceCache(s), x)
        tokenwise = [cosine(a, b) for a, b in zip(got, expected, strict=True)]
        print(f"float64 with {name}: cosine {cosine(got, expected):.6f}, of the worst token {min(tokenwise):.6f}, "
              f"largest difference {abs(got - expected).max():.4f} of {abs(expected).max():.2f}")
        assert cosine(got, expected) > 0.9998 and min(tokenwise) > 0.9997
