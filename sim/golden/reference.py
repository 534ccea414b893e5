"""The same layer, and the same model, in float64, as a textbook has it: no blocks, no tables, no 8-bit or FP16 values.

It is written apart from the accelerator's arithmetic and shares no function with it; tests compare it with Hugging Face
transformers, and the accelerator's arithmetic with it.
"""

import math

import numpy as np

__all__ = ["ACTIVATIONS", "ReferenceCache", "attention", "decoder_layer", "embed", "feed_forward", "layer_norm",
           "logits", "norm", "rms_norm", "rope", "rope_frequencies", "softmax", "states"]


def _sigmoid(x):
    with np.errstate(over="ignore"):  # far below zero e^-x is infinite and the result 0
        return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "silu": lambda x: x * _sigmoid(x),
    "gelu_erf": lambda x: x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))) / 2,
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
}
"""Activation functions by name, float64 of any shape."""


class ReferenceCache:
    """Keys and values of the positions seen so far, float64 [positions, kv_heads, head_dim] each."""

    def __init__(self, shape):
        self.k = np.zeros((0, shape.kv_heads, shape.head_dim))
        self.v = np.zeros((0, shape.kv_heads, shape.head_dim))

    def append(self, k, v):
        self.k = np.concatenate([self.k, k])
        self.v = np.concatenate([self.v, v])


def rms_norm(x, gain, eps):
    return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + eps) * gain


def layer_norm(x, gain, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + eps) * gain + bias


def norm(shape, arrays, name, x):
    """The layer's kind of norm with the gain (and bias) called ``name``."""
    if shape.norm == "rms_norm":
        return rms_norm(x, arrays[name], shape.norm_eps)
    return layer_norm(x, arrays[name], arrays[f"{name}_bias"], shape.norm_eps)


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rope_frequencies(rotary_dim, theta, scaling):
    """Angle per position of each pair; ``scaling`` is None or Llama 3's rule, which goes by wavelengths."""
    plain = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    if scaling is None:
        return plain
    wavelength = 2 * np.pi / plain
    smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor)
    return np.select([wavelength > scaling.original_context / scaling.low_freq_factor,
                      wavelength < scaling.original_context / scaling.high_freq_factor],
                     [plain / scaling.factor, plain],
                     (1 - smooth) * plain / scaling.factor + smooth * plain)


