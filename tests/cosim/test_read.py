"""READ on the whole accelerator: pointers that the program has just stored, beside bursts of LOAD and STORE."""

import numpy as np
import pytest

from tilewright.hw.commands import Element, Opcode, ScalarOp, encode
from tilewright.sim.cosim import Job, Run, simulate

REGION = 0x10000
CHAIN, TARGET, BULK = 0x100, 0x4000, 0x8000   # in region 2
ENTRIES, BYTES, BULK_BYTES, BEAT = 20, 64, 0x800, 4
SEED = 9
MEMORIES = {"fast": {}, "jerky": {"read_latency": 30, "write_latency": 25, "stall_ar": 100, "stall_r": 100,
                                  "stall_aw": 100, "stall_w": 100, "stall_b": 100, "seed": SEED}}


def scalar(op, rd, rs, immediate=0, **fields):
    return encode(Opcode.SCALAR, op=op, rd=rd, rs=rs, immediate=immediate, **fields)


def transfer(opcode, **fields):
    return encode(opcode, **{"region": 2, "rows": 1, "planes": 1} | fields)


def program():
    """Follow a list of offsets: each entry is copied to TARGET first and its pointer read there, once it is stored."""
    return [
        scalar(ScalarOp.ADD, 1, 0, CHAIN), scalar(ScalarOp.ADD, 2, 0, ENTRIES), scalar(ScalarOp.ADD, 3, 0, 0),
        transfer(Opcode.LOAD, patch0_word=3, patch0_register=1, count=BYTES, wait_store=0),
        transfer(Opcode.LOAD, offset=BULK, count=BULK_BYTES, scratch=BYTES, wait_store=0),
        transfer(Opcode.STORE, offset=TARGET, patch0_word=3, patch0_register=3, element=Element.WORD, count=BYTES // 4,
                 element_stride=4, wait_load=1),
        transfer(Opcode.STORE, offset=BULK + BULK_BYTES, count=BULK_BYTES, scratch=BYTES, wait_load=0),
        scalar(ScalarOp.READ, 1, 3, TARGET + 8, region=2, wait_store=1),
        scalar(ScalarOp.ADD, 3, 3, BYTES),
        encode(Opcode.BRANCH, condition=0, rs=2, distance=-6 & 0xFFFFFFFF),
        encode(Opcode.END),
    ]


@pytest.mark.parametrize("memory", MEMORIES)
def test_pointers(built, memory):
    print(f"seed {SEED}")
    config, folder = built("micro", "verilator")
    assert config.bus_bytes == BEAT
    rng = np.random.default_rng(SEED)
    start = rng.integers(0, 256, 2 * REGION, np.uint8)
    words = np.array(program(), "<u4").view(np.uint8).ravel()
    start[:len(words)] = words
    data = start[REGION:]
    places = np.concatenate([[CHAIN], CHAIN + BYTES * (1 + rng.permutation(ENTRIES))])
    for at, following in zip(places[:-1], places[1:], strict=True):
        data[at + 8:at + 12] = np.array([following], "<u4").view(np.uint8)
    expected = start.copy()
    after = expected[REGION:]
    after[TARGET:TARGET + ENTRIES * BYTES] = np.concatenate([data[at:at + BYTES] for at in places[:-1]])
    after[BULK + BULK_BYTES:BULK + 2 * BULK_BYTES] = data[BULK:BULK + BULK_BYTES]
    run = Run(0, (), ((0, REGION, False), (0, 0, False), (REGION, REGION, True)))
    result = simulate(folder, Job((run,), (0, len(start)), int(config.sha256[:8], 16), MEMORIES[memory]),
                      start.tobytes())
    assert result.errors == [None]
    np.testing.assert_array_equal(result.memory, expected)
