# amaranth: UnusedElaboratable=no
"""AxiArbiter in Amaranth's simulator: initiators and a memory, all of which stall on their own."""

import random
from collections import deque

import pytest
from amaranth.sim import Simulator

from tilewright.fpga.memory.arbiter import AxiArbiter

SEED = 5
LIMIT = 20_000


class Initiator:
    """Sends ``bursts`` of (address, data of each beat) on a channel pair; hears what comes back."""

    def __init__(self, bursts):
        self.bursts, self.seen, self.finished = bursts, [], []


async def read_initiator(ctx, port, initiator, rng, stall):
    """AR and R at once; R data of each burst into ``seen``."""
    addresses = deque((address, length) for address, length in initiator.bursts)
    beats = []
    while len(initiator.seen) < len(initiator.bursts):
        if not ctx.get(port.arvalid) and addresses and rng.random() >= stall:
            address, length = addresses.popleft()
            ctx.set(port.arvalid, 1)
            ctx.set(port.araddr, address)
            ctx.set(port.arlen, length - 1)
        ctx.set(port.rready, rng.random() >= stall)
        *_, arvalid, arready, rvalid, rready, data, resp, last = await ctx.tick().sample(
            port.arvalid, port.arready, port.rvalid, port.rready, port.rdata, port.rresp, port.rlast)
        if arvalid and arready:
            ctx.set(port.arvalid, 0)
        if rvalid and rready:
            beats.append((data, resp))
            if last:
                initiator.seen.append(beats)
                beats = []
    ctx.set(port.rready, 0)


async def write_initiator(ctx, port, initiator, rng, stall):
    """AW and W independently of each other; responses into ``seen``."""
    addresses = deque((address, len(data)) for address, data in initiator.bursts)
    beats = deque((word, i == len(data) - 1) for _, data in initiator.bursts for i, word in enumerate(data))
    while len(initiator.seen) < len(initiator.bursts):
        if not ctx.get(port.awvalid) and addresses and rng.random() >= stall:
            address, length = addresses.popleft()
            ctx.set(port.awvalid, 1)
            ctx.set(port.awaddr, address)
            ctx.set(port.awlen, length - 1)
        if not ctx.get(port.wvalid) and beats and rng.random() >= stall:
            word, last = beats.popleft()
            ctx.set(port.wvalid, 1)
            ctx.set(port.wdata, word)
            ctx.set(port.wstrb, word & 15)
            ctx.set(port.wlast, last)
        ctx.set(port.bready, rng.random() >= stall)
        *_, awvalid, awready, wvalid, wready, bvalid, bready, resp = await ctx.tick().sample(
            port.awvalid, port.awready, port.wvalid, port.wready, port.bvalid, port.bready, port.bresp)
        if awvalid and awready:
            ctx.set(port.awvalid, 0)
        if wvalid and wready:
            ctx.set(port.wvalid, 0)
        if bvalid and bready:
            initiator.seen.append(resp)
    ctx.set(port.bready, 0)


async def read_target(ctx, axi, order, rng, stall):
    """Answers each beat with its address and the response that the address asks for; notes the bursts' addresses."""
    beats, waiting = deque(), None
    while True:
        ctx.set(axi.arready, rng.random() >= stall)
        if not ctx.get(axi.rvalid) and beats and rng.random() >= stall:
            data, last = beats.popleft()
            ctx.set(axi.rvalid, 1)
            ctx.set(axi.rdata, data)
            ctx.set(axi.rresp, data >> 12 & 3)
            ctx.set(axi.rlast, last)
        *_, arvalid, arready, address, length, rvalid, rready = await ctx.tick().sample(
            axi.arvalid, axi.arready, axi.araddr, axi.arlen, axi.rvalid, axi.rready)
        assert waiting is None or (arvalid and (address, length) == waiting), "AR changed before ARREADY"
        waiting = (address, length) if arvalid and not arready else None
        if arvalid and arready:
            order.append(address)
            beats.extend((address + 4 * i, i == length) for i in range(length + 1))
        if rvalid and rready:
            ctx.set(axi.rvalid, 0)


async def write_target(ctx, axi, order, stored, rng, stall):
    """Takes W in the order of AW, WLAST where AWLEN says; answers with bits 13:12 of the address."""
    bursts, responses, waiting = deque(), deque(), None
    while True:
        ctx.set(axi.awready, rng.random() >= stall)
        ctx.set(axi.wready, bool(bursts) and rng.random() >= stall)
        if not ctx.get(axi.bvalid) and responses and rng.random() >= stall:
            ctx.set(axi.bvalid, 1)
            ctx.set(axi.bresp, responses.popleft())
        *_, awvalid, awready, address, length, wvalid, wready, data, strobe, last, bvalid, bready = \
            await ctx.tick().sample(axi.awvalid, axi.awready, axi.awaddr, axi.awlen, axi.wvalid, axi.wready, axi.wdata,
                                    axi.wstrb, axi.wlast, axi.bvalid, axi.bready)
        assert waiting is None or (awvalid and (address, length) == waiting), "AW changed before AWREADY"
        waiting = (address, length) if awvalid and not awready else None
        if wvalid and wready:
            first, left, words = bursts[0]
            assert last == (left == 0) and strobe == data & 15
            words.append(data)
            bursts[0] = first, left - 1, words
            if last:
                stored[first] = words
                bursts.popleft()
                responses.append(first >> 12 & 3)
        if awvalid and awready:
            order.append(address)
            bursts.append((address, length, []))
        if bvalid and bready:
            ctx.set(axi.bvalid, 0)