def rope(x, positions, *, rotary_dim, theta, pairing, scaling=None):
    """Rotate the first ``rotary_dim`` dimensions of x [tokens, heads, head_dim]; the others pass.

    Pairs are (2i, 2i + 1) or, for half_split, (i, i + rotary_dim / 2).
    """
    angle = positions[:, None, None] * rope_frequencies(rotary_dim, theta, scaling)
    first, second = (np.s_[..., 0:rotary_dim:2], np.s_[..., 1:rotary_dim:2]) if pairing == "interleaved" else (
        np.s_[..., :rotary_dim // 2], np.s_[..., rotary_dim // 2:rotary_dim])
    out = x.copy()
    out[first] = x[first] * np.cos(angle) - x[second] * np.sin(angle)
    out[second] = x[first] * np.sin(angle) + x[second] * np.cos(angle)
    return out


def attention(shape, w, cache, h):
    """A(h): attention of normalised h [tokens, hidden], output projection included; ``cache`` grows."""
    tokens, past = len(h), len(cache.k)
    positions = np.arange(past, past + tokens)

    q, k, v = ((h @ w[f"{name}_proj"].T + _bias(shape, w, name)).reshape(tokens, -1, shape.head_dim) for name in "qkv")
    if shape.qk_norm:
        q, k = rms_norm(q, w["q_norm"], shape.norm_eps), rms_norm(k, w["k_norm"], shape.norm_eps)
    if shape.rotary_dim:
        q, k = (rope(a, positions, rotary_dim=shape.rotary_dim, theta=shape.rope_theta, pairing=shape.rope_pairing,
                     scaling=shape.rope_scaling) for a in (q, k))
    cache.append(k, v)

    keys, values = (np.repeat(a, shape.heads // shape.kv_heads, axis=1) for a in (cache.k, cache.v))
    scores = np.einsum("thd,phd->htp", q, keys) / np.sqrt(shape.head_dim)
    distance = positions[:, None] - np.arange(past + tokens)
    hidden = np.zeros(distance.shape, bool)
    if shape.causal:
        hidden |= distance < 0
    if shape.window:
        hidden |= distance >= shape.window
    attended = np.einsum("htp,phd->thd", softmax(np.where(hidden, -np.inf, scores)), values).reshape(tokens, -1)
    if shape.sub_norm:
        attended = norm(shape, w, "attn_sub_norm", attended)
    return attended @ w["o_proj"].T + _bias(shape, w, "o")


def feed_forward(shape, w, h):
    """F(h): the gated or plain MLP of normalised h [tokens, hidden]."""
    biased = "ffn" in shape.biases
    up = h @ w["up_proj"].T + (w["up_bias"] if biased else 0)
    activation = ACTIVATIONS[shape.activation]
    inner = activation(h @ w["gate_proj"].T) * up if shape.mlp == "glu" else activation(up)
    if shape.sub_norm:
        inner = norm(shape, w, "ffn_sub_norm", inner)
    return inner @ w["down_proj"].T + (w["down_bias"] if biased else 0)


def decoder_layer(shape, arrays, cache, x):
    """Output of the layer, float64 [tokens, hidden], for the tokens that follow those in ``cache``.

    Parameters
    ----------
    shape : any object with the attributes of ``layer.LayerShape``
    arrays : mapping of the layer's tensor names to float arrays
    cache : ReferenceCache    grows
    x : [tokens, hidden]      without a causal mask: the whole sequence at once
    """
    w = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    x = np.asarray(x, np.float64)

    def a(h):
        return attention(shape, w, cache, h)

    def f(h):
        return feed_forward(shape, w, h)

    def n(name, h):
        return norm(shape, w, name, h)

    if shape.topology == "sequential":
        x = x + a(n("attn_norm", x))
        return x + f(n("ffn_norm", x))
    if shape.topology == "parallel_shared":
        h = n("attn_norm", x)
        return x + a(h) + f(h)
    if shape.topology == "parallel":
        return x + a(n("attn_norm", x)) + f(n("ffn_norm", x))
    if shape.topology == "sandwich":
        x = x + n("post_attn_norm", a(n("attn_norm", x)))
        return x + n("post_ffn_norm", f(n("ffn_norm", x)))
    if shape.topology == "post_norm":
        x = n("attn_norm", x + a(x))
        return n("ffn_norm", x + f(x))
    raise ValueError(f"unknown topology {shape.topology!r}")


def embed(model, tokens, position):
    """Input of the first layer of a ``model.TransformerModel`` whose arrays are floats, float64 [tokens, hidden]."""
    x = np.asarray(model.tensors["embedding"], np.float64)[tokens]
    if model.embed_scale is not None:
        x = x * model.embed_scale
    if "positions" in model.tensors:
        x = x + model.tensors["positions"][position:position + len(tokens)]
    return norm(model.shapes[0], model.tensors, "embed_norm", x) if "embed_norm" in model.tensors else x


def states(model, caches, tokens):
    """float64 [tokens, hidden] behind each layer in turn, and last the normalised one (if the model does so)."""
    x = embed(model, tokens, len(caches[0].k))
    found = []
    for shape, arrays, cache in zip(model.shapes, model.layers, caches, strict=True):
        x = decoder_layer(shape, arrays, cache, x)
        found.append(x)
    return [*found, norm(model.shapes[0], model.tensors, "final_norm", x) if "final_norm" in model.tensors else x]


def logits(model, x):
    """lm_head on final states, float64 [rows, vocab]."""
    y = x @ np.asarray(model.tensors["lm_head"], np.float64).T
    return y + model.tensors["lm_head_bias"] if "lm_head_bias" in model.tensors else y


def _bias(shape, w, name):
    return w[f"{name}_bias"] if name in shape.biases else 0
