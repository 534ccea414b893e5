import re
from dataclasses import replace

import gguf
import numpy as np
import pytest

from tilewright.gen.checkpoint.gguf_file import GgufCheckpoint
from tilewright.gen.errors import UserError
from tilewright.gen.model import check_agreement, load_model
from tilewright.sim.golden import weights

SEED = 90210
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 2, 96, 6, 2, 16, 172, 50

METADATA = {
    "block_count": LAYERS, "context_length": 128, "embedding_length": HIDDEN, "feed_forward_length": FFN,
    "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.freq_base": 10000.0,
    "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": VOCAB, "rope.dimension_count": HEAD_DIM,
}


def small_tensors(rng):
    """Tensors of a small model: float32, and float16 where the name of the projection is q."""
    def random(*size):
        return rng.standard_normal(size).astype(np.float32)

    tensors = {"token_embd.weight": random(VOCAB, HIDDEN), "output_norm.weight": random(HIDDEN)}
    for i in range(LAYERS):
        tensors |= {
            f"blk.{i}.attn_norm.weight": random(HIDDEN), f"blk.{i}.ffn_norm.weight": random(HIDDEN),
            f"blk.{i}.attn_q.weight": random(HEADS * HEAD_DIM, HIDDEN).astype(np.float16),
            f"blk.{i}.attn_k.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"blk.{i}.attn_v.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"blk.{i}.attn_output.weight": random(HIDDEN, HEADS * HEAD_DIM),
            f"blk.{i}.ffn_gate.weight": random(FFN, HIDDEN), f"blk.{i}.ffn_up.weight": random(FFN, HIDDEN),
            f"blk.{i}.ffn_down.weight": random(HIDDEN, FFN)}
    return tensors


def write_file(path, tensors, metadata=METADATA, architecture="llama", blocks=None):
    """A GGUF file; ``blocks`` names the kind of block in which tensors are stored."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{architecture}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(VOCAB)])
    for name, array in tensors.items():
        if name in (blocks or {}):
            kind = gguf.GGMLQuantizationType[blocks[name]]
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def tensors():
    print("seed", SEED)
    return small_tensors(np.random.default_rng(SEED))


@pytest.fixture
def path(tmp_path, tensors):
    return write_file(tmp_path / "small.gguf", tensors,
                      blocks={"token_embd.weight": "Q8_0", "blk.1.attn_v.weight": "Q8_0"})


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_architecture(path):
    a = GgufCheckpoint(path).architecture
    assert (a.layers, a.hidden, a.heads, a.kv_heads, a.head_dim, a.rotary_dim) == (2, 96, 6, 2, 16, 16)
    assert (a.ffn, a.vocab, a.max_context, a.norm_eps, a.rope_theta) == (172, 50, 128, 1e-5, 10000.0)
    assert (a.norm, a.topology, a.mlp, a.activation) == ("rms_norm", "sequential", "glu", "silu")
    assert (a.rope_pairing, a.tied_embeddings, a.biases, a.window, a.causal) == ("interleaved", True, (), 0, True)


def test_tensors(path, tensors):
    model = GgufCheckpoint(path)
    layer = model.layer(0, "float32")
    assert set(layer) == {"attn_norm", "q_proj", "k_proj", "v_proj", "o_proj", "ffn_norm", "gate_proj", "up_proj",
                          "down_proj"}
    for name, stored in (("q_proj", "attn_q"), ("o_proj", "attn_output"), ("down_proj", "ffn_down"),
                         ("ffn_norm", "ffn_norm"), ("gate_proj", "ffn_gate"), ("up_proj", "ffn_up")):
        assert layer[name].dtype == np.float32
        np.testing.assert_array_equal(layer[name], tensors[f"blk.0.{stored}.weight"])
    np.testing.assert_array_equal(model.tensor("final_norm"), tensors["output_norm.weight"])


def test_quantised_layer_keeps_q8_0_blocks(path, tensors):
    model = GgufCheckpoint(path)
    kept, exact = model.layer(1, "int8")["v_proj"], model.layer(1, "float32")["v_proj"]
    assert (kept.q.dtype, kept.d.dtype, kept.d.shape) == (np.int8, np.float16, (32, 3))
    np.testing.assert_array_equal(weights.dequantise(kept), exact)
    made = model.layer(0, "int8")["v_proj"]
    for got, expected in zip(made, weights.quantise(tensors["blk.0.attn_v.weight"]), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_embedding_rows(path):
    model = GgufCheckpoint(path)
    whole = model.tensor("embedding")
    np.testing.assert_array_equal(model.embedding([7, 0, 49, 7]), whole[[7, 0, 49, 7]])
    np.testing.assert_array_equal(weights.dequantise(model.tensors()["lm_head"]), whole)  # tied
    for wrong in ([50], [-1], [[1]]):
        with pytest.raises(ValueError, match="0 to 49"):
            model.embedding(wrong)


def gemma3_tensors(tensors, rng):
    """The small model's tensors with the names and gains that a gemma3 file has besides."""
    for i in range(LAYERS):
        for name, size in (("post_attention_norm", HIDDEN), ("post_ffw_norm", HIDDEN), ("attn_q_norm", HEAD_DIM),
                           ("attn_k_norm", HEAD_DIM)):
            tensors[f"blk.{i}.{name}.weight"] = rng.standard_normal(size).astype(np.float32)
    return tensors


