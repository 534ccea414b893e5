"""Formats of matrices: what stays as the file has it, what is rounded, and how far from the file that is."""

import gguf
import numpy as np
import pytest

from tilewright.gen.checkpoint.gguf_file import GgufCheckpoint
from tilewright.gen.errors import UserError
from tilewright.sim.golden import weights
from tilewright.sim.golden.weights import Int4Matrix, QuantisedMatrix

SEED = 808
VOCAB, HIDDEN, FFN = 40, 256, 512  # blocks of K-quants have 256 values
METADATA = {"block_count": 1, "context_length": 64, "embedding_length": HIDDEN, "feed_forward_length": FFN,
            "attention.head_count": 8, "attention.head_count_kv": 8}
SHAPES = {"token_embd": (VOCAB, HIDDEN), "output": (VOCAB, HIDDEN), "output_norm": (HIDDEN,),
          "blk.0.attn_norm": (HIDDEN,), "blk.0.ffn_norm": (HIDDEN,), "blk.0.attn_q": (HIDDEN, HIDDEN),
          "blk.0.attn_k": (HIDDEN, HIDDEN), "blk.0.attn_v": (HIDDEN, HIDDEN), "blk.0.attn_output": (HIDDEN, HIDDEN),
          "blk.0.ffn_gate": (FFN, HIDDEN), "blk.0.ffn_up": (FFN, HIDDEN), "blk.0.ffn_down": (HIDDEN, FFN)}
KINDS = {"q_proj": "Q8_0", "k_proj": "Q4_0", "v_proj": "Q4_1", "o_proj": "F16", "gate_proj": "F32", "up_proj": "Q6_K",
         "down_proj": "BF16", "lm_head": "Q4_0"}
STORED = {"q_proj": "blk.0.attn_q", "k_proj": "blk.0.attn_k", "v_proj": "blk.0.attn_v", "o_proj": "blk.0.attn_output",
          "gate_proj": "blk.0.ffn_gate", "up_proj": "blk.0.ffn_up", "down_proj": "blk.0.ffn_down", "lm_head": "output"}
