"""Both ends of the link: a bridge in Amaranth's simulator with all around it, and a board in Python for the host."""

import os
import random
import select
import struct
import threading
import time
import tty
from zlib import crc32

import pytest
from amaranth.sim import Simulator

from tilewright.fpga.link.bridge import HostBridge
from tilewright.fpga.link.protocol import Answer, Command, Identity, Status, pack_answer, request_status

CLOCK_HZ, MEMORY_BYTES = 50_000_000, 6 * 1024
UNBACKED = 0x100
IDLE = 0.02
WRITES = (Command.WRITE_REGISTERS, Command.WRITE_MEMORY)


def with_crc(data):
    return data + struct.pack("<I", crc32(data))


def ask(command, sequence, *, address=0, length=0, payload=b""):
    """A request as docs/link.md has it."""
    header = struct.pack("<BBBHQ", 0xA5, command, sequence, len(payload) or length, address)[:10]
    return with_crc(header) + (with_crc(payload) if payload else b"")


class Answers:
    """Takes answers out of bytes; any byte that is not part of one is a mistake."""

    def __init__(self):
        self.received = bytearray()

    def take(self):
        """(command, sequence, status, payload), or None where none is whole."""
        if len(self.received) < 10:
            return None
        sync, command, sequence, status, length, crc = struct.unpack("<BBBBHI", self.received[:10])
        assert sync == 0x5A and crc == crc32(self.received[:6]), bytes(self.received[:10]).hex()
        end = 14 + length if length else 10
        if len(self.received) < end:
            return None
        payload = bytes(self.received[10:10 + length])
        assert not length or self.received[10 + length:end] == struct.pack("<I", crc32(payload))
        del self.received[:end]
        return command, sequence, status, payload