GEMMA3 = {key: value for key, value in METADATA.items() if key not in ("vocab_size", "rope.dimension_count")} | {
    "attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM, "attention.sliding_window": 32,
    "rope.freq_base": 1e6, "attention.layer_norm_rms_epsilon": 1e-6}


def test_gemma3(tmp_path, tensors):
    tensors = gemma3_tensors(tensors, np.random.default_rng(SEED))
    path = write_file(tmp_path / "gemma.gguf", tensors, GEMMA3, "gemma3", blocks={"blk.0.ffn_up.weight": "Q8_0"})
    model = GgufCheckpoint(path)
    known = load_model("gemma3-270m").architecture
    sizes = {"layers": LAYERS, "hidden": HIDDEN, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "ffn": FFN,
             "vocab": VOCAB, "max_context": 128, "window": 32}
    assert model.architecture == replace(known, **sizes, rotary_dim=HEAD_DIM, embed_scale=HIDDEN ** 0.5)
    layer = model.layer(1, "int8")
    assert set(layer) == {"attn_norm", "ffn_norm", "post_attn_norm", "post_ffn_norm", "q_norm", "k_norm", "q_proj",
                          "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    for name, stored in (("post_attn_norm", "post_attention_norm"), ("post_ffn_norm", "post_ffw_norm"),
                         ("q_norm", "attn_q_norm"), ("k_norm", "attn_k_norm")):
        np.testing.assert_array_equal(layer[name], tensors[f"blk.1.{stored}.weight"])


@pytest.mark.parametrize("change, message", [
    ({"attention.sliding_window": None}, "metadata gemma3.attention.sliding_window is missing"),
    ({"rope.scaling.type": "linear"}, "metadata gemma3.rope.scaling.type = 'linear' is not supported, only 'none'"),
    ({"final_logit_softcapping": 30.0}, "metadata gemma3.final_logit_softcapping = 30.0 is not supported, only 0.0"),
])
def test_refused_gemma3(tmp_path, tensors, change, message):
    metadata = {key: value for key, value in (GEMMA3 | change).items() if value is not None}
    path = write_file(tmp_path / "m.gguf", gemma3_tensors(tensors, np.random.default_rng(SEED)), metadata, "gemma3")
    assert message in refusal(GgufCheckpoint, path)


def test_untied_output(tmp_path, tensors):
    tensors["output.weight"] = np.ones((VOCAB, HIDDEN), np.float32)
    model = GgufCheckpoint(write_file(tmp_path / "untied.gguf", tensors))
    assert not model.architecture.tied_embeddings
    assert (weights.dequantise(model.tensors()["lm_head"]) > 0.99).all()


@pytest.mark.parametrize("change, message", [
    ({"attention.head_count": None}, "metadata llama.attention.head_count is missing"),
    ({"vocab_size": 51}, "tensor token_embd.weight has shape (50, 96) instead of (51, 96)"),
    ({"attention.sliding_window": 64}, "metadata llama.attention.sliding_window = 64 is not supported, only 0"),
    ({"attention.head_count_kv": 4}, "heads = 6: must be a multiple of kv_heads = 4"),
    ({"attention.head_count": 0}, "llama.attention.head_count = 0: must be positive"),
    ({"block_count": "two"}, "metadata llama.block_count = 'two': must be of type int"),
    ({"rope.dimension_count": 8}, "metadata llama.rope.dimension_count = 8 is not supported, only 16"),
    ({"rope.scaling.type": "yarn"}, "metadata llama.rope.scaling.type = 'yarn' is not supported"),
    ({"expert_count": 8}, "metadata llama.expert_count = 8 is not supported"),
    ({"embedding_length": 192, "rope.dimension_count": 32},
     "tensor token_embd.weight has shape (50, 96) instead of (50, 192)"),
    ({"feed_forward_length": 100}, "tensor blk.0.ffn_gate.weight has shape (172, 96) instead of (100, 96)"),
    ({"block_count": 3}, "tensor blk.2.attn_norm.weight is missing"),
    ({"block_count": 1 << 31}, "20 tensors cannot be 2147483648 layers; the file is corrupt"),
    ({"block_count": 1}, "tensor blk.1.attn_norm.weight is no part"),
])
def test_refused_metadata(tmp_path, tensors, change, message):
    metadata = {key: value for key, value in (METADATA | change).items() if value is not None}
    path = write_file(tmp_path / "m.gguf", tensors, metadata)
    text = refusal(GgufCheckpoint, path)
    assert text.startswith(f"{path}: ") and message in text


