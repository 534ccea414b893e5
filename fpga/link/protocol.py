"""The frames between host and board, as constants and pure functions. docs/link.md is the page about them.

The host asks, the board answers; nothing comes unasked. All numbers are little-endian; each CRC is zlib's CRC-32.

request: sync, command, sequence, length (2), address (5), CRC of these 10 | payload, CRC of it: writes alone
answer:  sync, command, sequence, status, length (2), CRC of these 6       | payload, CRC of it: if length > 0
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

__all__ = ["Command", "Status", "Answer", "Identity", "ProtocolError", "PAYLOAD_BYTES", "REQUEST_SYNC", "ANSWER_SYNC",
           "REQUEST_HEADER_BYTES", "ANSWER_HEADER_BYTES", "CRC_BYTES", "INTERRUPT", "FRESH", "MAGIC",
           "PROTOCOL_VERSION", "BAUD", "PATIENCE_SECONDS", "WRITES", "READS", "blocks", "find_answer", "pack_answer",
           "pack_request", "request_status"]

PROTOCOL_VERSION = 1
MAGIC = int.from_bytes(b"TWLK", "little")
REQUEST_SYNC, ANSWER_SYNC = 0xA5, 0x5A
"""Different, so that a port that echoes what it is sent does not look like a board."""
PAYLOAD_BYTES = 1024
"""Most bytes of a payload; a frame stays between two multiples of it."""
CRC_BYTES = 4
INTERRUPT = 0x80
"""Bit of an answer's status: the accelerator's interrupt is pending."""
FRESH = 0x40
"""Bit of an answer's status: the board was reset, and no IDENTIFY came since: what a host did before is lost."""
BAUD = 2_000_000
"""Bits a second of boards that say nothing else, and of a host that is told nothing else."""
PATIENCE_SECONDS = 0.05
"""Silence after which the board drops a frame that has begun; also how long it waits for its bus, and for the interrupt
in WAIT, until it answers."""

_REQUEST = struct.Struct("<BBBHIB")
_ANSWER = struct.Struct("<BBBBH")
_CRC = struct.Struct("<I")
_IDENTITY = struct.Struct("<IHHQI")
REQUEST_HEADER_BYTES, ANSWER_HEADER_BYTES = _REQUEST.size, _ANSWER.size


class Command(IntEnum):
    IDENTIFY = 1
    READ_REGISTERS = 2
    WRITE_REGISTERS = 3
    READ_MEMORY = 4
    WRITE_MEMORY = 5
    WAIT = 6


WRITES = (Command.WRITE_REGISTERS, Command.WRITE_MEMORY)
READS = (Command.READ_REGISTERS, Command.READ_MEMORY)


class Status(IntEnum):
    OK = 0
    BAD_CRC = 1      # of the payload; a header with a bad CRC gets no answer
    BAD_COMMAND = 2
    BAD_LENGTH = 3   # not from 4 to PAYLOAD_BYTES in fours, or across a multiple of PAYLOAD_BYTES
    BUS_ERROR = 4    # address outside registers or memory, or the bus said so
    BUSY = 5         # the bus did not answer in time; what was begun goes on


class ProtocolError(ValueError):
    """Bytes with a right CRC that mean nothing in this version of the protocol."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``command`` and ``status`` are plain numbers: a newer board may know more of them."""

    command: int
    sequence: int
    status: int
    interrupt: bool = False
    fresh: bool = False
    payload: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a board tells about itself: version of the protocol, bytes of its bus' beat, bytes of memory, clock."""

    version: int = PROTOCOL_VERSION
    beat_bytes: int
    memory_bytes: int
    clock_hz: int

    BYTES = _IDENTITY.size

    def pack(self):
        """The payload of the answer to IDENTIFY."""
        return _IDENTITY.pack(MAGIC, self.version, self.beat_bytes, self.memory_bytes, self.clock_hz)

    @classmethod
    def unpack(cls, payload):
        """The reverse; of other versions only ``version`` means anything. Raises ProtocolError."""
        if len(payload) < _IDENTITY.size or int.from_bytes(payload[:4], "little") != MAGIC:
            raise ProtocolError("the answer to IDENTIFY does not begin with its magic number")
        _, version, beat_bytes, memory_bytes, clock_hz = _IDENTITY.unpack(payload[:_IDENTITY.size])
        return cls(version=version, beat_bytes=beat_bytes, memory_bytes=memory_bytes, clock_hz=clock_hz)


def pack_request(command, sequence, *, address=0, length=0, payload=b""):
    """Bytes of a request; ``length`` is what a read asks for, a write's is that of its payload."""
    header = _REQUEST.pack(REQUEST_SYNC, command, sequence, len(payload) or length,
                           address & 0xFFFFFFFF, address >> 32)
    return _with_crc(header) + (_with_crc(payload) if payload else b"")


def pack_answer(answer):
    """Bytes of an answer."""
    header = _ANSWER.pack(ANSWER_SYNC, answer.command, answer.sequence,
                          answer.status | INTERRUPT * answer.interrupt | FRESH * answer.fresh, len(answer.payload))
    return _with_crc(header) + (_with_crc(answer.payload) if answer.payload else b"")


def _with_crc(data):
    return data + _CRC.pack(crc32(data))


def _right(data):
    """Whether the last four bytes are the CRC of those before them."""
    return crc32(data[:-CRC_BYTES]) == _CRC.unpack(data[-CRC_BYTES:])[0]


def find_answer(received):
    """The first whole answer in ``received``, and how many bytes are done with: the answer's and the garbage before it.

    Without an answer, (None, n): n bytes are garbage, behind them an answer may have begun.
    """
    at = 0
    while (at := received.find(ANSWER_SYNC, at)) >= 0:
        header = received[at:at + ANSWER_HEADER_BYTES + CRC_BYTES]
        if len(header) < ANSWER_HEADER_BYTES + CRC_BYTES:
            return None, at
        _, command, sequence, status, length = _ANSWER.unpack(header[:ANSWER_HEADER_BYTES])
        if _right(header) and length <= PAYLOAD_BYTES:
            begin = at + len(header)
            end = begin + (length + CRC_BYTES if length else 0)
            if len(received) < end:
                return None, at
            if not length or _right(received[begin:end]):
                return Answer(command=command, sequence=sequence, status=status & ~(INTERRUPT | FRESH),
                              interrupt=bool(status & INTERRUPT), fresh=bool(status & FRESH),
                              payload=bytes(received[begin:begin + length])), end
        at += 1
    return None, len(received)


def request_status(command, address, length, *, memory_bytes, register_bytes):
    """How a board judges a header with a right CRC, before it acts."""
    if command not in set(Command):
        return Status.BAD_COMMAND
    if command not in (*READS, *WRITES):
        return Status.OK
    if length % 4 or address % 4 or not 4 <= length <= PAYLOAD_BYTES - address % PAYLOAD_BYTES:
        return Status.BAD_LENGTH
    memory = command in (Command.READ_MEMORY, Command.WRITE_MEMORY)
    return Status.OK if address + length <= (memory_bytes if memory else register_bytes) else Status.BUS_ERROR


def blocks(address, size):
    """(address, bytes) of the frames that ``size`` bytes from ``address`` on take."""
    end = address + size
    while address < end:
        count = min(end, (address // PAYLOAD_BYTES + 1) * PAYLOAD_BYTES) - address
        yield address, count
        address += count
