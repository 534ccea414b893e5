"""The float64 reference against Hugging Face transformers: small models with random weights, KV cache included."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from tilewright.sim.golden import reference
from tilewright.sim.golden.layer import LayerShape
from tilewright.sim.golden.model import TransformerModel, sinusoidal_positions

WHY = "the extra `reference` (transformers and PyTorch) is not installed"
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)

SEEDS = (11, 12, 13)
BOUND = 1e-5
PREFILL, CHUNK, STEPS = 13, 4, 6  # a prompt, a later part of several tokens, single tokens
LENGTH = PREFILL + CHUNK + STEPS
VOCAB = 131

QKV = {**{f"{x}_proj": f"self_attn.{x}_proj.weight" for x in "qkv"},
       **{f"{x}_bias": f"self_attn.{x}_proj.bias" for x in "qkv"}}
LLAMA_LAYER = {
    "attn_norm": "input_layernorm.weight", "ffn_norm": "post_attention_layernorm.weight",
    "q_proj": "self_attn.q_proj.weight", "k_proj": "self_attn.k_proj.weight", "v_proj": "self_attn.v_proj.weight",
    "o_proj": "self_attn.o_proj.weight", "gate_proj": "mlp.gate_proj.weight", "up_proj": "mlp.up_proj.weight",
    "down_proj": "mlp.down_proj.weight",
}
STABLELM_LAYER = LLAMA_LAYER | {
    "attn_norm_bias": "input_layernorm.bias", "ffn_norm_bias": "post_attention_layernorm.bias",
    **QKV}
PHI_LAYER = {
    "attn_norm": "input_layernorm.weight", "attn_norm_bias": "input_layernorm.bias",
    **QKV,
    "o_proj": "self_attn.dense.weight", "o_bias": "self_attn.dense.bias",
    "up_proj": "mlp.fc1.weight", "up_bias": "mlp.fc1.bias", "down_proj": "mlp.fc2.weight", "down_bias": "mlp.fc2.bias"}
NEOX_LAYER = {
    "attn_norm": "input_layernorm.weight", "attn_norm_bias": "input_layernorm.bias",
    "ffn_norm": "post_attention_layernorm.weight", "ffn_norm_bias": "post_attention_layernorm.bias",
    "qkv": "attention.query_key_value.weight", "qkv_bias": "attention.query_key_value.bias",
    "o_proj": "attention.dense.weight", "o_bias": "attention.dense.bias",
    "up_proj": "mlp.dense_h_to_4h.weight", "up_bias": "mlp.dense_h_to_4h.bias",
    "down_proj": "mlp.dense_4h_to_h.weight", "down_bias": "mlp.dense_4h_to_h.bias"}
KOSMOS_LAYER = {
    "attn_norm": "self_attn_layer_norm.weight", "attn_norm_bias": "self_attn_layer_norm.bias",
    "ffn_norm": "final_layer_norm.weight", "ffn_norm_bias": "final_layer_norm.bias",
    "attn_sub_norm": "self_attn.inner_attn_ln.weight", "attn_sub_norm_bias": "self_attn.inner_attn_ln.bias",
    "ffn_sub_norm": "ffn.ffn_layernorm.weight", "ffn_sub_norm_bias": "ffn.ffn_layernorm.bias",
    **QKV,
    "o_proj": "self_attn.out_proj.weight", "o_bias": "self_attn.out_proj.bias",
    "up_proj": "ffn.fc1.weight", "up_bias": "ffn.fc1.bias", "down_proj": "ffn.fc2.weight", "down_bias": "ffn.fc2.bias"}
VISION_LAYER = {
    "attn_norm": "layer_norm1.weight", "attn_norm_bias": "layer_norm1.bias",
    "ffn_norm": "layer_norm2.weight", "ffn_norm_bias": "layer_norm2.bias",
    **QKV,
    "o_proj": "self_attn.out_proj.weight", "o_bias": "self_attn.out_proj.bias",
    "up_proj": "mlp.fc1.weight", "up_bias": "mlp.fc1.bias", "down_proj": "mlp.fc2.weight", "down_bias": "mlp.fc2.bias"}
BERT_LAYER = {
    **{f"{x}_proj": f"attention.self.{name}.weight" for x, name in zip("qkv", ("query", "key", "value"), strict=True)},
    **{f"{x}_bias": f"attention.self.{name}.bias" for x, name in zip("qkv", ("query", "key", "value"), strict=True)},
    "o_proj": "attention.output.dense.weight", "o_bias": "attention.output.dense.bias",
    "attn_norm": "attention.output.LayerNorm.weight", "attn_norm_bias": "attention.output.LayerNorm.bias",
    "up_proj": "intermediate.dense.weight", "up_bias": "intermediate.dense.bias",
    "down_proj": "output.dense.weight", "down_bias": "output.dense.bias",
    "ffn_norm": "output.LayerNorm.weight", "ffn_norm_bias": "output.LayerNorm.bias"}
GEMMA3_LAYER = LLAMA_LAYER | {
    "post_attn_norm": "post_attention_layernorm.weight", "ffn_norm": "pre_feedforward_layernorm.weight",
    "post_ffn_norm": "post_feedforward_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight", "k_norm": "self_attn.k_norm.weight"}
LAYER_NORMED = {"norm": "layer_norm", "norm_eps": 1e-5}
PLAIN = {"mlp": "plain", "biases": ("q", "k", "v", "o", "ffn")}


def sizes(hidden, heads, kv_heads, head_dim, ffn):
    """The same sizes as LayerShape and as most configurations call them."""
    return {"hidden": hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "ffn": ffn}, {
        "hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": ffn, "vocab_size": VOCAB,
        "num_hidden_layers": 3, "max_position_embeddings": 128, "pad_token_id": 0}


def case(kind, config, shapes, layer_names, *, body="model", layers="layers", embedding="embed_tokens.weight",
         final_norm="norm", embed_scale=None, gain_offset=0.0):
    """A model of transformers, and what its parts are called in the reference."""
    return SimpleNamespace(kind=kind, config=config, shapes=shapes, layer_names=layer_names, body=body, layers=layers,
                           embedding=embedding, final_norm=final_norm, embed_scale=embed_scale, gain_offset=gain_offset)


def shape(ours, **structure):
    return LayerShape(**{"norm_eps": 1e-5, "rope_theta": 10000.0, "rope_pairing": "half_split"} | ours | structure)


def llama(ours, theirs, *, theta=10000.0, tied=False, scaling=None):
    rope = {"rope_type": "default", "rope_theta": theta}
    if scaling is not None:
        rope = {"rope_type": "llama3", "rope_theta": theta, "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context}
    config = transformers.LlamaConfig(**theirs, head_dim=ours["head_dim"], num_key_value_heads=ours["kv_heads"],
                                      rms_norm_eps=1e-5, rope_parameters=rope, tie_word_embeddings=tied)
    return case("LlamaForCausalLM", config, [shape(ours, rope_theta=theta, rope_scaling=scaling)] * 3, LLAMA_LAYER)


def llama_3_2():
    scaling = SimpleNamespace(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)
    return llama(*sizes(96, 6, 2, 16, 172), theta=500000.0, tied=True, scaling=scaling)


def mistral():
    ours, theirs = sizes(64, 8, 2, 8, 43)
    config = transformers.MistralConfig(
        **theirs, head_dim=8, num_key_value_heads=2, rms_norm_eps=1e-5, sliding_window=5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    return case("MistralForCausalLM", config, [shape(ours, window=5)] * 3, LLAMA_LAYER)


def gemma():
    ours, theirs = sizes(48, 4, 1, 20, 96)
    # The published configuration says "gelu"; the model is the tanh approximation.
    config = transformers.GemmaConfig(
        **theirs, head_dim=20, num_key_value_heads=1, rms_norm_eps=1e-6, hidden_act="gelu",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    return case("GemmaForCausalLM", config, [shape(ours, norm_eps=1e-6, activation="gelu_tanh")] * 3, LLAMA_LAYER,
                embed_scale=np.sqrt(48), gain_offset=1.0)


def gemma_3():
    ours, theirs = sizes(40, 4, 1, 24, 72)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    rope = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}
    config = transformers.Gemma3TextConfig(
        **theirs, head_dim=24, num_key_value_heads=1, rms_norm_eps=1e-6, query_pre_attn_scalar=24, sliding_window=6,
        layer_types=kinds, rope_parameters=rope)
    local = shape(ours, norm_eps=1e-6, topology="sandwich", qk_norm=True, activation="gelu_tanh", window=6)
    full = shape(ours, norm_eps=1e-6, topology="sandwich", qk_norm=True, activation="gelu_tanh", rope_theta=1e6)
    return case("Gemma3ForCausalLM", config, [local, full, local], GEMMA3_LAYER, embed_scale=np.sqrt(40),
                gain_offset=1.0)


def phi():
    ours, theirs = sizes(64, 4, 4, 16, 100)
    config = transformers.PhiConfig(**theirs, rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})
    s = shape(ours | LAYER_NORMED | PLAIN, topology="parallel_shared", activation="gelu_tanh", rotary_dim=8)
    return case("PhiForCausalLM", config, [s] * 3, PHI_LAYER, final_norm="final_layernorm")


def stablelm():
    ours, theirs = sizes(64, 4, 4, 16, 90)
    config = transformers.StableLmConfig(**theirs, num_key_value_heads=4, use_qkv_bias=True, rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})
    s = shape(ours | LAYER_NORMED, biases=("q", "k", "v"), rotary_dim=4)
    return case("StableLmForCausalLM", config, [s] * 3, STABLELM_LAYER)


def dolly():
    ours, theirs = sizes(72, 3, 3, 24, 100)
    config = transformers.GPTNeoXConfig(**theirs, rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})
    s = shape(ours | LAYER_NORMED | PLAIN, topology="parallel", activation="gelu_erf", rotary_dim=6)
    return case("GPTNeoXForCausalLM", config, [s] * 3, NEOX_LAYER, body="gpt_neox", embedding="embed_in.weight",
                final_norm="final_layer_norm")


def kosmos_2_text():
    ours, _ = sizes(48, 4, 4, 12, 90)
    config = transformers.models.kosmos2.configuration_kosmos2.Kosmos2TextConfig(
        vocab_size=VOCAB, max_position_embeddings=64, embed_dim=48, layers=3, ffn_dim=90, attention_heads=4,
        scale_embedding=True)
    s = shape(ours | LAYER_NORMED | PLAIN, sub_norm=True, activation="gelu_erf", rotary_dim=0)
    return case("Kosmos2TextForCausalLM", config, [s] * 3, KOSMOS_LAYER, final_norm="layer_norm",
                embed_scale=np.sqrt(48))


DECODERS = {
    "llama-3.2": llama_3_2,
    "tinyllama": lambda: llama(*sizes(64, 8, 1, 8, 88)),
    "orca-2": lambda: llama(*sizes(60, 3, 3, 20, 86)),
    "solar": lambda: llama(*sizes(64, 8, 2, 8, 112)),
    "smollm2": lambda: llama(*sizes(72, 9, 3, 8, 96), theta=100000.0, tied=True),
    "phi-1.5": phi, "kosmos-2-text": kosmos_2_text, "stablelm-2": stablelm, "gemma": gemma, "dolly-v2": dolly,
    "mistral": mistral, "gemma-3": gemma_3,
}


@pytest.fixture(autouse=True)
def float64():
    """PyTorch's default: KOSMOS-2 builds its mask with it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@contextmanager
