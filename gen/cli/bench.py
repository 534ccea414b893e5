"""``tilewright bench``: cycles, bandwidth and times, measured in co-simulation and held against their goals."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import JsonOption
from .run import NEW_TOKENS, PROMPT, model_and_tokens

__all__ = ["register"]

MODEL = "smollm2-135m"


def bench(
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.")] = Path("build/bench.json"),
    only: Annotated[list[str] | None, typer.Option(help="A benchmark by name; may be repeated.")] = None,
    as_json: JsonOption = False,
):
    """Measure how busy array and bus are kept, and how long simulation and generation take.

    Exit code 1 if a result differs from the golden model's; a goal that is missed is shown, and is no error.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from tilewright.sim.benchmark import BENCHMARKS, CONTEXTS, Workbench

    names = only or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"--only {name}: unknown; allowed are {', '.join(BENCHMARKS)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}; choose another with -o") from None

    measurements = []
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                  TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=len(names))
        workbench = Workbench(folder=Path("build/bench"), new_tokens=NEW_TOKENS,
                              open_model=partial(model_and_tokens, MODEL, None, PROMPT, NEW_TOKENS, max(CONTEXTS)),
                              step=lambda text: bars.update(task, description=text))
        for name in names:
            bars.update(task, description=name)
            function, preset = BENCHMARKS[name]
            measurements += function(workbench, preset)
            bars.advance(task)
    text = json.dumps([measurement.as_json() for measurement in measurements], indent=2)
    output.write_text(text + "\n")
    if as_json:
        typer.echo(text)
    else:
        _show(Console(), measurements)
    return 1 if any(measurement.problems for measurement in measurements) else 0


def _show(console, measurements):
    from rich.table import Table

    table = Table(title="Benchmarks", caption="runs of the generated Verilog, compared with the golden model")
    for column in ("benchmark", "value", "unit", "goal", "kind"):
        table.add_column(column, justify="right" if column in ("value", "goal") else "left", no_wrap=column != "unit")
    for m in measurements:
        colour = {True: "green", False: "red", None: "default"}[m.met]
        goal = "" if m.goal is None else f"{'<=' if m.at_most else '>='} {_number(m.goal)}"
        table.add_row(m.name, f"[{colour}]{'WRONG' if m.problems else _number(m.value)}[/]", m.unit, goal, m.kind)
    console.print(table)
    for m in measurements:
        for problem in m.problems:
            console.print(f"[red]{m.name}: {problem}[/]", highlight=False)
        if m.met is False and m.counters:
            console.print(f"{m.name}: {_spent(m.counters)}", highlight=False)


def _number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _spent(counters):
    """What the runs' cycles went into, as shares of all of them."""
    cycles = sum(run["cycles"] for run in counters)
    shares = {name: sum(run[name] for run in counters) / cycles for name in counters[0] if name != "cycles"}
    return f"{cycles:,} cycles; " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())


def register(app):
    """Add the command to ``app``."""
    app.command()(bench)
