"""The host's end of the link: a transport for ``gen.driver`` over a serial port."""

import errno
import struct
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

import serial
from serial.tools import list_ports

from tilewright.gen.errors import ToolError, UserError

from .protocol import (
    CRC_BYTES,
    PATIENCE_SECONDS,
    PAYLOAD_BYTES,
    PROTOCOL_VERSION,
    REQUEST_HEADER_BYTES,
    Command,
    Identity,
    ProtocolError,
    Status,
    blocks,
    find_answer,
    pack_request,
)

try:
    from termios import error as terminal_error
except ImportError:     # Windows, where pyserial raises its own errors alone
    terminal_error = serial.SerialException

__all__ = ["SerialTransport", "LinkError"]

WINDOW = 16
"""Requests on their way at a time: 16 KiB, which 3 Mbaud take 55 ms for, more than a USB adapter's answer takes."""
ATTEMPTS = 8
SILENCES = 3
"""Times in a row that nothing at all comes back until the link is given up."""
POLL_SECONDS = 0.05
WRITE_SECONDS = 5.0
BUFFERED = 16 << 10
"""Bytes that a port may hold before it takes more: at a low rate they take longer than ``WRITE_SECONDS``."""
LONGEST_FRAME = REQUEST_HEADER_BYTES + PAYLOAD_BYTES + 2 * CRC_BYTES


class LinkError(ToolError):
    """The link was lost, or the board refused a request."""


@dataclass(eq=False)
class _Request:
    command: Command
    address: int = 0
    length: int = 0
    payload: bytes = b""
    sequence: int | None = None
    attempts: int = field(default=0)

    def __str__(self):
        return f"{self.command.name} at {self.address:#x}"


