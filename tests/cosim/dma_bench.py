"""cocotb side of test_dma: LOAD, STORE and STREAM commands against cocotbext-axi's memory with pauses and errors."""

import itertools
import os
import random
from collections import deque

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge
from cocotbext.axi import AddressSpace, AxiBus, AxiSlave
from cocotbext.axi.address_space import MemoryRegion

from tilewright.hw.commands import Element, Opcode, encode
from tilewright.hw.registers import ErrorCode

SEED = int(os.environ.get("DMA_SEED", "11"))
GROUPS = 256
PAGE = 4096
BASES = (0x0000, 0x4000, 0x10000, 0x20000)
SIZES = (0x4000, 0x8000 + 40, 0x8000, 0x1000)
WRITABLE = (0, 1, 1, 1)
MEMORY_BYTES = 0x30000
LIMIT = 10_000    # cycles for one command
UNITS = {"load": Opcode.LOAD, "store": Opcode.STORE, "stream": Opcode.STREAM}
TRANSFER = {"rows": 1, "planes": 1, "row_stride": 0, "plane_stride": 0, "scratch": 0, "scratch_row_stride": 0,
            "scratch_plane_stride": 0}
DEFAULTS = {"load": TRANSFER, "store": TRANSFER | {"element": Element.ROW}, "stream": {}}
ELEMENTS = {Element.BYTE: (1, 1), Element.HALF: (2, 4), Element.WORD: (4, 4)}  # bytes in memory, in the scratchpad


class ErringMemory(MemoryRegion):
    """Memory in which one range answers SLVERR."""

    bad = range(0)

    def _check(self, address, length):
        if self.bad and address < self.bad.stop and address + length > self.bad.start:
            raise ValueError("erring range")

    async def _read(self, address, length, **kwargs):
        self._check(address, length)
        return await super()._read(address, length, **kwargs)

    async def _write(self, address, data, **kwargs):
        self._check(address, len(data))
        await super()._write(address, data, **kwargs)


class Model:
    """What the commands do, byte by byte, straight from the command set's definition."""

    def __init__(self, memory, beat_bytes):
        self.memory, self.beat_bytes = bytearray(memory), beat_bytes
        self.scratch = bytearray(GROUPS * beat_bytes)

    def rows(self, fields):
        for plane, row in itertools.product(range(fields["planes"]), range(fields["rows"])):
            yield (BASES[fields["region"]] + fields["offset"] + row * fields["row_stride"]
                   + plane * fields["plane_stride"],
                   fields["scratch"] + row * fields["scratch_row_stride"] + plane * fields["scratch_plane_stride"])

    def load(self, fields):
        for at, to in self.rows(fields):
            self.scratch[to:to + fields["count"]] = self.memory[at:at + fields["count"]]

    def store(self, fields):
        for at, source in self.rows(fields):
            if fields["element"] == Element.ROW:
                self.memory[at:at + fields["count"]] = self.scratch[source:source + fields["count"]]
                continue
            size, step = ELEMENTS[fields["element"]]
            for i in range(fields["count"]):
                to, place = at + i * fields["element_stride"], source + i * step
                self.memory[to:to + size] = self.scratch[place:place + size]


