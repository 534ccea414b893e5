"""A model's GGUF file: its architecture, and its tensors one at a time."""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from tilewright.gen.architecture import layer_tensors
from tilewright.gen.errors import UserError
from tilewright.gen.model import architecture_from_gguf, check_agreement
from tilewright.gen.weights import check_finite, to_fp16, to_q8_0
from tilewright.sim.golden.weights import QuantisedMatrix, dequantise

__all__ = ["GgufModel", "LAYER_TENSORS"]

LAYER_TENSORS = {
    "attn_norm": "attn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "ffn_norm": "ffn_norm", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
    "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "post_attn_norm": "post_attention_norm",
    "post_ffn_norm": "post_ffw_norm",
}
"""Weights of a layer, and what GGUF calls them."""

_READ_ERRORS = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError)
"""What the gguf package raises on a file that is cut off or overwritten."""


class GgufModel:
    """A GGUF file, memory-mapped: a tensor is read and dequantised when it is asked for.

    Parameters
    ----------
    path : path          the file; UserError if it is missing, truncated, corrupt or of an architecture
                         that ``gen.model`` does not know
    model : Model or None    description whose architecture the file must have

    Attributes
    ----------
    architecture : Architecture
    metadata : dict      the file's scalar keys; lists (vocabulary, merges) are read with ``field``
    """

    def __init__(self, path, model=None):
        self.path = Path(path)
        self._reader = self._open()
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.metadata = {key: self._contents(key) for key, field in self._reader.fields.items()
                         if field.types[0] != gguf.GGUFValueType.ARRAY}
        embedding = self._tensors.get("token_embd.weight")
        self.architecture = self._checked(
            architecture_from_gguf, self.metadata, tied_embeddings="output.weight" not in self._tensors,
            vocab=int(embedding.shape[-1]) if embedding is not None and len(embedding.shape) else None)
        self._check_tensors()
        if model is not None:
            check_agreement(model.architecture, self.architecture, f"{self.path}: not the file of {model.name}")

    def field(self, key):
        """Value of any metadata key; UserError if the file has none."""
        if key not in self._reader.fields:
            raise UserError(f"{self.path}: metadata {key} is missing")
        return self._contents(key)

    def layer(self, index):
        """Weights of layer ``index`` by name, float32: norms [n], matrices [n outputs, k inputs]."""
        return {name: self.tensor(stored) for name, stored in self._layer_tensors(index).items()}

    def quantised_layer(self, index):
        """The same with matrices as ``QuantisedMatrix``: Q8_0 blocks as they are, other kinds made Q8_0."""
        return self._layer_with(index, self.matrix)

    def fp16_layer(self, index):
        """The same with matrices rounded to float16."""
        return self._layer_with(index, self.fp16_matrix)

    def final_norm(self):
        """Gain of the norm before the output layer, float32 [hidden]."""
        return self.tensor("output_norm.weight")

    def lm_head(self):
        """Output layer as ``QuantisedMatrix`` [vocab, hidden]; the embedding where the two are tied."""
        return self.matrix("token_embd.weight" if self.architecture.tied_embeddings else "output.weight")

    def embedding(self, tokens):
        """Embedding rows of token numbers, float32 [tokens, hidden]; no other row is read."""
        tokens = np.asarray(tokens, np.int64)
        if tokens.ndim != 1 or np.any((tokens < 0) | (tokens >= self.architecture.vocab)):
            raise ValueError(f"tokens must be a list of numbers from 0 to {self.architecture.vocab - 1}")
        tensor = self._tensor("token_embd.weight")
        return self._dequantise(tensor, tensor.data[tokens], rows=tokens)

    def tensor(self, name):
        """A tensor as float32, outermost dimension first."""
        tensor = self._tensor(name)
        return self._dequantise(tensor, tensor.data)

    def matrix(self, name):
        """A tensor as ``QuantisedMatrix`` [n, k]."""
        tensor = self._tensor(name)
        if tensor.tensor_type != GGMLQuantizationType.Q8_0:
            return self._checked(to_q8_0, name, self.tensor(name))
        blocks = np.asarray(tensor.data).reshape(len(tensor.data), -1, 34)  # FP16 scale, then 32 values
        d = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
        matrix = QuantisedMatrix(np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(len(blocks), -1), d)
        if not np.isfinite(d).all():
            with np.errstate(invalid="ignore"):
                self._checked(check_finite, name, dequantise(matrix))
        return matrix

    def fp16_matrix(self, name):
        """A tensor as float16 [n, k]."""
        return self._checked(to_fp16, name, self.tensor(name))

    def _shapes(self):
        """Every tensor that the architecture calls for, with its shape."""
        a = self.architecture
        shapes = {"token_embd.weight": (a.vocab, a.hidden), "output_norm.weight": (a.hidden,)}
        if not a.tied_embeddings:
            shapes["output.weight"] = (a.vocab, a.hidden)
        for index in range(a.layers):
            sizes = layer_tensors(a.layer(index))
            shapes |= {stored: sizes[name] for name, stored in self._layer_tensors(index).items()}
        return shapes

    def _layer_tensors(self, index):
        """What the file calls the tensors of layer ``index``, by name."""
        layer = self._checked(self.architecture.layer, index)
        return {name: f"blk.{index}.{LAYER_TENSORS[name]}.weight" for name in layer_tensors(layer)}

    def _layer_with(self, index, matrix):
        return {name: (self.tensor if name.endswith("norm") else matrix)(stored)
                for name, stored in self._layer_tensors(index).items()}

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
        try:
            return self._reader.fields[key].contents()
        except _READ_ERRORS as error:
            raise UserError(f"{self.path}: metadata {key} is corrupt ({error})") from None

    def _check_tensors(self):
        """The file holds what the architecture calls for and nothing else: a bias ignored would be a wrong model."""
        layers, count = self.architecture.layers, len(self._tensors)
        if layers > count:
            raise UserError(f"{self.path}: {count} tensors cannot be {layers} layers; the file is corrupt")
        shapes = self._shapes()
        for name, shape in shapes.items():
            tensor = self._tensor(name)
            found = tuple(int(n) for n in reversed(tensor.shape))
            if found != shape:
                raise UserError(f"{self.path}: tensor {name} has shape {found} instead of {shape}")
        for name in self._tensors:
            if name not in shapes:
                raise UserError(f"{self.path}: tensor {name} is no part of a model of architecture "
                                f"{self.metadata['general.architecture']}")

    def _tensor(self, name):
        if name not in self._tensors:
            raise UserError(f"{self.path}: tensor {name} is missing")
        return self._tensors[name]

    def _dequantise(self, tensor, data, rows=None):
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # corrupt scales; reported below
                values = np.asarray(gguf.dequantize(data, tensor.tensor_type), np.float32)
        except NotImplementedError:
            raise UserError(f"{self.path}: tensor {tensor.name} is of type {tensor.tensor_type.name}, "
                            "which is not supported") from None
        self._checked(check_finite, tensor.name, values, rows=rows)
        return values

    def _checked(self, function, *args, **kwargs):
        """Result of the function; a UserError of its own names the file too."""
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
