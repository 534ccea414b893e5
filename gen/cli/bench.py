"""``tilewright bench``: cycles, bandwidth and times, measured in co-simulation and held against their goals."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import JsonOption
from .marked import marked
from .output import check_writable, write_text
from .run import NEW_TOKENS, PROMPT, model_and_tokens

__all__ = ["register"]

MODEL = "smollm2-135m"
BEGIN, END = "<!-- bench: begin -->\n", "<!-- bench: end -->\n"
TOLD, LEAST = 10, 0.001
"""Of what the cycles went into so much is told, at most, and nothing with a smaller share."""


def bench(
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.")] = Path("build/bench.json"),
    only: Annotated[list[str] | None, typer.Option(help="A benchmark by name; may be repeated.")] = None,
    readme: Annotated[Path | None, typer.Option(help="Put the figures between this file's markers.")] = None,
    as_json: JsonOption = False,
):
    """Measure how busy array and bus are kept, and how long simulation and generation take.

    Where a goal is missed it says what the cycles went into; beside the JSON file is a picture (SVG) of that for all
    runs. Exit code 1 if a result differs from the golden model's; a goal that is missed is no error.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from tilewright.sim.benchmark import BENCHMARKS, CONTEXTS
    from tilewright.sim.benchmark_plot import write_plot
    from tilewright.sim.workbench import Workbench

    names = only or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"--only {name}: unknown; allowed are {', '.join(BENCHMARKS)}")
    if readme and only:
        raise UserError("--readme with --only: the table would lose the other benchmarks; leave --only out")
    around = marked(readme, BEGIN, END)
    check_writable(readme)
    check_writable(output)

    measurements = []
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                  TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=len(names))
        workbench = Workbench(folder=Path("build/bench"), new_tokens=NEW_TOKENS, context=max(CONTEXTS),
                              open_model=partial(model_and_tokens, MODEL, None, PROMPT, NEW_TOKENS, max(CONTEXTS)),
                              step=lambda text: bars.update(task, description=text))
        for name in names:
            bars.update(task, description=name)
            function, preset = BENCHMARKS[name]
            measurements += function(workbench, preset)
            bars.advance(task)
    text = json.dumps([measurement.as_json() for measurement in measurements], indent=2)
    write_text(output, text + "\n")
    write_plot(output.with_suffix(".svg"), measurements)
    if readme:
        write_text(readme, around[0] + BEGIN + _markdown(measurements) + END + around[1])
    if as_json:
        typer.echo(text)
    else:
        _show(Console(), measurements)
    return 1 if any(measurement.problems for measurement in measurements) else 0


def _show(console, measurements):
    from rich.table import Table

    table = Table(title="Benchmarks", caption="runs of the generated Verilog, compared with the golden model")
    for column in ("benchmark", "value", "unit", "goal", "kind"):
        table.add_column(column, justify="right" if column in ("value", "goal") else "left",
                         no_wrap=column != "benchmark", overflow="fold")
    for m in measurements:
        colour = {True: "green", False: "red", None: "default"}[m.met]
        table.add_row(m.name, f"[{colour}]{'WRONG' if m.problems else _number(m.value)}[/]", m.unit, _goal(m), m.kind)
    console.print(table)
    for m in measurements:
        for problem in m.problems:
            console.print(f"[red]{m.name}: {problem}[/]", highlight=False)
        if m.met is False and m.spent:
            console.print(f"{m.name}: {_spent(m.spent)}", highlight=False)


def _markdown(measurements):
    """Table of the figures that have a title."""
    lines = ["| what | goal | measured |", "|---|---|---|"]
    for m in measurements:
        if m.title:
            value = "WRONG" if m.problems else _number(m.value)
            lines.append(f"| {m.title} | {_goal(m)} | {value} {m.unit}{', derived' if m.kind == 'derived' else ''} |")
    missed = [f"- {m.title}: {_spent(m.spent)}" for m in measurements if m.title and m.met is False and m.spent]
    if missed:
        lines += ["", "Where the cycles of those went that miss their goal:", "", *missed]
    return "\n".join(lines) + "\n"


def _goal(m):
    return "" if m.goal is None else f"{'<=' if m.at_most else '>='} {_number(m.goal)}"


def _number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _spent(spent):
    """What most of the cycles went into, as shares of all of them."""
    cycles = sum(spent.values())
    most = sorted(spent.items(), key=lambda item: -item[1])[:TOLD]
    return f"{cycles:,} cycles: " + ", ".join(f"{name} {count / cycles:.1%}" for name, count in most
                                              if count >= LEAST * cycles)


def register(app):
    """Add the command to ``app``."""
    app.command()(bench)