def test_other_architecture(tmp_path, tensors):
    path = write_file(tmp_path / "m.gguf", tensors, architecture="qwen2")
    assert refusal(GgufCheckpoint, path) == f"{path}: architecture 'qwen2' is not supported; supported: llama, gemma3"


def test_bias_is_refused(tmp_path, tensors):
    tensors["blk.0.attn_q.bias"] = np.zeros(96, np.float32)
    assert "tensor blk.0.attn_q.bias is no part of a model of architecture llama" in refusal(
        GgufCheckpoint, write_file(tmp_path / "m.gguf", tensors))


@pytest.mark.parametrize("kind", ["Q8_1", "I32"])
def test_type_that_is_not_supported(tmp_path, tensors, kind):
    kind = gguf.GGMLQuantizationType[kind]
    path = tmp_path / "m.gguf"
    write_file(path, tensors)
    content = path.read_bytes()
    name = b"blk.1.ffn_up.weight"
    at = content.index(name) + len(name) + 4 + 2 * 8  # behind the number of dimensions and both of them
    path.write_bytes(content[:at] + int(kind).to_bytes(4, "little") + content[at + 4:])
    assert refusal(GgufCheckpoint, path) == (
        f"{path}: tensor blk.1.ffn_up.weight is of type {kind.name}, which is not supported; convert the file to "
        "another type, such as Q8_0")


def test_missing_and_foreign_files(tmp_path):
    assert refusal(GgufCheckpoint, tmp_path / "none.gguf") == f"{tmp_path / 'none.gguf'}: no such file"
    (tmp_path / "text").write_text("Hello")
    assert refusal(GgufCheckpoint, tmp_path / "text") == f"{tmp_path / 'text'}: not a GGUF file"
    (tmp_path / "empty").write_bytes(b"")
    assert "not a GGUF file" in refusal(GgufCheckpoint, tmp_path / "empty")


def test_truncated_anywhere(path):
    content = path.read_bytes()
    print("seed", SEED)
    lengths = np.random.default_rng(SEED).integers(4, len(content) - 64, 60).tolist()
    for length in [4, 8, 24, 100, 600, 2000, *lengths, len(content) - 64]:
        path.write_bytes(content[:length])
        assert re.search(r"truncated or corrupt|missing", refusal(GgufCheckpoint, path)), length


def test_overwritten_bytes_never_escape(path):
    """Random bytes in the header and directory: the file opens, or one line says what is wrong."""
    content = path.read_bytes()
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    refused = 0
    for _ in range(150):
        spoilt = bytearray(content)
        for position in rng.integers(4, 2500, 3):
            spoilt[position] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            GgufCheckpoint(path).layer(0)
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name, read, index", [
    ("blk.1.attn_v.weight", lambda m: m.layer(1, "int8"), "[3, 32]"),
    ("blk.1.attn_v.weight", lambda m: m.layer(1), "[3, 32]"),
    ("blk.1.attn_v.weight", lambda m: m.layer(1, "fp16"), "[3, 32]"),
    ("blk.0.attn_q.weight", lambda m: m.layer(0, "int8"), "[3, 17]"),
    ("blk.0.attn_q.weight", lambda m: m.layer(0, "fp16"), "[3, 17]"),
    ("token_embd.weight", lambda m: m.embedding([7, 49, 3, 3]), "[3, 32]"),
    ("token_embd.weight", lambda m: m.tensors(), "[3, 32]"),
])
def test_values_that_are_not_finite(path, name, read, index):
    """Planted in row 3: a NaN at column 17, or as the scale of the row's second block."""
    plant(path, name, 3, 34, b"\x00\x7e")  # 17 FP16 values, or a block of 2 + 32 bytes
    assert refusal(read, GgufCheckpoint(path)) == (
        f"{path}: tensor {name}{index} = nan: weights must be finite; get another copy of the file")


