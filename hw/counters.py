"""Performance counters."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .registers import COUNTERS

__all__ = ["Counters", "COUNTER_WIDTH"]

COUNTER_WIDTH = 48


class Counters(wiring.Component):
    """One 48-bit counter for each of ``registers.COUNTERS``: cycles in which its event is high.

    Members
    -------
    clear : In(1)     all to zero
    <name> : In(1)    the event
    count_<name> : Out(48)
    """

    def __init__(self):
        super().__init__({
            "clear": In(1),
            **{name: In(1) for name, _ in COUNTERS},
            **{f"count_{name}": Out(COUNTER_WIDTH) for name, _ in COUNTERS},
        })

    def elaborate(self, platform):
        m = Module()
        for name, _ in COUNTERS:
            count = getattr(self, f"count_{name}")
            m.d.sync += count.eq(count + getattr(self, name))
            with m.If(self.clear):
                m.d.sync += count.eq(0)
        return m
