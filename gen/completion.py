"""Completing a text: a model on the golden back end or on an accelerator, or on both with every word compared."""

import time
from dataclasses import dataclass, field

import numpy as np

from tilewright.gen.driver import ContextFull, Generator, best
from tilewright.gen.errors import UserError
from tilewright.sim.golden import model as golden
from tilewright.sim.golden import vector
from tilewright.sim.layer_job import put_positions

__all__ = ["Completion", "GoldenGenerator", "complete", "whole_model", "noise", "cache_differences", "word_of"]

NOISE_SEED = 1


def whole_model(checkpoint, weights, step=lambda text: None):
    """A checkpoint as a golden ``TransformerModel``, all of it in memory; ``weights``: format of the matrices."""
    architecture, layers = checkpoint.architecture, []
    for index in range(architecture.layers):
        step(f"reading layer {index + 1} of {architecture.layers}")
        layers.append(checkpoint.layer(index, weights))
    step("reading the embedding")
    return golden.TransformerModel(
        shapes=tuple(architecture.layer(index) for index in range(architecture.layers)), layers=tuple(layers),
        tensors=checkpoint.tensors(weights),
        embed_scale=None if architecture.embed_scale == 1.0 else architecture.embed_scale)


class GoldenGenerator:
    """The golden model as ``gen.driver.Generator`` shows an accelerator.

    Parameters
    ----------
    model : TransformerModel
    tables : dict of golden Tables
    context : int
    slots : list of int      positions that each layer's cache holds
    kv_format : str
    """

    def __init__(self, model, tables, *, context, slots, kv_format):
        self._model, self._tables, self._context = model, tables, context
        self._slots, self._kv_format = slots, kv_format
        self.reset()

    def reset(self):
        """A new sequence."""
        self.position, self.caches = 0, self._model.empty_caches(self._slots, self._kv_format)
        self._logits = None

    async def prompt(self, tokens):
        """Take in tokens; returns the token chosen to follow them."""
        vocab = len(self._model.tensors["embedding"])
        if not len(tokens):
            raise UserError("prompt: holds no token; give at least one")
        for token in tokens:
            if not 0 <= token < vocab:
                raise UserError(f"token {token}: must be from 0 to {vocab - 1}, the model's vocabulary")
        if self.position + len(tokens) > self._context:
            raise ContextFull(f"position {self.position}: {len(tokens)} more tokens do not fit into the context of "
                              f"{self._context}; compile the model for a larger context")
        x = golden.final_states(self._model, self.caches, np.asarray(tokens), self.position, self._tables)
        self.position += len(tokens)
        rows = golden.logits(self._model, x[-1:])
        self._logits = rows[0]
        return int(vector.argmax_rows(rows)[0][0])

    async def next(self, token):
        """Take in one token; returns the one chosen to follow it."""
        return await self.prompt([token])

    async def logits(self):
        """Logits behind the last token taken in, float32 [vocab]."""
        return self._logits

    async def top_k(self, k):
        """The k best candidates to follow, best first: list of (token, logit)."""
        return best(self._logits, k)
