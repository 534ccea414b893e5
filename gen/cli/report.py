"""``tilewright report``: a page about a run on the simulated accelerator."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .generate import JsonOption
from .output import write_text

__all__ = ["register"]


def report(
    trace: Annotated[Path, typer.Argument(help="File that --trace wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    date: Annotated[str | None, typer.Option(help="Date to show on the page; default: none.")] = None,
    as_json: JsonOption = False,
):
    """Write a page about a run: utilisation, roofline, bytes by tensor, cycles by layer and operation.

    It is one HTML file with everything in it. With --json the figures go to standard output.
    """
    from tilewright.sim.report import read_trace
    from tilewright.sim.report_page import page

    found = read_trace(trace)
    write_text(output, page(found, date=date))
    typer.echo(json.dumps(found.as_json(), indent=2) if as_json else output)


def register(app):
    """Add the command to ``app``."""
    app.command()(report)
