"""UART, 8 data bits, no parity, one stop bit, at any ratio of clock and baud from 4 on."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter"]

PHASE_BITS = 20
"""Of a bit's time, counted in 2^-PHASE_BITS: the rate is right to 2^-PHASE_BITS of the clock."""
LEAST_RATIO = 4
FRAME_BITS = 10


def _step(clock_hz, baud):
    """Part of a bit that a clock cycle is."""
    if baud <= 0 or clock_hz < LEAST_RATIO * baud:
        raise ValueError(f"baud = {baud}: must be from 1 to {clock_hz // LEAST_RATIO}, a quarter of the clock of "
                         f"{clock_hz} Hz")
    return round((baud << PHASE_BITS) / clock_hz)


class UartReceiver(wiring.Component):
    """Bytes from a serial line.

    A byte comes in the middle of its stop bit, and the cycles later that the synchroniser takes. It is lost where the
    one before it has not been taken; so is one whose stop bit is low, and the line must then go high before the next.
    The rate of the sender may differ by 4 %, less half a cycle in ten bits: by 2 % where a bit has the least 4 cycles.

    Parameters
    ----------
    clock_hz, baud : int    baud at most a quarter of the clock

    Members
    -------
    rx : In(1)        the line; asynchronous
    o : Out(stream)   bytes
    error : Out(1)    pulses for a byte that was lost
    """

    def __init__(self, *, clock_hz, baud):
        self._step = _step(clock_hz, baud)
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8)), "error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        rx = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, rx, init=1)
        phase, tick = Signal(PHASE_BITS), Signal()
        bits, shift = Signal(range(FRAME_BITS)), Signal(8, reset_less=True)
        m.d.sync += [Cat(phase, tick).eq(phase + self._step), self.error.eq(0)]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                # The first tick is half a bit behind the line's edge, which was one and a half cycles ago on average.
                m.d.sync += [Cat(phase, tick).eq((1 << PHASE_BITS - 1) + 3 * self._step // 2), bits.eq(0)]
                with m.If(~rx):
                    m.next = "BITS"
            with m.State("BITS"), m.If(tick):
                m.d.sync += [shift.eq(Cat(shift[1:], rx)), bits.eq(bits + 1)]
                with m.If((bits == 0) & rx):
                    m.next = "IDLE"                 # too short for a start bit
                with m.Elif(bits == FRAME_BITS - 1):
                    m.d.sync += self.error.eq(~rx | (self.o.valid & ~self.o.ready))
                    with m.If(rx & (~self.o.valid | self.o.ready)):
                        m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(shift)]
                    m.next = "IDLE"
                    with m.If(~rx):
                        m.next = "BREAK"
            with m.State("BREAK"), m.If(rx):
                m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes onto a serial line; one in ten bits, without a gap.

    Parameters
    ----------
    clock_hz, baud : int    baud at most a quarter of the clock

    Members
    -------
    i : In(stream)   bytes
    tx : Out(1)      the line; high when idle
    """

    def __init__(self, *, clock_hz, baud):
        self._step = _step(clock_hz, baud)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        phase, tick = Signal(PHASE_BITS), Signal()
        left, shift = Signal(range(FRAME_BITS)), Signal(FRAME_BITS - 1, init=-1)   # bits behind the one on the line
        m.d.comb += self.i.ready.eq(tick & (left == 0))
        m.d.sync += Cat(phase, tick).eq(phase + self._step)
        with m.If(tick):
            m.d.sync += [self.tx.eq(shift[0]), shift.eq(Cat(shift[1:], 1))]
            with m.If(left != 0):
                m.d.sync += left.eq(left - 1)
            with m.Elif(self.i.valid):
                m.d.sync += [self.tx.eq(0), shift.eq(Cat(self.i.payload, 1)), left.eq(FRAME_BITS - 1)]
        return m