def outputs_of(modules):
    """A list for each module that fills with its outputs [tokens, hidden], float64."""
    found = [[] for _ in modules]

    def collector(rows):
        def collect(module, inputs, output):
            rows.append((output[0] if isinstance(output, tuple) else output)[0].numpy())
        return collect

    hooks = [module.register_forward_hook(collector(rows)) for module, rows in zip(modules, found, strict=True)]
    yield found
    for hook in hooks:
        hook.remove()


def randomised(model, seed):
    """The model with weights of its own size, gains around 1 and biases that matter."""
    print("seed", seed)
    rng = np.random.default_rng(seed)
    for name, parameter in model.eval().named_parameters():
        values = rng.standard_normal(tuple(parameter.shape))
        if parameter.ndim > 1 and "embed" not in name:
            values /= np.sqrt(parameter.shape[-1])
        elif name.endswith("bias"):
            values /= 3
        elif parameter.ndim == 1:
            values = rng.uniform(0.5, 1.5, parameter.shape)
        parameter.data = torch.from_numpy(values)
    return model


def arrays_of(module, names, gain_offset=0.0, heads=None):
    """The module's parameters by the reference's names."""
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    w = {name: state[theirs] + (gain_offset if name.endswith("norm") else 0) for name, theirs in names.items()}
    if "qkv" in w:  # [head][q, k, v][head_dim], fused
        for name, suffix in (("qkv", "proj"), ("qkv_bias", "bias")):
            parts = w.pop(name)
            parts = parts.reshape(heads, 3, -1, *parts.shape[1:])
            w |= {f"{x}_{suffix}": parts[:, i].reshape(-1, *parts.shape[3:]) for i, x in enumerate("qkv")}
    return w


