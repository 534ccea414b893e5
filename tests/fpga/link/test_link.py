"""Both real ends together: SerialTransport over a pseudo-terminal to the bridge in Amaranth's simulator."""

import asyncio
import os
import random
import select
import threading
import tty

import pytest

from tilewright.fpga.link.host import LinkError, SerialTransport

SEED = 21


def together(bench, host, *, noise=lambda data: data, timeout=6, now_and_then=lambda: None):
    """Run ``host(transport)``, a coroutine function, in a thread of its own against the bench's bridge.

    ``now_and_then`` is called in the simulator's thread, the only one that may set signals.
    """
    end, far = os.openpty()
    tty.setraw(far)
    failed = []

    def talk():
        try:
            with SerialTransport(os.ttyname(far), baud=1_000_000, timeout=timeout, quiet=0.3) as link:
                link._line.write_timeout = None     # on a busy machine either end may stand still for seconds
                asyncio.run(host(link))
        except BaseException as error:
            failed.append(error)
    thread = threading.Thread(target=talk)

    async def body(bench):
        thread.start()
        while thread.is_alive():
            if select.select([end], [], [], 0)[0]:
                bench.send(noise(os.read(end, 4096)))
            if bench.answers.received:
                os.write(end, noise(bytes(bench.answers.received)))
                bench.answers.received.clear()
            now_and_then()
            await bench.cycles(20)
    try:
        bench.run(body, greeted=False)
        thread.join()
    finally:
        os.close(end)
        os.close(far)
    if failed:
        raise failed[0]


def check(bench):
    async def host(link):
        assert (link.identity.memory_bytes, link.identity.beat_bytes) == (bench.memory_bytes, bench.width // 8)
        assert link.identity.clock_hz == bench.clock_hz
        rng = random.Random(SEED)
        for at, size in ((0, 4), (900, 700), (2044, 8)):
            data = rng.randbytes(size)
            await link.load(at, data)
            assert bench.memory[at:at + size] == data
            assert await link.fetch(at, size) == data
        for at in (0, 0x3FC):
            await link.write(at, 0x12345678 + at)
            assert await link.read(at) == 0x12345678 + at == bench.registers[at]
        assert bench.registers_written == [(0, 0x12345678), (0x3FC, 0x12345678 + 0x3FC)]
        assert await link.read_words(0, 5) == [bench.registers[4 * i] for i in range(5)]
        with pytest.raises(LinkError, match="refused READ_REGISTERS at 0x100 of 4 bytes with BUS_ERROR"):
            await link.read(bench.unbacked)
    return host


def test_a_clean_line(make_bench):
    bench = make_bench(patience=1500, width=128)
    together(bench, check(bench))


def test_wait(make_bench):
    bench, waited = make_bench(patience=300), []

    async def host(link):
        link._waiting = waited.append
        await link.wait()
        assert len(waited) >= 3
    together(bench, host, now_and_then=lambda: bench.ctx.set(bench.dut.irq, len(waited) >= 3))


@pytest.mark.slow
def test_a_bad_line(make_bench):
    print(f"seed {SEED}")
    rng, bench = random.Random(SEED), make_bench(patience=1500)

    def noise(data):
        out = bytearray()
        for byte in data:
            kind = rng.randrange(1500)
            out += bytes({0: [byte ^ 1 << rng.randrange(8)], 1: [], 2: [byte, byte]}.get(kind, [byte]))
        return bytes(out)
    together(bench, check(bench), noise=noise, timeout=2)
