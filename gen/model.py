"""Architectures of models as data: a description file for each known model, and what a GGUF file says of itself."""

import tomllib
from dataclasses import dataclass, fields
from importlib import resources

import numpy as np

from tilewright.gen.errors import UserError

__all__ = ["Architecture", "Model", "Source", "known_models", "load_model", "architecture_from_gguf", "check_agreement"]

FAMILIES = ("llama",)
PAIRINGS = ("interleaved", "half_split")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of a decoder-only model.

    family : str             kind of layer; 'llama' is RMSNorm, GQA with RoPE, SwiGLU
    layers, hidden, heads, kv_heads, head_dim, ffn, vocab, max_context : int
    norm : str               'rms_norm'
    norm_eps : float
    activation : str         'silu'
    rope_theta : float
    rope_pairing : str       'interleaved' pairs (2i, 2i + 1), 'half_split' pairs (i, i + head_dim / 2)
    tied_embeddings : bool   the output layer is the embedding

    Raises UserError for a value that no program can be made for.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_context: int
    norm: str
    norm_eps: float
    activation: str
    rope_theta: float
    rope_pairing: str
    tied_embeddings: bool

    def __post_init__(self):
        for name, allowed in (("family", FAMILIES), ("norm", ("rms_norm",)), ("activation", ("silu",)),
                              ("rope_pairing", PAIRINGS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} = {getattr(self, name)!r} is not supported; supported: {', '.join(allowed)}")
        for f in fields(self):
            value = getattr(self, f.name)
            if type(value) is not f.type:
                raise UserError(f"{f.name} = {value!r}: must be of type {f.type.__name__}")
            if f.type in (int, float) and not value > 0:
                raise UserError(f"{f.name} = {value}: must be positive")
        if self.heads % self.kv_heads:
            raise UserError(f"heads = {self.heads}: must be a multiple of kv_heads = {self.kv_heads}")
        if self.head_dim % 2:
            raise UserError(f"head_dim = {self.head_dim}: must be even for RoPE")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model's file comes from: file ``file`` somewhere in wheel ``package`` == ``version``."""

    package: str
    version: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A known model: its name, a title for people, its architecture and its file."""

    name: str
    title: str
    architecture: Architecture
    source: Source


def known_models():
    """Names of the models that have a description."""
    files = resources.files("tilewright.gen").joinpath("models").iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in files if entry.name.endswith(".toml"))


def load_model(name):
    """The ``Model`` of that name; UserError for an unknown one."""
    if name not in known_models():
        raise UserError(f"unknown model {name!r}; known: {', '.join(known_models())}")
    text = resources.files("tilewright.gen").joinpath("models", f"{name}.toml").read_text(encoding="utf-8")
    description = tomllib.loads(text)
    return Model(name=name, title=description["title"], architecture=Architecture(**description["architecture"]),
                 source=Source(**description["source"]))


def architecture_from_gguf(metadata, *, tied_embeddings):
    """Architecture from a GGUF file's metadata, a mapping of keys to values.

    A llama file's q and k rows are permuted so that RoPE pairs are interleaved. Raises UserError for a missing key and
    for what the layer does not cover (experts, scaled or partial RoPE, sliding window).
    """
    def get(key, kind, default=None):
        value = metadata.get(key, default)
        if value is None:
            raise UserError(f"metadata {key} is missing")
        if type(value) is not kind:
            raise UserError(f"metadata {key} = {value!r}: must be of type {kind.__name__}")
        return value

    family = get("general.architecture", str)
    if family not in FAMILIES:
        raise UserError(f"architecture {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    hidden, heads = get(f"{family}.embedding_length", int), get(f"{family}.attention.head_count", int)
    if heads < 1:
        raise UserError(f"metadata {family}.attention.head_count = {heads}: must be positive")
    head_dim = get(f"{family}.attention.key_length", int, hidden // heads)
    for key, plain in (("rope.dimension_count", head_dim), ("attention.value_length", head_dim),
                       ("rope.scaling.type", "none"), ("expert_count", 0), ("attention.sliding_window", 0)):
        if metadata.get(f"{family}.{key}", plain) != plain:
            raise UserError(f"metadata {family}.{key} = {metadata[f'{family}.{key}']!r} is not supported, "
                            f"only {plain!r}")
    return Architecture(
        family=family, layers=get(f"{family}.block_count", int), hidden=hidden, heads=heads,
        kv_heads=get(f"{family}.attention.head_count_kv", int, heads), head_dim=head_dim,
        ffn=get(f"{family}.feed_forward_length", int), vocab=get(f"{family}.vocab_size", int),
        max_context=get(f"{family}.context_length", int), norm="rms_norm",
        norm_eps=_shortest(get(f"{family}.attention.layer_norm_rms_epsilon", float)), activation="silu",
        rope_theta=_shortest(get(f"{family}.rope.freq_base", float, 10000.0)), rope_pairing="interleaved",
        tied_embeddings=tied_embeddings)


def check_agreement(expected, found, what):
    """Raise UserError that names every key in which two architectures differ; ``what`` names the file found."""
    differences = [f"{f.name} is {getattr(found, f.name)!r} instead of {getattr(expected, f.name)!r}"
                   for f in fields(Architecture) if getattr(found, f.name) != getattr(expected, f.name)]
    if differences:
        raise UserError(f"{what}: {'; '.join(differences)}")


def _shortest(value):
    """A float32 read as float64, as the shortest decimal that means the same float32."""
    return float(str(np.float32(value)))
