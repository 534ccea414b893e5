"""``tilewright report``: a page about a run on the simulated accelerator."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import JsonOption

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
    text = page(found, date=date)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}; choose another with -o") from None
    typer.echo(json.dumps(found.as_json(), indent=2) if as_json else output)


def register(app):
    """Add the command to ``app``."""
    app.command()(report)