class SerialTransport:
    """Registers, interrupt and memory of a board. A context manager; the port is open and the board known inside.

    The coroutines are those that ``gen.driver.Driver`` needs; they never let another one run. What is lost on the line
    is sent again; nothing that acts is done twice.

    Parameters
    ----------
    port : str            name of the serial port
    baud : int
    timeout : float       seconds without an answer until what is on its way counts as lost
    quiet : float         seconds of silence after which the board waits for a new frame; simulated boards are slower
    progress : function   told (bytes done, bytes in all) during ``load``
    waiting : function    told several times a second, during ``wait``, how many seconds it has lasted

    Attributes
    ----------
    identity : Identity   what the board tells about itself
    sent, received : int  bytes on the line

    Entering raises UserError where the port cannot be opened, and where what is behind it does not speak this protocol;
    then LinkError, with the name of the port, where the link is lost.
    """

    def __init__(self, port, *, baud, timeout=1.0, quiet=2 * PATIENCE_SECONDS, progress=lambda done, total: None,
                 waiting=lambda seconds: None):
        self.port, self.baud = port, baud
        self._timeout = timeout + 2 * LONGEST_FRAME * 10 / baud if baud > 0 else timeout
        self._quiet, self._progress, self._waiting = quiet, progress, waiting
        self._sequence, self._received, self._heard = 0, bytearray(), bytearray()
        self.identity = None
        self.sent = self.received = 0

    def __enter__(self):
        self._line = _open(self.port, self.baud)
        try:
            self.identity = self._identify()
        except BaseException:
            self._line.close()
            raise
        return self

    def __exit__(self, kind, error, trace):
        with suppress(LinkError):
            if kind is not None:
                self._guarded(self._line.reset_output_buffer)
            self._guarded(self._line.close)

    async def read(self, offset):
        """Value of a 32-bit register."""
        return int.from_bytes(self._ask(_Request(Command.READ_REGISTERS, offset, 4)).payload, "little")

    async def read_words(self, offset, count):
        """Values of ``count`` 32-bit registers that follow one another, in one request."""
        payload = self._ask(_Request(Command.READ_REGISTERS, offset, 4 * count)).payload
        return [value for (value,) in struct.iter_unpack("<I", payload)]

    async def write(self, offset, value):
        """Write a 32-bit register."""
        await self.write_words(offset, [value])

    async def write_words(self, offset, values):
        """Write 32-bit registers that follow one another, in one request."""
        self._ask(_Request(Command.WRITE_REGISTERS, offset, payload=struct.pack(f"<{len(values)}I", *values)))

    async def wait(self):
        """Until the interrupt is pending."""
        started = time.monotonic()
        while not self._ask(_Request(Command.WAIT)).interrupt:
            self._waiting(time.monotonic() - started)

    async def load(self, address, data):
        """Write bytes to memory."""
        data = memoryview(data).cast("B")
        self._check(address, len(data))
        done = 0

        def finished(request, answer):
            nonlocal done
            done += len(request.payload)
            self._progress(done, len(data))
        self._exchange((_Request(Command.WRITE_MEMORY, at, payload=bytes(data[at - address:][:count]))
                        for at, count in blocks(address, len(data))), finished)

    async def fetch(self, address, size):
        """Bytes of memory."""
        self._check(address, size)
        data = bytearray(size)

        def finished(request, answer):
            begin = request.address - address
            data[begin:begin + request.length] = answer.payload
        self._exchange((_Request(Command.READ_MEMORY, at, count) for at, count in blocks(address, size)), finished)
        return bytes(data)

    def _check(self, address, size):
        if address % 4 or size % 4:
            raise ValueError(f"address = {address:#x}, size = {size}: must be multiples of 4")
        if address + size > self.identity.memory_bytes:
            raise UserError(f"{self.port}: the board's memory has {self.identity.memory_bytes:,} bytes, "
                            f"{address + size:,} are needed; take a smaller model or context, or a larger board")

    def _identify(self):
        """Identity of the board; UserError, which says what came instead, if none answers."""
        heard = b""
        for _ in range(SILENCES):
            self._hush()
            request = _Request(Command.IDENTIFY, sequence=self._next_sequence())
            self._send(request)
            deadline = time.monotonic() + self._timeout
            while (answer := self._receive(deadline)) is not None:
                if answer.command == Command.IDENTIFY and answer.sequence == request.sequence:
                    return self._known(answer)
            heard = bytes(self._heard) or heard
        place = f"{self.port} at {self.baud:,} baud"
        if not heard:
            raise UserError(f"{place}: no answer; load a Tilewright bitstream into the board (tilewright flash), and "
                            "give the baud rate that it was built with")
        raise UserError(f"{place}: answers with what is no frame of Tilewright ({_shown(heard)}); it is other firmware "
                        "or another baud rate; load a Tilewright bitstream, or change --baud or --port")

    def _known(self, answer):
        try:
            identity = Identity.unpack(answer.payload)
        except ProtocolError as error:
            raise UserError(f"{self.port}: {error}; load a Tilewright bitstream") from None
        if identity.version != PROTOCOL_VERSION:
            raise UserError(f"{self.port}: the board speaks version {identity.version} of the link's protocol, this "
                            f"host version {PROTOCOL_VERSION}; build the bitstream with this version of Tilewright")
        return identity

    def _ask(self, request):
        answers = []
        self._exchange([request], lambda request, answer: answers.append(answer))
        return answers[0]

    def _exchange(self, requests, finished):
        """Have all requests carried out; ``finished(request, answer)`` hears of each, in any order.

        The board answers in the order in which it gets requests. So what was sent before a request that is answered,
        and has no answer, is lost and sent again at once; after a silence all is, when the board has surely forgotten
        what it may have got of it.
        """
        again, requests, flying, silences = deque(), iter(requests), OrderedDict(), 0
        while True:
            for request in chain(_drain(again, flying), _some(requests, again, flying)):
                self._send(request)
                flying[request.sequence] = request
            if not flying:
                return
            answer = self._receive(time.monotonic() + self._timeout)
            if answer is None:
                silences = 0 if self._heard else silences + 1     # damaged answers are no silence
                if silences == SILENCES:
                    first = next(iter(flying.values()))
                    raise LinkError(f"{self.port}: no answer to {first} for {silences * self._timeout:.1f} seconds; "
                                    "check the cable and the board's power")
                self._hush()
                again.extendleft(reversed(flying.values()))
                flying.clear()
                continue
            request = flying.get(answer.sequence)
            if request is None or answer.command != request.command:
                continue
            silences = 0
            if answer.fresh:
                raise LinkError(f"{self.port}: the board was reset during {request}; run the command again")
            lost = []
            while (before := flying.popitem(last=False)[1]) is not request:
                lost.append(before)
            if self._is_done(request, answer):
                finished(request, answer)
            else:
                lost.append(request)
            again.extend(lost)

    def _is_done(self, request, answer):
        """Whether the answer ends the request; False if it is to be sent again."""
        if answer.status == Status.OK and len(answer.payload) == request.length:
            return True
        if answer.status == Status.BUSY:
            time.sleep(self._quiet)
        elif answer.status != Status.BAD_CRC:
            name = Status(answer.status).name if answer.status in set(Status) else f"status {answer.status}"
            raise LinkError(f"{self.port}: the board refused {request} of {request.length or len(request.payload)} "
                            f"bytes with {name}")
        return False

    def _next_sequence(self):
        self._sequence = (self._sequence + 1) % 256
        return self._sequence

    def _send(self, request):
        if request.sequence is None:
            request.sequence = self._next_sequence()
        if request.attempts == ATTEMPTS:
            raise LinkError(f"{self.port}: {request} failed {ATTEMPTS} times; the line is too noisy or the board's "
                            "memory does not answer; check the cable, or build with a lower baud rate")
        request.attempts += 1
        frame = pack_request(request.command, request.sequence, address=request.address, length=request.length,
                             payload=request.payload)
        self._guarded(self._line.write, frame)
        self.sent += len(frame)

    def _receive(self, deadline):
        """The next answer, or None at the deadline."""
        while True:
            answer, count = find_answer(self._received)
            del self._received[:count]
            if answer is not None:
                self._heard.clear()
                return answer
            if time.monotonic() >= deadline:
                return None
            data = self._guarded(lambda: self._line.read(max(1, self._line.in_waiting)))
            self._received += data
            self.received += len(data)
            self._heard += data[:64 - len(self._heard)]

    def _hush(self):
        """Leave the line silent until the board expects a new frame, and forget what came so far."""
        self._guarded(self._line.reset_output_buffer)
        time.sleep(self._quiet)
        self._guarded(self._line.reset_input_buffer)
        self._received.clear()
        self._heard = bytearray()

    def _guarded(self, action, *arguments):
        try:
            return action(*arguments)
        except serial.SerialTimeoutException:
            raise LinkError(f"{self.port}: takes no more bytes; check the cable and the board's power") from None
        except (OSError, terminal_error) as error:
            raise LinkError(f"{self.port}: lost ({error}); was it unplugged? run the command again") from None


