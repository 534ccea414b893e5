"""The design of a board that has too little room for the whole accelerator, without its pads and PLL."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilewright.hw.direct.accelerator import ADDRESS_WIDTH, WIDTH, WINDOW_BYTES, DirectAccelerator

from .link.bridge import HostBridge
from .link.uart import UartReceiver, UartTransmitter
from .primitives.spram import SinglePortRam

__all__ = ["DirectTop"]


class DirectTop(wiring.Component):
    """``DirectAccelerator``, its two RAMs and the host bridge, in the one clock domain ``sync``.

    Parameters
    ----------
    config : AcceleratorConfig   with ``vector_lanes`` = 0
    frequency : int       Hz of ``sync``
    baud : int            of the UART, at most a quarter of ``frequency``
    family : str or None  of the RAMs, as ``SinglePortRam`` takes it
    patience : int        cycles after which the bridge gives up waiting; None for its own value

    Members
    -------
    rx : In(1), tx : Out(1)     UART; idle high
    leds : Out(2)               something went wrong, the host was heard: red and green on the iCEBreaker
    """

    def __init__(self, config, *, frequency, baud, family=None, patience=None):
        self._accelerator = DirectAccelerator(config)
        self._bridge = HostBridge(address_width=ADDRESS_WIDTH, width=WIDTH, memory_bytes=WINDOW_BYTES,
                                  clock_hz=frequency, patience=patience)
        self._receiver = UartReceiver(clock_hz=frequency, baud=baud)
        self._transmitter = UartTransmitter(clock_hz=frequency, baud=baud)
        self._rams = [SinglePortRam(family=family, depth=config.scratchpad_groups, width=WIDTH) for _ in range(2)]
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(2)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator = accelerator = self._accelerator
        m.submodules.bridge = bridge = self._bridge
        m.submodules.receiver, m.submodules.transmitter = self._receiver, self._transmitter
        m.submodules.weights, m.submodules.scratchpad = self._rams
        wiring.connect(m, self._receiver.o, bridge.i)
        wiring.connect(m, bridge.o, self._transmitter.i)
        wiring.connect(m, accelerator.weights, self._rams[0].port)
        wiring.connect(m, accelerator.scratchpad, self._rams[1].port)
        for name in ("registers", "read", "write"):
            wiring.connect(m, getattr(bridge, name), getattr(accelerator, name))
        m.d.comb += [
            self._receiver.rx.eq(self.rx), self.tx.eq(self._transmitter.tx), bridge.irq.eq(accelerator.irq),
            self.leds.eq(Cat(bridge.faulty, bridge.linked)),
        ]
        return m
