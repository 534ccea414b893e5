"""cocotb side of test_axi_memory: cocotbext-axi's master, or signals set by hand for what no master would do."""

import json
import os
import random
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge
from cocotbext.axi import AxiBus, AxiMaster, AxiResp

SEED = 3
BYTES = 1 << 16


class Bench:
    """A master on the memory, and the cycles of each handshake by channel."""

    def __init__(self, dut):
        self.dut = dut
        self.beat_bytes = len(dut.s_axi_wdata) // 8
        self.master = AxiMaster(AxiBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst, max_burst_len=64)
        self.seen = {channel: [] for channel in ("ar", "r", "aw", "w", "b")}
        self.first, self.last = [], []    # cycles of each burst's first and last R beat
        self.cycle = 0

    async def start(self):
        dut = self.dut
        dut.dump.value = dut.dump_first.value = dut.dump_beats.value = 0
        Clock(dut.clk, 10, "ns").start()
        dut.rst.value = 1
        for _ in range(4):
            await RisingEdge(dut.clk)
        dut.rst.value = 0
        cocotb.start_soon(self.watch())
        for _ in range(4):
            await RisingEdge(dut.clk)

    async def watch(self):
        dut, begins = self.dut, True
        while True:
            await RisingEdge(dut.clk)
            await ReadOnly()
            self.cycle += 1
            for channel, cycles in self.seen.items():
                if all(int(getattr(dut, f"s_axi_{channel}{end}").value) for end in ("valid", "ready")):
                    cycles.append(self.cycle)
                    if channel == "r":
                        if begins:
                            self.first.append(self.cycle)
                        begins = bool(int(dut.s_axi_rlast.value))
                        if begins:
                            self.last.append(self.cycle)

    def read(self, address, length):
        return self.master.read(address, length, arid=0)

    def write(self, address, data):
        return self.master.write(address, data, awid=0)

    async def dump(self, first, beats):
        dut = self.dut
        dut.dump_first.value, dut.dump_beats.value, dut.dump.value = first, beats, 1
        for _ in range(2):
            await RisingEdge(dut.clk)
        dut.dump.value = 0
        await RisingEdge(dut.clk)


