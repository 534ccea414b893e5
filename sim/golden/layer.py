"""One decoder layer of the Llama type in the accelerator's arithmetic, operation by operation.

Each step is one MATMUL or VECTOR operation of docs/numerics.md, in the order in which a program issues them. Results
are those of the accelerator to the bit, and do not depend on how many tokens are taken at a time.
"""

from dataclasses import dataclass, fields

import numpy as np

from tilewright.sim.golden import a8, matmul, vector, weights
from tilewright.sim.golden.rope import PAIRINGS, interleaved_order, rope_tables
from tilewright.sim.golden.weights import BLOCK, QuantisedMatrix

__all__ = ["LayerShape", "LayerWeights", "KvCache", "decoder_layer", "rms_norm", "rotate", "attention", "feed_forward"]

NORMS = ("attn_norm", "ffn_norm")
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Sizes and constants of a layer.

    hidden, heads, kv_heads, head_dim, ffn : int   sizes; heads is a multiple of kv_heads, head_dim even
    norm_eps, rope_theta : float
    rope_pairing : str   'interleaved' or 'half_split': the order of dimensions in the rows of q_proj and k_proj
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    norm_eps: float
    rope_theta: float
    rope_pairing: str

    def __post_init__(self):
        if min(self.hidden, self.heads, self.kv_heads, self.head_dim, self.ffn) < 1:
            raise ValueError("sizes of a layer must be positive")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads = {self.heads} must be a multiple of kv_heads = {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, not {self.head_dim}")
        if self.rope_pairing not in PAIRINGS:
            raise ValueError(f"rope_pairing must be one of {', '.join(PAIRINGS)}, not {self.rope_pairing!r}")

    @classmethod
    def of(cls, architecture):
        """Taken from any object with these attributes."""
        return cls(**{f.name: getattr(architecture, f.name) for f in fields(cls)})

    @property
    def group(self):
        """Query heads that share one KV head."""
        return self.heads // self.kv_heads

    @property
    def matrix_shapes(self):
        """(n, k) of each matrix."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"q_proj": (q, self.hidden), "k_proj": (kv, self.hidden), "v_proj": (kv, self.hidden),
                "o_proj": (self.hidden, q), "gate_proj": (self.ffn, self.hidden), "up_proj": (self.ffn, self.hidden),
                "down_proj": (self.hidden, self.ffn)}


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """Weights of a layer: gains as float32 [hidden], matrices as ``QuantisedMatrix`` (``LayerShape.matrix_shapes``)."""

    attn_norm: np.ndarray
    q_proj: QuantisedMatrix
    k_proj: QuantisedMatrix
    v_proj: QuantisedMatrix
    o_proj: QuantisedMatrix
    ffn_norm: np.ndarray
    gate_proj: QuantisedMatrix
    up_proj: QuantisedMatrix
    down_proj: QuantisedMatrix

    @classmethod
    def quantise(cls, arrays):
        """From a mapping of the same names to float arrays."""
        return cls(**{name: np.asarray(arrays[name], np.float32) for name in NORMS},
                   **{name: weights.quantise(arrays[name]) for name in MATRICES})

    def dequantise(self):
        """A mapping of the same names to float32 arrays: what the quantised values stand for."""
        return {**{name: getattr(self, name) for name in NORMS},
                **{name: weights.dequantise(getattr(self, name)) for name in MATRICES}}


@dataclass(frozen=True, eq=False)
class KvCache:
    """Keys and values of one layer in 8 bits; ``decoder_layer`` writes the positions it is given.

    k       : int8 [kv_heads, max_context, head_dim]     rotated keys, dimensions in interleaved order
    k_scale : float16 [kv_heads, max_context, blocks]    a scale for each 32 dimensions
    v       : int8 [kv_heads, max_context, head_dim]
    v_scale : float32 [kv_heads, max_context]            a scale for each row
    """

    k: np.ndarray
    k_scale: np.ndarray
    v: np.ndarray
    v_scale: np.ndarray

    @classmethod
    def empty(cls, shape, max_context):
        rows = (shape.kv_heads, max_context)
        return cls(np.zeros((*rows, shape.head_dim), np.int8),
                   np.zeros((*rows, -(-shape.head_dim // BLOCK)), np.float16),
                   np.zeros((*rows, shape.head_dim), np.int8),
                   np.zeros(rows, np.float32))

    @property
    def max_context(self):
        return self.k.shape[1]

    def append(self, k, v, position):
        """Quantise and store float32 keys and values [tokens, kv_heads, head_dim] from ``position`` on."""
        at = np.s_[:, position:position + len(k)]
        self.k[at], code = a8.quantise(k.swapaxes(0, 1), block=BLOCK)
        self.k_scale[at] = a8.scale_fp16(code)
        self.v[at], code = a8.quantise(v.swapaxes(0, 1), block=None)
        self.v_scale[at] = a8.scale(code)[..., 0]


def _linear(activation, matrix):
    """Matmul of A8 activations (q, code) with a ``QuantisedMatrix``."""
    return matmul.linear(*activation, matrix.q, matrix.d)


def rms_norm(x, gain, shape, tables):
    """x [tokens, hidden] float32 normalised, as A8 (q, code)."""
    squares, _ = vector.apply(x, square=True)
    mean_factor = np.float32(1 / shape.hidden)
    r, _ = vector.apply(vector.sum_rows(squares)[:, None], b=mean_factor, c=np.float32(shape.norm_eps),
                        table=tables["rsqrt"])
    _, h = vector.apply(x, b=r, d=gain)
    return a8.quantise(h, block=BLOCK)


def rotate(x, cos, sin, shape):
    """RoPE on x [tokens, heads, head_dim] float32; the result's pairs are interleaved whatever the pairing."""
    if shape.rope_pairing == "half_split":
        x = x[..., interleaved_order(shape.head_dim)]
    rows = x.reshape(-1, shape.head_dim)
    heads = x.shape[1]
    cos, sin = np.repeat(cos, heads, axis=0), np.repeat(sin, heads, axis=0)
    _, crossed = vector.apply(rows, b=sin, swap=True)
    _, turned = vector.apply(rows, b=cos, c=crossed)
    return turned.reshape(x.shape)


def attention(q, cache, position, shape, tables):
    """Causal attention of rotated queries q [tokens, heads, head_dim] at ``position`` on; float32 [tokens, q width].

    The query heads that share a KV head, of all tokens, are the rows of one matmul over the whole context.
    """
    tokens = len(q)
    context = position + tokens
    valid = np.repeat(np.arange(position + 1, context + 1), shape.group)
    scale = np.float32(1 / np.sqrt(shape.head_dim))
    out = np.empty((tokens, shape.kv_heads, shape.group, shape.head_dim), np.float32)
    for head in range(shape.kv_heads):
        rows = q[:, head * shape.group:(head + 1) * shape.group].reshape(-1, shape.head_dim)
        k = QuantisedMatrix(cache.k[head, :context], cache.k_scale[head, :context])
        s = _linear(a8.quantise(rows, block=BLOCK), k)
        scaled, _ = vector.apply(s, b=scale, valid=valid)
        maximum = vector.max_rows(scaled, valid)[:, None]
        e, p = vector.apply(s, b=scale, c=maximum, c_negate=True, table=tables["exp"],
                            d=cache.v_scale[head, :context], valid=valid)
        o = matmul.linear(*a8.quantise(p, block=BLOCK), np.ascontiguousarray(cache.v[head, :context].T), None)
        r, _ = vector.apply(vector.sum_rows(e)[:, None], table=tables["recip"])
        out[:, head] = vector.apply(o, b=r)[1].reshape(tokens, shape.group, shape.head_dim)
    return out.reshape(tokens, -1)


def feed_forward(h, layer_weights, tables):
    """SwiGLU of A8 activations h = (q, code); float32 [tokens, hidden]."""
    g = _linear(h, layer_weights.gate_proj)
    u = _linear(h, layer_weights.up_proj)
    _, gated = vector.apply(g, table=tables["silu"], d=u)
    return _linear(a8.quantise(gated, block=BLOCK), layer_weights.down_proj)


def decoder_layer(shape, layer_weights, cache, x, position, tables):
    """The layer's output for tokens at ``position`` and on; their keys and values go into ``cache``.

    Parameters
    ----------
    shape : LayerShape
    layer_weights : LayerWeights
    cache : KvCache      holds positions 0 .. position - 1; written in place
    x : float32 [tokens, hidden]
    position : int       of the first token; raises ValueError if the cache has no room for all
    tables : mapping of 'exp', 'silu', 'rsqrt', 'recip' to ``functions.Table``

    Returns
    -------
    float32 [tokens, hidden]
    """
    x = np.asarray(x, np.float32)
    tokens = len(x)
    if not 0 <= position <= cache.max_context - tokens:
        raise ValueError(f"positions {position} to {position + tokens - 1} are beyond a cache of {cache.max_context}")
    cos, sin = rope_tables(rotary_dim=shape.head_dim, theta=shape.rope_theta, first=position, count=tokens)

    h = rms_norm(x, layer_weights.attn_norm, shape, tables)
    k, v, q = (_linear(h, matrix).reshape(tokens, -1, shape.head_dim)
               for matrix in (layer_weights.k_proj, layer_weights.v_proj, layer_weights.q_proj))
    cache.append(rotate(k, cos, sin, shape), v, position)
    o = attention(rotate(q, cos, sin, shape), cache, position, shape, tables)
    y = _linear(a8.quantise(o, block=BLOCK), layer_weights.o_proj)
    _, x = vector.apply(x, c=y)

    h = rms_norm(x, layer_weights.ffn_norm, shape, tables)
    _, x = vector.apply(x, c=feed_forward(h, layer_weights, tables))
    return x
