"""``tilewright synth``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import JsonOption

__all__ = ["register"]


def synth(
    targets: Annotated[list[str] | None, typer.Argument(help="Units or presets; all of them if none is named.")] = None,
    budgets: Annotated[Path | None, typer.Option(help="TOML file with the most that each may take.")] = None,
    history: Annotated[Path | None, typer.Option(help="CSV file to which changed figures are appended.")] = None,
    as_json: JsonOption = False,
):
    """Synthesise for Lattice ECP5 and hold the area against its budgets; exit code 1 if one is exceeded."""
    from dataclasses import asdict

    from tilewright.gen import synthesis
    names = targets or list(synthesis.TARGETS)
    for name in names:
        if name not in synthesis.TARGETS:
            raise UserError(f"target {name!r}: unknown; allowed are {', '.join(synthesis.TARGETS)}")
    try:
        limits = synthesis.read_budgets(budgets) if budgets else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{budgets}: cannot be read: {error}") from None
    areas = synthesis.synthesise_all(names, progress=lambda name: typer.echo(f"synthesising {name}", err=True))
    if history:
        synthesis.append_history(history, areas)
    failures = synthesis.over_budget(areas, limits) if budgets else []
    if as_json:
        typer.echo(json.dumps({"areas": {name: asdict(area) for name, area in areas.items()},
                               "over_budget": failures}, indent=2))
    else:
        _print_table(areas, limits)
    for line in failures:
        typer.echo(f"over budget: {line}", err=True)
    raise typer.Exit(1 if failures else 0)


def _print_table(areas, limits):
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table
    table = Table(caption="used / budget; lut = LUT4 + 2 CCU2C + 4 TRELLIS_DPR16X4, dsp = MULT18X18D, bram = DP16KD")
    for column in ("target", "lut", "ff", "dsp", "bram"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for name, area in areas.items():
        limit = limits.get(name, {})
        table.add_row(name, *(f"{value} / {limit[figure]}" if figure in limit else str(value)
                              for figure, value in asdict(area).items()))
    Console().print(table)


def register(app):
    """Add the command to ``app``."""
    app.command()(synth)
