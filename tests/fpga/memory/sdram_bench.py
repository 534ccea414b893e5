"""cocotb side of test_sdram: cocotbext-axi's master with pauses, and a byte model of the memory."""

import itertools
import json
import os
import random
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge, Timer
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiBus, AxiMaster, AxiResp

SEED = int(os.environ.get("SDRAM_SEED", "17"))
SIZE = 1 << 25
ROW = 4096       # bytes of one row of all banks
BANK = 1024


def initial(address):
    """Byte of the model's noise, as its source defines it."""
    word = address >> 1
    value = (word & 0xffff) * 0x9e37 & 0xffff ^ word >> 10 & 0xffff
    return value >> 8 * (address & 1) & 0xff


class Memory:
    """Bytes written, over the noise."""

    def __init__(self):
        self.bytes = {}

    def read(self, address, length):
        return bytes(self.bytes.get(a, initial(a)) for a in range(address, address + length))

    def write(self, address, data):
        self.bytes.update(zip(itertools.count(address), data, strict=False))


class Bench:
    def __init__(self, dut, *, burst=64):
        print(f"seed {SEED}")
        self.dut, self.rng = dut, random.Random(SEED)
        self.beat_bytes = len(dut.s_axi_wdata) // 8
        self.master = AxiMaster(AxiBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst, max_burst_len=burst)
        self.master.read_if.log.setLevel("ERROR")
        self.master.write_if.log.setLevel("ERROR")
        self.memory = Memory()
        self.cycle, self.watched = 0, {}

    async def start(self, pause=0.0):
        dut = self.dut
        dut.starve.value = 0
        if pause:
            write, read = self.master.write_if, self.master.read_if
            for channel in (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel):
                channel.set_pause_generator(self.pauses(pause))
        Clock(dut.clk, 10, "ns").start()
        await self.reset()

    async def reset(self):
        dut = self.dut
        dut.rst.value = 1
        await ClockCycles(dut.clk, 4)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 4)

    def pauses(self, probability):
        """Pauses of one cycle, and now and then a long one."""
        rng = random.Random(self.rng.random())
        while True:
            length = rng.randint(20, 200) if rng.random() < 0.002 else 1
            paused = rng.random() < probability
            yield from itertools.repeat(paused, length if paused else 1)

    async def write(self, address, data):
        assert (await self.master.write(address, data, awid=0)).resp == AxiResp.OKAY
        self.memory.write(address, data)

    async def check(self, address, length):
        answer = await self.master.read(address, length, arid=0)
        assert answer.resp == AxiResp.OKAY
        assert answer.data == self.memory.read(address, length), hex(address)

    async def watch(self, *channels):
        """Cycles of the handshakes on ``channels``."""
        dut = self.dut
        pairs = [(self.watched.setdefault(channel, []), getattr(dut, f"s_axi_{channel}valid"),
                  getattr(dut, f"s_axi_{channel}ready")) for channel in channels]
        while True:
            await RisingEdge(dut.clk)
            await ReadOnly()
            self.cycle += 1
            for cycles, valid, ready in pairs:
                if int(valid.value) and int(ready.value):
                    cycles.append(self.cycle)


@cocotb.test()
async def random_traffic(dut):
    """Workers, each with its own bytes, write and read back at any byte and length, around guard bytes."""
    bench = Bench(dut, burst=256)
    await bench.start(pause=float(os.environ.get("PAUSE", "0.3")))
    # Of 600 bytes each: they share banks and rows, lie across the ends of banks and rows, and at both ends of memory.
    starts = [0, 5 * ROW + 3 * BANK - 300, ROW - 500, 9 * ROW + 300, 9 * ROW + BANK - 100, 4000 * ROW + 2 * BANK,
              SIZE - 2600]

    async def worker(begin, rng):
        for _ in range(int(os.environ.get("ROUNDS", "12"))):
            length = rng.choice([1, 2, 3, 15, 16, 33, rng.randint(1, 600)])
            at = begin + rng.randint(0, 600 - length)
            await bench.write(at, rng.randbytes(length))
            first, last = max(0, at - 40), min(SIZE, at + length + 40)
            if begin in (0, SIZE - 2600):    # their surroundings belong to nobody else
                await bench.check(first, last - first)
            await bench.check(at, length)

    workers = [cocotb.start_soon(worker(begin, random.Random(bench.rng.random()))) for begin in starts]
    for task in workers:
        await task
    for begin in starts:
        await bench.check(max(0, begin - 200), min(SIZE, begin + 2400) - max(0, begin - 200))


