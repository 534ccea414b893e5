"""``tilewright function``, the reported figures, the generated pages."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tilewright.gen import function_report as report
from tilewright.gen.function_fit import fit
from tilewright.gen.functions import DEFINITIONS, function_tables, with_error
from tilewright.gen.synthesis import synthesise
from tilewright.hw.vector.function import TableFunction

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def command(command):
    """Function arguments -> exit code, standard output, standard error of ``tilewright function``."""
    return partial(command, "function")


def test_pages_are_what_is_generated():
    assert (DOCS / "functions.md").read_text() == report.page(), "run `make docs`"
    text = (DOCS / "numerics.md").read_text()
    assert text == report.with_table(text, report.compact_table()), "run `make docs`"
    assert all(f"| {name} |" in text for name in DEFINITIONS)


def test_pages_show_a_plot_of_each_function():
    page = (DOCS / "functions.md").read_text()
    for name in DEFINITIONS:
        assert f"(images/function_{name}.png)" in page
        assert 5_000 < (DOCS / "images" / f"function_{name}.png").stat().st_size < 60_000


def test_write_replaces_only_what_is_generated(tmp_path):
    (tmp_path / "numerics.md").write_text("before\n" + report.MARKERS[0] + "\nold\n" + report.MARKERS[1] + "\nafter\n")
    report.write(tmp_path)
    text = (tmp_path / "numerics.md").read_text()
    assert text.startswith("before\n<!--") and text.endswith("-->\nafter\n") and "old" not in text
    assert (tmp_path / "functions.md").read_text() == (DOCS / "functions.md").read_text()
    assert len(list((tmp_path / "images").glob("function_*.png"))) == len(DEFINITIONS)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_an_error_in_ulps_is_kept(name):
    """The coarsest table: one FP16 ulp for every operand, of fewer segments than the default's."""
    definition = with_error(DEFINITIONS[name], "1ulp")
    table = fit(definition)
    assert report.measure(definition, table).ulps == 1
    assert len(table.c0) < len(fit(DEFINITIONS[name]).c0)


def test_measured_figures():
    """Worst and mean relative error of recip, from its table by hand."""
    definition = DEFINITIONS["recip"]
    table = fit(definition)
    error = report.measure(definition, table)
    x = np.arange(0x400, 0x7000, dtype=np.uint16).view(np.float16).astype(np.float64)  # 1/x a normal FP16 number
    w = np.frexp(x)[1] - 1 + 127 - table.e_min
    segment = np.array(table.base)[w] + ((np.frexp(x)[0] * 2 - 1) * 16).astype(int)
    u = (np.frexp(x)[0] * 2 - 1) * 16 % 1
    c0, c1, c2, y = (np.array(column)[segment] for column in (table.c0, table.c1, table.c2, table.y))
    value = (c0 * 2.0**-26 + u * (c1 + u * c2) * 2.0**-16) * 2.0**(np.array(table.exponent)[w] + y)
    relative = value * x - 1
    assert np.abs(relative).max() == pytest.approx(error.worst, rel=0.3)
    assert error.ulps == 1 and error.exact > 0.99
    assert report.measure(definition, replace(table, c0=tuple(c + (1 << 17) for c in table.c0))).ulps > 1


def test_bands_cover_the_window():
    table = fit(DEFINITIONS["gelu_tanh"])
    bands = report.bands(table)
    for sign in "+-":
        own = [band for band in bands if band.sign == sign]
        assert own[0].low == 2.0**-37 and own[-1].high == 2.0**27
        assert all(a.high == b.low and a.k != b.k for a, b in zip(own, own[1:], strict=False))
    assert max(band.k for band in bands) == max(table.log2_segments)


@pytest.mark.parametrize("text, error", [("2^-14", 2**-14), ("1e-4", 1e-4), ("0.001", 1e-3), (".5e-3", 5e-4),
                                         ("2^-12.5", 2**-12.5)])
def test_requested_errors(text, error):
    asked = with_error(DEFINITIONS["silu"], text)
    assert asked.error == pytest.approx(error) and asked.least == DEFINITIONS["silu"].least
    assert with_error(DEFINITIONS["exp"], text).least == 0


def test_command_shows_table_error_and_cost(command, tmp_path):
    plot = tmp_path / "out.png"
    code, out, _ = command("gelu_tanh", "--error", "1ulp", "--plot", str(plot))
    assert code == 0
    out = " ".join(out.split())
    assert "at most 1 ulp" in out and "error asked for: 1ulp" in out
    assert re.search(r"\d+ segments, [\d,]+ bits, 3 block RAMs of an ECP5", out)
    assert plot.read_bytes().startswith(b"\x89PNG") and plot.stat().st_size > 5_000


def test_command_json(command, tmp_path):
    plot = tmp_path / "out.svg"
    code, out, _ = command("tanh", "--error", "2^-12", "--json", "--plot", str(plot))
    described = json.loads(out)
    assert code == 0 and described["name"] == "tanh" and described["error"] == 2**-12
    assert described["measured"]["fp16_ulps"] == 1 and described["measured"]["worst_relative"] < 2**-11.9
    assert described["cost"]["segments"] == len(fit(with_error(DEFINITIONS["tanh"], "2^-12")).c0)
    assert b"<svg" in plot.read_bytes()


def test_command_lists(command):
    code, out, _ = command()
    assert code == 0 and all(name in out for name in DEFINITIONS)
    code, out, _ = command("--json")
    assert code == 0 and [row["name"] for row in json.loads(out)] == list(DEFINITIONS)


@pytest.mark.parametrize("arguments, message", [
    (["gelu"], "function 'gelu': unknown; allowed are exp, silu,"),
    (["exp", "--error", "1u"], "error '1u': must be like 1ulp, 2^-14 or 1e-4"),
    (["exp", "--error", "0ulp"], "between 2^-30 and 1/8"),
    (["exp", "--error", "0.2"], "between 2^-30 and 1/8"),
    (["exp", "--error", "2^-25"], "needs more than 128 segments"),
    (["exp", "--plot", "out.gif"], "must end in .png, .svg, .pdf"),
    (["exp", "--plot", "/nowhere/out.png"], "cannot be written"),
    (["--error", "1ulp"], "need the name of a function"),
])
def test_mistakes_are_told_in_one_line(command, arguments, message):
    code, out, err = command(*arguments)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("names", [("gelu_tanh",), tuple(DEFINITIONS)[:4], tuple(DEFINITIONS)[:7], tuple(DEFINITIONS)])
def test_cost_is_what_synthesis_gives(names):
    tables = function_tables(names)
    area = synthesise(TableFunction(tables=tables), name="function")
    assert area.bram == report.cost(tables).block_rams and area.dsp == 2 and area.lut < 420
