"""A board's design without its pads and PLL: the same component is simulated and built into the bitstream."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilewright.gen.functions import function_tables
from tilewright.hw.accelerator import Accelerator
from tilewright.hw.ports import join_flat

from .boards.board import SdramMemory
from .link.bridge import HostBridge
from .link.uart import UartReceiver, UartTransmitter
from .memory.arbiter import AxiArbiter
from .memory.block_ram import BlockRam
from .memory.pins import SdramPins
from .memory.sdram import SdramController
from .memory.timing import slowest

__all__ = ["BoardTop"]


class BoardTop(wiring.Component):
    """Accelerator, memory and host bridge, in the one clock domain ``sync``.

    Parameters
    ----------
    config : AcceleratorConfig
    memory : SdramMemory or BlockRamMemory
    frequency : int       Hz of ``sync``
    baud : int            of the UART, at most a quarter of ``frequency``
    pin_registers : str   kind of the registers at the SDRAM's pins, as ``PinRegisters`` takes it
    patience : int        cycles after which the bridge gives up waiting; None for its own value

    Members
    -------
    rx : In(1), tx : Out(1)     UART; idle high
    sdram : Out(SdramPins)      with SdramMemory only; the memory's clock comes half to three quarters of a period later
    leds : Out(4)               a program runs, the memory is ready, the host was heard, something went wrong
    """

    def __init__(self, config, *, memory, frequency, baud, pin_registers="fabric", patience=None):
        self._config = config
        sizes = {"address_width": config.address_width, "width": config.bus_width}
        self._accelerator = Accelerator(config, function_tables(config.functions))
        self._bridge = HostBridge(**sizes, memory_bytes=memory.bytes, clock_hz=frequency, patience=patience)
        self._arbiter = AxiArbiter(**sizes, initiators=2)
        self._receiver = UartReceiver(clock_hz=frequency, baud=baud)
        self._transmitter = UartTransmitter(clock_hz=frequency, baud=baud)
        self._has_sdram = isinstance(memory, SdramMemory)
        members = {"rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(4)}
        if self._has_sdram:
            self._memory = SdramController(**sizes, clock_hz=frequency, timing=slowest(*memory.parts),
                                           registers=pin_registers)
            members["sdram"] = Out(SdramPins())
        else:
            self._memory = BlockRam(**sizes, bytes=memory.bytes)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator = accelerator = self._accelerator
        m.submodules.bridge = bridge = self._bridge
        m.submodules.arbiter = arbiter = self._arbiter
        m.submodules.memory = memory = self._memory
        m.submodules.receiver, m.submodules.transmitter = self._receiver, self._transmitter
        wiring.connect(m, self._receiver.o, bridge.i)
        wiring.connect(m, bridge.o, self._transmitter.i)
        for prefix, interface in (("s_axil", bridge.registers), ("m_axi", arbiter.reads[0]),
                                  ("m_axi", arbiter.writes[0])):
            join_flat(m, accelerator, prefix, interface)
        wiring.connect(m, bridge.read, arbiter.reads[1])
        wiring.connect(m, bridge.write, arbiter.writes[1])
        wiring.connect(m, arbiter.read, memory.read)
        wiring.connect(m, arbiter.write, memory.write)
        m.d.comb += [self._receiver.rx.eq(self.rx), self.tx.eq(self._transmitter.tx), bridge.irq.eq(accelerator.irq)]
        m.d.sync += self.leds.eq(Cat(accelerator.trace_busy, memory.initialised if self._has_sdram else 1,
                                     bridge.linked, bridge.faulty))
        if self._has_sdram:
            wiring.connect(m, wiring.flipped(self.sdram), memory.pins)
        return m
