"""``tilewright soak``: the FP16 units over every operand, in a loop of Verilator and C++."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import JsonOption
from .output import check_writable, write_text

__all__ = ["register"]


def soak(
    operations: Annotated[list[str] | None, typer.Argument(help="multiply, add, convert; or all.")] = None,
    blocks: Annotated[int, typer.Option(help="How many of the 65,536 blocks of 65,536 operands or pairs.")] = 65536,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 2,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.")] = Path("build/soak.json"),
    as_json: JsonOption = False,
):
    """FP16 multiply and add over all pairs of operands, FP32 to FP16 over all operands, against the host's arithmetic.

    Each operation is first run with a rounding bug planted, which has to be found. Exit code 1 if it is not, or if the
    operation itself differs anywhere.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from tilewright.sim.soak import BLOCKS, OPERATIONS
    from tilewright.sim.soak import soak as run

    names = operations or list(OPERATIONS)
    for name in names:
        if name not in OPERATIONS:
            raise UserError(f"operation {name!r}: unknown; allowed are {', '.join(OPERATIONS)}")
    if not 1 <= blocks <= BLOCKS:
        raise UserError(f"--blocks {blocks}: must be from 1 to {BLOCKS}")
    if not 1 <= jobs <= blocks:
        raise UserError(f"--jobs {jobs}: must be from 1 to the number of blocks, {blocks}")
    check_writable(output)

    results, failures = [], []
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.1f} %"),
                  TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        for name in names:
            for planted in (True, False):
                task = bars.add_task(name + (" with a planted bug" if planted else ""), total=blocks)
                result = run(name, folder=Path("build/soak"), blocks=blocks, jobs=jobs, planted=planted,
                             progress=lambda done, task=task: bars.update(task, completed=done))
                results.append(result)
                if planted and not result.mismatches:
                    failures.append(f"{name}: the planted bug was not found")
                if not planted:
                    failures += [f"{name}: {line}" for line in result.lines]
    summary = {"results": [asdict(result) for result in results], "failures": failures}
    text = json.dumps(summary, indent=2)
    write_text(output, text + "\n")
    if as_json:
        typer.echo(text)
    else:
        _show(Console(), results)
    for failure in failures:
        typer.echo(failure, err=True)
    raise typer.Exit(1 if failures else 0)


def _show(console, results):
    from rich.table import Table

    table = Table(title="Soak")
    for column in ("operation", "checked", "mismatches", "seconds", "verdict"):
        table.add_column(column, justify="left" if column in ("operation", "verdict") else "right")
    for r in results:
        good = bool(r.mismatches) == r.planted
        verdict = ("found" if good else "NOT FOUND") if r.planted else ("equal" if good else "DIFFERENT")
        table.add_row(r.operation + (", planted bug" if r.planted else ""), f"{r.checked:,}", str(r.mismatches),
                      f"{r.seconds:.1f}", f"[{'green' if good else 'red'}]{verdict}[/]")
    console.print(table)


def register(app):
    """Add the command to ``app``."""
    app.command()(soak)
