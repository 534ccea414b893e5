"""Matrix products on an accelerator whose commands the host issues one by one."""

import numpy as np

from tilewright.hw.commands import Opcode, Unit, encode
from tilewright.hw.config import BLOCK
from tilewright.hw.direct.accelerator import ACTIVATIONS, CODES, SCRATCHPAD, WEIGHTS
from tilewright.hw.direct.registers import DIRECT_MAP, command_offset
from tilewright.sim.golden import a8
from tilewright.sim.golden.weights import QuantisedMatrix

from .compiler.formats import MatrixFormat, tile_matrix
from .driver import Driver, ProgramError
from .errors import UserError

__all__ = ["DirectDriver", "check_matrix"]


class DirectDriver:
    """INT8 products, block scales included, to the bit as the whole accelerator computes them.

    transport : as for ``Driver``, with memory
    config : AcceleratorConfig, with ``vector_lanes`` = 0
    """

    def __init__(self, transport, config):
        self._transport, self._config = transport, config
        self._format = MatrixFormat(config, "int8")
        self._kept, self._free = {}, 0      # id -> matrix, its offset in the weights' memory; the first byte behind all
        self._control = {field.name: 1 << field.lsb for field in DIRECT_MAP["control"].fields}

    async def check(self):
        """Raise UserError unless the hardware is a build of the configuration. Forgets what was in work before, and
        what was kept."""
        self._kept, self._free = {}, 0
        await Driver(self._transport).check(int(self._config.sha256[:8], 16))
        await self._set("abort")
        await self._set("clear_interrupt")

    async def keep(self, matrices):
        """Bring matrices into the memory of the weights, to stay there: all of them if there is room, else, in order,
        those that leave a quarter of it, and a tile, to the others."""
        room = self._config.scratchpad_bytes
        if sum(self._bytes_of(matrix) for matrix in matrices) > room:
            room -= max(room // 4, *(self._format.tile_bytes(matrix.q.shape[1]) for matrix in matrices))
        for matrix in matrices:
            if self._free + self._bytes_of(matrix) <= room:
                await self._transport.load(WEIGHTS + self._free, tile_matrix(matrix, self._config).tobytes())
                self._kept[id(matrix)] = matrix, self._free
                self._free += self._bytes_of(matrix)

    def _bytes_of(self, matrix):
        n, k = matrix.q.shape
        return self._format.tiles(n) * self._format.tile_bytes(k)

    async def linear(self, x, weights):
        """``linear_a8`` of FP32 rows, rounded to A8 here: float32 [m, n] of float32 [m, k] and ``QuantisedMatrix``."""
        return await self.linear_a8(*a8.quantise(x), weights)

    async def linear_a8(self, q, code, weights):
        """q @ weights.T with all scales: float32 [m, n].

        q : int8 [m, k], code : uint8 [m, blocks]   activations and their scale codes
        weights : QuantisedMatrix [n, k]

        Weights that are not kept go over the link; where those that are leave no room for a tile, they give way.
        Weights and rows are taken in as many parts as the memories ask for. Raises UserError where k is too large, and
        ProgramError.
        """
        (m, k), n, config = q.shape, len(weights.q), self._config
        check_matrix(config, "weights", weights)
        stride, tile_bytes = _stride(k), self._format.tile_bytes(k)
        rows = min(m, config.activation_depth // stride)
        most_tiles = config.scratchpad_groups // (rows * config.lanes)
        kept = self._kept.get(id(weights))
        if kept is None:
            if self._free + tile_bytes > config.scratchpad_bytes:
                self._kept, self._free = {}, 0
            tiles = tile_matrix(weights, config)
            most_tiles = min(most_tiles, (config.scratchpad_bytes - self._free) // tile_bytes)
        out = np.empty((m, n), np.float32)
        for tile in range(0, self._format.tiles(n), most_tiles):
            outputs = slice(tile * config.lanes, min(n, (tile + most_tiles) * config.lanes))
            if kept is None:
                await self._transport.load(WEIGHTS + self._free, tiles[tile:tile + most_tiles].tobytes())
            for row in range(0, m, rows):
                here = slice(row, min(m, row + rows))
                await self._load_activations(q[here], code[here], stride)
                out[here, outputs] = await self._multiply(
                    rows=here.stop - row, n=outputs.stop - outputs.start, k=k, stride=stride, tile_bytes=tile_bytes,
                    offset=self._free if kept is None else kept[1] + tile * tile_bytes)
        return out

    async def _load_activations(self, q, code, stride):
        padded = np.zeros((len(q), stride), np.int8)
        padded[:, :q.shape[1]] = q
        await self._transport.load(ACTIVATIONS, padded.astype("<i4").tobytes())
        await self._transport.load(CODES, code.astype("<u4").tobytes())

    async def _multiply(self, *, rows, n, k, stride, tile_bytes, offset):
        # Issued at once, so that the interrupt comes when both have ended.
        await self._put(Unit.MATMUL, scaled=1, k=k, n=n, rows=rows, group_stride=stride, dest_stride=n)
        await self._put(Unit.STREAM, scaled=1, offset=offset, k=k, tiles=self._format.tiles(n), tile_stride=tile_bytes)
        await self._set("clear_interrupt", "matmul", "stream")
        await self._transport.wait()
        driver = Driver(self._transport)
        if (await driver.read_fields("status"))["error"]:
            error = ProgramError(await driver.read("error_code"), await driver.read("error_address"))
            await self._set("abort")
            raise error
        data = await self._transport.fetch(SCRATCHPAD, 4 * rows * n)
        return np.frombuffer(data, "<f4").reshape(rows, n)

    async def _put(self, unit, **values):
        """Write a command's words, in as few accesses as the transport allows."""
        name, words = unit.name.lower(), encode(Opcode[unit.name], **values)
        held = [word for word in range(len(words)) if f"{name}_word{word}" in DIRECT_MAP]
        await Driver(self._transport).write_words(command_offset(unit, held[0]), words[held[0]:held[-1] + 1])

    async def _set(self, *names):
        await self._transport.write(DIRECT_MAP["control"].offset, sum(self._control[name] for name in names))


def _stride(k):
    """Reduction indices from a row of activations to the next."""
    return -(-k // BLOCK) * BLOCK


def check_matrix(config, name, matrix):
    """Raise UserError unless the engine of a configuration multiplies by this matrix."""
    if not isinstance(matrix, QuantisedMatrix):
        raise UserError(f"{name}: {config.name} multiplies by matrices in INT8 alone; take --weights int8")
    k, advice = matrix.q.shape[1], "split the product along k, or take another model or preset"
    if _stride(k) > config.activation_depth:
        raise UserError(f"{name}: k = {k}: must be at most {config.activation_depth} on {config.name}, its "
                        f"activation_depth; {advice}")
    if (size := MatrixFormat(config, "int8").tile_bytes(k)) > config.scratchpad_bytes:
        raise UserError(f"{name}: k = {k}: {config.lanes} outputs take {size:,} bytes, more than scratchpad_bytes = "
                        f"{config.scratchpad_bytes} of {config.name}; {advice}")