@cocotb.test()
async def strobes(dut):
    """Single beats with every pattern of strobes that lies in two bytes words, and beats without any."""
    bench = Bench(dut)
    await bench.start(pause=0.2)
    beat = bench.beat_bytes
    for first, last in itertools.combinations(range(min(beat, 8) + 1), 2):
        await bench.write(0x10000 + first, bench.rng.randbytes(last - first))
        await bench.check(0x10000 - beat, 3 * beat)
    channel = bench.master.write_if.w_channel
    send = channel.send

    async def holes(transaction):    # strobes with holes, which the master never makes
        transaction.wstrb = transaction.wstrb & 0b0101101101011010
        await send(transaction)

    channel.send = holes
    before, data = bench.memory.read(0x20000, 8 * beat), bench.rng.randbytes(8 * beat)
    await bench.write(0x20000, data)
    channel.send = send
    kept = [0b0101101101011010 >> i % beat & 1 for i in range(8 * beat)]
    bench.memory.write(0x20000, bytes(n if k else o for n, o, k in zip(data, before, kept, strict=True)))
    await bench.check(0x20000 - beat, 10 * beat)


@cocotb.test()
async def outside(dut):
    """DECERR from the end of memory on, in order with what is inside; nothing is written."""
    bench = Bench(dut)
    await bench.start(pause=0.2)
    beat = bench.beat_bytes
    for address in (SIZE, SIZE + 0x1000, 0xffffff00):
        write = cocotb.start_soon(bench.master.write(address, bytes(3 * beat), awid=0))
        inside = cocotb.start_soon(bench.write(0x3000, bench.rng.randbytes(5 * beat)))
        assert (await write).resp == AxiResp.DECERR
        await inside
        assert (await bench.master.read(address, 3 * beat, arid=0)).resp == AxiResp.DECERR
        await bench.check(address % SIZE, min(4 * beat, SIZE - address % SIZE))
        await bench.check(0x3000, 5 * beat)


@cocotb.test()
async def blocked(dut):
    """One direction stands still for far longer than refresh allows; the other works, then the first goes on."""
    bench = Bench(dut, burst=256)
    await bench.start()
    read, write = bench.master.read_if, bench.master.write_if
    await bench.write(0, bench.rng.randbytes(9000))
    read.r_channel.pause = True
    reading = cocotb.start_soon(bench.check(0, 9000))
    await ClockCycles(dut.clk, 12_000)
    await bench.write(0x8000, bench.rng.randbytes(5000))
    read.r_channel.pause = False
    await reading
    write.w_channel.pause = True    # address first, data long after
    writing = cocotb.start_soon(bench.write(0x8800, bench.rng.randbytes(5000)))
    await ClockCycles(dut.clk, 9000)
    await bench.check(0, 3000)
    write.w_channel.pause = False
    await writing
    write.b_channel.pause = True
    writes = [cocotb.start_soon(bench.write(0x8000 + 64 * i, bench.rng.randbytes(64))) for i in range(40)]
    await ClockCycles(dut.clk, 3000)
    await bench.check(0, 3000)
    write.b_channel.pause = False
    for task in writes:
        await task
    await bench.check(0x7f00, 9000)


@cocotb.test()
async def refresh_under_load(dut):
    """The longest reads and the shortest writes without end, in two rows of one bank; the model watches."""
    constant = {"araddr": 0x1000, "arlen": 255, "arvalid": 1, "rready": 1, "awaddr": 0x2000, "awlen": 0, "awvalid": 1,
                "wdata": 1, "wstrb": 1, "wlast": 1, "wvalid": 1, "bready": 1}
    for name, value in constant.items():
        getattr(dut, f"s_axi_{name}").value = value
    dut.rst.value = dut.starve.value = 0
    Clock(dut.clk, 10, "ns").start()
    await Timer(int(os.environ["MICROSECONDS"]), "us")


