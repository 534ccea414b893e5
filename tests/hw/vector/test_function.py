# amaranth: UnusedElaboratable=no
"""TableFunction against the golden model: every FP16 operand, corners, random tables, functions value by value."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilewright.gen.functions import DEFINITIONS, function_tables
from tilewright.hw.tables import FunctionTable
from tilewright.hw.vector.function import TableFunction, check_table
from tilewright.sim.golden import functions
from tilewright.sim.loop import build_loop

SEED = 4242
NAMES = tuple(DEFINITIONS)
CORNERS = np.array([0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x3F7FFFFF, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FBFFFFF,
                    0x7FC00000, 0x7FFFFFFF], dtype=np.uint32)


def run(dut, x, select):
    """Output words of ``dut`` for a stream of operand words."""
    results = []

    async def testbench(ctx):
        for i in range(len(x) + dut.delay):
            if i < len(x):
                ctx.set(dut.x, int(x[i]))
                ctx.set(dut.select, int(select[i]))
            await ctx.tick()
            if i + 1 >= dut.delay:
                results.append(ctx.get(dut.o))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return np.array(results[:len(x)], dtype=np.uint32)


def expect(tables, x, select):
    """The golden model's words for the same stream."""
    words = x.copy()
    for i, table in enumerate(tables):
        golden = functions.evaluate(functions.table_from(table), x.view(np.float32)).view(np.uint32)
        words = np.where(select == i + 1, golden, words)
    return words


def check(tables, x, select):
    got, expected = run(TableFunction(tables=tables), x, select), expect(tables, x, select)
    wrong = np.flatnonzero(got != expected)
    assert wrong.size == 0, [(select[i], hex(x[i]), hex(got[i]), hex(expected[i])) for i in wrong[:5]]


def operands(rng, table, n):
    """FP32 patterns: corners, any bits, and values in and about the table's window, segment borders among them."""
    near = (rng.integers(max(table.e_min - 2, 0), min(table.e_min + 66, 255), n) << 23
            | np.where(rng.random(n) < 0.3, rng.integers(0, 256, n) << 15, rng.integers(0, 1 << 23, n))
            - (rng.random(n) < 0.1)) & 0x7FFFFFFF
    near = near.astype(np.uint32) | rng.integers(0, 2, n, dtype=np.uint32) << 31
    return np.concatenate([CORNERS, CORNERS | 1 << 31, near, rng.integers(0, 1 << 32, n // 4, dtype=np.uint32)])


def random_table(rng, name, segments):
    """Coefficients of any kind that the hardware accepts: p0 of one sign, or zero; its leading one in either place."""
    k = rng.integers(0, segments.bit_length(), 2 * 64)
    c0 = rng.integers(5 << 23, 1 << 26, segments)
    c1 = np.where(rng.random(segments) < 0.2, rng.integers(30000, 60000, segments),
                  rng.integers(-4500, 24000, segments))
    c0 *= rng.choice([-1, 1], segments)
    c1 = np.where(c0 < 0, -c1, c1)
    c2 = rng.integers(-3000, 3000, segments)
    c0[:2] = c1[:2] = c2[:2] = 0
    # Half the descriptors and segments lie where results underflow or overflow.
    exponent = np.where(rng.random(128) < 0.5, rng.choice([-126, 127], 128), rng.integers(-256, 256, 128))
    y = np.where(rng.random(segments) < 0.5, rng.integers(-2, 3, segments), rng.integers(-128, 128, segments))
    return FunctionTable(
        name=name, e_min=int(rng.integers(0, 256)),
        base=tuple(int(rng.integers(0, segments - (1 << n) + 1)) for n in k),
        log2_segments=tuple(k.tolist()), exponent=tuple(exponent.tolist()), c0=tuple(c0.tolist()),
        c1=tuple(c1.tolist()), c2=tuple(c2.tolist()), y=tuple(y.tolist()))


@pytest.mark.parametrize("name", NAMES)
def test_specials_and_random_operands(name):
    table, = function_tables([name])
    x = operands(np.random.default_rng(SEED), table, 4000)
    check((table,), x, np.ones(len(x), dtype=int))


def test_functions_mixed_value_by_value():
    tables = function_tables(NAMES)
    rng = np.random.default_rng(SEED + 1)
    x = np.concatenate([operands(rng, table, 1500) for table in tables])
    rng.shuffle(x)
    check(tables, x, rng.integers(0, len(tables) + 1, len(x)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_random_tables(count):
    rng = np.random.default_rng(SEED + count)
    tables = tuple(random_table(rng, f"random{i}", 150 + 7 * i) for i in range(count))
    x = np.concatenate([operands(rng, table, 3000 // count) for table in tables])
    rng.shuffle(x)
    check(tables, x, rng.integers(0, count + 1, len(x)))


def test_no_tables():
    x = operands(np.random.default_rng(SEED), function_tables(["exp"])[0], 100)
    check((), x, np.zeros(len(x), dtype=int))


def test_every_fp16_operand(tmp_path):
    """All 65,536 patterns through every function, and unchanged through none; in Verilator."""
    tables = function_tables(NAMES)
    dut = TableFunction(tables=tables)
    program = build_loop(dut, Path(__file__).parent / "function_loop.cpp", folder=tmp_path,
                         defines={"DELAY": dut.delay})
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = np.tile(half.astype(np.float32).view(np.uint32), len(tables) + 1)
    select = np.repeat(np.arange(len(tables) + 1, dtype=np.uint32), 1 << 16)
    words = np.stack([select, x], axis=1)
    answer = subprocess.run([program], input=words.tobytes(), stdout=subprocess.PIPE, check=True)
    got, expected = np.frombuffer(answer.stdout, np.uint32), expect(tables, x, select)
    assert len(got) == len(x)
    wrong = np.flatnonzero(got != expected)
    assert wrong.size == 0, [(select[i], hex(x[i]), hex(got[i]), hex(expected[i])) for i in wrong[:5]]


def test_a_broken_coefficient_is_noticed():
    """The comparison fails if hardware and golden model hold tables that differ by one bit of one coefficient."""
    table, = function_tables(["recip"])
    broken = FunctionTable(**(vars(table) | {"c1": (table.c1[0] ^ 8, *table.c1[1:])}))
    x = operands(np.random.default_rng(SEED), table, 1000)
    select = np.ones(len(x), dtype=int)
    assert (run(TableFunction(tables=(broken,)), x, select) != expect((table,), x, select)).any()


@pytest.mark.parametrize("change, message", [
    ({"c0": (1 << 24,) * 32}, "segment 0: .*p0"),
    ({"c1": (1 << 17,) * 32}, "c1 must fit 18 bits"),
    ({"base": (20,) * 128}, "2\\^4 segments from 20 on"),
    ({"y": (0,) * 31}, "y has 31 entries"),
    ({"e_min": 256}, "e_min = 256"),
])
def test_refuses(change, message):
    table, = function_tables(["recip"])
    with pytest.raises(ValueError, match=f"table recip: .*{message}"):
        check_table(FunctionTable(**(vars(table) | change)))


def test_refuses_too_many():
    with pytest.raises(ValueError, match="16 entries; at most 15"):
        TableFunction(tables=function_tables(["recip"]) * 16)