def simulate(dut, reads, writes, *, stall, target_stall, seed=SEED):
    """Run all bursts; the order in which the target saw the reads and the writes, what it stored, cycles taken."""
    print(f"seed {seed}")
    read_order, write_order, stored = [], [], {}
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    ended = {}

    def add(name, function, *arguments):
        rng = random.Random(f"{seed} {name}")

        async def process(ctx):
            await function(ctx, *arguments, rng, stall)
            ended[name] = True

        sim.add_testbench(process)

    for i, (read, write) in enumerate(zip(reads, writes, strict=True)):
        add(f"read{i}", read_initiator, dut.reads[i], read)
        add(f"write{i}", write_initiator, dut.writes[i], write)
    cycles = 0

    def background(name, function, *arguments):
        rng = random.Random(f"{seed} {name}")

        async def process(ctx):
            await function(ctx, *arguments, rng, target_stall)

        sim.add_testbench(process, background=True)

    background("read target", read_target, dut.read, read_order)
    background("write target", write_target, dut.write, write_order, stored)

    async def count(ctx):
        nonlocal cycles
        while len(ended) < 2 * len(reads):
            await ctx.tick()
            cycles += 1
            assert cycles < LIMIT, "hangs"

    sim.add_testbench(count)
    sim.run()
    return read_order, write_order, stored, cycles


def random_bursts(rng, count, initiator, *, write):
    """Distinct addresses, whose bits 13:12 are the response; data names the initiator."""
    bursts = []
    for i in range(count):
        address, length = (initiator << 24) + (i << 16) + (rng.randrange(4) << 12), rng.choice([1, 1, 2, 3, 7, 16])
        bursts.append((address, [rng.getrandbits(32) for _ in range(length)] if write else length))
    return bursts


@pytest.mark.parametrize("initiators", [1, 2, 3])
@pytest.mark.parametrize("stalls", [(0, 0), (0.4, 0.4), (0, 0.7), (0.7, 0)])
def test_bursts(initiators, stalls):
    """Each initiator gets its own responses in order, and memory each burst whole."""
    rng = random.Random(SEED)
    reads = [Initiator(random_bursts(rng, 16, i, write=False)) for i in range(initiators)]
    writes = [Initiator(random_bursts(rng, 16, i, write=True)) for i in range(initiators)]
    dut = AxiArbiter(initiators=initiators, address_width=32, width=32, outstanding=4)
    read_order, write_order, stored, _ = simulate(dut, reads, writes, stall=stalls[0], target_stall=stalls[1])
    for i, (read, write) in enumerate(zip(reads, writes, strict=True)):
        assert read.seen == [[(address + 4 * k, address + 4 * k >> 12 & 3) for k in range(length)]
                             for address, length in read.bursts]
        assert write.seen == [address >> 12 & 3 for address, _ in write.bursts]
        assert [address for address in read_order if address >> 24 == i] == [address for address, _ in read.bursts]
        assert [address for address in write_order if address >> 24 == i] == [address for address, _ in write.bursts]
        assert all(stored[address] == words for address, words in write.bursts)


def test_fair():
    """Who always asks is served as often as the others who do."""
    reads = [Initiator([((i << 24) + (k << 16), 1) for k in range(40)]) for i in range(3)]
    dut = AxiArbiter(initiators=3, address_width=32, width=32)
    order, *_ = simulate(dut, reads, [Initiator([]) for _ in range(3)], stall=0, target_stall=0)
    owners = [address >> 24 for address in order]
    middle = owners[3:90]
    assert all(sorted(middle[k:k + 3]) == [0, 1, 2] for k in range(0, len(middle), 3))


def test_no_gaps():
    """Bursts of four beats of one initiator come through a memory that answers every second cycle as fast as it can."""
    reads = [Initiator([(k << 16, 4) for k in range(50)])]
    dut = AxiArbiter(initiators=1, address_width=32, width=32)
    *_, cycles = simulate(dut, reads, [Initiator([])], stall=0, target_stall=0)
    assert cycles < 2 * 200 + 20


@pytest.mark.parametrize("arguments", [{"initiators": 0}, {"outstanding": 0}])
def test_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be at least 1, not 0"):
        AxiArbiter(**{"initiators": 2, "address_width": 32, "width": 32} | arguments)
