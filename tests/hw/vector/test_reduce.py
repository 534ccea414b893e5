# amaranth: UnusedElaboratable=no
"""Reducer against the golden sum, maximum and argmax, with rows as close together as it allows."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilewright.hw.commands import Reduce
from tilewright.hw.vector.reduce import Reducer
from tilewright.sim.golden import vector

SEED = 77
INDEX = 0xFFFFFFE0
SPECIAL = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000], np.uint32)


def run(dut, kind, rows, keep, rng, *, bubbles):
    """Results of rows (FP32 bits, each of its own length); elements from keep[row] on are left out. Gaps are the
    smallest allowed and random ones. Also the cycles in which the rows' last slots came."""
    lanes = len(dut.slot.keep)
    interval = dut.interval if kind == Reduce.SUM else 1
    holes, apart = (dut.holes, dut.apart) if kind == Reduce.SUM else (set(range(1, dut.tail_max)), set())
    results, ends = [], []

    async def feed(ctx):
        ctx.set(dut.reduce, kind)
        ctx.set(dut.index, INDEX)
        cycle = free = 0
        for row, limit in zip(rows, keep, strict=True):
            n = len(row)
            for start in range(0, n, lanes):
                part, row_end, now = row[start:start + lanes], start + lanes >= n, cycle
                free += int(rng.integers(1, 4)) if rng.random() < bubbles else 0
                while cycle < free or any(cycle - end in holes or row_end and cycle - end in apart
                                          for end in ends[-6:]):
                    cycle += 1
                if cycle > now:
                    await ctx.tick().repeat(cycle - now)
                # What lies beyond a row is any number.
                part = np.concatenate([part, rng.integers(0, 1 << 32, lanes - len(part), dtype=np.uint32)])
                ctx.set(dut.i, int.from_bytes(part.tobytes(), "little"))
                ctx.set(dut.slot.valid, 1)
                ctx.set(dut.slot.row_end, row_end)
                ctx.set(dut.slot.keep, sum(1 << lane for lane in range(lanes) if start + lane < min(n, limit)))
                await ctx.tick()
                ctx.set(dut.slot.valid, 0)
                if row_end:
                    ends.append(cycle)
                cycle, free = cycle + 1, cycle + interval

    async def take(ctx):
        while len(results) < len(rows):
            ready = rng.random() < 0.5
            ctx.set(dut.result_ready, ready)
            if ctx.get(dut.result_valid):
                assert ctx.get(dut.busy)
                if ready:
                    results.append(ctx.get(dut.result))
            await ctx.tick()
        ctx.set(dut.result_ready, 0)
        await ctx.tick().repeat(2)
        assert not ctx.get(dut.busy)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(feed)
    simulator.add_testbench(take)
    simulator.run()
    return np.array(results, np.uint32), ends


@pytest.mark.parametrize("bubbles", [0.0, 0.3])
@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [Reduce.SUM, Reduce.MAX, Reduce.ARGMAX])
def test_rows(kind, lanes, bubbles):
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    # Rows of one slot, whose maximum is sought, come faster than a slow taker empties the result; the writer is faster.
    for n in (1, 31, 32, 33, 64, 172) if kind == Reduce.SUM else (61, 172):
        rows = (rng.standard_normal((4, n)) * 2.0 ** rng.integers(-20, 20, (4, n))).astype(np.float32).view(np.uint32)
        rows[1] = np.where(rng.random(n) < 0.05, rng.choice(SPECIAL, n), rows[1])
        rows[2] |= 1 << 31
        keep = np.array([n, n, int(rng.integers(0, n + 1)), n if kind == Reduce.SUM else 0])
        got, _ = run(Reducer(lanes=lanes), kind, rows, keep, rng, bubbles=bubbles)
        x = rows.view(np.float32)
        if kind == Reduce.SUM:
            expected = vector.sum_rows(np.where(np.arange(n) < keep[:, None], x, np.float32(0)))
        elif kind == Reduce.MAX:
            expected = vector.max_rows(x, keep)
        else:
            expected = vector.argmax_rows(x, np.arange(n) < keep[:, None], INDEX)[0]
        assert got.tolist() == expected.view(np.uint32).tolist()


@pytest.mark.parametrize("bubbles", [0.0, 0.1])
@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_rows_of_mixed_lengths(lanes, bubbles):
    """What a long row left in the partial sums that a short one does not reach is gone, and no row disturbs another."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    lengths = [172, 5, 64, 1, 96, 20, 33, 30, 32, 8, 31, *rng.integers(1, np.repeat([40, 150], 20)).tolist()]
    rows = [rng.uniform(1, 2, n).astype(np.float32) for n in lengths]  # all of one size: nothing is absorbed
    got, _ = run(Reducer(lanes=lanes), Reduce.SUM, [row.view(np.uint32) for row in rows], lengths, rng, bubbles=bubbles)
    expected = np.array([vector.sum_rows(row[None])[0] for row in rows])
    assert got.tolist() == expected.view(np.uint32).tolist()


@pytest.mark.parametrize("lanes, cycles", [
    (1, {16: 48, 128: 160}), (2, {16: 40, 128: 80}), (4, {16: 21, 64: 28, 128: 41}), (8, {16: 14, 64: 20, 128: 35})])
def test_cycles_of_rows(lanes, cycles):
    """Mean cycles of a row among rows of n elements; without reduction n / lanes."""
    rng = np.random.default_rng(SEED)
    for n, limit in cycles.items():
        rows = rng.uniform(1, 2, (12, n)).astype(np.float32).view(np.uint32)
        _, ends = run(Reducer(lanes=lanes), Reduce.SUM, rows, [n] * 12, rng, bubbles=0.0)
        assert (ends[-1] - ends[3]) / 8 <= limit


def test_refusal():
    with pytest.raises(ValueError, match="lanes = 3: must be a power of two from 1 to 8"):
        Reducer(lanes=3)
