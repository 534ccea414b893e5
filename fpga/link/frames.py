"""Requests from bytes, and answers into bytes."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc import catalog
from amaranth.lib.wiring import In, Out

from tilewright.hw.registers import CSR_ADDRESS_WIDTH

from .protocol import (
    ANSWER_HEADER_BYTES,
    ANSWER_SYNC,
    CRC_BYTES,
    PAYLOAD_BYTES,
    REQUEST_HEADER_BYTES,
    REQUEST_SYNC,
    WRITES,
    Command,
    Status,
)

__all__ = ["REQUEST", "WORDS", "FrameReceiver", "FrameSender"]

WORDS = PAYLOAD_BYTES // 4
WORD_BITS = 32
BLOCK_BITS = PAYLOAD_BYTES.bit_length() - 1
ADDRESS_BITS = 40
HEADER = {"command": 8, "sequence": 8, "length": 16, "address": ADDRESS_BITS}
REQUEST = data.StructLayout({**HEADER, "status": 4})
"""A request as the receiver judges it: its header, and ``status``, OK where it can be carried out."""


def _crc32():
    return catalog.CRC32_ETHERNET(data_width=8).create()


class FrameReceiver(wiring.Component):
    """Finds requests in a stream of bytes. A write's payload goes to a buffer of ``WORDS`` words, to the place that its
    address has within PAYLOAD_BYTES, before its CRC is known: it counts only if the request's status is OK.

    Bytes that are no frame are skipped, one whose header has a wrong CRC is forgotten, and so is one that does not go
    on for ``patience`` cycles. A request refused for its header (BAD_COMMAND, BAD_LENGTH) comes at once; its payload,
    if there is one, is skipped as bytes that are no frame.

    Throughput: a byte a cycle, but no byte is taken while a request waits for ``ready``, and for one cycle behind each
    CRC. Latency: 2 cycles from the last byte.

    Parameters
    ----------
    memory_bytes : int   size of the memory, a multiple of PAYLOAD_BYTES
    patience : int       cycles without a byte until a frame that has begun is dropped

    Members
    -------
    i : In(stream)          bytes
    blocked : In(1)         the buffer is in use; where it is so when a write begins, its status is BUSY
    request : Out(stream)   ``REQUEST``
    store : Out(1), index : Out(8), word : Out(32)    write a word into the buffer
    good, bad : Out(1)      pulse for a header with a right CRC, and for what was forgotten or has a wrong CRC
    """

    def __init__(self, *, memory_bytes, patience):
        if memory_bytes <= 0 or memory_bytes % PAYLOAD_BYTES or memory_bytes > 1 << ADDRESS_BITS:
            raise ValueError(f"memory_bytes = {memory_bytes}: must be a multiple of {PAYLOAD_BYTES}, at most "
                             f"2^{ADDRESS_BITS}")
        if patience < 2:
            raise ValueError(f"patience = {patience}: must be at least 2 cycles")
        self._memory_blocks, self._patience = memory_bytes // PAYLOAD_BYTES, patience
        super().__init__({
            "i": In(stream.Signature(8)), "blocked": In(1), "request": Out(stream.Signature(REQUEST)),
            "store": Out(1), "index": Out(range(WORDS)), "word": Out(WORD_BITS), "good": Out(1), "bad": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = self._crc = _crc32()
        self._left, self._taken, self._expired = Signal(range(PAYLOAD_BYTES + 1)), Signal(), Signal()
        self._restart, self._storing = Signal(), Signal()
        self._header = Signal(data.StructLayout(HEADER), reset_less=True)
        self._status = Signal(Status, reset_less=True)
        m.d.comb += [
            self._taken.eq(self.i.valid & self.i.ready), self._crc.data.eq(self.i.payload),
            *(self.request.payload[name].eq(self._header[name]) for name in HEADER),
            self.request.payload.status.eq(self._status),
        ]
        with m.If(self._taken):
            m.d.sync += self._left.eq(self._left - 1)
        self._build_patience(m)
        self._build_checks(m)
        self._build_states(m)
        self._build_store(m)
        return m

    def _build_patience(self, m):
        timer = Signal(range(self._patience + 1))
        m.d.sync += [timer.eq(timer - 1), self._expired.eq(timer == 1)]
        with m.If(self._taken | self._restart | self._expired):
            m.d.sync += [timer.eq(self._patience), self._expired.eq(0)]

    def _build_checks(self, m):
        """The header's checks, registered twice: its CRC comes after it, so that they are there in time."""
        header, end = self._header, Signal(15, reset_less=True)
        unknown, access, outside, odd, large = (Signal(reset_less=True) for _ in range(5))
        self._write, self._refused, self._outside = Signal(reset_less=True), Signal(), Signal()
        self._refusal = Signal(Status)
        block = header.address[BLOCK_BITS:]
        m.d.sync += [
            end.eq(header.address[2:BLOCK_BITS] + header.length[2:]),
            large.eq(end > WORDS), odd.eq(Cat(header.length[:2], header.address[:2]).any() | (header.length == 0)),
            unknown.eq(1), access.eq(0), self._write.eq(0),
        ]
        with m.Switch(header.command):
            for command in Command:
                with m.Case(command):
                    m.d.sync += [unknown.eq(0), access.eq(command not in (Command.IDENTIFY, Command.WAIT)),
                                 self._write.eq(command in WRITES)]
                    if command in (Command.READ_MEMORY, Command.WRITE_MEMORY):
                        m.d.sync += outside.eq(~(block < self._memory_blocks))
                    else:
                        m.d.sync += outside.eq(header.address[CSR_ADDRESS_WIDTH:].any())
        m.d.comb += [
            self._refused.eq(unknown | (access & (odd | large))), self._outside.eq(access & outside),
            self._refusal.eq(Mux(unknown, Status.BAD_COMMAND, Status.BAD_LENGTH)),
        ]

    def _build_states(self, m):
        crc, left, last = self._crc, self._left, Signal()
        m.d.comb += [last.eq(self._taken & (left == 1)), crc.valid.eq(self._taken)]

        def take(following, count=None):
            """In a state within a frame: take bytes; after the last go on, with ``count`` more."""
            m.d.comb += self.i.ready.eq(1)
            with m.If(last):
                m.next = following
                if count is not None:
                    m.d.sync += left.eq(count)
            with m.Elif(self._expired & ~self._taken):
                m.d.comb += self.bad.eq(1)
                m.next = "HUNT"

        with m.FSM():
            with m.State("HUNT"):
                m.d.comb += [self.i.ready.eq(1), crc.start.eq(1), self._restart.eq(1)]
                m.d.sync += left.eq(REQUEST_HEADER_BYTES - 1)
                with m.If(self._taken & (self.i.payload == REQUEST_SYNC)):
                    m.next = "HEADER"
            with m.State("HEADER"):
                take("HEADER_CRC", CRC_BYTES)
                with m.If(self._taken):
                    bits = self._header.as_value()
                    m.d.sync += bits.eq(Cat(bits[8:], self.i.payload))
            with m.State("HEADER_CRC"):
                take("JUDGE")
            with m.State("JUDGE"):
                m.d.comb += [crc.start.eq(1), self.good.eq(crc.match_detected), self.bad.eq(~crc.match_detected)]
                m.d.sync += [left.eq(self._header.length),
                             self._status.eq(Mux(self._refused, self._refusal,
                                                 Mux(self._outside, Status.BUS_ERROR,
                                                     Mux(self._write & self.blocked, Status.BUSY, Status.OK))))]
                with m.If(~crc.match_detected):
                    m.next = "HUNT"
                with m.Elif(self._write & ~self._refused):
                    m.next = "PAYLOAD"
                with m.Else():
                    m.next = "REQUEST"
            with m.State("PAYLOAD"):
                take("PAYLOAD_CRC", CRC_BYTES)
                m.d.comb += self._storing.eq(self._taken & (self._status == Status.OK))
            with m.State("PAYLOAD_CRC"):
                take("PAYLOAD_JUDGE")
            with m.State("PAYLOAD_JUDGE"):
                with m.If(~crc.match_detected):
                    m.d.comb += self.bad.eq(1)
                    m.d.sync += self._status.eq(Status.BAD_CRC)
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.next = "HUNT"

    def _build_store(self, m):
        """Four bytes make a word, which is stored in the cycle after the last of them."""
        byte = Signal(range(4))
        m.d.sync += self.store.eq(self._storing & (byte == 3))
        with m.If(self._storing):
            m.d.sync += [self.word.eq(Cat(self.word[8:], self.i.payload)), byte.eq(byte + 1)]
        with m.If(self.store):
            m.d.sync += self.index.eq(self.index + 1)
        with m.If(self.good):
            m.d.sync += [self.index.eq(self._header.address[2:]), byte.eq(0)]


