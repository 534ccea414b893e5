"""Which commands are unfinished, and where they came from."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..commands import NO_WAIT, Unit
from ..ports import UnitStatus

__all__ = ["Tracking"]

LIMIT = 14  # unfinished commands of a unit at most; wait fields count so far


class Tracking(wiring.Component):
    """Counts the unfinished commands of each unit and keeps their offsets, so that an error names its command.

    Members
    -------
    issued : In(1), issued_unit : In, address : In(32)   a command of that offset went to that unit
    status_* : In(UnitStatus)
    waits : In(4 * units)   the wait fields of the command in work
    allowed : Out(1)        they are met
    room : Out(units)       a bit a unit: another command can be counted; like all below a cycle late
    idle : Out(1)           no command is unfinished
    error, code, error_address : Out   a unit reports an error (the last unit's, if several do)
    """

    def __init__(self):
        super().__init__({
            "issued": In(1), "issued_unit": In(range(len(Unit))), "address": In(32),
            **{f"status_{unit.name.lower()}": In(UnitStatus()) for unit in Unit},
            "waits": In(4 * len(Unit)), "allowed": Out(1), "room": Out(len(Unit)), "idle": Out(1),
            "error": Out(1), "code": Out(8), "error_address": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.error.eq(0)
        met, room, idle = [], [], []
        for unit in Unit:
            name = unit.name.lower()
            status = getattr(self, f"status_{name}")
            unfinished = Signal(4, name=f"unfinished_{name}")
            head = Signal(4, name=f"head_{name}")
            addresses = memory.Memory(shape=32, depth=16, init=[])
            m.submodules[f"addresses_{name}"] = addresses
            write, read = addresses.write_port(), addresses.read_port(domain="comb")
            issued = Signal(name=f"issued_{name}")
            m.d.comb += [
                issued.eq(self.issued & (self.issued_unit == unit)),
                write.addr.eq(head + unfinished), write.data.eq(self.address), write.en.eq(issued),
                read.addr.eq(head),
            ]
            m.d.sync += [unfinished.eq(unfinished + issued - status.done), head.eq(head + status.done)]
            with m.If(status.error):
                m.d.sync += [self.error.eq(1), self.code.eq(status.code), self.error_address.eq(read.data)]
            wait = self.waits.word_select(unit, 4)
            met.append((wait == NO_WAIT) | (unfinished <= wait))
            room.append(unfinished < LIMIT)
            idle.append(unfinished == 0)
        m.d.comb += self.allowed.eq(Cat(met).all())
        m.d.sync += [self.room.eq(Cat(room)), self.idle.eq(Cat(idle).all())]
        return m