def image():
    return random.Random(SEED).randbytes(BYTES // 2)


@cocotb.test()
async def contents(dut):
    """Image, then random writes and reads at any byte; the dump equals the model at the end."""
    rng = random.Random(SEED)
    bench = Bench(dut)
    await bench.start()
    model = bytearray(image().ljust(BYTES, b"\0"))
    for _ in range(60):
        beat = bench.beat_bytes
        at, length = rng.randrange(0, BYTES - 2048) // beat * beat, rng.randint(1, 2048)
        if rng.random() < 0.5:
            data = rng.randbytes(length)
            assert (await bench.write(at, data)).resp == AxiResp.OKAY
            model[at:at + length] = data
        else:
            assert (await bench.read(at, length)).data == bytes(model[at:at + length])
    await bench.dump(3, 4000)
    lines = Path(os.environ["DUMP"]).read_text().split()
    held = b"".join(bytes.fromhex(line)[::-1] for line in lines)
    assert held == bytes(model[3 * bench.beat_bytes:4003 * bench.beat_bytes])


@cocotb.test()
async def latency(dut):
    """One burst alone takes read_latency to its first beat; bursts behind each other leave no gap."""
    bench = Bench(dut)
    await bench.start()
    wanted = int(os.environ["READ_LATENCY"])
    await bench.read(0x40, bench.beat_bytes * 5)
    assert bench.first == [bench.seen["ar"][0] + wanted] and len(bench.seen["r"]) == 5
    beats = 64 * 8
    await bench.read(0, bench.beat_bytes * beats)
    cycles = bench.seen["r"][5:]
    assert len(bench.seen["ar"]) == 9 and len(cycles) == beats and cycles[-1] - cycles[0] == beats - 1
    assert bench.first[1] == bench.seen["ar"][1] + wanted
    await bench.write(0, bytes(bench.beat_bytes))
    assert bench.seen["b"][0] == bench.seen["w"][0] + int(os.environ["WRITE_LATENCY"])


@cocotb.test()
async def bandwidth(dut):
    """Beats in 256 cycles, reads alone and reads and writes together; neither is starved."""
    bench = Bench(dut)
    await bench.start()
    wanted = int(os.environ["BANDWIDTH"])
    await bench.read(0, bench.beat_bytes * 512)
    cycles = bench.seen["r"]
    assert abs((len(cycles) - 1) * 256 / (cycles[-1] - cycles[0]) - wanted) < 1
    begin = len(cycles)
    reading = cocotb.start_soon(bench.read(0, bench.beat_bytes * 1024))
    writing = cocotb.start_soon(bench.write(0, bytes(bench.beat_bytes * 1024)))
    await reading
    await writing
    start, end = max(cycles[begin], bench.seen["w"][0]), min(cycles[-1], bench.seen["w"][-1])
    inside = [[c for c in channel if start <= c < end] for channel in (cycles, bench.seen["w"])]
    assert abs(sum(map(len, inside)) * 256 / (end - start) - wanted) < 3
    assert min(map(len, inside)) > 0.4 * max(map(len, inside))


@cocotb.test()
async def refresh(dut):
    """Beats come in all cycles but those of the refresh."""
    bench = Bench(dut)
    await bench.start()
    every, cycles = int(os.environ["REFRESH_EVERY"]), int(os.environ["REFRESH_CYCLES"])
    await bench.read(0, bench.beat_bytes * 1024)
    gaps = [b - a for a, b in zip(bench.seen["r"], bench.seen["r"][1:], strict=False)]
    assert set(gaps) == {1, cycles + 1}
    stops = [a for a, gap in zip(bench.seen["r"], gaps, strict=False) if gap > 1]
    assert len(stops) >= 8 and {b - a for a, b in zip(stops, stops[1:], strict=False)} == {every}


@cocotb.test()
async def pages(dut):
    """A read waits longer where its page is not open: the first of a page, and after another page of the same bank."""
    bench = Bench(dut)
    await bench.start()
    latency, page, miss = (int(os.environ[name]) for name in ("READ_LATENCY", "PAGE_BYTES", "PAGE_MISS"))
    waits = []
    for address in (0, 64, page, 64, page + 64, 8 * page, 0, page):   # page 8 lies in bank 0
        await bench.read(address, bench.beat_bytes)
        waits.append(bench.first[-1] - bench.seen["ar"][-1])
    assert waits == [latency + wait for wait in (miss, 0, miss, 0, 0, miss, miss, 0)]
    await bench.write(8 * page, bytes(bench.beat_bytes))
    await bench.read(0, bench.beat_bytes)
    assert bench.first[-1] - bench.seen["ar"][-1] == latency + miss


@cocotb.test()
async def pauses(dut):
    """Each channel pauses about as often as asked; the cycles are written down, to compare simulators."""
    bench = Bench(dut)
    await bench.start()
    for _ in range(4):
        await bench.read(0, bench.beat_bytes * 256)
        await bench.write(0x100, random.Random(SEED).randbytes(bench.beat_bytes * 256))
    for channel in ("r", "w"):
        gaps = [b - a for a, b in zip(bench.seen[channel], bench.seen[channel][1:], strict=False) if b - a < 30]
        assert 1.4 < sum(gaps) / len(gaps) < 1.8, channel    # 96 of 256 cycles pause: 1.6
    Path(os.environ["TRACE"]).write_text(json.dumps(bench.seen))


@cocotb.test()
async def errors(dut):
    """SLVERR in the range and nowhere else; it stays as it was. DECERR beyond the memory."""
    bench = Bench(dut)
    await bench.start()
    first, beat = int(os.environ["ERROR_FIRST"]), bench.beat_bytes
    before, length = first - 4 * beat, 12 * beat
    data = image()
    answer = await bench.read(before, length)
    assert answer.resp == AxiResp.SLVERR and answer.data[:4 * beat] == data[before:first]
    assert (await bench.read(before, 4 * beat)).resp == AxiResp.OKAY
    assert (await bench.read(first + 16, 4 * beat)).resp == AxiResp.OKAY
    assert (await bench.write(before, bytes(length))).resp == AxiResp.SLVERR
    assert (await bench.write(before, bytes(4 * beat))).resp == AxiResp.OKAY
    assert (await bench.read(BYTES, beat)).resp == AxiResp.DECERR
    assert (await bench.write(BYTES, bytes(beat))).resp == AxiResp.DECERR
    await bench.dump(first // beat, 16 // beat)
    lines = Path(os.environ["DUMP"]).read_text().split()
    assert b"".join(bytes.fromhex(line)[::-1] for line in lines) == data[first:first + 16]


VIOLATIONS = {
    # Signals set from cycle to cycle; with +stall_ar=255 and so on, READY is hardly ever high.
    "ar_dropped": [{"arvalid": 1}, {"arvalid": 0}],
    "ar_changed": [{"arvalid": 1, "araddr": 64}, {"araddr": 128}],
    "aw_dropped": [{"awvalid": 1}, {"awvalid": 0}],
    "aw_changed": [{"awvalid": 1, "awlen": 1}, {"awlen": 2}],
    "w_dropped": [{"wvalid": 1}, {"wvalid": 0}],
    "w_changed": [{"wvalid": 1, "wdata": 1}, {"wdata": 2}],
    "strobe_changed": [{"wvalid": 1, "wstrb": 1}, {"wstrb": 3}],
    "read_page": [{"arvalid": 1, "araddr": 4096 - 8, "arlen": 1}],
    "write_page": [{"awvalid": 1, "awaddr": 4096 - 64, "awlen": 8}],
    "read_alignment": [{"arvalid": 1, "araddr": 4}],
    "write_alignment": [{"awvalid": 1, "awaddr": 1}],
    "last_early": [{"awvalid": 1, "awlen": 1}, {"awvalid": 0, "wvalid": 1, "wlast": 1}],
    "last_late": [{"awvalid": 1, "awlen": 0}, {"awvalid": 0, "wvalid": 1, "wlast": 0}],
}


@cocotb.test()
async def violation(dut):
    """The memory ends the simulation; ``none`` sets the same signals rightly and must come to its end."""
    Clock(dut.clk, 10, "ns").start()
    for name in ("arvalid", "araddr", "arlen", "awvalid", "awaddr", "awlen", "wvalid", "wdata", "wstrb", "wlast"):
        getattr(dut, f"s_axi_{name}").value = 0
    dut.s_axi_rready.value = dut.s_axi_bready.value = 1
    dut.dump.value = 0
    dut.rst.value = 1
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    right = [{"arvalid": 1, "araddr": 4096 - 8}, {"arvalid": 0, "awvalid": 1, "awaddr": 4096 - 64, "awlen": 1},
             {"awvalid": 0, "wvalid": 1, "wlast": 0, "wstrb": 1}, {"wlast": 1, "wstrb": 3}, {"wvalid": 0}]
    for signals in VIOLATIONS.get(os.environ["VIOLATION"], right):
        for name, value in signals.items():
            getattr(dut, f"s_axi_{name}").value = value
        await RisingEdge(dut.clk)
    for _ in range(20):
        await RisingEdge(dut.clk)
