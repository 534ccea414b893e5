"""SerialTransport against a board written in Python at a pseudo-terminal: what works, bad lines, wrong ports."""

import asyncio
import random
import time

import pytest
import serial

from tilewright.fpga.link.host import LinkError, SerialTransport
from tilewright.fpga.link.protocol import Answer, Identity, Status, pack_answer
from tilewright.gen.errors import UserError

SEED, MEMORY = 4, 256 * 1024
QUIET, TIMEOUT = 0.05, 0.2


def transport(board, **options):
    return SerialTransport(board.port, **{"baud": 1_000_000, "timeout": TIMEOUT, "quiet": QUIET} | options)


def noisy(rng, each):
    """A line that flips a bit, loses or doubles a byte about every ``each`` bytes."""
    def change(data):
        out = bytearray()
        for byte in data:
            kind = rng.randrange(3 * each)
            out += bytes({0: [byte ^ 1 << rng.randrange(8)], 1: [], 2: [byte, byte]}.get(kind, [byte]))
        return bytes(out)
    return change


def works(board, link):
    async def body():
        data = board.rng.randbytes(5000)
        await link.load(1020, data)
        assert board.memory[1020:6020] == data
        assert await link.fetch(1020, 5000) == data
        await link.write(64, 0x89ABCDEF)
        assert board.registers[64] == 0x89ABCDEF == await link.read(64)
        board.registers |= {512: 7, 516: 0xFFFFFFFF, 520: 9}
        assert await link.read_words(512, 3) == [7, 0xFFFFFFFF, 9]
    asyncio.run(body())


def test_registers_memory_and_interrupt(board):
    told, waited = [], []
    with transport(board, progress=lambda *at: told.append(at), waiting=waited.append) as link:
        assert link.identity == Identity(beat_bytes=8, memory_bytes=MEMORY, clock_hz=50_000_000)
        works(board, link)
        assert told == [(4, 5000), (1028, 5000), (2052, 5000), (3076, 5000), (4100, 5000), (5000, 5000)]
        board.interrupt_after = 3
        asyncio.run(link.wait())
        assert len(waited) == 3 and waited == sorted(waited)
    with transport(board) as link:
        works(board, link)


def test_a_load_keeps_the_line_busy(board):
    """90 % of the line's rate with answers that take as long as those of a USB adapter at its slowest."""
    board.baud, board.latency = 300_000, 0.016
    data = board.rng.randbytes(32 * 1024)
    with transport(board) as link:
        started = time.monotonic()
        asyncio.run(link.load(0, data))
        seconds = time.monotonic() - started
    assert board.memory[:len(data)] == data
    rate = len(data) / seconds / (board.baud / 10)
    print(f"{rate:.1%} of the line's bytes are the image's")
    assert rate > 0.9


@pytest.mark.parametrize("hear, say", [(1500, 0), (0, 1500), (4000, 4000)])
def test_noise(board, hear, say):
    rng = random.Random(SEED)
    with transport(board) as link:
        if hear:
            board.hear = noisy(rng, hear)
        if say:
            board.say = noisy(rng, say)
        for _ in range(2):
            works(board, link)
        board.hear = board.say = lambda data: data
        works(board, link)


def test_garbage_before_each_answer(board):
    board.say = lambda frame: board.rng.randbytes(5) + b"\x5a" + frame
    with transport(board) as link:
        works(board, link)


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_what_acts_is_done_once(board, lost):
    with transport(board) as link:
        count = 0

        def sometimes(data):
            nonlocal count
            count += 1
            return b"" if count % 3 == 1 else data
        setattr(board, "hear" if lost == "request" else "say", sometimes)
        for i in range(4):
            asyncio.run(link.write(4 * i, i))
    assert board.written == [(4 * i, i) for i in range(4)]


def test_busy_is_asked_again(board):
    with transport(board) as link:
        left = [3]

        def act(board, command):
            left[0] -= 1
            return Status.BUSY if left[0] >= 0 else None
        board.act = act
        works(board, link)


def test_the_next_host_finds_a_clean_link(board):
    """One that ended within a frame, within a load with answers on their way, and within a wait."""
    board.latency = 0.01
    frame = b"\xa5\x05\x01\x00\x04"
    for left in (frame[:3], frame + bytes(20), b"", bytes.fromhex("a506010000000000000088aa7d5b")):
        with serial.Serial(board.port, 1_000_000) as port:
            port.write(left)
        with transport(board) as link:
            works(board, link)
    with pytest.raises(KeyboardInterrupt), transport(board) as link:
        def stop(done, total):
            raise KeyboardInterrupt
        link._progress = stop
        asyncio.run(link.load(0, bytes(100_000)))
    with transport(board) as link:
        works(board, link)


