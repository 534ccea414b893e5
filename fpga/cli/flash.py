"""``tilewright flash``."""

from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .build import BoardOption

__all__ = ["register"]


def flash(
    board: BoardOption,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder that `tilewright build` wrote into; "
                                                                       "build/BOARD if not given.")] = None,
    bitstream: Annotated[Path | None, typer.Option(help="Another bitstream.")] = None,
    permanent: Annotated[bool, typer.Option("--permanent", help="Into the flash, not just until power off.")] = False,
    detect: Annotated[bool, typer.Option("--detect", help="Tell which part is there, and load nothing.")] = False,
):
    """Load a bitstream into a board through openFPGALoader."""
    from tilewright.fpga import flash as loader
    from tilewright.fpga.boards import find_board
    chosen = find_board(board)
    if detect:
        typer.echo(loader.detect(chosen).strip())
        return
    path = bitstream or loader.bitstream_of(chosen, output or Path("build") / board)
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the bitstream that `tilewright build` wrote")
    loader.flash(chosen, path, permanent=permanent)
    typer.echo(f"{path}: loaded into {chosen.title}{', to stay' if permanent else ''}")


def register(app):
    """Add the command to ``app``."""
    app.command()(flash)
