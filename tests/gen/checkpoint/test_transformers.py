"""Folders saved by Hugging Face transformers, opened here, against the models that saved them: logits in float64."""

import numpy as np
import pytest

from tilewright.gen.checkpoint import open_checkpoint
from tilewright.sim.golden import reference
from tilewright.sim.golden.model import TransformerModel

WHY = "the extra `reference` (transformers and PyTorch) is not installed"
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)

SEED, VOCAB, LENGTH = 61, 131, 19
BOUND = 1e-5  # the files' values are float32, the published factors of an embedding float32 too

ROPE = {"rope_type": "default", "rope_theta": 5000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
GEMMA3_ROPE = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
               "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}


def common(hidden, heads, ffn):
    return {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": ffn, "vocab_size": VOCAB,
            "num_hidden_layers": 3, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2}


def partial(share):
    return {"rope_parameters": ROPE | {"partial_rotary_factor": share}}


CASES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM",
              common(96, 6, 172) | {"num_key_value_heads": 2, "head_dim": 20, "rope_parameters": LLAMA3,
                                    "attention_bias": True, "rms_norm_eps": 1e-5}),
    "llama-tied": ("LlamaConfig", "LlamaForCausalLM",
                   common(64, 4, 43) | {"rope_parameters": ROPE, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", "MistralForCausalLM",
                common(64, 8, 43) | {"num_key_value_heads": 2, "sliding_window": 5, "rope_parameters": ROPE}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM",
              common(48, 4, 96) | {"num_key_value_heads": 1, "head_dim": 20, "hidden_act": "gelu",
                                   "rope_parameters": ROPE}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM",
               common(40, 4, 72) | {"num_key_value_heads": 1, "head_dim": 24, "query_pre_attn_scalar": 24,
                                    "sliding_window": 6, "rope_parameters": GEMMA3_ROPE,
                                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "phi": ("PhiConfig", "PhiForCausalLM", common(64, 4, 100) | partial(0.5)),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM",
                 common(64, 4, 90) | {"num_key_value_heads": 2, "use_qkv_bias": True} | partial(0.25)),
    "stablelm-parallel": ("StableLmConfig", "StableLmForCausalLM",
                          common(64, 4, 90) | {"num_key_value_heads": 4, "use_parallel_residual": True}
                          | partial(0.25)),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", common(72, 3, 100) | partial(0.25)),
    "gpt_neox-sequential": ("GPTNeoXConfig", "GPTNeoXForCausalLM",
                            common(72, 3, 100) | {"use_parallel_residual": False} | partial(0.25)),
    "bert": ("BertConfig", "BertModel", common(48, 4, 100) | {"layer_norm_eps": 1e-12}),
}


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def randomised(model, rng):
    """The model in float64 with weights that float32 holds, gains and biases that matter."""
    print("seed", SEED)
    for name, parameter in model.eval().named_parameters():
        values = rng.standard_normal(tuple(parameter.shape))
        if parameter.ndim > 1 and "embed" not in name:
            values /= np.sqrt(parameter.shape[-1])
        elif parameter.ndim == 1:
            values /= 3
        parameter.data = torch.from_numpy(values.astype(np.float32).astype(np.float64))
    return model


def whole(checkpoint):
    a = checkpoint.architecture
    return TransformerModel(
        shapes=[a.layer(i) for i in range(a.layers)], layers=[checkpoint.layer(i, "float32") for i in range(a.layers)],
        tensors=checkpoint.tensors("float32"), embed_scale=None if a.embed_scale == 1 else a.embed_scale)


def agree(got, expected):
    error = np.abs(got - expected).max() / np.abs(expected).max()
    print(f"relative error {error:.1e}")
    assert got.shape == expected.shape and error <= BOUND


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shard", ["5GB", "30KB"], ids=["one file", "shards"])
def test_family(name, shard, tmp_path):
    config_kind, model_kind, values = CASES[name]
    rng = np.random.default_rng(SEED)
    model = randomised(getattr(transformers, model_kind)(getattr(transformers, config_kind)(**values)), rng)
    model.float().save_pretrained(tmp_path, max_shard_size=shard)
    model.double()
    assert (tmp_path / "model.safetensors").is_file() == (shard == "5GB")
    tokens = rng.integers(3, VOCAB, LENGTH)
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(tokens)[None])
    ours = whole(open_checkpoint(tmp_path))
    found = reference.states(ours, [reference.ReferenceCache(s) for s in ours.shapes], tokens)[-1]
    if name == "bert":
        agree(found, expected.last_hidden_state[0].numpy())
    else:
        agree(reference.logits(ours, found), expected.logits[0].numpy())


def test_kosmos(tmp_path):
    """The text decoder alone, in a file with a vision model's tensors beside it."""
    kosmos = transformers.models.kosmos2
    text = kosmos.configuration_kosmos2.Kosmos2TextConfig(
        vocab_size=VOCAB, max_position_embeddings=64, embed_dim=48, layers=3, ffn_dim=90, attention_heads=4)
    vision = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}
    config = transformers.Kosmos2Config(text_config=text.to_dict(), vision_config=vision, latent_query_num=3)
    rng = np.random.default_rng(SEED)
    both = randomised(kosmos.modeling_kosmos2.Kosmos2ForConditionalGeneration(config), rng)
    both.float().save_pretrained(tmp_path)
    both.double()
    tokens = rng.integers(3, VOCAB, LENGTH)
    with torch.no_grad():
        expected = both.text_model(input_ids=torch.from_numpy(tokens)[None]).logits[0].numpy()
    ours = whole(open_checkpoint(tmp_path))
    found = reference.states(ours, [reference.ReferenceCache(s) for s in ours.shapes], tokens)[-1]
    agree(reference.logits(ours, found), expected)