def reference_model(model, c):
    """The same model for the reference."""
    body = getattr(model, c.body)
    state = {name: tensor.numpy() for name, tensor in body.state_dict().items()}
    head = model.get_output_embeddings()
    tensors = {"embedding": state[c.embedding], "final_norm": state[f"{c.final_norm}.weight"] + c.gain_offset,
               "lm_head": head.weight.detach().numpy()}
    if f"{c.final_norm}.bias" in state:
        tensors["final_norm_bias"] = state[f"{c.final_norm}.bias"]
    if head.bias is not None:
        tensors["lm_head_bias"] = head.bias.detach().numpy()
    if "Kosmos" in c.kind:
        tensors["positions"] = sinusoidal_positions(first=2, count=LENGTH, hidden=c.shapes[0].hidden)
    layers = [arrays_of(module, c.layer_names, c.gain_offset, c.shapes[0].heads) for module in getattr(body, c.layers)]
    return TransformerModel(shapes=c.shapes, layers=layers, tensors=tensors, embed_scale=c.embed_scale)


def relative_error(got, expected):
    assert got.shape == expected.shape and expected.dtype == np.float64
    return np.abs(got - expected).max() / np.abs(expected).max()


def check(name, errors):
    print(f"{name}: relative error " + ", ".join(f"{what} {error:.1e}" for what, error in errors.items()))
    assert max(errors.values()) <= BOUND


