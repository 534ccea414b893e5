"""``tilewright speed``."""

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.cli.generate import ConfigOption, JsonOption, PresetOption

from .build import BoardOption

__all__ = ["register"]


def speed(
    board: BoardOption,
    preset: PresetOption = None,
    config: ConfigOption = None,
    model: Annotated[str, typer.Option(help="As for complete.")] = "stories260K",
    weights: Annotated[str, typer.Option(help="As for complete.")] = "int8",
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "Once upon a time",
    tokens: Annotated[int, typer.Option(min=2, help="New tokens; figures are of those behind the first.")] = 32,
    context: Annotated[int, typer.Option(min=1, help="Positions of a sequence, at most.")] = 64,
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for the build.")] = Path("build/speed"),
    as_json: JsonOption = False,
):
    """Simulate a whole board down to its pins while it tells a text, and print its cycles, or bytes, a token.

    Every word is compared with the golden model. Minutes, with a model as small as stories260K.
    """
    from tilewright.fpga.board_simulation import build_board
    from tilewright.fpga.boards import find_board
    from tilewright.fpga.estimate import check_fits
    from tilewright.fpga.parts import PARTS
    from tilewright.fpga.speed import measure
    from tilewright.gen.checkpoint import open_checkpoint
    from tilewright.gen.cli.compile import kv_format
    from tilewright.gen.cli.generate import chosen
    from tilewright.gen.cli.output import check_writable
    from tilewright.gen.cli.progress import Progress
    simulated = find_board(board)
    configuration = simulated.load_configuration() if preset is None and config is None else chosen(preset, config)
    check_fits(configuration, simulated, PARTS[simulated.part])
    kv_format(weights, None)
    open_checkpoint(model)
    check_writable(folder, is_folder=True)
    progress = Progress()
    progress.start(f"{board}: building the simulation")
    try:
        program = build_board(simulated, configuration, folder / f"{board}-{configuration.sha256[:16]}")
    finally:
        progress.stop()
    try:
        figures = measure(simulated, configuration, program, model=model, weights=weights, prompt=prompt, tokens=tokens,
                          context=context)
    except subprocess.CalledProcessError as error:
        raise typer.Exit(error.returncode) from None    # its message is the host's
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _print(figures)


def _print(figures):
    counters = {name.replace("_", " "): f"{value:,.0f}" for name, value in figures["counters"].items()}
    typer.echo(f"{figures['board']}, {figures['configuration']}, {figures['weights']}: {figures['tokens']} tokens, "
               f"equal in {figures['words_compared']:,} words")
    typer.echo("a token, measured in simulation: " + ", ".join(f"{name} {count}" for name, count in counters.items()))
    if "baud" in figures:
        typer.echo(f"tokens a second at {figures['baud']:,} baud, derived: at most "
                   f"{figures['most_tokens_per_second']:.2f}")
        return
    typer.echo(f"the memory's share, of {figures['cycles_per_token']:,.0f} cycles: {figures['share_of_memory']:.1%}")
    typer.echo(f"tokens a second at {figures['clock_hz'] / 1e6:g} MHz, derived: {figures['tokens_per_second']:,.0f} of "
               f"{figures['most_tokens_per_second']:,.0f}")


def register(app):
    """Add the command to ``app``."""
    app.command()(speed)
