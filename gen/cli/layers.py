"""``tilewright layers``: a reduced layer of each known model on one simulated build."""

from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import chosen
from .marked import marked
from .output import check_writable, write_json, write_text

BEGIN, END = "<!-- layers: begin -->\n", "<!-- layers: end -->\n"
MEMORY_BYTES = 1 << 21
PREFILL, ENCODER_TOKENS = 37, 21


def layers(
    models: Annotated[list[str], typer.Argument(help="names of models; default: all")] = None,
    preset: Annotated[str, typer.Option(help="configuration by name")] = None,
    config: Annotated[Path, typer.Option(help="configuration as a TOML file")] = None,
    folder: Annotated[Path, typer.Option("--output", "-o", help="folder for Verilog and builds")] = Path("build/run"),
    readme: Annotated[Path, typer.Option(help="put the matrix between this file's markers")] = None,
    json_file: Annotated[Path, typer.Option("--json", help="write the outcomes to this file")] = None,
):
    """Prove a layer of each model's structure, in reduced sizes, with random weights in INT8 and FP16, as prefill and
    as decode: every word of memory equal to the golden model's. All on one build. Exit code 0 only if all are equal."""
    from rich.console import Console

    from tilewright.gen.functions import function_tables
    from tilewright.gen.simulation import build_simulation
    from tilewright.sim import structures
    from tilewright.sim.layer_run import golden_tables

    configuration = chosen(preset or (None if config else "medium"), config)
    for name in models or ():
        if name not in structures.REDUCED:
            raise UserError(f"unknown model {name!r}; known: {', '.join(structures.REDUCED)}")
    around = marked(readme, BEGIN, END)
    for path in (readme, json_file):
        check_writable(path)
    check_writable(folder, is_folder=True)
    chosen_cases = list(structures.cases(models or structures.REDUCED, prefill=PREFILL, encoder_tokens=ENCODER_TOKENS,
                                         formats=configuration.operand_formats))
    console = Console(stderr=True)
    with console.status("generating Verilog") as status:
        built = build_simulation(configuration, folder, memory_bytes=MEMORY_BYTES, step=status.update).folder
    tables = golden_tables(function_tables(configuration.functions))
    outcomes = []
    for number, case in enumerate(chosen_cases, start=1):
        with console.status(f"{number} of {len(chosen_cases)}: {case.model}, layer {case.layer}, "
                            f"{case.number_format}"):
            outcomes.append(structures.prove(configuration, built, tables, case))
        for problem in outcomes[-1].problems:
            console.print(f"{case.model}, layer {case.layer}, {case.number_format}: {problem}", style="red")
    if readme is not None:
        write_text(readme, around[0] + BEGIN + structures.matrix(outcomes) + END + around[1])
    if json_file is not None:
        write_json(json_file, [_as_json(configuration, outcome) for outcome in outcomes])
    _show(Console(), configuration, outcomes, structures.describe)
    return int(any(outcome.problems for outcome in outcomes))


def _as_json(configuration, outcome):
    case = outcome.case
    return {"model": case.model, "layer": case.layer, "format": case.number_format, "prefill": case.prefill,
            "decode": case.decode, "words": outcome.words, "cycles": outcome.cycles,
            "equal": not outcome.problems, "problems": list(outcome.problems),
            "configuration": configuration.name, "config_hash": configuration.sha256}


def _show(console, configuration, outcomes, describe):
    from rich.table import Table

    table = Table(title=f"layers in reduced sizes on {configuration.name}: RTL against golden model")
    for column in ("model", "structure", "format", "tokens", "words", "cycles", ""):
        table.add_column(column)
    for outcome in outcomes:
        case = outcome.case
        table.add_row(f"{case.model}, layer {case.layer}", describe(case.shape), case.number_format,
                      f"{case.prefill} + {case.decode}", f"{outcome.words:,}", f"{outcome.cycles:,}",
                      "[red]differs[/]" if outcome.problems else "[green]equal[/]")
    console.print(table)


def register(app):
    app.command()(layers)
