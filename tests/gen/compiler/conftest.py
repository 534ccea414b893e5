"""A compiled layer on the functional machine beside the golden layer."""

from dataclasses import dataclass

import numpy as np
import pytest

from tilewright.gen.compiler.layer import compile_layer
from tilewright.gen.functions import function_tables
from tilewright.sim.golden.functions import table_from
from tilewright.sim.golden.layer import KvCache, LayerShape, quantise_weights, transformer_layer
from tilewright.sim.machine import Machine


@dataclass(eq=False)
class LayerBench:
    """Runs tokens through program and golden layer; memory starts with noise, so that nothing unwritten passes."""

    config: object
    shape: LayerShape
    context: int
    seed: int
    formats: tuple = ("int8", "int8")   # of weights, of the KV cache

    def __post_init__(self):
        print(f"seed {self.seed}")
        self.random = np.random.default_rng(self.seed)
        tables = function_tables(self.config.functions)
        arrays = {name: self.random.normal(size=size).astype(np.float32) / np.sqrt(size[1])
                  for name, size in self.shape.matrix_shapes.items()}
        vectors = {name: self.random.normal(0 if name.endswith("bias") else 1, 0.1, size=size)
                   for name, size in self.shape.vector_sizes.items()}
        weight_format, kv_format = self.formats
        self.weights = quantise_weights(self.shape, arrays | vectors, weight_format)
        self.layer = compile_layer(self.config, self.shape, self.weights, context=self.context, kv_format=kv_format)
        self.tables = {table.name: table_from(table) for table in tables}
        self.machine = Machine(self.config, tables)
        self.machine.regions[:3] = [bytearray(self.layer.image), bytearray(self.random.bytes(self.layer.kv.size)),
                                    bytearray(self.random.bytes(self.layer.io_size))]
        self.cache = KvCache.empty(self.shape, self.layer.kv.slots, kv_format)
        self.expected_region = np.array(self.machine.regions[1])
        self.position = 0

    def run(self, tokens, *, decode=False):
        """Machine's and golden output rows of the next ``tokens`` tokens, as bit patterns."""
        layer, machine = self.layer, self.machine
        x = self.random.normal(0, 3, size=(tokens, self.shape.hidden)).astype(np.float32)
        io = np.frombuffer(machine.regions[2], np.uint32).reshape(-1, layer.row_bytes // 4)
        io[layer.input // layer.row_bytes:][:tokens, :self.shape.hidden] = x.view(np.uint32)
        machine.run(layer.decode if decode else layer.prefill, (self.position, tokens))
        expected = transformer_layer(self.shape, self.weights, self.cache, x, self.position, self.tables)
        for position in range(self.position, self.position + tokens):
            self._put_position(position)
        self.position += tokens
        return io[layer.output // layer.row_bytes:][:tokens, :self.shape.hidden].copy(), expected.view(np.uint32)

    def _put_position(self, p):
        """The golden cache's row of position p, byte by byte where the layout says."""
        p %= self.cache.slots
        if self.formats[1] == "fp16":
            self._put_fp16_position(p)
            return
        region, cache, lanes, dim = self.expected_region, self.cache, self.config.lanes, self.shape.head_dim
        heads, context = self.shape.kv_heads, self.cache.slots
        tile_bytes = dim * lanes + -(-dim // 32) * 2 * lanes
        k_bytes, tiles = -(-context // lanes) * tile_bytes, -(-dim // lanes)
        scale_bytes = -(-4 * context // lanes) * lanes
        for head in range(heads):
            tile = head * k_bytes + p // lanes * tile_bytes
            for j in range(dim):
                region[tile + j * lanes + j // 32 * 2 * lanes + p % lanes] = cache.k[head, p].view(np.uint8)[j]
                v = heads * k_bytes + (head * tiles + j // lanes) * context * lanes
                region[v + p * lanes + j % lanes] = cache.v[head, p].view(np.uint8)[j]
            for block in range(-(-dim // 32)):
                at = tile + min(32 * (block + 1), dim) * lanes + block * 2 * lanes + 2 * (p % lanes)
                region[at:at + 2] = cache.k_scale[head, p, block:block + 1].view(np.uint8)
            at = heads * (k_bytes + tiles * context * lanes) + head * scale_bytes + 4 * p
            region[at:at + 4] = cache.v_scale[head, p:p + 1].view(np.uint8)

    def _put_fp16_position(self, p):
        region, cache, lanes, dim = self.expected_region, self.cache, self.config.lanes, self.shape.head_dim
        heads, slots, half = self.shape.kv_heads, self.cache.slots, self.config.lanes // 2
        k_bytes, tiles = -(-slots // half) * dim * lanes, -(-dim // half)
        for head in range(heads):
            for j in range(dim):
                k = head * k_bytes + p // half * dim * lanes + j * lanes + p % half * 2
                region[k:k + 2] = cache.k[head, p, j:j + 1].view(np.uint8)
                v = heads * k_bytes + (head * tiles + j // half) * slots * lanes + p * lanes + j % half * 2
                region[v:v + 2] = cache.v[head, p, j:j + 1].view(np.uint8)

    def check(self, tokens, *, decode=False):
        """Output and whole KV region equal to the bit."""
        out, expected = self.run(tokens, decode=decode)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(np.array(self.machine.regions[1]), self.expected_region)


@pytest.fixture
def layer_bench():
    def make(config, *, context, seed, formats=("int8", "int8"), **sizes):
        options = {"norm_eps": 1e-5, "rope_theta": 1e4, "rope_pairing": "interleaved"} | sizes
        return LayerBench(config, LayerShape(**options), context, seed, formats)
    return make
