"""SDR SDRAM behind an AXI port pair."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from tilewright.hw.memory.buffer import ReplayBuffer
from tilewright.hw.ports import AxiRead, AxiWrite

from .bursts import BurstSplitter, burst_layout
from .columns import Columns, mark_layout
from .pins import PinRegisters, SdramPins
from .rows import Rows
from .timing import PARTS

__all__ = ["SdramController", "SIZE"]

SIZE = 1 << 25    # bytes
ENTRIES = 512     # of the buffers, in beats: two of the longest bursts, and what an ECP5 block RAM has
QUEUE = 4         # bursts
RESPONSES = 16


class SdramController(wiring.Component):
    """Controller of one SDR SDRAM: 16 bits, 4 banks, 8192 rows of 512 columns.

    Byte addresses are row:bank:column, so a stream that goes through memory finds the next bank's row opened in
    advance. Bursts are INCR of whole beats inside 4 KiB; low address bits inside a beat are not looked at. Addresses
    from 32 MB on answer DECERR: reads with what lies at the address modulo 32 MB, writes change nothing.
    Reads and writes take turns, burst by burst. A write answers when its last WRITE command is on its way to the pins;
    reads that come after it see it. WLAST must be where AWLEN says.

    Throughput: 2 bytes a cycle less refresh, on streams of reads or of writes; rates in
    tests/fpga/memory/test_sdram.py. A change from reads to writes costs CAS latency + 1 cycles.
    Latency from AR to the first R, idle memory, row open: ``delay`` cycles; with its bank closed t_rcd - 1 more, with
    another row open t_rp more than that. First burst after reset: after the part's power-up pause.
    RREADY, BREADY and WVALID may stay low for ever: refresh goes on, and the other direction works.

    Clock of the SDRAM, from the board: this controller's, some part of a cycle later. Commands change at the pins with
    edge e and are taken by the SDRAM in the cycle that begins there; the first word of a READ goes into the input
    register with edge e + CAS latency + ``capture_delay``. ``SdramTiming.read_margins`` says what a phase leaves. As
    estimated there, 180 degrees (the clock inverted) and ``capture_delay`` 1 need about 100 MHz; 270 degrees serve from
    60 to 100 MHz.

    Parameters
    ----------
    address_width : int    26 at least, so that there is something outside
    width : int            32, 64 or 128 bits of the AXI port
    clock_hz : float
    timing : SdramTiming   of ``timing.PARTS`` or ``timing.slowest``
    capture_delay : int    see above
    registers : str        kind of the pin registers: see ``PinRegisters``

    Members
    -------
    read : In(AxiRead), write : In(AxiWrite)
    pins : Out(SdramPins)     each from a register at the pin, ``pins.dq_i`` into one
    initialised : Out(1)
    """

    def __init__(self, *, address_width=32, width, clock_hz, timing=PARTS["as4c16m16sa-7"], capture_delay=1,
                 registers="fabric"):
        if width not in (32, 64, 128):
            raise ValueError(f"width must be 32, 64 or 128, not {width!r}")
        if address_width < SIZE.bit_length():
            raise ValueError(f"address_width must be at least {SIZE.bit_length()}, not {address_width!r}")
        if not 0 <= capture_delay <= 8:
            raise ValueError(f"capture_delay must be from 0 to 8, not {capture_delay!r}")
        self._width, self._capture_delay = width, capture_delay
        self._cycles = timing.cycles(clock_hz)
        self._rows = Rows(cycles=self._cycles, width=width)
        self._registers = PinRegisters(kind=registers)
        super().__init__({
            "read": In(AxiRead(address_width=address_width, width=width)),
            "write": In(AxiWrite(address_width=address_width, width=width)),
            "pins": Out(SdramPins()), "initialised": Out(1),
        })

    @property
    def delay(self):
        """Cycles from an AR handshake to its first RVALID, memory at rest, row open."""
        return self._cycles.cas_latency + self._capture_delay + self._width // 16 + 11

    def elaborate(self, platform):
        m = Module()
        m.submodules.splitter = splitter = BurstSplitter(width=self._width, entries=ENTRIES)
        m.submodules.rows = rows = self._rows
        m.submodules.columns = columns = Columns(cycles=self._cycles, width=self._width)
        m.submodules.registers = registers = self._registers
        wiring.connect(m, wiring.flipped(self.pins), registers.pins)
        wiring.connect(m, splitter.pieces, rows.pieces)
        wiring.connect(m, rows.ready_pieces, columns.pieces)
        inner, code = registers.inner, columns.command.code
        m.d.comb += [
            columns.row_command.eq(rows.command), columns.row_valid.eq(rows.valid), rows.take.eq(columns.row_take),
            rows.busy.eq(columns.busy), rows.busy_bank.eq(columns.busy_bank), rows.ended.eq(columns.ended),
            self.initialised.eq(rows.initialised),
            inner.cs_n.eq(0), Cat(inner.ras_n, inner.cas_n, inner.we_n).eq(~code),
            inner.ba.eq(columns.command.ba), inner.a.eq(columns.command.a),
            inner.dq_o.eq(columns.dq), inner.dq_oe.eq(columns.dq_oe),
            # The parts want DQM high until they are initialised.
            inner.dqm.eq(columns.dqm | (~rows.initialised).replicate(2)),
        ]
        self._build_bursts(m, splitter)
        self._build_write_data(m, splitter, columns)
        self._build_read_data(m, splitter, columns)
        return m

    def _build_bursts(self, m, splitter):
        """AR and AW into their queues."""
        unanswered = Signal(range(RESPONSES + 1))
        room = Signal()
        m.d.comb += room.eq(~unanswered[-1])
        axi = self.write
        m.d.sync += unanswered.eq(unanswered + (axi.awvalid & axi.awready) - (axi.bvalid & axi.bready))
        for name, channel, target, free in (("ar", self.read, splitter.reads, 1), ("aw", axi, splitter.writes, room)):
            burst = Signal(burst_layout(width=self._width), name=f"{name}_burst")
            m.submodules[f"{name}_queue"] = queue = SyncFIFO(width=len(burst.as_value()), depth=QUEUE)
            address = getattr(channel, f"{name}addr")
            beat = (self._width // 8).bit_length() - 1
            m.d.comb += [
                burst.row.eq(address[12:]), burst.beat.eq(address[beat:12]),
                burst.length.eq(getattr(channel, f"{name}len")), burst.error.eq(address[SIZE.bit_length() - 1:] != 0),
                queue.w_data.eq(burst), queue.w_en.eq(getattr(channel, f"{name}valid") & free),
                getattr(channel, f"{name}ready").eq(queue.w_rdy & free),
                target.payload.eq(queue.r_data), target.valid.eq(queue.r_rdy), queue.r_en.eq(target.ready),
            ]

    def _build_write_data(self, m, splitter, columns):
        axi = self.write
        m.submodules.write_buffer = buffer = ReplayBuffer(width=self._width * 9 // 8, entries=ENTRIES)
        m.submodules.responses = responses = SyncFIFO(width=1, depth=RESPONSES)
        stored = Signal()
        m.d.comb += [
            stored.eq(axi.wvalid & axi.wready), splitter.arrived.eq(stored & axi.wlast),
            buffer.write.eq(stored), buffer.reserve.eq(stored), buffer.data.eq(Cat(axi.wdata, axi.wstrb)),
            buffer.take.eq(buffer.valid & ~columns.beat.valid),
            responses.w_en.eq(columns.written), responses.w_data.eq(columns.written_error),
            axi.bvalid.eq(responses.r_rdy), axi.bresp.eq(responses.r_data.replicate(2)),
            responses.r_en.eq(axi.bready),
        ]
        # The beat to come, in a register of its own, as the buffer is far from what decides on a WRITE. A beat takes
        # two cycles at least.
        with m.If(columns.beat.ready):
            m.d.sync += columns.beat.valid.eq(0)
        with m.If(buffer.take):
            m.d.sync += [columns.beat.valid.eq(1), columns.beat.payload.eq(buffer.front)]
        # Room for four: up to two more are taken before ``room`` shows it.
        m.d.sync += axi.wready.eq(buffer.room[2:] != 0)

    def _build_read_data(self, m, splitter, columns):
        axi, width = self.read, self._width
        m.submodules.read_buffer = buffer = ReplayBuffer(width=width + 2, entries=ENTRIES)
        marks = [(columns.read, columns.mark)]
        for i in range(self._cycles.cas_latency + self._capture_delay + width // 16):
            valid = Signal(name=f"arrives{i}_")
            mark = Signal(mark_layout(), name=f"mark{i}_", reset_less=True)
            m.d.sync += [valid.eq(marks[-1][0]), mark.eq(marks[-1][1])]
            marks.append((valid, mark))
        arrived, mark = marks[-1]
        words = Signal(width, reset_less=True)
        m.d.comb += words[-16:].eq(self._registers.inner.dq_i)
        before = Signal(width - 16, reset_less=True)
        m.d.sync += before.eq(words[16:])
        m.d.comb += [
            words[:-16].eq(before),
            buffer.write.eq(arrived), buffer.data.eq(Cat(words, mark.last, mark.error)),
            buffer.reserve.eq(splitter.reserve), splitter.room.eq(buffer.room),
            axi.rvalid.eq(buffer.valid), Cat(axi.rdata, axi.rlast, axi.rresp[0]).eq(buffer.front),
            axi.rresp[1].eq(buffer.front[-1]), buffer.take.eq(axi.rready),
        ]
