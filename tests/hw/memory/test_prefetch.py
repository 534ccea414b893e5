# amaranth: UnusedElaboratable=no
"""Weight prefetch against a behavioural memory and an engine that takes, keeps and rewinds as it likes."""

import random
from collections import deque

import pytest
from amaranth.sim import Simulator

from tilewright.hw.commands import Format, Opcode, layout
from tilewright.hw.memory.prefetch import Prefetch
from tilewright.hw.registers import ErrorCode

SEED = 7
PAGE = 4096
LIMIT = 20_000


def command(**fields):
    return {"opcode": Opcode.STREAM, "region": 2, **fields}


def weight_beats(fields, k, double):
    return -(-k * (1 + double) // (2 if fields.get("format") == Format.INT4 else 1))


def tile_beats(fields, double=False):
    blocks = -(-fields["k"] // 32)
    return weight_beats(fields, fields["k"], double) + 2 * (1 + double) * entries(fields) * blocks


def entries(fields):
    """Scale entries of a block."""
    return fields["scaled"] + fields.get("minimum", 0)


class Bench:
    """One Prefetch, the commands, a memory of ``latency`` cycles, and an engine that replays tiles. ``turn``: share of
    those with 5 beats and more that turn by themselves.

    ``stall`` is the probability of a pause on each side; without, the memory accepts a burst every 3 cycles and
    delivers a beat a cycle. ``double``: there are twice as many lanes as bytes of a beat.
    """

    def __init__(self, commands, *, width=64, beats=64, burst_beats=32, latency=8, stall=0.4, replay=True,
                 fault_at=None, error_at=None, seed=SEED, double=False, turn=0.5):
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.dut = Prefetch(width=width, lanes=width // (4 if double else 8), beats=beats, burst_beats=burst_beats,
                            int4=True)
        self.double, self.turn = double, turn
        self.commands, self.burst_beats = commands, burst_beats
        self.width, self.beat_bytes = width, width // 8
        self.latency, self.stall, self.replay = latency, stall, replay
        self.fault_at, self.error_at = fault_at, error_at
        self.bursts, self.errors, self.dones = [], [], 0
        self.taken_at, self.arrived_at = [], []
        self.cycle, self.full = 0, 0
        self.finished = False

    def beat(self, offset):
        return random.Random(offset).getrandbits(self.width)

    def pause(self):
        return self.rng.random() < self.stall

    def tiles(self):
        """Weights and scales of each tile, straight from the layout in memory."""
        for fields in self.commands:
            for tile in range(fields["tiles"]):
                at, weights, scales = fields["offset"] + tile * fields["tile_stride"], [], []
                for first in range(0, fields["k"], 32):
                    for _ in range(weight_beats(fields, min(32, fields["k"] - first), self.double)):
                        weights.append(self.beat(at))
                        at += self.beat_bytes
                    for _ in range(entries(fields)):
                        scales.append(0)
                        for i in range(2 * (1 + self.double)):
                            scales[-1] |= self.beat(at) << i * self.width
                            at += self.beat_bytes
                yield weights, scales

    async def sequencer(self, ctx):
        port = self.dut.command
        for fields in self.commands:
            while self.pause():
                await ctx.tick()
            ctx.set(port.payload, layout(Opcode.STREAM).const(fields))
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)
            ctx.set(port.valid, 0)

    async def watch(self, ctx):
        status = self.dut.status
        while not self.finished and self.cycle < LIMIT:
            self.dones += ctx.get(status.done)
            self.full += ctx.get(self.dut.full)
            if ctx.get(status.error):
                self.errors.append((ErrorCode(ctx.get(status.code)), self.dones))
            self.cycle += 1
            await ctx.tick()

    async def memory(self, ctx):
        port = self.dut.read
        beats, accept_at = deque(), 0
        while not self.finished and self.cycle < LIMIT:
            ready = ctx.get(port.request_valid) and self.cycle >= accept_at and not self.pause()
            offset, count = ctx.get(port.request_offset), ctx.get(port.request_beats)
            faulty = ready and self.fault_at is not None and offset + count * self.beat_bytes > self.fault_at
            ctx.set(port.request_ready, ready)
            ctx.set(port.fault, faulty)
            if ready:
                assert ctx.get(port.request_region) == 2
                assert 1 <= count <= self.burst_beats and offset % self.beat_bytes == 0
                assert offset // PAGE == (offset + count * self.beat_bytes - 1) // PAGE
                self.bursts.append((offset, count))
                accept_at = self.cycle + 3
                if not faulty:
                    beats += [(self.cycle + self.latency, offset + i * self.beat_bytes) for i in range(count)]
            valid = bool(beats) and beats[0][0] <= self.cycle and not self.pause()
            ctx.set(port.beat_valid, valid)
            if valid:
                at = beats.popleft()[1]
                ctx.set(port.beat, self.beat(at))
                ctx.set(port.beat_error, at == self.error_at)
                self.arrived_at.append(self.cycle)
            await ctx.tick()

    async def engine(self, ctx):
        weights_port = self.dut.weights
        for weights, scales in self.tiles():
            passes = self.rng.randint(1, 3) if self.replay else 1
            turn = len(weights) >= 5 and self.rng.random() < self.turn
            ctx.set(weights_port.turn, turn)
            if ctx.get(weights_port.length) != len(weights):   # settles before ``keep`` rises
                ctx.set(weights_port.length, len(weights))
                await ctx.tick()
            for left in reversed(range(passes)):
                ctx.set(weights_port.keep, left > 0)
                await self.take_tile(ctx, weights, scales)
                if left:
                    ctx.set(weights_port.rewind, not turn)
                    ctx.set(weights_port.rewind_scales, 1)
                    await ctx.tick()
                    ctx.set(weights_port.rewind, 0)
                    ctx.set(weights_port.rewind_scales, 0)
        for _ in range(10):
            await ctx.tick()
        self.finished = True

    async def take_tile(self, ctx, weights, scales):
        port = self.dut.weights
        streams = [(port.beat_valid, port.beat, port.beat_take, weights),
                   (port.scale_valid, port.scale, port.scale_take, scales)]
        position = [0, 0]
        while position != [len(weights), len(scales)]:
            assert self.cycle < LIMIT, "the stream stopped"
            for i, (valid, front, take, expected) in enumerate(streams):
                taking = position[i] < len(expected) and ctx.get(valid) and not self.pause()
                ctx.set(take, taking)
                if taking:
                    assert ctx.get(front) == expected[position[i]], (i, position[i])
                    position[i] += 1
                    if i == 0:
                        self.taken_at.append(self.cycle)
            await ctx.tick()
            for _, _, take, _ in streams:
                ctx.set(take, 0)

    def run(self, *, engine=True):
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-8)
        for process in (self.sequencer, self.watch, self.memory, *((self.engine,) if engine else ())):
            simulator.add_testbench(process, background=process == self.sequencer)
        simulator.run()
        return self


