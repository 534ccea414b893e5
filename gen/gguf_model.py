"""A model's GGUF file: its architecture, and its tensors one at a time."""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from tilewright.gen.errors import UserError
from tilewright.gen.model import architecture_from_gguf, check_agreement
from tilewright.sim.golden.weights import QuantisedMatrix, quantise

__all__ = ["GgufModel", "LAYER_TENSORS"]

LAYER_TENSORS = {
    "attn_norm": "attn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "ffn_norm": "ffn_norm", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}
"""Weights of a layer, and what GGUF calls them."""

_READ_ERRORS = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError)
"""What the gguf package raises on a file that is cut off or overwritten."""


class GgufModel:
    """A GGUF file of the llama family, memory-mapped: a tensor is read and dequantised when it is asked for.

    Parameters
    ----------
    path : path          the file; UserError if it is missing, truncated, corrupt or of another architecture
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
        try:
            self.architecture = architecture_from_gguf(self.metadata, tied_embeddings="output.weight"
                                                       not in self._tensors)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        self._check_tensors()
        if model is not None:
            check_agreement(model.architecture, self.architecture, f"{self.path}: not the file of {model.name}")

    def field(self, key):
        """Value of any metadata key; UserError if the file has none."""
        if key not in self._reader.fields:
            raise UserError(f"{self.path}: metadata {key} is missing")
        return self._contents(key)

    def layer(self, index):
        """Weights of layer ``index`` by name, float32: norms [hidden], matrices [n outputs, k inputs]."""
        return {name: self.tensor(self._layer_tensor(index, name)) for name in LAYER_TENSORS}

    def quantised_layer(self, index):
        """The same with matrices as ``QuantisedMatrix``: Q8_0 blocks as they are, other kinds made Q8_0."""
        return {name: (self.tensor if name.endswith("norm") else self.matrix)(self._layer_tensor(index, name))
                for name in LAYER_TENSORS}

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
        return self._dequantise(tensor, tensor.data[tokens])

    def tensor(self, name):
        """A tensor as float32, outermost dimension first."""
        tensor = self._tensor(name)
        return self._dequantise(tensor, tensor.data)

    def matrix(self, name):
        """A tensor as ``QuantisedMatrix`` [n, k]."""
        tensor = self._tensor(name)
        if tensor.tensor_type != GGMLQuantizationType.Q8_0:
            try:
                return quantise(self.tensor(name))
            except ValueError as error:
                raise UserError(f"{self.path}: tensor {name}: {error}") from None
        blocks = np.asarray(tensor.data).reshape(len(tensor.data), -1, 34)  # FP16 scale, then 32 values
        d = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
        if not np.isfinite(d).all():
            raise UserError(f"{self.path}: tensor {name} is corrupt, a scale is not finite")
        return QuantisedMatrix(np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(len(blocks), -1), d)

    def _shapes(self):
        """Every tensor that the architecture calls for, with its shape."""
        a = self.architecture
        q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
        layer = {"attn_norm": (a.hidden,), "q_proj": (q, a.hidden), "k_proj": (kv, a.hidden), "v_proj": (kv, a.hidden),
                 "o_proj": (a.hidden, q), "ffn_norm": (a.hidden,), "gate_proj": (a.ffn, a.hidden),
                 "up_proj": (a.ffn, a.hidden), "down_proj": (a.hidden, a.ffn)}
        shapes = {"token_embd.weight": (a.vocab, a.hidden), "output_norm.weight": (a.hidden,)}
        if not a.tied_embeddings:
            shapes["output.weight"] = (a.vocab, a.hidden)
        for index in range(a.layers):
            shapes |= {self._layer_tensor(index, name): shape for name, shape in layer.items()}
        return shapes

    def _layer_tensor(self, index, name):
        if not 0 <= index < self.architecture.layers:
            raise UserError(f"{self.path}: there is no layer {index}; layers are 0 to {self.architecture.layers - 1}")
        return f"blk.{index}.{LAYER_TENSORS[name]}.weight"

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
                raise UserError(f"{self.path}: tensor {name} is no part of a {self.architecture.family} layer "
                                "that is supported")

    def _tensor(self, name):
        if name not in self._tensors:
            raise UserError(f"{self.path}: tensor {name} is missing")
        return self._tensors[name]

    def _dequantise(self, tensor, data):
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # corrupt scales; reported below
                values = np.asarray(gguf.dequantize(data, tensor.tensor_type), np.float32)
        except NotImplementedError:
            raise UserError(f"{self.path}: tensor {tensor.name} is of type {tensor.tensor_type.name}, "
                            "which is not supported") from None
        if not np.isfinite(values).all():
            raise UserError(f"{self.path}: tensor {tensor.name} is corrupt, a value is not finite")
        return values
