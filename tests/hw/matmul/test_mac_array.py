# amaranth: UnusedElaboratable=no
"""The row of accumulating multipliers: block sums against NumPy."""

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator

from tilewright.hw.matmul.mac_array import MacArray

SEED = 61
MOST = 32   # beats of a block


def blocks(rng, lanes):
    """Activations [beats] and weights [beats, lanes] of blocks: the largest sums, one beat, two, all, any number."""
    yield np.full(MOST, 127), np.full((MOST, lanes), -128)
    yield np.full(MOST, -127), np.full((MOST, lanes), -128)
    for beats in (1, 1, 2, MOST, *rng.integers(1, MOST + 1, 60)):
        yield rng.integers(-127, 128, beats), rng.integers(-128, 128, (beats, lanes))


@pytest.mark.parametrize("lanes", [2, 4])
def test_block_sums(lanes):
    """Beats come at random, but for the cycle behind a block's last one; steps as early and as late as they may."""
    rng = np.random.default_rng(SEED)
    print("seed", SEED)
    dut, reset = MacArray(lanes=lanes), Signal()
    # A block that a reset ends. Each cycle: valid, last, activation, weights.
    idle = (0, 1, 77, [5] * lanes)      # what means nothing without valid
    cycles, ends, expected = [(1, 0, 99, [-1] * lanes)] * 3 + [idle] * 2, [], []
    for activations, weights in blocks(rng, lanes):
        expected += [int(value) for value in activations @ weights]
        for i, (activation, row) in enumerate(zip(activations, weights, strict=True)):
            last = i == len(activations) - 1
            bubbles = int(rng.integers(0, 2))
            if last and ends:           # as many cycles from end to end as there are steps, now and then
                bubbles = max(bubbles, lanes - (len(cycles) - ends[-1]))
            cycles += [idle] * bubbles + [(1, last, activation, row)] + [idle] * last
        ends.append(len(cycles) - 2)
    cycles += [idle] * (lanes + dut.delay + dut.step_delay)
    steps = {}                          # cycle -> lane
    for end, following in zip(ends, [*ends[1:], ends[-1] + lanes], strict=True):
        chosen = rng.choice(np.arange(end, following) + dut.delay - 1, lanes, replace=False)
        steps |= {int(cycle): lane for lane, cycle in enumerate(sorted(chosen))}

    async def bench(ctx):
        got = []
        for cycle, (valid, last, activation, weights) in enumerate(cycles):
            ctx.set(reset, cycle == 3)
            ctx.set(dut.valid, valid)
            ctx.set(dut.last, int(last))
            ctx.set(dut.activations, int(activation) & 255)
            ctx.set(dut.weights, int.from_bytes(np.array(weights, np.int8).tobytes(), "little"))
            ctx.set(dut.step, cycle in steps)
            ctx.set(dut.step_column, steps.get(cycle, 0))
            if cycle - dut.step_delay in steps:
                got.append(ctx.get(dut.sums.as_signed()))
            await ctx.tick()
        assert got == expected and max(map(abs, got)) == 127 * 128 * MOST

    simulator = Simulator(ResetInserter(reset)(dut))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_lanes():
    with pytest.raises(ValueError, match="lanes must be at least 2, not 1"):
        MacArray(lanes=1)
