"""What the families of Hugging Face models call their tensors, and how values differ from ``Architecture``'s."""

import re
from dataclasses import dataclass

import numpy as np

__all__ = ["Names", "NAMES"]


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of a family's tensors.

    model : dict        tensors before and behind the layers; a norm's bias is at '.bias' instead of '.weight'
    layers : str        prefix of a layer's, with {} for its number
    layer : dict        a layer's modules by the name of our matrix or norm
    prefixes : tuple    what a file may have before all these names, in order
    ignored : str       regular expression of tensors that are no weights of the text model
    plus_one : bool     gains are stored as w for 1 + w
    fused : str         module of q, k and v together, [heads][q, k, v][head_dim] rows; empty: they are apart
    token_type : str    table whose first row is added to the positions; empty: none
    """

    model: dict
    layers: str
    layer: dict
    prefixes: tuple = ("model.",)
    ignored: str = r".*rotary_emb\.inv_freq"
    plus_one: bool = False
    fused: str = ""
    token_type: str = ""

    def stored(self, name):
        """What the file calls one of our tensors, less its prefixes."""
        if not name.startswith("layers."):
            base, suffix = _base(name)
            return f"{self.model[base]}.{suffix}"
        _, index, tensor = name.split(".")
        base, suffix = _base(tensor)
        if base in ("q", "k", "v", "o", "up", "down"):
            base = f"{base}_proj"
        module = self.fused if self.fused and base in ("q_proj", "k_proj", "v_proj") else self.layer[base]
        return f"{self.layers.format(index)}.{module}.{suffix}"

    def shape(self, name, shape):
        """Shape of the tensor in the file that holds ours of ``shape``."""
        return (3 * shape[0], *shape[1:]) if self._part(name) is not None else shape

    def taken(self, name, values, architecture):
        """Our tensor out of the file's."""
        part = self._part(name)
        if part is not None:
            split = values.reshape(architecture.heads, 3, architecture.head_dim, *values.shape[1:])
            return np.ascontiguousarray(split[:, part].reshape(-1, *values.shape[1:]))
        if self.plus_one and name.endswith("norm"):
            return values + np.float32(1)
        return values

    def _part(self, name):
        """0, 1, 2 for q, k, v of a fused module, else None."""
        tensor = name.rpartition(".")[2]
        return "qkv".index(tensor[0]) if self.fused and re.fullmatch("[qkv]_(proj|bias)", tensor) else None


def _base(name):
    return (name.removesuffix("_bias"), "bias") if name.endswith("_bias") else (name, "weight")


_LLAMA_LAYER = {
    "attn_norm": "input_layernorm", "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj", "o_proj": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "gate_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "down_proj": "mlp.down_proj"}
_LLAMA_MODEL = {"embedding": "embed_tokens", "final_norm": "norm", "lm_head": "lm_head"}
_LLAMA = Names(model=_LLAMA_MODEL, layers="layers.{}", layer=_LLAMA_LAYER)

NAMES = {
    "llama": _LLAMA, "mistral": _LLAMA, "stablelm": _LLAMA,
    "gemma": Names(model=_LLAMA_MODEL, layers="layers.{}", layer=_LLAMA_LAYER, plus_one=True),
    "gemma3_text": Names(
        model=_LLAMA_MODEL, layers="layers.{}", plus_one=True,
        layer=_LLAMA_LAYER | {"post_attn_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
                              "post_ffn_norm": "post_feedforward_layernorm", "q_norm": "self_attn.q_norm",
                              "k_norm": "self_attn.k_norm"}),
    "phi": Names(
        model={"embedding": "embed_tokens", "final_norm": "final_layernorm", "lm_head": "lm_head"}, layers="layers.{}",
        layer=_LLAMA_LAYER | {"o_proj": "self_attn.dense", "up_proj": "mlp.fc1", "down_proj": "mlp.fc2"}),
    "gpt_neox": Names(
        model={"embedding": "embed_in", "final_norm": "final_layer_norm", "lm_head": "embed_out"}, layers="layers.{}",
        layer={"attn_norm": "input_layernorm", "o_proj": "attention.dense", "ffn_norm": "post_attention_layernorm",
               "up_proj": "mlp.dense_h_to_4h", "down_proj": "mlp.dense_4h_to_h"},
        prefixes=("gpt_neox.",), fused="attention.query_key_value",
        ignored=r".*rotary_emb\.inv_freq|.*attention\.(bias|masked_bias)"),
    "bert": Names(
        model={"embedding": "embeddings.word_embeddings", "positions": "embeddings.position_embeddings",
               "embed_norm": "embeddings.LayerNorm"},
        layers="encoder.layer.{}",
        layer={"q_proj": "attention.self.query", "k_proj": "attention.self.key", "v_proj": "attention.self.value",
               "o_proj": "attention.output.dense", "attn_norm": "attention.output.LayerNorm",
               "up_proj": "intermediate.dense", "down_proj": "output.dense", "ffn_norm": "output.LayerNorm"},
        prefixes=("bert.",), token_type="embeddings.token_type_embeddings.weight",
        ignored=r"embeddings\.position_ids|pooler\..*|cls\..*"),
    "kosmos-2": Names(
        model={"embedding": "embed_tokens", "final_norm": "layer_norm", "lm_head": "lm_head"}, layers="layers.{}",
        layer={"attn_norm": "self_attn_layer_norm", "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj",
               "v_proj": "self_attn.v_proj", "o_proj": "self_attn.out_proj",
               "attn_sub_norm": "self_attn.inner_attn_ln", "ffn_norm": "final_layer_norm", "up_proj": "ffn.fc1",
               "down_proj": "ffn.fc2", "ffn_sub_norm": "ffn.ffn_layernorm"},
        prefixes=("text_model.", "model."), ignored=r"embed_positions\.weights|vision_model\..*|image_to_text.*"),
}
"""By model_type."""
