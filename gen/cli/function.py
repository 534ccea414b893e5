"""``tilewright function``: a table function for a requested error: its table, its error, its cost."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import JsonOption

__all__ = ["register"]

PLOTS = ("png", "svg", "pdf")


def function(
    name: Annotated[str | None, typer.Argument(help="A function; without one, all are listed.")] = None,
    error: Annotated[str | None, typer.Option(help="Error to be met, as 1ulp (of FP16), 2^-14 or 1e-4.")] = None,
    plot: Annotated[Path | None, typer.Option(help="File for a plot of the error: .png, .svg or .pdf.")] = None,
    as_json: JsonOption = False,
):
    """Show a function's table for a requested error, the error measured over all FP16 operands, and its cost."""
    from tilewright.gen import function_report as report
    from tilewright.gen.function_fit import fit
    from tilewright.gen.functions import DEFINITIONS, with_error

    if name is None:
        if error or plot:
            raise UserError("--error and --plot need the name of a function: " + ", ".join(DEFINITIONS))
        _list(as_json)
        return
    if name not in DEFINITIONS:
        raise UserError(f"function {name!r}: unknown; allowed are {', '.join(DEFINITIONS)}")
    if plot and plot.suffix[1:].lower() not in PLOTS:
        raise UserError(f"--plot {plot}: must end in .{', .'.join(PLOTS)}")
    try:
        definition = with_error(DEFINITIONS[name], error) if error else DEFINITIONS[name]
        table = fit(definition)
    except ValueError as problem:
        raise UserError(str(problem)) from None
    measured = report.measure(definition, table)
    if plot:
        try:
            report.plot(definition, measured, plot, file_format=plot.suffix[1:].lower())
        except OSError as problem:
            raise UserError(f"--plot {plot}: cannot be written: {problem.strerror}; choose another file") from None
    description = _describe(definition, table, measured, error, plot)
    if as_json:
        typer.echo(json.dumps(description, indent=2))
    else:
        _show(definition, description, report.power)


def _describe(definition, table, measured, requested, plot):
    """All that the command tells, as JSON has it."""
    from dataclasses import asdict

    import numpy as np

    from tilewright.gen import function_report as report
    return {
        "name": definition.name, "function": definition.text, "requested": requested,
        "error": definition.error, "least": definition.least,
        "domain": [None if np.isinf(end) else end for end in definition.domain],
        "bands": [asdict(band) | {"segments_per_binade": 1 << band.k} for band in report.bands(table)],
        "measured": {"operands": len(measured.x), "worst_relative": measured.worst, "mean_relative": measured.mean,
                     "fp16_ulps": measured.ulps, "share_equal_in_fp16": measured.exact},
        "cost": asdict(report.cost((table,))),
        "plot": str(plot) if plot else None,
    }


def _show(definition, description, power):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{definition.name} = {definition.text}",
                  caption="binades of equally many segments; the table holds equal segments once")
    for column in ("sign", "from", "to", "segments a binade", "segments in the table"):
        table.add_column(column, justify="right" if column != "sign" else "left")
    for band in description["bands"]:
        table.add_row(band["sign"], power(band["low"]), power(band["high"]), str(band["segments_per_binade"]),
                      str(band["rows"]))
    console = Console(highlight=False)
    console.print(table)
    measured, cost = description["measured"], description["cost"]
    asked = description["requested"] or "its default"
    console.print(f"error asked for: {asked}: {power(description['error'])} of the result"
                  + (f", results below {power(description['least'])} counting as that" if description["least"] else ""))
    console.print(f"measured over the FP16 operands: worst {power(measured['worst_relative'])}, "
                  f"mean {100 * measured['mean_relative']:.5f} %; rounded to FP16 at most {measured['fp16_ulps']} ulp "
                  f"off, and equal for {100 * measured['share_equal_in_fp16']:.1f} %")
    console.print(f"cost alone in a lookup unit: {cost['segments']} segments, {cost['bits']:,} bits, "
                  f"{cost['block_rams']} block RAMs of an ECP5")
    if description["plot"]:
        console.print(f"plot: {description['plot']}")


def _list(as_json):
    from tilewright.gen.function_fit import fit
    from tilewright.gen.function_report import power
    from tilewright.gen.functions import DEFINITIONS

    rows = [{"name": d.name, "function": d.text, "error": d.error, "segments": len(fit(d).c0)}
            for d in DEFINITIONS.values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    table = Table()
    for column in ("name", "function", "error", "segments"):
        table.add_column(column, justify="right" if column == "segments" else "left", no_wrap=column != "function")
    for row in rows:
        table.add_row(row["name"], row["function"], power(row["error"]), str(row["segments"]))
    Console().print(table)


def register(app):
    """Add the command to ``app``."""
    app.command()(function)
