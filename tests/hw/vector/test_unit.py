# amaranth: UnusedElaboratable=no
"""VectorUnit against the golden model: a command's whole effect on scratchpad and activation buffer, word by word."""

from collections import deque

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Dest, Opcode, Operand, Reduce, encode
from tilewright.hw.registers import ErrorCode
from tilewright.hw.vector.unit import VectorUnit
from tilewright.sim.golden import a8, functions, vector

SEED = 20240611
TABLES = function_tables(("exp", "silu", "rsqrt", "recip"))
ACTIVATION_ROWS, ACTIVATION_DEPTH, MAX_ROW = 8, 1024, 64
NONE, STREAM, ROW, IMMEDIATE = Operand
GUARD = -99


class Memories:
    """Scratchpad words [groups, group_words], activation bytes [row, index], scale codes [row, block]."""

    def __init__(self, words):
        self.words = words
        self.bytes = np.full((ACTIVATION_ROWS, ACTIVATION_DEPTH), GUARD, np.int16)
        self.codes = np.full((ACTIVATION_ROWS, ACTIVATION_DEPTH // 32), GUARD, np.int16)

    def copy(self):
        other = Memories(self.words.copy())
        other.bytes, other.codes = self.bytes.copy(), self.codes.copy()
        return other

    def row(self, address, n):
        """The first n words from a group on."""
        return self.words.reshape(-1)[address * self.words.shape[1]:][:n].view(np.float32)


def expect(memory, c):
    """Effect of the command with fields c, from docs/numerics.md and the fields' descriptions."""
    rows, n = c["rows"], c["n"]

    def operand(name, kind):
        if kind == NONE:
            return None
        if kind == IMMEDIATE:
            return np.uint32(c[f"{name}_immediate"]).view(np.float32)
        length = 1 if kind == ROW else n
        return np.stack([memory.row(c[name] + r * c[f"{name}_stride"] & 0xFFFF, length) for r in range(rows)])

    valid = (c["valid"] + np.arange(rows) * c["valid_step"]) & 0xFFFF
    table = functions.table_from(TABLES[c["function"] - 1]) if c["function"] else None
    t3, t4 = vector.apply(operand("a", STREAM), *(operand(x, c[f"{x}_kind"]) for x in "bcd"), square=c["square"],
                          c_negate=c["c_negate"], swap=c["swap"], table=table, valid=valid)
    t4 = np.ascontiguousarray(t4)
    if c["dest"] == Dest.FP32:
        for r in range(rows):
            memory.row(c["target"] + r * c["target_stride"], n)[:] = t4[r]
    elif c["dest"] != Dest.NONE:
        q, code = a8.quantise(t4, None if c["row_scale"] else 32)
        store = _store_activation if c["dest"] == Dest.ACTIVATION else _store_packed
        store(memory, c, q, code)
    if c["reduce"] != Reduce.NONE:
        result = vector.sum_rows(t3) if c["reduce"] == Reduce.SUM else vector.max_rows(t3, valid)
        for r in range(rows):
            group = memory.words[c["result"] + r * c["result_stride"]]
            group[:] = 0
            group[:1] = result[r:r + 1].view(np.uint32)


def _store_activation(memory, c, q, code):
    n, first = q.shape[1], c["target_stride"]
    blocks = -(-n // 32)
    memory.bytes[first:first + len(q), c["target"]:c["target"] + n] = q
    memory.codes[first:first + len(q), c["target"] // 32:c["target"] // 32 + blocks] = code


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
        has the time of each."""
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
        for command in commands:
            words = encode(Opcode.VECTOR, **command)
            ctx.set(unit.command.payload.as_value(), sum(word << 32 * i for i, word in enumerate(words)))
            ctx.set(unit.command.valid, 1)
            cycle = 0
            while True:
                cycle += 1
                assert cycle < 20_000, "no done"
                ready = int(self.rng.random() >= self.stall)
                ctx.set(unit.read.ready, ready)
                address = ctx.get(unit.read.address)
                answers.append(address if ready and ctx.get(unit.read.valid) else None)
                self._write(ctx, groups)
                done, error = ctx.get(unit.status.done), ctx.get(unit.status.error)
                assert ctx.get(unit.command.ready) == done
                code = ctx.get(unit.status.code)
                await ctx.tick()
                self._answer(ctx, answers.popleft(), groups)
                if error:
                    return ErrorCode(code)
                if done:
                    break
            self.cycles.append(cycle)
        return None

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
        fault = index + lanes > ACTIVATION_DEPTH or row >= ACTIVATION_ROWS
        ctx.set(activation.fault, fault)
        if ctx.get(activation.valid) and not fault:
            assert index % lanes == 0
            for i, byte in enumerate(ctx.get(activation.data).to_bytes(lanes, "little")):
                if ctx.get(activation.mask) >> i & 1:
                    memory.bytes[row, index + i] = byte - 256 * (byte >> 7)
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
                       "row_scale", "scale_fp32", "valid_step", "b_immediate", "c_immediate", "d_immediate"), 0)
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
            c[name], c[f"{name}_stride"] = area(c["n"] if kind == STREAM else 1)
    if c["dest"] in (Dest.FP32, Dest.PACKED):
        c["target"], c["target_stride"] = area(c["n"] if c["dest"] == Dest.FP32 else -(-c["n"] // 4))
    elif c["dest"] == Dest.ACTIVATION:
        c.setdefault("target", 32 * int(rng.integers(0, 3)))
        c.setdefault("target_stride", int(rng.integers(0, ACTIVATION_ROWS + 1 - c["rows"])))
    if c["dest"] == Dest.PACKED:
        c["scale"], c["scale_stride"] = area(-(-c["n"] // 32))
    if c["reduce"]:
        c["result"], c["result_stride"] = area(1)
    return c


def encodable(c):
    """Fields for ``encode``: an immediate shares its word with an address, so that only one of them may be given."""
    return {k: v for k, v in c.items()
            if not (k.endswith("_immediate") and c[k[0] + "_kind"] != IMMEDIATE)}


def check(lanes, group_words, cases, *, seed=SEED, groups=1024, **bench):
    """Run the cases back to back and compare everything after all of them."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    unit = VectorUnit(lanes=lanes, group_words=group_words, tables=TABLES, activation_rows=ACTIVATION_ROWS,
                      max_row=MAX_ROW)
    memory = Memories(random_words(rng, groups, group_words))
    expected = memory.copy()
    commands = [place(rng, group_words, **case) for case in cases]
    bench = Bench(unit, memory, rng=rng, **bench)
    assert bench.run([encodable(c) for c in commands]) is None
    for c in commands:
        expect(expected, c)
    wrong = np.argwhere(memory.words != expected.words)
    assert wrong.size == 0, (wrong[:8].tolist(), commands)
    assert np.array_equal(memory.bytes, expected.bytes)
    assert np.array_equal(memory.codes, expected.codes)
    return bench.cycles


SHAPES = [(1, 4), (4, 4), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((1, 2), (2, 2), (2, 4)))]
WIDE = pytest.param(8, 8, marks=pytest.mark.slow)
ONE_AND_A_HALF = 0x3FC00000


@pytest.mark.parametrize("lanes, group_words", SHAPES)
def test_operand_kinds(lanes, group_words):
    cases = [dict(n=n, rows=2, dest=Dest.FP32, b_kind=b, c_kind=c, d_kind=d, b_immediate=ONE_AND_A_HALF,
                  c_immediate=0xC0490FDB, d_immediate=0x3E800000)
             for n, (b, c, d) in zip([5, 31, 33, 8, 1, 16, 7, 32], [
                 (NONE, NONE, NONE), (STREAM, NONE, ROW), (ROW, STREAM, IMMEDIATE), (IMMEDIATE, ROW, STREAM),
                 (STREAM, STREAM, STREAM), (ROW, ROW, ROW), (NONE, IMMEDIATE, NONE), (IMMEDIATE, STREAM, STREAM),
             ], strict=True)]
    check(lanes, group_words, cases)


@pytest.mark.parametrize("lanes, group_words", SHAPES)
def test_modifiers_and_functions(lanes, group_words):
    cases = [
        dict(n=34, dest=Dest.FP32, square=1, b_kind=STREAM),
        dict(n=34, dest=Dest.FP32, square=1, swap=1, c_kind=STREAM, c_negate=1),
        dict(n=12, rows=3, dest=Dest.FP32, swap=1, b_kind=STREAM, d_kind=STREAM),
        dict(n=9, dest=Dest.FP32, c_kind=ROW, c_negate=1),
        dict(n=3, dest=Dest.FP32, c_negate=1),
        *(dict(n=21, rows=2, dest=Dest.FP32, function=f, c_kind=STREAM, d_kind=STREAM) for f in (1, 2, 3, 4)),
    ]
    check(lanes, group_words, cases, seed=SEED + 1)


@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_reductions(lanes, group_words):
    cases = [dict(n=n, rows=rows, reduce=reduce, dest=dest, square=square, function=function)
             for n, rows, reduce, dest, square, function in (
                 (1, 3, Reduce.SUM, Dest.NONE, 0, 0), (31, 2, Reduce.SUM, Dest.FP32, 1, 0),
                 (32, 2, Reduce.SUM, Dest.NONE, 1, 0), (33, 2, Reduce.SUM, Dest.ACTIVATION, 0, 1),
                 (172, 2, Reduce.SUM, Dest.PACKED, 0, 1), (1, 4, Reduce.MAX, Dest.FP32, 0, 0),
                 (33, 3, Reduce.MAX, Dest.NONE, 0, 0), (64, 2, Reduce.MAX, Dest.PACKED, 0, 0))]
    cases += [dict(case, valid=20, valid_step=9) for case in cases if case["n"] > 20]
    check(lanes, group_words, cases, seed=SEED + 2)


@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_quantised(lanes, group_words):
    cases = [dict(n=n, rows=rows, dest=dest, row_scale=row_scale, scale_fp32=fp32, b_kind=kind)
             for dest in (Dest.ACTIVATION, Dest.PACKED)
             for n, rows, row_scale, fp32, kind in (
                 (1, 6, 0, 0, NONE), (31, 2, 0, 1, STREAM), (32, 2, 0, 0, NONE), (33, 4, 0, 1, ROW),
                 (64, 3, 1, 1, NONE), (172, 2, 0, 0, NONE), (8, 5, 1, 0, NONE))]
    cases += [dict(case, valid=7, valid_step=13) for case in cases if case["rows"] > 2]
    check(lanes, group_words, cases, seed=SEED + 3)


@pytest.mark.parametrize("lanes, group_words, latency, stall", [
    (1, 4, 1, 0.0), (4, 4, 3, 0.0), (4, 4, 3, 0.7), (2, 4, 2, 0.5)])
def test_long_rows(lanes, group_words, latency, stall):
    cases = [dict(n=576, dest=Dest.ACTIVATION, b_kind=ROW, d_kind=STREAM), dict(n=576, reduce=Reduce.SUM, square=1),
             dict(n=172, rows=2, dest=Dest.FP32, function=2, d_kind=STREAM)]
    check(lanes, group_words, cases, seed=SEED + 4, latency=latency, stall=stall)


@pytest.mark.slow
@pytest.mark.parametrize("lanes, group_words", [(1, 2), (1, 4), (2, 4), (4, 4), (4, 8), (8, 16)])
def test_random_commands(lanes, group_words):
    rng = np.random.default_rng(SEED + lanes + group_words)

    def case():
        c = {name: int(rng.integers(0, high)) for name, high in (
            ("b_kind", 4), ("c_kind", 4), ("d_kind", 4), ("square", 2), ("c_negate", 2), ("function", 5), ("reduce", 3),
            ("dest", 4), ("scale_fp32", 2))}
        c |= {f"{x}_immediate": int(rng.standard_normal(1).astype(np.float32).view(np.uint32)[0]) for x in "bcd"}
        c["n"] = int(rng.choice([1, 2, 31, 32, 33, 64, 172, int(rng.integers(1, 100))]))
        c["rows"] = int(rng.integers(1, 6 if c["n"] < 40 else 3))
        c["swap"] = int(c["n"] % 2 == 0 and rng.random() < 0.3)
        c["row_scale"] = int(c["n"] <= MAX_ROW and rng.random() < 0.3)
        if rng.random() < 0.4:
            c |= {"valid": int(rng.integers(0, c["n"] + 2)), "valid_step": int(rng.choice([0, 1, 5, 0xFFFF]))}
        return c

    for latency, stall in ((1, 0.0), (3, 0.0), (2, 0.3), (12, 0.8)):
        check(lanes, group_words, [case() for _ in range(40)], seed=SEED + latency, groups=4096, latency=latency,
              stall=stall)


def test_same_place_is_read_before_it_is_written():
    rng = np.random.default_rng(SEED)
    c = place(rng, 4, n=100, dest=Dest.FP32, b_kind=IMMEDIATE, b_immediate=ONE_AND_A_HALF) | {"target": 3, "a": 3}
    memory = Memories(random_words(rng, 64, 4))
    expected = memory.copy()
    unit = VectorUnit(lanes=2, group_words=4, tables=(), activation_rows=1, max_row=64)
    assert Bench(unit, memory, rng=rng).run([encodable(c), encodable(c)]) is None
    expect(expected, c)
    expect(expected, c)
    assert np.array_equal(memory.words, expected.words)


@pytest.mark.parametrize("change, code", [
    (dict(n=0), ErrorCode.BAD_FIELD),
    (dict(rows=0), ErrorCode.BAD_FIELD),
    (dict(function=5), ErrorCode.BAD_FIELD),
    (dict(dest=Dest.ACTIVATION, row_scale=1, n=65), ErrorCode.BAD_FIELD),
    (dict(dest=Dest.ACTIVATION, target=16), ErrorCode.BAD_FIELD),
    (dict(dest=Dest.ACTIVATION, target_stride=7, rows=2), ErrorCode.ACTIVATION_RANGE),
    (dict(dest=Dest.ACTIVATION, target=ACTIVATION_DEPTH - 32, n=64), ErrorCode.ACTIVATION_RANGE),
    (dict(a=64), ErrorCode.SCRATCHPAD_RANGE),
    (dict(target=60, n=40), ErrorCode.SCRATCHPAD_RANGE),
])
def test_errors(change, code):
    rng = np.random.default_rng(SEED)
    unit = VectorUnit(lanes=2, group_words=4, tables=TABLES, activation_rows=ACTIVATION_ROWS, max_row=MAX_ROW)
    good = dict(n=8, rows=1, valid=0xFFFF, dest=Dest.FP32, target=32)
    bench = Bench(unit, Memories(random_words(rng, 64, 4)), rng=rng)
    assert bench.run([good, good | change]) == code
    assert len(bench.cycles) == 1


def test_swap_needs_pairs_in_a_group():
    unit = VectorUnit(lanes=1, group_words=1, tables=(), activation_rows=1, max_row=32)
    rng = np.random.default_rng(SEED)
    bench = Bench(unit, Memories(random_words(rng, 64, 1)), rng=rng)
    assert bench.run([dict(n=8, rows=1, swap=1)]) == ErrorCode.BAD_FIELD


@pytest.mark.parametrize("change, match", [
    (dict(lanes=3), "lanes = 3: must be a power of two"), (dict(lanes=16), "lanes = 16"),
    (dict(group_words=1), "group_words = 1: must be a power of two from 2"), (dict(max_row=48), "multiple of 32"),
    (dict(activation_rows=0), "activation_rows = 0"), (dict(multiply_dsps=5), "dsps"),
])
def test_refusals(change, match):
    good = dict(lanes=2, group_words=4, tables=(), activation_rows=4, max_row=64)
    with pytest.raises(ValueError, match=match):
        VectorUnit(**good | change)
