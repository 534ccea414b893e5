# amaranth: UnusedElaboratable=no
"""Scratchpad: turns, priority, word masks, delays, faults."""

import random

import pytest
from amaranth.sim import Simulator

from tilewright.hw.memory.scratchpad import Scratchpad

SEED = 5
GROUPS, WIDTH = 32, 64


def simulate(dut, *benches):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()


def test_random():
    """Five parties that ask at random; reads keep clear of the groups written in this and the cycle before."""
    print(f"seed {SEED}")
    dut, rng = Scratchpad(groups=GROUPS, width=WIDTH), random.Random(SEED)
    model = [0] * GROUPS
    served = {"read": [0, 0], "write": [0, 0, 0]}

    async def bench(ctx):
        expected = []       # (cycle, reader, data or None for a fault)
        fresh = []          # writes on their way: (group, mask, data)
        held = [None] * 3
        for cycle in range(3000):
            for i, writer in enumerate(dut.writers):
                if held[i] is None and rng.random() < 0.5:
                    held[i] = (rng.randrange(GROUPS + 4), rng.randrange(4), rng.getrandbits(WIDTH))
                ctx.set(writer.valid, held[i] is not None)
                if held[i]:
                    for port, value in zip((writer.address, writer.mask, writer.data), held[i], strict=True):
                        ctx.set(port, value)
            first = next((i for i in range(3) if held[i]), None)
            ready = [ctx.get(writer.ready) for writer in dut.writers]
            assert ready == [first is None or i <= first for i in range(3)]
            recent = {group for group, *_ in fresh} | ({held[first][0]} if first is not None else set())
            for reader in dut.readers:
                address = rng.randrange(GROUPS + 4)
                ctx.set(reader.valid, address not in recent and rng.random() < 0.7)
                ctx.set(reader.address, address)
            for i, reader in enumerate(dut.readers):
                if ctx.get(reader.valid) and ctx.get(reader.ready):
                    address = ctx.get(reader.address)
                    expected.append((cycle + dut.delay, i, model[address] if address < GROUPS else None))
                    served["read"][i] += 1
            assert sum(ctx.get(r.valid & r.ready) for r in dut.readers) == any(ctx.get(r.valid) for r in dut.readers)
            for group, mask, data in fresh:
                keep = sum(0xFFFFFFFF << 32 * w for w in range(2) if not mask >> w & 1)
                model[group] = model[group] & keep | data & ~keep
            fresh.clear()
            if first is not None:
                assert ctx.get(dut.writers[first].fault) == (held[first][0] >= GROUPS)
                if held[first][0] < GROUPS:
                    fresh.append(held[first])
                served["write"][first] += 1
                held[first] = None
            for i, reader in enumerate(dut.readers):
                due = [data for at, owner, data in expected if (at, owner) == (cycle, i)]
                assert ctx.get(reader.data_valid) == len(due)
                if due:
                    assert ctx.get(reader.fault) == (due[0] is None)
                    assert due[0] is None or ctx.get(reader.data) == due[0]
            await ctx.tick()

    simulate(dut, bench)
    assert min(served["read"]) > 900 and abs(served["read"][0] - served["read"][1]) < 200
    assert all(served["write"])


def test_turns():
    """Two readers that always ask alternate."""
    dut, taken = Scratchpad(groups=GROUPS, width=WIDTH), []

    async def bench(ctx):
        for reader in dut.readers:
            ctx.set(reader.valid, 1)
        for _ in range(8):
            taken.append([ctx.get(reader.ready) for reader in dut.readers])
            await ctx.tick()

    simulate(dut, bench)
    assert taken == [[1, 0], [0, 1]] * 4


@pytest.mark.parametrize("sizes, name", [({"groups": 48}, "groups"), ({"groups": 1 << 17}, "groups"),
                                         ({"width": 48}, "width")])
def test_refuses(sizes, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Scratchpad(**{"groups": GROUPS, "width": WIDTH} | sizes)
