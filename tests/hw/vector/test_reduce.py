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
    smallest allowed and random ones."""
    lanes = len(dut.slot.keep)
    interval = dut.interval if kind == Reduce.SUM else 1
    results = []

    async def feed(ctx):
        ctx.set(dut.reduce, kind)
        ctx.set(dut.index, INDEX)
        for row, limit in zip(rows, keep, strict=True):
            n = len(row)
            tail = (dut.tail_sum_short if n < 32 else dut.tail_sum) if kind == Reduce.SUM else dut.tail_max
            for start in range(0, n, lanes):
                part = row[start:start + lanes]
                # What lies beyond a row is any number.
                part = np.concatenate([part, rng.integers(0, 1 << 32, lanes - len(part), dtype=np.uint32)])
                ctx.set(dut.i, int.from_bytes(part.tobytes(), "little"))
                ctx.set(dut.slot.valid, 1)
                ctx.set(dut.slot.row_end, start + lanes >= n)
                ctx.set(dut.slot.keep, sum(1 << lane for lane in range(lanes) if start + lane < min(n, limit)))
                await ctx.tick()
                ctx.set(dut.slot.valid, 0)
                gap = interval - 1 + (int(rng.integers(1, 4)) if rng.random() < bubbles else 0)
                if start + lanes >= n:
                    gap = max(gap, tail - 1)
                if gap:
                    await ctx.tick().repeat(gap)

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
    return np.array(results, np.uint32)


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
        got = run(Reducer(lanes=lanes), kind, rows, keep, rng, bubbles=bubbles)
        x = rows.view(np.float32)
        if kind == Reduce.SUM:
            expected = vector.sum_rows(np.where(np.arange(n) < keep[:, None], x, np.float32(0)))
        elif kind == Reduce.MAX:
            expected = vector.max_rows(x, keep)
        else:
            expected = vector.argmax_rows(x, np.arange(n) < keep[:, None], INDEX)[0]
        assert got.tolist() == expected.view(np.uint32).tolist()


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_short_rows_after_long_ones(lanes):
    """What a long row left in the partial sums that a short one does not reach is gone."""
    rng = np.random.default_rng(SEED)
    lengths = (172, 5, 64, 1, 96, 20, 33, 30, 32, 8, 31)
    rows = [rng.uniform(1, 2, n).astype(np.float32) for n in lengths]  # all of one size: nothing is absorbed
    got = run(Reducer(lanes=lanes), Reduce.SUM, [row.view(np.uint32) for row in rows], lengths, rng, bubbles=0.0)
    expected = np.array([vector.sum_rows(row[None])[0] for row in rows])
    assert got.tolist() == expected.view(np.uint32).tolist()


def test_refusal():
    with pytest.raises(ValueError, match="lanes = 3: must be a power of two from 1 to 8"):
        Reducer(lanes=3)
