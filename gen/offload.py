"""A model whose matrix products an accelerator without vector unit computes, and everything else the host."""

import asyncio
import time
from dataclasses import dataclass, replace

import numpy as np

from tilewright.gen.compiler.requirements import functions_of
from tilewright.gen.completion import Comparison, GoldenGenerator
from tilewright.gen.direct import DirectDriver, check_matrix
from tilewright.gen.driver import Step
from tilewright.gen.functions import function_tables
from tilewright.gen.package import Package, positions
from tilewright.sim.cosim import differing_words
from tilewright.sim.golden.weights import RemoteMatrix
from tilewright.sim.layer_run import golden_tables

__all__ = ["OffloadedModel", "OffloadGenerator", "OffloadComparison", "offload_package", "check_matrices",
           "offload_tables"]


@dataclass(frozen=True, kw_only=True)
class OffloadedModel:
    """What is known of a model that the host runs, in place of a ``CompiledModel``.

    context : int        positions, at most
    slots : list         of each layer's cache
    is_encoder : bool    it has no lm_head
    """

    context: int
    slots: list
    is_encoder: bool


def offload_package(checkpoint, whole, config, *, name, weights, kv, context=None, step=lambda text: None):
    """``compile_package`` for a configuration that runs no programs; UserError also for a matrix that its engine does
    not multiply."""
    context = positions(checkpoint, config, context)
    step("looking at the matrices")
    check_matrices(config, whole)
    compiled = OffloadedModel(context=context, slots=[context] * len(whole.shapes),
                              is_encoder="lm_head" not in whole.tensors)
    return Package(compiled=compiled, config=config, architecture=checkpoint.architecture,
                   tokenizer=checkpoint.tokenizer(), model=name, weights=weights, kv=kv, tensors=[])


def check_matrices(config, model):
    """Raise UserError unless the engine multiplies by every matrix of the model."""
    for name, matrix in model.matrices():
        check_matrix(config, name, matrix)


def offload_tables(model):
    """Golden tables of the functions that a model needs: the host has them all, whatever the accelerator has."""
    names = dict.fromkeys(name for shape in model.shapes for name in functions_of(shape))
    return golden_tables(function_tables(tuple(names)))


class OffloadGenerator(GoldenGenerator):
    """A model on an accelerator whose commands the host issues, as ``gen.driver.Generator`` shows one that runs it.

    The golden model runs on the host, in a thread, and asks the accelerator for each product of a matrix of weights.
    Attention's products with the KV cache stay on the host: the cache would have to go over the link as well.

    Parameters
    ----------
    transport, config : as for ``DirectDriver``
    step : function       told each ``Step`` when it is over; its counters are those of the transport: bytes sent and
                          received, where it counts them
    product : function    told the number of products behind it
    others                as for ``GoldenGenerator``
    """

    def __init__(self, transport, model, tables, *, config, step=lambda step: None, product=lambda count: None,
                 **others):
        self._matrices = [matrix for _, matrix in model.matrices()]
        super().__init__(_remote(model, self._multiply), tables, **others)
        self._transport = transport
        self._driver, self._step, self._product, self._products = DirectDriver(transport, config), step, product, 0
        self._loop = None

    async def load(self):
        """Check that the hardware is of the configuration, and bring the matrices in that stay; the others are brought
        in for each product."""
        await self._driver.check()
        await self._driver.keep(self._matrices)

    async def prompt(self, tokens):
        """Take in tokens; returns the token chosen to follow them."""
        return await self._timed("prefill", tokens)

    async def next(self, token):
        """Take in one token; returns the one chosen to follow it."""
        return await self._timed("decode", [token])

    async def embedding(self, tokens, hidden):
        """An encoder's vector for a whole sequence, float32 [hidden]."""
        return await self._in_thread(self._embed, tokens, hidden)

    async def _timed(self, kind, tokens):
        position, started, before = self.position, time.perf_counter(), self._counted()
        chosen = await self._in_thread(self._take_in, tokens)
        counters = {name: count - before[name] for name, count in self._counted().items()}
        self._step(Step(kind=kind, position=position, tokens=len(tokens), counters=counters,
                        seconds=time.perf_counter() - started))
        return chosen

    def _counted(self):
        return {name: getattr(self._transport, name) for name in ("sent", "received") if hasattr(self._transport, name)}

    async def _in_thread(self, function, *arguments):
        self._loop = asyncio.get_running_loop()
        return await asyncio.to_thread(function, *arguments)

    def _multiply(self, x, matrix):
        y = asyncio.run_coroutine_threadsafe(self._driver.linear(x, matrix), self._loop).result()
        self._products += 1
        self._product(self._products)
        return y


class OffloadComparison(Comparison):
    """``Comparison`` where the KV cache is the host's."""

    async def start(self):
        """There is no memory to prepare."""

    async def finish(self):
        """Compare the KV cache, layer by layer."""
        for layer, caches in enumerate(zip(self.device.caches, self.golden.caches, strict=True)):
            words, differ = differing_words(*(_bytes_of(cache, self.golden.position) for cache in caches))
            self.words += words
            if differ:
                self.differences.append(f"KV cache: {len(differ)} of {words} words of layer {layer} differ")


def _bytes_of(cache, used):
    """What the first positions of a KV cache hold, padded to words."""
    parts = [part[:, :used].tobytes() for part in (cache.k, cache.k_scale, cache.v, cache.v_scale) if part is not None]
    data = b"".join(parts)
    return np.frombuffer(data + bytes(-len(data) % 4), np.uint8)


def _remote(model, multiply):
    """The model with a ``RemoteMatrix`` in the place of each matrix of weights."""
    def remote(weights, names):
        return dict(weights) | {name: RemoteMatrix(weights[name], multiply) for name in names}

    layers = [remote(weights, shape.matrix_shapes) for shape, weights in zip(model.shapes, model.layers, strict=True)]
    return replace(model, layers=tuple(layers), tensors=remote(model.tensors, model.tensors.keys() & {"lm_head"}))