def by_transformers(model, c, tokens, portions):
    """Outputs of each layer and logits, the KV cache growing portion by portion."""
    cache = transformers.DynamicCache(config=c.config)
    with torch.no_grad(), outputs_of(getattr(getattr(model, c.body), c.layers)) as layers:
        found = [model(input_ids=torch.from_numpy(part)[None], past_key_values=cache, use_cache=True).logits[0].numpy()
                 for part in np.split(tokens, np.cumsum(portions)[:-1])]
    return [np.concatenate(parts) for parts in layers], np.concatenate(found)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name, seed):
    c = DECODERS[name]()
    kind = getattr(transformers, c.kind, None) or transformers.models.kosmos2.modeling_kosmos2.Kosmos2TextForCausalLM
    model = randomised(kind(c.config), seed)
    tokens = np.random.default_rng(seed).integers(3, VOCAB, LENGTH)
    portions = [PREFILL, CHUNK] + [1] * STEPS
    expected, expected_logits = by_transformers(model, c, tokens, portions)

    ours = reference_model(model, c)
    for split in (portions, [LENGTH]):
        caches = [reference.ReferenceCache(s) for s in ours.shapes]
        states = [reference.states(ours, caches, part) for part in np.split(tokens, np.cumsum(split)[:-1])]
        states = [np.concatenate(rows) for rows in zip(*states, strict=True)]
        pairs = zip(states[:-1], expected, strict=True)
        errors = {f"layer {i}": relative_error(a, b) for i, (a, b) in enumerate(pairs)}
        errors["logits"] = relative_error(reference.logits(ours, states[-1]), expected_logits)
        check(name, errors)