class Bench:
    """A HostBridge with all that is around it. A byte comes and goes every ``pace`` cycles or, with 0, at random.

    ``memory`` and ``registers`` are what lies behind; ``registers_written`` all that was written there, in order;
    ``unbacked`` is the register whose accesses answer SLVERR, ``bad`` the addresses of memory whose beats do;
    ``stuck``: the buses answer nothing; ``bursts`` the (kind, address, beats) of memory.
    """

    unbacked, memory_bytes, clock_hz = UNBACKED, MEMORY_BYTES, CLOCK_HZ
    request = staticmethod(ask)

    def __init__(self, *, width=64, seed=1, pace=0, patience=150):
        self.random, self.width, self.pace, self.patience = random.Random(seed), width, pace, patience
        self.memory = bytearray(self.random.randbytes(MEMORY_BYTES))
        self.registers, self.registers_written = {at: self.random.getrandbits(32) for at in range(0, 1024, 4)}, []
        self.bad, self.stuck, self.bursts = set(), False, []
        self.answers = Answers()
        self._sent = bytearray()
        self.dut = HostBridge(address_width=33, width=width, memory_bytes=MEMORY_BYTES, clock_hz=CLOCK_HZ,
                              patience=patience)

    def run(self, body, *, greeted=True):
        """Run ``body(bench)`` in the simulator, after an IDENTIFY; nothing may be left unread in the end."""
        async def main(ctx):
            self.ctx = ctx
            if greeted:
                assert (await self.ask(1, 0))[2] == 0
            await body(self)
            await self.cycles(200)
            assert self.answers.take() is None and not self.answers.received
        simulator = Simulator(self.dut)
        simulator.add_clock(1 / CLOCK_HZ)
        simulator.add_testbench(main)
        simulator.add_testbench(self._surround, background=True)
        simulator.run()

    async def cycles(self, count):
        await self.ctx.tick().repeat(count)

    def send(self, data):
        self._sent += bytes(data)

    async def sent(self):
        """Until all bytes are on their way."""
        while self._sent:
            await self.cycles(4)

    async def answer(self, limit=20_000):
        for _ in range(0, limit, 4):
            if (answer := self.answers.take()) is not None:
                return answer
            await self.cycles(4)
        raise AssertionError(f"no answer; received {bytes(self.answers.received).hex()}")

    async def ask(self, *arguments, **options):
        self.send(ask(*arguments, **options))
        return await self.answer()

    async def no_answer(self, count):
        await self.cycles(count)
        assert not self.answers.received, bytes(self.answers.received).hex()

    async def _surround(self, ctx):
        """Steps each generator below once a cycle; what the bridge drives is in ``_seen``, as of the clock edge."""
        dut, values = self.dut, {}
        signals = [signal for port in (dut.i, dut.o, dut.registers, dut.read, dut.write)
                   for _, _, signal in port.signature.flatten(port)]

        def drive(signal, value):
            if values.get(id(signal), 0) != value:
                values[id(signal)] = value
                ctx.set(signal, value)
        self._set = drive
        machines = [self._send(), self._receive(), self._registers_write(), self._registers_read(),
                    self._memory_write(), self._memory_read()]
        for machine in machines:
            next(machine)
        async for _, _, *now in ctx.tick().sample(*signals):
            self._seen = dict(zip(map(id, signals), now, strict=True))
            for machine in machines:
                next(machine)

    def _wait(self):
        return self.pace or self.random.choice((1, 1, 1, 2, 5))

    def _send(self):
        stream = self.dut.i
        while True:
            self._set(stream.valid, bool(self._sent))
            if self._sent:
                self._set(stream.payload, self._sent.pop(0))
                yield
                for _ in range(self._wait() - 1):
                    self._set(stream.valid, 0)
                    yield
            else:
                yield

    def _receive(self):
        stream = self.dut.o
        while True:
            (value,) = yield from self._take(stream.valid, stream.ready, stream.payload)
            self.answers.received.append(value)
            for _ in range(self._wait() - 1):
                yield

    def _take(self, valid, ready, *values, stuck=False):
        """The values of one transfer, at a time of the model's choice; they must hold until then."""
        before = None
        while True:
            wait = self.stuck and stuck or self.random.random() < 0.3
            self._set(ready, not wait)
            yield
            is_valid, *now = (self._seen[id(signal)] for signal in (valid, *values))
            assert before is None or (is_valid and now == before), "changed while it was not taken"
            before = now if is_valid else None
            if is_valid and not wait:
                self._set(ready, 0)
                return now

    def _give(self, valid, ready, *values):
        while self.stuck:
            yield
        for _ in range(self.random.choice((0, 0, 1, 3))):
            yield
        for signal, value in values:
            self._set(signal, value)
        self._set(valid, 1)
        yield
        while not self._seen[id(ready)]:
            yield
        self._set(valid, 0)

    def _request(self, valid, ready, *values):
        return self._take(valid, ready, *values, stuck=True)

    def _registers_write(self):
        bus = self.dut.registers
        while True:
            (address,) = yield from self._request(bus.awvalid, bus.awready, bus.awaddr)
            value, strobe = yield from self._request(bus.wvalid, bus.wready, bus.wdata, bus.wstrb)
            assert strobe == 0xF
            self.registers_written.append((address, value))
            if address != UNBACKED:
                self.registers[address] = value
            yield from self._give(bus.bvalid, bus.bready, (bus.bresp, 2 * (address == UNBACKED)))

    def _registers_read(self):
        bus = self.dut.registers
        while True:
            (address,) = yield from self._request(bus.arvalid, bus.arready, bus.araddr)
            yield from self._give(bus.rvalid, bus.rready, (bus.rdata, self.registers[address]),
                                  (bus.rresp, 2 * (address == UNBACKED)))

    def _burst(self, kind, address, length):
        size = self.width // 8
        assert address % size == 0 and address % 4096 + (length + 1) * size <= 4096
        self.bursts.append((kind, address, length + 1))
        return [address + i * size for i in range(length + 1)]

    def _memory_write(self):
        bus, size = self.dut.write, self.width // 8
        while True:
            address, length = yield from self._request(bus.awvalid, bus.awready, bus.awaddr, bus.awlen)
            beats = self._burst("write", address, length)
            for at in beats:
                data, strobe, last = yield from self._request(bus.wvalid, bus.wready, bus.wdata, bus.wstrb, bus.wlast)
                assert last == (at == beats[-1])
                for i in range(size):
                    if strobe >> i & 1:
                        self.memory[at + i] = data >> 8 * i & 0xFF
            yield from self._give(bus.bvalid, bus.bready, (bus.bresp, 2 * bool(self.bad & set(beats))))

    def _memory_read(self):
        bus, size = self.dut.read, self.width // 8
        while True:
            address, length = yield from self._request(bus.arvalid, bus.arready, bus.araddr, bus.arlen)
            beats = self._burst("read", address, length)
            for at in beats:
                value = int.from_bytes(self.memory[at:at + size], "little")
                yield from self._give(bus.rvalid, bus.rready, (bus.rdata, value), (bus.rlast, at == beats[-1]),
                                      (bus.rresp, 2 * (at in self.bad)))


@pytest.fixture
def make_bench():
    """Makes a Bench and prints its seed."""
    def make(**options):
        print(f"seed {options.get('seed', 1)}")
        return Bench(**options)
    return make


