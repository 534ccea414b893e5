"""How far a matmul command has come: its fields, the tile and the row group in work, and the ways on."""

from amaranth.hdl import Mux, Signal
from amaranth.lib import data
from amaranth.utils import exact_log2

from ..commands import Format
from .drain import ADDRESS_WIDTH

__all__ = ["Progress"]


class Progress:
    """Registers of the command in work, and statements for ``m.d.sync`` that move them on.

    A tile is computed for one row group after the other, and only then comes the next tile. What a move brings is in
    registers before; so they may move two cycles after the last move at the earliest.

    Parameters
    ----------
    rows, fp16_rows, lanes, group_words, depth, index_beats : int   as in ``MatmulIssue``
    half : Signal                               the command is FP16

    Attributes
    ----------
    command                   the fields that are needed after the start
    outputs_left, rows_left   of the command, those in work included
    column                    scratchpad groups before the tile
    activation                reduction index at which the row group begins
    base                      scratchpad group of the row group's output 0
    more_rows, more_tiles     beyond this row group, beyond this tile
    next_activation           ``activation`` of the row group that follows, in this tile or the next
    next_more_rows            ``more_rows`` of it
    several                   tiles have more than one row group
    one_beat                  k is 1
    beyond                    the row group's activations reach beyond the buffer; known two cycles after ``start``
    turns                     the prefetch buffer turns by itself: k is 32 at least, and a tile's last block, whose
                              scale has to be taken meanwhile, has more than one beat and no minimum
    tile_beats                beats of a tile in the prefetch buffer
    at_once                   the next row group, or tile, follows without a gap; known four cycles after a move, with
                              one row group two
    """

    def __init__(self, *, rows, fp16_rows, lanes, group_words, depth, index_beats, half):
        self._rows, self._fp16_rows, self._lanes, self._group_words = rows, fp16_rows, lanes, group_words
        self._depth, self._index_beats, self._half = depth, index_beats, half
        self.command = Signal(data.StructLayout({
            "scaled": 1, "minimum": 1, "format": 2, "k": 16, "rows": 16, "activation": 16, "group_stride": 16,
            "dest": 16, "dest_stride": 16,
        }), reset_less=True)
        self.outputs_left = Signal(16, reset_less=True)
        self.rows_left = Signal(16, reset_less=True)
        self.column = Signal(16, reset_less=True)
        self.activation = Signal(18, reset_less=True)
        self.base = Signal(ADDRESS_WIDTH, reset_less=True)
        self.more_rows = Signal(reset_less=True)
        self.more_tiles = Signal(reset_less=True)
        self.next_activation = Signal(18, reset_less=True)
        self.next_more_rows = Signal()
        self.several = Signal()
        self.turns = Signal()
        self.one_beat = Signal()
        self.beyond = Signal()
        self._fits = Signal()           # of the row group that follows: not ``beyond``
        self.tile_beats = Signal(17, reset_less=True)
        self.at_once = Signal()
        self._next_rows = Signal(16, reset_less=True)
        self._next_base = Signal(ADDRESS_WIDTH, reset_less=True)

    def of_format(self, int8, fp16, *, half=None):
        """The value for the command's format, of what a build may have for both: functions, as it may have one only.
        ``half``: a command's that is not yet in work."""
        if self._rows and self._fp16_rows:
            return Mux(self._half if half is None else half, fp16(), int8())
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
        command, fits = self.command, self._fits
        m.d.comb += [
            self.next_more_rows.eq(self._above(self._next_rows, self._rows, self._fp16_rows)),
        ]
        beats = command.k * self._index_beats
        stride = self.of_format(lambda: command.dest_stride << exact_log2(self._rows),
                                lambda: command.dest_stride << exact_log2(self._fp16_rows))
        m.d.sync += [
            self.several.eq(self._above(command.rows, self._rows, self._fp16_rows)), self.one_beat.eq(command.k == 1),
            self.turns.eq(command.k[5:].any() & (command.k[:5] != 1) & ~command.minimum),
            self.tile_beats.eq(Mux(command.format == Format.INT4, (beats + 1) >> 1, beats)),
            self._next_rows.eq(Mux(self.more_rows, self.rows_left - self.rows, command.rows)),
            self.next_activation.eq(Mux(self.more_rows, self.activation + command.group_stride, command.activation)),
            self._next_base.eq(Mux(self.more_rows, self.base + stride, command.dest)),
            fits.eq((self.next_activation + command.k)[:19] <= self._depth),
            self.at_once.eq(Mux(self.several, self.turns & fits & (self.more_rows | self.more_tiles),
                                self.more_tiles & ~self.one_beat)),
        ]

    def _above(self, value, int8, fp16, **half):
        """``value`` is above a power of two, which depends on the format."""
        return self.of_format(lambda: value > int8, lambda: value > fp16, **half)

    def start(self, payload):
        """Take a command."""
        half = payload.format == Format.FP16
        return [
            self.more_rows.eq(self._above(payload.rows, self._rows, self._fp16_rows, half=half)),
            self.more_tiles.eq(self._above(payload.n, self._lanes, self._lanes // 2, half=half)),
            *(getattr(self.command, name).eq(payload[name]) for name, _ in self.command.shape()),
            self.outputs_left.eq(payload.n), self.column.eq(0),
            self.rows_left.eq(payload.rows), self.activation.eq(payload.activation), self.base.eq(payload.dest),
        ]

    def check(self):
        """Whether the first row group is ``beyond``; the cycle after ``start``."""
        return self.beyond.eq((self.activation + self.command.k)[:19] > self._depth)

    def next_group(self):
        """To the next row group, of this tile or the next one."""
        return [self.rows_left.eq(self._next_rows), self.more_rows.eq(self.next_more_rows),
                self.activation.eq(self.next_activation), self.base.eq(self._next_base),
                self.beyond.eq(~self._fits)]

    def next_tile(self):
        """To the next tile; beside ``next_group``."""
        return [
            self.outputs_left.eq(self.outputs_left - self.lanes),
            self.more_tiles.eq(self._above(self.outputs_left, 2 * self._lanes, self._lanes)),
            self.column.eq(self.column + self.of_format(lambda: self._lanes // self._group_words,
                                                        lambda: self._lanes // 2 // self._group_words)),
        ]
