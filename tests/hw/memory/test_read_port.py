# amaranth: UnusedElaboratable=no
"""Read port: order, ranges, priority, outstanding bursts, abort."""

import random
from collections import deque

import pytest
from amaranth.sim import Simulator

from tilewright.hw.memory.read_port import ReadPort

SEED = 9
WIDTH, BYTES = 64, 8
REGIONS = ((0x10000, 0x2000), (0x40000, 0x1238), (0x80000, 0), (0xFFFFE000, 0x2000))
OUTSTANDING = 4


class Bench:
    """Three requestors with random bursts, and a memory that returns each beat's address."""

    def __init__(self, *, stall=0.4, requests=60, seed=SEED):
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.dut = ReadPort(requestors=3, address_width=32, width=WIDTH, outstanding=OUTSTANDING)
        self.stall, self.requests = stall, requests
        self.expected = [deque() for _ in range(3)]
        self.accepted = [0] * 3
        self.queue = deque()    # bursts accepted on AR: (address, beats)
        self.aborting = False
        self.most = 0

    def pause(self):
        return self.rng.random() < self.stall

    def burst(self):
        region = self.rng.choice((0, 0, 1, 1, 2, 3, 5))
        offset = self.rng.randrange(0, 0x2400) // BYTES * BYTES
        if region < 4 and self.rng.random() < 0.3:      # up to the region's end, or one beat more
            offset = max(0, REGIONS[region][1] // BYTES + self.rng.choice((0, 1)) - self.rng.choice((1, 2, 16))) * BYTES
            return region, offset, min((4096 - offset % 4096) // BYTES, self.rng.choice((1, 2, 16)))
        room = (4096 - offset % 4096) // BYTES
        return region, offset, min(room, self.rng.choice((1, 2, 16, 32, 256)))

    def offer(self, ctx, port):
        region, offset, beats = self.burst()
        ctx.set(port.request_region, region)
        ctx.set(port.request_offset, offset)
        ctx.set(port.request_beats, beats)
        ctx.set(port.request_valid, 1)
        return region, offset, beats

    def requestor(self, index):
        async def process(ctx):
            port = self.dut.requests[index]
            for _ in range(self.requests):
                while self.pause() or self.aborting:
                    await ctx.tick()
                region, offset, beats = self.offer(ctx, port)
                taken = False
                while not taken and not self.aborting:
                    if self.rng.random() < 0.1:     # taken back for a cycle, then another one
                        ctx.set(port.request_valid, 0)
                        await ctx.tick()
                        region, offset, beats = self.offer(ctx, port)
                    taken = ctx.get(port.request_ready)
                    if taken:
                        inside = region < 4 and offset + beats * BYTES <= REGIONS[region][1]
                        assert ctx.get(port.fault) == (not inside), (region, offset, beats)
                        if inside:
                            self.expected[index] += range(REGIONS[region][0] + offset,
                                                          REGIONS[region][0] + offset + beats * BYTES, BYTES)
                        self.accepted[index] += 1
                    await ctx.tick()
                ctx.set(port.request_valid, 0)
        return process

    async def memory(self, ctx):
        axi, waiting = self.dut.axi, None
        beats = deque()
        while True:
            ready = not self.pause()
            ctx.set(axi.arready, ready)
            valid = bool(beats) and not self.pause()
            ctx.set(axi.rvalid, valid)
            if valid:
                ctx.set(axi.rdata, beats[0][0])
                ctx.set(axi.rlast, beats[0][1])
            offered = (ctx.get(axi.araddr), ctx.get(axi.arlen)) if ctx.get(axi.arvalid) else None
            assert waiting is None or offered == waiting, "AR changed before ARREADY"
            waiting = offered if offered and not ready else None
            assert ctx.get(axi.rready)
            await ctx.tick()
            if valid:
                beats.popleft()
            if offered and ready:
                address, length = offered
                assert address // 4096 == (address + length * BYTES) // 4096
                beats += [(address + i * BYTES, i == length) for i in range(length + 1)]
            self.most = max(self.most, sum(last for _, last in beats))
            self.quiet = not beats and offered is None

    async def watch(self, ctx):
        while True:
            for index, port in enumerate(self.dut.requests):
                if ctx.get(port.beat_valid):
                    assert not self.aborting and ctx.get(port.beat) == self.expected[index].popleft()
            await ctx.tick()

    def run(self, *extra):
        async def main(ctx):
            for index in range(3):
                for _ in range(20_000):
                    if self.accepted[index] >= self.requests and not any(self.expected):
                        break
                    await ctx.tick()
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-8)

        async def set_regions(ctx):
            for entry, (base, size) in zip(self.dut.regions, REGIONS, strict=True):
                ctx.set(entry.base, base)
                ctx.set(entry.size, size)
        simulator.add_testbench(set_regions)
        for process in (self.memory, self.watch, *(self.requestor(i) for i in range(3))):
            simulator.add_testbench(process, background=True)
        for process in extra or (main,):
            simulator.add_testbench(process)
        simulator.run()


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_random(stall):
    bench = Bench(stall=stall)
    bench.run()
    assert bench.accepted == [60] * 3 and not any(bench.expected)
    assert bench.most <= OUTSTANDING


def test_abort():
    """ARVALID stays up, what is outstanding is dropped, idle comes, and the port works again."""
    bench = Bench(requests=100_000)
    dut = bench.dut

    async def main(ctx):
        for _ in range(30):
            for _ in range(bench.rng.randint(1, 60)):
                await ctx.tick()
            ctx.set(dut.abort, 1)
            bench.aborting = True
            for _ in range(bench.rng.randint(1, 4)):    # also shorter than what is outstanding
                await ctx.tick()
            pulse = bench.rng.random() < 0.5
            if pulse:
                ctx.set(dut.abort, 0)
            await ctx.tick().until(dut.idle)
            assert bench.quiet
            ctx.set(dut.abort, 0)
            for queue in bench.expected:
                queue.clear()
            await ctx.tick()
            bench.aborting = False
        assert min(bench.accepted) >= 5

    bench.run(main)


def test_priority():
    """Requestor 0 before 1 before 2, and the events."""
    bench = Bench(stall=0.0)
    dut, order = bench.dut, []

    async def main(ctx):
        for port in dut.requests:
            ctx.set(port.request_beats, 1)
            ctx.set(port.request_valid, 1)
        while len(order) < 3:
            for index, port in enumerate(dut.requests):
                if ctx.get(port.request_ready):
                    order.append(index)
                    await ctx.tick()
                    ctx.set(port.request_valid, 0)
            await ctx.tick()
        assert ctx.get(dut.stalled) and not ctx.get(dut.idle)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)

    async def regions(ctx):
        ctx.set(dut.regions[0].size, 4096)
        ctx.set(dut.axi.arready, 1)

    simulator.add_testbench(regions)
    simulator.add_testbench(main)
    simulator.run()
    assert order == [0, 1, 2]


@pytest.mark.parametrize("sizes, name", [({"requestors": 0}, "requestors"), ({"outstanding": 0}, "outstanding"),
                                         ({"address_width": 12}, "address_width")])
def test_refuses(sizes, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        ReadPort(**{"requestors": 3, "address_width": 32, "width": 64, "outstanding": 4} | sizes)
