"""AXI4-Lite registers, built from the register map."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .ports import OKAY, SLVERR
from .registers import CSR_ADDRESS_WIDTH, REGISTER_MAP, Access

__all__ = ["AxiLite", "CsrBank"]

READ_TOGETHER = 8   # registers


class AxiLite(wiring.Signature):
    """AXI4-Lite, 32 bits, from the initiator's view."""

    def __init__(self, *, address_width):
        super().__init__({
            "awvalid": Out(1), "awready": In(1), "awaddr": Out(address_width), "awprot": Out(3),
            "wvalid": Out(1), "wready": In(1), "wdata": Out(32), "wstrb": Out(4),
            "bvalid": In(1), "bready": Out(1), "bresp": In(2),
            "arvalid": Out(1), "arready": In(1), "araddr": Out(address_width), "arprot": Out(3),
            "rvalid": In(1), "rready": Out(1), "rdata": In(32), "rresp": In(2),
        })


def _members(registers):
    members = {"bus": In(AxiLite(address_width=CSR_ADDRESS_WIDTH))}
    for register in registers.values():
        for field in register.fields:
            direction = {Access.RO: In, Access.RW: Out, Access.W1: Out, Access.CONST: None,
                         Access.WO: Out}[field.access]
            if direction is not None:
                members[f"{register.name}_{field.name}"] = direction(field.width)
    return members


class CsrBank(wiring.Component):
    """Every register of a map behind AXI4-Lite.

    One member a field, named ``register_field``: RW and WO fields are outputs, RO fields inputs, W1 fields one-cycle
    pulses. A write takes its address and data together; an access to no register answers SLVERR and does nothing.
    Latency: one cycle to a write's response, three to a read's; one access of each direction at a time.

    Parameters
    ----------
    constants : dict    value of each CONST field, by ``register_field``
    registers : dict    name -> Register
    """

    def __init__(self, *, constants, registers=REGISTER_MAP):
        self._constants, self._registers = constants, registers
        super().__init__(_members(registers))

    def elaborate(self, platform):
        m = Module()
        self._build_write(m)
        self._build_read(m)
        return m

    def _build_write(self, m):
        bus = self.bus
        take = Signal()
        m.d.comb += [
            take.eq(bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready)),
            bus.awready.eq(take),
            bus.wready.eq(take),
        ]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(take):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(SLVERR)]
        strobe = Cat(bit.replicate(8) for bit in bus.wstrb)
        for register in self._registers.values():
            hit = Signal(name=f"write_{register.name}")
            m.d.comb += hit.eq(take & (bus.awaddr[2:] == register.offset >> 2))
            with m.If(hit):
                m.d.sync += bus.bresp.eq(OKAY)
            for field in register.fields:
                bits = slice(field.lsb, field.lsb + field.width)
                value = getattr(self, f"{register.name}_{field.name}", None)
                if field.access in (Access.RW, Access.WO):
                    with m.If(hit):
                        m.d.sync += value.eq((bus.wdata & strobe)[bits] | (value & ~strobe[bits]))
                elif field.access == Access.W1:
                    m.d.comb += value.eq(hit & (bus.wdata & strobe)[bits])

    def _build_read(self, m):
        bus = self.bus
        taken, chosen, address = Signal(), Signal(), Signal.like(bus.araddr[2:], reset_less=True)
        m.d.comb += bus.arready.eq(~taken & ~chosen & ~bus.rvalid)
        m.d.sync += [taken.eq(bus.arvalid & bus.arready), address.eq(bus.araddr[2:]), chosen.eq(taken)]
        # What is read comes from everywhere: first out of each few registers, then out of all.
        registers, parts, known = list(self._registers.values()), [], []
        for first in range(0, len(registers), READ_TOGETHER):
            part, hit = (Signal(width, name=f"read{first}_{name}") for width, name in ((32, "part"), (1, "hit")))
            m.d.sync += [part.eq(0), hit.eq(0)]
            with m.Switch(address):
                for register in registers[first:first + READ_TOGETHER]:
                    with m.Case(register.offset >> 2):
                        m.d.sync += [part.eq(self._read_value(register)), hit.eq(1)]
            parts.append(part)
            known.append(hit)
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(chosen):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(reduce(or_, parts)),
                         bus.rresp.eq(Mux(Cat(known).any(), OKAY, SLVERR))]

    def _read_value(self, register):
        value = Const(0, 32)
        for field in register.fields:
            name = f"{register.name}_{field.name}"
            if field.access == Access.CONST:
                source = Const(self._constants[name], field.width)
            elif field.access in (Access.W1, Access.WO):
                continue
            else:
                source = getattr(self, name)
            value = value | (source << field.lsb)
        return value[:32]
