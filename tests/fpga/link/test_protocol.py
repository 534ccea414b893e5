"""Frames as bytes, against frames written by hand and zlib's CRC."""

import random
import struct
from zlib import crc32

import pytest

from tilewright.fpga.link.protocol import (
    Answer,
    Command,
    Identity,
    ProtocolError,
    Status,
    blocks,
    find_answer,
    pack_answer,
    pack_request,
    request_status,
)

SEED = 12
READ = bytes.fromhex("a5 04 7f 1000 8856341201")      # 16 bytes of memory from 0x1_1234_5688, sequence number 127
ANSWER = bytes.fromhex("5a 04 7f 00 0400")
PAYLOAD = bytes.fromhex("deadbeef")


def crc(data):
    return struct.pack("<I", crc32(data))


def test_crc_is_the_one_that_everybody_has():
    """Its check value, from the catalogues of CRCs, so that a board's and zlib's are the same."""
    assert crc(b"123456789") == bytes.fromhex("2639f4cb")


def test_requests():
    assert pack_request(Command.READ_MEMORY, 127, address=0x112345688, length=16) == READ + crc(READ)
    header = bytes.fromhex("a5 03 00 0400 2000000000")
    assert pack_request(Command.WRITE_REGISTERS, 0, address=0x20, payload=PAYLOAD) == \
        header + crc(header) + PAYLOAD + crc(PAYLOAD)
    header = bytes.fromhex("a5 01 ff 0000 0000000000")
    assert pack_request(Command.IDENTIFY, 255) == header + crc(header)
    header = bytes.fromhex("a5 05 01 0004 fcffffffff")
    assert pack_request(Command.WRITE_MEMORY, 1, address=0xFFFFFFFFFC, payload=bytes(1024))[:14] == header + crc(header)


@pytest.mark.parametrize("status, interrupt, fresh", [(0, False, False), (0x80, True, False), (0x44, False, True)])
def test_answers(status, interrupt, fresh):
    header = ANSWER[:3] + bytes([status]) + ANSWER[4:]
    frame = header + crc(header) + PAYLOAD + crc(PAYLOAD)
    answer = Answer(command=4, sequence=127, status=status & 0x3F, interrupt=interrupt, fresh=fresh, payload=PAYLOAD)
    assert pack_answer(answer) == frame
    assert find_answer(frame) == (answer, len(frame))
    assert find_answer(b"\x00\x5a\xa5" + frame + b"\x5a") == (answer, len(frame) + 3)


def test_an_answer_without_payload_has_one_crc():
    header = bytes.fromhex("5a 05 03 01 0000")
    frame = header + crc(header)
    assert pack_answer(Answer(command=5, sequence=3, status=Status.BAD_CRC)) == frame
    assert find_answer(frame * 2) == (Answer(command=5, sequence=3, status=1), 10)


def test_any_damage_is_seen_and_the_next_answer_found():
    frame = ANSWER + crc(ANSWER) + PAYLOAD + crc(PAYLOAD)
    after = bytes.fromhex("5a 06 80 80 0000")
    after += crc(after)
    for bit in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        answer, end = find_answer(bytes(damaged) + after)
        assert answer == Answer(command=6, sequence=128, status=0, interrupt=True), bit
        assert end == len(frame + after)
    for cut in range(1, len(frame)):
        assert find_answer(frame[:cut] + frame[cut + 1:] + after)[0].command == 6
        assert find_answer(frame[:cut]) == (None, 0), "may still become one"


def test_random_bytes_are_no_answer():
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for _ in range(300):
        noise = rng.randbytes(rng.randrange(1, 100))
        answer, done = find_answer(noise)
        assert answer is None
        assert done == len(noise) or noise[done] == 0x5A and len(noise) - done < 10
    assert find_answer(b"") == (None, 0)


def test_a_length_that_no_board_sends_is_garbage():
    header = bytes.fromhex("5a 04 7f 00 0404")
    assert find_answer(header + crc(header) + bytes(3)) == (None, 13)


def test_identity():
    packed = bytes.fromhex("54574c4b 0100 1000 0000000200000000 00b4c404")
    identity = Identity(beat_bytes=16, memory_bytes=32 << 20, clock_hz=80_000_000)
    assert identity.pack() == packed and Identity.unpack(packed) == identity
    assert Identity.unpack(packed[:4] + b"\x09" + packed[5:] + b"more").version == 9
    for bad in (packed[:-1], b"X" + packed[1:], b""):
        with pytest.raises(ProtocolError, match="magic"):
            Identity.unpack(bad)


@pytest.mark.parametrize("command, address, length, status", [
    (1, 3, 1, 0), (6, 1 << 39, 9, 0), (0, 0, 4, 2), (7, 0, 4, 2),
    (4, 0, 4, 0), (4, 0, 1024, 0), (5, 4, 1020, 0), (4, 4, 1024, 3), (5, 1020, 8, 3), (4, 0, 0, 3), (4, 2, 4, 3),
    (5, 0, 6, 3), (4, 4092, 4, 0), (4, 4096, 4, 4), (5, 1 << 39, 4, 4), (2, 1020, 4, 0), (3, 1024, 4, 4)])
def test_what_a_board_says_to_a_header(command, address, length, status):
    assert request_status(command, address, length, memory_bytes=4096, register_bytes=1024) == status


def test_blocks():
    assert list(blocks(0, 1024)) == [(0, 1024)]
    assert list(blocks(1020, 1032)) == [(1020, 4), (1024, 1024), (2048, 4)]
    assert list(blocks(8, 4)) == [(8, 4)] and list(blocks(1 << 33, 0)) == []
