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
    """Five parties that ask at random; reads keep clear of groups that are being written. Writer 0 waits a cycle."""
    print(f"seed {SEED}")
    dut, rng = Scratchpad(groups=GROUPS, width=WIDTH), random.Random(SEED)
    model = [0] * GROUPS
    served = {"read": [0, 0], "write": [0, 0, 0]}

    async def bench(ctx):
        expected = []       # (cycle, reader, data or None for a fault)
        fresh, ahead = None, None   # writes on their way: (group, mask, data); ahead is writer 0's
        held = [None] * 3
        asked = [False] * 2         # a reader waited
        for cycle in range(3000):
            for i, writer in enumerate(dut.writers):
                if held[i] is None and rng.random() < 0.5:
                    held[i] = (rng.randrange(GROUPS + 4), rng.randrange(4), rng.getrandbits(WIDTH))
                ctx.set(writer.valid, held[i] is not None)
                if held[i]:
                    for port, value in zip((writer.address, writer.mask, writer.data), held[i], strict=True):
                        ctx.set(port, value)
            assert [ctx.get(writer.ready) for writer in dut.writers] == [True, not ahead, not ahead and not held[1]]
            for writer, write in zip(dut.writers, held, strict=True):
                assert write is None or ctx.get(writer.fault) == (write[0] >= GROUPS)
            chosen = next((i for i in (1, 2) if held[i]), None) if ahead is None else None
            written = ahead or (held[chosen] if chosen else None)
            recent = {write[0] for write in (fresh, ahead, written, held[0]) if write}
            for reader in dut.readers:
                address = rng.randrange(GROUPS + 4)
                ctx.set(reader.valid, address not in recent and rng.random() < 0.7)
                ctx.set(reader.address, address)
            for i, reader in enumerate(dut.readers):
                if ctx.get(reader.valid) and ctx.get(reader.ready):
                    address = ctx.get(reader.address)
                    expected.append((cycle + dut.delay, i, model[address] if address < GROUPS else None))
                    served["read"][i] += 1
            for i, reader in enumerate(dut.readers):
                assert ctx.get(reader.ready) != ctx.get(dut.readers[1 - i].ready)
                waits = ctx.get(reader.valid & ~reader.ready)
                assert not (waits and asked[i])
                asked[i] = waits
            if fresh and fresh[0] < GROUPS:
                group, mask, data = fresh
                keep = sum(0xFFFFFFFF << 32 * w for w in range(2) if not mask >> w & 1)
                model[group] = model[group] & keep | data & ~keep
            fresh, ahead = written, held[0]
            for i in (0, chosen):
                if i is not None and held[i]:
                    served["write"][i] += 1
                    held[i] = None
            for i, reader in enumerate(dut.readers):
                due = [data for at, owner, data in expected if (at, owner) == (cycle, i)]
                assert ctx.get(reader.data_valid) == len(due)
                if due:
                    assert ctx.get(reader.fault) == (due[0] is None)
                    assert due[0] is None or ctx.get(reader.data) == due[0]
            await ctx.tick()

    simulate(dut, bench)
    assert min(served["read"]) > 900 and abs(served["read"][0] - served["read"][1]) < 300
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
