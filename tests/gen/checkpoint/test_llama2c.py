import re
import struct

import numpy as np
import pytest

from tilewright.gen.checkpoint.llama2c_file import Llama2cCheckpoint
from tilewright.gen.errors import UserError
from tilewright.gen.model import load_model
from tilewright.gen.piece_tokenizer import read_llama2c_tokenizer
from tilewright.sim.golden import weights

SEED = 31007
HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, VOCAB, CONTEXT = 24, 44, 3, 6, 2, 17, 9
PIECES = [b"<unk>", b"\n<s>\n", b"\n</s>\n",
          b"<0x0A>", b"<0xC3>", b"<0xA4>", b" Once", b" upon", "ü".encode(), b"<0xC3"]


def parts(tied):
    """The file's arrays in its order, by a name of their own."""
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    kv = HIDDEN // HEADS * KV_HEADS
    sizes = {"embedding": (VOCAB, HIDDEN), "attn_norm": (LAYERS, HIDDEN), "q_proj": (LAYERS, HIDDEN, HIDDEN),
             "k_proj": (LAYERS, kv, HIDDEN), "v_proj": (LAYERS, kv, HIDDEN), "o_proj": (LAYERS, HIDDEN, HIDDEN),
             "ffn_norm": (LAYERS, HIDDEN), "gate_proj": (LAYERS, FFN, HIDDEN), "down_proj": (LAYERS, HIDDEN, FFN),
             "up_proj": (LAYERS, FFN, HIDDEN), "final_norm": (HIDDEN,), "cos": (CONTEXT, HIDDEN // HEADS // 2),
             "sin": (CONTEXT, HIDDEN // HEADS // 2)} | ({} if tied else {"lm_head": (VOCAB, HIDDEN)})
    return {name: rng.standard_normal(size).astype("<f4") for name, size in sizes.items()}


def header(vocab=VOCAB, **other):
    values = {"hidden": HIDDEN, "ffn": FFN, "layers": LAYERS, "heads": HEADS, "kv_heads": KV_HEADS, "vocab": vocab,
              "context": CONTEXT} | other
    return struct.pack("<7i", *values.values())


def written(path, arrays, head):
    path.write_bytes(head + b"".join(array.tobytes() for array in arrays.values()))
    return path


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def file(request, tmp_path):
    """A small checkpoint, its arrays, and whether the output layer is the embedding."""
    arrays = parts(request.param)
    return written(tmp_path / "model.bin", arrays, header(VOCAB if request.param else -VOCAB)), arrays, request.param


def test_tensors(file):
    path, arrays, tied = file
    model = Llama2cCheckpoint(path)
    a = model.architecture
    assert (a.hidden, a.ffn, a.layers, a.heads, a.kv_heads, a.vocab, a.max_context, a.head_dim, a.tied_embeddings) == (
        HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, VOCAB, CONTEXT, HIDDEN // HEADS, tied)
    for index in range(LAYERS):
        layer, quantised, half = (
            model.layer(index, kind) for kind in ("float32", "int8", "fp16"))
        assert set(layer) == set(quantised) == set(half) == set(arrays) - {"embedding", "final_norm", "cos", "sin",
                                                                            "lm_head"}
        for name, array in layer.items():
            expected = arrays[name][index]
            np.testing.assert_array_equal(array, expected)
            if name.endswith("norm"):
                np.testing.assert_array_equal(quantised[name], expected)
                np.testing.assert_array_equal(half[name], expected)
            else:
                np.testing.assert_array_equal(quantised[name].q, weights.quantise(expected).q)
                np.testing.assert_array_equal(half[name], expected.astype(np.float16))
    np.testing.assert_array_equal(model.tensor("final_norm"), arrays["final_norm"])
    head = arrays["embedding" if tied else "lm_head"]
    np.testing.assert_array_equal(model.tensors("int8")["lm_head"].d, weights.quantise(head).d)
    np.testing.assert_array_equal(model.tensors("fp16")["lm_head"], head.astype(np.float16))
    np.testing.assert_array_equal(model.embedding([3, 16, 3]), arrays["embedding"][[3, 16, 3]])
    for tokens in ([17], [-1], 3):
        with pytest.raises(ValueError, match="from 0 to 16"):
            model.embedding(tokens)
    for name in ("cos", "layers.3.q_proj"):
        with pytest.raises(UserError, match=f"there is no tensor {re.escape(name)}"):
            model.tensor(name)
    with pytest.raises(UserError, match="there is no layer 3"):
        model.layer(3)


def test_agreement_with_a_description(file):
    with pytest.raises(UserError, match="not the file of stories260k: layers is 3 instead of 5"):
        Llama2cCheckpoint(file[0], load_model("stories260k"))


@pytest.mark.parametrize("content, message", [
    (b"", "0 bytes are no llama2.c checkpoint"),
    (header()[:27], "27 bytes are no llama2.c checkpoint"),
    (header(), "28 bytes instead of the"),
    (header(hidden=0), "no llama2.c checkpoint"), (header(vocab=0), "no llama2.c checkpoint"),
    (header(heads=5), "no llama2.c checkpoint"), (header(kv_heads=4), "heads = 6: must be a multiple of kv_heads = 4"),
    (header(heads=24, kv_heads=4), "head_dim = 1: must be even"),
    (header(hidden=0x616B3432, ffn=2), "version 2; only version 0"),
    (b"GGUF" + bytes(64), "no llama2.c checkpoint"),
])
def test_refuses_other_files(content, message, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        Llama2cCheckpoint(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + bytes(4)], ids=["cut", "longer"])
def test_refuses_another_length(change, file):
    path, _, _ = file
    length = len(path.read_bytes())
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"instead of the {length} that its header calls for"):
        Llama2cCheckpoint(path)


def test_missing_file(tmp_path):
    for kind in (Llama2cCheckpoint, lambda path: read_llama2c_tokenizer(path, 3)):
        with pytest.raises(UserError, match="absent: no such file"):
            kind(tmp_path / "absent")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_names_a_weight_that_is_not_finite(value, tmp_path):
    arrays = parts(True)
    arrays["up_proj"][1, 43, 5] = value
    arrays["embedding"][2, 7] = value
    model = Llama2cCheckpoint(written(tmp_path / "model.bin", arrays, header()))
    model.layer(0)
    for read, place in ((lambda: model.layer(1), "layers.1.up_proj[43, 5]"),
                        (lambda: model.layer(1, "fp16"), "layers.1.up_proj[43, 5]"),
                        (lambda: model.layer(1, "int8"), "layers.1.up_proj[43, 5]"),
                        (model.tensors, "embedding[2, 7]"), (lambda: model.embedding([5, 2]), "embedding[2, 7]")):
        with pytest.raises(UserError, match=re.escape(f"tensor {place} = {value:g}")):
            read()
    model.embedding([5, 3])


def test_beyond_fp16(tmp_path):
    arrays = parts(True)
    arrays["o_proj"][2, 0, 23] = 70000
    model = Llama2cCheckpoint(written(tmp_path / "model.bin", arrays, header()))
    with pytest.raises(UserError, match=re.escape("tensor layers.2.o_proj[0, 23] = 70000")):
        model.layer(2, "fp16")


def tokenizer_bytes(pieces=PIECES):
    return struct.pack("<i", 7) + b"".join(struct.pack("<fi", -i, len(piece)) + piece for i, piece in enumerate(pieces))


def test_decode(tmp_path):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(tokenizer_bytes())
    tokenizer = read_llama2c_tokenizer(path, len(PIECES))
    assert tokenizer.decode([6, 7, 3, 4, 5, 8]) == " Once upon\näü"
    assert tokenizer.decode([tokenizer.bos, 6, tokenizer.eos]) == "\n<s>\nOnce\n</s>\n"
    assert tokenizer.decode([tokenizer.bos, 6, tokenizer.eos], special=False) == "Once"
    assert tokenizer.decode([4, 6, 9]) == "\ufffd Once<0xC3"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("content, message", [
    (b"", "ends within token 0"), (tokenizer_bytes()[:-1], "ends within token 9"),
    (tokenizer_bytes(PIECES[:-1]), "ends within token 9"), (tokenizer_bytes([*PIECES, b"x"]), "goes on behind token 9"),
    (struct.pack("<ifi", 7, 0, -5) + bytes(200), "ends within token 0"),
])
def test_refuses_other_tokenizers(content, message, tmp_path):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_llama2c_tokenizer(path, len(PIECES))
