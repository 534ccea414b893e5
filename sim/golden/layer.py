"""One transformer layer in the accelerator's arithmetic, operation by operation.

Each step is one MATMUL or VECTOR operation of docs/numerics.md, in the order in which a program issues them. Results
are those of the accelerator to the bit. They do not depend on how many tokens are taken at a time, but where a ring of
a given size holds the KV cache.
"""

import numpy as np

from tilewright.sim.golden import a8, fp32, matmul, vector
from tilewright.sim.golden.kv_cache import KvCache
from tilewright.sim.golden.rope import interleaved_order, rope_tables
from tilewright.sim.golden.shape import LayerShape, dequantise_weights, quantise_weights
from tilewright.sim.golden.weights import BLOCK, Int4Matrix, QuantisedMatrix, RemoteMatrix

__all__ = ["LayerShape", "KvCache", "quantise_weights", "dequantise_weights", "transformer_layer", "linear",
           "normalise", "rms_norm", "layer_norm", "rotate", "attention", "self_attention", "feed_forward"]


def linear(x, matrix):
    """x [tokens, k] float32, rounded to the format that goes with the matrix's, times the matrix [n, k]."""
    if isinstance(matrix, RemoteMatrix):
        return matrix.multiply(x, matrix.matrix)
    if isinstance(matrix, QuantisedMatrix):
        return matmul.linear(*a8.quantise(x, block=BLOCK), matrix.q, matrix.d)
    if isinstance(matrix, Int4Matrix):
        return matmul.linear_int4(*a8.quantise(x, block=BLOCK), matrix)
    return matmul.linear_fp16(fp32.to_fp16(x), matrix)


def _inverse_root_mean(squares_sum, n, eps, tables):
    """rsqrt(sum / n + eps) of each row, as a column."""
    return vector.apply(squares_sum[:, None], b=np.float32(1 / n), c=np.float32(eps), table=tables["rsqrt"])[0]


def rms_norm(x, gain, eps, tables):
    """x [rows, n] float32 over its root mean square, times the gain."""
    squares, _ = vector.apply(x, square=True)
    r = _inverse_root_mean(vector.sum_rows(squares), x.shape[1], eps, tables)
    return vector.apply(x, b=r, d=gain)[1]


def layer_norm(x, gain, bias, eps, tables):
    """x [rows, n] float32 less its mean, over its standard deviation, times the gain, plus the bias."""
    total = vector.sum_rows(vector.apply(x)[0])[:, None]
    mean, _ = vector.apply(total, b=np.float32(1 / x.shape[1]))
    _, centred = vector.apply(x, c=mean, c_negate=True)
    squares, _ = vector.apply(centred, square=True)
    r = _inverse_root_mean(vector.sum_rows(squares), x.shape[1], eps, tables)
    _, scaled = vector.apply(centred, b=r, d=gain)
    return vector.apply(scaled, c=bias)[1]


def normalise(x, name, shape, weights, tables):
    """The norm ``name`` of x [tokens, n] float32."""
    if shape.norm == "rms_norm":
        return rms_norm(x, weights[name], shape.norm_eps, tables)
    return layer_norm(x, weights[name], weights[f"{name}_bias"], shape.norm_eps, tables)


def _add(x, y):
    """x + y, where y may be None."""
    return x if y is None else vector.apply(x, c=y)[1]


def rotate(x, cos, sin):
    """RoPE on the first dimensions of x [tokens, heads, head_dim] float32, as many as cos and sin [tokens, .] have;
    pairs are interleaved."""
    tokens, heads, _ = x.shape
    rows = x[..., :cos.shape[1]].reshape(tokens * heads, -1)
    cos, sin = np.repeat(cos, heads, axis=0), np.repeat(sin, heads, axis=0)
    _, crossed = vector.apply(rows, b=sin, swap=True)
    _, turned = vector.apply(rows, b=cos, c=crossed)
    out = x.copy()
    out[..., :cos.shape[1]] = turned.reshape(tokens, heads, -1)
    return out


def _project(h, name, shape, weights, tables, *, norm=None):
    """Heads [tokens, heads, head_dim] of q or k: projection, bias, norm of each head; rotated pairs interleaved."""
    x = _add(linear(h, weights[f"{name}_proj"]), weights.get(f"{name}_bias"))
    x = x.reshape(len(h), -1, shape.head_dim)
    gain = weights[norm] if shape.qk_norm else None
    if shape.rope_pairing == "half_split":
        order = interleaved_order(shape.head_dim, shape.rotary_dim)
        x, gain = x[..., order], gain if gain is None else gain[order]
    if gain is None:
        return x
    return rms_norm(x.reshape(-1, shape.head_dim), gain, shape.norm_eps, tables).reshape(x.shape)


def _visible(shape, position, tokens, slots):
    """For each token the slots it sees: (first, valid) of ``vector.apply``."""
    if not shape.causal:
        return np.zeros(tokens, int), np.full(tokens, position + tokens)
    at = position + np.arange(tokens)
    first = np.maximum(at - shape.window + 1, 0) % slots if shape.window else np.zeros(tokens, int)
    return first, at % slots + 1


