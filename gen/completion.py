"""Completing a text: the golden model and an accelerator behind one interface, and both compared word by word."""

from dataclasses import dataclass, field

import numpy as np

from tilewright.gen.driver import best, check_tokens
from tilewright.sim.cosim import differing_words
from tilewright.sim.golden import model as golden
from tilewright.sim.golden import vector
from tilewright.sim.golden.weights import stored_bytes
from tilewright.sim.layer_job import put_positions

__all__ = ["GoldenGenerator", "Comparison", "complete", "streamed_bytes"]

NOISE_SEED = 1


def streamed_bytes(model, slots, kv_format, position):
    """Bytes that a decode step at ``position`` cannot do without: every weight with its scales once, and the keys and
    values up to that position with theirs once.

    slots : positions that each layer's cache holds
    """
    total = sum(stored_bytes(matrix) for _, matrix in model.matrices())
    for cache, held in zip(model.empty_caches(1, kv_format), slots, strict=True):
        arrays = [array for array in (cache.k, cache.k_scale, cache.v, cache.v_scale) if array is not None]
        total += sum(array.nbytes for array in arrays) * min(position + 1, held)
    return total


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
        self.model, self.context, self._tables = model, context, tables
        self.position, self.caches = 0, model.empty_caches(slots, kv_format)
        self._logits = None

    async def prompt(self, tokens):
        """Take in tokens; returns the token chosen to follow them."""
        return self._take_in(tokens)

    def _take_in(self, tokens):
        check_tokens(tokens, self.position, vocab=len(self.model.tensors["embedding"]), context=self.context)
        x = golden.final_states(self.model, self.caches, np.asarray(tokens), self.position, self._tables)
        self.position += len(tokens)
        rows = golden.logits(self.model, x[-1:])
        self._logits = rows[0]
        return int(vector.argmax_rows(rows)[0][0])

    async def next(self, token):
        """Take in one token; returns the one chosen to follow it."""
        return await self.prompt([token])

    async def embedding(self, tokens, hidden):
        """An encoder's vector for a whole sequence, float32 [hidden]."""
        return self._embed(tokens, hidden)

    def _embed(self, tokens, hidden):
        check_tokens(tokens, 0, vocab=len(self.model.tensors["embedding"]), context=self.context)
        return golden.sentence_embedding(self.model, np.asarray(tokens), self._tables)[:hidden]

    async def logits(self):
        """Logits behind the last token taken in, float32 [vocab]."""
        return self._logits

    async def top_k(self, k):
        """The k best candidates to follow, best first: list of (token, logit)."""
        return best(self._logits, k)


async def complete(generator, prompt, count, *, eos=None):
    """Yield the tokens that follow the prompt, at most ``count``, each when it is there; ``eos`` is the last one.

    Raises ContextError where the context ends before.
    """
    token = await generator.prompt(prompt)
    for number in range(1, count + 1):
        yield token
        if number == count or token == eos:
            return
        token = await generator.next(token)


@dataclass(kw_only=True)
class Comparison:
    """An accelerator that is watched: what it is asked the golden model is asked too, with the same tokens.

    device : Generator, loaded
    golden : GoldenGenerator
    differences : list of str    what was not equal
    tokens, words : int          compared: tokens chosen, words of logits and KV cache
    """

    device: object
    golden: GoldenGenerator
    differences: list = field(default_factory=list)
    tokens: int = 0
    words: int = 0

    @property
    def position(self):
        return self.device.position

    async def start(self):
        """Fill the KV cache with what the golden model's holds and else with noise, so that what is written beside its
        place or read too early shows."""
        await self.device.fill_kv_cache(self._expected_cache().tobytes())

    async def prompt(self, tokens):
        return await self._both("prompt", tokens)

    async def next(self, token):
        return await self._both("next", token)

    async def embedding(self, tokens, hidden):
        got, expected = [await each.embedding(tokens, hidden) for each in (self.device, self.golden)]
        self._compare("embedding", got, expected, "element")
        return got

    async def top_k(self, k):
        return await self.device.top_k(k)

    async def finish(self):
        """Compare the whole KV cache."""
        expected = self._expected_cache()
        words, differ = differing_words(await self.device.kv_cache(), expected)
        self.words += words
        if differ:
            at, got, wanted = differ[0]
            self.differences.append(f"KV cache: {len(differ)} of {words} words differ, the first in {self._place(at)}: "
                                    f"got {got:#010x}, expected {wanted:#010x}")

    async def _both(self, name, argument):
        got = await getattr(self.device, name)(argument)
        expected = await getattr(self.golden, name)(argument)
        behind = f"behind position {self.position - 1}"
        self.tokens += 1
        if got != expected:
            self.differences.append(f"token {behind}: got {got}, expected {expected}")
        self._compare(f"logits {behind}", await self.device.logits(), await self.golden.logits(), "token")
        return got

    def _compare(self, what, got, expected, element):
        words, differ = differing_words(got, np.ascontiguousarray(expected, "<f4"))
        self.words += words
        if differ:
            at, bits, right = differ[0]
            self.differences.append(f"{what}: {len(differ)} of {words} differ, the first of {element} {at // 4}: got "
                                    f"{bits:#010x}, expected {right:#010x}")

    def _expected_cache(self):
        """Region 1 as it must be."""
        region = np.random.default_rng(NOISE_SEED).integers(0, 256, self.device.compiled.kv_bytes, np.uint8)
        for (layout, offset), cache in zip(self.device.compiled.caches, self.golden.caches, strict=True):
            put_positions(region[offset:offset + layout.size], layout, cache, range(self.golden.position))
        return region

    def _place(self, at):
        layer = max(i for i, (_, offset) in enumerate(self.device.compiled.caches) if offset <= at)
        layout, offset = self.device.compiled.caches[layer]
        within = at - offset
        part = "keys" if within < layout.v_offset else "values" if within < layout.scale_offset else "scales of values"
        return f"layer {layer}, {part}, byte {within:#x}"
