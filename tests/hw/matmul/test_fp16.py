# amaranth: UnusedElaboratable=no
"""FP16 units of the matmul engine against integers: decoding, exact sums, the one rounding, order of results."""

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from tilewright.hw.matmul.fp16_array import Fp16Array, Fp16Row, Operand, decode, exact_sum
from tilewright.hw.matmul.fp16_results import Fp16Results
from tilewright.hw.matmul.fp16_round import RoundSum

SEED = 60
DEPTH = 1 << 12


def simulate(dut, bench):
    print("seed", SEED)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


def fixed(x):
    """A finite FP16 number as an integer times 2^-24."""
    return int(np.float64(x) * 2**24)


class Decoder(wiring.Component):
    bits: In(16)
    o: Out(Operand)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(decode(self.bits))
        clocked = Signal()
        m.d.sync += clocked.eq(~clocked)
        return m


def test_decode_every_number():
    dut = Decoder()

    async def bench(ctx):
        for bits in range(1 << 16):
            ctx.set(dut.bits, bits)
            o, x = ctx.get(dut.o), np.uint16(bits).view(np.float16)
            assert o.sign == bits >> 15 and o.special == (not np.isfinite(x))
            assert o.zero_or_nan == (np.isnan(x) or x == 0)
            if np.isfinite(x):
                assert (o.significand << 8 * o.high) * (-1 if o.sign else 1) == fixed(x), hex(bits)
            if bits % 256 == 0:
                await ctx.tick()

    simulate(dut, bench)


def rounded(total):
    """FP32 bits of total * 2^-48, by integers alone."""
    if total == 0:
        return 0
    magnitude, sign = abs(total), int(total < 0)
    drop = max(magnitude.bit_length() - 24, 0)
    kept, rest = magnitude >> drop, magnitude & (1 << drop) - 1
    half = 1 << drop >> 1
    if drop and (rest > half or (rest == half and kept & 1)):
        kept += 1
    return int(np.float32((-1.0 if sign else 1.0) * float(kept) * 2.0**(drop - 48)).view(np.uint32))


def test_round_sum():
    """Every length, random and with one bit, ties with a bit below or not, both signs; powers of two less one."""
    rng = np.random.default_rng(SEED)
    width = exact_sum(DEPTH)["value"].width
    totals = [0, 1, -1]
    for length in range(1, width):
        top = 1 << length - 1
        tie = top >> 24
        for value in (top, 2 * top - 1, top | int.from_bytes(rng.bytes(12), "little") % top,
                      top | tie, top | 3 * tie, top | tie | 1, (top | tie) - (length > 25), 2 * top - tie,
                      2 * top - tie - (length > 25), top | 2 * tie, top | tie | tie >> 1):
            totals += [value, -value]
    dut, results = RoundSum(depth=DEPTH), []
    flags = [(0, 0)] * len(totals) + [(1, 0), (0, 1), (1, 1)] * 2
    totals += [0, 0, 0, 5, -5, -5]

    async def bench(ctx):
        for i in range(len(totals) + dut.delay):
            if i < len(totals):
                ctx.set(dut.sum.value, totals[i] & (1 << width) - 1)
                ctx.set(dut.sum.positive, flags[i][0])
                ctx.set(dut.sum.negative, flags[i][1])
            if i >= dut.delay:
                results.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, bench)
    special = {(1, 0): 0x7F800000, (0, 1): 0xFF800000, (1, 1): 0x7FC00000}
    assert results == [special.get(flag, rounded(total)) for total, flag in zip(totals, flags, strict=True)]


def halves(rng, *shape, odd=0.0):
    bits = rng.integers(0, 1 << 16, shape).astype(np.uint16)
    bits = np.where(bits & 0x7C00 == 0x7C00, bits & 0x83FF, bits)
    special = rng.choice(np.array([0x7C00, 0xFC00, 0x7E01, 0xFC01, 0, 0x8000], np.uint16), shape)
    return np.where(rng.random(shape) < odd, special, bits).astype(np.uint16).view(np.float16)


def exact(a, w):
    """(sum in units of 2^-48 or None, positive, negative) of products a * w."""
    with np.errstate(invalid="ignore"):
        products = a.astype(np.float64) * w.astype(np.float64)
    nan = np.isnan(products).any()
    positive, negative = (nan or bool((products == sign * np.inf).any()) for sign in (1, -1))
    total = None if positive or negative else sum(fixed(x) * fixed(y) for x, y in zip(a, w, strict=True))
    return total, positive, negative


