"""UART: rates that do not divide the clock, senders that are off, noise, bytes without a gap."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from tilewright.fpga.link.uart import UartReceiver, UartTransmitter

SEED = 8
CLOCK_HZ = 12_000_000


def line(data, bit, *, idle=0.0, stop=1):
    """Level of the line at a time, in cycles, that sends ``data`` in bits of ``bit`` cycles; and its end."""
    levels = []
    for byte in data:
        levels += [0, *(byte >> i & 1 for i in range(8)), stop]

    def level(at):
        index = int((at - idle) // bit)
        return levels[index] if 0 <= index < len(levels) else 1
    return level, round(idle + bit * len(levels))


def receive(dut, level, cycles, *, ready=lambda: 1):
    """What comes of a line whose level at a time is ``level(cycles)``: bytes, count of errors."""
    got, errors = [], 0

    async def bench(ctx):
        nonlocal errors
        for at in range(cycles):
            ctx.set(dut.rx, level(at + 0.5))
            ctx.set(dut.o.ready, taken := ready())
            _, _, valid, value, error = await ctx.tick().sample(dut.o.valid, dut.o.payload, dut.error)
            errors += error
            if valid and taken:
                got.append(value)
    simulator = Simulator(dut)
    simulator.add_clock(1 / CLOCK_HZ)
    simulator.add_testbench(bench)
    simulator.run()
    return bytes(got), errors


@pytest.mark.parametrize("baud, off", [
    (3_000_000, 0.015), (3_000_000, -0.015), (1_000_000, 0.03), (1_000_000, -0.03), (921_600, 0.02), (1_843_200, 0),
    (115_200, -0.035), (1_999_999, 0.01)])
def test_bytes_without_a_gap_from_a_sender_that_is_off(baud, off):
    print(f"seed {SEED}")
    data = bytes([0, 255, 0x55, 0xAA]) + random.Random(SEED).randbytes(6 if baud < 200_000 else 40)
    level, end = line(data, CLOCK_HZ / baud * (1 + off), idle=7.3)
    dut = UartReceiver(clock_hz=CLOCK_HZ, baud=baud)
    assert receive(dut, level, end + 10) == (data, 0)


def test_a_spike_is_no_start_bit_and_a_low_stop_bit_no_byte():
    baud, bit = 1_000_000, 12
    good, end = line(b"\x3c", bit, idle=400)
    bad, _ = line(b"\x81", bit, idle=100, stop=0)

    def level(at):
        return good(at) & bad(at) & (not 20 <= at < 24)
    assert receive(UartReceiver(clock_hz=CLOCK_HZ, baud=baud), level, end + 10) == (b"\x3c", 1)


def test_a_break_gives_one_error_and_the_next_byte_is_right():
    level, end = line(b"\x99", 12, idle=1000)
    assert receive(UartReceiver(clock_hz=CLOCK_HZ, baud=1_000_000),
                   lambda at: level(at) & (not 50 <= at < 900), end + 10) == (b"\x99", 1)


def test_a_byte_that_is_not_taken_costs_the_next():
    level, end = line(b"\x01\x02\x03", 12)
    taken = iter([0] * 380 + [1] * 200)
    assert receive(UartReceiver(clock_hz=CLOCK_HZ, baud=1_000_000), level, 450, ready=lambda: next(taken)) == \
        (b"\x01", 2)


@pytest.mark.parametrize("baud", [3_000_000, 1_000_000, 921_600, 115_200])
def test_what_is_sent_has_the_right_shape_and_no_gap(baud):
    print(f"seed {SEED}")
    data = bytes([0, 255]) + random.Random(SEED).randbytes(4 if baud < 200_000 else 12)
    dut, bit, levels = UartTransmitter(clock_hz=CLOCK_HZ, baud=baud), CLOCK_HZ / baud, []

    async def give(ctx):
        for byte in data:
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            while not (await ctx.tick().sample(dut.i.ready))[2]:
                pass
        ctx.set(dut.i.valid, 0)

    async def watch(ctx):
        for _ in range(round(bit * (10 * len(data) + 12))):
            _, _, level = await ctx.tick().sample(dut.tx)
            levels.append(level)
    simulator = Simulator(dut)
    simulator.add_clock(1 / CLOCK_HZ)
    simulator.add_testbench(give)
    simulator.add_testbench(watch)
    simulator.run()
    start = levels.index(0)
    expected, end = line(data, bit, idle=start)
    # A bit's edge may be up to a cycle late; its middle half is right, and so is the silence behind the last.
    assert levels[:start] == [1] * start
    for at in range(start, len(levels)):
        place = (at - start + 0.5) / bit % 1
        if 0.3 < place < 0.95 or at > end + 1:
            assert levels[at] == expected(at + 0.5), at


def test_both_ends_together():
    print(f"seed {SEED}")
    data, got = random.Random(SEED).randbytes(30), []
    m = Module()
    m.submodules.sender = sender = UartTransmitter(clock_hz=CLOCK_HZ, baud=2_345_678)
    m.submodules.receiver = receiver = UartReceiver(clock_hz=CLOCK_HZ, baud=2_345_678)
    m.d.comb += receiver.rx.eq(sender.tx)

    async def give(ctx):
        for byte in data:
            ctx.set(sender.i.payload, byte)
            ctx.set(sender.i.valid, 1)
            while not (await ctx.tick().sample(sender.i.ready))[2]:
                pass
        ctx.set(sender.i.valid, 0)

    async def take(ctx):
        ctx.set(receiver.o.ready, 1)
        for _ in range(60 * len(data)):
            _, _, valid, value = await ctx.tick().sample(receiver.o.valid, receiver.o.payload)
            if valid:
                got.append(value)
    simulator = Simulator(m)
    simulator.add_clock(1 / CLOCK_HZ)
    simulator.add_testbench(give)
    simulator.add_testbench(take)
    simulator.run()
    assert bytes(got) == data


@pytest.mark.parametrize("baud", [0, -1, 3_000_001, 12_000_000])
def test_rates_out_of_reach_are_refused(baud):
    for kind in (UartReceiver, UartTransmitter):
        with pytest.raises(ValueError, match=f"baud = {baud}"):
            kind(clock_hz=CLOCK_HZ, baud=baud)
