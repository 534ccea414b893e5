# amaranth: UnusedElaboratable=no
"""Quantiser against the golden A8: scales over the whole range, limits and their neighbours, blocks without a gap."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilewright.hw.vector.quantise import Quantiser
from tilewright.sim.golden import a8

SEED = 31
SPECIAL = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000], np.uint32)


def run(dut, rows, *, row_scale, rng, bubbles=0.0):
    """(q, code of each element, first and row_end marks) for rows of FP32 bits [rows, n], with random gaps only."""
    lanes, n = len(dut.slot.keep), rows.shape[1]
    slots = -(-n // lanes)
    q, codes, marks = [], [], []

    async def feed(ctx):
        ctx.set(dut.row_scale, row_scale)
        for row in rows:
            for start in range(0, n, lanes):
                part = row[start:start + lanes]
                part = np.concatenate([part, rng.integers(0, 1 << 32, lanes - len(part), dtype=np.uint32)])
                ctx.set(dut.i, int.from_bytes(part.tobytes(), "little"))
                ctx.set(dut.slot.valid, 1)
                ctx.set(dut.slot.row_end, start + lanes >= n)
                ctx.set(dut.slot.keep, (1 << min(lanes, n - start)) - 1)
                await ctx.tick()
                ctx.set(dut.slot.valid, 0)
                if rng.random() < bubbles:
                    await ctx.tick().repeat(int(rng.integers(1, 40)))

    async def take(ctx):
        while len(marks) < len(rows) * slots:
            await ctx.tick()
            if ctx.get(dut.o_valid):
                assert ctx.get(dut.busy)
                q.append(list(ctx.get(dut.o).to_bytes(lanes, "little")))
                codes.append([ctx.get(dut.o_code)] * lanes)
                marks.append((ctx.get(dut.o_first), ctx.get(dut.o_row_end)))
        await ctx.tick()
        assert not ctx.get(dut.busy)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(feed)
    simulator.add_testbench(take)
    simulator.run()
    shape = (len(rows), slots * lanes)
    q, codes = np.array(q, np.uint8).view(np.int8).reshape(shape), np.array(codes).reshape(shape)
    return q[:, :n], codes[:, :n], np.array(marks).reshape(len(rows), slots, 2)


def check(lanes, rows, rng, *, row_scale=False, **options):
    n = rows.shape[1]
    block = n if row_scale else 32
    q, codes, marks = run(Quantiser(lanes=lanes, max_row=64), rows, row_scale=row_scale, rng=rng, **options)
    expected, code = a8.quantise(rows.view(np.float32), block)
    assert np.array_equal(q, expected)
    assert np.array_equal(codes, np.repeat(code, block, axis=1)[:, :n])
    starts = np.arange(0, n, lanes)
    assert np.array_equal(marks[..., 0], np.tile(starts % block == 0, (len(rows), 1)))
    assert np.array_equal(marks[..., 1], np.tile(starts + lanes >= n, (len(rows), 1)))


def values(rng, rows, n):
    """Rows of any exponent, elements within 12 binades below it, a few special values."""
    x = rng.standard_normal((rows, n)) * 2.0 ** (rng.integers(-34, 24, (rows, 1)) - rng.integers(0, 12, (rows, n)))
    bits = x.astype(np.float32).view(np.uint32)
    return np.where(rng.random((rows, n)) < 0.004, rng.choice(SPECIAL, (rows, n)), bits)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_blocks(lanes):
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for n, rows in ((1, 70), (31, 6), (32, 6), (33, 8), (64, 4), (172, 3)):
        check(lanes, values(rng, rows, n), rng)
        check(lanes, values(rng, rows, n), rng, bubbles=0.1)


@pytest.mark.parametrize("lanes", [1, 4])
def test_rows_with_one_scale(lanes):
    rng = np.random.default_rng(SEED)
    for n in (1, 8, 32, 63, 64):
        check(lanes, values(rng, 6, n), rng, row_scale=True)


def test_limits_of_every_scale():
    rng = np.random.default_rng(SEED)
    amax = [int(np.float32(limit * 2.0 ** e).view(np.uint32)) + step
            for limit in (158.75 / 128, 190.5 / 128, 222.25 / 128, 254 / 128, 1.0)
            for e in (-126, -18, -17, -16, -15, 0, 20, 21, 22, 127) for step in (-1, 0, 1)]
    amax = np.array([a for a in amax if a >> 23], np.uint32)[:, None]
    others = amax - rng.integers(0, np.minimum(amax - 0x00800000 + 1, 9 << 23), (len(amax), 7)).astype(np.uint32)
    check(4, np.concatenate([amax, others | rng.integers(0, 2, others.shape, np.uint32) << 31], axis=1), rng)


def test_ties():
    # Scale 2^-3: every eighth and sixteenth about the integers.
    rng = np.random.default_rng(SEED)
    x = np.concatenate([[127 / 8], np.arange(31) / 16 + rng.integers(0, 12, 31)]).astype(np.float32)
    check(2, np.stack([x, -x]).view(np.uint32), rng)


@pytest.mark.parametrize("max_row", [0, 48, 2048])
def test_refusals(max_row):
    with pytest.raises(ValueError, match=f"max_row = {max_row}: must be a multiple of 32 from 32 to 1024"):
        Quantiser(lanes=1, max_row=max_row)
