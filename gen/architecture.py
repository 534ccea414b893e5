"""The structure and sizes of a model as data: of the whole, and of each layer."""

from dataclasses import dataclass, fields, replace

from tilewright.gen.errors import UserError
from tilewright.sim.golden.rope import PAIRINGS
from tilewright.sim.golden.shape import ACTIVATIONS, BIASES, MLPS, NORMS, TOPOLOGIES, LayerShape

__all__ = ["Architecture", "RopeScaling", "CHOICES", "layer_tensors"]

CHOICES = {"norm": NORMS, "topology": TOPOLOGIES, "mlp": MLPS, "activation": ACTIVATIONS, "rope_pairing": PAIRINGS,
           "positions": ("rope", "learned", "sinusoidal")}
"""What each field that is a word may be."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's rule: frequencies whose wavelength is beyond original_context / low_freq_factor are divided by
    ``factor``, those below original_context / high_freq_factor stay, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def __post_init__(self):
        for f in fields(self):
            _check_number(f"rope_scaling.{f.name}", getattr(self, f.name), f.type)
        if not self.low_freq_factor < self.high_freq_factor:
            raise UserError(f"rope_scaling.low_freq_factor = {self.low_freq_factor}: must be less than "
                            f"high_freq_factor = {self.high_freq_factor}")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A transformer: its layers, and what is before and behind them.

    layers, hidden, heads, kv_heads, head_dim, ffn, vocab, max_context : int
    norm : str               'rms_norm' or 'layer_norm' (gain and bias); a file's 1 + w is stored as the gain
    norm_eps : float
    topology : str           'sequential'       x += A(N1(x)); x += F(N2(x))
                             'parallel_shared'  x += A(N1(x)) + F(N1(x))
                             'parallel'         x += A(N1(x)) + F(N2(x))
                             'sandwich'         x += P1(A(N1(x))); x += P2(F(N2(x)))
                             'post_norm'        x = N1(x + A(x)); x = N2(x + F(x))
    sub_norm : bool          a norm of the heads before o_proj, and one of the activated vector before down_proj
    qk_norm : bool           RMSNorm of each head of q and k before RoPE
    mlp : str                'glu' (gate_proj, up_proj, down_proj) or 'plain' (up_proj, down_proj)
    activation : str         'silu', 'gelu_erf', 'gelu_tanh' or 'quick_gelu'
    biases : tuple           linear layers with a bias, of 'q', 'k', 'v', 'o', 'ffn'
    positions : str          'rope'; or a table added to the embedding, 'learned' or 'sinusoidal' (sines, then cosines)
    position_offset : int    row of the table for the first token
    rotary_dim : int         dimensions of a head that RoPE turns, the first ones; 0 without RoPE
    rope_theta : float
    rope_theta_local : float theta of the layers with a window; None: as rope_theta
    rope_pairing : str       'interleaved' pairs (2i, 2i + 1), 'half_split' pairs (i, i + rotary_dim / 2)
    rope_scaling : RopeScaling or None
    causal : bool            a position sees those up to it, else all
    window : int             a position sees so many, itself the last; 0: no window
    global_every : int       every so many-th layer has no window; 0: all have it
    embed_scale : float      factor of the embedding
    embed_norm : bool        a norm of the embedding (with positions added)
    final_norm : bool        a norm behind the last layer
    lm_head : bool           an output layer over the vocabulary; encoders have none
    lm_head_bias : bool
    tied_embeddings : bool   the output layer is the embedding

    Raises UserError for a value that no program can be made for.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_context: int
    norm: str = "rms_norm"
    norm_eps: float = 1e-5
    topology: str = "sequential"
    sub_norm: bool = False
    qk_norm: bool = False
    mlp: str = "glu"
    activation: str = "silu"
    biases: tuple[str, ...] = ()
    positions: str = "rope"
    position_offset: int = 0
    rotary_dim: int = 0
    rope_theta: float = 10000.0
    rope_theta_local: float | None = None
    rope_pairing: str = "half_split"
    rope_scaling: RopeScaling | None = None
    causal: bool = True
    window: int = 0
    global_every: int = 0
    embed_scale: float = 1.0
    embed_norm: bool = False
    final_norm: bool = True
    lm_head: bool = True
    lm_head_bias: bool = False
    tied_embeddings: bool = True

    def __post_init__(self):
        for problem in self._problems():
            raise UserError(problem)

    def layer(self, index):
        """Shape of layer ``index``, with its own theta and window; UserError if there is none."""
        if not 0 <= index < self.layers:
            raise UserError(f"there is no layer {index}; layers are 0 to {self.layers - 1}")
        values = {f.name: getattr(self, f.name) for f in fields(LayerShape)}
        if self.global_every and (index + 1) % self.global_every == 0:
            values["window"] = 0
        elif self.window and self.rope_theta_local is not None:
            values["rope_theta"] = self.rope_theta_local
        return LayerShape(**values)

    def tensors(self):
        """Shape of every tensor of the model by name, a layer's as 'layers.I.NAME'."""
        shapes = {"embedding": (self.vocab, self.hidden)}
        if self.positions == "learned":
            shapes["positions"] = (self.position_offset + self.max_context, self.hidden)
        shapes |= _with_biases({"embed_norm": self.hidden} if self.embed_norm else {}, self.norm)
        for index in range(self.layers):
            shapes |= {f"layers.{index}.{name}": shape for name, shape in layer_tensors(self.layer(index)).items()}
        shapes |= _with_biases({"final_norm": self.hidden} if self.final_norm else {}, self.norm)
        if self.lm_head and not self.tied_embeddings:
            shapes["lm_head"] = (self.vocab, self.hidden)
        if self.lm_head_bias:
            shapes["lm_head_bias"] = (self.vocab,)
        return shapes

    def reduced(self, **sizes):
        """The same structure with other sizes; rotary_dim keeps its share of head_dim, rounded to even, 2 at least."""
        if "head_dim" in sizes and self.rotary_dim:
            share = self.rotary_dim / self.head_dim
            sizes = {"rotary_dim": max(2, 2 * round(share * sizes["head_dim"] / 2))} | sizes
        return replace(self, **sizes)

    def _problems(self):
        """Yield one line for each thing that is wrong, most basic first."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in CHOICES and value not in CHOICES[f.name]:
                yield f"{f.name} = {value!r} is not supported; supported: {', '.join(CHOICES[f.name])}"
            elif f.type is bool and type(value) is not bool:
                yield f"{f.name} = {value!r}: must be true or false"
            elif f.type in (int, float):
                _check_number(f.name, value, f.type, zero=f.default == 0)
        if self.rope_theta_local is not None:
            _check_number("rope_theta_local", self.rope_theta_local, float)
        if not isinstance(self.rope_scaling, RopeScaling | None):
            yield f"rope_scaling = {self.rope_scaling!r}: must be a RopeScaling or None"
        if self.biases != tuple(name for name in BIASES if name in self.biases):
            yield f"biases = {self.biases!r}: must be some of {', '.join(BIASES)}, in this order, as a tuple"
        if self.heads % self.kv_heads:
            yield f"heads = {self.heads}: must be a multiple of kv_heads = {self.kv_heads}"
        if self.head_dim % 2:
            yield f"head_dim = {self.head_dim}: must be even"
        yield from self._position_problems()
        if self.lm_head_bias and not self.lm_head:
            yield "lm_head_bias = True: there is no lm_head to have it"

    def _position_problems(self):
        if self.positions == "rope" and not (0 < self.rotary_dim <= self.head_dim and self.rotary_dim % 2 == 0):
            yield (f"rotary_dim = {self.rotary_dim}: must be even, from 2 to head_dim = {self.head_dim}, "
                   f"with positions = 'rope'")
        if self.positions != "rope" and (self.rotary_dim or self.rope_theta_local or self.rope_scaling):
            yield (f"positions = {self.positions!r}: goes without RoPE, so that rotary_dim must be 0 and "
                   f"rope_theta_local and rope_scaling unset")
        if self.positions == "rope" and self.position_offset:
            yield f"position_offset = {self.position_offset}: must be 0 with positions = 'rope'"
        if self.window and not self.causal:
            yield f"window = {self.window}: must be 0 where causal is false"
        if not self.window and (self.global_every or self.rope_theta_local is not None):
            yield "window = 0: global_every and rope_theta_local tell layers with a window from others; set window"


def _check_number(name, value, kind, zero=False):
    """Raise UserError unless ``value`` is of type ``kind`` and positive and finite, or zero where that is allowed."""
    if type(value) is not kind:
        raise UserError(f"{name} = {value!r}: must be of type {kind.__name__}")
    if not (0 < value < float("inf") or zero and value == 0):
        raise UserError(f"{name} = {value}: must be {'zero or ' if zero else ''}positive")


def layer_tensors(layer):
    """Shape of every tensor of a ``LayerShape`` by name."""
    return {name: (n,) for name, n in layer.vector_sizes.items()} | layer.matrix_shapes


def _with_biases(norms, kind):
    """Shapes of gains by name, each with its bias behind it where the norm has one."""
    return {key: (n,) for name, n in norms.items()
            for key in ((name, f"{name}_bias") if kind == "layer_norm" else (name,))}
