# amaranth: UnusedElaboratable=no
"""A bench for the matmul engine: prefetch buffer, scratchpad and vector unit around it, stalling independently."""

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilewright.hw.commands import Format, Opcode, encode
from tilewright.hw.matmul.engine import MatmulEngine
from tilewright.hw.registers import ErrorCode
from tilewright.sim.golden.matmul import linear, linear_fp16, linear_int4
from tilewright.sim.golden.weights import Int4Matrix

GUARD = 0xDEADBEEF
REWIND = 3  # cycles without a front entry after a rewind


@dataclass
class Job:
    """One command with its data; ``extreme`` uses the largest magnitudes only. In ``fp16`` values are of every
    exponent; with ``special`` a few are infinities and NaN, with ``cancel`` all products but one cancel. In ``int4``
    weights have 4 bits, with ``minimum`` of Q4_1's kind."""

    k: int
    n: int
    rows: int
    scaled: bool = True
    extreme: bool = False
    fp16: bool = False
    special: bool = False
    cancel: bool = False
    int4: bool = False
    minimum: bool = False
    slack: int = 0      # groups between rows
    activation: int = 0
    dest: int = 0

    def fill(self, rng, sizes):
        blocks = -(-self.k // 32)
        self.tile_rows = sizes["fp16_rows" if self.fp16 else "rows"]
        self.width = sizes.get("width", 8 * sizes["lanes"])
        self.lanes = sizes["lanes"] // (2 if self.fp16 else 1)
        self.group_stride = 32 * blocks
        self.stride = -(-self.n // sizes["group_words"]) + self.slack
        self.groups = -(-self.rows // self.tile_rows)
        if self.fp16:
            self.scaled = False
            self.fill_fp16(rng)
        elif self.extreme:
            self.q = rng.choice(np.array([-127, 127], np.int8), (self.rows, self.k))
            self.w = rng.choice(np.array([-128, -128, 127], np.int8), (self.n, self.k))
            self.code = rng.choice(np.array([0, 3, 88, 151], np.uint8), (self.rows, blocks))
        else:
            self.q = rng.integers(-127, 128, (self.rows, self.k)).astype(np.int8)
            self.w = rng.integers(-128, 128, (self.n, self.k)).astype(np.int8)
            self.code = rng.integers(40, 120, (self.rows, blocks)).astype(np.uint8)
        self.d = (rng.normal(size=(self.n, blocks)) * 0.01).astype(np.float16) if self.scaled else None
        if self.int4:
            low = 0 if self.minimum else -8
            self.w = (self.w & 15).astype(np.int8) + np.int8(low)
            if self.extreme:
                self.w = rng.choice(np.array([low, low + 15], np.int8), (self.n, self.k))
        self.m = (rng.normal(size=(self.n, blocks)) * 0.1).astype(np.float16) if self.minimum else None

    def fill_fp16(self, rng):
        def halves(*shape):
            bits = rng.integers(0, 1 << 16, shape).astype(np.uint16)
            bits = np.where(bits & 0x7C00 == 0x7C00, bits & 0x83FF, bits)  # infinities and NaN become subnormals
            if self.special:
                odd = rng.choice(np.array([0x7C00, 0xFC00, 0x7E01, 0xFD55, 0x0000, 0x8000], np.uint16), shape)
                bits = np.where(rng.random(shape) < 0.5 / self.k, odd, bits)
            return bits.astype(np.uint16).view(np.float16)

        self.q, self.w = halves(self.rows, self.k), halves(self.n, self.k)
        if self.extreme:
            self.q, self.w = (np.copysign(np.float16(65504), x) for x in (self.q, self.w))
        if self.cancel:
            half = self.k // 2
            self.q[:, half:2 * half], self.w[:, half:2 * half] = self.q[:, :half], -self.w[:, :half]

    @property
    def result(self):
        if self.fp16:
            y = linear_fp16(self.q, self.w)
        elif self.int4:
            y = linear_int4(self.q, self.code, Int4Matrix(self.w, self.d, self.m))
        else:
            y = linear(self.q, self.code, self.w, self.d)
        return y.view(np.uint32)

    @property
    def format(self):
        return Format.FP16 if self.fp16 else Format.INT4 if self.int4 else Format.INT8

    @property
    def command(self):
        words = encode(Opcode.MATMUL, scaled=self.scaled, format=self.format, minimum=self.minimum, k=self.k, n=self.n,
                       rows=self.rows, activation=self.activation, group_stride=self.group_stride, dest=self.dest,
                       dest_stride=self.stride)
        return sum(w << 32 * i for i, w in enumerate(words))

    def stream(self):
        """(kind, value) in the order of memory: a beat, or a scale entry as wide as two beats."""
        lanes, halves = self.lanes, self.width < 8 * self.lanes * self.w.itemsize
        for n0 in range(0, self.n, lanes):
            w = np.zeros((lanes, self.k), self.w.dtype)
            w[:min(lanes, self.n - n0)] = self.w[n0:n0 + lanes]
            for k in range(self.k):
                last = k % 32 == 31 or k == self.k - 1
                if not self.int4:
                    value = int.from_bytes(w[:, k].tobytes(), "little")
                    for at in range(0, 8 * lanes * w.itemsize, self.width):
                        yield "beat", value >> at & (1 << self.width) - 1
                elif halves:
                    yield "beat", nibbles(w[0::2, k], w[1::2, k])
                elif k % 2 or last:
                    yield "beat", nibbles(w[:, k - 1], w[:, k]) if k % 2 else nibbles(w[:, k], 5)
                for scales in ((self.d, self.m) if self.minimum else (self.d,)) if self.scaled and last else ():
                    d = np.zeros(lanes, np.float16)
                    d[:min(lanes, self.n - n0)] = scales[n0:n0 + lanes, k // 32]
                    yield "scale", int.from_bytes(d.tobytes(), "little")


def nibbles(low, high):
    """A beat of pairs of INT4 weights."""
    return int.from_bytes((low & 15 | high << 4).astype(np.int8).tobytes(), "little")


class Replay:
    """One half of the prefetch buffer: front entry, take, keep, rewind; beats may turn by themselves."""

    def __init__(self):
        self.entries, self.at, self.base, self.blank, self.valid = [], 0, 0, 0, False

    def offer(self, willing):
        self.valid = (self.valid or willing) and self.at < len(self.entries) and self.blank == 0
        self.blank = max(self.blank - 1, 0)
        return self.entries[self.at] if self.valid else 0x5A5A5A5A

    def edge(self, take, keep, rewind, length=None):
        assert not (take and rewind)
        if take and self.valid:
            assert keep or self.at == self.base
            self.at, self.valid = self.at + 1, False
            if not keep:
                self.base = self.at
            elif length is not None and self.at == self.base + length:
                self.at = self.base
        if rewind:
            self.at, self.blank, self.valid = self.base, REWIND - 1, False


class Bench:
    """``pause``, ``late``, ``hold``: probabilities that a beat, a scale, the scratchpad is not ready in a cycle.
    ``bus``: the same for the memory behind the prefetch buffer; None: all is in the buffer from the beginning.
    ``width`` of ``sizes`` may say that lanes are twice the bytes of a beat."""

    def __init__(self, *, jobs, seed, pause=0.0, late=None, hold=0.0, bus=None, depth=2048, words=4096, **sizes):
        self.sizes, self.jobs, self.rng = sizes, jobs, np.random.default_rng(seed)
        print("seed", seed)
        self.pause, self.late, self.hold, self.bus = pause, pause if late is None else late, hold, bus
        self.top = self.dut = MatmulEngine(**sizes, activation_depth=depth)
        self.right = jobs  # commands without a fault
        self.memory = np.full(words, GUARD, np.uint32)
        self.expected = self.memory.copy()
        self.beats, self.scales = Replay(), Replay()
        self.stream, self.scale_beats = [], 16 * sizes["lanes"] // sizes.get("width", 8 * sizes["lanes"])
        self.done = self.cycle = self.took = 0
        self.first = self.last = None
        self.written = np.zeros(words, int)  # when
        self.error = None
        activation = dest = 0
        for job in jobs:
            job.fill(self.rng, sizes)
            job.activation, job.dest = activation, dest + 1
            activation += job.groups * job.group_stride
            dest = job.dest + job.rows * job.stride
            self.stream += job.stream()
        assert activation <= depth and dest * sizes["group_words"] < words
        if bus is None:  # all there from the beginning
            for kind, value in self.stream:
                (self.beats if kind == "beat" else self.scales).entries.append(value)
            self.stream = []

    async def write_activations(self, ctx):
        port, lanes = self.dut.activation, self.sizes["vector_lanes"]
        for job in self.right:
            if self.sizes.get("fp16_rows"):
                ctx.set(port.half, job.fp16)
            for r in range(job.rows):
                base = job.activation + r // job.tile_rows * job.group_stride
                data = np.zeros(-(-job.k // lanes) * lanes, job.q.dtype)
                data[:job.k] = job.q[r]
                for k in range(0, job.k, lanes):
                    ctx.set(port.valid, 1)
                    ctx.set(port.row, r % job.tile_rows)
                    ctx.set(port.index, base + k)
                    ctx.set(port.data, int.from_bytes(data[k:k + lanes].tobytes(), "little"))
                    ctx.set(port.mask, (1 << min(lanes, job.k - k)) - 1)
                    ctx.set(port.scale_valid, k % 32 == 0 and not job.fp16)
                    ctx.set(port.scale_row, r % job.tile_rows)
                    ctx.set(port.scale_block, (base + k) // 32)
                    ctx.set(port.scale_code, 0 if job.fp16 else int(job.code[r, k // 32]))
                    assert not ctx.get(port.fault)
                    await ctx.tick()
        ctx.set(port.valid, 0)
        ctx.set(port.scale_valid, 0)

    async def commands(self, ctx):
        await self.write_activations(ctx)
        for job in self.jobs:
            ctx.set(self.dut.command.payload.as_value(), job.command)
            ctx.set(self.dut.command.valid, 1)
            await ctx.tick().until(self.dut.command.ready)
        ctx.set(self.dut.command.valid, 0)

    async def weights(self, ctx):
        """Prefetch buffer. ``bus``: one beat of memory arrives a cycle, a scale entry takes two, or four."""
        port, wait = self.dut.weights, 0
        await ctx.tick().until(self.dut.busy)
        while True:
            if self.stream and self.rng.random() >= (self.bus or 0):
                wait += 1
                kind, value = self.stream[0]
                if wait == (self.scale_beats if kind == "scale" else 1):
                    (self.beats if kind == "beat" else self.scales).entries.append(value)
                    self.stream.pop(0)
                    wait = 0
            for half, name, pause in ((self.beats, "beat", self.pause), (self.scales, "scale", self.late)):
                ctx.set(getattr(port, name), half.offer(self.rng.random() >= pause))
                ctx.set(getattr(port, f"{name}_valid"), half.valid)
            *_, beat, scale, keep, rewind, rewind_scales, turn, length = await ctx.tick().sample(
                port.beat_take, port.scale_take, port.keep, port.rewind, port.rewind_scales, port.turn, port.length)
            self.beats.edge(beat, keep, rewind, length if turn else None)
            self.scales.edge(scale, keep, rewind_scales)

    async def scratchpad(self, ctx):
        port, words, before = self.dut.write, self.sizes["group_words"], None
        while True:
            ctx.set(port.ready, self.rng.random() >= self.hold)
            outside = ctx.get(port.address) * words >= len(self.memory)
            ctx.set(port.fault, outside)
            *_, valid, ready, address, data, mask = await ctx.tick().sample(
                port.valid, port.ready, port.address, port.data, port.mask)
            now = (address, data, mask)
            assert before is None or (valid and now == before), "a write that waits must stay as it is"
            before = now if valid and not ready else None
            if valid and ready and address * words < len(self.memory):
                self.written[address * words:(address + 1) * words] = self.cycle + 1
                for i in range(words):
                    if mask >> i & 1:
                        self.memory[address * words + i] = data >> 32 * i & 0xFFFFFFFF

    async def watch(self, ctx):
        dut = self.dut
        while self.done < len(self.jobs) and self.error is None:
            *_, done, error, code, took, weights, drain = await ctx.tick().sample(
                dut.status.done, dut.status.error, dut.status.code, dut.took_beat, dut.stall_weights, dut.stall_drain)
            self.cycle += 1
            assert self.cycle < 60_000, "the engine hangs"
            assert took + weights + drain <= 1
            self.took += took
            if took:
                self.first, self.last = self.first if self.first is not None else self.cycle, self.cycle
            if done:
                self.check_done(self.jobs[self.done])
                self.done += 1
            if error:
                self.error = ErrorCode(code)

    def check_done(self, job):
        """What the command wrote can be read from the next cycle on: it was written two cycles ago (write_delay)."""
        words = self.sizes["group_words"]
        span = slice(job.dest * words, (job.dest + job.rows * job.stride) * words)
        assert np.array_equal(self.memory[span], self.expected[span])
        assert self.cycle - self.written[span].max() >= 2

    def expect(self, job):
        for r, row in enumerate(job.result):
            at = (job.dest + r * job.stride) * self.sizes["group_words"]
            self.expected[at:at + job.n] = row

    def run(self):
        for job in self.right:
            self.expect(job)
        sim = Simulator(self.top)
        sim.add_clock(1e-8)
        sim.add_testbench(self.commands, background=True)
        sim.add_testbench(self.weights, background=True)
        sim.add_testbench(self.scratchpad, background=True)
        sim.add_testbench(self.watch)
        sim.run()
        if self.right == self.jobs:
            assert self.error is None
            wrong = np.flatnonzero(self.memory != self.expected)
            assert wrong.size == 0, f"{wrong.size} words differ, first at {wrong[:8]}"
            assert self.beats.base == len(self.beats.entries) and self.scales.base == len(self.scales.entries)
            assert self.took == sum(-(-j.n // j.lanes) * j.groups * j.k for j in self.jobs)
        return self

    @property
    def utilisation(self):
        return self.took / (self.last - self.first + 1)


@pytest.fixture(name="Job")
def job_class():
    """A command with its data."""
    return Job


@pytest.fixture(name="Bench")
def bench_class():
    """Runs jobs and compares every word."""
    return Bench