class FrameSender(wiring.Component):
    """Sends an answer: header, CRC, and words of a buffer with their CRC where there are any.

    Throughput: a byte a cycle, with gaps of up to three cycles before each word and each CRC.

    Members
    -------
    start : In(1)     begin; not while an answer is on its way
    command, sequence, status : In(8), length : In(16)    header; ``length`` a multiple of 4; taken with ``start``
    first : In        index of the first word in the buffer; taken with ``start``
    index : Out, word : In(32)    buffer; the word comes two cycles after its index and stays while that does
    done : Out(1)     pulses with the last byte
    o : Out(stream)   bytes
    """

    def __init__(self):
        super().__init__({
            "start": In(1), "command": In(8), "sequence": In(8), "status": In(8), "length": In(16),
            "first": In(range(WORDS)), "index": Out(range(WORDS)), "word": In(WORD_BITS), "done": Out(1),
            "o": Out(stream.Signature(8)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = _crc32()
        shift = Signal(8 * ANSWER_HEADER_BYTES, reset_less=True)
        left, last = Signal(range(ANSWER_HEADER_BYTES + 1)), Signal()
        words = Signal(range(WORDS + 1))
        sent = Signal()
        m.d.comb += [sent.eq(self.o.valid & self.o.ready), last.eq(sent & (left == 1)),
                     self.o.payload.eq(shift), crc.data.eq(shift)]
        with m.If(sent):
            m.d.sync += [shift.eq(shift >> 8), left.eq(left - 1)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [
                    shift.eq(Cat(Const(ANSWER_SYNC, 8), self.command, self.sequence, self.status, self.length)),
                    left.eq(ANSWER_HEADER_BYTES), words.eq(self.length >> 2), self.index.eq(self.first),
                ]
                with m.If(self.start):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += [self.o.valid.eq(1), crc.valid.eq(sent)]
                with m.If(last):
                    m.next = "LOAD_CRC"
            with m.State("LOAD_CRC"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [shift.eq(crc.crc), left.eq(CRC_BYTES)]
                m.next = "CRC"
            with m.State("CRC"):
                m.d.comb += [self.o.valid.eq(1), self.done.eq(last & (words == 0))]
                with m.If(last):
                    m.next = "FETCH"
                    with m.If(words == 0):
                        m.next = "IDLE"
            with m.State("FETCH"):
                m.next = "FETCHED"
            with m.State("FETCHED"):
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += [shift.eq(self.word), left.eq(4), words.eq(words - 1), self.index.eq(self.index + 1)]
                m.next = "WORD"
            with m.State("WORD"):
                m.d.comb += [self.o.valid.eq(1), crc.valid.eq(sent)]
                with m.If(last):
                    m.next = "FETCH"
                    with m.If(words == 0):
                        m.next = "LOAD_CRC"
        return m