def test_a_reset_in_the_middle(board):
    with transport(board) as link:
        board.reset()
        with pytest.raises(LinkError, match=f"{board.port}: the board was reset during READ_REGISTERS at 0x0"):
            asyncio.run(link.read(0))
    with transport(board) as link:
        board.interrupt_after = 10**9
        board.act = lambda board, command: board.reset()
        with pytest.raises(LinkError, match="reset during WAIT"):
            asyncio.run(link.wait())


def test_what_the_board_refuses(board):
    with transport(board) as link:
        with pytest.raises(UserError, match=f"memory has {MEMORY:,} bytes, {MEMORY + 4:,} are needed"):
            asyncio.run(link.load(MEMORY - 4, bytes(8)))
        with pytest.raises(LinkError, match="refused READ_REGISTERS at 0x400 of 4 bytes with BUS_ERROR"):
            asyncio.run(link.read(1024))
        for address, size in ((2, 4), (4, 3)):
            with pytest.raises(ValueError, match="multiples of 4"):
                asyncio.run(link.fetch(address, size))
        board.act = lambda board, command: 9
        with pytest.raises(LinkError, match="with status 9"):
            asyncio.run(link.read(0))
        board.act = lambda board, command: Status.BUSY
        with pytest.raises(LinkError, match="failed 8 times"):
            asyncio.run(link.fetch(0, 4))


def test_a_board_that_falls_silent(board):
    with transport(board, timeout=0.05, quiet=0.01) as link:
        board.hear = lambda data: b""
        with pytest.raises(LinkError, match=f"{board.port}: no answer to WRITE_MEMORY at 0x0 for"):
            asyncio.run(link.load(0, bytes(64)))


def test_answers_that_are_damaged_each_time(board):
    with transport(board, timeout=0.05, quiet=0.01) as link:
        board.say = lambda frame: frame[:-1] + bytes([frame[-1] ^ 1])
        with pytest.raises(LinkError, match="READ_MEMORY at 0x0 failed 8 times; the line is too noisy"):
            asyncio.run(link.fetch(0, 4))
        count = 0

        def at_last(frame):
            nonlocal count
            count += 1
            return frame if count > 5 else frame[:-1]
        board.say = at_last
        assert asyncio.run(link.fetch(0, 4)) == board.memory[:4]


def test_a_port_that_goes_away(make_board):
    with make_board() as board:
        link = transport(board).__enter__()
    with pytest.raises(LinkError, match=f"{board.port}: lost .*unplugged"):
        asyncio.run(link.read(0))
    link.__exit__(None, None, None)


@pytest.mark.parametrize("hear, say, message", [
    (lambda data: b"", None, "no answer; load a Tilewright bitstream"),
    (None, lambda frame: b"login: ", r"answers with what is no frame of Tilewright \('login: .*other firmware"),
    (None, lambda frame: b"\xf8\x00\x80\x81", r"answers with what is no frame of Tilewright \(bytes f8 00 80 81")])
def test_another_firmware(board, hear, say, message):
    board.hear, board.say = hear or board.hear, say or board.say
    with pytest.raises(UserError, match=f"{board.port} at 1,000,000 baud: {message}"):
        transport(board, timeout=0.05).__enter__()
    board.hear = board.say = lambda data: data
    with transport(board) as link:
        works(board, link)


def test_an_echo_is_no_board(board):
    board._take = lambda byte: board._out.append((0, bytes([byte])))
    with pytest.raises(UserError, match="no frame of Tilewright"):
        transport(board, timeout=0.05).__enter__()


def test_another_version(board):
    board.version = 2
    with pytest.raises(UserError, match="speaks version 2 of the link's protocol, this host version 1"):
        transport(board).__enter__()
    board.version, board.say = 1, lambda frame: pack_answer(Answer(command=1, sequence=frame[2], status=0))
    with pytest.raises(UserError, match="magic number; load a Tilewright bitstream"):
        transport(board).__enter__()


def test_ports_that_cannot_be_opened(board, tmp_path):
    with pytest.raises(UserError, match="/dev/ttyMISSING: no such port; plug the board in"):
        SerialTransport("/dev/ttyMISSING", baud=1_000_000).__enter__()
    with pytest.raises(UserError, match="/dev/null: cannot be opened as a serial port"):
        SerialTransport("/dev/null", baud=1_000_000).__enter__()
    with pytest.raises(UserError, match="--baud 99999999999: no rate"):
        SerialTransport(board.port, baud=99999999999).__enter__()
    with transport(board) as link:
        with pytest.raises(UserError, match=f"{board.port}: in use by another program"):
            transport(board).__enter__()
        works(board, link)
