"""The functional machine's INT4 MATMUL, with and without minima, and what it must refuse."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Dest, Format, Opcode, encode
from tilewright.hw.registers import ErrorCode
from tilewright.sim.golden import a8, matmul
from tilewright.sim.golden.weights import Int4Matrix
from tilewright.sim.machine import Machine, MachineError

CONFIG = replace(load_preset("small"), formats=("int8", "int4"))  # 8 lanes, groups of 2
TABLES = function_tables(CONFIG.functions)
SEED = 7
ALL_IDLE = {f"wait_{unit}": 0 for unit in ("matmul", "vector", "load", "store")}
K, N = 45, 11


def command(opcode, **fields):
    return encode(opcode, **ALL_IDLE | ({"valid": 0xFFFF} if opcode == Opcode.VECTOR else {}), **fields)


def activate(rows):
    """Rows of K words at 0 of region 2, into the activation buffer."""
    return [command(Opcode.LOAD, region=2, rows=rows, planes=1, count=184, row_stride=184, scratch_row_stride=184),
            command(Opcode.VECTOR, n=K, rows=rows, a_stride=23, dest=Dest.ACTIVATION, group_stride=64)]


def run(commands, x=None, weights=b"", config=CONFIG):
    m = Machine(config, TABLES)
    program = np.array([*commands, encode(Opcode.END)], "<u4").tobytes().ljust(0x8000, b"\0")
    m.regions[0] = bytearray(program + bytes(weights).ljust(0x8000, b"\0"))
    m.regions[2] = bytearray(8192)
    if x is not None:
        np.frombuffer(m.regions[2], np.float32, len(x) * 46).reshape(-1, 46)[:, :K] = x
    m.run()
    return m


def in_memory(w, lanes=8):
    """Two tiles, a byte at a time."""
    out = bytearray()
    for first in range(0, N, lanes):
        for block in range(0, K, 32):
            end = min(K, block + 32)
            for k in range(block, end, 2):
                for n in range(first, first + lanes):
                    low, high = (int(w.q[n, i]) & 15 if n < N and i < end else 9 for i in (k, k + 1))
                    out.append(low | high << 4)
            for factor in (w.d, w.m):
                if factor is not None:
                    for n in range(first, first + lanes):
                        out += factor[n, block // 32].tobytes() if n < N else b"\x00\x3c"
    return out


@pytest.mark.parametrize("minimum", [1, 0])
def test_matmul(minimum):
    """Five rows in groups of four, the last tile partly used."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    x = rng.normal(0, 2, (5, K)).astype(np.float32)
    q = rng.integers(0, 16, (N, K)).astype(np.int8) - np.int8(0 if minimum else 8)
    d, m = (rng.normal(size=(N, 2)).astype(np.float16) for _ in range(2))
    w = Int4Matrix(q, d, m if minimum else None)
    fields = {"format": Format.INT4, "scaled": 1, "minimum": minimum, "k": K}
    size = 8 * (23 + 4 * (1 + minimum))
    machine = run([*activate(5), command(Opcode.STREAM, region=0, offset=0x8000, tiles=2, tile_stride=size, **fields),
                   command(Opcode.MATMUL, n=N, rows=5, dest=300, dest_stride=10, group_stride=64, **fields)],
                  x, in_memory(w))
    expected = matmul.linear_int4(*a8.quantise(x), w).view(np.uint32)
    for row in range(5):
        np.testing.assert_array_equal(machine.scratchpad.words[600 + 20 * row:600 + 20 * row + N], expected[row])


STREAM = {"region": 0, "offset": 0x8000, "k": K, "tiles": 1, "format": Format.INT4, "scaled": 1}
MATMUL = {"k": K, "n": 8, "rows": 1, "dest": 300, "format": Format.INT4, "scaled": 1}


@pytest.mark.parametrize("stream, multiply, code, message", [
    ({"minimum": 1}, {}, None, "minimum = 0 meets a STREAM with minimum = 1"),
    ({"format": Format.INT8}, {}, None, "format = 2 meets a STREAM with format = 0"),
    ({"format": Format.INT8, "minimum": 1}, {}, ErrorCode.BAD_FIELD, "minimum = 1"),
    ({"scaled": 0, "minimum": 1}, {}, ErrorCode.BAD_FIELD, "scaled = 0"),
    ({}, {"scaled": 0}, ErrorCode.BAD_FIELD, "scaled = 0"),
    ({}, {"format": Format.INT8, "minimum": 1}, ErrorCode.BAD_FIELD, "minimum = 1"),
    ({}, {"format": 3}, ErrorCode.BAD_FIELD, "format = 3"),
])
def test_refuses(stream, multiply, code, message):
    with pytest.raises(MachineError, match=message) as error:
        run([*activate(1), command(Opcode.STREAM, **STREAM | stream), command(Opcode.MATMUL, **MATMUL | multiply)])
    assert error.value.code == code


def test_refuses_int4_where_the_build_lacks_it():
    config = replace(CONFIG, formats=("int8",))
    for commands in ([command(Opcode.STREAM, **STREAM)], [command(Opcode.MATMUL, **MATMUL)]):
        with pytest.raises(MachineError, match="on a build with int8") as error:
            run(commands, config=config)
        assert error.value.code == ErrorCode.BAD_FIELD
