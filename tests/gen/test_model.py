"""Descriptions of the known models: their tensors counted against published counts, their layers, and refusals."""

import math
from dataclasses import fields, replace

import pytest

from tilewright.gen.architecture import RopeScaling, layer_tensors
from tilewright.gen.errors import UserError
from tilewright.gen.fetch import fetch
from tilewright.gen.model import known_models, load_model

PUBLISHED = {
    "llama-3.2-1b": 1_235_814_400,     # BF16 payload of its safetensors
    "tinyllama-1.1b": 1_100_048_384,   # measured, sum(p.numel())
    "phi-1.5": 1_418_270_720,          # measured, model.num_parameters()
    # KOSMOS-2's safetensors hold 1,664,485,376, of which vision encoder and resampler are no part of the text decoder.
    "kosmos-2": 1_664_485_376 - 303_179_776 - 19_015_680,
    "stablelm-2-1.6b": 1_644_515_328,  # safetensors metadata; the model card prints 98,304 fewer
    "gemma-2b": 2_506_172_416,         # safetensors metadata
    "dolly-v2-3b": 2_775_208_960 - (50_304 - 50_280) * 2560 * 2,  # pythia-2.8b with a vocabulary of 50,280
    "mistral-7b": 7_241_732_096,       # measured
    "orca-2-7b": 6_738_440_192,        # reported for models of Llama 2 7B's shape with a vocabulary of 32,003
    "solar-10.7b": 10_731_524_096,     # safetensors metadata
    "smollm2-135m": 134_515_008,       # elements of the GGUF file's 272 tensors
    "stories260k": (1_056_540 - 28) // 4 - 2 * 512 * 4,  # FP32 in stories260K.bin without header and RoPE's tables
    # FP32 elements of its safetensors, without the pooler and the two rows of token types.
    "all-minilm-l6-v2": 22_713_216 - (384 * 384 + 384) - 2 * 384,
    "gemma3-270m": 268_098_176,        # safetensors header, 236 tensors
}
TENSORS = {"smollm2-135m": 272, "gemma3-270m": 236, "all-minilm-l6-v2": 104 - 4}  # 4: as above, and numbers


@pytest.fixture(params=sorted(PUBLISHED))
def model(request):
    return load_model(request.param)


def refusal(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_are_known():
    assert known_models() == sorted(PUBLISHED)
    assert refusal(load_model, "gpt-5") == f"unknown model 'gpt-5'; known: {', '.join(sorted(PUBLISHED))}"


def test_parameters(model):
    tensors = model.architecture.tensors()
    assert sum(math.prod(shape) for shape in tensors.values()) == PUBLISHED[model.name]
    assert model.name not in TENSORS or len(tensors) == TENSORS[model.name]


def test_reduced(model):
    """Sizes that a simulation can bear, the same structure: every field but the sizes is as it was."""
    a = model.architecture
    small = a.reduced(hidden=40, heads=4, kv_heads=2, head_dim=16, ffn=44, layers=2, vocab=50, max_context=64)
    sizes = {"hidden", "heads", "kv_heads", "head_dim", "ffn", "layers", "vocab", "max_context", "rotary_dim"}
    for f in fields(a):
        if f.name not in sizes:
            assert getattr(small, f.name) == getattr(a, f.name)
    assert small.rotary_dim * a.head_dim == a.rotary_dim * 16
    full, layer = a.layer(0), small.layer(1)
    assert list(layer_tensors(layer)) == list(layer_tensors(full))
    assert layer.matrix_shapes["k_proj"] == (32, 40)


def test_rotary_share_is_kept_where_it_can():
    dolly = load_model("dolly-v2-3b").architecture  # 20 of 80
    assert [dolly.reduced(head_dim=n).rotary_dim for n in (8, 16, 32)] == [2, 4, 8]
    assert dolly.reduced(head_dim=4).rotary_dim == 2
    assert dolly.reduced(hidden=64).rotary_dim == 20
    assert dolly.reduced(head_dim=16, rotary_dim=8).rotary_dim == 8


def test_layer_has_the_attributes_of_the_contract(model):
    names = ("hidden", "heads", "kv_heads", "head_dim", "ffn", "norm", "norm_eps", "topology", "sub_norm", "qk_norm",
             "mlp", "activation", "biases", "rotary_dim", "rope_pairing", "rope_scaling", "causal")
    layer = model.architecture.layer(model.architecture.layers - 1)
    assert all(getattr(layer, name) == getattr(model.architecture, name) for name in names)
    assert refusal(model.architecture.layer, model.architecture.layers).startswith("there is no layer")
    assert hash(layer) == hash(replace(layer))


def test_layers_of_gemma3_differ():
    a = load_model("gemma3-270m").architecture
    layers = [a.layer(i) for i in range(18)]
    assert [i for i, layer in enumerate(layers) if layer.window == 0] == [5, 11, 17]
    assert {(layer.window, layer.rope_theta) for layer in layers} == {(0, 1e6), (512, 1e4)}
    assert layers[0].vector_sizes == {
        "attn_norm": 640, "ffn_norm": 640, "post_attn_norm": 640, "post_ffn_norm": 640, "q_norm": 256,
        "k_norm": 256}


def test_every_layer_of_mistral_has_its_window():
    a = load_model("mistral-7b").architecture
    assert {(a.layer(i).window, a.layer(i).rope_theta) for i in range(32)} == {(4096, 10000.0)}


def test_tensors_of_a_layer():
    kosmos = load_model("kosmos-2").architecture.layer(0)
    assert kosmos.vector_sizes == {
        "attn_norm": 2048, "attn_norm_bias": 2048, "ffn_norm": 2048, "ffn_norm_bias": 2048,
        "attn_sub_norm": 2048, "attn_sub_norm_bias": 2048, "ffn_sub_norm": 8192, "ffn_sub_norm_bias": 8192,
        "q_bias": 2048, "k_bias": 2048, "v_bias": 2048, "o_bias": 2048, "up_bias": 8192,
        "down_bias": 2048}
    assert "gate_proj" not in kosmos.matrix_shapes
    phi = load_model("phi-1.5").architecture.layer(0)
    assert {"attn_norm", "attn_norm_bias"} <= set(phi.vector_sizes)
    assert "ffn_norm" not in phi.vector_sizes
    gemma = load_model("gemma-2b").architecture.layer(0)
    assert gemma.matrix_shapes == {"q_proj": (2048, 2048), "k_proj": (256, 2048), "v_proj": (256, 2048),
                                   "o_proj": (2048, 2048), "up_proj": (16384, 2048), "down_proj": (2048, 16384),
                                   "gate_proj": (16384, 2048)}


def test_scaling_of_llama():
    scaling = load_model("llama-3.2-1b").architecture.layer(3).rope_scaling
    assert scaling == RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)


