"""The SDRAM's pins and the registers at them."""

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SdramPins", "PinRegisters"]

KINDS = ("fabric", "ecp5")


class SdramPins(wiring.Signature):
    """Pins of a 16-bit SDR SDRAM with 4 banks and 13 address lines, from the controller's view, without the clock.
    ``dq_oe`` is one bit for all of ``dq``."""

    def __init__(self):
        super().__init__({
            "cke": Out(1), "cs_n": Out(1), "ras_n": Out(1), "cas_n": Out(1), "we_n": Out(1), "ba": Out(2), "a": Out(13),
            "dqm": Out(2), "dq_o": Out(16), "dq_oe": Out(1), "dq_i": In(16),
        })


class PinRegisters(wiring.Component):
    """A register at each pin, in both directions, and nothing behind it: the FPGA's I/O flip-flops can take them.

    Latency: 1 cycle each way. ``cke`` is always high; before the first clock no command goes out and DQM is high.

    Parameters
    ----------
    kind : str    "fabric": flip-flops as any others; "ecp5": OFS1P3 and IFS1P3, which nextpnr puts into the I/O cells.
                  With "ecp5" ``pins.dq_oe`` stays a plain flip-flop, as it goes to sixteen cells.

    Members
    -------
    inner : In(SdramPins)    to be registered; ``cke`` is not looked at
    pins : Out(SdramPins)
    """

    def __init__(self, *, kind):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        self._kind = kind
        super().__init__({"inner": In(SdramPins()), "pins": Out(SdramPins())})

    def elaborate(self, platform):
        m = Module()
        inner, pins = self.inner, self.pins
        m.d.comb += pins.cke.eq(1)
        m.d.sync += pins.dq_oe.eq(inner.dq_oe)
        for name in ("cs_n", "ras_n", "cas_n", "we_n", "dqm"):
            self._register(m, getattr(inner, name), getattr(pins, name), name, init=1)
        for name in ("ba", "a", "dq_o"):
            self._register(m, getattr(inner, name), getattr(pins, name), name)
        self._register(m, pins.dq_i, inner.dq_i, "dq_i", cell="IFS1P3DX")
        return m

    def _register(self, m, source, target, name, *, init=0, cell=None):
        if self._kind == "fabric":
            held = Signal(len(target), init=-init % (1 << len(target)), reset_less=True, name=f"{name}_register")
            m.d.sync += held.eq(source)
            m.d.comb += target.eq(held)
            return
        clear = "PD" if init else "CD"
        for bit in range(len(target)):
            m.submodules[f"{name}_{bit}_cell"] = Instance(
                cell or ("OFS1P3BX" if init else "OFS1P3DX"), i_SCLK=ClockSignal(), i_SP=Const(1),
                **{f"i_{clear}": Const(0)}, i_D=source[bit], o_Q=target[bit])
