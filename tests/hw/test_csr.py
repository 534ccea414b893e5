"""Registers over AXI4-Lite: every register of the map, byte strobes, errors, and both sides stalling."""

import random

import pytest
from amaranth.sim import Simulator

from tilewright.hw.csr import CsrBank
from tilewright.hw.registers import REGISTER_MAP, Access

SEED = 5
OKAY, SLVERR = 0, 2
FIELDS = [(register, field) for register in REGISTER_MAP.values() for field in register.fields]
CONSTANTS = {f"{register.name}_{field.name}": (0x9E3779B9 * (i + 1)) % (1 << field.width)
             for i, (register, field) in enumerate(FIELDS) if field.access == Access.CONST}


class Bus:
    """An AXI4-Lite initiator that takes its time at random."""

    def __init__(self, ctx, bus):
        self.ctx, self.bus, self.random = ctx, bus, random.Random(SEED)

    async def pause(self):
        for _ in range(self.random.randrange(3)):
            await self.ctx.tick()

    async def write(self, address, data, strobe=0xF):
        ctx, bus = self.ctx, self.bus
        first, second = self.random.sample(("aw", "w"), 2)
        values = {"aw": {"awaddr": address}, "w": {"wdata": data, "wstrb": strobe}}
        for channel in (first, second):
            for name, value in values[channel].items():
                ctx.set(getattr(bus, name), value)
            ctx.set(getattr(bus, f"{channel}valid"), 1)
            if channel == first:
                await self.pause()
                assert not ctx.get(bus.bvalid), "answered before address and data were there"
        while not (ctx.get(bus.awready) and ctx.get(bus.wready)):
            await ctx.tick()
        await ctx.tick()
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        return await self.response("b", "bresp")

    async def read(self, address):
        ctx, bus = self.ctx, self.bus
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        while not ctx.get(bus.arready):
            await ctx.tick()
        await ctx.tick()
        ctx.set(bus.arvalid, 0)
        response = await self.response("r", "rresp", "rdata")
        return response

    async def response(self, channel, *names):
        ctx, bus = self.ctx, self.bus
        while not ctx.get(getattr(bus, f"{channel}valid")):
            await ctx.tick()
        seen = [ctx.get(getattr(bus, name)) for name in names]
        await self.pause()
        assert [ctx.get(getattr(bus, name)) for name in names] == seen, "changed while it was not taken"
        ctx.set(getattr(bus, f"{channel}ready"), 1)
        await ctx.tick()
        ctx.set(getattr(bus, f"{channel}ready"), 0)
        return seen[0] if len(seen) == 1 else tuple(seen)


def simulate(body):
    dut = CsrBank(constants=CONSTANTS)

    async def process(ctx):
        await body(ctx, dut, Bus(ctx, dut.bus))
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


def test_constants_and_what_hardware_writes_are_read_in_their_fields():
    async def body(ctx, dut, bus):
        rng = random.Random(SEED)
        values = dict(CONSTANTS)
        for register, field in FIELDS:
            if field.access == Access.RO:
                name = f"{register.name}_{field.name}"
                values[name] = rng.getrandbits(field.width)
                ctx.set(getattr(dut, name), values[name])
        for register in REGISTER_MAP.values():
            expected = sum(values.get(f"{register.name}_{field.name}", 0) << field.lsb for field in register.fields)
            assert await bus.read(register.offset) == (OKAY, expected), register.name
    simulate(body)


def test_written_fields_reach_the_hardware_and_no_other_register():
    async def body(ctx, dut, bus):
        rng = random.Random(SEED)
        written = {register.name: rng.getrandbits(32) for register in REGISTER_MAP.values()}
        for register in REGISTER_MAP.values():
            assert await bus.write(register.offset, written[register.name]) == OKAY
        for register, field in FIELDS:
            if field.access == Access.RW:
                expected = written[register.name] >> field.lsb & (1 << field.width) - 1
                assert ctx.get(getattr(dut, f"{register.name}_{field.name}")) == expected
                assert (await bus.read(register.offset))[1] >> field.lsb & (1 << field.width) - 1 == expected
    simulate(body)


@pytest.mark.parametrize("strobe", range(16))
def test_byte_strobes(strobe):
    async def body(ctx, dut, bus):
        register = REGISTER_MAP["argument3"]
        await bus.write(register.offset, 0x11223344)
        await bus.write(register.offset, 0xAABBCCDD, strobe)
        mask = sum(0xFF << 8 * i for i in range(4) if strobe >> i & 1)
        assert ctx.get(dut.argument3_value) == 0xAABBCCDD & mask | 0x11223344 & ~mask
    simulate(body)


def test_an_access_to_no_register_is_refused():
    async def body(ctx, dut, bus):
        offsets = {register.offset for register in REGISTER_MAP.values()}
        for address in [a for a in range(0, 1024, 4) if a not in offsets]:
            assert await bus.write(address, 0xFFFFFFFF) == SLVERR
            assert await bus.read(address) == (SLVERR, 0)
        assert ctx.get(dut.program_value) == 0
    simulate(body)


def test_action_bits_pulse_once():
    async def body(ctx, dut, bus):
        pulses = []

        for field in REGISTER_MAP["control"].fields:
            member = getattr(dut, f"control_{field.name}")
            ctx.set(dut.bus.awaddr, REGISTER_MAP["control"].offset)
            ctx.set(dut.bus.wdata, 1 << field.lsb)
            ctx.set(dut.bus.wstrb, 0xF)
            ctx.set(dut.bus.awvalid, 1)
            ctx.set(dut.bus.wvalid, 1)
            count = ctx.get(member)
            await ctx.tick()
            ctx.set(dut.bus.awvalid, 0)
            ctx.set(dut.bus.wvalid, 0)
            for _ in range(3):
                count += ctx.get(member)
                await ctx.tick()
            ctx.set(dut.bus.bready, 1)
            await ctx.tick()
            ctx.set(dut.bus.bready, 0)
            pulses.append(count)
        assert pulses == [1] * len(REGISTER_MAP["control"].fields)
    simulate(body)
