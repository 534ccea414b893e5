"""Small folders written here, value by value; published configurations; what is refused."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tilewright.gen.checkpoint.huggingface import HuggingFaceCheckpoint
from tilewright.gen.checkpoint.huggingface_config import architecture_from_config
from tilewright.gen.errors import UserError
from tilewright.gen.model import load_model
from tilewright.sim.golden import weights

SEED = 5150
VOCAB, HIDDEN, HEADS, KV_HEADS, FFN, LAYERS, CONTEXT = 23, 24, 3, 1, 40, 2, 17
CONFIG = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_attention_heads": HEADS,
          "num_key_value_heads": KV_HEADS, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "rms_norm_eps": 1e-5,
          "max_position_embeddings": CONTEXT, "hidden_act": "silu", "tie_word_embeddings": False}

PUBLISHED = {
    "tinyllama-1.1b": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32,
        "num_hidden_layers": 22, "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "vocab_size": 32000, "attention_bias": False, "pretraining_tp": 1},
    "llama-3.2-1b": {
        "model_type": "llama", "attention_bias": False, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "tie_word_embeddings": True, "vocab_size": 128256},
    "mistral-7b": {
        "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
        "vocab_size": 32000},
    "phi-1.5": {
        "model_type": "phi", "hidden_act": "gelu_new", "hidden_size": 2048, "intermediate_size": 8192,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 24,
        "num_key_value_heads": None, "partial_rotary_factor": 0.5, "qk_layernorm": False, "rope_scaling": None,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "vocab_size": 51200},
    "stablelm-2-1.6b": {
        "model_type": "stablelm", "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 24,
        "num_key_value_heads": 32, "partial_rotary_factor": 0.25, "rope_theta": 10000, "tie_word_embeddings": False,
        "use_qkv_bias": True, "vocab_size": 100352},
    "gemma-2b": {
        "model_type": "gemma", "attention_bias": False, "head_dim": 256, "hidden_act": "gelu", "hidden_size": 2048,
        "intermediate_size": 16384, "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 18,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000.0,
        "vocab_size": 256000},
    "gemma3-270m": {
        "model_type": "gemma3_text", "_sliding_window_pattern": 6, "attention_bias": False,
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640, "intermediate_size": 2048,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3, "max_position_embeddings": 32768,
        "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0, "rope_scaling": None, "rope_theta": 1000000.0,
        "sliding_window": 512, "use_bidirectional_attention": False, "vocab_size": 262144},
    "dolly-v2-3b": {
        "model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 2560, "intermediate_size": 10240,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "use_parallel_residual": True,
        "vocab_size": 50280},
    "all-minilm-l6-v2": {
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": 384, "intermediate_size": 1536,
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "num_attention_heads": 12, "num_hidden_layers": 6,
        "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2, "vocab_size": 30522},
    "kosmos-2": {
        "model_type": "kosmos-2", "latent_query_num": 64, "text_config": {
            "model_type": "kosmos_2_text_model", "activation_function": "gelu", "attention_heads": 32,
            "embed_dim": 2048, "ffn_dim": 8192, "layer_norm_eps": 1e-05, "layers": 24, "scale_embedding": True,
            "max_position_embeddings": 2048, "vocab_size": 65037, "pad_token_id": 1}},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configuration(name):
    assert architecture_from_config(PUBLISHED[name])[1] == load_model(name).architecture


def llama_tensors():
    print("seed", SEED)
    rng = np.random.default_rng(SEED)

    def random(*size):
        return rng.standard_normal(size).astype(np.float32)

    tensors = {"model.embed_tokens.weight": random(VOCAB, HIDDEN), "model.norm.weight": random(HIDDEN),
               "lm_head.weight": random(VOCAB, HIDDEN)}
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        tensors |= {
            f"{at}input_layernorm.weight": random(HIDDEN), f"{at}post_attention_layernorm.weight": random(HIDDEN),
            f"{at}self_attn.q_proj.weight": random(HIDDEN, HIDDEN).astype(np.float16),
            f"{at}self_attn.k_proj.weight": random(8, HIDDEN), f"{at}self_attn.v_proj.weight": random(8, HIDDEN),
            f"{at}self_attn.o_proj.weight": random(HIDDEN, HIDDEN).astype(ml_dtypes.bfloat16),
            f"{at}mlp.gate_proj.weight": random(FFN, HIDDEN), f"{at}mlp.up_proj.weight": random(FFN, HIDDEN),
            f"{at}mlp.down_proj.weight": random(HIDDEN, FFN)}
    return tensors


def folder(path, tensors, config=CONFIG):
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.fixture
def tensors():
    return llama_tensors()


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors(tmp_path, tensors):
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)  # of early transformers
    checkpoint = HuggingFaceCheckpoint(folder(tmp_path, tensors))
    a = checkpoint.architecture
    assert (a.rope_pairing, a.rotary_dim, a.tied_embeddings, a.kv_heads) == ("half_split", 8, False, 1)
    layer = checkpoint.layer(1)
    at = "model.layers.1."
    assert layer["q_proj"].dtype == np.float16
    np.testing.assert_array_equal(layer["q_proj"], tensors[f"{at}self_attn.q_proj.weight"])
    np.testing.assert_array_equal(layer["ffn_norm"], tensors[f"{at}post_attention_layernorm.weight"])
    for name, stored in (("k_proj", "self_attn.k_proj"), ("down_proj", "mlp.down_proj"),
                         ("o_proj", "self_attn.o_proj")):
        values = tensors[f"{at}{stored}.weight"].astype(np.float32)
        np.testing.assert_array_equal(checkpoint.tensor(f"layers.1.{name}"), values)
        for got, expected in zip(layer[name], weights.quantise(values), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert [checkpoint.kind(f"layers.0.{name}") for name in ("q_proj", "k_proj", "o_proj")] == ["F16", "F32", "BF16"]
    whole = checkpoint.tensors("float32")
    assert set(whole) == {"embedding", "final_norm", "lm_head"}
    np.testing.assert_array_equal(whole["lm_head"], tensors["lm_head.weight"])
    np.testing.assert_array_equal(checkpoint.embedding([22, 3, 3]), tensors["model.embed_tokens.weight"][[22, 3, 3]])
    assert checkpoint.embedding([]).shape == (0, HIDDEN)


def test_shards_and_names_without_prefix(tmp_path, tensors):
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    names = sorted(bare)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in files.items():
        save_file({name: bare[name] for name in own}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in files.items() for name in own}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    checkpoint = HuggingFaceCheckpoint(tmp_path)
    np.testing.assert_array_equal(checkpoint.tensor("layers.0.up_proj"), tensors["model.layers.0.mlp.up_proj.weight"])
    (tmp_path / "b.safetensors").unlink()
    assert refusal(HuggingFaceCheckpoint, tmp_path) == f"{tmp_path / 'b.safetensors'}: no such file"
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    assert "weight_map is missing or corrupt" in refusal(HuggingFaceCheckpoint, tmp_path)


def test_tied_models_may_hold_the_embedding_twice(tmp_path, tensors):
    checkpoint = HuggingFaceCheckpoint(folder(tmp_path, tensors, CONFIG | {"tie_word_embeddings": True}))
    np.testing.assert_array_equal(checkpoint.tensors("float32")["lm_head"], tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize("change, message", [
    ({"model_type": "qwen2"}, "config.json: model_type 'qwen2' is not supported; supported: llama, mistral, phi"),
    ({"model_type": None}, "config.json: model_type is missing"),
    ({"hidden_size": None}, "config.json: hidden_size is missing"),
    ({"hidden_size": "24"}, "config.json: hidden_size = '24': must be of type int"),
    ({"num_attention_heads": 0}, "config.json: num_attention_heads = 0: must be positive"),
    ({"num_key_value_heads": 2}, "heads = 3: must be a multiple of kv_heads = 2"),
    ({"hidden_act": "relu"}, "config.json: hidden_act = 'relu' is not supported; supported: silu"),
    ({"mlp_bias": True}, "config.json: mlp_bias = True is not supported, only False"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling of type 'yarn' is not supported"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "config.json: low_freq_factor is missing"),
    ({"rope_scaling": "yarn"}, "config.json: rope_scaling = 'yarn': must be an object"),
    ({"attention_bias": True}, "tensor layers.0.self_attn.q_proj.bias is missing"),
    ({"intermediate_size": 41}, "tensor layers.0.mlp.gate_proj.weight has shape (40, 24) instead of (41, 24)"),
    ({"num_hidden_layers": 3}, "tensor layers.2.input_layernorm.weight is missing"),
    ({"num_hidden_layers": 1}, "tensor layers.1.input_layernorm.weight is no part of a model of type llama"),
    ({"model_type": "gemma3_text", "sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]},
     "config.json: query_pre_attn_scalar"),
])
def test_refused_configurations(tmp_path, tensors, change, message):
    if change.get("model_type") == "gemma3_text":
        change = change | {"query_pre_attn_scalar": 9}
    text = refusal(HuggingFaceCheckpoint, folder(tmp_path, tensors, CONFIG | change))
    assert text.startswith(f"{tmp_path}: ") and message in text


def test_refused_layer_types():
    config = PUBLISHED["gemma3-270m"]
    kinds = config["layer_types"]
    for wrong in (kinds[::-1], kinds[:-1] + ["sliding_attention"]):
        assert "layer_types is not supported" in refusal(architecture_from_config, config | {"layer_types": wrong})


def test_refused_tensors(tmp_path, tensors):
    bias = {"model.layers.0.self_attn.q_proj.bias": np.zeros(HIDDEN, np.float32)}
    assert "tensor layers.0.self_attn.q_proj.bias is no part" in refusal(
        HuggingFaceCheckpoint, folder(tmp_path, tensors | bias))
    integers = {"model.norm.weight": np.ones(HIDDEN, np.int8)}
    assert "tensor norm.weight is of type I8, which is not supported; supported: F32, F16, BF16" in refusal(
        HuggingFaceCheckpoint, folder(tmp_path, tensors | integers))


def test_values_that_are_not_finite(tmp_path, tensors):
    tensors["model.layers.1.self_attn.q_proj.weight"][3, 5] = np.inf
    tensors["model.layers.0.self_attn.o_proj.weight"][7, 1] = np.nan
    checkpoint = HuggingFaceCheckpoint(folder(tmp_path, tensors))
    assert "tensor model.layers.1.self_attn.q_proj.weight[3, 5] = inf: weights must be finite" in refusal(
        checkpoint.layer, 1)
    assert "tensor model.layers.0.self_attn.o_proj.weight[7, 1] = nan: weights must" in refusal(
        checkpoint.layer, 0, "fp16")


def test_missing_and_spoilt_files(tmp_path, tensors):
    assert refusal(HuggingFaceCheckpoint, tmp_path) == f"{tmp_path / 'config.json'}: no such file"
    (tmp_path / "config.json").write_text("{")
    assert "config.json: is no JSON" in refusal(HuggingFaceCheckpoint, tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "config.json: must be a JSON object" in refusal(HuggingFaceCheckpoint, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert refusal(HuggingFaceCheckpoint, tmp_path) == (
        f"{tmp_path}: holds neither model.safetensors nor model.safetensors.index.json")
    path = folder(tmp_path, tensors) / "model.safetensors"
    content = path.read_bytes()
    for spoilt in (content[:-1], content[:100], content[:4], b"", struct.pack("<Q", 1 << 40) + content[8:]):
        path.write_bytes(spoilt)
        assert "truncated or corrupt safetensors file" in refusal(HuggingFaceCheckpoint, tmp_path), len(spoilt)


def test_bert_positions_hold_the_token_type(tmp_path):
    rng = np.random.default_rng(SEED)
    config = {"model_type": "bert", "vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2,
              "intermediate_size": 12, "num_hidden_layers": 1, "max_position_embeddings": 5, "layer_norm_eps": 1e-12}
    sizes = {"embeddings.word_embeddings.weight": (9, 8), "embeddings.position_embeddings.weight": (5, 8),
             "embeddings.token_type_embeddings.weight": (2, 8), "pooler.dense.weight": (8, 8)}
    at = "encoder.layer.0."
    for module, shape in (("attention.self.query", (8, 8)), ("attention.self.key", (8, 8)),
                          ("attention.self.value", (8, 8)), ("attention.output.dense", (8, 8)),
                          ("intermediate.dense", (12, 8)), ("output.dense", (8, 12))):
        sizes |= {f"{at}{module}.weight": shape, f"{at}{module}.bias": shape[:1]}
    for module in ("embeddings.", f"{at}attention.output.", f"{at}output."):
        sizes |= {f"{module}LayerNorm.gamma": (8,), f"{module}LayerNorm.beta": (8,)}
    tensors = {f"bert.{name}": rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    checkpoint = HuggingFaceCheckpoint(folder(tmp_path, tensors, config))
    found = checkpoint.tensors()
    assert set(found) == {"embedding", "positions", "embed_norm", "embed_norm_bias"}
    np.testing.assert_array_equal(found["positions"], tensors["bert.embeddings.position_embeddings.weight"]
                                  + tensors["bert.embeddings.token_type_embeddings.weight"][0])
    layer = checkpoint.layer(0)
    np.testing.assert_array_equal(layer["attn_norm_bias"], tensors[f"bert.{at}attention.output.LayerNorm.beta"])
    np.testing.assert_array_equal(layer["up_bias"], tensors[f"bert.{at}intermediate.dense.bias"])


def test_fused_and_offset_values(tmp_path):
    """gpt_neox: rows [heads][q, k, v][head_dim]; gemma: gains 1 + w."""
    config = {"model_type": "gpt_neox", "vocab_size": 9, "hidden_size": 12, "num_attention_heads": 3,
              "intermediate_size": 8, "num_hidden_layers": 1, "max_position_embeddings": 5, "layer_norm_eps": 1e-5,
              "rotary_pct": 0.5}
    at, zeros = "gpt_neox.layers.0.", lambda *size: np.zeros(size, np.float32)  # noqa: E731
    heads, parts, dims, columns = np.ix_(range(3), range(3), range(4), range(12))
    fused = (1000 * heads + 100 * parts + 10 * dims + 0.1 * columns).astype(np.float16)
    tensors = {"gpt_neox.embed_in.weight": zeros(9, 12), "embed_out.weight": zeros(9, 12),
               f"{at}attention.query_key_value.weight": fused.reshape(36, 12),
               f"{at}attention.query_key_value.bias": fused[..., 0].reshape(36).astype(np.float32),
               f"{at}attention.bias": zeros(1, 1, 5, 5), f"{at}attention.masked_bias": zeros(1)}
    for module, shape in (("attention.dense", (12, 12)), ("mlp.dense_h_to_4h", (8, 12)), ("mlp.dense_4h_to_h", (12, 8)),
                          ("input_layernorm", (12,)), ("post_attention_layernorm", (12,))):
        tensors |= {f"{at}{module}.weight": zeros(*shape), f"{at}{module}.bias": zeros(shape[0])}
    tensors |= {f"gpt_neox.final_layer_norm.{part}": zeros(12) for part in ("weight", "bias")}
    layer = HuggingFaceCheckpoint(folder(tmp_path, tensors, config)).layer(0)
    for part, name in enumerate("qkv"):
        assert layer[f"{name}_proj"].dtype == np.float16
        np.testing.assert_array_equal(layer[f"{name}_proj"].reshape(3, 4, 12), fused[:, part])
        np.testing.assert_array_equal(layer[f"{name}_bias"].reshape(3, 4), fused[:, part, :, 0])

    config = CONFIG | {"model_type": "gemma", "tie_word_embeddings": True, "head_dim": 8}
    tensors = llama_tensors()
    checkpoint = HuggingFaceCheckpoint(folder(tmp_path, tensors, config))
    np.testing.assert_array_equal(checkpoint.layer(0)["attn_norm"],
                                  tensors["model.layers.0.input_layernorm.weight"] + np.float32(1))
    np.testing.assert_array_equal(checkpoint.tensors()["final_norm"], tensors["model.norm.weight"] + np.float32(1))
