"""Definitions and tables: errors against NumPy's own float64 functions, sizes, determinism, refusals."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.function_fit import fit
from tilewright.gen.functions import DEFINITIONS, Definition, _erfc, _exp, _tanh, function_tables
from tilewright.hw.config import FUNCTIONS
from tilewright.hw.tables import FunctionTable
from tilewright.hw.vector.function import check_table
from tilewright.sim.golden import functions as golden

SEED = 99
REFERENCE = {
    "exp": np.exp,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "recip": lambda x: 1 / x,
    "gelu_erf": lambda x: x * np.array([math.erfc(-v) for v in x.ravel() / math.sqrt(2)]).reshape(x.shape) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
NAMES = tuple(REFERENCE)


def fp16_operands():
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return x[np.isfinite(x)].astype(np.float32)


def evaluate(name_or_table, x):
    table = name_or_table if isinstance(name_or_table, FunctionTable) else fit(DEFINITIONS[name_or_table])
    return golden.evaluate(golden.table_from(table), np.asarray(x, dtype=np.float32)).astype(np.float64)


def relative(name, x):
    return np.abs(evaluate(name, x) / REFERENCE[name](x.astype(np.float64)) - 1)


def fp16_ulps(name, table, x):
    """Distance from the exact function in FP16 numbers, both results rounded to FP16, for each of ``x``."""
    with np.errstate(over="ignore"):
        exact = REFERENCE[name](x.astype(np.float64)).astype(np.float16)
        got = evaluate(table, x).astype(np.float16)
    order = [np.where(v < 0, -(v & 0x7FFF), v) for v in (r.view(np.int16).astype(int) for r in (got, exact))]
    return np.abs(order[0] - order[1])


@pytest.mark.parametrize("name", NAMES)
def test_within_an_fp16_ulp_for_every_fp16_operand(name):
    x = fp16_operands()
    if name in ("rsqrt", "recip"):
        x = x[x > 0] if name == "rsqrt" else x[x != 0]
    assert len(x) > 31_000
    assert fp16_ulps(name, fit(DEFINITIONS[name]), x).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_relative_error_over_fp16(name):
    """2^-12 wherever the result is a normal FP16 number; for exp down to where FP16 knows zero alone."""
    x = fp16_operands()
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        exact = np.abs(REFERENCE[name](x.astype(np.float64)))
    x = x[(exact >= (2.0**-25 if name == "exp" else 2.0**-14)) & (exact < 65520)]
    error = relative(name, x)
    assert error.max() < 2**-12.9
    assert error.mean() < 0.00005


@pytest.mark.parametrize("name, e_low, e_high, signs", [
    ("exp", -59, 3, (1, -1)), ("rsqrt", -28, 35, (1,)), ("recip", -32, 31, (1, -1))])
def test_error_over_fp32(name, e_low, e_high, signs):
    rng = np.random.default_rng(SEED)
    n = 300_000
    x = rng.choice(signs, n) * np.ldexp(1 + rng.random(n), rng.integers(e_low, e_high + 1, n))
    x = x.astype(np.float32)
    assert relative(name, x[np.abs(x) < 2.0**(e_high + 1)]).max() < (2**-13.1 if name == "exp" else 2**-15)


@pytest.mark.parametrize("name", NAMES[4:])
def test_activations_over_fp32(name):
    """FP32 operands of any size: relative to the result; where that is small, half of FP16's last place."""
    rng = np.random.default_rng(SEED)
    n = 200_000
    x = (rng.choice([-1, 1], n) * np.ldexp(1 + rng.random(n), rng.integers(-100, 26, n))).astype(np.float32)
    x = np.concatenate([x, rng.uniform(-20, 20, n).astype(np.float32)])
    with np.errstate(over="ignore"):
        exact = REFERENCE[name](x.astype(np.float64))
    assert (np.abs(evaluate(name, x) - exact) <= np.maximum(2**-12.9 * np.abs(exact), 2**-25)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name, sign, e", [("rsqrt", 0, 0), ("rsqrt", 0, 1), ("recip", 0, 0), ("recip", 1, 0),
                                           ("exp", 1, 0), ("exp", 1, 3), ("exp", 0, 3)])
def test_error_over_a_whole_binade(name, sign, e):
    """Every FP32 operand; for rsqrt and recip all other binades use the same coefficients."""
    x = (np.arange(1 << 23, dtype=np.uint32) | np.uint32((e + 127) << 23 | sign << 31)).view(np.float32)
    assert relative(name, x).max() < (2**-13.1 if name == "exp" else 2**-15)


@pytest.mark.parametrize("name, x, expected", [
    ("exp", [0, -0.0, 1e-30, -1e-30, -17.5, -18, -1e9, -np.inf, 16, 1e9, np.inf],
     [1, 1, 1, 1, 0, 0, 0, 0, np.inf, np.inf, np.inf]),
    ("silu", [0, -0.0, 1e-20, -1e-20, -21, -1e9, -np.inf, 1024, 2**27, np.inf],
     [0, 0, 0, 0, 0, 0, 0, 1024, np.inf, np.inf]),
    *((name, [0, -0.0, 1e-20, -1e-20, 2**-20, -18, -1e9, -np.inf, 1024, 2**27, np.inf],
       [0, 0, 0, 0, 2**-21, 0, 0, 0, 1024, np.inf, np.inf]) for name in ("gelu_erf", "gelu_tanh", "quick_gelu")),
    ("sigmoid", [0, -0.0, 1e-30, -1e-30, -18, -np.inf, 32, 1e30, np.inf], [0.5, 0.5, 0.5, 0.5, 0, 0, 1, 1, 1]),
    ("tanh", [0, -0.0, 1e-20, 2**-20, -2**-20, 16, 1e30, np.inf, -16, -1e30, -np.inf],
     [0, 0, 0, 2**-20, -2**-20, 1, 1, 1, -1, -1, -1]),
])
def test_exact_values(name, x, expected):
    assert (evaluate(name, x) == expected).all()


