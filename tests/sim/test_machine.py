"""The functional machine: each command against golden operations or plain NumPy, and everything it must refuse."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.hw.commands import NO_WAIT, Condition, Dest, Element, Opcode, Operand, Reduce, ScalarOp, encode
from tilewright.hw.registers import ErrorCode
from tilewright.sim.golden import a8, functions, matmul, vector
from tilewright.sim.machine import Machine, MachineError

CONFIG = replace(load_preset("small"), rows=2, pe_dsps=0)  # 8 lanes, groups of 2 words
TABLES = function_tables(CONFIG.functions)
SEED = 5
ALL_IDLE = {f"wait_{unit}": 0 for unit in ("stream", "matmul", "vector", "load", "store")}


def command(opcode, *, waits=ALL_IDLE, **fields):
    """Words of a command that waits for everything unless told otherwise."""
    if opcode == Opcode.VECTOR:
        fields = {"valid": 0xFFFF} | fields
    return encode(opcode, **waits, **fields)


def load(group, data_offset, groups, **fields):
    return command(Opcode.LOAD, **{"region": 2, "offset": data_offset, "rows": 1, "planes": 1, "count": 8 * groups,
                                   "scratch": 8 * group} | fields)


def stream(k=32, tiles=1, **fields):
    return command(Opcode.STREAM, waits={}, region=0, offset=0x8000, k=k, tiles=tiles, tile_stride=8 * k, **fields)


def multiply(k=32, n=8, **fields):
    return command(Opcode.MATMUL, **{"waits": ALL_IDLE | {"wait_stream": NO_WAIT}, "k": k, "n": n, "rows": 1,
                                     "dest": 300} | fields)


def machine(commands, io=b"", weights=b"", *, end=True):
    """A machine with the program at 0, ``weights`` at 0x8000 of region 0 and ``io`` at the start of region 2."""
    words = [*commands, *([encode(Opcode.END)] if end else [])]
    program = np.array(words, "<u4").tobytes().ljust(0x8000, b"\0")
    result = Machine(CONFIG, TABLES)
    result.regions[0] = bytearray(program + bytes(weights).ljust(0x8000, b"\0"))
    result.regions[1], result.regions[2] = bytearray(0x1000), bytearray(bytes(io).ljust(0x4000, b"\0"))
    return result


def scratch(m, group, words):
    return m.scratchpad.words[2 * group:2 * group + words].copy()


@pytest.fixture
def random():
    print(f"seed {SEED}")
    return np.random.default_rng(SEED)


def floats(random, *shape):
    return random.normal(0, 2, size=shape).astype(np.float32)


# Sequencer.

@pytest.mark.parametrize("op, a, b, expected", [
    (ScalarOp.ADD, 0xFFFFFFFF, 2, 1), (ScalarOp.SUB, 1, 2, 0xFFFFFFFF), (ScalarOp.MUL, 0x10001, 0x10001, 0x20001),
    (ScalarOp.SHL, 3, 31, 0x80000000), (ScalarOp.SHR, 0x80000000, 31, 1), (ScalarOp.AND, 0xFF0, 0x3C, 0x30),
    (ScalarOp.MIN, 0xFFFFFFFF, 7, 7),
])
def test_scalar(op, a, b, expected):
    m = machine([command(Opcode.SCALAR, op=op, rd=9, rs=1, rt=2, immediate=b - 5 & 0xFFFFFFFF)])
    m.run(arguments=(a, 5))
    assert m.registers[9] == expected


def test_loop_counts_and_patches_add_registers():
    m = machine([command(Opcode.SCALAR, op=ScalarOp.ADD, rd=5, rs=5, immediate=3, patch0_word=3, patch0_register=2),
                 command(Opcode.BRANCH, condition=Condition.LOOP, rs=1, distance=0xFFFFFFFF),
                 command(Opcode.BRANCH, condition=Condition.ALWAYS, distance=2), [0] * 16])
    m.run(arguments=(4, 10))
    assert m.registers[5] == 4 * 13 and m.registers[1] == 0


def read(offset, *, region=2, waits=ALL_IDLE):
    return command(Opcode.SCALAR, waits=waits, op=ScalarOp.READ, rd=9, rs=1, rt=2, region=region,
                   immediate=offset & 0xFFFFFFFF)


def test_read(random):
    io = random.bytes(64)
    m = machine([read(-8)], io)
    m.run(arguments=(40, 12))
    assert m.registers[9] == int.from_bytes(io[44:48], "little")


@pytest.mark.parametrize("offset, region, code", [
    (2, 2, ErrorCode.BAD_FIELD), (0x4000, 2, ErrorCode.READ_RANGE), (0x1FFC, 3, ErrorCode.READ_RANGE),
    (0, 7, ErrorCode.READ_RANGE),
])
def test_read_refuses(offset, region, code):
    """Region 3 ends within a beat: hardware reads whole beats, so its last word cannot be read."""
    m = machine([read(offset, region=region)])
    m.regions[3] = bytearray(0x2004)
    with pytest.raises(MachineError) as error:
        m.run(arguments=(4, 0xFFFFFFFC) if offset != 0x1FFC else (4, 0))
    assert error.value.code == code


def test_read_waits_for_the_store_of_its_word():
    io = np.arange(10, 14, dtype="<u4").tobytes()
    store = command(Opcode.STORE, region=2, offset=8, count=2, rows=1, planes=1, scratch=0, element=Element.WORD,
                    element_stride=4)
    for offset, waits, expected in ((12, ALL_IDLE, 11), (4, {}, 11), (12, {}, None)):
        m = machine([load(0, 0, 1), store, read(offset, waits=waits)], io)
        if expected is None:
            with pytest.raises(MachineError, match="READ reads region 2 at 12, which STORE at offset 0x40 writes"):
                m.run()
        else:
            m.run()
            assert m.registers[9] == expected


# Units.

def test_load_and_store_rows_and_planes(random):
    """2 planes of 3 rows of 2 beats, with gaps on both sides; 13 of 16 bytes come back."""
    data = random.bytes(0x1000)
    sides = {"rows": 3, "planes": 2, "row_stride": 40, "plane_stride": 200}
    m = machine([load(0, 64, 2, **sides, scratch_row_stride=24, scratch_plane_stride=80),
                 command(Opcode.STORE, region=1, offset=8, count=13, scratch=0, **sides, scratch_row_stride=24,
                         scratch_plane_stride=80)], data)
    m.run()
    expected = bytearray(0x1000)
    for plane in range(2):
        for row in range(3):
            at = plane * 200 + row * 40
            expected[8 + at:8 + at + 13] = data[64 + at:64 + at + 13]
            assert scratch(m, 10 * plane + 3 * row, 4).tobytes() == data[64 + at:64 + at + 16]
    assert m.regions[1] == expected


@pytest.mark.parametrize("element, width, step", [(Element.BYTE, 1, 1), (Element.HALF, 2, 4), (Element.WORD, 4, 4)])
def test_store_elements(random, element, width, step):
    data = random.bytes(64)
    m = machine([load(0, 0, 8), command(Opcode.STORE, region=1, offset=16, element=element, count=5, element_stride=12,
                                        rows=2, row_stride=100, scratch=4, scratch_row_stride=20, planes=1)], data)
    m.run()
    expected = bytearray(0x1000)
    for row in range(2):
        for i in range(5):
            at, source = 16 + 100 * row + 12 * i, 4 + 20 * row + step * i
            expected[at:at + width] = data[source:source + width]
    assert m.regions[1] == expected


def test_vector_operands_function_and_reduction(random):
    """silu(a * row - stream) * immediate, its sum, with one row masked."""
    a, c, b = floats(random, 3, 6), floats(random, 6), floats(random, 3)
    io = np.zeros((16, 2), np.float32)
    io[:9].reshape(3, 6)[:], io[9:12].ravel()[:], io[12:15, 0] = a, c, b
    m = machine([load(0, 0, 16), command(
        Opcode.VECTOR, n=6, rows=3, a=0, a_stride=3, b_kind=Operand.ROW, b=12, b_stride=1, c_kind=Operand.STREAM, c=9,
        c_negate=1, d_kind=Operand.IMMEDIATE, d_immediate=int(np.float32(0.3).view(np.uint32)), function=2,
        reduce=Reduce.SUM, result=20, result_stride=0xFFFF, dest=Dest.FP32, target=30, target_stride=4,
        valid=4, valid_step=1)], io.tobytes())
    m.run()
    table = functions.table_from(TABLES[1])
    assert table.name == "silu"
    t3, t4 = vector.apply(a, b[:, None], c, np.float32(0.3), c_negate=True, table=table, valid=[4, 5, 6])
    for row in range(3):
        np.testing.assert_array_equal(scratch(m, 30 + 4 * row, 6), t4[row].view(np.uint32))
        assert list(scratch(m, 20 - row, 2)) == [vector.sum_rows(t3)[row].view(np.uint32), 0]


def test_vector_swap_and_maximum(random):
    a = floats(random, 2, 8)
    m = machine([load(0, 0, 8), command(Opcode.VECTOR, n=8, rows=2, a=0, a_stride=4, swap=1, reduce=Reduce.MAX,
                                        result=10, result_stride=1, dest=Dest.FP32, target=20,
                                        target_stride=4)], a.tobytes())
    m.run()
    np.testing.assert_array_equal(scratch(m, 20, 16), a.reshape(2, 4, 2)[..., ::-1].ravel().view(np.uint32))
    np.testing.assert_array_equal(m.scratchpad.words[20:24:2], a.max(axis=1).view(np.uint32))


@pytest.mark.parametrize("row_scale, scale_fp32", [(0, 0), (1, 1)])
def test_vector_packed(random, row_scale, scale_fp32):
    a = floats(random, 2, 42)
    m = machine([load(0, 0, 42), command(
        Opcode.VECTOR, n=42, rows=2, a=0, a_stride=21, dest=Dest.PACKED, row_scale=row_scale, scale_fp32=scale_fp32,
        target=50, target_stride=6, scale=70, scale_stride=1)], a.tobytes())
    m.run()
    q, code = a8.quantise(a, block=None if row_scale else 32)
    for row in range(2):
        assert scratch(m, 50 + 6 * row, 12).tobytes()[:42] == q[row].tobytes()
        scales = a8.scale(code).view(np.uint32) if scale_fp32 else a8.scale_fp16(code).view(np.uint16)
        assert list(scratch(m, 70 + row, code.shape[1])) == list(scales[row])


def quantise_rows(rows, k):
    """Commands that bring rows of k FP32 words at 0 of region 2 into the activation buffer, two rows in each 128."""
    result = [load(0, 0, rows * k // 2)]
    for first in range(0, rows, 2):
        result.append(command(Opcode.VECTOR, n=k, rows=min(2, rows - first), a=first * k // 2, a_stride=k // 2,
                              dest=Dest.ACTIVATION, target=64 * first))
    return result


@pytest.mark.parametrize("scaled", [0, 1])
def test_stream_and_matmul(random, scaled):
    """3 rows in groups of 2, k of one block and a half, 2 tiles with a gap, the second partly used."""
    rows, k, n = 3, 48, 13
    x, w = floats(random, rows, k), random.integers(-128, 128, (16, k), dtype=np.int8)
    d = random.normal(size=(16, 2)).astype(np.float16)
    stride = 8 * (k + 4 * scaled) + 64
    weights = bytearray(2 * stride)
    for tile in range(2):
        at = tile * stride
        for j in range(k):
            weights[at:at + 8] = w[8 * tile:8 * tile + 8, j].tobytes()
            at += 8
            if scaled and j in (31, 47):
                weights[at:at + 16] = d[8 * tile:8 * tile + 8, j // 32].tobytes()
                at += 16
    m = machine([*quantise_rows(rows, k),
                 command(Opcode.STREAM, region=0, offset=0x8000, scaled=scaled, k=k, tiles=2, tile_stride=stride),
                 *(multiply(k, count, rows=rows, scaled=scaled, group_stride=128, dest=dest, dest_stride=10)
                   for count, dest in ((8, 300), (n - 8, 304)))], x.tobytes(), weights)
    m.run()
    expected = matmul.linear(*a8.quantise(x), w[:n], d[:n] if scaled else None)
    for row in range(rows):
        np.testing.assert_array_equal(scratch(m, 300 + 10 * row, n), expected[row].view(np.uint32))


# Refusals.

VECTOR = {"n": 2, "rows": 1}


@pytest.mark.parametrize("code, at, refused", [
    (ErrorCode.BAD_OPCODE, 64, [0] * 16),
    (ErrorCode.BAD_OPCODE, 64, [9] + [0] * 15),
    (ErrorCode.BAD_FIELD, 64, command(Opcode.SCALAR, op=9)),
    (ErrorCode.BAD_FIELD, 64, command(Opcode.VECTOR, n=2, rows=0)),
    (ErrorCode.BAD_FIELD, 64, command(Opcode.VECTOR, **VECTOR, function=5)),
    (ErrorCode.BAD_FIELD, 64, command(Opcode.VECTOR, **VECTOR, dest=Dest.ACTIVATION, target=8)),
    (ErrorCode.BAD_FIELD, 64, load(0, 4, 1)),
    (ErrorCode.READ_RANGE, 64, load(0, 0, 1, region=5)),
    (ErrorCode.BAD_FIELD, 64, command(Opcode.STREAM, region=0, k=0, tiles=1)),
    (ErrorCode.READ_RANGE, 64, load(0, 0x4000, 1)),
    (ErrorCode.READ_RANGE, 64, load(0, 0, 1, rows=2, row_stride=0xFFFFFFF8)),
    (ErrorCode.READ_RANGE, 64, command(Opcode.STREAM, region=0, offset=0xFFF8, k=2, tiles=1)),
    (ErrorCode.READ_RANGE, 0x40040, command(Opcode.BRANCH, condition=Condition.ALWAYS, distance=0x1000)),
    (ErrorCode.WRITE_RANGE, 64, command(Opcode.STORE, region=0, rows=1, planes=1, count=8)),
    (ErrorCode.WRITE_RANGE, 64, command(Opcode.STORE, region=1, offset=0xFF8, rows=1, planes=1, count=9)),
    (ErrorCode.SCRATCHPAD_RANGE, 64, load(4096, 0, 1)),
    (ErrorCode.SCRATCHPAD_RANGE, 64, command(Opcode.VECTOR, n=2, rows=2, a=0, a_stride=4096)),
    (ErrorCode.ACTIVATION_RANGE, 64, command(Opcode.VECTOR, **VECTOR, dest=Dest.ACTIVATION, target=4096)),
    (ErrorCode.ACTIVATION_RANGE, 64, command(Opcode.VECTOR, **VECTOR, dest=Dest.ACTIVATION, target_stride=2)),
    (ErrorCode.WATCHDOG, 64, command(Opcode.BRANCH, condition=Condition.ALWAYS, distance=0)),
    (None, 64, command(Opcode.VECTOR, n=4, rows=1)),                    # second group never written
    (None, 64, command(Opcode.VECTOR, n=2, rows=1, a=1)),
    (None, 64, command(Opcode.STORE, region=1, rows=1, planes=1, count=9)),
    (None, 64, command(Opcode.MATMUL, k=2, n=1, rows=1)),               # nothing streamed
    (None, 128, command(Opcode.STREAM, region=0, k=2, tiles=1)),         # left over at END
])
def test_refuses(code, at, refused):
    m = machine([load(0, 0, 1), refused])
    with pytest.raises(MachineError) as error:
        m.run(limit=100)
    assert (error.value.code, error.value.offset) == (code, at)


@pytest.mark.parametrize("message, commands", [
    ("scaled = 1 meets a STREAM with scaled = 0", [stream(), multiply(scaled=1)]),
    ("k = 32 meets a STREAM with k = 64", [stream(64), multiply()]),
    ("needs 1 tiles more", [stream(), multiply(n=9)]),
    ("activations from 64 are read", [stream(), multiply(activation=64)]),
    ("4 STREAM commands are already ahead", [stream()] * 5),
    ("no room in the prefetch buffer: dead-lock", [stream(tiles=33), multiply(waits=ALL_IDLE)]),
    ("3 rows replay tiles of 2000 beats", [stream(2000), multiply(2000, rows=3)]),
])
def test_refuses_streams_out_of_step(message, commands):
    m = machine([*quantise_rows(2, 64), *commands], np.ones((2, 64), np.float32).tobytes())
    with pytest.raises(MachineError, match=message):
        m.run()


def test_refuses_swap_where_a_group_holds_no_pair():
    m = Machine(load_preset("micro"), TABLES)
    m.regions[0] = bytearray(np.array([command(Opcode.VECTOR, n=2, rows=1, swap=1)], "<u4").tobytes())
    with pytest.raises(MachineError) as error:
        m.run()
    assert error.value.code == ErrorCode.BAD_FIELD


def test_what_an_earlier_run_left_counts_as_unwritten():
    m = machine([load(0, 0, 1), command(Opcode.VECTOR, n=2, rows=1, dest=Dest.FP32, target=9), encode(Opcode.END),
                 command(Opcode.VECTOR, n=2, rows=1, a=9)])
    m.run()
    with pytest.raises(MachineError, match="never written"):
        m.run(3 * 64)


# Hazards: the same program with a wait, and without.

VECTOR_TO_SCRATCH = {"n": 2, "rows": 1, "a": 0, "dest": Dest.FP32, "target": 8}


ACTIVATE = {"rows": 1, "a": 0, "dest": Dest.ACTIVATION}
LOAD = {"region": 2, "count": 8, "rows": 1, "planes": 1}


@pytest.mark.parametrize("wait, first, opcode, fields, behind", [
    pytest.param("wait_load", [], Opcode.VECTOR, VECTOR_TO_SCRATCH, [], id="read what is loaded"),
    pytest.param("wait_vector", [command(Opcode.VECTOR, **VECTOR_TO_SCRATCH)], Opcode.LOAD, LOAD | {"scratch": 0}, [],
                 id="overwrite what is read"),
    pytest.param("wait_vector", [command(Opcode.VECTOR, **VECTOR_TO_SCRATCH)], Opcode.LOAD, LOAD | {"scratch": 64}, [],
                 id="write what is written"),
    pytest.param("wait_vector", [stream(), command(Opcode.VECTOR, n=32, **ACTIVATE)],
                 Opcode.MATMUL, {"k": 32, "n": 8, "rows": 1, "dest": 300}, [], id="multiply what is quantised"),
    pytest.param("wait_store", [command(Opcode.VECTOR, n=1, **ACTIVATE), command(
        Opcode.STORE, region=0, offset=0x8003, rows=1, planes=1, count=1, element=Element.BYTE)],
                 Opcode.STREAM, {"region": 0, "offset": 0x8000, "k": 1, "tiles": 1}, [multiply(1, 1)],
                 id="stream what is stored"),
])
def test_hazards(wait, first, opcode, fields, behind):
    for count in (0, NO_WAIT):
        m = machine([load(0, 0, 16), *first, command(opcode, waits={wait: count}, **fields), *behind])
        m.writable = (0,)
        if count:
            with pytest.raises(MachineError, match=f"{opcode.name} .* may not have finished"):
                m.run()
        else:
            m.run()


def test_counts_of_waits():
    """A wait for at most one unfinished LOAD covers the first of two, not the second."""
    for group, refused in ((0, False), (1, True)):
        m = machine([load(0, 0, 1), command(Opcode.LOAD, waits={}, region=2, count=8, rows=1, planes=1, scratch=8),
                     command(Opcode.VECTOR, waits={"wait_load": 1}, n=2, rows=1, a=group)])
        if refused:
            with pytest.raises(MachineError, match="VECTOR reads scratchpad at 1, which LOAD at offset 0x40 writes"):
                m.run()
        else:
            m.run()


def test_a_stream_is_finished_when_its_matmul_is():
    """The STORE waits for the MATMUL that took the last beat; the STREAM itself is not waited for."""
    for waits, refused in (({"wait_matmul": 0, "wait_load": 0}, False), ({"wait_load": 0}, True)):
        m = machine([*quantise_rows(1, 32), stream(), multiply(),
                     command(Opcode.STORE, waits=waits, region=0, offset=0x8000, rows=1, planes=1, count=8)])
        m.writable = (0,)
        if refused:
            with pytest.raises(MachineError, match="STORE writes region 0 at .*STREAM"):
                m.run()
        else:
            m.run()