def _drain(again, flying):
    while again and len(flying) < WINDOW:
        yield again.popleft()


def _some(requests, again, flying):
    while not again and len(flying) < WINDOW:
        request = next(requests, None)
        if request is None:
            return
        yield request


def _open(port, baud):
    """The port, for this process alone."""
    try:
        line = serial.Serial(port, baud, timeout=POLL_SECONDS, exclusive=True)
        line.write_timeout = max(WRITE_SECONDS, BUFFERED * 10 / baud)
    except (ValueError, OverflowError):
        raise UserError(f"--baud {baud}: no rate that {port} can run at; 1000000 and 3000000 are usual") from None
    except serial.SerialException as error:
        raise UserError(f"{port}: {_why(error)}") from None
    with suppress(AttributeError, NotImplementedError, OSError, ValueError):    # no USB adapter, or not Linux
        line.set_low_latency_mode(True)     # its answers come after 1 ms instead of 16
    return line


def _why(error):
    if error.errno == errno.ENOENT:
        ports = ", ".join(sorted(port.device for port in list_ports.comports())) or "none"
        return f"no such port; plug the board in, or change --port (there are: {ports})"
    if error.errno == errno.EACCES:
        return "no permission; add your user to the group that owns it (often dialout)"
    if error.errno in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK):
        return "in use by another program; close it, or change --port"
    return f"cannot be opened as a serial port ({error}); change --port"


def _shown(data):
    """The first bytes, readable."""
    text = bytes(data[:24])
    readable = sum(32 <= byte < 127 or byte in b"\r\n\t" for byte in text) > 0.8 * len(text)
    return repr(text.decode("latin-1")) if readable else f"bytes {text[:8].hex(' ')}"