def attention(q, cache, position, shape, tables):
    """Attention of rotated queries q [tokens, heads, head_dim] at ``position`` on; float32 [tokens, q width].

    The query heads that share a KV head, of all tokens, are the rows of one matmul over all slots in use.
    """
    tokens, used = len(q), min(position + len(q), cache.slots)
    first, valid = (np.repeat(a, shape.group) for a in _visible(shape, position, tokens, cache.slots))
    mask = {"first": first, "valid": valid}
    scale = np.float32(1 / np.sqrt(shape.head_dim))
    out = np.empty((tokens, shape.kv_heads, shape.group, shape.head_dim), np.float32)
    for head in range(shape.kv_heads):
        rows = q[:, head * shape.group:(head + 1) * shape.group].reshape(-1, shape.head_dim)
        s = cache.scores(rows, head, used)
        scaled, _ = vector.apply(s, b=scale, **mask)
        maximum = vector.max_rows(scaled, **mask)[:, None]
        e, p = vector.apply(s, b=scale, c=maximum, c_negate=True, table=tables["exp"],
                            d=cache.value_scales(head, used), **mask)
        o = cache.weighted_sum(p, head)
        r, _ = vector.apply(vector.sum_rows(e)[:, None], table=tables["recip"])
        out[:, head] = vector.apply(o, b=r)[1].reshape(tokens, shape.group, shape.head_dim)
    return out.reshape(tokens, -1)


def self_attention(h, cache, position, shape, weights, tables):
    """A(h) without o_proj's bias; keys and values of h [tokens, hidden] go into ``cache``."""
    k = _project(h, "k", shape, weights, tables, norm="k_norm")
    v = _add(linear(h, weights["v_proj"]), weights.get("v_bias")).reshape(k.shape)
    q = _project(h, "q", shape, weights, tables, norm="q_norm")
    if shape.rotary_dim:
        cos, sin = rope_tables(rotary_dim=shape.rotary_dim, theta=shape.rope_theta, first=position, count=len(h),
                               scaling=shape.rope_scaling)
        k, q = rotate(k, cos, sin), rotate(q, cos, sin)
    cache.append(k, v, position)
    o = attention(q, cache, position, shape, tables)
    if shape.sub_norm:
        o = normalise(o, "attn_sub_norm", shape, weights, tables)
    return linear(o, weights["o_proj"])


def feed_forward(h, shape, weights, tables):
    """F(h) without down_proj's bias; float32 [tokens, hidden]."""
    table = tables[shape.activation]
    u = linear(h, weights["up_proj"])
    if shape.mlp == "glu":
        u = _add(u, weights.get("up_bias"))
        _, active = vector.apply(linear(h, weights["gate_proj"]), table=table, d=u)
    else:
        _, active = vector.apply(u, c=weights.get("up_bias"), table=table)
    if shape.sub_norm:
        active = normalise(active, "ffn_sub_norm", shape, weights, tables)
    return linear(active, weights["down_proj"])


def transformer_layer(shape, weights, cache, x, position, tables):
    """The layer's output for tokens at ``position`` and on; their keys and values go into ``cache``.

    Parameters
    ----------
    shape : LayerShape
    weights : mapping    of names to vectors and matrices (``quantise_weights``)
    cache : KvCache      holds the positions before; written in place
    x : float32 [tokens, hidden]
    position : int       of the first token; raises ValueError if the cache cannot hold what the tokens see
    tables : mapping of the functions' names to ``functions.Table``

    Returns
    -------
    float32 [tokens, hidden]
    """
    x = np.asarray(x, np.float32)
    tokens = len(x)
    needed = shape.window + tokens - 1 if shape.window else position + tokens
    if position < 0 or cache.slots < min(needed, position + tokens):
        raise ValueError(f"positions {position} to {position + tokens - 1} are beyond a cache of {cache.slots}")
    if position and not shape.causal:
        raise ValueError("attention that is not causal takes the whole sequence at once, from position 0")

    def norm(name, values):
        return normalise(values, name, shape, weights, tables)

    def attend(h):
        return self_attention(h, cache, position, shape, weights, tables)

    def feed(h):
        return feed_forward(h, shape, weights, tables)

    # A projection's bias is added to the residual first, its product behind it.
    o_bias, down_bias = weights.get("o_bias"), weights.get("down_bias")
    if shape.topology == "post_norm":
        x = norm("attn_norm", _add(_add(x, o_bias), attend(x)))
        return norm("ffn_norm", _add(_add(x, down_bias), feed(x)))
    if shape.topology == "sandwich":
        x = _add(x, norm("post_attn_norm", _add(attend(norm("attn_norm", x)), o_bias)))
        return _add(x, norm("post_ffn_norm", _add(feed(norm("ffn_norm", x)), down_bias)))
    h = norm("attn_norm", x)
    if shape.topology == "sequential":
        x = _add(_add(x, o_bias), attend(h))
        return _add(_add(x, down_bias), feed(norm("ffn_norm", x)))
    h_ffn = h if shape.topology == "parallel_shared" else norm("ffn_norm", x)
    x = _add(_add(x, o_bias), attend(h))
    return _add(_add(x, down_bias), feed(h_ffn))