class Bench:
    def __init__(self, dut, seed=SEED):
        print(f"seed {seed}")
        self.dut, self.rng = dut, random.Random(seed)
        self.beat_bytes = len(dut.m_axi_wdata) // 8
        self.memory = ErringMemory(MEMORY_BYTES)
        self.memory.mem[:] = self.rng.randbytes(MEMORY_BYTES)
        self.model = Model(self.memory.mem[:], self.beat_bytes)
        space = AddressSpace(MEMORY_BYTES)
        space.register_region(self.memory, 0)
        self.slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, target=space)
        for interface in (self.slave.write_if, self.slave.read_if):
            interface.log.setLevel("ERROR")
        self.done = dict.fromkeys(UNITS, 0)
        self.errors = deque()
        self.contention, self.blocked = True, False

    async def start(self, pause=0.4):
        dut = self.dut
        for unit in UNITS:
            getattr(dut, f"{unit}__valid").value = 0
        for name in ("abort", "weights__beat_take", "weights__scale_take", "weights__keep", "weights__rewind",
                     "vector_read__valid", "vector_read__address", "vector_write__valid", "vector_write__address",
                     "vector_write__data", "vector_write__mask"):
            getattr(dut, name).value = 0
        regions = 0
        for i, (base, size, writable) in enumerate(zip(BASES, SIZES, WRITABLE, strict=True)):
            regions |= (base | size << 32 | writable << 64) << 65 * i
        dut.regions.value = regions
        for channel in (self.slave.write_if.aw_channel, self.slave.write_if.w_channel, self.slave.write_if.b_channel,
                        self.slave.read_if.ar_channel, self.slave.read_if.r_channel):
            channel.set_pause_generator(self.pauses(pause))
        Clock(dut.clk, 10, "ns").start()
        dut.rst.value = 1
        for _ in range(4):
            await RisingEdge(dut.clk)
        dut.rst.value = 0
        cocotb.start_soon(self.watch())
        cocotb.start_soon(self.contend())

    def pauses(self, probability):
        rng = random.Random(self.rng.random())
        while True:
            yield rng.random() < probability

    async def watch(self):
        """Count ``done``, collect errors, and hold the bus to VALID and payload staying until READY."""
        dut = self.dut
        channels = {"aw": ("awaddr", "awlen"), "w": ("wdata", "wstrb", "wlast"), "ar": ("araddr", "arlen")}
        waiting = {}
        while True:
            await RisingEdge(dut.clk)
            await ReadOnly()
            for unit in UNITS:
                status = getattr(dut, f"{unit}_status__done"), getattr(dut, f"{unit}_status__error")
                self.done[unit] += int(status[0].value)
                if int(status[1].value):
                    self.errors.append((unit, ErrorCode(int(getattr(dut, f"{unit}_status__code").value))))
            for channel, payload in channels.items():
                valid = int(getattr(dut, f"m_axi_{channel}valid").value)
                ready = int(getattr(dut, f"m_axi_{channel}ready").value)
                values = tuple(int(getattr(dut, f"m_axi_{name}").value) for name in payload)
                if channel in waiting:
                    assert valid and values == waiting[channel], f"{channel} changed before READY"
                waiting.pop(channel, None)
                if valid and not ready:
                    waiting[channel] = values

    async def contend(self):
        """The vector unit's accesses: reads anywhere, writes with an empty mask; or nothing but writes."""
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            dut.vector_read__valid.value = self.contention and self.rng.random() < 0.5
            dut.vector_read__address.value = self.rng.randrange(GROUPS)
            dut.vector_write__valid.value = self.blocked or (self.contention and self.rng.random() < 0.3)

    async def send(self, unit, fields):
        """Hand a command over; its effect is put into the model. Fields that stand for errors are the caller's."""
        port = getattr(self.dut, f"{unit}__payload")
        valid, ready = getattr(self.dut, f"{unit}__valid"), getattr(self.dut, f"{unit}__ready")
        port.value = sum(word << 32 * i for i, word in enumerate(encode(UNITS[unit], **DEFAULTS[unit] | fields)))
        valid.value = 1
        for _ in range(LIMIT):
            await ReadOnly()
            taken = int(ready.value)
            await RisingEdge(self.dut.clk)
            if taken or self.errors:
                break
        else:
            raise AssertionError(f"the command is not taken: {fields}")
        valid.value = 0

    async def until(self, condition, what=""):
        for _ in range(LIMIT):
            await RisingEdge(self.dut.clk)
            if condition():
                return
        raise AssertionError(f"the unit stopped: {what}")

    async def run(self, unit, *commands):
        """Commands of one unit back to back, until all are done."""
        target = self.done[unit] + len(commands)
        for fields in commands:
            if unit != "stream":
                getattr(self.model, unit)(DEFAULTS[unit] | fields)
            await self.send(unit, fields)
        await self.until(lambda: self.done[unit] == target or self.errors)
        assert not self.errors, self.errors

    async def abort(self):
        dut = self.dut
        dut.abort.value = 1
        for unit in UNITS:
            getattr(dut, f"{unit}__valid").value = 0
        for _ in range(8):
            await RisingEdge(dut.clk)
        await self.until(lambda: int(dut.idle.value))
        dut.abort.value = 0
        self.errors.clear()
        await RisingEdge(dut.clk)

    async def fail(self, unit, fields, code):
        """A command that ends with ``code``, then an abort. The model takes over what memory holds then."""
        dones = dict(self.done)
        await self.send(unit, fields)
        await self.until(lambda: self.errors, (unit, fields))
        assert self.errors[0] == (unit, code) and self.done == dones, (fields, code, self.errors)
        await self.abort()

    def check(self):
        held = bytes(self.memory.mem[:])
        if held != bytes(self.model.memory):
            wrong = [i for i, (a, b) in enumerate(zip(held, self.model.memory, strict=True)) if a != b]
            raise AssertionError(f"{len(wrong)} bytes differ, from {wrong[0]:#x} to {wrong[-1]:#x}")


