"""``tilewright build`` and ``tilewright boards``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.cli.generate import ConfigOption, JsonOption
from tilewright.gen.errors import ToolError, UserError

__all__ = ["register", "BoardOption"]

BoardOption = Annotated[str, typer.Option("--board", help="As `tilewright boards` lists them.")]


def build(
    board: BoardOption,
    config: ConfigOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write into; build/BOARD if not "
                                                                       "given.")] = None,
    tools: Annotated[str, typer.Option(help="auto, yowasp or native: whose place and route; auto takes the user's own "
                                            "where it is new enough.")] = "auto",
    history: Annotated[Path | None, typer.Option(help="CSV file to which changed figures are appended.")] = None,
    as_json: JsonOption = False,
):
    """Build a board's bitstream with open tools, and a report of it; exit code 1 where timing is not met."""
    from tilewright.fpga import build as builder
    from tilewright.fpga.boards import find_board
    from tilewright.fpga.report import append_history
    from tilewright.fpga.tools import SOURCES
    from tilewright.gen.cli.output import check_writable
    from tilewright.gen.cli.progress import Progress
    from tilewright.gen.configuration import read_configuration
    chosen = find_board(board)
    if tools not in SOURCES:
        raise UserError(f"--tools {tools!r}: unknown; allowed are {', '.join(SOURCES)}")
    configuration = read_configuration(config) if config else chosen.load_configuration()
    folder = output or Path("build") / board
    check_writable(history)
    check_writable(folder, is_folder=True)
    progress = Progress()

    def tell(text):
        progress.update(f"{board}: {text}")
        progress.line(f"{board}: {text}")

    progress.start(board)
    try:
        report = builder.build(chosen, configuration, folder, tools=tools, progress=tell)
    finally:
        progress.stop()
    if history:
        append_history(history, report)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(report, folder)
    if not report["timing_met"]:
        missed = {name: clock for name, clock in report["clocks"].items() if not clock["met"]}
        raise ToolError("timing is not met: " + (", ".join(
            f"clock {name} reaches {clock['mhz']} of {clock['constraint_mhz']} MHz" for name, clock in missed.items())
            or "no clock was constrained") + f"; the critical path is in {folder / 'report.md'}")


def _print(report, folder):
    for figure, value in report["resources"].items():
        typer.echo(f"{figure}: {value['used']} of {value['available']}")
    for name, clock in report["clocks"].items():
        typer.echo(f"clock {name}: {clock['mhz']} MHz reached, {clock['constraint_mhz']} MHz asked")
    if path := report["critical_path"]:
        typer.echo(f"critical path: {path['ns']} ns from {path['from']} to {path['to']}")
    typer.echo(", ".join(f"{step} {seconds} s" for step, seconds in report["seconds"].items()))
    typer.echo(folder / report["bitstream"])


def boards(as_json: JsonOption = False):
    """List the boards that bitstreams can be built for."""
    from tilewright.fpga.boards import BOARDS
    rows = [{"name": board.name, "part": board.part, "configuration": board.configuration,
             "frequency_mhz": board.frequency / 1e6, "memory": type(board.memory).__name__.removesuffix("Memory"),
             "memory_kib": board.memory.bytes >> 10, "baud": board.baud} for board in BOARDS.values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    table = Table()
    for column in ("board", "part", "preset", "MHz", "memory", "baud"):
        table.add_column(column, overflow="fold", no_wrap=column == "board")
    for row in rows:
        preset = row["configuration"]
        table.add_row(row["name"], row["part"], "own" if preset.endswith(".toml") else preset,
                      f"{row['frequency_mhz']:g}", f"{row['memory_kib']:,} KiB", f"{row['baud']}")
    Console().print(table)


def register(app):
    """Add the commands to ``app``."""
    app.command()(build)
    app.command()(boards)
