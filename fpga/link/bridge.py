"""The board's end of the link: bytes in and out, registers, memory and interrupt behind it."""

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tilewright.hw.csr import AxiLite
from tilewright.hw.memory.buffer import ReplayBuffer
from tilewright.hw.ports import AxiRead, AxiWrite
from tilewright.hw.registers import CSR_ADDRESS_WIDTH

from .access import BusAccess
from .frames import WORD_BITS, WORDS, FrameReceiver, FrameSender
from .protocol import FRESH, INTERRUPT, PATIENCE_SECONDS, READS, Command, Identity, Status

__all__ = ["HostBridge"]

BYTES_AHEAD = 512


class HostBridge(wiring.Component):
    """Carries out the requests of ``protocol``, one after another, and answers each.

    A write takes effect only when its payload's CRC was right. A WRITE_REGISTERS with the sequence number of the
    request before it is that request again, whose answer was lost: it is answered, not carried out twice. WAIT is
    answered when the interrupt is pending, when a byte of a next request is there, or after ``patience``. Where a bus
    does not answer for so long, the answer is BUSY; the access goes on, and until it ends each other access gets BUSY.

    Throughput: that of the line; up to ``BYTES_AHEAD`` bytes wait while a request is carried out, what comes then is
    lost, and asked for again by the host.

    Parameters
    ----------
    address_width, width : int   of the memory's AXI
    memory_bytes : int           size of the memory, a multiple of PAYLOAD_BYTES
    clock_hz : int               of ``sync``; told to the host
    patience : int or None       cycles; None: PATIENCE_SECONDS. Simulations take less

    Members
    -------
    i : In(stream), o : Out(stream)    bytes from and to the UART
    registers : Out(AxiLite), read : Out(AxiRead), write : Out(AxiWrite)
    irq : In(1)
    linked : Out(1)    a frame came since the reset
    faulty : Out(1)    something went wrong since the last IDENTIFY: a damaged frame, lost bytes, a bus error
    """

    def __init__(self, *, address_width, width, memory_bytes, clock_hz, patience=None):
        self._patience = max(2, round(clock_hz * PATIENCE_SECONDS)) if patience is None else patience
        sizes = {"address_width": address_width, "width": width}
        self._identity = Identity(beat_bytes=width // 8, memory_bytes=memory_bytes, clock_hz=clock_hz)
        self._receiver = FrameReceiver(memory_bytes=memory_bytes, patience=self._patience)
        self._access = BusAccess(**sizes)
        if memory_bytes > 1 << address_width:
            raise ValueError(f"memory_bytes = {memory_bytes}: more than address_width = {address_width} reaches")
        super().__init__({
            "i": In(stream.Signature(8)), "o": Out(stream.Signature(8)),
            "registers": Out(AxiLite(address_width=CSR_ADDRESS_WIDTH)),
            "read": Out(AxiRead(**sizes)), "write": Out(AxiWrite(**sizes)),
            "irq": In(1), "linked": Out(1), "faulty": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver, m.submodules.access = self._receiver, self._access
        m.submodules.sender = self._sender = FrameSender()
        m.submodules.ahead = self._ahead = ReplayBuffer(width=8, entries=BYTES_AHEAD)
        for inner, outer in ((self._access.registers, self.registers), (self._access.read, self.read),
                             (self._access.write_port, self.write), (self._sender.o, self.o)):
            wiring.connect(m, inner, wiring.flipped(outer))
        self._status, self._length = Signal(Status, reset_less=True), Signal(16, reset_less=True)
        self._irq, self._fresh = Signal(), Signal(init=1)
        m.d.sync += self._irq.eq(self.irq)
        self._build_bytes(m)
        self._build_buffer(m)
        self._build_repeat(m)
        self._build_requests(m)
        return m

    def _build_bytes(self, m):
        """Bytes wait in a FIFO, as the line cannot."""
        ahead, receiver, room = self._ahead, self._receiver, Signal(init=1)
        m.d.sync += room.eq(ahead.room > 1)     # one cycle old, in which one more byte may have come
        m.d.comb += [
            self.i.ready.eq(1), ahead.data.eq(self.i.payload), ahead.write.eq(self.i.valid & room),
            ahead.reserve.eq(ahead.write),
            receiver.i.valid.eq(ahead.valid), receiver.i.payload.eq(ahead.front), ahead.take.eq(receiver.i.ready),
        ]
        with m.If(receiver.good):
            m.d.sync += self.linked.eq(1)
        with m.If(receiver.bad | (self.i.valid & ~room) | (self._access.done & self._access.error)):
            m.d.sync += self.faulty.eq(1)

    def _build_buffer(self, m):
        """A payload, on its way from the line to a bus or back. The answer to IDENTIFY comes from constants instead."""
        access, receiver, sender = self._access, self._receiver, self._sender
        # no_rw_check: the receiver writes while no access and no answer with a payload is in work.
        m.submodules.buffer = buffer = memory.Memory(shape=WORD_BITS, depth=WORDS, init=[], attrs={"no_rw_check": 1})
        put, get = buffer.write_port(), buffer.read_port()
        packed = self._identity.pack()
        words = [Const(int.from_bytes(packed[at:at + 4], "little"), WORD_BITS) for at in range(0, len(packed), 4)]
        constant, got = Signal(WORD_BITS, reset_less=True), Signal(WORD_BITS, reset_less=True)
        m.d.sync += [constant.eq(Array(words)[sender.index[:3]]), got.eq(get.data)]
        identify = receiver.request.payload.command == Command.IDENTIFY
        m.d.comb += [
            put.en.eq(access.put | receiver.store), put.addr.eq(Mux(access.busy, access.index, receiver.index)),
            put.data.eq(Mux(access.busy, access.word, receiver.word)),
            get.addr.eq(Mux(access.busy, access.index, sender.index)),
            access.data.eq(got), sender.word.eq(Mux(identify, constant, got)),
            sender.first.eq(Mux(identify, 0, receiver.request.payload.address[2:])), receiver.blocked.eq(access.busy),
        ]

    def _build_repeat(self, m):
        """What is needed to know a request that is repeated, and its status."""
        request, access = self._receiver.request.payload, self._access
        self._accepted, valid, sequence = Signal(), Signal(), Signal(8, reset_less=True)
        self._repeat, self._repeat_status = Signal(), Signal(Status, reset_less=True)
        writes = Signal()
        m.d.comb += [writes.eq(request.command == Command.WRITE_REGISTERS),
                     self._repeat.eq(valid & writes & (request.sequence == sequence))]
        with m.If(self._accepted):
            m.d.sync += [valid.eq(writes), sequence.eq(request.sequence)]
        with m.If(access.done):
            m.d.sync += self._repeat_status.eq(Mux(access.error, Status.BUS_ERROR, Status.OK))

    def _build_requests(self, m):
        request, access, sender = self._receiver.request, self._access, self._sender
        header = request.payload
        timer, expired, running = Signal(range(self._patience + 1)), Signal(), Signal()
        m.d.sync += [timer.eq(Mux(running, timer - 1, self._patience)), expired.eq(running & (timer == 1))]
        m.d.comb += [
            access.address.eq(header.address), access.words.eq(header.length >> 2),
            access.memory.eq((header.command == Command.READ_MEMORY) | (header.command == Command.WRITE_MEMORY)),
            access.write.eq((header.command == Command.WRITE_REGISTERS) | (header.command == Command.WRITE_MEMORY)),
            sender.command.eq(header.command), sender.sequence.eq(header.sequence), sender.length.eq(self._length),
            sender.status.eq(self._status | Mux(self._irq, INTERRUPT, 0) | Mux(self._fresh, FRESH, 0)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [self._length.eq(0), self._status.eq(header.status)]
                with m.If(request.valid):
                    m.next = "ANSWER"
                    with m.If(header.status == Status.OK):
                        self._build_begin(m, header)
            with m.State("ACCESS"):
                m.d.comb += running.eq(1)
                with m.If(access.done):
                    m.d.sync += self._status.eq(Mux(access.error, Status.BUS_ERROR, Status.OK))
                    reads = (header.command == READS[0]) | (header.command == READS[1])
                    with m.If(reads & ~access.error):
                        m.d.sync += self._length.eq(header.length)
                    m.next = "ANSWER"
                with m.Elif(expired):
                    m.d.sync += self._status.eq(Status.BUSY)
                    m.next = "ANSWER"
            with m.State("WAIT"):
                m.d.comb += running.eq(1)
                with m.If(self._irq | expired | self._ahead.valid):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += sender.start.eq(1)
                m.next = "SENDING"
            with m.State("SENDING"), m.If(sender.done):
                m.d.comb += request.ready.eq(1)
                m.next = "IDLE"

    def _build_begin(self, m, header):
        """A request that can be carried out."""
        access = self._access
        m.d.comb += self._accepted.eq(~access.busy)
        with m.If(header.command == Command.IDENTIFY):
            m.d.comb += self._accepted.eq(1)
            m.d.sync += [self._length.eq(Identity.BYTES), self.faulty.eq(0), self._fresh.eq(0)]
        with m.Elif(header.command == Command.WAIT):
            m.d.comb += self._accepted.eq(1)
            m.next = "WAIT"
        with m.Elif(access.busy):
            m.d.sync += self._status.eq(Status.BUSY)
        with m.Elif(self._repeat):
            m.d.sync += self._status.eq(self._repeat_status)
        with m.Else():
            m.d.comb += access.start.eq(1)
            m.next = "ACCESS"
