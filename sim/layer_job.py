"""A compiled layer as a co-simulation job: memory map, runs, and the words that the golden model expects."""

from dataclasses import dataclass

import numpy as np

from .cosim import Job, Run, differing_words
from .golden.layer import KvCache, transformer_layer
from .golden.weights import BLOCK, stored_bytes

__all__ = ["LayerJob", "Chunk", "put_positions"]

PAGE = 4096
NOISE_SEED = 1


def _page(size):
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class Chunk:
    """One run of the layer's program: tokens from ``position`` on, as prefill or decode."""

    position: int
    tokens: int
    decode: bool


class LayerJob:
    """Runs a layer over the rows ``x``: the first ``prefill`` of them in prefill chunks, the rest one by one as decode.

    Memory starts as noise wherever nothing is known of it, the cache's positions to come among it: what the programs
    read too early, leave unwritten or write beside their places shows.

    Parameters
    ----------
    config : AcceleratorConfig
    shape, weights : LayerShape, mapping of names to tensors (golden)
    compiled : CompiledLayer
    x : float32 [tokens, hidden]     rows at positions ``first`` on
    prefill : int                    how many rows prefill takes
    tables : dict of golden Tables
    first : int, cache : KvCache     positions before, already in the cache (default: none)
    """

    def __init__(self, config, shape, weights, compiled, x, *, prefill, tables, first=0, cache=None):
        self._config, self._compiled, self._shape, self._x = config, compiled, shape, x
        self.chunks = self._cut(first, prefill, len(x), compiled.prefill_tokens)
        self._first = first
        cache = KvCache.empty(shape, compiled.kv.slots, compiled.kv.format.name) if cache is None else cache
        self._kv_base = _page(len(compiled.image))
        self._io_base = self._kv_base + _page(compiled.kv.size)
        self._io_stride = _page(compiled.io_size)
        self.bytes = self._io_base + len(self.chunks) * self._io_stride
        self._image = np.random.default_rng(NOISE_SEED).integers(0, 256, self.bytes, np.uint8)
        self._fill(cache)
        self._expect(shape, weights, cache, tables)

    @staticmethod
    def _cut(first, prefill, rows, most):
        chunks = [Chunk(first + at, min(most, prefill - at), False) for at in range(0, prefill, most)]
        return chunks + [Chunk(first + at, 1, True) for at in range(prefill, rows)]

    @property
    def compiled(self):
        """The CompiledLayer."""
        return self._compiled

    @property
    def caches(self):
        """For ``report.write_trace``."""
        return [(self._compiled.kv, 0)]

    @property
    def described(self):
        """Each run but its counters, for ``report.write_trace``."""
        return [{"name": f"{'decode' if chunk.decode else 'prefill'} at {chunk.position}",
                 "kind": "decode" if chunk.decode else "prefill", "position": chunk.position, "tokens": chunk.tokens}
                for chunk in self.chunks]

    @property
    def memory_bytes(self):
        """Size of the memory that holds the job: the next power of two."""
        return 1 << (self.bytes - 1).bit_length()

    @property
    def image(self):
        """Memory at the start."""
        return self._image.tobytes()

    def job(self, memory, *, watchdog=1_000_000):
        """The job with the memory model's settings ``memory``."""
        compiled = self._compiled
        runs = tuple(
            Run(compiled.decode if chunk.decode else compiled.prefill, (chunk.position, chunk.tokens),
                ((0, len(compiled.image), False), (self._kv_base, compiled.kv.size, True),
                 (self._io_base + i * self._io_stride, compiled.io_size, True)),
                label=run["name"])
            for i, (chunk, run) in enumerate(zip(self.chunks, self.described, strict=True)))
        return Job(runs, (0, self.bytes), int(self._config.sha256[:8], 16), memory, watchdog)

    def _rows(self, array, chunk_index, offset, tokens):
        """View of a chunk's rows of region 2 at ``offset`` in ``array``, as bytes [tokens, row_bytes]."""
        start = self._io_base + chunk_index * self._io_stride + offset
        return array[start:start + tokens * self._compiled.row_bytes].reshape(tokens, -1)

    def _kv(self, array):
        """View of region 1 in ``array``."""
        return array[self._kv_base:self._kv_base + self._compiled.kv.size]

    def _fill(self, cache):
        compiled = self._compiled
        self._image[:len(compiled.image)] = np.frombuffer(compiled.image, np.uint8)
        put_positions(self._kv(self._image), compiled.kv, cache, range(self._first))
        for i, chunk in enumerate(self.chunks):
            rows = np.ascontiguousarray(self._x[chunk.position - self._first:][:chunk.tokens], "<f4").view(np.uint8)
            self._rows(self._image, i, compiled.input, chunk.tokens)[:, :rows.shape[1]] = rows

    def _expect(self, shape, weights, cache, tables):
        """Golden output rows, and memory as it must be at the end: nothing but outputs and cache may have changed."""
        compiled = self._compiled
        self.expected_memory = self._image.copy()
        outputs = []
        for i, chunk in enumerate(self.chunks):
            rows = self._x[chunk.position - self._first:][:chunk.tokens]
            outputs.append(transformer_layer(shape, weights, cache, rows, chunk.position, tables))
            words = np.ascontiguousarray(outputs[-1], "<f4").view(np.uint8)
            self._rows(self.expected_memory, i, compiled.output, chunk.tokens)[:, :words.shape[1]] = words
        self.outputs = np.concatenate(outputs)
        self.cache = cache
        put_positions(self._kv(self.expected_memory), compiled.kv, cache, range(self._first + len(self._x)))

    def compare(self, memory):
        """``cosim.differing_words`` of all of the memory."""
        return differing_words(memory, self.expected_memory)

    def place(self, offset):
        """What lies at an offset of the memory, in words."""
        if offset < self._kv_base:
            return "program and weights"
        if offset < self._io_base:
            return "KV cache"
        chunk, within = divmod(offset - self._io_base, self._io_stride)
        row, byte = divmod(within - self._compiled.output, self._compiled.row_bytes)
        if row < 0:
            return f"input of run {chunk}"
        return f"output of run {chunk}, token {row}, element {byte // 4}"

    def streamed_bytes(self, chunk, weights):
        """Weights with their scales once, and the cache up to the run's last token once: what decode is bound by."""
        matrices = sum(stored_bytes(weights[name]) for name in self._shape.matrix_shapes)
        return matrices + min(chunk.position + chunk.tokens, self._compiled.kv.slots) * self._position_bytes

    def least_bytes(self, chunk, weights):
        """Fewest bytes a run can move: ``streamed_bytes``, its own K and V written once, its rows in and out."""
        return (self.streamed_bytes(chunk, weights)
                + chunk.tokens * (self._position_bytes + 2 * self._compiled.row_bytes))

    @property
    def _position_bytes(self):
        """K and V of a position with their scales."""
        kv = self._compiled.kv
        if kv.format.name == "fp16":
            return kv.kv_heads * 4 * kv.head_dim
        return kv.kv_heads * (2 * kv.head_dim + 2 * -(-kv.head_dim // BLOCK) + 4)


def put_positions(region, layout, cache, positions):
    """Write these positions of a golden cache into region 1, by the memory layouts of docs/architecture.md."""
    lanes, outputs = layout.lanes, layout.outputs
    element = lanes // outputs   # bytes of a key's or value's element
    for head in range(layout.kv_heads):
        keys = region[head * layout.k_head_bytes:][:layout.k_head_bytes].reshape(-1, layout.k_tile_bytes)
        values = region[layout.v_offset + head * layout.v_head_bytes:][:layout.v_head_bytes]
        values = values.reshape(layout.v_tiles, layout.slots, lanes)
        for slot in {position % layout.slots for position in positions}:
            tile, lane = divmod(slot, outputs)
            at = 0
            for block, first in enumerate(range(0, layout.head_dim, BLOCK)):
                key = cache.k[head, slot, first:first + BLOCK].view(np.uint8).reshape(-1, element)
                beats = keys[tile, at:at + lanes * len(key)].reshape(-1, lanes)
                beats[:, lane * element:(lane + 1) * element] = key
                at += lanes * len(key)
                if cache.k_scale is not None:
                    scale = cache.k_scale[head, slot, block:block + 1].view(np.uint8)
                    keys[tile, at + 2 * lane:at + 2 * lane + 2] = scale
                    at += 2 * lanes
            for tile in range(layout.v_tiles):
                value = cache.v[head, slot, tile * outputs:(tile + 1) * outputs].view(np.uint8)
                values[tile, slot, :len(value)] = value
            if cache.v_scale is not None:
                scales = region[layout.scale_offset + head * layout.scale_head_bytes:][:4 * layout.slots].view("<f4")
                scales[slot] = cache.v_scale[head, slot]