class Board(threading.Thread):
    """Takes requests byte by byte from a pseudo-terminal and carries them out.

    ``baud`` and ``latency`` (seconds until an answer arrives) shape the line; ``hear`` and ``say`` are what becomes of
    bytes on it; ``act(board, command)`` may return a status instead of letting the request through;
    ``register_written(offset, value)`` is told of writes.
    """

    def __init__(self, *, memory_bytes=256 * 1024, seed=4):
        super().__init__(daemon=True)
        self.rng = random.Random(seed)
        self.memory, self.registers = bytearray(self.rng.randbytes(memory_bytes)), dict.fromkeys(range(0, 1024, 4), 0)
        self.written, self.interrupt_after, self.fresh, self.version = [], 0, True, 1
        self.baud, self.latency, self.busy = 0, 0.0, 0.0
        self.hear = self.say = lambda data: data
        self.act = lambda board, command: None
        self.register_written = lambda offset, value: None
        self.end, far = os.openpty()
        tty.setraw(far)
        self.port, self._far = os.ttyname(far), far
        self.line, self._frame, self._last = 0.0, b"", 0.0
        self._out, self._ending, self._repeat = [], False, None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ending = True
        self.join()
        os.close(self.end)
        os.close(self._far)

    def run(self):
        while not self._ending:
            if select.select([self.end], [], [], 0.002)[0]:
                data = os.read(self.end, 4096)
                now = time.monotonic()
                if self._frame and now - self._last > IDLE:
                    self._frame = b""
                self._last = now
                for byte in self.hear(data):
                    if self.baud:
                        self.line = max(self.line, now) + 10 / self.baud
                        self.busy += 10 / self.baud
                    self._take(byte)
            while self._out and self._out[0][0] <= time.monotonic():
                os.write(self.end, self._out.pop(0)[1])

    def _take(self, byte):
        self._frame += bytes([byte])
        if self._frame[0] != 0xA5:
            self._frame = b""
        elif len(self._frame) == 14:
            if crc32(self._frame[:10]) != int.from_bytes(self._frame[10:], "little"):
                self._frame = b""
                return
            _, command, _, length, address = self._header()
            status = request_status(command, address, length, memory_bytes=len(self.memory), register_bytes=1024)
            if command not in WRITES or status == Status.BAD_LENGTH:
                self._answer(status)
        elif len(self._frame) > 14 and len(self._frame) == 14 + self._header()[3] + 4:
            payload, crc = self._frame[14:-4], int.from_bytes(self._frame[-4:], "little")
            _, command, _, length, address = self._header()
            self._answer(request_status(command, address, length, memory_bytes=len(self.memory), register_bytes=1024)
                         if crc32(payload) == crc else Status.BAD_CRC, payload)

    def _header(self):
        sync, command, sequence, length, low, high = struct.unpack("<BBBHIB", self._frame[:10])
        return sync, command, sequence, length, low | high << 32

    def _answer(self, status, payload=b""):
        _, command, sequence, length, address = self._header()
        self._frame, data, interrupt = b"", b"", False
        if status == Status.OK and (instead := self.act(self, command)) is not None:
            status = instead
        if status == Status.OK:
            self.fresh &= command != Command.IDENTIFY
            repeated, self._repeat = self._repeat == (command, sequence), None
            if command == Command.WRITE_REGISTERS:
                self._repeat = command, sequence
                if not repeated:
                    for i, (value,) in enumerate(struct.iter_unpack("<I", payload)):
                        self.registers[address + 4 * i] = value
                        self.written.append((address + 4 * i, value))
                        self.register_written(address + 4 * i, value)
            elif command == Command.WRITE_MEMORY:
                self.memory[address:address + length] = payload
            elif command == Command.READ_MEMORY:
                data = bytes(self.memory[address:address + length])
            elif command == Command.READ_REGISTERS:
                data = b"".join(struct.pack("<I", self.registers[address + i]) for i in range(0, length, 4))
            elif command == Command.IDENTIFY:
                data = Identity(version=self.version, beat_bytes=8, memory_bytes=len(self.memory),
                                clock_hz=CLOCK_HZ).pack()
            elif command == Command.WAIT:
                self.interrupt_after -= 1
                interrupt = self.interrupt_after < 0
        frame = self.say(pack_answer(Answer(command=command, sequence=sequence, status=status, interrupt=interrupt,
                                            fresh=self.fresh, payload=data)))
        self._out.append((max(self.line, time.monotonic()) + self.latency, frame))

    def reset(self):
        self.fresh, self._repeat = True, None


@pytest.fixture
def make_board():
    """Makes a Board, a context manager."""
    return Board


@pytest.fixture
def board():
    print("seed 4")
    with Board() as board:
        yield board
