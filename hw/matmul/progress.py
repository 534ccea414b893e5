"""How far a matmul command has come: its fields, the tile and the row group in work, and the ways on."""

from amaranth.hdl import Mux, Signal
from amaranth.lib import data
from amaranth.utils import exact_log2

from .drain import ADDRESS_WIDTH

__all__ = ["Progress"]


class Progress:
    """Registers of the command in work, and statements for ``m.d.sync`` that move them on.

    A tile is computed for one row group after the other, and only then comes the next tile.

    Parameters
    ----------
    rows, fp16_rows, lanes, group_words : int   as in ``MatmulIssue``
    half : Signal                               the command is FP16

    Attributes
    ----------
    command                   the fields that are needed after the start
    outputs_left, rows_left   of the command, those in work included
    column                    scratchpad groups before the tile
    activation                reduction index at which the row group begins
    base                      scratchpad group of the row group's output 0
    more_rows, more_tiles     beyond this row group, beyond this tile
    several_groups            the tile in work has more than one row group
    at_once                   the next tile follows without a gap: with one row group, and k above 1, since with one
                              beat a tile this were not known in time
    """

    def __init__(self, *, rows, fp16_rows, lanes, group_words, half):
        self._rows, self._fp16_rows, self._lanes, self._group_words = rows, fp16_rows, lanes, group_words
        self._half = half
        self.command = Signal(data.StructLayout({
            "scaled": 1, "minimum": 1, "format": 2, "k": 16, "rows": 16, "activation": 16, "group_stride": 16,
            "dest": 16, "dest_stride": 16,
        }), reset_less=True)
        self.outputs_left = Signal(16, reset_less=True)
        self.rows_left = Signal(16, reset_less=True)
        self.column = Signal(16, reset_less=True)
        self.activation = Signal(18, reset_less=True)
        self.base = Signal(ADDRESS_WIDTH, reset_less=True)
        self.more_rows = Signal()
        self.more_tiles = Signal()
        self.several_groups = Signal()
        self.at_once = Signal()

    def of_format(self, int8, fp16):
        """The value for the command's format, of what a build may have for both: functions, as it may have one only."""
        if self._rows and self._fp16_rows:
            return Mux(self._half, fp16(), int8())
        return int8() if self._rows else fp16()

    @property
    def rows(self):
        """Rows of a full group."""
        return self.of_format(lambda: self._rows, lambda: self._fp16_rows)

    @property
    def lanes(self):
        """Outputs of a full tile."""
        return self.of_format(lambda: self._lanes, lambda: self._lanes // 2)

    def build(self, m):
        """What is derived from the registers."""
        m.d.comb += [
            self.more_rows.eq(self.of_format(lambda: self.rows_left > self._rows,
                                             lambda: self.rows_left > self._fp16_rows)),
            self.more_tiles.eq(self.of_format(lambda: self.outputs_left > self._lanes,
                                              lambda: self.outputs_left > self._lanes // 2)),
        ]
        m.d.sync += self.at_once.eq(
            self.more_tiles & ~self.more_rows & ~self.several_groups & (self.command.k != 1))

    def start(self, payload):
        """Take a command."""
        return [
            *(getattr(self.command, name).eq(payload[name]) for name, _ in self.command.shape()),
            self.outputs_left.eq(payload.n), self.column.eq(0),
        ]

    def first_group(self):
        """To the first row group of the tile."""
        return [self.rows_left.eq(self.command.rows), self.activation.eq(self.command.activation),
                self.base.eq(self.command.dest)]

    def next_group(self):
        """To the next row group of the tile."""
        stride = self.command.dest_stride
        return [
            self.rows_left.eq(self.rows_left - self.rows),
            self.activation.eq(self.activation + self.command.group_stride),
            self.base.eq(self.base + self.of_format(lambda: stride << exact_log2(self._rows),
                                                    lambda: stride << exact_log2(self._fp16_rows))),
        ]

    def next_tile(self):
        """To the next tile."""
        return [
            self.outputs_left.eq(self.outputs_left - self.lanes),
            self.column.eq(self.column + self.of_format(lambda: self._lanes // self._group_words,
                                                        lambda: self._lanes // 2 // self._group_words)),
        ]
