"""Architecture from a Hugging Face config.json (transformers 4.57.1 and 5: each family's configuration_*.py)."""

import math

from tilewright.gen.architecture import Architecture, RopeScaling
from tilewright.gen.errors import UserError

__all__ = ["architecture_from_config", "FAMILIES"]

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu_erf", "gelu_new": "gelu_tanh",
                "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}


class _Config:
    """A config.json whose values are read with a type; UserError names a key that is missing or wrong."""

    def __init__(self, values):
        self.values = values

    def get(self, key, kind, default=None):
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise UserError(f"config.json: {key} is missing")
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UserError(f"config.json: {key} = {value!r}: must be of type {kind.__name__}")
        return value

    def section(self, key):
        """The object at a key; an empty one where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise UserError(f"config.json: {key} = {value!r}: must be an object")
        return _Config(value or {})

    def only(self, **allowed):
        """Refuse a key with another value than the one that is supported."""
        for key, value in allowed.items():
            if self.values.get(key, value) not in (value, None):
                raise UserError(f"config.json: {key} = {self.values[key]!r} is not supported, only {value!r}")

    def activation(self, key, default):
        value = self.get(key, str, default)
        if value not in _ACTIVATIONS:
            raise UserError(f"config.json: {key} = {value!r} is not supported; supported: {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[value]

    def rope(self, share=1.0, share_key="partial_rotary_factor", theta_key="rope_theta"):
        """RoPE's fields; the head dimension, the share of it that turns, theta and its scaling are read."""
        hidden, heads = self.sizes()
        head_dim = self.get("head_dim", int, hidden // heads)
        values = self.section("rope_parameters")  # since transformers 5
        theta = values.get("rope_theta", float, self.get(theta_key, float, 10000.0))
        share = values.get("partial_rotary_factor", float, self.get(share_key, float, share))
        return {"head_dim": head_dim, "rotary_dim": int(head_dim * share), "rope_theta": theta,
                "rope_scaling": _scaling(self.section("rope_scaling"), values)}

    def sizes(self, hidden="hidden_size", heads="num_attention_heads"):
        hidden, heads = self.get(hidden, int), self.get(heads, int)
        if heads < 1:
            raise UserError(f"config.json: num_attention_heads = {heads}: must be positive")
        return hidden, heads

    def common(self, eps="rms_norm_eps", tied=False):
        """Fields that most families call by the same names."""
        hidden, heads = self.sizes()
        return {"layers": self.get("num_hidden_layers", int), "hidden": hidden, "heads": heads,
                "kv_heads": self.get("num_key_value_heads", int, heads), "ffn": self.get("intermediate_size", int),
                "vocab": self.get("vocab_size", int), "max_context": self.get("max_position_embeddings", int),
                "norm_eps": self.get(eps, float), "tied_embeddings": self.get("tie_word_embeddings", bool, tied)}


def _scaling(values, newer):
    values = values if values.values else newer
    kind = values.get("rope_type", str, values.get("type", str, "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f"config.json: rope_scaling of type {kind!r} is not supported; supported: llama3")
    return RopeScaling(**{name: values.get(name, float) for name in ("factor", "low_freq_factor", "high_freq_factor")},
                       original_context=values.get("original_max_position_embeddings", int))


def _llama(config):
    config.only(mlp_bias=False)
    return {**config.common(), **config.rope(), "activation": config.activation("hidden_act", "silu"),
            "biases": ("q", "k", "v", "o") if config.get("attention_bias", bool, False) else ()}


def _mistral(config):
    window = config.values.get("sliding_window", 4096)
    return {**config.common(), **config.rope(), "activation": config.activation("hidden_act", "silu"),
            "window": 0 if window is None else config.get("sliding_window", int, 4096)}


def _phi(config):
    config.only(qk_layernorm=False)
    return {**config.common("layer_norm_eps"), **config.rope(0.5), "norm": "layer_norm", "topology": "parallel_shared",
            "mlp": "plain", "activation": config.activation("hidden_act", "gelu_new"),
            "biases": ("q", "k", "v", "o", "ffn"), "lm_head_bias": True}


def _stablelm(config):
    config.only(qk_layernorm=False)
    return {**config.common("layer_norm_eps"), **config.rope(0.25), "norm": "layer_norm",
            "topology": "parallel_shared" if config.get("use_parallel_residual", bool, False) else "sequential",
            "activation": config.activation("hidden_act", "silu"),
            "biases": ("q", "k", "v") if config.get("use_qkv_bias", bool, False) else ()}


def _gemma(config):
    """hidden_act says 'gelu' in early files, which meant the tanh form; hidden_activation came to say so."""
    config.only(attention_bias=False, hidden_activation="gelu_pytorch_tanh")
    return {**config.common(tied=True), **config.rope(), "activation": "gelu_tanh",
            "embed_scale": math.sqrt(config.get("hidden_size", int))}


def _gemma3(config):
    config.only(attention_bias=False, hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=None,
                final_logit_softcapping=None, use_bidirectional_attention=False)
    by_kind = config.section("rope_parameters").values  # since transformers 5
    whole, local = (_Config({"rope_parameters": by_kind[kind], **_without_rope(config)}) if kind in by_kind else config
                    for kind in ("full_attention", "sliding_attention"))
    rope = whole.rope()
    config.only(query_pre_attn_scalar=rope["head_dim"])
    theta_local = local.rope()["rope_theta"] if local is not config else config.get(
        "rope_local_base_freq", float, 10000.0)
    if whole is config and "rope_theta" not in config.values:
        rope["rope_theta"] = 1e6
    return {**config.common(tied=True), **rope, "topology": "sandwich", "qk_norm": True, "activation": "gelu_tanh",
            "window": config.get("sliding_window", int), "global_every": _global_every(config),
            "rope_theta_local": theta_local, "embed_scale": math.sqrt(config.get("hidden_size", int))}


def _without_rope(config):
    return {key: value for key, value in config.values.items() if key != "rope_parameters"}


def _global_every(config):
    every = config.get("sliding_window_pattern", int, config.get("_sliding_window_pattern", int, 6))
    kinds = config.values.get("layer_types")
    if kinds is None:
        return every
    if not isinstance(kinds, list):
        raise UserError(f"config.json: layer_types = {kinds!r}: must be a list")
    every = kinds.index("full_attention") + 1 if "full_attention" in kinds else 0
    expected = ["full_attention" if every and (i + 1) % every == 0 else "sliding_attention" for i in range(len(kinds))]
    if kinds != expected:
        raise UserError("config.json: layer_types is not supported; only every n-th layer may be full_attention")
    return every


def _gpt_neox(config):
    config.only(attention_bias=True)
    return {**config.common("layer_norm_eps"), **config.rope(0.25, "rotary_pct", "rotary_emb_base"),
            "norm": "layer_norm",
            "topology": "parallel" if config.get("use_parallel_residual", bool, True) else "sequential",
            "mlp": "plain", "activation": config.activation("hidden_act", "gelu"),
            "biases": ("q", "k", "v", "o", "ffn")}


def _bert(config):
    config.only(position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    values = config.common("layer_norm_eps")
    del values["tied_embeddings"]
    return {**values, "head_dim": values["hidden"] // values["heads"], "norm": "layer_norm", "topology": "post_norm",
            "mlp": "plain", "activation": config.activation("hidden_act", "gelu"),
            "biases": ("q", "k", "v", "o", "ffn"), "positions": "learned", "causal": False, "embed_norm": True,
            "final_norm": False, "lm_head": False}


def _kosmos(config):
    tied = config.get("tie_word_embeddings", bool, True)
    config = config.section("text_config") if "text_config" in config.values else config
    config.only(layernorm_embedding=False)
    hidden, heads = config.sizes("embed_dim", "attention_heads")
    return {"layers": config.get("layers", int), "hidden": hidden, "heads": heads, "kv_heads": heads,
            "head_dim": hidden // heads, "ffn": config.get("ffn_dim", int), "vocab": config.get("vocab_size", int),
            "max_context": config.get("max_position_embeddings", int, 2048), "norm": "layer_norm",
            "norm_eps": config.get("layer_norm_eps", float, 1e-5), "sub_norm": True, "mlp": "plain",
            "activation": config.activation("activation_function", "gelu"), "biases": ("q", "k", "v", "o", "ffn"),
            "positions": "sinusoidal", "position_offset": config.get("pad_token_id", int, 1) + 1,
            "embed_scale": math.sqrt(hidden) if config.get("scale_embedding", bool, True) else 1.0,
            "tied_embeddings": tied}


FAMILIES = {"llama": _llama, "mistral": _mistral, "phi": _phi, "stablelm": _stablelm, "gemma": _gemma,
            "gemma3_text": _gemma3, "gpt_neox": _gpt_neox, "bert": _bert, "kosmos-2": _kosmos}
"""model_type, and what makes an architecture of the configuration."""


def architecture_from_config(values):
    """(model_type, Architecture) of a config.json's object; UserError for what is missing or not supported."""
    config = _Config(values)
    family = config.get("model_type", str)
    if family not in FAMILIES:
        raise UserError(f"config.json: model_type {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    return family, Architecture(**FAMILIES[family](config))
