# amaranth: UnusedElaboratable=no
"""The matmul engine against golden.matmul: every output word, guard words, stalls on all sides, throughput, errors."""

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator

from tilewright.hw.commands import Opcode, encode
from tilewright.hw.matmul.engine import MatmulEngine
from tilewright.hw.registers import ErrorCode
from tilewright.sim.golden.matmul import linear

GUARD = 0xDEADBEEF
REWIND = 3  # cycles without a front entry after a rewind


@dataclass
class Job:
    """One command with its data; ``extreme`` uses the largest magnitudes only."""

    k: int
    n: int
    rows: int
    scaled: bool = True
    extreme: bool = False
    slack: int = 0      # groups between rows
    activation: int = 0
    dest: int = 0

    def fill(self, rng, sizes):
        blocks = -(-self.k // 32)
        if self.extreme:
            self.q = rng.choice(np.array([-127, 127], np.int8), (self.rows, self.k))
            self.w = rng.choice(np.array([-128, -128, 127], np.int8), (self.n, self.k))
            self.code = rng.choice(np.array([0, 3, 88, 151], np.uint8), (self.rows, blocks))
        else:
            self.q = rng.integers(-127, 128, (self.rows, self.k)).astype(np.int8)
            self.w = rng.integers(-128, 128, (self.n, self.k)).astype(np.int8)
            self.code = rng.integers(40, 120, (self.rows, blocks)).astype(np.uint8)
        self.d = (rng.normal(size=(self.n, blocks)) * 0.01).astype(np.float16) if self.scaled else None
        self.group_stride = 32 * blocks
        self.stride = -(-self.n // sizes["group_words"]) + self.slack
        self.groups = -(-self.rows // sizes["rows"])

    @property
    def command(self):
        words = encode(Opcode.MATMUL, scaled=self.scaled, k=self.k, n=self.n, rows=self.rows,
                       activation=self.activation, group_stride=self.group_stride, dest=self.dest,
                       dest_stride=self.stride)
        return sum(w << 32 * i for i, w in enumerate(words))

    def stream(self, lanes):
        """(kind, value) in the order of memory: a beat, or a scale entry as wide as two beats."""
        for n0 in range(0, self.n, lanes):
            w = np.zeros((lanes, self.k), np.int8)
            w[:min(lanes, self.n - n0)] = self.w[n0:n0 + lanes]
            for k in range(self.k):
                yield "beat", int.from_bytes(w[:, k].tobytes(), "little")
                if self.scaled and (k % 32 == 31 or k == self.k - 1):
                    d = np.zeros(lanes, np.float16)
                    d[:min(lanes, self.n - n0)] = self.d[n0:n0 + lanes, k // 32]
                    yield "scale", int.from_bytes(d.tobytes(), "little")


class Replay:
    """One half of the prefetch buffer: front entry, take, keep, rewind."""

    def __init__(self):
        self.entries, self.at, self.base, self.blank, self.valid = [], 0, 0, 0, False

    def offer(self, willing):
        self.valid = (self.valid or willing) and self.at < len(self.entries) and self.blank == 0
        self.blank = max(self.blank - 1, 0)
        return self.entries[self.at] if self.valid else 0x5A5A5A5A

    def edge(self, take, keep, rewind):
        assert not (take and rewind)
        if take and self.valid:
            self.at, self.valid = self.at + 1, False
            if not keep:
                self.base = self.at
        if rewind:
            self.at, self.blank, self.valid = self.base, REWIND - 1, False


class Bench:
    """``pause``, ``late``, ``hold``: probabilities that a beat, a scale, the scratchpad is not ready in a cycle.
    ``bus``: the same for the memory behind the prefetch buffer; None: all is in the buffer from the beginning."""

    def __init__(self, *, jobs, seed, pause=0.0, late=None, hold=0.0, bus=None, depth=2048, words=4096, **sizes):
        self.sizes, self.jobs, self.rng = sizes, jobs, np.random.default_rng(seed)
        print("seed", seed)
        self.pause, self.late, self.hold, self.bus = pause, pause if late is None else late, hold, bus
        self.top = self.dut = MatmulEngine(**sizes, activation_depth=depth)
        self.right = jobs  # commands without a fault
        self.memory = np.full(words, GUARD, np.uint32)
        self.expected = self.memory.copy()
        self.beats, self.scales = Replay(), Replay()
        self.stream = []
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
            self.stream += job.stream(sizes["lanes"])
        assert activation <= depth and dest * sizes["group_words"] < words
        if bus is None:  # all there from the beginning
            for kind, value in self.stream:
                (self.beats if kind == "beat" else self.scales).entries.append(value)
            self.stream = []

    async def write_activations(self, ctx):
        port, lanes, rows = self.dut.activation, self.sizes["vector_lanes"], self.sizes["rows"]
        for job in self.right:
            for r in range(job.rows):
                base = job.activation + r // rows * job.group_stride
                data = np.zeros(-(-job.k // lanes) * lanes, np.int8)
                data[:job.k] = job.q[r]
                for k in range(0, job.k, lanes):
                    ctx.set(port.valid, 1)
                    ctx.set(port.row, r % rows)
                    ctx.set(port.index, base + k)
                    ctx.set(port.data, int.from_bytes(data[k:k + lanes].tobytes(), "little"))
                    ctx.set(port.mask, (1 << min(lanes, job.k - k)) - 1)
                    ctx.set(port.scale_valid, k % 32 == 0)
                    ctx.set(port.scale_row, r % rows)
                    ctx.set(port.scale_block, (base + k) // 32)
                    ctx.set(port.scale_code, int(job.code[r, k // 32]))
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
        """Prefetch buffer. ``bus``: one beat of memory arrives a cycle, a scale entry takes two."""
        port, wait = self.dut.weights, 0
        await ctx.tick().until(self.dut.busy)
        while True:
            if self.stream and self.rng.random() >= (self.bus or 0):
                wait += 1
                kind, value = self.stream[0]
                if wait == (2 if kind == "scale" else 1):
                    (self.beats if kind == "beat" else self.scales).entries.append(value)
                    self.stream.pop(0)
                    wait = 0
            for half, name, pause in ((self.beats, "beat", self.pause), (self.scales, "scale", self.late)):
                ctx.set(getattr(port, name), half.offer(self.rng.random() >= pause))
                ctx.set(getattr(port, f"{name}_valid"), half.valid)
            *_, beat, scale, keep, rewind = await ctx.tick().sample(
                port.beat_take, port.scale_take, port.keep, port.rewind)
            self.beats.edge(beat, keep, rewind)
            self.scales.edge(scale, keep, rewind)

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
        y = linear(job.q, job.code, job.w, job.d).view(np.uint32)
        for r in range(job.rows):
            at = (job.dest + r * job.stride) * self.sizes["group_words"]
            self.expected[at:at + job.n] = y[r]

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
            assert self.took == sum(-(-j.n // self.sizes["lanes"]) * j.groups * j.k for j in self.jobs)
        return self

    @property
    def utilisation(self):
        return self.took / (self.last - self.first + 1)


TINY = {"rows": 2, "lanes": 4, "accumulate_lanes": 1, "group_words": 1, "vector_lanes": 1, "pe_dsps": 2}
SMALL = {"rows": 4, "lanes": 8, "accumulate_lanes": 1, "group_words": 2, "vector_lanes": 2, "pe_dsps": 12}
WIDE = {"rows": 4, "lanes": 8, "accumulate_lanes": 4, "group_words": 2, "vector_lanes": 2, "pe_dsps": 16}
MEDIUM = {"rows": 16, "lanes": 16, "accumulate_lanes": 8, "group_words": 4, "vector_lanes": 4, "pe_dsps": 104}


def jobs():
    """Back to back, ragged, one to three row groups; short blocks follow each other."""
    return [
        Job(k=33, n=9, rows=5), Job(k=8, n=13, rows=1, scaled=False), Job(k=8, n=4, rows=2),
        Job(k=31, n=7, rows=3, slack=2),
        Job(k=32, n=8, rows=4, extreme=True), Job(k=64, n=5, rows=6, scaled=False), Job(k=1, n=3, rows=1),
        Job(k=65, n=6, rows=1, extreme=True), Job(k=172, n=10, rows=2), Job(k=9, n=26, rows=4), Job(k=40, n=17, rows=4),
    ]


@pytest.mark.parametrize("sizes", [TINY, SMALL, WIDE], ids=["2x4", "4x8", "4x8wide"])
@pytest.mark.parametrize("stalls", [
    {}, {"pause": 0.3, "hold": 0.6}, {"bus": 0.1, "hold": 0.2}, {"pause": 0.05, "late": 0.93}, {"hold": 0.85},
], ids=["free", "stalls", "bus", "late_scales", "slow_drain"])
def test_engine_equals_golden(sizes, stalls):
    Bench(jobs=jobs(), seed=30, **stalls, **sizes).run()


def test_medium_engine_equals_golden():
    Bench(jobs=[Job(k=40, n=19, rows=17), Job(k=32, n=33, rows=3, scaled=False)], seed=31, hold=0.2, **MEDIUM).run()


def test_replay_keeps_the_array_busy():
    bench = Bench(jobs=[Job(k=320, n=24, rows=16)], seed=32, **SMALL, words=8192).run()
    print(f"utilisation {bench.utilisation:.4f}")
    assert bench.utilisation >= 0.98


def test_decode_eats_the_bus():
    """One row, scales in the stream: the array takes 32 beats in 34 cycles of the bus."""
    bench = Bench(jobs=[Job(k=576, n=16, rows=1), Job(k=64, n=32, rows=1)], seed=33, bus=0.0, **SMALL).run()
    print(f"utilisation {bench.utilisation:.4f}")
    assert bench.utilisation >= 0.98 * 32 / 34


def test_commands_follow_each_other():
    """Three idle cycles between commands at most, though their results still drain."""
    bench = Bench(jobs=[Job(k=64, n=8, rows=2, scaled=False) for _ in range(6)], seed=34, **SMALL).run()
    assert bench.last - bench.first + 1 - bench.took <= 3 * 5


@pytest.mark.parametrize(("change", "code"), [
    ({"k": 0}, ErrorCode.BAD_FIELD), ({"n": 0}, ErrorCode.BAD_FIELD), ({"rows": 0}, ErrorCode.BAD_FIELD),
    ({"activation": 16}, ErrorCode.BAD_FIELD), ({"group_stride": 40}, ErrorCode.BAD_FIELD),
    ({"activation": 256 - 32, "rows": 4}, ErrorCode.ACTIVATION_RANGE),
    ({"group_stride": 65504}, ErrorCode.ACTIVATION_RANGE),
    ({"k": 257}, ErrorCode.ACTIVATION_RANGE),
    ({"dest": 2040}, ErrorCode.SCRATCHPAD_RANGE), ({"stride": 65535}, ErrorCode.SCRATCHPAD_RANGE),
    ({"dest": 65535, "stride": 1}, ErrorCode.SCRATCHPAD_RANGE),
])
def test_errors(change, code):
    """The command before the faulty one is finished, and nothing is written outside."""
    bench = Bench(jobs=[Job(k=40, n=6, rows=3), Job(k=40, n=6, rows=5)], seed=35, depth=256, **SMALL)
    for name, value in change.items():
        setattr(bench.jobs[1], name, value)
    bench.right = bench.jobs[:1]
    bench.run()
    assert bench.error == code and bench.done == 1
    own = np.arange(bench.memory.size) >= bench.jobs[1].dest * SMALL["group_words"]
    assert np.array_equal(bench.memory[~own], bench.expected[~own])


def test_a_fitting_command_raises_no_error():
    """The last index and the last group in range."""
    bench = Bench(jobs=[Job(k=32, n=8, rows=8)], seed=36, depth=256, **SMALL)
    job = bench.jobs[0]
    job.activation, job.dest = 192, 2048 - 8 * 4
    bench.run()


def test_reset_in_the_middle_leaves_nothing_behind():
    """As the parent does on abort: after a reset in mid-block the next command's sums are right."""
    bench = Bench(jobs=[Job(k=64, n=8, rows=2)], seed=37, **SMALL)
    reset, commands = Signal(), bench.commands

    async def interrupted(ctx):
        await bench.write_activations(ctx)
        ctx.set(bench.dut.command.payload.as_value(), bench.jobs[0].command)
        ctx.set(bench.dut.command.valid, 1)
        await ctx.tick().until(bench.dut.command.ready)
        ctx.set(bench.dut.command.valid, 0)
        await ctx.tick().repeat(60)
        assert bench.took > 32
        ctx.set(reset, 1)
        await ctx.tick().repeat(2)
        ctx.set(reset, 0)
        for half in (bench.beats, bench.scales):
            half.at, half.base, half.valid = 0, 0, False
        bench.took = 0
        await commands(ctx)

    bench.commands, bench.top = interrupted, ResetInserter(reset)(bench.dut)
    bench.run()


@pytest.mark.parametrize(("change", "message"), [
    ({"accumulate_lanes": 1, "rows": 8}, "accumulate_lanes must be at least rows \\* lanes / 32 = 2, not 1"),
    ({"group_words": 16}, "group_words must be at most lanes = 8, not 16"),
    ({"pe_dsps": 17}, "pe_dsps must be from 0 to rows \\* lanes / 2 = 16, not 17"),
])
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        MatmulEngine(**SMALL | change, activation_depth=256)
