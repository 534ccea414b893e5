"""The bridge between bytes and buses: every command, what it refuses, and what a bad line or a lost host does to it."""

import random
import struct

import pytest

from tilewright.fpga.link.protocol import Command, Status, request_status

LONG = 10_000    # cycles of patience where nothing goes wrong


async def works(bench, sequence=0x77):
    """The link is clean: IDENTIFY and an access get the right answers."""
    payload = struct.pack("<IHHQI", 0x4B4C5754, 1, bench.width // 8, bench.memory_bytes, bench.clock_hz)
    assert await bench.ask(Command.IDENTIFY, sequence) == (Command.IDENTIFY, sequence, Status.OK, payload)
    answer = await bench.ask(Command.READ_MEMORY, sequence + 1, address=64, length=16)
    assert answer == (Command.READ_MEMORY, sequence + 1, Status.OK, bytes(bench.memory[64:80]))


@pytest.mark.parametrize("width", [128, *(pytest.param(width, marks=pytest.mark.slow) for width in (32, 64))])
def test_memory_in_pieces_of_any_size_and_place(make_bench, width):
    async def body(bench):
        rng, expected = random.Random(3), bytearray(bench.memory)
        pieces = [(0, 4), (1020, 4), (2048, 1024), (1028, 60), (4092, 4), (bench.memory_bytes - 4, 4)]
        pieces += [(at, rng.randrange(4, min(1025 - at % 1024, 80), 4))
                   for at in (rng.randrange(0, bench.memory_bytes, 4) for _ in range(3))]
        for i, (at, count) in enumerate(pieces):
            data = rng.randbytes(count)
            answer = await bench.ask(Command.WRITE_MEMORY, i, address=at, payload=data)
            assert answer == (Command.WRITE_MEMORY, i, Status.OK, b"")
            expected[at:at + count] = data
            assert bench.memory == expected
            beat = width // 8
            assert bench.bursts.pop() == ("write", at // beat * beat, (at + count - 1) // beat - at // beat + 1)
            at, count = rng.choice(pieces)
            answer = await bench.ask(Command.READ_MEMORY, 255 - i, address=at, length=count)
            assert answer == (Command.READ_MEMORY, 255 - i, Status.OK, bytes(expected[at:at + count]))
            assert bench.bursts.pop() == ("read", at // beat * beat, (at + count - 1) // beat - at // beat + 1)
    make_bench(width=width, patience=LONG).run(body)


def test_registers(make_bench):
    async def body(bench):
        for sequence, (at, count) in enumerate([(0, 1), (0x3FC, 1), (0x40, 5), (0x200, 128)]):
            values = [bench.random.getrandbits(32) for _ in range(count)]
            payload = struct.pack(f"<{count}I", *values)
            answer = await bench.ask(Command.WRITE_REGISTERS, sequence, address=at, payload=payload)
            assert answer == (Command.WRITE_REGISTERS, sequence, Status.OK, b"")
            assert bench.registers_written == [(at + 4 * i, value) for i, value in enumerate(values)]
            bench.registers_written.clear()
            answer = await bench.ask(Command.READ_REGISTERS, sequence, address=at, length=4 * count)
            assert answer == (Command.READ_REGISTERS, sequence, Status.OK, payload)
        await works(bench)
        assert not bench.ctx.get(bench.dut.faulty) and bench.ctx.get(bench.dut.linked)
    make_bench(patience=LONG).run(body)


def test_what_the_bus_refuses(make_bench):
    async def body(bench):
        bench.bad = {1024 + 16}
        word = bytes(4)
        for command, options in (
                (Command.READ_MEMORY, {"address": 1024, "length": 64}),
                (Command.WRITE_MEMORY, {"address": 1024, "payload": bytes(64)}),
                (Command.READ_REGISTERS, {"address": bench.unbacked - 4, "length": 12}),
                (Command.WRITE_REGISTERS, {"address": bench.unbacked, "payload": word})):
            await bench.ask(Command.IDENTIFY, 0)
            assert not bench.ctx.get(bench.dut.faulty)
            assert await bench.ask(command, 9, **options) == (command, 9, Status.BUS_ERROR, b"")
            assert bench.ctx.get(bench.dut.faulty)
        bench.bursts.clear()
        bench.registers_written.clear()
        for address in (bench.memory_bytes, bench.memory_bytes + 4096, 1 << 32, (1 << 40) - 4):
            for command in (Command.READ_MEMORY, Command.WRITE_MEMORY):
                options = {"payload": word} if command == Command.WRITE_MEMORY else {"length": 4}
                assert await bench.ask(command, 3, address=address, **options) == (command, 3, Status.BUS_ERROR, b"")
        for address in (1024, 1 << 39):
            assert (await bench.ask(Command.READ_REGISTERS, 3, address=address, length=4))[2] == Status.BUS_ERROR
            answer = await bench.ask(Command.WRITE_REGISTERS, 3, address=address, payload=word)
            assert answer[2] == Status.BUS_ERROR
        assert not bench.bursts and not bench.registers_written
        await works(bench)
    make_bench().run(body)


def test_lengths_and_commands_that_are_refused(make_bench):
    async def body(bench):
        for address, length in ((0, 0), (0, 3), (0, 6), (2, 4), (0, 1028), (4, 1024), (1020, 8), (0, 65532),
                                (0, 0x8004)):
            for command in (Command.READ_MEMORY, Command.WRITE_MEMORY, Command.READ_REGISTERS, Command.WRITE_REGISTERS):
                answer = await bench.ask(command, 4, address=address, length=length)
                assert answer == (command, 4, Status.BAD_LENGTH, b"")
        for command in (0, 7, 8, 0x15, 0x81, 255):
            assert await bench.ask(command, 200, length=4) == (command, 200, Status.BAD_COMMAND, b"")
        assert not bench.bursts and not bench.registers_written
        await works(bench)
        # A payload behind a header that was refused is skipped.
        bench.send(bench.request(Command.WRITE_MEMORY, 5, address=1020, payload=bench.random.randbytes(12)))
        assert await bench.answer() == (Command.WRITE_MEMORY, 5, Status.BAD_LENGTH, b"")
        await bench.sent()
        await bench.cycles(2 * bench.patience)
        await works(bench)
    make_bench().run(body)


def test_headers_are_judged_as_the_model_does(make_bench):
    async def body(bench):
        rng, seen = random.Random(17), set()
        for i in range(32):
            command = rng.choice((1, 2, 4, 4, 5, 9))
            length = rng.choice((0, 4, 8, 40, 1024, 1028, rng.randrange(1 << 16)))
            address = rng.choice((0, 8, 1016, 1020, 1024, bench.memory_bytes - 1024, bench.memory_bytes - 8,
                                  bench.memory_bytes, rng.getrandbits(40) & ~3, rng.randrange(bench.memory_bytes)))
            status = request_status(command, address, length, memory_bytes=bench.memory_bytes, register_bytes=1024)
            if command == Command.WRITE_MEMORY and status != Status.BAD_LENGTH:
                continue      # a payload would follow
            if command == Command.READ_REGISTERS and address <= bench.unbacked < address + length:
                continue      # the bus would refuse it
            seen.add((command, status))
            answer = await bench.ask(command, i, address=address, length=length)
            assert answer[:3] == (command, i, status), (address, length)
        assert len(seen) >= 8
    make_bench(patience=LONG).run(body)


def test_a_payload_with_a_wrong_bit_changes_nothing(make_bench):
    async def body(bench):
        for command, address in ((Command.WRITE_REGISTERS, 64), (Command.WRITE_MEMORY, 2048)):
            before = bytes(bench.memory)
            bench.registers_written.clear()
            whole = bench.request(command, 6, address=address, payload=bench.random.randbytes(32))
            for bit in (8 * 14, 8 * 30 + 3, 8 * len(whole) - 1):
                damaged = bytearray(whole)
                damaged[bit // 8] ^= 1 << bit % 8
                bench.send(damaged)
                assert await bench.answer() == (command, 6, Status.BAD_CRC, b"")
            assert bench.memory == before and not bench.registers_written and not bench.bursts
            bench.send(whole)
            assert await bench.answer() == (command, 6, Status.OK, b"")
        await works(bench)
    make_bench().run(body)


def test_a_header_with_a_wrong_bit_is_not_answered(make_bench):
    async def body(bench):
        before, whole = bytes(bench.memory), bench.request(Command.WRITE_MEMORY, 6, address=2048, payload=bytes(16))
        for bit in range(0, 8 * 14, 13):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            bench.send(damaged)
            await bench.sent()
            await bench.no_answer(2 * bench.patience)
        assert bench.memory == before and not bench.bursts
        await works(bench)
    make_bench().run(body)


@pytest.mark.parametrize("cut", [1, 9, 10, 13, 14, 17, 200, 277])
def test_a_frame_that_ends_early_is_forgotten_after_silence(make_bench, cut):
    async def body(bench):
        before = bytes(bench.memory)
        whole = bench.request(Command.WRITE_MEMORY, 6, address=1024, payload=bench.random.randbytes(260))
        bench.send(whole[:cut])
        await bench.sent()
        await bench.no_answer(2 * bench.patience)
        assert bench.memory == before
        assert bench.ctx.get(bench.dut.faulty)
        await works(bench)
    make_bench().run(body)


def test_a_frame_that_pauses_for_less_is_taken(make_bench):
    async def body(bench):
        whole = bench.request(Command.WRITE_MEMORY, 6, address=1024, payload=bytes(range(8)))
        for byte in whole:
            bench.send([byte])
            await bench.sent()
            await bench.cycles(bench.patience - 20)
        assert await bench.answer() == (Command.WRITE_MEMORY, 6, Status.OK, b"")
        assert bench.memory[1024:1032] == bytes(range(8))
    make_bench().run(body)


def test_noise_between_frames(make_bench):
    async def body(bench):
        for length in (1, 13, 150):
            noise = bytes(bench.random.choice((0xA5, 0x5A, 0, 255, bench.random.randrange(256))) for _ in range(length))
            bench.send(noise)
            await bench.sent()
            await bench.cycles(2 * bench.patience)
            await works(bench)
        # Without silence at least the one after the next is taken.
        bench.send(b"\xa5" + bench.request(Command.IDENTIFY, 1) + bench.request(Command.IDENTIFY, 2))
        assert (await bench.answer())[1] == 2
    make_bench().run(body)


def test_lost_and_inserted_bytes_in_a_row_of_frames(make_bench):
    async def body(bench):
        frames = [bench.request(Command.WRITE_MEMORY, i, address=64 * i, payload=bench.random.randbytes(64))
                  for i in range(12)]
        line = bytearray(b"".join(frames))
        del line[2 * len(frames[0]) + 40]
        line.insert(7 * len(frames[0]) + 30, 0x11)
        bench.send(line)
        await bench.sent()
        await bench.cycles(2 * bench.patience)
        told = []
        while (answer := bench.answers.take()) is not None:
            told.append(answer[1:3])
        good = [sequence for sequence, status in told if status == Status.OK]
        assert set(good) >= {0, 1, 4, 5, 6, 9, 10, 11} and (2, Status.BAD_CRC) in told
        for i in good:
            assert bench.memory[64 * i:64 * i + 64] == frames[i][14:78]
        await works(bench)
    make_bench().run(body)


def test_a_register_write_repeated_is_done_once(make_bench):
    async def body(bench):
        frame = bench.request(Command.WRITE_REGISTERS, 7, address=32, payload=bytes(4))
        refused = bench.request(Command.WRITE_REGISTERS, 8, address=bench.unbacked, payload=bytes(4))
        for i, (sent, status, written) in enumerate([
                (frame, Status.OK, 1), (frame, Status.OK, 0), (frame, Status.OK, 0),
                (refused, Status.BUS_ERROR, 1), (refused, Status.BUS_ERROR, 0),
                (frame, Status.OK, 1),                                                    # another was between
                (bench.request(Command.IDENTIFY, 7), Status.OK, 0), (frame, Status.OK, 1),   # a new host
                (bench.request(Command.READ_MEMORY, 7, length=4), Status.OK, 0), (frame, Status.OK, 1)]):
            bench.registers_written.clear()
            bench.send(sent)
            assert (await bench.answer())[2] == status, i
            assert len(bench.registers_written) == written, i
    make_bench().run(body)


def test_answers_tell_of_a_reset_until_identify(make_bench):
    async def body(bench):
        assert not bench.ctx.get(bench.dut.linked)
        for _ in range(2):
            assert (await bench.ask(Command.READ_REGISTERS, 1, length=4))[2] == Status.OK | 0x40
        assert (await bench.ask(0, 1, length=4))[2] == Status.BAD_COMMAND | 0x40
        await works(bench)
        assert bench.ctx.get(bench.dut.linked)
    make_bench().run(body, greeted=False)


def test_wait(make_bench):
    async def body(bench):
        ctx, interrupt = bench.ctx, 0x80
        bench.send(bench.request(Command.WAIT, 1))
        await bench.no_answer(bench.patience)
        assert await bench.answer(limit=100) == (Command.WAIT, 1, Status.OK, b"")
        bench.send(bench.request(Command.WAIT, 2))
        await bench.no_answer(bench.patience // 2)
        ctx.set(bench.dut.irq, 1)
        assert await bench.answer(limit=100) == (Command.WAIT, 2, Status.OK | interrupt, b"")
        assert (await bench.ask(Command.WAIT, 3))[2] == Status.OK | interrupt
        assert (await bench.ask(Command.READ_MEMORY, 4, length=3))[2] == Status.BAD_LENGTH | interrupt
        ctx.set(bench.dut.irq, 0)
        # A host that is there again does not wait for what the one before it asked.
        bench.send(bench.request(Command.WAIT, 5))
        await bench.no_answer(bench.patience // 4)
        bench.send(bench.request(Command.READ_REGISTERS, 6, address=4, length=4))
        assert await bench.answer(limit=60) == (Command.WAIT, 5, Status.OK, b"")
        assert (await bench.answer())[:3] == (Command.READ_REGISTERS, 6, Status.OK)
    make_bench().run(body)


@pytest.mark.parametrize("command", [Command.READ_MEMORY, Command.WRITE_MEMORY, Command.WRITE_REGISTERS])
def test_a_bus_that_does_not_answer(make_bench, command):
    async def body(bench):
        bench.stuck, data = True, bench.random.randbytes(64)
        options = {"length": 64} if command == Command.READ_MEMORY else {"payload": data}
        for i in range(3):
            assert await bench.ask(command, 1, address=0x40, **options) == (command, 1, Status.BUSY, b""), i
        answer = await bench.ask(Command.IDENTIFY, 2) if command != Command.WRITE_REGISTERS else None
        assert answer is None or answer[2] == Status.OK
        other = Command.WRITE_REGISTERS if command == Command.WRITE_MEMORY else Command.WRITE_MEMORY
        assert (await bench.ask(other, 1 if answer is None else 3, address=0, payload=bytes(64)))[2] == Status.BUSY
        bench.stuck = False
        await bench.cycles(2000)
        assert bench.memory[0:64] != bytes(64)
        answer = await bench.ask(command, 1, address=0x40, **options)
        assert answer[:3] == (command, 1, Status.OK)
        if command == Command.WRITE_REGISTERS:
            assert len(bench.registers_written) == 16, "carried out once, though asked for five times"
        elif command == Command.WRITE_MEMORY:
            assert bench.memory[64:128] == data
        else:
            assert answer[3] == bench.memory[64:128]
        await works(bench)
    make_bench().run(body)


def test_a_host_that_goes_in_the_middle_of_a_load(make_bench):
    async def body(bench):
        line = b"".join(bench.request(Command.WRITE_MEMORY, i, address=256 * i, payload=bench.random.randbytes(256))
                        for i in range(3))
        bench.send(line[:700])
        await bench.sent()
        await bench.cycles(2 * bench.patience)
        assert [(await bench.answer())[1:3] for _ in range(2)] == [(0, Status.OK), (1, Status.OK)]
        assert bench.memory[:512] == line[14:270] + line[288:544]
        await works(bench)
    make_bench(pace=4, patience=1500).run(body)


def test_pipelined_writes_keep_up_with_the_line(make_bench):
    """Frames without a gap, a byte every 8 cycles, the answers on a line of the same rate: nothing is lost."""
    async def body(bench):
        data = bench.random.randbytes(1024)
        bench.send(b"".join(bench.request(Command.WRITE_MEMORY, i, address=256 * i, payload=data[256 * i:][:256])
                            for i in range(4)))
        for i in range(4):
            assert await bench.answer(limit=40_000) == (Command.WRITE_MEMORY, i, Status.OK, b"")
        assert bench.memory[:1024] == data and not bench.ctx.get(bench.dut.faulty)
    make_bench(pace=8, width=32, patience=LONG).run(body)


@pytest.mark.slow
def test_bytes_that_find_no_room_are_lost_and_nothing_else(make_bench):
    async def body(bench):
        bench.stuck = True
        bench.send(bench.request(Command.READ_MEMORY, 0, length=4) + bytes(600))
        assert (await bench.answer())[2] == Status.BUSY
        bench.stuck = False
        await bench.sent()
        await bench.cycles(2 * bench.patience)
        assert bench.ctx.get(bench.dut.faulty)
        await works(bench)
    make_bench(pace=1, patience=2000).run(body)


def test_parameters_are_checked():
    from tilewright.fpga.link.bridge import HostBridge
    good = {"address_width": 32, "width": 64, "memory_bytes": 1 << 25, "clock_hz": 80_000_000}
    for name, value in (("address_width", 41), ("width", 16), ("memory_bytes", 1000), ("memory_bytes", 1 << 33),
                        ("patience", 1)):
        with pytest.raises(ValueError, match=name):
            HostBridge(**good | {name: value})