def transfer(rng, beat_bytes, *, count, region, size, scratch_align, align, row_bytes):
    """Random 3-D shape that fits the region and the scratchpad; ``row_bytes`` in the scratchpad and in memory."""
    source, target = row_bytes
    rows, planes = rng.randint(1, 4), rng.randint(1, 3)

    def strides(row, limit, unit):
        """Row and plane stride with random gaps, and what is left for the start."""
        step = -(-row // unit) * unit + unit * rng.choice((0, 0, 1, 5))
        plane = step * rows + unit * rng.choice((0, 1, 3))
        used = plane * (planes - 1) + step * (rows - 1) + row
        start = rng.randrange(0, max(1, limit - used + 1)) // unit * unit
        return (start, step, plane) if used <= limit else None

    memory = strides(target, size, align)
    scratch = strides(source, GROUPS * beat_bytes, scratch_align)
    if memory is None or scratch is None:
        return None
    return {"region": region, "count": count, "rows": rows, "planes": planes, "offset": memory[0],
            "row_stride": memory[1], "plane_stride": memory[2], "scratch": scratch[0],
            "scratch_row_stride": scratch[1], "scratch_plane_stride": scratch[2]}


def random_load(rng, beat_bytes):
    while True:
        count = beat_bytes * rng.choice((1, 2, 7, 31, 32, 33, 70))
        fields = transfer(rng, beat_bytes, count=count, region=0, size=SIZES[0], scratch_align=beat_bytes,
                          align=beat_bytes, row_bytes=(count, count))
        if fields:
            return fields


def random_store(rng, beat_bytes):
    element = rng.choice(list(Element))
    while True:
        region = rng.choice((1, 2))
        if element == Element.ROW:
            count = rng.choice((1, beat_bytes - 1, beat_bytes, beat_bytes + 3, rng.randint(1, 40 * beat_bytes)))
            shape, row_bytes, stride = (beat_bytes, beat_bytes), (count, count), 0
        else:
            size, step = ELEMENTS[element]
            count = rng.choice((1, 2, 17, 64))
            stride = size * rng.choice((1, 2, beat_bytes // size, beat_bytes // size, 9, 67))
            shape, row_bytes = (step, size), (count * step, stride * (count - 1) + size)
        fields = transfer(rng, beat_bytes, count=count, region=region, size=SIZES[region], scratch_align=shape[0],
                          align=shape[1], row_bytes=row_bytes)
        if fields:
            return fields | {"element": element, "element_stride": stride}


@cocotb.test()
async def random_transfers(dut):
    """Loads, then stores of every kind, several back to back; all of memory is compared, guard bytes as well."""
    bench = Bench(dut)
    await bench.start()
    for round_ in range(int(os.environ.get("DMA_ROUNDS", "12"))):
        bench.contention = round_ % 3 != 0
        await bench.run("load", *(random_load(bench.rng, bench.beat_bytes) for _ in range(3)))
        await bench.run("store", *(random_store(bench.rng, bench.beat_bytes) for _ in range(4)))
        bench.check()


@cocotb.test()
async def full_buffers(dut):
    """The scratchpad takes nothing from LOAD until all it may ask for has come; W takes nothing for long from STORE."""
    bench = Bench(dut)
    await bench.start(pause=0.0)
    bench.contention, bench.blocked = False, True
    count = GROUPS * bench.beat_bytes
    loading = cocotb.start_soon(bench.run("load", {"region": 0, "offset": 0, "count": count}))
    for _ in range(600):
        await RisingEdge(dut.clk)
    bench.blocked = False
    await loading
    bench.slave.write_if.w_channel.set_pause_generator(itertools.chain([True] * 600, bench.pauses(0.0)))
    await bench.run("store", {"region": 1, "offset": 0, "count": count})
    bench.check()


@cocotb.test()
async def page_boundaries(dut):
    """Rows that begin or end at, before and behind a 4 KiB boundary; the slave's model checks the rule."""
    bench = Bench(dut)
    await bench.start(pause=0.0)
    beat = bench.beat_bytes
    for before, beats in itertools.product((0, 1, 2, 31, 32, 33), (1, 2, 33, 65)):
        offset = PAGE - before * beat
        await bench.run("load", {"region": 0, "offset": offset, "count": beats * beat})
        await bench.run("store", {"region": 2, "offset": offset, "count": beats * beat - 3})
        bench.check()


@cocotb.test()
async def whole_region(dut):
    """Up to the last byte of a region whose size is not whole beats, and not one byte more."""
    bench = Bench(dut)
    await bench.start(pause=0.2)
    beat, size = bench.beat_bytes, SIZES[1]
    last = (size - 1) // beat * beat
    row = {"region": 1, "offset": last - 4 * beat, "count": size - last + 4 * beat}
    byte = {"region": 1, "element": Element.BYTE, "offset": size - 3, "count": 3,
            "element_stride": 1}
    await bench.run("load", {"region": 0, "offset": 0, "count": 8 * beat})
    await bench.run("store", row, byte)
    bench.check()
    await bench.fail("store", row | {"count": row["count"] + 1}, ErrorCode.WRITE_RANGE)
    bench.check()
    await bench.fail("load", {"region": 1, "offset": last + beat, "count": beat},
                     ErrorCode.READ_RANGE)
    bench.model.scratch[:] = bytes(len(bench.model.scratch))


@cocotb.test()
async def errors(dut):
    """Each error with its code; nothing is written by a bad command; the next command works."""
    bench = Bench(dut)
    await bench.start(pause=0.2)
    beat = bench.beat_bytes
    good = {"region": 0, "offset": 0, "count": 40 * beat}
    out = good | {"region": 2, "element": Element.ROW}
    word = out | {"element": Element.WORD, "element_stride": 4, "count": 8}
    half, byte = word | {"element": Element.HALF}, word | {"element": Element.BYTE}
    bad_field, top = ErrorCode.BAD_FIELD, 0xFFFF_FFFF // beat * beat
    cases = [
        *(("load", good | {name: value}, bad_field) for name, value in (
            ("rows", 0), ("planes", 0), ("count", 0), ("count", beat + 4), ("offset", 4), ("row_stride", 1),
            ("plane_stride", 2), ("scratch", 4), ("scratch_row_stride", 4), ("scratch_plane_stride", 4))),
        *(("store", out | {name: value}, bad_field) for name, value in (
            ("rows", 0), ("planes", 0), ("count", 0), ("offset", 4), ("row_stride", 4), ("plane_stride", 4),
            ("scratch", 4), ("scratch_row_stride", 4), ("scratch_plane_stride", 4))),
        ("store", word | {"offset": 2}, bad_field), ("store", word | {"element_stride": 6}, bad_field),
        ("store", word | {"scratch": 2}, bad_field), ("store", half | {"offset": 1}, bad_field),
        ("store", half | {"scratch": 2}, bad_field), ("store", half | {"row_stride": 3}, bad_field),
        ("load", good | {"region": 5}, ErrorCode.READ_RANGE),
        ("load", good | {"offset": SIZES[0]}, ErrorCode.READ_RANGE),
        ("load", good | {"offset": top}, ErrorCode.READ_RANGE),
        ("store", out | {"region": 0}, ErrorCode.WRITE_RANGE), ("store", out | {"region": 4}, ErrorCode.WRITE_RANGE),
        ("store", out | {"offset": SIZES[2]}, ErrorCode.WRITE_RANGE),
        ("store", out | {"offset": top}, ErrorCode.WRITE_RANGE),
        ("store", byte | {"offset": SIZES[2]}, ErrorCode.WRITE_RANGE),
        ("load", good | {"scratch": (GROUPS + 1) * beat}, ErrorCode.SCRATCHPAD_RANGE),
        ("load", good | {"scratch": top}, ErrorCode.SCRATCHPAD_RANGE),
        ("store", out | {"scratch": GROUPS * beat}, ErrorCode.SCRATCHPAD_RANGE),
        ("store", byte | {"scratch": top}, ErrorCode.SCRATCHPAD_RANGE),
        ("stream", {"region": 3, "offset": SIZES[3], "k": 8, "tiles": 1}, ErrorCode.READ_RANGE),
    ]
    for unit, fields, code in cases:
        await bench.fail(unit, fields, code)
        bench.check()
    await bench.run("load", good)
    bench.memory.bad = range(20 * beat, 21 * beat)
    await bench.fail("load", good, ErrorCode.READ_RESPONSE)
    bench.memory.bad = range(0)
    await bench.run("load", good)
    await bench.run("store", out)
    bench.memory.bad = range(BASES[2] + 20 * beat, BASES[2] + 21 * beat)
    await bench.fail("store", out, ErrorCode.WRITE_RESPONSE)
    bench.memory.bad = range(0)
    await bench.run("store", out | {"offset": 0x1000})
    bench.check()


@cocotb.test()
async def aborts(dut):
    """Abort at any time: the bus comes to rest, each byte is old or new, and the next commands work."""
    bench = Bench(dut)
    await bench.start(pause=0.3)
    beat = bench.beat_bytes
    load = {"region": 0, "offset": 0, "count": 64 * beat, "rows": 2, "row_stride": 80 * beat, "planes": 1,
            "scratch_row_stride": 64 * beat}
    store = {"region": 2, "offset": 0, "count": 64 * beat - 1, "rows": 2, "planes": 1, "row_stride": 64 * beat,
             "scratch_row_stride": 64 * beat}
    scatter = {"region": 1, "offset": 5, "count": 60, "rows": 2, "planes": 1, "element": Element.BYTE,
               "row_stride": 1, "element_stride": beat}
    stream = {"region": 3, "offset": 0, "k": 64, "tiles": 2, "scaled": 1, "tile_stride": 68 * beat}
    await bench.run("load", load)
    for i in range(40):
        before = bytes(bench.model.memory)
        fields = (store, scatter)[i % 2] | {"offset": (store, scatter)[i % 2]["offset"] + i * beat}
        wanted = Model(before, beat)
        wanted.scratch[:] = bench.model.scratch
        wanted.store(DEFAULTS["store"] | fields)
        units = [cocotb.start_soon(bench.send(unit, command))
                 for unit, command in (("load", load), ("store", fields), ("stream", stream))]
        for _ in range(bench.rng.randint(1, 150)):
            await RisingEdge(dut.clk)
        for unit in units:
            unit.cancel()
        await bench.abort()
        held = bytes(bench.memory.mem[:])
        assert all(now in (old, new) for now, old, new in zip(held, before, wanted.memory, strict=True))
        bench.model.memory[:] = held
        await bench.run("load", load)   # a load cut off leaves the scratchpad as it was or is
        await bench.run("store", fields)
        bench.check()


@cocotb.test()
async def streams_beside_loads(dut):
    """Prefetch and LOAD share the read port; each gets its own beats, in order."""
    bench = Bench(dut)
    await bench.start(pause=0.2)
    beat = bench.beat_bytes
    k, tiles = 70, 6
    step = (k + 6) * beat
    stream = {"region": 2, "offset": 3 * beat, "k": k, "tiles": tiles, "scaled": 1, "tile_stride": step}
    weights, scales = [], []
    for tile in range(tiles):
        at = BASES[2] + stream["offset"] + tile * step
        for block in (32, 32, 6):
            weights += [bytes(bench.memory.mem[at + i * beat:at + (i + 1) * beat]) for i in range(block)]
            at += block * beat
            scales.append(bytes(bench.memory.mem[at:at + 2 * beat]))
            at += 2 * beat
    seen = {"beat": [], "scale": []}

    async def take(name):
        valid, take = getattr(dut, f"weights__{name}_valid"), getattr(dut, f"weights__{name}_take")
        front = getattr(dut, f"weights__{name}")
        while True:
            take.value = bench.rng.random() < 0.6
            await ReadOnly()
            if int(valid.value) and int(take.value):
                seen[name].append(int(front.value).to_bytes(len(front) // 8, "little"))
            await RisingEdge(dut.clk)

    for name in seen:
        cocotb.start_soon(take(name))
    streaming = cocotb.start_soon(bench.run("stream", stream, stream))
    for _ in range(6):
        await bench.run("load", *(random_load(bench.rng, beat) for _ in range(2)))
        await bench.run("store", {"region": 1, "offset": 0, "count": GROUPS * beat})
        bench.check()
    await streaming
    await bench.until(lambda: len(seen["scale"]) == 2 * len(scales) and len(seen["beat"]) == 2 * len(weights))
    assert seen == {"beat": 2 * weights, "scale": 2 * scales}