def test_a_model_without_a_file_is_not_fetched(tmp_path):
    text = refusal(fetch, load_model("gemma-2b"), cache=tmp_path, progress=False)
    assert text.startswith("gemma-2b: no file of this model is known; models that have one: ")
    assert "smollm2-135m" in text


@pytest.mark.parametrize("name, change, message", [
    ("smollm2-135m", {"topology": "series"},
     "topology = 'series' is not supported; supported: sequential, parallel_shared, parallel, sandwich, post_norm"),
    ("smollm2-135m", {"activation": "gelu"}, "activation = 'gelu' is not supported; supported: silu, gelu_erf"),
    ("smollm2-135m", {"norm": "batch_norm"}, "norm = 'batch_norm' is not supported; supported: rms_norm, layer_norm"),
    ("smollm2-135m", {"rope_pairing": "none"}, "supported: interleaved, half_split"),
    ("smollm2-135m", {"positions": "alibi"}, "positions = 'alibi' is not supported; supported: rope, learned"),
    ("smollm2-135m", {"mlp": 3}, "mlp = 3 is not supported; supported: glu, plain"),
    ("smollm2-135m", {"hidden": 576.0}, "hidden = 576.0: must be of type int"),
    ("smollm2-135m", {"layers": 0}, "layers = 0: must be positive"),
    ("smollm2-135m", {"window": -1}, "window = -1: must be zero or positive"),
    ("smollm2-135m", {"norm_eps": float("nan")}, "norm_eps = nan: must be positive"),
    ("smollm2-135m", {"rope_theta": float("inf")}, "rope_theta = inf: must be positive"),
    ("smollm2-135m", {"embed_scale": 2}, "embed_scale = 2: must be of type float"),
    ("smollm2-135m", {"causal": 1}, "causal = 1: must be true or false"),
    ("smollm2-135m", {"head_dim": 63}, "head_dim = 63: must be even"),
    ("smollm2-135m", {"kv_heads": 4}, "heads = 9: must be a multiple of kv_heads = 4"),
    ("smollm2-135m", {"biases": ["q"]}, "biases = ['q']: must be some of q, k, v, o, ffn, in this order, as a tuple"),
    ("smollm2-135m", {"biases": ("k", "q")}, "must be some of q, k, v, o, ffn, in this order"),
    ("smollm2-135m", {"biases": ("lm",)}, "must be some of q, k, v, o, ffn"),
    ("smollm2-135m", {"rotary_dim": 66}, "rotary_dim = 66: must be even, from 2 to head_dim = 64"),
    ("smollm2-135m", {"rotary_dim": 0}, "rotary_dim = 0: must be even, from 2 to head_dim = 64"),
    ("smollm2-135m", {"position_offset": 2}, "position_offset = 2: must be 0 with positions = 'rope'"),
    ("smollm2-135m", {"rope_scaling": {"factor": 2.0}}, "must be a RopeScaling or None"),
    ("smollm2-135m", {"global_every": 6}, "window = 0: global_every and rope_theta_local tell layers with a window"),
    ("kosmos-2", {"rotary_dim": 64}, "positions = 'sinusoidal': goes without RoPE"),
    ("all-minilm-l6-v2", {"window": 64}, "window = 64: must be 0 where causal is false"),
    ("all-minilm-l6-v2", {"lm_head_bias": True}, "lm_head_bias = True: there is no lm_head"),
    ("gemma3-270m", {"rope_theta_local": 0.0}, "rope_theta_local = 0.0: must be positive"),
])
def test_refused_architectures(name, change, message):
    assert message in refusal(replace, load_model(name).architecture, **change)


@pytest.mark.parametrize("change, message", [
    ({"factor": 0.0}, "rope_scaling.factor = 0.0: must be positive"),
    ({"original_context": 8192.0}, "rope_scaling.original_context = 8192.0: must be of type int"),
    ({"low_freq_factor": 4.0}, "rope_scaling.low_freq_factor = 4.0: must be less than high_freq_factor = 4.0"),
])
def test_refused_scaling(change, message):
    assert refusal(replace, load_model("llama-3.2-1b").architecture.rope_scaling, **change) == message
