"""A whole model in the accelerator's arithmetic: embedding, layers, final norm, lm_head and the choice of a token."""

from dataclasses import dataclass

import numpy as np

from tilewright.sim.golden import vector
from tilewright.sim.golden.kv_cache import KvCache
from tilewright.sim.golden.layer import linear, normalise, transformer_layer

__all__ = ["TransformerModel", "embed", "final_states", "logits", "greedy", "sentence_embedding",
           "sinusoidal_positions"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformerModel:
    """A model's layers and what stands before and behind them.

    shapes : sequence of LayerShape     of each layer; all have the same hidden, norm and norm_eps
    layers : sequence of mappings       weights of each layer by name (``shape.quantise_weights``)
    tensors : mapping of names to arrays; a step whose tensors are absent is left out
        embedding            float32 rows [vocab, hidden]
        positions            float32 [positions, hidden], added to the embedding of a token at that position
        embed_norm           norm of the sum (with embed_norm_bias for layer_norm)
        final_norm           norm behind the last layer (with final_norm_bias)
        lm_head              matrix [vocab, hidden]; a tied model has its embedding here once more
        lm_head_bias         float32 [vocab]
    embed_scale : float or None         factor of the embedding, rounded to FP32
    """

    shapes: tuple
    layers: tuple
    tensors: dict
    embed_scale: float | None = None

    def __post_init__(self):
        if len(self.shapes) != len(self.layers) or not self.shapes:
            raise ValueError(f"{len(self.shapes)} shapes for {len(self.layers)} layers: as many, and at least one")

    def matrices(self):
        """Yield (name, matrix) of each matrix of weights, such as layers.0.q_proj; lm_head last."""
        for index, (shape, weights) in enumerate(zip(self.shapes, self.layers, strict=True)):
            for name in shape.matrix_shapes:
                yield f"layers.{index}.{name}", weights[name]
        if "lm_head" in self.tensors:
            yield "lm_head", self.tensors["lm_head"]

    def empty_caches(self, slots, kv_format="int8"):
        """A ``KvCache`` for each layer; ``slots`` is a number, or one for each layer."""
        slots = [slots] * len(self.shapes) if isinstance(slots, int) else slots
        return [KvCache.empty(shape, count, kv_format) for shape, count in zip(self.shapes, slots, strict=True)]


def sinusoidal_positions(*, first, count, hidden):
    """Rows first .. first + count - 1 of the table of sines and cosines, float32 [count, hidden].

    Column i < hidden / 2 is sin(row * f_i), column hidden / 2 + i its cosine, f_i = 10000^(-i / (hidden / 2 - 1));
    computed in float64 and rounded once.
    """
    if hidden < 4 or hidden % 2:
        raise ValueError(f"hidden must be even and at least 4, not {hidden}")
    half = hidden // 2
    angle = np.arange(first, first + count, dtype=np.float64)[:, None] * 10000.0 ** (-np.arange(half) / (half - 1))
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def embed(model, tokens, position, tables):
    """Input of the first layer for token numbers at ``position`` and on, float32 [tokens, hidden]."""
    tokens, rows, positions = np.asarray(tokens), model.tensors["embedding"], model.tensors.get("positions")
    vocab = len(rows)
    if tokens.ndim != 1 or np.any((tokens < 0) | (tokens >= vocab)):
        raise ValueError(f"tokens must be one sequence of numbers in 0 .. {vocab - 1}")
    if positions is not None and not 0 <= position <= len(positions) - len(tokens):
        raise ValueError(f"positions {position} to {position + len(tokens) - 1} are beyond a table of {len(positions)}")
    x = np.asarray(rows[tokens], np.float32)
    if positions is not None:
        positions = positions[position:position + len(tokens)]
    if model.embed_scale is not None or positions is not None:
        scale = None if model.embed_scale is None else np.float32(model.embed_scale)
        _, x = vector.apply(x, b=scale, c=positions)
    return _norm(model, "embed_norm", x, tables)


def final_states(model, caches, tokens, position, tables):
    """Output of the last layer, normalised where the model does so, float32 [tokens, hidden]; ``caches`` grow."""
    x = embed(model, tokens, position, tables)
    for shape, weights, cache in zip(model.shapes, model.layers, caches, strict=True):
        x = transformer_layer(shape, weights, cache, x, position, tables)
    return _norm(model, "final_norm", x, tables)


def logits(model, x):
    """lm_head on final states x [rows, hidden], float32 [rows, vocab]."""
    y = linear(x, model.tensors["lm_head"])
    bias = model.tensors.get("lm_head_bias")
    return y if bias is None else vector.apply(y, c=bias)[1]


def greedy(model, caches, prompt, count, tables):
    """The ``count`` tokens that follow the prompt, each the first with the greatest logit; ``caches`` are empty.

    The last one does not go through the model.
    """
    tokens, position, chosen = np.asarray(prompt), 0, []
    while len(chosen) < count:
        x = final_states(model, caches, tokens, position, tables)
        number, _ = vector.argmax_rows(logits(model, x[-1:]))
        position += len(tokens)
        tokens = number.astype(np.int64)
        chosen.append(int(number[0]))
    return chosen


def sentence_embedding(model, tokens, tables):
    """An encoder's vector for a whole sequence, float32 [hidden]: the sum of its final states, token by token, over its
    own length."""
    x = final_states(model, model.empty_caches(len(tokens)), tokens, 0, tables)
    _, total = vector.apply(x[:1], b=np.float32(0))
    for row in x:
        _, total = vector.apply(total, c=row)
    squares, _ = vector.apply(total, square=True)
    r, _ = vector.apply(vector.sum_rows(squares)[:, None], table=tables["rsqrt"])
    return vector.apply(total, b=r)[1][0]


def _norm(model, name, x, tables):
    return normalise(x, name, model.shapes[0], model.tensors, tables) if name in model.tensors else x
