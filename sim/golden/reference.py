"""The same decoder layer in float64, as a textbook has it: no blocks, no tables, no 8-bit values."""

import numpy as np

__all__ = ["ReferenceCache", "decoder_layer", "rms_norm", "rope", "softmax", "silu"]


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


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rope(x, positions, theta, pairing):
    """Rotate x [tokens, heads, head_dim]; pairs are (2i, 2i + 1) or, for half_split, (i, i + head_dim / 2)."""
    dim = x.shape[-1]
    angle = positions[:, None, None] * theta ** (-np.arange(0, dim, 2) / dim)
    first, second = (np.s_[..., 0::2], np.s_[..., 1::2]) if pairing == "interleaved" else (
        np.s_[..., :dim // 2], np.s_[..., dim // 2:])
    out = np.empty_like(x)
    out[first] = x[first] * np.cos(angle) - x[second] * np.sin(angle)
    out[second] = x[first] * np.sin(angle) + x[second] * np.cos(angle)
    return out


def decoder_layer(shape, arrays, cache, x):
    """Output of the layer, float64 [tokens, hidden], for the tokens that follow those in ``cache``.

    ``arrays`` maps the names of ``LayerWeights`` to float arrays; ``cache`` is a ``ReferenceCache`` and grows.
    """
    w = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    x = np.asarray(x, np.float64)
    tokens, past = len(x), len(cache.k)
    positions = np.arange(past, past + tokens)

    h = rms_norm(x, w["attn_norm"], shape.norm_eps)
    q, k, v = ((h @ w[name].T).reshape(tokens, -1, shape.head_dim) for name in ("q_proj", "k_proj", "v_proj"))
    q = rope(q, positions, shape.rope_theta, shape.rope_pairing)
    cache.append(rope(k, positions, shape.rope_theta, shape.rope_pairing), v)

    keys, values = (np.repeat(a, shape.heads // shape.kv_heads, axis=1) for a in (cache.k, cache.v))
    scores = np.einsum("thd,phd->htp", q, keys) / np.sqrt(shape.head_dim)
    future = np.arange(past + tokens) > positions[:, None]
    scores = np.where(future, -np.inf, scores)
    attended = np.einsum("htp,phd->thd", softmax(scores), values).reshape(tokens, -1)
    x = x + attended @ w["o_proj"].T

    h = rms_norm(x, w["ffn_norm"], shape.norm_eps)
    return x + (silu(h @ w["gate_proj"].T) * (h @ w["up_proj"].T)) @ w["down_proj"].T