def random_commands(rng, beat_bytes, beats, double=False):
    """Ragged tiles with and without scales, with and without gaps, at odd places of a page."""
    offset = 0
    for _ in range(16):
        narrow = rng.choice(({}, {"format": Format.INT4}, {"format": Format.INT4, "minimum": 1}))
        most = beats // (1 + double)
        fields = command(k=min(rng.choice((1, 2, 5, 8, 31, 32, 33, 40, 64, most)), most), tiles=rng.randint(1, 4),
                         scaled=1 if narrow else rng.randint(0, 1), **narrow,
                         offset=offset + beat_bytes * rng.randint(0, 600))
        gap = rng.choice((0, 0, 1, 37))
        fields["tile_stride"] = (tile_beats(fields, double) + gap) * beat_bytes
        offset = fields["offset"]
        yield fields


@pytest.mark.parametrize("width, beats, burst_beats, double", [
    (64, 64, 32, False), (128, 64, 32, False), (32, 32, 16, False), (512, 128, 8, False), (32, 64, 16, True),
    (128, 128, 32, True)])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_random(width, beats, burst_beats, double, stall):
    commands = list(random_commands(random.Random(SEED + width), width // 8, beats, double))
    bench = Bench(commands, width=width, beats=beats, burst_beats=burst_beats, stall=stall, double=double).run()
    assert bench.finished and bench.dones == len(commands) and not bench.errors
    total = sum(tile_beats(fields, double) * fields["tiles"] for fields in commands)
    assert sum(count for _, count in bench.bursts) == total


@pytest.mark.parametrize("scaled, minimum, k", [
    (1, None, 64), (1, None, 576), (0, None, 512), (1, None, 96), (1, 0, 576), (1, 1, 576), (1, 1, 192)])
def test_rate(scaled, minimum, k):
    """98 % of the beats' cycles are used behind the first beat, over tiles and commands, at a latency of 40 cycles."""
    width, tiles = 128, max(2, 1024 // k)
    fields = {"k": k, "scaled": scaled} | ({} if minimum is None else {"format": Format.INT4, "minimum": minimum})
    step = tile_beats(fields) * width // 8
    commands = [command(**fields, tiles=tiles, tile_stride=step, offset=i * tiles * step) for i in range(4)]
    bench = Bench(commands, width=width, beats=256, latency=40, stall=0.0, replay=False).run()
    assert bench.dones == 4
    span = bench.arrived_at[-1] - bench.arrived_at[0] + 1
    assert len(bench.arrived_at) / span >= 0.98
    assert sum(count for _, count in bench.bursts) / len(bench.bursts) >= 24


def test_rate_apart():
    """Tiles with gaps between them, as V's, still fill the bus."""
    commands = [command(k=64, tiles=16, scaled=0, tile_stride=512 * 16, offset=0)] * 3
    bench = Bench(commands, width=128, beats=256, latency=40, stall=0.0, replay=False).run()
    assert len(bench.arrived_at) / (bench.arrived_at[-1] - bench.arrived_at[0] + 1) >= 0.98


@pytest.mark.parametrize("turn, cycles", [(0, 6), (1, 2)])
def test_replay_bubble(turn, cycles):
    """Behind a rewind the front beat comes back in 3 cycles, behind a turn at once; this engine then waits a cycle."""
    bench = Bench([command(k=40, tiles=1, scaled=1, tile_stride=0, offset=64)], stall=0.0, turn=turn)
    bench.rng.randint = lambda low, high: high
    bench.run()
    assert len(bench.taken_at) == 3 * 40
    for replay, most in ((40, 6), (80, cycles)):   # the first time the last scale has not come yet
        assert bench.taken_at[replay] - bench.taken_at[replay - 1] <= most


@pytest.mark.parametrize("fields", [{"k": 0}, {"tiles": 0}, {"offset": 4}, {"tile_stride": 8 * 40 + 1},
                                    {"minimum": 1, "scaled": 1}, {"minimum": 1, "format": Format.INT4}])
def test_bad_field(fields):
    good = command(k=40, tiles=2, scaled=0, tile_stride=8 * 40, offset=0)
    bench = Bench([good, good | fields], replay=False, beats=256)
    bench.tiles = lambda commands=bench.commands: list(Bench.tiles(bench))[:2]
    bench.run()
    assert bench.errors == [(ErrorCode.BAD_FIELD, 1)]


def test_read_range():
    """The error comes behind ``done`` of the command before, and nothing more is asked for."""
    commands = [command(k=40, tiles=2, scaled=0, tile_stride=8 * 40, offset=8 * 80 * i) for i in range(3)]
    bench = Bench(commands, replay=False, beats=256, fault_at=8 * 81, latency=40)
    bench.tiles = lambda: list(Bench.tiles(bench))[:2]
    bench.run()
    assert bench.errors == [(ErrorCode.READ_RANGE, 1)]
    assert sum(offset + 8 * count > 8 * 81 for offset, count in bench.bursts) == 1


def test_read_response():
    commands = [command(k=40, tiles=2, scaled=1, tile_stride=8 * 44, offset=8 * 88 * i) for i in range(2)]
    bench = Bench(commands, replay=False, error_at=8 * 90)
    bench.run()
    assert bench.errors == [(ErrorCode.READ_RESPONSE, 1)]


@pytest.mark.parametrize("sizes, name", [({"beats": 48}, "beats"), ({"beats": 16}, "beats"),
                                         ({"burst_beats": 24}, "burst_beats"), ({"burst_beats": 1024}, "burst_beats")])
def test_refuses(sizes, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Prefetch(**{"width": 64, "lanes": 8, "beats": 64, "burst_beats": 32} | sizes)