@pytest.mark.parametrize("seed", SEEDS)
def test_minilm(seed):
    ours, theirs = sizes(48, 4, 4, 12, 100)
    config = transformers.BertConfig(**theirs, hidden_act="gelu", layer_norm_eps=1e-12)
    model = randomised(transformers.BertModel(config, add_pooling_layer=False), seed)
    tokens = np.random.default_rng(seed).integers(3, VOCAB, LENGTH)
    with torch.no_grad(), outputs_of(model.encoder.layer) as layers:
        model(input_ids=torch.from_numpy(tokens)[None])

    s = shape(ours | PLAIN, norm="layer_norm", norm_eps=1e-12, topology="post_norm", activation="gelu_erf",
              rotary_dim=0, causal=False)
    state = {name.removeprefix("embeddings."): tensor.numpy() for name, tensor in model.state_dict().items()}
    small = TransformerModel(
        shapes=[s] * 3, layers=[arrays_of(module, BERT_LAYER) for module in model.encoder.layer],
        tensors={"embedding": state["word_embeddings.weight"], "embed_norm": state["LayerNorm.weight"],
                 "embed_norm_bias": state["LayerNorm.bias"],
                 "positions": state["position_embeddings.weight"] + state["token_type_embeddings.weight"][0]})
    got = reference.states(small, [reference.ReferenceCache(s) for _ in range(3)], tokens)[:3]
    check("minilm", {f"layer {i}": relative_error(a, b[0]) for i, (a, b) in enumerate(zip(got, layers, strict=True))})


@pytest.mark.parametrize("seed", SEEDS)
def test_kosmos_2_vision(seed):
    ours, theirs = sizes(48, 4, 4, 12, 100)
    kosmos = transformers.models.kosmos2
    config = kosmos.configuration_kosmos2.Kosmos2VisionConfig(
        hidden_size=48, intermediate_size=100, num_hidden_layers=3, num_attention_heads=4)
    model = randomised(kosmos.modeling_kosmos2.Kosmos2VisionEncoder(config), seed)
    x = np.random.default_rng(seed).standard_normal((17, 48))
    with torch.no_grad(), outputs_of(model.layers) as layers:
        model(inputs_embeds=torch.from_numpy(x)[None])

    s = shape(ours | LAYER_NORMED | PLAIN, activation="quick_gelu", rotary_dim=0, causal=False)
    errors = {}
    for i, (module, rows) in enumerate(zip(model.layers, layers, strict=True)):
        x = reference.decoder_layer(s, arrays_of(module, VISION_LAYER), reference.ReferenceCache(s), x)
        errors[f"layer {i}"] = relative_error(x, rows[0])
    check("kosmos-2-vision", errors)


def test_rotation_of_interleaved_rows():
    """Rows of q and k permuted as GGUF files of the llama family have them: pairs are then neighbours."""
    c = DECODERS["llama-3.2"]()
    model = randomised(transformers.LlamaForCausalLM(c.config), SEEDS[0])
    ours, tokens = reference_model(model, c), np.arange(3, 20)
    s = c.shapes[0]

    def permuted(matrix):  # as llama.cpp's converter writes it
        return matrix.reshape(-1, 2, s.head_dim // 2, s.hidden).swapaxes(1, 2).reshape(matrix.shape)

    layers = [w | {name: permuted(w[name]) for name in ("q_proj", "k_proj")} for w in ours.layers]
    pairs = LayerShape.of(SimpleNamespace(**vars(s) | {"rope_pairing": "interleaved"}))
    neighbours = TransformerModel(shapes=[pairs] * 3, layers=layers, tensors=ours.tensors)
    expected, _ = by_transformers(model, c, tokens, [len(tokens)])
    got = reference.states(neighbours, [reference.ReferenceCache(pairs) for _ in layers], tokens)
    check("interleaved", {"last layer": relative_error(got[2], expected[2])})
