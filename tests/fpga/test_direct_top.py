"""The design of a board without vector unit, through its serial line; what else its family brings."""

import struct
from zlib import crc32

import pytest
from amaranth.sim import Simulator

from tilewright.fpga.direct_top import DirectTop
from tilewright.fpga.flow import FLOWS
from tilewright.fpga.link.protocol import Command, Identity
from tilewright.fpga.parts import PARTS
from tilewright.fpga.primitives.spram import SinglePortRam
from tilewright.gen.configuration import load_preset
from tilewright.hw.direct.accelerator import SCRATCHPAD, WINDOW_BYTES
from tilewright.hw.registers import IDENTITY

CLOCK_HZ, BIT = 8_000_000, 4


def request(command, sequence, *, address=0, length=0, payload=b""):
    """A request as docs/link.md has it."""
    header = struct.pack("<BBBHQ", 0xA5, command, sequence, len(payload) or length, address)[:10]
    frame = header + struct.pack("<I", crc32(header))
    return frame + (payload + struct.pack("<I", crc32(payload)) if payload else b"")


def test_serial_line_to_registers_and_memory():
    top = DirectTop(load_preset("nano"), frequency=CLOCK_HZ, baud=CLOCK_HZ // BIT, patience=5000)
    simulator = Simulator(top)
    simulator.add_clock(1e-6)

    async def exchange(ctx, data, answer_bytes):
        """Send bytes, a bit in BIT cycles, then take the answer's."""
        for byte in data:
            for bit in (0, *(byte >> i & 1 for i in range(8)), 1):
                ctx.set(top.rx, bit)
                await ctx.tick().repeat(BIT)
        received = bytearray()
        while len(received) < answer_bytes:
            await ctx.tick().until(~top.tx)
            await ctx.tick().repeat(BIT // 2)
            byte = 0
            for i in range(8):
                await ctx.tick().repeat(BIT)
                byte |= ctx.get(top.tx) << i
            await ctx.tick().repeat(BIT)
            received.append(byte)
        assert received[0] == 0x5A and received[3] & 0x0F == 0, received.hex()
        return bytes(received[10:-4])

    async def bench(ctx):
        answer = await exchange(ctx, request(Command.IDENTIFY, 1), 14 + Identity.BYTES)
        identity = Identity.unpack(answer)
        assert (identity.memory_bytes, identity.beat_bytes) == (WINDOW_BYTES, 4)
        assert ctx.get(top.leds) == 0b10
        answer = await exchange(ctx, request(Command.READ_REGISTERS, 2, length=4), 18)
        assert int.from_bytes(answer, "little") == IDENTITY
        await exchange(ctx, request(Command.WRITE_MEMORY, 3, address=SCRATCHPAD + 20, payload=b"tilewright!!"), 10)
        answer = await exchange(ctx, request(Command.READ_MEMORY, 4, address=SCRATCHPAD + 24, length=8), 22)
        assert answer == b"wright!!"
    simulator.add_testbench(bench)
    simulator.run()


def test_commands_of_the_flow():
    flow, part = FLOWS["ice40"], PARTS["iCE40UP5K-SG48"]
    assert flow.route_command(part, name="n", frequency=18e6, router="router1", seed=1)[:8] == [
        "--up5k", "--package", "sg48", "--pcf", "n.pcf", "--json", "n.json", "--asc"]
    assert flow.pack_command("n") == ["n.asc", "n.bin"]


@pytest.mark.parametrize("wrong", [{"family": "ecp5"}, {"depth": 1 << 15}, {"width": 24}])
def test_single_port_ram_refuses(wrong):
    values = {"family": None, "depth": 1024, "width": 32} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SinglePortRam(**values)