@pytest.mark.parametrize(("rows", "lanes", "outputs"), [(1, 1, 1), (2, 4, 1), (2, 4, 2)])
def test_array_sums_exactly(rows, lanes, outputs):
    """Sums of 1 to 40 beats, back to back or with bubbles, each read while the next one runs."""
    rng = np.random.default_rng(SEED + rows)
    dut = Fp16Array(rows=rows, lanes=lanes, outputs=outputs, depth=DEPTH)
    layout, steps = exact_sum(DEPTH), rows * lanes // outputs
    expected, got = [], []
    beats = []  # (activations, weights, last) or None
    for tile in range(60):
        k = int(rng.integers(1, 4)) if tile % 5 == 0 else int(rng.integers(steps + 2, 40))
        a, w = halves(rng, k, rows, odd=0.01 * (tile % 3)), halves(rng, k, lanes, odd=0.01 * (tile % 3))
        if tile % 4 == 1:
            a[k // 2:2 * (k // 2)], w[k // 2:2 * (k // 2)] = a[:k // 2], -w[:k // 2]
        expected.append([exact(a[:, r], w[:, n]) for r in range(rows) for n in range(lanes)])
        for i in range(k):
            beats += [None] * int(rng.integers(3) * (tile % 2)) + [(a[i], w[i], i == k - 1)]
        beats += [None] * (steps + 4 if tile % 5 == 0 or tile % 5 == 4 else 0)
    beats += [None] * (steps + dut.delay + dut.step_delay + 2)

    async def bench(ctx):
        due, shown = [], []
        for cycle, beat in enumerate(beats):
            ctx.set(dut.valid, beat is not None)
            if beat is not None:
                ctx.set(dut.activations, int.from_bytes(beat[0].tobytes(), "little"))
                ctx.set(dut.weights, int.from_bytes(beat[1].tobytes(), "little"))
                ctx.set(dut.last, beat[2])
                if beat[2]:
                    due += [(cycle + dut.delay - 1 + i, i) for i in range(steps)]  # a step reads in the next cycle
            now = [i for when, i in due if when == cycle]
            assert len(now) <= 1
            ctx.set(dut.step, bool(now))
            if now:
                ctx.set(dut.step_row, now[0] // (lanes // outputs))
                ctx.set(dut.step_column, now[0] % (lanes // outputs))
                shown.append(cycle + dut.step_delay)
            if cycle in shown:
                for j in range(outputs):
                    got.append(layout.from_bits(ctx.get(dut.sums) >> layout.size * j & (1 << layout.size) - 1))
            await ctx.tick()

    simulate(dut, bench)
    width = layout["value"].width
    expected = [x for tile in expected for x in tile]
    assert len(got) == len(expected)
    for o, (total, positive, negative) in zip(got, expected, strict=True):
        assert (o.positive, o.negative) == (positive, negative)
        assert total is None or o.value == total & (1 << width) - 1


def test_array_forgets_what_a_reset_interrupts():
    """The first cycle out of reset clears the sums, whatever stood in them."""
    row, reset = Fp16Row(lanes=1, depth=DEPTH), Signal()

    async def bench(ctx):
        ctx.set(row.activation.significand, 3)
        ctx.set(row.weights, 5)
        ctx.set(row.valid, 1)
        await ctx.tick().repeat(9)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        ctx.set(row.last, 1)
        await ctx.tick().repeat(2)
        ctx.set(row.select, 1)
        await ctx.tick()
        assert ctx.get(row.sums) == 15

    simulate(ResetInserter(reset)(row), bench)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Fp16Array(rows=0, lanes=2, outputs=1, depth=64), "rows must be at least 1, not 0"),
    (lambda: Fp16Array(rows=1, lanes=4, outputs=3, depth=64), "outputs must divide lanes = 4, not 3"),
    (lambda: Fp16Row(lanes=0, depth=64), "lanes must be at least 1, not 0"),
    (lambda: RoundSum(depth=1 << 48), "depth must be at most 2\\^47"),
    (lambda: Fp16Results(rows=2, lanes=4, round_lanes=2, outputs=1, depth=64, results=16, array_delay=7),
     "outputs must divide lanes = 4 and be a multiple of round_lanes = 2, not 1"),
    (lambda: Fp16Results(rows=8, lanes=4, round_lanes=1, outputs=1, depth=64, results=16, array_delay=7),
     "results must be at least rows \\* lanes / outputs = 32, not 16"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
