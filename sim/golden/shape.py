"""What a transformer layer is made of: sizes, structure, and the tensors that follow from them."""

from dataclasses import dataclass, fields

import numpy as np

from tilewright.sim.golden import weights as blocks
from tilewright.sim.golden.rope import PAIRINGS

__all__ = ["LayerShape", "NORMS", "TOPOLOGIES", "MLPS", "ACTIVATIONS", "BIASES", "FORMATS", "quantise_weights",
           "dequantise_weights"]

NORMS = ("rms_norm", "layer_norm")
TOPOLOGIES = ("sequential", "parallel_shared", "parallel", "sandwich", "post_norm")
MLPS = ("glu", "plain")
ACTIVATIONS = ("silu", "gelu_erf", "gelu_tanh", "quick_gelu")
BIASES = ("q", "k", "v", "o", "ffn")
FORMATS = ("int8", "fp16")


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Sizes, constants and structure of a layer. The defaults are those of a Llama layer.

    hidden, heads, kv_heads, head_dim, ffn : int   sizes; heads is a multiple of kv_heads
    norm : str              of ``NORMS``; layer_norm has gain and bias
    norm_eps : float
    topology : str          of ``TOPOLOGIES``, with A attention, F feed-forward, N and P norms:
                            sequential       x += A(N1(x)); x += F(N2(x))
                            parallel_shared  x += A(N1(x)) + F(N1(x))
                            parallel         x += A(N1(x)) + F(N2(x))
                            sandwich         x += P1(A(N1(x))); x += P2(F(N2(x)))
                            post_norm        x = N1(x + A(x)); x = N2(x + F(x))
    sub_norm : bool         a norm of the concatenated heads, and one of the activated FFN vector
    qk_norm : bool          an RMSNorm of each head of q and k, before RoPE
    mlp, activation : str   of ``MLPS``, ``ACTIVATIONS``
    biases : tuple          projections with a bias, of ``BIASES``
    rotary_dim : int        first dimensions of a head that are rotated, even; 0: no RoPE
    rope_theta : float
    rope_pairing : str      'interleaved' or 'half_split': the order of dimensions in the rows of q_proj and k_proj
    rope_scaling : None, or the frequencies' scaling (``rope.rope_tables``)
    causal : bool           a token sees itself and those before it; else all of the sequence, given in one call
    window : int            the latest positions that a token sees, itself included; 0: all
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    norm: str = "rms_norm"
    norm_eps: float
    topology: str = "sequential"
    sub_norm: bool = False
    qk_norm: bool = False
    mlp: str = "glu"
    activation: str = "silu"
    biases: tuple = ()
    rotary_dim: int = None
    rope_theta: float
    rope_pairing: str
    rope_scaling: object = None
    causal: bool = True
    window: int = 0

    def __post_init__(self):
        if self.rotary_dim is None:
            object.__setattr__(self, "rotary_dim", self.head_dim)
        if min(self.hidden, self.heads, self.kv_heads, self.head_dim, self.ffn) < 1:
            raise ValueError("sizes of a layer must be positive")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads = {self.heads} must be a multiple of kv_heads = {self.kv_heads}")
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim:
            raise ValueError(f"rotary_dim must be even and at most head_dim = {self.head_dim}, not {self.rotary_dim}")
        for name, allowed in (("norm", NORMS), ("topology", TOPOLOGIES), ("mlp", MLPS), ("activation", ACTIVATIONS),
                              ("rope_pairing", PAIRINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if not set(self.biases) <= set(BIASES):
            raise ValueError(f"biases must be of {', '.join(BIASES)}, not {', '.join(self.biases)}")
        if self.window and not self.causal:
            raise ValueError("a window needs causal attention")

    @classmethod
    def of(cls, description):
        """Taken from any object with these attributes."""
        return cls(**{f.name: getattr(description, f.name) for f in fields(cls)})

    @property
    def group(self):
        """Query heads that share one KV head."""
        return self.heads // self.kv_heads

    @property
    def matrix_shapes(self):
        """(n, k) of each matrix."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        gate = {"gate_proj": (self.ffn, self.hidden)} if self.mlp == "glu" else {}
        return {"q_proj": (q, self.hidden), "k_proj": (kv, self.hidden), "v_proj": (kv, self.hidden),
                "o_proj": (self.hidden, q), **gate, "up_proj": (self.ffn, self.hidden),
                "down_proj": (self.hidden, self.ffn)}

    @property
    def vector_sizes(self):
        """Length of each vector: gains of norms, their biases, biases of projections."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        norms = {"attn_norm": self.hidden}
        if self.topology != "parallel_shared":
            norms["ffn_norm"] = self.hidden
        if self.topology == "sandwich":
            norms |= {"post_attn_norm": self.hidden, "post_ffn_norm": self.hidden}
        if self.sub_norm:
            norms |= {"attn_sub_norm": q, "ffn_sub_norm": self.ffn}
        if self.norm == "layer_norm":
            norms |= {f"{name}_bias": size for name, size in norms.items()}
        if self.qk_norm:
            norms |= {"q_norm": self.head_dim, "k_norm": self.head_dim}
        biases = {"q": {"q_bias": q}, "k": {"k_bias": kv}, "v": {"v_bias": kv}, "o": {"o_bias": self.hidden},
                  "ffn": {"up_bias": self.ffn, "down_bias": self.hidden}}
        for name in self.biases:
            norms |= biases[name]
        return norms


def quantise_weights(shape, arrays, weight_format="int8"):
    """Weights of a layer by name, from float arrays by the same names: float32 vectors, and matrices as
    ``QuantisedMatrix`` (int8), ``Int4Matrix`` (int4) or float16 [n, k] (fp16)."""
    rounded = {"int8": blocks.quantise, "int4": blocks.quantise_int4,
               "fp16": lambda w: np.asarray(w).astype(np.float16)}[weight_format]
    return {**{name: np.asarray(arrays[name], np.float32) for name in shape.vector_sizes},
            **{name: rounded(arrays[name]) for name in shape.matrix_shapes}}


def dequantise_weights(weights):
    """Float32 arrays by name: what the weights of ``quantise_weights`` stand for."""
    return {name: blocks.dequantise(w) if isinstance(w, tuple) else np.asarray(w, np.float32)
            for name, w in weights.items()}
