"""VECTOR commands of the functional machine: masks, argmax and FP16 results, against plain NumPy."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Dest, Opcode, Reduce, decode, encode
from tilewright.hw.registers import ErrorCode
from tilewright.sim.machine import Machine, MachineError
from tilewright.sim.vector_unit import vector

SEED = 31
CONFIG = replace(load_preset("medium"), formats=("int8", "fp16"))
TABLES = function_tables(CONFIG.functions)


@pytest.fixture
def rng():
    print(f"seed {SEED}")
    return np.random.default_rng(SEED)


def machine(x=None, config=CONFIG):
    """A machine whose scratchpad holds the rows x, one behind the other in 8 groups each, all else unwritten."""
    m = Machine(config, TABLES)
    m.argmax = None
    if x is not None:
        m.write_rows(8 * np.arange(len(x)), np.asarray(x, np.float32).view(np.uint32))
    return m


def run(m, *, n, rows=1, **fields):
    command = encode(Opcode.VECTOR, **dict(n=n, rows=rows, a_stride=8, valid=n, target=64, target_stride=8, result=200,
                                           result_stride=1) | fields)
    vector(m, decode(command)[1])


def words(m, group, n):
    return m.scratchpad.words[4 * group:][:n].copy()


def test_window_in_a_ring(rng):
    x = rng.standard_normal((4, 11)).astype(np.float32)
    m = machine(x)
    run(m, n=11, rows=4, valid=10, first=6, ring=11, valid_step=1, dest=Dest.FP32, reduce=Reduce.MAX)
    for r, kept in enumerate(([6, 7, 8, 9], [7, 8, 9, 10], [8, 9, 10, 0], [9, 10, 0, 1])):
        expected = np.zeros(11, np.float32)
        expected[kept] = x[r, kept]
        assert words(m, 64 + 8 * r, 11).tolist() == expected.view(np.uint32).tolist()
        assert words(m, 200 + r, 2).tolist() == [x[r, kept].max().view(np.uint32), 0]


def test_argmax_carries_on(rng):
    x = rng.standard_normal((3, 20)).astype(np.float32)
    x[0, 7] = x[2, 3] = 9
    m = machine(x)
    for r in range(3):
        run(m, n=20, a=8 * r, index=100 + 20 * r, carry=int(r > 0), reduce=Reduce.ARGMAX, result=200 + r)
    assert [words(m, 200 + r, 4).tolist() for r in range(3)] == [[107, 0, 0, 0]] * 3
    run(m, n=20, rows=3, index=5, reduce=Reduce.ARGMAX)
    assert [words(m, 200 + r, 1)[0] for r in range(3)] == [5 + row.argmax() for row in x]
    with pytest.raises(MachineError, match="no ARGMAX of one row"):
        run(m, n=20, carry=1, reduce=Reduce.ARGMAX)


def test_half(rng):
    x = (rng.standard_normal((2, 30)) * 1000).astype(np.float32)
    expected = x.astype(np.float16).view(np.uint16)
    m = machine(x)
    run(m, n=30, rows=2, half=1, dest=Dest.FP32)
    assert [words(m, 64 + 8 * r, 30).tolist() for r in range(2)] == expected.tolist()
    run(m, n=30, rows=2, half=1, dest=Dest.ACTIVATION, target=64, target_stride=0)
    low, high = (m.activation.q[part:4:2, 64:94].view(np.uint8).astype(int) for part in (0, 1))
    assert (low + 256 * high).tolist() == expected.tolist()
    assert (m.activation.written[:4, 64:94] == 2).all() and (m.activation.written != 0).sum() == 4 * 30


INT8_ONLY = replace(CONFIG, formats=("int8",), fp16_rows=0)
FP16_ONLY = replace(CONFIG, formats=("fp16",), pe_dsps=0)
ACTIVATION, PACKED = Dest.ACTIVATION, Dest.PACKED


@pytest.mark.parametrize("config, fields, code", [
    (INT8_ONLY, dict(half=1, dest=Dest.FP32), ErrorCode.BAD_FIELD),
    (CONFIG, dict(half=1, dest=PACKED), ErrorCode.BAD_FIELD),
    (FP16_ONLY, dict(dest=PACKED), ErrorCode.BAD_FIELD),
    (FP16_ONLY, dict(dest=ACTIVATION), ErrorCode.BAD_FIELD),
    (CONFIG, dict(ring=16, valid_step=2), ErrorCode.BAD_FIELD),
    (CONFIG, dict(ring=7), ErrorCode.BAD_FIELD),
    (CONFIG, dict(half=1, dest=ACTIVATION, target_stride=2), ErrorCode.ACTIVATION_RANGE),
    (CONFIG, dict(dest=ACTIVATION, target_stride=16), ErrorCode.ACTIVATION_RANGE),
    (CONFIG, dict(ring=8, first=8), None),
    (CONFIG, dict(ring=8, valid=0), None),
    (CONFIG, dict(first=9), None),
])
def test_refuses(config, fields, code):
    with pytest.raises(MachineError) as refused:
        run(machine(np.ones((1, 8)), config), n=8, **fields)
    assert refused.value.code == code