@cocotb.test()
async def saturated(dut):
    """Two readers and two writers in rows of their own, always with the next burst ready, and pauses on all channels;
    with STARVE the model gets no refresh from the middle on."""
    bench = Bench(dut, burst=256)
    await bench.start(pause=0.2)
    end = 1000 * int(os.environ["MICROSECONDS"])
    lengths, passed = [1, bench.beat_bytes, 4096, 9000], []

    async def work(begin, rng, action):
        while get_sim_time("ns") < end:
            length = rng.choice(lengths)
            await action(begin + rng.randint(0, 9000 - length), length)
            passed.append(length)

    async def write(address, length):
        await bench.write(address, bench.rng.randbytes(length))

    begins = {9 * ROW: write, 29 * ROW + BANK: write, 59 * ROW: bench.check, SIZE - 9000: bench.check}
    for begin in begins:
        await bench.write(begin, bench.rng.randbytes(9000))
    workers = [cocotb.start_soon(work(begin, random.Random(bench.rng.random()), action))
               for begin, action in begins.items()]
    await Timer(end // 2, "ns")
    dut.starve.value = int(os.environ.get("STARVE", "0"))
    for worker in workers:
        await worker
    for begin in begins:
        await bench.check(begin, 9000)
    assert sum(passed) * 2 > end // 10    # bytes, at 10 ns a cycle


@cocotb.test()
async def reset_in_traffic(dut):
    """Resets while reads and writes are on their way: the start anew, with its whole pause, and then all works."""
    bench = Bench(dut, burst=256)
    await bench.start()
    for _ in range(4):
        at = bench.rng.randrange(SIZE - 9000)
        await bench.write(at, bench.rng.randbytes(9000))
        await bench.check(at, 9000)
        tasks = [cocotb.start_soon(bench.master.write(at, bytes(9000), awid=0)),
                 cocotb.start_soon(bench.master.read(at, 9000, arid=0))]
        await ClockCycles(dut.clk, bench.rng.randint(30, 3000))
        for task in tasks:
            task.cancel()
        await bench.reset()
        assert not int(dut.initialised.value)


@cocotb.test()
async def latency(dut):
    """Cycles from AR to the first R: row open (the stated delay), bank closed, another row open."""
    bench = Bench(dut)
    await bench.start()
    cocotb.start_soon(bench.watch("ar", "r"))
    waits = []
    for address in (0, 64, BANK, ROW):
        await bench.master.read(address, 1, arid=0)
        waits.append(bench.watched["r"][-1] - bench.watched["ar"][-1])
    Path(os.environ["RESULT"]).write_text(json.dumps(waits))


@cocotb.test()
async def rates(dut):
    """Share of the bus's peak (2 bytes a cycle) on long streams, and the gaps in them."""
    bench = Bench(dut, burst=int(os.environ["BURST"]))
    await bench.start()
    while not int(dut.initialised.value):
        await ClockCycles(dut.clk, 100)
    cocotb.start_soon(bench.watch("r", "w"))
    length, result = int(os.environ["LENGTH"]), {}    # several times the buffers
    bench.memory.write(0, bench.rng.randbytes(length))

    def share(cycles):
        return (len(cycles) - 1) * bench.beat_bytes / 2 / (cycles[-1] - cycles[0])

    await bench.master.write(0, bench.memory.read(0, length), awid=0)
    # The first beats fill the buffer (512 beats) at the port's rate, which is twice the memory's or more.
    result["write"] = share(bench.watched["w"][1100:])
    await bench.check(0, length)
    reads = bench.watched["r"]
    result["read"] = share(reads)
    result["longest_gap"] = max(b - a for a, b in itertools.pairwise(reads))
    begin, start = len(reads), bench.cycle
    both = [cocotb.start_soon(bench.check(0, length)),
            cocotb.start_soon(bench.master.write(SIZE // 2, bytes(length), awid=0))]
    for task in both:
        await task
    result["both"] = (len(reads) - begin) * 2 * bench.beat_bytes / 2 / (bench.cycle - start)
    Path(os.environ["RESULT"]).write_text(json.dumps(result))
