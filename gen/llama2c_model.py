"""A model in llama2.c's format: a checkpoint of version 0 (its export.py, legacy_export) and a tokenizer.bin."""

import re
import struct
from pathlib import Path

import numpy as np

from tilewright.gen.architecture import Architecture
from tilewright.gen.errors import UserError
from tilewright.gen.model import check_agreement
from tilewright.gen.weights import check_finite, to_fp16, to_q8_0

__all__ = ["Llama2cModel", "Llama2cTokenizer"]

_HEADER = struct.Struct("<7i")
_VERSIONED = 0x616B3432  # "ak42", first word of every later version
_BYTE_PIECE = re.compile(rb"<0x([0-9A-F]{2})>")


class Llama2cModel:
    """A checkpoint of llama2.c, memory-mapped: a tensor is read when it is asked for.

    The file has no names; tensors are called as ``Architecture.tensors`` calls them. run.c gives what the file leaves
    out: RMSNorm with eps 1e-5, SiLU, RoPE of the whole head in neighbouring pairs with theta 10000.

    Parameters
    ----------
    path : path          the file; UserError if it is missing, truncated, or no checkpoint of version 0
    model : Model or None    description whose architecture the file must have

    Attributes
    ----------
    architecture : Architecture
    """

    def __init__(self, path, model=None):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file")
        with self.path.open("rb") as file:
            header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise UserError(f"{self.path}: {len(header)} bytes are no llama2.c checkpoint, its header alone has "
                            f"{_HEADER.size}")
        self.architecture = self._architecture(*_HEADER.unpack(header))
        self._offsets, words = self._layout()
        expected, found = _HEADER.size + 4 * words, self.path.stat().st_size
        if found != expected:
            raise UserError(f"{self.path}: has {found} bytes instead of the {expected} that its header calls for; "
                            "get another copy of the file")
        self._words = np.memmap(self.path, "<f4", "r", offset=_HEADER.size)
        if model is not None:
            check_agreement(model.architecture, self.architecture, f"{self.path}: not the file of {model.name}")

    def layer(self, index):
        """Weights of layer ``index`` by name, float32: norms [n], matrices [n outputs, k inputs]."""
        return self._layer_with(index, self.tensor)

    def quantised_layer(self, index):
        """The same with matrices as ``QuantisedMatrix``."""
        return self._layer_with(index, self.matrix)

    def fp16_layer(self, index):
        """The same with matrices rounded to float16."""
        return self._layer_with(index, self.fp16_matrix)

    def final_norm(self):
        """Gain of the norm before the output layer, float32 [hidden]."""
        return self.tensor("final_norm")

    def lm_head(self):
        """Output layer as ``QuantisedMatrix`` [vocab, hidden]; the embedding where the two are tied."""
        return self.matrix(self._lm_head_name())

    def fp16_lm_head(self):
        """The same rounded to float16."""
        return self.fp16_matrix(self._lm_head_name())

    def embedding(self, tokens):
        """Embedding rows of token numbers, float32 [tokens, hidden]; no other row is read."""
        tokens = np.asarray(tokens, np.int64)
        if tokens.ndim != 1 or np.any((tokens < 0) | (tokens >= self.architecture.vocab)):
            raise ValueError(f"tokens must be a list of numbers from 0 to {self.architecture.vocab - 1}")
        rows = np.array(self._view("embedding")[tokens])
        self._checked(check_finite, "embedding", rows, rows=tokens)
        return rows

    def tensor(self, name):
        """A tensor as float32; UserError for a name that there is none of, or a value that is not finite."""
        array = np.array(self._view(name))
        self._checked(check_finite, name, array)
        return array

    def matrix(self, name):
        """A tensor as ``QuantisedMatrix`` [n, k]."""
        return self._checked(to_q8_0, name, self.tensor(name))

    def fp16_matrix(self, name):
        """A tensor as float16 [n, k]."""
        return self._checked(to_fp16, name, self.tensor(name))

    def _architecture(self, hidden, ffn, layers, heads, kv_heads, vocab, context):
        if hidden == _VERSIONED:
            raise UserError(f"{self.path}: llama2.c checkpoint of version {ffn}; only version 0 (float32) is supported")
        if min(hidden, ffn, layers, heads, kv_heads, context) < 1 or vocab == 0 or hidden % heads:
            raise UserError(f"{self.path}: no llama2.c checkpoint (header {hidden}, {ffn}, {layers}, {heads}, "
                            f"{kv_heads}, {vocab}, {context})")
        # A negative vocabulary says that the output layer has weights of its own.
        return self._checked(
            Architecture, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=hidden // heads,
            ffn=ffn, vocab=abs(vocab), max_context=context, norm="rms_norm", norm_eps=1e-5, mlp="glu",
            activation="silu", rotary_dim=hidden // heads, rope_theta=10000.0, rope_pairing="interleaved",
            tied_embeddings=vocab > 0)

    def _layer_with(self, index, matrix):
        layer = self._checked(self.architecture.layer, index)
        return {**{name: self.tensor(f"layers.{index}.{name}") for name in layer.vector_sizes},
                **{name: matrix(f"layers.{index}.{name}") for name in layer.matrix_shapes}}

    def _lm_head_name(self):
        return "embedding" if self.architecture.tied_embeddings else "lm_head"

    def _layout(self):
        """First word and shape of each tensor, and the number of words: a kind of tensor after the other, each for all
        layers; then RoPE's cosines and sines, which nothing reads."""
        a, offsets, at = self.architecture, {}, 0
        shapes = a.tensors()
        order = ["embedding", *(f"layers.{index}.{name}" for name in (
            "attn_norm", "q_proj", "k_proj", "v_proj", "o_proj", "ffn_norm", "gate_proj", "down_proj", "up_proj")
            for index in range(a.layers)), "final_norm", None, *(() if a.tied_embeddings else ("lm_head",))]
        for name in order:
            if name is None:
                at += a.max_context * a.head_dim
                continue
            offsets[name] = (at, shapes[name])
            at += int(np.prod(shapes[name], dtype=np.int64))
        return offsets, at

    def _view(self, name):
        if name not in self._offsets:
            raise UserError(f"{self.path}: there is no tensor {name}")
        at, shape = self._offsets[name]
        return self._words[at:at + int(np.prod(shape, dtype=np.int64))].reshape(shape)

    def _checked(self, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None


class Llama2cTokenizer:
    """Token numbers to text by a tokenizer.bin of llama2.c.

    Parameters
    ----------
    path : path    the file; UserError if it is missing, cut off, or has not ``vocab`` tokens
    vocab : int    tokens of the model: the file does not say

    ``bos`` and ``eos`` are the numbers that begin and end a sequence.
    """

    bos, eos = 1, 2

    def __init__(self, path, vocab):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file")
        data, at = self.path.read_bytes(), 4  # behind the longest piece's length
        self._pieces = []
        for number in range(vocab):
            length = struct.unpack_from("<4xi", data, at)[0] if at + 8 <= len(data) else -1  # behind the score
            at += 8
            if length < 0 or at + length > len(data):
                raise UserError(f"{self.path}: ends within token {number} of the model's {vocab}")
            self._pieces.append(data[at:at + length])
            at += length
        if at != len(data):
            raise UserError(f"{self.path}: goes on behind token {vocab - 1}, the last of the model's {vocab}")

    def decode(self, tokens):
        """Text of token numbers, special tokens as the file spells them. A character cut in two comes out as U+FFFD."""
        pieces = []
        for token in tokens:
            piece = self._pieces[token]
            byte = _BYTE_PIECE.fullmatch(piece)
            pieces.append(bytes([int(byte[1], 16)]) if byte else piece)
        return b"".join(pieces).decode("utf-8", errors="replace")
