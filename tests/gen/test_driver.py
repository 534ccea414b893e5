"""Driver and generator on a device that is the functional machine: chunks, positions, refusals, errors."""

import asyncio

import numpy as np
import pytest

from tilewright.gen.compiler.model import compile_model
from tilewright.gen.completion import Comparison, GoldenGenerator, complete, streamed_bytes
from tilewright.gen.configuration import load_preset
from tilewright.gen.driver import ContextError, Generator, ProgramError, best
from tilewright.gen.errors import UserError
from tilewright.gen.functions import function_tables
from tilewright.hw.registers import IDENTITY, REGISTER_MAP, VERSION, ErrorCode
from tilewright.sim.golden.functions import table_from
from tilewright.sim.golden.model import greedy
from tilewright.sim.machine import Machine

SEED, VOCAB, CONTEXT = 31, 61, 12
NAMES = {register.offset: register.name for register in REGISTER_MAP.values()}
KEEP = next(1 << field.lsb for field in REGISTER_MAP["control"].fields if field.name == "keep")


class MachineTransport:
    """Registers and memory in front of the functional machine. ``failure``: how the next program ends instead;
    ``kept``: whether each run was started with ``keep``."""

    def __init__(self, config, *, size=1 << 18, config_hash=None):
        self.registers = dict.fromkeys(REGISTER_MAP, 0) | {
            "identity": IDENTITY, "version": VERSION,
            "config_hash": int(config.sha256[:8], 16) if config_hash is None else config_hash}
        self.memory = bytearray(np.random.default_rng(SEED).bytes(size))
        self._machine = Machine(config, function_tables(config.functions))
        self.failure, self.runs, self.loads, self.kept = None, [], [], []

    async def read(self, offset):
        return self.registers[NAMES[offset]]

    async def write(self, offset, value):
        self.registers[NAMES[offset]] = value
        if NAMES[offset] == "control" and value & 1:
            self.kept.append(bool(value & KEEP))
            self._run()

    async def wait(self):
        assert self.registers["interrupt_enable"]

    async def load(self, address, data):
        assert address % 4 == 0 and len(data) % 4 == 0
        self.loads.append((address, len(data)))
        self.memory[address:address + len(data)] = data

    async def fetch(self, address, size):
        return bytes(self.memory[address:address + size])

    def _run(self):
        r = self.registers
        arguments = tuple(r[f"argument{i}"] for i in range(3))
        self.runs.append((r["program"], arguments))
        if self.failure:
            r["error_code"], r["error_address"] = self.failure
            r["status"] = 0b100
            return
        places = [(r[f"region{i}_base_low"], r[f"region{i}_size"]) for i in range(3)]
        self._machine.regions[:3] = [self.memory[base:base + size] for base, size in places]
        self._machine.run(r["program"], arguments)
        for i, (base, size) in enumerate(places):
            if r["writable"] >> i & 1:
                self.memory[base:base + size] = self._machine.regions[i]
        r["status"], r["count_cycles_low"] = 0b010, 1234


@pytest.fixture(scope="module")
def config():
    return load_preset("micro")


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(SEED, VOCAB)


@pytest.fixture(scope="module")
def compiled(config, model):
    return compile_model(config, model, context=CONTEXT)


@pytest.fixture(scope="module")
def tables(config):
    return {table.name: table_from(table) for table in function_tables(config.functions)}


@pytest.fixture
def transport(config):
    return MachineTransport(config)


@pytest.fixture
def generator(config, compiled, transport):
    return Generator(transport, compiled, config_hash=config.sha256, base=0x3000)


def golden(model, compiled, tables):
    return GoldenGenerator(model, tables, context=CONTEXT, slots=compiled.slots, kv_format="int8")


async def listed(generator, prompt, count, **options):
    return [token async for token in complete(generator, prompt, count, **options)]


