"""The boards that bitstreams are built for."""

from tilewright.gen.errors import UserError

from . import icebreaker, icepi_zero, tang_primer_20k, ulx3s

__all__ = ["BOARDS", "find_board"]

BOARDS = {board.name: board for module in (ulx3s, icepi_zero, tang_primer_20k, icebreaker) for board in module.BOARDS}
"""Name -> Board, the flagship first."""


def find_board(name):
    """The board ``name``; raises UserError that lists those there are."""
    if name not in BOARDS:
        raise UserError(f"board {name!r}: unknown; allowed are {', '.join(BOARDS)}")
    return BOARDS[name]
