"""GEMM programs on the functional machine against the golden matmul."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.compiler.gemm import compile_gemm
from tilewright.gen.configuration import load_preset
from tilewright.gen.errors import UserError
from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Unit
from tilewright.sim.golden import weights
from tilewright.sim.golden.layer import linear
from tilewright.sim.machine import Machine


def run(config, m, k, n, *, seed=3, quantise=weights.quantise):
    """Trace of the run, C and expected C as bit patterns."""
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    x, w = random.normal(size=(m, k)).astype(np.float32), quantise(random.normal(size=(n, k)))
    gemm = compile_gemm(config, w, rows=m)
    machine = Machine(config, function_tables(config.functions))
    machine.regions[0], machine.regions[2] = bytearray(gemm.image), bytearray(random.bytes(gemm.io_size))
    io = np.frombuffer(machine.regions[2], np.uint32)
    io[gemm.x // 4:gemm.c // 4].reshape(m, -1)[:, :k] = x.view(np.uint32)
    machine.run(gemm.program)
    c = io[gemm.c // 4:].reshape(m, -1)[:, :n]
    return machine.trace, c, linear(x, w).view(np.uint32)


@pytest.mark.parametrize("preset, quantise", [
    ("micro", weights.quantise), ("small", weights.quantise), ("medium", weights.quantise),
    ("large", weights.quantise), ("micro", np.float16), ("medium", np.float16)])
@pytest.mark.parametrize("m, k, n", [(1, 32, 4), (17, 100, 53), (40, 33, 150)])
def test_ragged(preset, quantise, m, k, n):
    _, c, expected = run(load_preset(preset), m, k, n, quantise=quantise)
    np.testing.assert_array_equal(c, expected)


def q4_0(w):
    """Without minima."""
    d = (np.abs(w).max(-1, keepdims=True) / 8).astype(np.float16)
    d = np.repeat(d, -(-w.shape[1] // 32), axis=1)
    return weights.Int4Matrix(np.clip(np.rint(w / d[:, :1].astype(np.float32)), -8, 7).astype(np.int8), d, None)


@pytest.mark.parametrize("preset", ["micro", "medium"])
@pytest.mark.parametrize("quantise", [weights.quantise_int4, q4_0])
@pytest.mark.parametrize("m, k, n", [(1, 33, 5), (40, 172, 53)])
def test_int4(preset, quantise, m, k, n):
    _, c, expected = run(load_preset(preset), m, k, n, quantise=quantise)
    np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize("changes", [{"activation_depth": 256, "max_hidden": 256, "max_context": 256},
                                     {"prefetch_beats": 64}, {"scratchpad_bytes": 4096}])
def test_small_buffers(changes):
    _, c, expected = run(replace(load_preset("micro"), **changes), 13, 130, 41)
    np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize("preset", ["small", "medium"])
def test_benchmark_replays_tiles(preset):
    """256 x 576 x 1536: the bus carries far less than a beat a cycle, so that the array can be busy all the time."""
    config = load_preset(preset)
    trace, c, expected = run(config, 256, 576, 1536)
    np.testing.assert_array_equal(c, expected)
    peak = 256 * 576 * 1536 // config.macs
    reads = sum((i.fields["k"] + 2 * i.fields["k"] // 32) * i.fields["tiles"] for i in trace if i.unit == Unit.STREAM)
    assert reads < 0.55 * peak


def test_rows_longer_than_the_scratchpad():
    """A row of 4096 fills half of it: its parts are shorter."""
    _, c, expected = run(load_preset("small"), 5, 4096, 17)
    np.testing.assert_array_equal(c, expected)


def test_one_set_where_two_would_not_share_tiles():
    """Two row groups take each weight once, although the activation buffer then holds but one set of them."""
    config = load_preset("medium")
    trace, c, expected = run(config, 40, 2048, 48)
    np.testing.assert_array_equal(c, expected)
    assert sum(i.unit == Unit.STREAM for i in trace) == 2


@pytest.mark.parametrize("preset, k, changes, message", [
    ("micro", 2000, {}, "k = 2000 needs activation_depth = 2016, 992 more than 1024"),
    ("large", 64, {"scratchpad_bytes": 4096}, "a GEMM needs scratchpad_bytes = 8448, 4352 more than 4096"),
])
def test_refusals(preset, k, changes, message):
    with pytest.raises(UserError, match=message):
        compile_gemm(replace(load_preset(preset), **changes), weights.quantise(np.ones((4, k))), rows=4)


def test_refuses_a_format_that_the_build_lacks():
    with pytest.raises(UserError, match="small: weights in fp16 need it in formats"):
        compile_gemm(load_preset("small"), np.ones((4, 32), np.float16), rows=4)
