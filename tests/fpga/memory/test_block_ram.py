# amaranth: UnusedElaboratable=no
"""BlockRam in Amaranth's simulator: contents, errors, rate, stalls on both sides."""

import random

import pytest
from amaranth.sim import Simulator

from tilewright.fpga.memory.block_ram import BANK_WORDS, BlockRam
from tilewright.gen.synthesis import synthesise

SEED = 9
SIZE = 11 * 4096   # of 32 bits five banks and a half, two groups of them; of 128 one and a part


async def read_burst(ctx, axi, address, length, rng, stall):
    """(data, resp) of each beat, cycles from AR to the first R, and from the first to the last."""
    beats, cycle, asked, heard = [], 0, None, []
    ctx.set(axi.arvalid, 1)
    ctx.set(axi.araddr, address)
    ctx.set(axi.arlen, length - 1)
    while len(beats) < length:
        ctx.set(axi.rready, rng.random() >= stall)
        *_, arvalid, arready, rvalid, rready, data, resp, last = await ctx.tick().sample(
            axi.arvalid, axi.arready, axi.rvalid, axi.rready, axi.rdata, axi.rresp, axi.rlast)
        cycle += 1
        assert cycle < 10_000, "hangs"
        if arvalid and arready:
            asked = cycle
            ctx.set(axi.arvalid, 0)
        if rvalid and rready:
            beats.append((data, resp))
            heard.append(cycle)
            assert last == (len(beats) == length)
    ctx.set(axi.rready, 0)
    return beats, heard[0] - asked, heard[-1] - heard[0]


async def write_burst(ctx, axi, address, beats, rng, stall):
    """Address and data at once; the response."""
    ctx.set(axi.awvalid, 1)
    ctx.set(axi.awaddr, address)
    ctx.set(axi.awlen, len(beats) - 1)
    beats, sent = list(beats), 0
    for _ in range(10_000):
        if not ctx.get(axi.wvalid) and sent < len(beats) and rng.random() >= stall:
            data, strobe = beats[sent]
            ctx.set(axi.wvalid, 1)
            ctx.set(axi.wdata, data)
            ctx.set(axi.wstrb, strobe)
            ctx.set(axi.wlast, sent == len(beats) - 1)
        ctx.set(axi.bready, rng.random() >= stall)
        *_, awready, wvalid, wready, bvalid, bready, resp = await ctx.tick().sample(
            axi.awready, axi.wvalid, axi.wready, axi.bvalid, axi.bready, axi.bresp)
        if awready:
            ctx.set(axi.awvalid, 0)
        if wvalid and wready:
            sent += 1
            ctx.set(axi.wvalid, 0)
        if bvalid and bready:
            ctx.set(axi.bready, 0)
            assert sent == len(beats)
            return resp
    raise AssertionError("hangs")


def simulate(width, testbench):
    dut = BlockRam(width=width, bytes=SIZE)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    print(f"seed {SEED}")
    rng = random.Random(SEED)

    async def run(ctx):
        await testbench(ctx, dut, rng)

    sim.add_testbench(run)
    sim.run()


@pytest.mark.parametrize("width", [32, 128])
@pytest.mark.parametrize("stall", [0, 0.4])
def test_contents(width, stall):
    async def testbench(ctx, dut, rng):
        beat, model = width // 8, bytearray(SIZE)
        borders = range(BANK_WORDS * beat, SIZE, BANK_WORDS * beat)
        for _ in range(25):
            length = rng.choice([1, 2, 3, rng.randint(1, 40)])
            at = rng.randrange(SIZE // beat - length + 1) * beat
            if rng.random() < 0.4:
                at = rng.choice(borders) - length // 2 * beat
            beats = [(rng.getrandbits(width), rng.getrandbits(beat)) for _ in range(length)]
            assert await write_burst(ctx, dut.write, at, beats, rng, stall) == 0
            for i, (data, strobe) in enumerate(beats):
                for k in range(beat):
                    if strobe >> k & 1:
                        model[at + i * beat + k] = data >> 8 * k & 255
            first, last = max(0, at - 3 * beat), min(SIZE, at + (length + 3) * beat)    # with what lies around
            got, *_ = await read_burst(ctx, dut.read, first, (last - first) // beat, rng, stall)
            assert got == [(int.from_bytes(model[k:k + beat], "little"), 0) for k in range(first, last, beat)]

    simulate(width, testbench)


def test_outside():
    async def testbench(ctx, dut, rng):
        await write_burst(ctx, dut.write, 0, [(1, 15), (2, 15)], rng, 0)
        for address in (SIZE, 0x8000_0000):
            assert await write_burst(ctx, dut.write, address, [(9, 15)] * 2, rng, 0) == 3
            got, *_ = await read_burst(ctx, dut.read, address, 2, rng, 0)
            assert [resp for _, resp in got] == [3, 3]
        got, *_ = await read_burst(ctx, dut.read, 0, 2, rng, 0)
        assert got == [(1, 0), (2, 0)]

    simulate(32, testbench)


def test_rate():
    async def testbench(ctx, dut, rng):
        _, first, others = await read_burst(ctx, dut.read, 64, 50, rng, 0)
        assert (first, others) == (dut.delay, 49)

    simulate(32, testbench)


def test_no_gap_between_bursts():
    async def testbench(ctx, dut, rng):
        axi, asked, beats, cycle = dut.read, 0, [], 0
        ctx.set(axi.arvalid, 1)
        ctx.set(axi.arlen, 3)
        ctx.set(axi.rready, 1)
        while len(beats) < 40:
            *_, arready, rvalid, last = await ctx.tick().sample(axi.arready, axi.rvalid, axi.rlast)
            cycle += 1
            asked += arready
            ctx.set(axi.araddr, 16 * asked)
            if rvalid:
                beats.append((cycle, last))
        assert [last for _, last in beats] == [0, 0, 0, 1] * 10
        assert beats[-1][0] - beats[0][0] == 39

    simulate(64, testbench)


def test_no_block_ram_is_wasted():
    """On ECP5: 2 KiB in each, the half bank at the end too; the rest is little beside them."""
    area = synthesise(BlockRam(width=64, bytes=40 << 10), name="block_ram")
    assert (area.bram, area.dsp) == (20, 0) and area.lut < 700


@pytest.mark.parametrize(("arguments", "message"), [
    ({"bytes": 5000}, "bytes must be a multiple of 4096, not 5000"),
    ({"width": 16}, "width must be 32, 64 or 128, not 16"),
    ({"address_width": 12}, "address_width must be at least 16, not 12"),
])
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockRam(**{"width": 32, "bytes": SIZE} | arguments)
