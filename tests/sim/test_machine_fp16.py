"""The functional machine's FP16 MATMUL, alone and beside INT8, and what it must refuse."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Dest, Format, Opcode, encode
from tilewright.hw.registers import ErrorCode
from tilewright.sim.golden import a8, matmul
from tilewright.sim.machine import Machine, MachineError

CONFIG = replace(load_preset("small"), rows=4, pe_dsps=0, formats=("int8", "fp16"), fp16_rows=2)  # 8 lanes, groups of 2
ALONE = replace(CONFIG, formats=("fp16",))
TABLES = function_tables(CONFIG.functions)
SEED = 6
ALL_IDLE = {f"wait_{unit}": 0 for unit in ("matmul", "vector", "load", "store")}


def command(opcode, **fields):
    return encode(opcode, **ALL_IDLE | ({"valid": 0xFFFF} if opcode == Opcode.VECTOR else {}), **fields)


def activate(rows, k, *, target=0, half=1, **fields):
    """Rows of k words at 0 of region 2, into the activation buffer."""
    return [command(Opcode.LOAD, region=2, rows=1, planes=1, count=4 * rows * k),
            command(Opcode.VECTOR, **{"n": k, "rows": rows, "a_stride": k // 2, "dest": Dest.ACTIVATION, "half": half,
                                      "target": target} | fields)]


def stream(k, tiles=1, **fields):
    return command(Opcode.STREAM, **{"region": 0, "offset": 0x8000, "k": k, "tiles": tiles, "tile_stride": 8 * k,
                                    "format": Format.FP16} | fields)


def multiply(k, n, **fields):
    return command(Opcode.MATMUL, **{"format": Format.FP16, "k": k, "n": n, "rows": 1, "dest": 300} | fields)


def run(commands, io, weights=b"", config=CONFIG):
    m = Machine(config, TABLES)
    program = np.array([*commands, encode(Opcode.END)], "<u4").tobytes().ljust(0x8000, b"\0")
    m.regions[0] = bytearray(program + bytes(weights).ljust(0x8000, b"\0"))
    m.regions[2] = bytearray(io)
    m.run()
    return m


@pytest.fixture
def operands():
    """x float32 [3, 46], w float16 [4 * 3, 46] with w's tiles of 4 outputs in the order of memory."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    x, w = rng.normal(0, 2, (3, 46)).astype(np.float32), rng.normal(size=(12, 46)).astype(np.float16)
    return x, w, w.reshape(3, 4, 46).transpose(0, 2, 1).tobytes()


@pytest.mark.parametrize("config", [CONFIG, ALONE], ids=["both", "alone"])
def test_matmul(operands, config):
    """3 rows in groups of 2; three tiles of 4 outputs, the last one partly used."""
    x, w, weights = operands
    m = run([*activate(3, 46, group_stride=128), stream(46, 3),
             multiply(46, 11, rows=3, group_stride=128, dest_stride=10)], x.tobytes(), weights, config)
    expected = matmul.linear_fp16(x.astype(np.float16), w[:11]).view(np.uint32)
    for row in range(3):
        np.testing.assert_array_equal(m.scratchpad.words[600 + 20 * row:611 + 20 * row], expected[row])


def test_int8_in_the_same_run(operands):
    """The same beats as 8 INT8 weights each, with A8 activations of four rows apart from the FP16 ones."""
    x, w, weights = operands
    m = run([*activate(2, 46), *activate(3, 46, target=256, half=0), stream(46), multiply(46, 4, rows=2, dest_stride=8),
             stream(46, format=Format.INT8),
             multiply(46, 8, rows=3, format=Format.INT8, activation=256, dest=400, dest_stride=8)],
            x.tobytes(), weights)
    bytes_of_tile = np.frombuffer(weights, np.int8, 8 * 46).reshape(46, 8).T
    expected = matmul.linear(*a8.quantise(x), bytes_of_tile).view(np.uint32)
    np.testing.assert_array_equal(m.scratchpad.words[800:848].reshape(3, 16)[:, :8], expected)
    expected = matmul.linear_fp16(x[:2].astype(np.float16), w[:4]).view(np.uint32)
    np.testing.assert_array_equal(m.scratchpad.words[600:632].reshape(2, 16)[:, :4], expected)


@pytest.mark.parametrize(("commands", "code", "message"), [
    ([stream(46), multiply(46, 4, scaled=1)], ErrorCode.BAD_FIELD, "scaled = 1"),
    ([stream(46), multiply(46, 4, activation=8)], ErrorCode.BAD_FIELD, "not a multiple"),
    ([stream(46), multiply(46, 4, activation=4064)], ErrorCode.ACTIVATION_RANGE, "indices 4064"),
    ([stream(46), multiply(46, 5)], None, "needs 1 tiles more"),
    ([stream(46), multiply(46, 4, rows=2)], None, "FP16 activations from 0 are read, but were not all written"),
    ([stream(46, format=Format.INT8), multiply(46, 4, format=Format.INT8)], None, "INT8 activations from 0 are read"),
    ([*activate(1, 46, half=0), stream(46), multiply(46, 4)], None, "FP16 activations from 0 are read"),
    ([*activate(1, 46, half=0, target_stride=1), stream(46), multiply(46, 4)], None, "FP16 activations from 0"),
    ([stream(1500), multiply(1500, 4, rows=3)], ErrorCode.BAD_FIELD, "3 rows replay tiles of 1500 beats"),
])
def test_refuses(operands, commands, code, message):
    """With one FP16 row written: its bytes are those of INT8 rows 0 and 1."""
    with pytest.raises(MachineError, match=message) as error:
        run([*activate(1, 46), *commands], operands[0].tobytes(), operands[2])
    assert error.value.code == code


@pytest.mark.parametrize(("config", "format"), [
    (replace(CONFIG, formats=("int8",), fp16_rows=0), Format.FP16), (ALONE, Format.INT8)])
def test_refuses_a_format_that_the_build_lacks(config, format):
    with pytest.raises(MachineError) as error:
        run([stream(46), multiply(46, 4, format=format)], b"", config=config)
    assert error.value.code == ErrorCode.BAD_FIELD
