# amaranth: UnusedElaboratable=no
"""A bench for VectorUnit: scratchpad and activation buffer around it, and what the golden model expects of them."""

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Dest, Opcode, Operand, Reduce, encode
from tilewright.hw.registers import ErrorCode
from tilewright.hw.vector.unit import VectorUnit
from tilewright.sim.golden import a8, fp32, functions, vector

SEED = 20240611
TABLES = function_tables(("exp", "silu", "rsqrt", "recip"))
ACTIVATION_ROWS, FP16_ROWS, ACTIVATION_DEPTH, MAX_ROW = 8, 4, 1024, 64
NONE, STREAM, ROW, IMMEDIATE = Operand
GUARD = -99


class Memories:
    """Scratchpad words [groups, group_words], activation bytes and FP16 [row, index], scale codes [row, block]."""

    def __init__(self, words):
        self.words = words
        self.bytes = np.full((ACTIVATION_ROWS, ACTIVATION_DEPTH), GUARD, np.int16)
        self.halves = np.full((FP16_ROWS, ACTIVATION_DEPTH), GUARD, np.int32)
        self.codes = np.full((ACTIVATION_ROWS, ACTIVATION_DEPTH // 32), GUARD, np.int16)

    def copy(self):
        other = Memories(self.words.copy())
        other.bytes, other.halves, other.codes = self.bytes.copy(), self.halves.copy(), self.codes.copy()
        return other

    def row(self, address, n):
        """The first n words from a group on."""
        return self.words.reshape(-1)[address * self.words.shape[1]:][:n].view(np.float32)


def expect(memory, c, carry=None):
    """Effect of the command with fields c, from docs/numerics.md and the fields' descriptions. ``carry`` and the result
    are what ARGMAX goes on from."""
    rows, n = c["rows"], c["n"]

    def operand(name, kind):
        if kind == NONE:
            return None
        if kind == IMMEDIATE:
            return np.uint32(c[f"{name}_immediate"]).view(np.float32)
        length = 1 if kind == ROW else n
        shared = c["group_rows"] if name == "d" and c["group_rows"] else 1
        return np.stack([memory.row(c[name] + r // shared * c[f"{name}_stride"] & 0xFFFF, length) for r in range(rows)])

    first, valid = vector.window(c["first"], c["valid"], c["valid_step"], c["ring"], rows)
    table = functions.table_from(TABLES[c["function"] - 1]) if c["function"] else None
    t3, t4 = vector.apply(operand("a", STREAM), *(operand(x, c[f"{x}_kind"]) for x in "bcd"), square=c["square"],
                          c_negate=c["c_negate"], swap=c["swap"], table=table, valid=valid, first=first)
    t4 = np.ascontiguousarray(t4)
    if c["dest"] == Dest.FP32:
        for r in range(rows):
            values = half_bits(t4[r]).astype(np.uint32) if c["half"] else t4[r].view(np.uint32)
            memory.row(c["target"] + r * c["target_stride"], n).view(np.uint32)[:] = values
    elif c["dest"] == Dest.ACTIVATION and c["half"]:
        for r, (row, index) in enumerate(_activation_places(c, FP16_ROWS)):
            memory.halves[row, index:index + n] = half_bits(t4[r])
    elif c["dest"] != Dest.NONE:
        q, code = a8.quantise(t4, None if c["row_scale"] else 32)
        store = _store_activation if c["dest"] == Dest.ACTIVATION else _store_packed
        store(memory, c, q, code)
    if c["reduce"] != Reduce.NONE:
        keep = vector.kept(valid, first, t3.shape)
        carry = vector.argmax_rows(t3, keep, c["index"], carry if c["carry"] else None)
        result = {Reduce.SUM: vector.sum_rows(t3), Reduce.MAX: vector.max_rows(t3, valid, first),
                  Reduce.ARGMAX: carry[0]}[c["reduce"]].view(np.uint32)
        for r in range(rows):
            group = memory.words[c["result"] + r * c["result_stride"]]
            group[:] = 0
            group[0] = result[r]
    return carry


def half_bits(x):
    return fp32.to_fp16(x).view(np.uint16)


def _activation_places(c, rows):
    """(row, index) of each row of a command in a buffer of so many rows."""
    groups, places = divmod(c["target_stride"] + np.arange(c["rows"]), c["group_rows"] or rows)
    return [(row, c["target"] + group * c["group_stride"]) for group, row in zip(groups, places, strict=True)]


def _store_activation(memory, c, q, code):
    n, blocks = q.shape[1], -(-q.shape[1] // 32)
    for r, (row, target) in enumerate(_activation_places(c, ACTIVATION_ROWS)):
        memory.bytes[row, target:target + n] = q[r]
        memory.codes[row, target // 32:target // 32 + blocks] = code[r]


def _store_packed(memory, c, q, code):
    n = q.shape[1]
    for r in range(len(q)):
        padded = np.zeros(-(-n // 4) * 4, np.int8)
        padded[:n] = q[r]
        memory.row(c["target"] + r * c["target_stride"], padded.size // 4).view(np.uint32)[:] = padded.view(np.uint32)
        scales = memory.row(c["scale"] + r * c["scale_stride"], code.shape[1]).view(np.uint32)
        scales[:] = (a8.scale(code[r]).view(np.uint32) if c["scale_fp32"]
                     else a8.scale_fp16(code[r]).view(np.uint16).astype(np.uint32))


class Bench:
    """A unit with a scratchpad of fixed latency that is not always ready, and an activation buffer."""

    def __init__(self, unit, memory, *, rng, latency=2, stall=0.3):
        self.unit, self.memory, self.rng, self.latency, self.stall = unit, memory, rng, latency, stall
        self.cycles = []

    def run(self, commands):
        """Carry out commands back to back. Returns the error code of the first one that fails, else None; ``cycles``
        has the time of each, from the end of the one before."""
        async def testbench(ctx):
            self.outcome = await self._serve(ctx, commands)

        simulator = Simulator(self.unit)
        simulator.add_clock(1e-8)
        simulator.add_testbench(testbench)
        simulator.run()
        return self.outcome

    async def _serve(self, ctx, commands):
        unit, groups = self.unit, len(self.memory.words)
        answers = deque([None] * (self.latency - 1))
        ctx.set(unit.write.ready, 1)
        offered, cycle = iter(commands), 0
        self._offer(ctx, next(offered))
        while len(self.cycles) < len(commands):
            cycle += 1
            assert cycle < 20_000, "no done"
            ready = int(self.rng.random() >= self.stall)
            ctx.set(unit.read.ready, ready)
            address = ctx.get(unit.read.address)
            answers.append(address if ready and ctx.get(unit.read.valid) else None)
            self._write(ctx, groups)
            done, error, code = (ctx.get(getattr(unit.status, name)) for name in ("done", "error", "code"))
            taken = ctx.get(unit.command.valid) and ctx.get(unit.command.ready)
            await ctx.tick()
            self._answer(ctx, answers.popleft(), groups)
            if error:
                return ErrorCode(code)
            if taken:
                self._offer(ctx, next(offered, None))
            if done:
                self.cycles.append(cycle)
                cycle = 0
        return None

    def _offer(self, ctx, command):
        """The next command, while the one before runs; noise where there is none."""
        bits = int.from_bytes(self.rng.bytes(64), "little")
        if command is not None:
            bits = sum(word << 32 * i for i, word in enumerate(encode(Opcode.VECTOR, **command)))
        ctx.set(self.unit.command.payload.as_value(), bits)
        ctx.set(self.unit.command.valid, command is not None)

    def _answer(self, ctx, address, groups):
        read = self.unit.read
        ctx.set(read.data_valid, address is not None)
        ctx.set(read.fault, address is not None and address >= groups)
        if address is not None and address < groups:
            ctx.set(read.data, int.from_bytes(self.memory.words[address].tobytes(), "little"))
        else:
            ctx.set(read.data, 0x5A5A5A5A)

    def _write(self, ctx, groups):
        memory, write, activation = self.memory, self.unit.write, self.unit.activation
        address, lanes = ctx.get(write.address), len(activation.mask)
        ctx.set(write.fault, address >= groups)
        if ctx.get(write.valid) and address < groups:
            data = np.frombuffer(ctx.get(write.data).to_bytes(4 * memory.words.shape[1], "little"), np.uint32)
            for i, word in enumerate(data):
                if ctx.get(write.mask) >> i & 1:
                    memory.words[address, i] = word
        index, row = ctx.get(activation.index), ctx.get(activation.row)
        half = "half" in activation.signature.members and ctx.get(activation.half)
        store, bits = (memory.halves, 16) if half else (memory.bytes, 8)
        fault = index + lanes > ACTIVATION_DEPTH or row >= len(store)
        ctx.set(activation.fault, fault)
        if ctx.get(activation.valid) and not fault:
            assert index % lanes == 0
            for i in range(lanes):
                value = ctx.get(activation.data) >> bits * i & (1 << bits) - 1
                if ctx.get(activation.mask) >> i & 1:
                    store[row, index + i] = value if half else value - 256 * (value >> 7)
        if ctx.get(activation.scale_valid) and not fault:
            block = ctx.get(activation.scale_block)
            memory.codes[ctx.get(activation.scale_row), block] = ctx.get(activation.scale_code)


def random_words(rng, groups, group_words):
    """FP32 words, mostly of moderate size, some of any bits."""
    shape = (groups, group_words)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 7, (groups, 1))
    words = x.astype(np.float32).view(np.uint32)
    return np.where(rng.random(shape) < 0.01, rng.integers(0, 1 << 32, shape, dtype=np.uint32), words)


def place(rng, group_words, **fields):
    """A command with defaults, its areas one behind the other with gaps, and random strides."""
    c = dict.fromkeys(("b_kind", "c_kind", "d_kind", "square", "c_negate", "swap", "function", "reduce", "dest",
                       "row_scale", "scale_fp32", "valid_step", "first", "ring", "half", "carry", "index",
                       "b_immediate", "c_immediate", "d_immediate", "group_rows"), 0)
    c |= {"rows": 1, "valid": 0xFFFF} | fields
    next_group = int(rng.integers(0, 4))

    def area(words):
        nonlocal next_group
        length = -(-words // group_words)
        stride = length + int(rng.integers(0, 3))
        start, next_group = next_group, next_group + stride * c["rows"] + int(rng.integers(1, 3))
        return start, stride

    c["a"], c["a_stride"] = area(c["n"])
    for name in "bcd":
        kind = c[f"{name}_kind"]
        if kind in (STREAM, ROW):
            c[name], stride = area(c["n"] if kind == STREAM else 1)
            c.setdefault(f"{name}_stride", stride)
    if c["dest"] in (Dest.FP32, Dest.PACKED):
        c["target"], c["target_stride"] = area(c["n"] if c["dest"] == Dest.FP32 else -(-c["n"] // 4))
    elif c["dest"] == Dest.ACTIVATION:
        c.setdefault("target", 32 * int(rng.integers(0, 3)))
        rows = c["group_rows"] or (FP16_ROWS if c["half"] else ACTIVATION_ROWS)
        c.setdefault("target_stride", int(rng.integers(0, rows)))
        groups = (c["target_stride"] + c["rows"] - 1) // rows + 1
        c.setdefault("group_stride", 32 * min(-(-c["n"] // 32) + int(rng.integers(0, 2)),
                                              (ACTIVATION_DEPTH - c["target"]) // 32 // groups))
    if c["dest"] == Dest.PACKED:
        c["scale"], c["scale_stride"] = area(-(-c["n"] // 32))
    if c["reduce"]:
        c["result"], c["result_stride"] = area(1)
    return c


def encodable(c):
    """Fields for ``encode``: an immediate shares its word with an address, so that only one of them may be given."""
    return {k: v for k, v in c.items()
            if not (k.endswith("_immediate") and c[k[0] + "_kind"] != IMMEDIATE)}


def make(lanes, group_words, formats):
    return VectorUnit(lanes=lanes, group_words=group_words, tables=TABLES, formats=formats,
                      activation_rows=ACTIVATION_ROWS, fp16_rows=FP16_ROWS * ("fp16" in formats), max_row=MAX_ROW)


def _check(lanes, group_words, cases, *, seed=SEED, groups=1024, formats=("int8",), **bench):
    """Run the cases back to back and compare everything after all of them."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    unit = make(lanes, group_words, formats)
    memory = Memories(random_words(rng, groups, group_words))
    expected = memory.copy()
    commands = [place(rng, group_words, **case) for case in cases]
    bench = Bench(unit, memory, rng=rng, **bench)
    assert bench.run([encodable(c) for c in commands]) is None
    carry = None
    for c in commands:
        carry = expect(expected, c, carry)
    wrong = np.argwhere(memory.words != expected.words)
    assert wrong.size == 0, (wrong[:8].tolist(), commands)
    assert np.array_equal(memory.bytes, expected.bytes)
    assert np.array_equal(memory.halves, expected.halves)
    assert np.array_equal(memory.codes, expected.codes)
    return bench.cycles


@pytest.fixture(scope="session")
def check():
    """Function (lanes, group_words, cases, ...): commands on a unit against the golden model; cycles of each."""
    return _check


@pytest.fixture(scope="session")
def bench():
    """The parts of ``check``, for tests that need less or more."""
    return SimpleNamespace(Bench=Bench, Memories=Memories, encodable=encodable, expect=expect, make=make, place=place,
                           random_words=random_words)