def test_tokens_as_the_golden_model_chooses_them(generator, transport, compiled, model, tables):
    """A prompt in several portions with a ragged last one, then token by token, to the very end of the context."""
    prompt, count = [5, 60, 0, 17, 33, 2, 9], CONTEXT - 7 + 1
    assert compiled.prefill_tokens < 7 and 7 % compiled.prefill_tokens
    expected = greedy(model, model.empty_caches(CONTEXT), prompt, count, tables)

    async def run():
        await generator.load()
        return await listed(generator, prompt, count)

    assert asyncio.run(run()) == expected
    portions = -(-7 // compiled.prefill_tokens)
    assert [step.kind for step in generator.steps] == ["prefill"] * portions + ["decode"] * (count - 1)
    assert [program for program, _ in transport.runs] == \
        [compiled.prefill] * portions + [compiled.decode] * (count - 1)
    places = [step.position for step in generator.steps] + [CONTEXT]
    assert places[0] == 0 and [step.tokens for step in generator.steps] == np.diff(places).tolist()
    more = [1] * (portions - 1) + [0] * count   # lm_head behind the last portion of the prompt alone
    assert [arguments for _, arguments in transport.runs] == \
        [(step.position, step.tokens, more) for step, more in zip(generator.steps, more, strict=True)]
    assert {step.counters["cycles"] for step in generator.steps} == {1234}


def test_commands_are_kept_from_run_to_run_of_a_program(generator, transport, compiled):
    """Not behind another program, an error, or a load."""
    async def run():
        await generator.load()
        await generator.prompt([1] * (2 * compiled.prefill_tokens))
        await generator.next(2)
        await generator.next(3)
        transport.failure = ErrorCode.WATCHDOG, 64
        with pytest.raises(ProgramError):
            await generator.next(4)
        transport.failure = None
        await generator.next(4)
        await generator.next(5)
        await generator.load()
        await generator.next(6)

    asyncio.run(run())
    prefill, decode = [False, True], [False, True, True, False, True]
    assert transport.kept == [*prefill, *decode, False]


def test_equal_to_the_golden_model(generator, compiled, model, tables):
    both = Comparison(device=generator, golden=golden(model, compiled, tables))

    async def run():
        await generator.load()
        await both.start()
        tokens = await listed(both, [5, 6, 7, 8, 9], 4)
        await both.finish()
        return tokens

    tokens = asyncio.run(run())
    assert both.differences == [] and len(tokens) == both.tokens == 4
    assert both.words == 4 * VOCAB + compiled.kv_bytes // 4


@pytest.mark.parametrize("what, told", [
    ("next_token", "token behind position 2: got "),
    ("logits", "logits behind position 2: 1 of 61 differ, the first of token 3: got "),
    ("kv", "KV cache: 1 of "), ("unused", "KV cache: 1 of ")])
def test_differences_are_told(generator, transport, compiled, model, tables, what, told):
    """One bit, spoilt behind the program's back: of a result, of a key, of a place that nobody writes."""
    both = Comparison(device=generator, golden=golden(model, compiled, tables))
    (layout, offset), io = compiled.caches[1], generator.regions[2].base
    place = {"next_token": io + (compiled.next_token or 0), "logits": io + compiled.logits + 12,
             "kv": generator.regions[1].base + offset + layout.v_offset,
             "unused": generator.regions[1].base + offset + layout.v_offset + (CONTEXT - 1) * layout.lanes}[what]

    class Spoiling:
        """The transport, with the bit flipped behind each run."""
        read, write, load, fetch = transport.read, transport.write, transport.load, transport.fetch

        @staticmethod
        async def wait():
            transport.memory[place] ^= 1

    both.device = Generator(Spoiling, compiled, config_hash=load_preset("micro").sha256, base=0x3000)

    async def run():
        await both.device.load()
        await both.start()
        await both.prompt([1, 2])
        if what in ("kv", "unused"):
            return await both.finish()
        await both.next(3)

    asyncio.run(run())
    line = next(line for line in both.differences if told in line)
    if what in ("kv", "unused"):
        assert both.differences == [line] and "layer 1, values, byte " in line


def test_ends_with_eos(model, tables, compiled):
    expected = asyncio.run(listed(golden(model, compiled, tables), [1, 2], 5))
    got = asyncio.run(listed(golden(model, compiled, tables), [1, 2], 5, eos=expected[2]))
    assert got == expected[:expected.index(expected[2]) + 1]


def test_regions_lie_one_behind_the_other(generator, compiled):
    sizes = [len(compiled.image), compiled.kv_bytes, compiled.io_bytes]
    assert [region.size for region in generator.regions] == sizes
    assert [region.writable for region in generator.regions] == [False, True, True]
    at = 0x3000
    for region in generator.regions:
        assert region.base == at
        at += -(-region.size // 4096) * 4096
    with pytest.raises(ValueError, match="multiple of 4096"):
        Generator(None, compiled, config_hash="", base=64)


@pytest.mark.parametrize("registers, told", [
    ({"config_hash": 0x12345678}, "config_hash = 0x12345678: the image was compiled for "),
    ({"identity": 0xFFFFFFFF}, "not an accelerator that this driver knows"),
    ({"version": VERSION + (1 << 16)}, "not an accelerator that this driver knows")])
def test_foreign_hardware_is_refused(generator, transport, registers, told):
    transport.registers |= registers
    with pytest.raises(UserError, match=told) as error:
        asyncio.run(generator.load())
    assert "\n" not in str(error.value) and transport.loads == []


@pytest.mark.parametrize("make", [lambda g, *_: g, lambda _, *parts: golden(*parts)], ids=["device", "golden"])
def test_tokens_that_are_refused(generator, transport, model, compiled, tables, make):
    one = make(generator, model, compiled, tables)

    async def run():
        await generator.load()
        for tokens, told in (([], "holds no token"), ([3, VOCAB], f"token {VOCAB}: must be from 0 to {VOCAB - 1}"),
                             ([-1], "token -1"), ([0] * (CONTEXT + 1), "13 more tokens do not fit")):
            with pytest.raises(UserError, match=told):
                await one.prompt(tokens)
        assert one.position == 0 and transport.runs == []
        await one.prompt([1] * (CONTEXT - 1))
        await one.next(1)
        with pytest.raises(ContextError, match=f"position {CONTEXT}: 1 more tokens do not fit into the context of 12"):
            await one.next(1)
        with pytest.raises(UserError, match="token 61"):
            await one.next(VOCAB)

    asyncio.run(run())


def test_error_of_a_program(generator, transport):
    async def run():
        await generator.load()
        transport.failure = ErrorCode.READ_RESPONSE, 0x1240
        with pytest.raises(ProgramError, match="READ_RESPONSE at command offset 0x1240"):
            await generator.prompt([1])
        transport.failure = None
        return await generator.prompt([1])

    assert 0 <= asyncio.run(run()) < VOCAB
    assert generator.position == 1 and len(generator.steps) == 1


def test_best():
    logits = np.array([1, 3, -2, 3, 0], np.float32)
    assert best(logits, 3) == [(1, 3.0), (3, 3.0), (0, 1.0)]
    assert best(logits, 9)[-1] == (2, -2.0)


def test_streamed_bytes(model):
    """Two layers and lm_head in INT8 with a scale for each block of 32; K, V and their scales of each position."""
    matrices = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 44) + VOCAB * 32
    scales = 2 * 2 * (2 * 32 + 2 * 16 + 2 * 44 + 32 * 2) + 2 * VOCAB
    assert streamed_bytes(model, [12, 4], "int8", 5) == matrices + scales + (6 + 4) * (16 + 2 + 16 + 4)
