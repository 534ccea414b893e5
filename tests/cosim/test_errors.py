"""The whole accelerator stops cleanly: error code and address, bus idle, nothing written; the next program runs."""

import numpy as np
import pytest

from tilewright.hw.commands import COMMAND_BYTES, Dest, Opcode, ScalarOp, encode
from tilewright.sim.cosim import Job, Run, simulate

PROGRAM = 0x1000          # of the good program, in region 0
BAD = 0x2000              # of the one that fails
REGION = 0x10000
SOURCE, TARGET = 0x0, 0x4000   # in region 2
BYTES = 0x800
START = 20               # cycles from preparing a run to its first cycle, at most


def commands(*encoded):
    return b"".join(word.to_bytes(4, "little") for command in encoded for word in command)


def load(**fields):
    return encode(Opcode.LOAD, **{"region": 2, "offset": SOURCE, "count": BYTES, "rows": 1, "planes": 1} | fields)


def store(**fields):
    return encode(Opcode.STORE, **{"region": 2, "offset": TARGET, "count": BYTES, "rows": 1, "planes": 1,
                                   "wait_load": 0} | fields)


def read(offset, region=2):
    return encode(Opcode.SCALAR, op=ScalarOp.READ, rd=1, region=region, immediate=offset)


END = encode(Opcode.END)
GOOD = commands(load(), store(), END)
SCRATCH_BYTES = 4096  # of micro, at least

