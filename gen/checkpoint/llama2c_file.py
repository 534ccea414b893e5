"""A model in llama2.c's format: a checkpoint of version 0 (its export.py, legacy_export) and a tokenizer.bin."""

import struct
from pathlib import Path

import numpy as np

from tilewright.gen.architecture import Architecture
from tilewright.gen.checkpoint.base import Checkpoint
from tilewright.gen.errors import UserError
from tilewright.gen.piece_tokenizer import read_llama2c_tokenizer

__all__ = ["Llama2cCheckpoint"]

_HEADER = struct.Struct("<7i")
_VERSIONED = 0x616B3432  # "ak42", first word of every later version


class Llama2cCheckpoint(Checkpoint):
    """A checkpoint of llama2.c, memory-mapped. The file has no names; all values are float32.

    run.c gives what the file leaves out: RMSNorm with eps 1e-5, SiLU, RoPE of the whole head in neighbouring pairs with
    theta 10000.

    Parameters
    ----------
    path : path          the file; UserError if it is missing, truncated, or no checkpoint of version 0
    model : Model or None    description whose architecture the file must have
    tokenizer : path or None    the tokenizer's file; None: the file beside it called tok<vocab>.bin or tokenizer.bin
    """

    def __init__(self, path, model=None, tokenizer=None):
        self.path, self._tokenizer = Path(path), tokenizer
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file")
        with self.path.open("rb") as file:
            header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise UserError(f"{self.path}: {len(header)} bytes are no llama2.c checkpoint, its header alone has "
                            f"{_HEADER.size}")
        architecture = self._architecture(*_HEADER.unpack(header))
        self._offsets, words = _layout(architecture)
        expected, found = _HEADER.size + 4 * words, self.path.stat().st_size
        if found != expected:
            raise UserError(f"{self.path}: has {found} bytes instead of the {expected} that its header calls for; "
                            "get another copy of the file")
        self._words = np.memmap(self.path, "<f4", "r", offset=_HEADER.size)
        super().__init__(path, architecture, model)

    def tokenizer(self):
        vocab = self.architecture.vocab
        if self._tokenizer is not None:
            return read_llama2c_tokenizer(self._tokenizer, vocab)
        places = [self.path.with_name(name) for name in (f"tok{vocab}.bin", "tokenizer.bin")]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise UserError(f"{self.path}: the tokenizer is missing; put {places[0].name} or {places[1].name} beside "
                            "it")
        return read_llama2c_tokenizer(place, vocab)

    def kind(self, name):
        return "F32"

    def _stored(self, name):
        return name

    def _values(self, name, rows=None):
        at, shape = self._offsets[name]
        tensor = self._words[at:at + int(np.prod(shape, dtype=np.int64))].reshape(shape)
        return np.array(tensor if rows is None else tensor[rows])

    def _kept(self, name):
        return None

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


def _layout(a):
    """First word and shape of each tensor, and the number of words: a kind of tensor after the other, each for all
    layers; then RoPE's cosines and sines, which nothing reads."""
    offsets, at, shapes = {}, 0, a.tensors()
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
