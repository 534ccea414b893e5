"""Definitions and tables: errors against NumPy's own float64 functions, sizes, determinism, refusals."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tilewright.gen import function_report
from tilewright.gen.functions import DEFINITIONS, Definition, _exp, fit, function_tables
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
}


def fp16_operands():
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return x[np.isfinite(x)].astype(np.float32)


def evaluate(name_or_table, x):
    table = name_or_table if isinstance(name_or_table, FunctionTable) else fit(DEFINITIONS[name_or_table])
    return golden.evaluate(golden.table_from(table), np.asarray(x, dtype=np.float32)).astype(np.float64)


def relative(name, x):
    return np.abs(evaluate(name, x) / REFERENCE[name](x.astype(np.float64)) - 1)


def silu_ulps(table):
    """Worst distance from the exact SiLU in FP16 numbers, both rounded to FP16, over all FP16 operands."""
    x = fp16_operands()
    with np.errstate(over="ignore"):
        exact = REFERENCE["silu"](x.astype(np.float64)).astype(np.float16)
    got = evaluate(table, x).astype(np.float16)
    order = [np.where(v < 0, -(v & 0x7FFF), v) for v in (r.view(np.int16).astype(int) for r in (got, exact))]
    return np.abs(order[0] - order[1]).max()


def test_exp_over_fp16():
    x = fp16_operands()
    error = relative("exp", x[(x >= -17.3) & (x <= 11)])
    assert error.max() < 2**-15
    assert error.mean() < 0.0005


def test_silu_over_fp16():
    assert silu_ulps(fit(DEFINITIONS["silu"])) <= 1


@pytest.mark.parametrize("name, e_low, e_high, signs", [
    ("exp", -59, 3, (1, -1)), ("rsqrt", -28, 35, (1,)), ("recip", -32, 31, (1, -1))])
def test_error_over_fp32(name, e_low, e_high, signs):
    rng = np.random.default_rng(SEED)
    n = 300_000
    x = rng.choice(signs, n) * np.ldexp(1 + rng.random(n), rng.integers(e_low, e_high + 1, n))
    x = x.astype(np.float32)
    assert relative(name, x[np.abs(x) < 2.0**(e_high + 1)]).max() < 2**-15


@pytest.mark.slow
@pytest.mark.parametrize("name, sign, e", [("rsqrt", 0, 0), ("rsqrt", 0, 1), ("recip", 0, 0), ("recip", 1, 0),
                                           ("exp", 1, 0), ("exp", 1, 3), ("exp", 0, 3)])
def test_error_over_a_whole_binade(name, sign, e):
    """Every FP32 operand; for rsqrt and recip all other binades use the same coefficients."""
    x = (np.arange(1 << 23, dtype=np.uint32) | np.uint32((e + 127) << 23 | sign << 31)).view(np.float32)
    assert relative(name, x).max() < 2**-15


@pytest.mark.parametrize("name, x, expected", [
    ("exp", [0, -0.0, 1e-30, -1e-30, -17.375, -18, -1e9, -np.inf, 16, 1e9, np.inf],
     [1, 1, 1, 1, 0, 0, 0, 0, np.inf, np.inf, np.inf]),
    ("silu", [0, -0.0, 1e-20, -1e-20, -21, -1e9, -np.inf, 1024, 2**27, np.inf],
     [0, 0, 0, 0, 0, 0, 0, 1024, np.inf, np.inf]),
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


def test_every_function_of_the_configuration_is_defined():
    assert tuple(DEFINITIONS) == FUNCTIONS


def test_sizes():
    tables = function_tables(("exp", "silu", "rsqrt", "recip"))
    assert [t.name for t in tables] == ["exp", "silu", "rsqrt", "recip"]
    sizes = {t.name: len(t.c0) for t in tables}
    assert sum(sizes.values()) <= 1024
    assert sizes["recip"] == 2 * 16, "all binades of a sign share one set of segments"
    assert sizes["rsqrt"] == 2 * 8 + 1, "two sets by the exponent's parity, and one segment for negative operands"
    for table in tables:
        check_table(table)


def test_the_integers_are_the_same_on_every_machine():
    tables = function_tables(("exp", "silu", "rsqrt", "recip"))
    digest = hashlib.sha256(repr(tables).encode()).hexdigest()
    assert digest.startswith("ba710a7d5995e8ed"), "new tables: check their error, then change this digest"


def test_a_smaller_error_takes_more_segments():
    coarse = replace(DEFINITIONS["exp"], error=2**-10)
    assert len(fit(coarse).c0) < 0.6 * len(fit(DEFINITIONS["exp"]).c0)


def test_a_new_function_is_one_definition():
    """Tanh: another formula, other limits, nothing else."""
    tanh = Definition(name="tanh", formula=lambda x: 1 - 2 / (1 + _exp(2 * x)), domain=(-16, 16), below=-1, above=1,
                      e_min=127 - 20, zero=0, error=2**-12)
    table = fit(tanh)
    check_table(table)
    x = np.random.default_rng(SEED).uniform(-20, 20, 100_000).astype(np.float32)
    assert np.abs(evaluate(table, x) / np.tanh(x.astype(np.float64)) - 1).max() < 2**-12


def test_broken_coefficients_are_noticed():
    """Each column of the SiLU table, wrong by 1/8 in the segment of [-1, -2), fails the test of its error."""
    table = fit(DEFINITIONS["silu"])
    segment = table.base[64 + 127 - table.e_min]
    for column, value in (("c0", 1 << 23), ("c1", 1 << 13), ("c2", 1 << 15), ("y", 1)):
        values = list(getattr(table, column))
        values[segment] += value
        assert silu_ulps(FunctionTable(**(vars(table) | {column: tuple(values)}))) > 1


def test_refuses_an_error_out_of_reach():
    with pytest.raises(ValueError, match="exp: an error of 9.31e-10 needs more than 128 segments .*; ask for less"):
        fit(replace(DEFINITIONS["exp"], error=2**-30))


def test_refuses_a_domain_that_ends_within_a_segment():
    with pytest.raises(ValueError, match="needs more than 128 segments from -16.0 to -32.0.*another domain"):
        fit(replace(DEFINITIONS["exp"], domain=(-17.3, 16)))


def test_report(tmp_path):
    function_report.write(tmp_path)
    text = (tmp_path / "functions.md").read_text()
    for name in DEFINITIONS:
        assert f"| {name} |" in text
    page = Path(__file__).parents[2] / "docs" / "functions.md"
    assert text == page.read_text(), "docs/functions.md is out of date: function_report.write(\"docs\")"
    assert (tmp_path / "images" / "function_error.png").stat().st_size > 10_000
    error = function_report.measure(DEFINITIONS["silu"], fit(DEFINITIONS["silu"]))
    assert error.ulps <= 1 and error.worst_normal < 2**-12
