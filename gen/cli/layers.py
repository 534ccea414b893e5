"""``tilewright layers``: a reduced layer of each known model on one simulated build."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import chosen

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
    from tilewright.gen.generate import build_top
    from tilewright.gen.verilog import emit
    from tilewright.sim import structures
    from tilewright.sim.cosim import build
    from tilewright.sim.layer_run import golden_tables

    configuration = chosen(preset or (None if config else "medium"), config)
    for name in models or ():
        if name not in structures.REDUCED:
            raise UserError(f"unknown model {name!r}; known: {', '.join(structures.REDUCED)}")
    text = _marked(readme)
    chosen_cases = list(structures.cases(models or structures.REDUCED, prefill=PREFILL, encoder_tokens=ENCODER_TOKENS,
                                         formats=configuration.operand_formats))
    console = Console(stderr=True)
    folder.mkdir(parents=True, exist_ok=True)
    with console.status("generating Verilog and building the simulation"):
        verilog = folder / f"{configuration.module_name}.v"
        emit(build_top(configuration), name=configuration.module_name, path=verilog)
        built = build(configuration, verilog, folder, memory_bytes=MEMORY_BYTES)
    tables = golden_tables(function_tables(configuration.functions))
    outcomes = []
    for number, case in enumerate(chosen_cases, start=1):
        with console.status(f"{number} of {len(chosen_cases)}: {case.model}, layer {case.layer}, "
                            f"{case.number_format}"):
            outcomes.append(structures.prove(configuration, built, tables, case))
        for problem in outcomes[-1].problems:
            console.print(f"{case.model}, layer {case.layer}, {case.number_format}: {problem}", style="red")
    if readme is not None:
        before, _, after = text
        readme.write_text(before + BEGIN + structures.matrix(outcomes) + END + after)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps([_as_json(configuration, outcome) for outcome in outcomes], indent=2) + "\n")
    _show(Console(), configuration, outcomes, structures.describe)
    return int(any(outcome.problems for outcome in outcomes))


def _marked(readme):
    """(text before, matrix, text behind) of a file with markers; None without a file."""
    if readme is None:
        return None
    text = readme.read_text() if readme.exists() else ""
    if BEGIN not in text or END not in text:
        raise UserError(f"{readme}: has no lines {BEGIN.strip()} and {END.strip()} to put the matrix between; add them")
    before, _, rest = text.partition(BEGIN)
    matrix, _, after = rest.partition(END)
    return before, matrix, after


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
