"""Matrix products on an accelerator whose commands the host issues one by one."""

import numpy as np

from tilewright.hw.commands import Opcode, Unit, encode
from tilewright.hw.config import BLOCK
from tilewright.hw.direct.accelerator import ACTIVATIONS, CODES, SCRATCHPAD, WEIGHTS
from tilewright.hw.direct.registers import DIRECT_MAP, command_offset
from tilewright.sim.golden import a8

from .compiler.formats import MatrixFormat, tile_matrix
from .driver import Driver, ProgramError
from .errors import UserError

__all__ = ["DirectDriver"]


class DirectDriver:
    """INT8 products, block scales included, to the bit as the whole accelerator computes them.

    transport : as for ``Driver``, with memory
    config : AcceleratorConfig, with ``vector_lanes`` = 0
    """

    def __init__(self, transport, config):
        self._transport, self._config = transport, config
        self._format = MatrixFormat(config, "int8")
        self._control = {field.name: 1 << field.lsb for field in DIRECT_MAP["control"].fields}

    async def check(self):
        """Raise UserError unless the hardware is a build of the configuration. Forgets what was in work before."""
        await Driver(self._transport).check(int(self._config.sha256[:8], 16))
        await self._set("abort")
        await self._set("clear_interrupt")

    async def linear(self, x, weights):
        """``linear_a8`` of FP32 rows, rounded to A8 here: float32 [m, n] of float32 [m, k] and ``QuantisedMatrix``."""
        return await self.linear_a8(*a8.quantise(x), weights)

    async def linear_a8(self, q, code, weights):
        """q @ weights.T with all scales: float32 [m, n].

        q : int8 [m, k], code : uint8 [m, blocks]   activations and their scale codes
        weights : QuantisedMatrix [n, k]

        Weights and rows are taken in as many parts as the memories ask for. Raises UserError where k is too large, and
        ProgramError.
        """
        (m, k), n, config = q.shape, len(weights.q), self._config
        stride = -(-k // BLOCK) * BLOCK
        most_tiles = config.scratchpad_bytes // self._format.tile_bytes(k)
        if stride > config.activation_depth or not most_tiles:
            raise UserError(f"{config.name}: k = {k}: must be at most activation_depth = {config.activation_depth}; "
                            "split the product along k, or take another preset")
        rows = min(m, config.activation_depth // stride)
        most_tiles = min(most_tiles, config.scratchpad_groups // (rows * config.lanes))
        tiles, out = tile_matrix(weights, config), np.empty((m, n), np.float32)
        for tile in range(0, len(tiles), most_tiles):
            part = tiles[tile:tile + most_tiles]
            outputs = slice(tile * config.lanes, min(n, (tile + len(part)) * config.lanes))
            await self._transport.load(WEIGHTS, part.tobytes())
            for row in range(0, m, rows):
                here = slice(row, min(m, row + rows))
                await self._load_activations(q[here], code[here], stride)
                out[here, outputs] = await self._multiply(
                    rows=here.stop - row, n=outputs.stop - outputs.start, k=k, stride=stride, tiles=part)
        return out

    async def _load_activations(self, q, code, stride):
        padded = np.zeros((len(q), stride), np.int8)
        padded[:, :q.shape[1]] = q
        await self._transport.load(ACTIVATIONS, padded.astype("<i4").tobytes())
        await self._transport.load(CODES, code.astype("<u4").tobytes())

    async def _multiply(self, *, rows, n, k, stride, tiles):
        await self._set("clear_interrupt")
        # The MATMUL waits for its weights, so that the interrupt comes when both have ended.
        await self._issue(Unit.MATMUL, scaled=1, k=k, n=n, rows=rows, group_stride=stride, dest_stride=n)
        await self._issue(Unit.STREAM, scaled=1, k=k, tiles=len(tiles), tile_stride=tiles.shape[1])
        await self._transport.wait()
        driver = Driver(self._transport)
        if (await driver.read_fields("status"))["error"]:
            error = ProgramError(await driver.read("error_code"), await driver.read("error_address"))
            await self._set("abort")
            raise error
        data = await self._transport.fetch(SCRATCHPAD, 4 * rows * n)
        return np.frombuffer(data, "<f4").reshape(rows, n)

    async def _issue(self, unit, **values):
        words = encode(Opcode[unit.name], **values)
        for word in range(len(words)):
            if f"{unit.name.lower()}_word{word}" in DIRECT_MAP:
                await self._transport.write(command_offset(unit, word), words[word])
        await self._set(unit.name.lower())

    async def _set(self, name):
        await self._transport.write(DIRECT_MAP["control"].offset, self._control[name])
