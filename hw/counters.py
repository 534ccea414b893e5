"""Performance counters."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .registers import COUNTERS

__all__ = ["Counters", "COUNTER_WIDTH"]

COUNTER_WIDTH = 48


class Counters(wiring.Component):
    """One 48-bit counter for each of ``registers.COUNTERS``: cycles in which its event is high.

    Latency: 2 cycles from an event, or ``clear``, to the count.

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
        clear = Signal()
        m.d.sync += clear.eq(self.clear)
        for name, _ in COUNTERS:
            count, event = getattr(self, f"count_{name}"), Signal(name=f"event_{name}")
            m.d.sync += [event.eq(getattr(self, name)), count.eq(count + event)]
            with m.If(clear):
                m.d.sync += count.eq(0)
        return m