@pytest.mark.parametrize("name, x, expected", [
    ("rsqrt", [0, -0.0, -1, -np.inf, 1e-20, np.inf], [2**14] * 5 + [2**-18]),
    ("recip", [0, -0.0, 1e-30, np.inf, -np.inf], [2**32, -2**32, 2**32, 2**-32, -2**-32]),
])
def test_values_at_the_ends_of_the_window(name, x, expected):
    assert np.abs(evaluate(name, x) / expected - 1).max() < 2**-15


@pytest.mark.parametrize("name", DEFINITIONS)
def test_nan(name):
    assert np.isnan(evaluate(name, [np.nan])).all()


def test_own_exp_is_exact_to_two_ulps():
    """math.exp may differ in the last place between machines; the fitter's own may not, and is as good."""
    x = np.random.default_rng(SEED).uniform(-64, 64, 20_000)
    exact = np.array([math.exp(v) for v in x])
    assert (np.abs(_exp(x) - exact) <= 2 * np.spacing(exact)).all()


def test_own_erfc():
    z = np.random.default_rng(SEED).uniform(-25, 25, 20_000)
    exact = np.array([math.erfc(v) for v in z])
    assert (np.abs(_erfc(z) / exact - 1) < 1e-13).all()


def test_own_tanh():
    x = np.random.default_rng(SEED).uniform(-1, 1, 20_000)**9 * 20  # most of them near zero
    exact = np.array([math.tanh(v) for v in x])
    assert (np.abs(_tanh(x) / exact - 1) < 1e-15).all()


def test_every_function_of_the_configuration_is_defined():
    assert tuple(DEFINITIONS) == FUNCTIONS


def test_sizes():
    sizes = {table.name: len(table.c0) for table in function_tables(NAMES)}
    assert sizes["recip"] == 2 * 16, "all binades of a sign share one set of segments"
    assert sizes["rsqrt"] == 2 * 8 + 1, "two sets by the exponent's parity, and one segment for negative operands"
    assert sum(sizes[name] for name in NAMES[:4]) <= 512, "two block RAMs of an ECP5"
    assert sum(sizes.values()) <= 1024, "four of them"
    for table in function_tables(NAMES):
        check_table(table)


def test_common_segments_stand_in_a_table_once():
    """x/2 over all small binades, and 1 or x over all large ones, is one row for each sign."""
    for name in ("gelu_erf", "tanh", "sigmoid", "exp"):
        table = fit(DEFINITIONS[name])
        assert len({table.base[i] for i in range(1, 16)}) == 1
        assert len({table.base[64 + i] for i in range(1, 16)}) == 1


def test_the_integers_are_the_same_on_every_machine():
    digest = hashlib.sha256(repr(function_tables(NAMES)).encode()).hexdigest()
    assert digest.startswith("9319d98221a2dd9b"), "new tables: check their error, then change this digest"


def test_a_smaller_error_takes_more_segments():
    coarse = replace(DEFINITIONS["exp"], error=2**-10)
    assert len(fit(coarse).c0) < 0.6 * len(fit(DEFINITIONS["exp"]).c0)


def test_a_new_function_is_one_definition():
    """The square, or any other: a formula and its limits, nothing else."""
    square = Definition(name="square", text="x^2", formula=lambda x: x * x, domain=(-2.0**10, 2.0**10), below=np.inf,
                        e_min=127 - 20, zero=0, error=2**-14)
    table = fit(square)
    check_table(table)
    x = np.random.default_rng(SEED).uniform(-1000, 1000, 100_000).astype(np.float32)
    assert np.abs(evaluate(table, x) / x.astype(np.float64)**2 - 1).max() < 2**-13.9


def test_broken_coefficients_are_noticed():
    """Each column of the SiLU table, wrong by 1/8 in the segment of [-1, -2), fails the test of its error."""
    table = fit(DEFINITIONS["silu"])
    segment = table.base[64 + 127 - table.e_min]
    for column, value in (("c0", 1 << 23), ("c1", 1 << 13), ("c2", 1 << 15), ("y", 1)):
        values = list(getattr(table, column))
        values[segment] += value
        assert fp16_ulps("silu", FunctionTable(**(vars(table) | {column: tuple(values)})), fp16_operands()).max() > 1


def test_refuses_an_error_out_of_reach():
    with pytest.raises(ValueError, match="exp: an error of 9.31e-10 needs more than 128 segments .*; ask for a larger"):
        fit(replace(DEFINITIONS["exp"], error=2**-30))


def test_refuses_a_domain_that_ends_within_a_segment():
    with pytest.raises(ValueError, match="needs more than 128 segments from -16.0 to -32.0.*another domain"):
        fit(replace(DEFINITIONS["exp"], domain=(-17.3, 16)))
