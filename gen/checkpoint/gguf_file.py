"""A model's GGUF file."""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from tilewright.gen.checkpoint.base import Checkpoint
from tilewright.gen.checkpoint.gguf_tokenizer import tokenizer_from_gguf
from tilewright.gen.errors import UserError
from tilewright.gen.model import architecture_from_gguf
from tilewright.sim.golden.weights import Int4Matrix, QuantisedMatrix

__all__ = ["GgufCheckpoint"]

_MODEL_TENSORS = {"embedding": "token_embd", "final_norm": "output_norm", "lm_head": "output"}
_LAYER_TENSORS = {
    "attn_norm": "attn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "ffn_norm": "ffn_norm", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
    "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "post_attn_norm": "post_attention_norm",
    "post_ffn_norm": "post_ffw_norm",
}
"""Tensors, and what GGUF calls them."""

_READ_ERRORS = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError)
"""What the gguf package raises on a file that is cut off or overwritten."""


class GgufCheckpoint(Checkpoint):
    """A GGUF file, memory-mapped. Blocks of Q8_0, Q4_0 and Q4_1 and F16 values are kept as they are.

    Parameters
    ----------
    path : path          the file; UserError if it is missing, truncated, corrupt, of an architecture that
                         ``gen.model`` does not know, or has a tensor of an unknown type, missing, foreign or misshapen
    model : Model or None    description whose architecture the file must have

    Attributes
    ----------
    metadata : dict      the file's scalar keys; lists (vocabulary, merges) are read with ``field``
    """

    def __init__(self, path, model=None):
        self.path = Path(path)
        self._reader = self._open()
        self._found = {tensor.name: tensor for tensor in self._reader.tensors}
        self.metadata = {key: self.field(key) for key, field in self._reader.fields.items()
                         if field.types[0] != gguf.GGUFValueType.ARRAY}
        embedding = self._found.get("token_embd.weight")
        architecture = self._checked(
            architecture_from_gguf, self.metadata, tied_embeddings="output.weight" not in self._found,
            vocab=int(embedding.shape[-1]) if embedding is not None and len(embedding.shape) else None)
        self._check_tensors(architecture)
        super().__init__(path, architecture, model)

    def field(self, key):
        """Value of any metadata key; UserError if the file has none."""
        return self._checked(self._contents, key)

    def tokenizer(self):
        return self._checked(tokenizer_from_gguf, self._contents, self.metadata, self.architecture.vocab)

    def kind(self, name):
        return self._found[self._stored(name)].tensor_type.name

    def _stored(self, name):
        return _stored(name)

    def _values(self, name, rows=None):
        tensor = self._found[_stored(name)]
        with np.errstate(over="ignore", invalid="ignore"):  # corrupt scales; the caller reports what comes out
            return np.asarray(gguf.dequantize(tensor.data if rows is None else tensor.data[rows], tensor.tensor_type),
                              np.float32)

    def _kept(self, name):
        tensor = self._found[_stored(name)]
        if tensor.tensor_type == Kind.F16:
            return np.array(tensor.data)
        if tensor.tensor_type not in _BLOCKS:
            return None
        has_minimum, take = _BLOCKS[tensor.tensor_type]
        size = gguf.GGML_QUANT_SIZES[tensor.tensor_type][1]
        blocks = np.asarray(tensor.data).reshape(len(tensor.data), -1, size)
        halves = np.ascontiguousarray(blocks[..., :4 if has_minimum else 2]).view("<f2")
        q = take(blocks[..., 4 if has_minimum else 2:])
        q = np.ascontiguousarray(q.reshape(len(blocks), -1))
        d = np.ascontiguousarray(halves[..., 0])
        if tensor.tensor_type == Kind.Q8_0:
            return QuantisedMatrix(q, d)
        return Int4Matrix(q, d, np.ascontiguousarray(halves[..., 1]) if has_minimum else None)

    def _open(self):
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file")
        try:
            with self.path.open("rb") as file:
                if file.read(4) != b"GGUF":
                    raise UserError(f"{self.path}: not a GGUF file")
            return gguf.GGUFReader(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None
        except _READ_ERRORS as error:
            raise UserError(f"{self.path}: truncated or corrupt GGUF file ({error})") from None

    def _contents(self, key):
        if key not in self._reader.fields:
            raise UserError(f"metadata {key} is missing")
        try:
            return self._reader.fields[key].contents()
        except _READ_ERRORS as error:
            raise UserError(f"metadata {key} is corrupt ({error})") from None

    def _check_tensors(self, architecture):
        """The file holds what the architecture calls for and nothing else: a bias ignored would be a wrong model."""
        layers, count = architecture.layers, len(self._found)
        if layers > count:
            raise UserError(f"{self.path}: {count} tensors cannot be {layers} layers; the file is corrupt")
        shapes = {_stored(name): shape for name, shape in architecture.tensors().items()}
        for name, shape in shapes.items():
            if name not in self._found:
                raise UserError(f"{self.path}: tensor {name} is missing")
            tensor = self._found[name]
            found = tuple(int(n) for n in reversed(tensor.shape))
            if found != shape:
                raise UserError(f"{self.path}: tensor {name} has shape {found} instead of {shape}")
            if not _readable(tensor.tensor_type):
                raise UserError(f"{self.path}: tensor {name} is of type {tensor.tensor_type.name}, which is not "
                                "supported; convert the file to another type, such as Q8_0")
        for name in self._found:
            if name not in shapes:
                raise UserError(f"{self.path}: tensor {name} is no part of a model of architecture "
                                f"{self.metadata['general.architecture']}")


def _stored(name):
    """What the file calls a tensor."""
    if not name.startswith("layers."):
        return f"{_MODEL_TENSORS[name]}.weight"
    _, index, tensor = name.split(".")
    return f"blk.{index}.{_LAYER_TENSORS[tensor]}.weight"


def _readable(kind):
    """Whether the gguf package can dequantise the type: tried on a block of zeros."""
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _nibbles(data):
    """Bytes of a block to its values 0..15: the low halves are the first 16 elements."""
    return np.concatenate([data & 15, data >> 4], axis=-1).astype(np.int8)


_BLOCKS = {
    Kind.Q8_0: (False, lambda data: np.ascontiguousarray(data).view(np.int8)),
    Kind.Q4_0: (False, lambda data: _nibbles(data) - np.int8(8)),
    Kind.Q4_1: (True, _nibbles),
}
"""Kinds of blocks of 32 that the machine has: whether a minimum follows the scale, and values from the bytes behind."""
