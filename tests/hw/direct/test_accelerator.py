"""The accelerator under a host's direct control: products against the golden model, errors, and what is refused."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from tilewright.fpga.primitives.spram import SinglePortRam
from tilewright.gen.configuration import load_preset
from tilewright.gen.direct import DirectDriver
from tilewright.gen.errors import UserError
from tilewright.hw.commands import Unit
from tilewright.hw.config import AcceleratorConfig
from tilewright.hw.direct.accelerator import ACTIVATIONS, CODES, SCRATCHPAD, WEIGHTS, DirectAccelerator
from tilewright.hw.direct.registers import DIRECT_MAP, command_offset
from tilewright.hw.registers import ErrorCode
from tilewright.sim.golden import a8
from tilewright.sim.golden.matmul import linear
from tilewright.sim.golden.weights import QuantisedMatrix, quantise

SMALL = {"scratchpad_bytes": 4096, "activation_depth": 256, "prefetch_beats": 128, "max_hidden": 256,
         "max_context": 256, "max_head_dim": 32}
BURST = 16
PATIENCE = 20_000


def small_config():
    return AcceleratorConfig(**{name: getattr(load_preset("nano"), name)
                                for name in AcceleratorConfig.__dataclass_fields__} | SMALL)


class Bus:
    """A transport for drivers on the ports of the accelerator, with pauses at random."""

    def __init__(self, ctx, dut, rng):
        self._ctx, self._dut, self._rng = ctx, dut, rng
        self.responses = []

    async def _until(self, *signals):
        for _ in range(PATIENCE):
            values = [self._ctx.get(signal) for signal in signals]
            if any(values):
                return values
            await self._ctx.tick()
        raise AssertionError("nothing happens")

    async def _handshake(self, valid, ready):
        self._ctx.set(valid, 1)
        await self._until(ready)
        await self._ctx.tick()
        self._ctx.set(valid, 0)

    async def _pause(self):
        await self._ctx.tick().repeat(int(self._rng.integers(1, 4)))

    async def write(self, offset, value):
        bus, ctx = self._dut.registers, self._ctx
        for signal, level in ((bus.awaddr, offset), (bus.wdata, value), (bus.wstrb, 15), (bus.wvalid, 1),
                              (bus.bready, 1)):
            ctx.set(signal, level)
        await self._handshake(bus.awvalid, bus.awready)
        ctx.set(bus.wvalid, 0)
        await self._until(bus.bvalid)
        self.responses.append(ctx.get(bus.bresp))
        await ctx.tick()

    async def read(self, offset):
        bus, ctx = self._dut.registers, self._ctx
        ctx.set(bus.araddr, offset)
        ctx.set(bus.rready, 1)
        await self._handshake(bus.arvalid, bus.arready)
        await self._until(bus.rvalid)
        value = ctx.get(bus.rdata)
        self.responses.append(ctx.get(bus.rresp))
        await ctx.tick()
        return value

    async def wait(self):
        await self._until(self._dut.irq)

    async def load(self, address, data):
        axi, ctx = self._dut.write, self._ctx
        data = data + b"\xEE" * (-len(data) % 4)
        for at in range(0, len(data), 4 * BURST):
            words = [data[i:i + 4] for i in range(at, min(len(data), at + 4 * BURST), 4)]
            ctx.set(axi.awaddr, address + at)
            ctx.set(axi.awlen, len(words) - 1)
            await self._handshake(axi.awvalid, axi.awready)
            for i, word in enumerate(words):
                await self._pause()
                ctx.set(axi.wdata, int.from_bytes(word, "little"))
                ctx.set(axi.wstrb, 15)
                ctx.set(axi.wlast, i == len(words) - 1)
                await self._handshake(axi.wvalid, axi.wready)
            ctx.set(axi.bready, 1)
            await self._until(axi.bvalid)
            self.responses.append(ctx.get(axi.bresp))
            await ctx.tick()
            ctx.set(axi.bready, 0)

    async def fetch(self, address, size):
        axi, ctx, data = self._dut.read, self._ctx, b""
        for at in range(0, size, 4 * BURST):
            count = min(BURST, -(-(size - at) // 4))
            ctx.set(axi.araddr, address + at)
            ctx.set(axi.arlen, count - 1)
            await self._handshake(axi.arvalid, axi.arready)
            for i in range(count):
                await self._pause()
                ctx.set(axi.rready, 1)
                await self._until(axi.rvalid)
                assert ctx.get(axi.rlast) == (i == count - 1)
                data += ctx.get(axi.rdata).to_bytes(4, "little")
                self.responses.append(ctx.get(axi.rresp))
                await ctx.tick()
                ctx.set(axi.rready, 0)
        return data[:size]


def run(testbench, seed=1):
    """Run ``testbench(bus, config)`` on the small configuration with its RAMs."""
    config, m = small_config(), Module()
    m.submodules.dut = dut = DirectAccelerator(config)
    for name in ("weights", "scratchpad"):
        m.submodules[name] = ram = SinglePortRam(family=None, depth=config.scratchpad_groups, width=32)
        wiring.connect(m, getattr(dut, name), ram.port)
    simulator = Simulator(m)
    simulator.add_clock(1e-6)

    async def bench(ctx):
        print(f"seed {seed}")
        await testbench(Bus(ctx, dut, np.random.default_rng(seed)), config)
    simulator.add_testbench(bench)
    simulator.run()


async def issue(driver, unit, **values):
    """One command on its own."""
    await driver._put(unit, **values)
    await driver._set(unit.name.lower())


# Several rows at a time, in several parts, one by one; blocks of one beat, tiles of less than a block.
@pytest.mark.parametrize("m, n, k", [
    (3, 10, 70), (4, 9, 7), (3, 5, 33), (2, 6, 1), (2, 6, 200), pytest.param(5, 21, 96, marks=pytest.mark.slow)])
def test_product(m, n, k):
    async def testbench(bus, config):
        rng = np.random.default_rng(k)
        x = (rng.standard_normal((m, k)) * 10.0 ** rng.integers(-3, 4, (m, 1))).astype(np.float32)
        weights = quantise(rng.standard_normal((n, k)).astype(np.float32))
        driver = DirectDriver(bus, config)
        await driver.check()
        got = await driver.linear(x, weights)
        expected = linear(*a8.quantise(x), *weights)
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))
        assert not any(bus.responses)
    run(testbench)


def test_kept_matrices_beside_one_that_comes_each_time():
    """More bytes than the memory has; the second kept one begins behind the first, and the other comes in parts."""
    async def testbench(bus, config):
        rng = np.random.default_rng(9)
        matrices = [quantise(rng.standard_normal(size).astype(np.float32)) for size in ((6, 40), (23, 33), (32, 96))]
        driver = DirectDriver(bus, config)
        await driver.check()
        await driver.keep(matrices)
        for weights in (*matrices, matrices[1]):
            x = rng.standard_normal((1, weights.q.shape[1])).astype(np.float32)
            got = await driver.linear(x, weights)
            assert np.array_equal(got.view(np.uint32), linear(*a8.quantise(x), *weights).view(np.uint32))
        assert not any(bus.responses)
    run(testbench)


def test_with_and_without_scales():
    """Products without block scales between others, several tiles and rows each."""
    async def testbench(bus, config):
        rng = np.random.default_rng(8)
        driver = DirectDriver(bus, config)
        await driver.check()
        n, rows = 7, 2
        for k, scaled in ((70, True), (40, False), (65, False), (33, True), (1, False), (96, True)):
            blocks = -(-k // 32)
            q, w = (rng.integers(-127, 128, (count, k)).astype(np.int8) for count in (rows, n))
            code = rng.integers(40, 120, (rows, blocks)).astype(np.uint8)
            if scaled:
                d = (rng.normal(size=(n, blocks)) * 0.01).astype(np.float16)
                got = await driver.linear_a8(q, code, QuantisedMatrix(w, d))
                assert np.array_equal(got.view(np.uint32), linear(q, code, w, d).view(np.uint32))
                continue
            padded = np.zeros((8, k), np.int8)
            padded[:n] = w
            await bus.load(WEIGHTS, padded.reshape(2, 4, k).transpose(0, 2, 1).tobytes())
            await driver._load_activations(q, code, 32 * blocks)
            await driver._set("clear_interrupt")
            await issue(driver, Unit.MATMUL, k=k, n=n, rows=rows, group_stride=32 * blocks, dest_stride=n)
            await issue(driver, Unit.STREAM, k=k, tiles=2, tile_stride=4 * k)
            await bus.wait()
            assert await bus.read(DIRECT_MAP["status"].offset) == 0b1010
            got = np.frombuffer(await bus.fetch(SCRATCHPAD, 4 * rows * n), "<u4").reshape(rows, n)
            assert np.array_equal(got, linear(q, code, w, None).view(np.uint32))
    run(testbench)


def test_errors_name_the_command_and_are_forgotten():
    async def testbench(bus, config):
        driver = DirectDriver(bus, config)
        q, code = np.ones((1, 32), np.int8), np.full((1, 1), 88, np.uint8)
        weights = quantise(np.ones((4, 32), np.float32))
        for unit, values, error in (
                (Unit.STREAM, {"k": 0, "tiles": 1}, ErrorCode.BAD_FIELD),
                (Unit.STREAM, {"k": 32, "tiles": 1, "offset": 0x1_0000}, ErrorCode.READ_RANGE),
                (Unit.MATMUL, {"k": 0, "n": 1, "rows": 1}, ErrorCode.BAD_FIELD),
                (Unit.MATMUL, {"k": 64, "n": 1, "rows": 1, "activation": 224}, ErrorCode.ACTIVATION_RANGE)):
            await driver.check()
            await issue(driver, unit, **values)
            await bus.wait()
            assert await bus.read(DIRECT_MAP["status"].offset) == 0b1100
            assert await bus.read(DIRECT_MAP["error_code"].offset) == error
            assert await bus.read(DIRECT_MAP["error_address"].offset) == command_offset(unit)
            await driver.check()
            assert await bus.read(DIRECT_MAP["status"].offset) == 0b0010
            assert np.array_equal(await driver.linear_a8(q, code, weights), linear(q, code, *weights))
    run(testbench)


def test_scratchpad_error_through_the_driver():
    async def testbench(bus, config):
        driver = DirectDriver(bus, config)
        await bus.load(WEIGHTS, bytes(4096))
        await issue(driver, Unit.STREAM, k=32, tiles=1, tile_stride=128)
        await issue(driver, Unit.MATMUL, k=32, n=4, rows=1, dest=1022)
        await bus.wait()
        assert await bus.read(DIRECT_MAP["error_code"].offset) == ErrorCode.SCRATCHPAD_RANGE
        await driver.check()
        # Nothing was written before the last groups.
        assert await bus.fetch(SCRATCHPAD, 16) == bytes(16)
    run(testbench)


def test_window():
    async def testbench(bus, config):
        rng = np.random.default_rng(5)
        images = {base: rng.integers(0, 256, 300, np.uint8).tobytes() for base in (WEIGHTS + 64, SCRATCHPAD)}
        for base, image in images.items():
            await bus.load(base, image)
        for base, image in images.items():
            assert await bus.fetch(base, 300) == image
        assert not any(bus.responses)
        for access in (bus.load(WEIGHTS + config.scratchpad_bytes, bytes(4)), bus.fetch(SCRATCHPAD + 0x8000, 4),
                       bus.load(ACTIVATIONS + 1024, bytes(4)), bus.load(CODES + 32, bytes(4)),
                       bus.fetch(ACTIVATIONS, 4), bus.fetch(CODES, 4)):
            bus.responses.clear()
            await access
            assert bus.responses == [2]
    run(testbench)


def test_too_long_is_refused():
    config = small_config()
    q, code = np.zeros((1, 288), np.int8), np.zeros((1, 9), np.uint8)
    with pytest.raises(UserError, match="weights: k = 288: must be at most 256 on nano, its activation_depth; split"):
        DirectDriver(None, config).linear_a8(q, code, quantise(np.zeros((4, 288), np.float32))).send(None)
    with pytest.raises(ValueError, match="vector_lanes must be 0"):
        DirectAccelerator(load_preset("micro"))