def plant(path, name, row, byte, value):
    """Overwrite bytes of a tensor's row in the file."""
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    content = bytearray(path.read_bytes())
    at = int(tensor.data_offset) + row * (int(tensor.n_bytes) // int(tensor.shape[1])) + byte
    content[at:at + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize("kind, scale", [("Q4_0", 18), ("Q4_1", 20)])
def test_scales_of_four_bit_blocks(tmp_path, tensors, kind, scale):
    name = "blk.1.ffn_up.weight"
    path = write_file(tmp_path / "four.gguf", tensors, blocks={name: kind})
    assert GgufCheckpoint(path).layer(1, "float32")["up_proj"].shape == (FFN, HIDDEN)
    plant(path, name, 171, 2 * scale, b"\x00\xfc")
    text = refusal(GgufCheckpoint(path).layer, 1, "file")
    assert re.search(r"tensor blk\.1\.ffn_up\.weight\[171, (6[4-9]|[78]\d|9[0-5])\] = (-inf|inf|nan): weights", text)


def test_infinite_gain(tmp_path, tensors):
    tensors["blk.1.ffn_norm.weight"][95] = -np.inf
    path = write_file(tmp_path / "m.gguf", tensors)
    assert "tensor blk.1.ffn_norm.weight[95] = -inf: weights must be finite" in refusal(GgufCheckpoint(path).layer, 1)
    tensors["output_norm.weight"][0] = np.nan
    path = write_file(tmp_path / "m.gguf", tensors)
    assert "tensor output_norm.weight[0] = nan: weights must be finite" in refusal(GgufCheckpoint(path).tensors)


def test_weights_beyond_fp16(tmp_path, tensors):
    tensors["blk.0.ffn_down.weight"][95, 171] = -65520.0
    tensors["blk.1.ffn_down.weight"][95, 171] = 65519.0  # rounds to 65504
    model = GgufCheckpoint(write_file(tmp_path / "m.gguf", tensors))
    assert refusal(model.layer, 0, "fp16") == (
        f"{model.path}: tensor blk.0.ffn_down.weight[95, 171] = -65520: is beyond FP16's largest number, 65504; take "
        "the format int8 for it")
    half = model.layer(1, "fp16")
    assert half["down_proj"].dtype == np.float16 and half["down_proj"][95, 171] == 65504
    assert half["attn_norm"].dtype == np.float32
    np.testing.assert_array_equal(half["up_proj"], tensors["blk.1.ffn_up.weight"].astype(np.float16))
    assert model.layer(0, "int8")["down_proj"].d[95, 5] == np.float16(65520 / 127)  # in INT8 it has a place


def test_weights_beyond_the_scale_of_a_block(tmp_path, tensors):
    tensors["blk.0.attn_k.weight"][31, 2] = 1e7
    model = GgufCheckpoint(write_file(tmp_path / "m.gguf", tensors))
    assert "tensor blk.0.attn_k.weight[31, 2] = 1e+07: is beyond 127 * 65504" in refusal(model.layer, 0, "int8")


def test_no_such_layer_or_key(path):
    model = GgufCheckpoint(path)
    assert refusal(model.layer, 2) == f"{path}: there is no layer 2; layers are 0 to 1"
    assert refusal(model.field, "tokenizer.ggml.pre") == f"{path}: metadata tokenizer.ggml.pre is missing"
    assert model.field("tokenizer.ggml.tokens")[:2] == ["t0", "t1"]


def test_description_agrees_with_the_file(smollm2, smollm2_model):
    assert smollm2.architecture == smollm2_model.architecture
    assert smollm2.layer(29, "float32")["down_proj"].shape == (576, 1536)
    assert refusal(smollm2.layer, 30).endswith("layers are 0 to 29")


def test_disagreement_names_the_keys(path, smollm2_model):
    found = replace(smollm2_model.architecture, layers=32, rope_theta=10000.0)
    text = refusal(check_agreement, smollm2_model.architecture, found, "x.gguf")
    assert text == "x.gguf: layers is 32 instead of 30; rope_theta is 10000.0 instead of 100000.0"
    assert "not the file of smollm2-135m: layers is 2 instead of 30" in refusal(GgufCheckpoint, path, smollm2_model)