CASES = {
    "bad opcode": ((load(), [99] + [0] * 15, store(), END), "BAD_OPCODE", 1),
    "cleared memory": ((load(),), "BAD_OPCODE", 1),
    "no rows": ((load(), load(rows=0), store(), END), "BAD_FIELD", 1),
    "read outside": ((load(), load(offset=REGION - BYTES // 2), store(), END), "READ_RANGE", 1),
    "read of no region": ((load(region=3), store(), END), "READ_RANGE", 0),
    "stream outside": ((encode(Opcode.STREAM, region=2, offset=REGION, k=64, tiles=1), store(), END), "READ_RANGE", 0),
    "write outside": ((load(), store(offset=REGION), END), "WRITE_RANGE", 1),
    "write to a region that is not writable": ((load(), store(region=0, offset=0x8000), END), "WRITE_RANGE", 1),
    "scratchpad range": ((load(scratch=1 << 20), store(), END), "SCRATCHPAD_RANGE", 0),
    "vector range": ((encode(Opcode.VECTOR, n=64, rows=1, valid=64, a=0xFFFF, dest=Dest.FP32), store(wait_vector=0),
                      END), "SCRATCHPAD_RANGE", 0),
    "activation range": ((load(), encode(Opcode.VECTOR, wait_load=0, n=64, rows=1, valid=64, dest=Dest.ACTIVATION,
                                         target=0x8000), store(wait_vector=0), END), "ACTIVATION_RANGE", 1),
    "no such function": ((encode(Opcode.VECTOR, n=4, rows=1, function=15, dest=Dest.FP32), store(wait_vector=0), END),
                         "BAD_FIELD", 0),
    "word outside": ((load(), read(REGION), store(), END), "READ_RANGE", 1),
    "word of no region": ((load(), read(0, region=1), store(), END), "READ_RANGE", 1),
    "word between words": ((load(), read(2), store(), END), "BAD_FIELD", 1),
    "matmul of nothing": ((encode(Opcode.MATMUL, k=0, n=8, rows=1), store(wait_matmul=0), END), "BAD_FIELD", 0),
}


def image(bad):
    """Region 0 with both programs, region 2 behind it with random input and a pattern where nothing may be written."""
    rng = np.random.default_rng(7)
    memory = np.full(3 * REGION, 0xA5, np.uint8)
    memory[PROGRAM:PROGRAM + len(GOOD)] = np.frombuffer(GOOD, np.uint8)
    memory[BAD:BAD + 0x1000] = 0
    memory[BAD:BAD + len(bad)] = np.frombuffer(bad, np.uint8)
    memory[REGION:REGION + BYTES] = rng.integers(0, 256, BYTES, np.uint8)
    return memory


def check(built, simulator, bad, expected, *, memory=None, watchdog=20_000, abort_after=0):
    """The bad program, then the good one; only the good one's output may have changed."""
    config, folder = built("micro", simulator)
    start = image(bad)
    regions = ((0, REGION, False), (0, 0, False), (REGION, REGION, True))
    runs = (Run(BAD, (), regions, abort_after=abort_after), Run(PROGRAM, (), regions))
    job = Job(runs, (0, len(start)), int(config.sha256[:8], 16), memory or {}, watchdog)
    result = simulate(folder, job, start.tobytes())
    (code, address), good = result.errors
    assert (code, address if expected[1] is not None else None, good) == (*expected, None)
    after = start.copy()
    after[REGION + TARGET:REGION + TARGET + BYTES] = start[REGION:REGION + BYTES]
    np.testing.assert_array_equal(result.memory, after)


@pytest.mark.parametrize("case", CASES)
def test_error_ends_the_program_alone(built, case):
    program, code, index = CASES[case]
    check(built, "verilator", commands(*program), (code, BAD + COMMAND_BYTES * index))


@pytest.mark.icarus
@pytest.mark.parametrize("case", ["bad opcode", "write outside"])
def test_error_in_icarus(built, case):
    program, code, index = CASES[case]
    check(built, "icarus", commands(*program), (code, BAD + COMMAND_BYTES * index))


@pytest.mark.parametrize("channel", ["read", "word", "write"])
def test_bus_error(built, channel):
    """One beat in the middle of a transfer, or of a single word, answers SLVERR."""
    at = 0x6000  # in region 2, where only the bad program goes
    program = {"read": (load(offset=at), store(), END), "word": (load(), read(at + BYTES // 2 + 4), store(), END),
               "write": (load(), store(offset=at), END)}[channel]
    memory = {"error_first": REGION + at + BYTES // 2, "error_bytes": 16}
    config, folder = built("micro", "verilator")
    start = image(commands(*program))
    regions = ((0, REGION, False), (0, 0, False), (REGION, REGION, True))
    job = Job((Run(BAD, (), regions), Run(PROGRAM, (), regions)), (0, len(start)), int(config.sha256[:8], 16), memory)
    result = simulate(folder, job, start.tobytes())
    code = "WRITE_RESPONSE" if channel == "write" else "READ_RESPONSE"
    assert result.errors == [(code, BAD + COMMAND_BYTES * (channel != "read")), None]
    outside = np.ones(len(start), bool)
    outside[REGION + at:REGION + at + BYTES] = False
    outside[REGION + TARGET:REGION + TARGET + BYTES] = False
    np.testing.assert_array_equal(result.memory[outside], start[outside])
    np.testing.assert_array_equal(result.memory[REGION + TARGET:REGION + TARGET + BYTES], start[REGION:REGION + BYTES])


def test_watchdog(built):
    """A MATMUL waits for weights that no STREAM brings."""
    program = (encode(Opcode.MATMUL, k=32, n=8, rows=1), encode(Opcode.STORE, wait_matmul=0, count=4, rows=1), END)
    check(built, "verilator", commands(*program), ("WATCHDOG", BAD + COMMAND_BYTES), watchdog=500)


LONG = commands(load(), *[load(), store(), read(SOURCE)] * 10, END)
JERKY = {"read_latency": 60, "stall_ar": 100, "stall_r": 100, "stall_aw": 100, "stall_w": 100, "stall_b": 100}


@pytest.mark.parametrize("after", [START, START + 5, 40, 100, 333, 1000, 1717, 3000])
def test_abort(built, after):
    """Software stops a program while bursts are under way both ways on a slow and jerky bus."""
    check(built, "verilator", LONG, ("ABORTED", None), memory=JERKY, abort_after=after)


def test_abort_before_the_start(built):
    """An abort when nothing runs stops nothing, then or later."""
    config, folder = built("micro", "verilator")
    start = image(LONG)
    regions = ((0, REGION, False), (0, 0, False), (REGION, REGION, True))
    job = Job((Run(BAD, (), regions, abort_after=1),), (0, len(start)), int(config.sha256[:8], 16))
    result = simulate(folder, job, start.tobytes())
    assert result.errors == [None]
    np.testing.assert_array_equal(result.memory[REGION + TARGET:][:BYTES], start[REGION:][:BYTES])
