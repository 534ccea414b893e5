"""A model run by the host on an engine that multiplies for it: tokens, what goes over the link, refusals, errors."""

import asyncio
import re

import numpy as np
import pytest

from tilewright.gen.completion import GoldenGenerator, complete
from tilewright.gen.configuration import load_preset
from tilewright.gen.direct import DirectDriver
from tilewright.gen.driver import ProgramError
from tilewright.gen.errors import UserError
from tilewright.gen.offload import OffloadComparison, OffloadGenerator, check_matrices, offload_tables
from tilewright.hw.commands import Unit
from tilewright.hw.direct.accelerator import ACTIVATIONS, CODES, SCRATCHPAD, WEIGHTS
from tilewright.hw.direct.registers import DIRECT_MAP
from tilewright.hw.registers import IDENTITY, VERSION, ErrorCode
from tilewright.sim.golden import layer
from tilewright.sim.golden.matmul import linear
from tilewright.sim.golden.model import greedy
from tilewright.sim.golden.weights import quantise, quantise_int4
from tilewright.sim.weight_tiles import take_apart

SEED, VOCAB, CONTEXT = 47, 61, 12
FIELDS = {"format": 0, "scaled": 1, "minimum": 0}
MATRICES = 2 * 7 + 1


class Engine:
    """Registers and memories of the engine, and its products by numbers.

    ``sent``: bytes that came over the link, ``loaded``: those of weights. ``failure``: how the next product ends
    instead; ``spoil``: the number of the product whose first result has the wrong sign.
    """

    def __init__(self, config):
        self._config = config
        self.registers = {register.offset: 0 for register in DIRECT_MAP.values()} | {
            DIRECT_MAP[name].offset: value for name, value in (
                ("identity", IDENTITY), ("version", VERSION), ("config_hash", int(config.sha256[:8], 16)))}
        self.memory = np.random.default_rng(SEED).integers(0, 256, 0x4_0000, np.uint8)
        self.loaded = self.products = self.sent = 0
        self.failure = self.spoil = None

    async def read(self, offset):
        return self.registers[offset]

    async def write(self, offset, value):
        self.registers[offset] = value
        if offset == DIRECT_MAP["control"].offset and value >> 8 & 1:
            self._multiply()

    async def wait(self):
        pass

    async def load(self, address, data):
        assert address % 4 == 0 and len(data) % 4 == 0
        size = self._config.scratchpad_bytes
        if address < SCRATCHPAD:
            assert address - WEIGHTS + len(data) <= size
            self.loaded += len(data)
        self.sent += len(data)
        self.memory[address:address + len(data)] = np.frombuffer(data, np.uint8)

    async def fetch(self, address, size):
        return self.memory[address:address + size].tobytes()

    def _fields(self, unit):
        return {field.name: self.registers[register.offset] >> field.lsb & (1 << field.width) - 1
                for register in DIRECT_MAP.values() if register.name.startswith(f"{unit.name.lower()}_word")
                for field in register.fields}

    def _multiply(self):
        stream, matmul = self._fields(Unit.STREAM), self._fields(Unit.MATMUL)
        if self.failure:
            self.registers |= {DIRECT_MAP["status"].offset: 0b1100, DIRECT_MAP["error_code"].offset: self.failure}
            return
        k, n, rows, lanes = matmul["k"], matmul["n"], matmul["rows"], self._config.lanes
        assert stream["k"] == k and stream["tiles"] == -(-n // lanes) and matmul["dest_stride"] == n
        data = self.memory[WEIGHTS:][stream["offset"] + stream["tile_stride"] * np.arange(stream["tiles"])[:, None]
                                     + np.arange(stream["tile_stride"])]
        tiles = take_apart(data, FIELDS | {"k": k}, self._config)
        w = tiles.weights.swapaxes(1, 2).reshape(-1, k)[:n]
        d = tiles.scales.swapaxes(1, 2).reshape(len(data) * lanes, -1)[:n]
        at = matmul["group_stride"] * np.arange(rows)[:, None] + np.arange(k)
        codes = self.memory[CODES::4].reshape(-1)[:-(-matmul["group_stride"] // 32) * rows].reshape(rows, -1)
        y = linear(self.memory[ACTIVATIONS:CODES].view(np.int8)[4 * at], codes, w, d)
        if self.products == self.spoil:
            y[0, 0] *= -1
        self.products += 1
        self.memory[SCRATCHPAD:SCRATCHPAD + y.nbytes] = np.frombuffer(y.tobytes(), np.uint8)


@pytest.fixture(scope="module")
def config():
    return load_preset("nano")


def both(engine, model, config, **options):
    sizes = {"context": CONTEXT, "slots": [CONTEXT] * 2, "kv_format": "int8"}
    tables = offload_tables(model)
    return OffloadComparison(device=OffloadGenerator(engine, model, tables, config=config, **sizes, **options),
                             golden=GoldenGenerator(model, tables, **sizes))


async def told(pair, prompt, count):
    await pair.device.load()
    await pair.start()
    tokens = [token async for token in complete(pair, prompt, count)]
    await pair.finish()
    return tokens


def test_tokens_and_words_of_the_golden_model(config, make_model):
    """Every product of a weight matrix comes from the engine, the prompt's rows at once."""
    model, engine, steps, products = make_model(SEED, VOCAB), Engine(config), [], []
    pair = both(engine, model, config, step=steps.append, product=products.append)
    tokens = asyncio.run(told(pair, [5, 60, 0, 17], 3))
    assert tokens == greedy(model, model.empty_caches(CONTEXT), [5, 60, 0, 17], 3, offload_tables(model))
    assert pair.differences == []
    position, layers, head_dim = 4 + 2, 2, model.shapes[0].head_dim
    assert pair.words == 3 * VOCAB + layers * position * (2 * head_dim + 2 + 4) // 4
    assert [(step.kind, step.position, step.tokens) for step in steps] == [("prefill", 0, 4), ("decode", 4, 1),
                                                                          ("decode", 5, 1)]
    # A word for each activation and each of their scale codes: six matrices of a layer take 32, down_proj 44.
    row, head = 4 * 2 * (6 * (32 + 1) + (64 + 2)), 4 * (32 + 1)
    assert [step.counters for step in steps] == [{"sent": rows * row + head} for rows in (4, 1, 1)]
    assert engine.products == 3 * MATRICES and products == list(range(1, engine.products + 1))


def test_an_encoders_embedding(config, make_model):
    model, engine = make_model(SEED, VOCAB, causal=False), Engine(config)
    del model.tensors["lm_head"]
    pair = both(engine, model, config)

    async def run():
        await pair.device.load()
        return await pair.embedding([5, 60, 0], model.shapes[0].hidden)

    assert len(asyncio.run(run())) == pair.words == model.shapes[0].hidden and pair.differences == []
    assert engine.products == MATRICES - 1


def test_matrices_that_have_room_go_over_the_link_once(config, make_model):
    model, engine = make_model(SEED, VOCAB), Engine(config)
    pair = both(engine, model, config)
    asyncio.run(told(pair, [5, 6], 3))
    sizes = [-(-len(m.q) // 4) * 4 * (m.q.shape[1] + 2 * m.d.shape[1]) for weights in (*model.layers, model.tensors)
             for m in weights.values() if hasattr(m, "q")]
    assert len(sizes) == MATRICES and engine.loaded == sum(sizes) < config.scratchpad_bytes


def test_matrices_without_room_come_each_time(config, make_model):
    """Of 15 matrices that are more than the memory holds some stay; a quarter of it is left to the others."""
    model, engine = make_model(SEED, VOCAB, ffn=700), Engine(config)
    pair = both(engine, model, config)

    async def run():
        loads = []
        await pair.device.load()
        loads.append(engine.loaded)
        for take_in, argument in ((pair.prompt, [5, 6, 7]), (pair.next, 8), (pair.next, 9)):
            await take_in(argument)
            loads.append(engine.loaded - sum(loads))
        await pair.finish()
        return loads

    kept, *each = asyncio.run(run())
    assert pair.differences == [] and len(set(each)) == 1
    assert 0 < kept <= config.scratchpad_bytes * 3 // 4 and kept + each[0] > config.scratchpad_bytes


def test_kept_matrices_give_way_to_a_tile_without_room(config):
    engine, rng = Engine(config), np.random.default_rng(SEED)
    narrow, wide = (quantise(rng.normal(size=size).astype(np.float32)) for size in ((900, 64), (5, 2048)))

    async def run():
        driver = DirectDriver(engine, config)
        await driver.check()
        await driver.keep([narrow])
        for matrix in (narrow, wide, narrow):
            before = engine.loaded
            x = rng.normal(size=(2, matrix.q.shape[1])).astype(np.float32)
            got = await driver.linear(x, matrix)
            assert np.array_equal(got.view(np.uint32), layer.linear(x, matrix).view(np.uint32))
            yield engine.loaded - before

    async def collected():
        return [loaded async for loaded in run()]

    first, _, again = asyncio.run(collected())
    assert first == 0 and again == 900 * 68


@pytest.mark.parametrize("product, line", [
    (MATRICES - 1, "logits behind position 1: 1 of 61 differ, the first of token 0: got "),
    (MATRICES, r"KV cache: \d+ of 29 words of layer 0 differ")])
def test_differences_are_told(config, make_model, product, line):
    """A wrong sign of a logit; of a key of the second step."""
    engine = Engine(config)
    engine.spoil = product
    pair = both(engine, make_model(SEED, VOCAB), config)
    asyncio.run(told(pair, [5, 6], 2))
    assert any(re.match(line, difference) for difference in pair.differences), pair.differences


@pytest.mark.parametrize("change, line", [
    ({"q_proj": quantise_int4(np.eye(32, dtype=np.float32))},
     "layers.1.q_proj: nano multiplies by matrices in INT8 alone; take --weights int8"),
    ({"down_proj": quantise(np.ones((32, 2049), np.float32))},
     "layers.1.down_proj: k = 2049: must be at most 2048 on nano, its activation_depth; ")])
def test_matrices_that_the_engine_cannot_take(config, make_model, change, line):
    model = make_model(SEED, VOCAB)
    model.layers[1].update(change)
    with pytest.raises(UserError) as raised:
        check_matrices(config, model)
    assert str(raised.value).startswith(line)


def test_an_error_of_the_hardware_is_the_callers(config, make_model):
    """It comes out of the golden model's thread; the position stays."""
    engine = Engine(config)
    device = both(engine, make_model(SEED, VOCAB), config).device

    async def run():
        await device.load()
        await device.prompt([5])
        engine.failure = ErrorCode.READ_RANGE
        with pytest.raises(ProgramError, match="READ_RANGE"):
            await device.next(6)

    asyncio.run(run())
    assert device.position == 1


def test_another_configuration_is_refused(config, make_model):
    engine = Engine(config)
    engine.registers[DIRECT_MAP["config_hash"].offset] ^= 1
    with pytest.raises(UserError, match="config_hash = "):
        asyncio.run(both(engine, make_model(SEED, VOCAB), config).device.load())
