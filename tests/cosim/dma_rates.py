"""cocotb side of test_dma's rates: beats a cycle behind the first one, on axi_memory with 40 cycles of latency."""

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

from tilewright.hw.commands import Element, Opcode, encode

UNITS = {"load": Opcode.LOAD, "store": Opcode.STORE, "stream": Opcode.STREAM}
REGION = 1 << 16
LEAST = 0.98


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.beat_bytes = dut.WIDTH.value.to_unsigned() // 8
        self.beats = {"read_beat": [], "write_beat": []}
        self.done = dict.fromkeys(UNITS, 0)
        self.cycle = 0

    async def start(self):
        dut = self.dut
        for unit in UNITS:
            getattr(dut, f"{unit}__valid").value = 0
        dut.abort.value = 0
        dut.take.value = 1
        dut.regions.value = sum((i * REGION | REGION << 32 | 1 << 64) << 65 * i for i in range(4))
        Clock(dut.clk, 10, "ns").start()
        dut.rst.value = 1
        for _ in range(4):
            await RisingEdge(dut.clk)
        dut.rst.value = 0
        cocotb.start_soon(self.watch())

    async def watch(self):
        while True:
            await RisingEdge(self.dut.clk)
            await ReadOnly()
            self.cycle += 1
            assert not int(self.dut.failed.value)
            for name, cycles in self.beats.items():
                if int(getattr(self.dut, name).value):
                    cycles.append(self.cycle)
            for unit in UNITS:
                self.done[unit] += int(getattr(self.dut, f"{unit}_done").value)

    async def rate(self, unit, *commands):
        """Beats a cycle from the first beat of ``commands`` to their last, and cycles in all."""
        dut, kind = self.dut, "write_beat" if unit == "store" else "read_beat"
        valid, ready = getattr(dut, f"{unit}__valid"), getattr(dut, f"{unit}__ready")
        target, begin = self.done[unit] + len(commands), self.cycle
        self.beats[kind].clear()
        for fields in commands:
            words = encode(UNITS[unit], **fields)
            getattr(dut, f"{unit}__payload").value = sum(word << 32 * i for i, word in enumerate(words))
            valid.value = 1
            taken = False
            while not taken:
                await ReadOnly()
                taken = int(ready.value)
                await RisingEdge(dut.clk)
            valid.value = 0
        while self.done[unit] != target:
            await RisingEdge(dut.clk)
        cycles = self.beats[kind]
        rate = len(cycles) / (cycles[-1] - cycles[0] + 1)
        dut._log.info("%s: %d beats, %.4f a cycle, %d cycles in all", unit, len(cycles), rate, self.cycle - begin)
        return rate


@cocotb.test()
async def rates(dut):
    bench = Bench(dut)
    await bench.start()
    beat = bench.beat_bytes
    row = {"rows": 1, "planes": 1, "count": 256 * beat}
    assert await bench.rate("load", row) >= LEAST
    assert await bench.rate("load", row | {"rows": 16, "count": 16 * beat, "row_stride": 32 * beat,
                                           "scratch_row_stride": 16 * beat}) >= LEAST
    assert await bench.rate("store", row | {"region": 1}) >= LEAST
    scatter = {"region": 1, "rows": 2, "planes": 1, "count": 128, "element_stride": beat,
               "row_stride": 128 * beat, "scratch_row_stride": 4 * beat}
    for element in (Element.BYTE, Element.HALF, Element.WORD):
        assert await bench.rate("store", scatter | {"element": element}) >= 0.5
    for scaled in (0, 1):
        stream = {"scaled": scaled, "k": 64, "tiles": 3, "tile_stride": (64 + 4 * scaled) * beat}
        assert await bench.rate("stream", *[stream | {"offset": i * 3 * stream["tile_stride"]}
                                            for i in range(6)]) >= LEAST