TYPES = {"Q8_0": QuantisedMatrix, "Q4_0": Int4Matrix, "Q4_1": Int4Matrix, "F16": np.ndarray}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file with a kind of its own for each matrix. Q6_K's blocks, which the package cannot make, are random."""
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    path = tmp_path_factory.mktemp("formats") / "kinds.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in METADATA.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    kinds = {STORED[name]: gguf.GGMLQuantizationType[kind] for name, kind in KINDS.items()}
    for name, shape in SHAPES.items():
        kind = kinds.get(name, gguf.GGMLQuantizationType.F32)
        values = rng.standard_normal(shape).astype(np.float32)
        if kind.name == "Q6_K":
            data = rng.integers(0, 256, (shape[0], shape[1] // 256, 210)).astype(np.uint8)
            data[..., 208:] = rng.uniform(1e-4, 2e-3, data.shape[:2]).astype("<f2")[..., None].view(np.uint8)
            writer.add_tensor(f"{name}.weight", data.reshape(shape[0], -1), raw_dtype=kind)
        elif kind.name == "F16":
            writer.add_tensor(f"{name}.weight", values.astype(np.float16))
        else:
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def checkpoint(path):
    return GgufCheckpoint(path)


@pytest.fixture(scope="module")
def exact(path):
    """What the gguf package makes of each matrix, float32 by our name."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    return {name: gguf.dequantize(t.data, t.tensor_type) for name, stored in STORED.items()
            for t in [tensors[f"{stored}.weight"]]}


def matrices(checkpoint, *formats):
    return {name: matrix for name, matrix in (checkpoint.layer(0, *formats) | checkpoint.tensors(*formats)).items()
            if name in KINDS}


def values(matrix):
    return matrix.astype(np.float32) if isinstance(matrix, np.ndarray) else weights.dequantise(matrix)


def bits(array):
    return np.ascontiguousarray(array).view(np.uint32)


def test_file_keeps_what_the_machine_has(checkpoint, exact):
    """Dequantised values are those of the gguf package to the bit."""
    found = matrices(checkpoint, "file")
    for name, kind in KINDS.items():
        assert checkpoint.kind(f"layers.0.{name}" if name != "lm_head" else name) == kind
        if kind in TYPES:
            assert isinstance(found[name], TYPES[kind]), name
            np.testing.assert_array_equal(bits(values(found[name])), bits(exact[name]))
    q4_0, q4_1 = found["k_proj"], found["v_proj"]
    assert q4_0.m is None and (q4_0.q.min(), q4_0.q.max()) == (-8, 7)
    assert q4_1.m.dtype == np.float16 and (q4_1.q.min(), q4_1.q.max()) == (0, 15)
    assert found["o_proj"].dtype == np.float16


@pytest.mark.parametrize("other, rounded", [
    ("int8", weights.quantise), ("int4", weights.quantise_int4), ("fp16", lambda w: w.astype(np.float16))])
def test_file_rounds_the_others(checkpoint, exact, other, rounded):
    found = matrices(checkpoint, "file", other)
    for name in ("gate_proj", "up_proj", "down_proj"):
        np.testing.assert_array_equal(values(found[name]), values(rounded(exact[name])))


@pytest.mark.parametrize("weights_format, kept, kind", [
    ("int8", {"Q8_0"}, QuantisedMatrix), ("int4", {"Q4_0", "Q4_1"}, Int4Matrix), ("fp16", {"F16"}, np.ndarray)])
def test_one_format_for_all(checkpoint, exact, weights_format, kept, kind):
    rounded = {"int8": weights.quantise, "int4": weights.quantise_int4, "fp16": lambda w: w.astype(np.float16)}
    for name, matrix in matrices(checkpoint, weights_format).items():
        assert isinstance(matrix, kind)
        expected = exact[name] if KINDS[name] in kept else values(rounded[weights_format](exact[name]))
        np.testing.assert_array_equal(bits(values(matrix)), bits(expected))


def test_float32_and_vectors(checkpoint, exact):
    for name, matrix in matrices(checkpoint, "float32").items():
        np.testing.assert_array_equal(bits(matrix), bits(exact[name]))
    for weights_format in ("file", "int8", "fp16", "int4", "float32"):
        assert checkpoint.layer(0, weights_format)["attn_norm"].dtype == np.float32
        assert checkpoint.tensors(weights_format)["embedding"].dtype == np.float32


@pytest.mark.parametrize("formats", [("file", "int4"), ("int8", "int8"), ("int4", "int8"), ("fp16", "int8")])
def test_tensor_errors(checkpoint, exact, formats):
    found = {error.name.rpartition(".")[2]: error for error in checkpoint.tensor_errors(*formats)}
    assert list(found) == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    made = matrices(checkpoint, *formats)
    for name, error in found.items():
        difference = values(made[name]).astype(np.float64) - exact[name]
        assert error.kind == KINDS[name]
        assert error.format == {QuantisedMatrix: "int8", Int4Matrix: "int4", np.ndarray: "fp16"}[type(made[name])]
        assert error.largest == np.abs(difference).max()
        expected = np.linalg.norm(difference) / np.linalg.norm(exact[name].astype(np.float64))
        np.testing.assert_allclose(error.relative, expected, rtol=1e-12)
    kept = {"file": TYPES, "int8": ["Q8_0"], "int4": ["Q4_0", "Q4_1"], "fp16": ["F16"]}[formats[0]]
    assert all(error.largest == 0 for error in found.values() if error.kind in kept)
    assert found["gate_proj"].largest > 0


def test_unknown_format(checkpoint):
    with pytest.raises(UserError, match="weights format 'int2', other 'int8': allowed are file, int8, fp16, int4"):
        checkpoint.layer(0, "int2")
    with pytest.raises(UserError, match="other 'file'"):
        checkpoint.tensors("file", "file")


def test_smollm2_stays_as_it_is(smollm2):
    """The Q4_1 file: nothing of it is requantised."""
    errors = list(smollm2.tensor_errors())
    assert {(error.kind, error.format) for error in errors} == {("Q4_1", "int4"), ("Q8_0", "int8")}
    assert len(errors) == 211 and all(error.largest == error.relative == 0 for error in errors)
