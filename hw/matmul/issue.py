"""Issue: turns matmul commands into beats, block jobs and tiles."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..commands import Format, Opcode, layout
from ..config import BLOCK
from ..registers import ErrorCode
from .accumulate import block_job
from .drain import ADDRESS_WIDTH, drain_tile

__all__ = ["MatmulIssue"]


class MatmulIssue(wiring.Component):
    """Carries commands out: for each tile of ``lanes`` outputs and each group of ``rows`` activation rows, k beats; in
    FP16 for each ``lanes / 2`` outputs and ``fp16_rows`` rows.

    The formats share the result buffer. Results stay in order as one format's are held back until the other's are all
    given out (have settled), and a command that changes the format back waits until those of its own have settled.

    A tile is kept in the prefetch buffer while further groups follow, and replayed for each.
    Throughput: a beat a cycle, tiles without a gap (but for k = 1); 3 cycles between commands; with several groups 2
    between tiles and what a rewind takes between groups.

    A faulty command raises ``error`` when all before it is finished, and nothing is issued any more.

    Parameters
    ----------
    rows, lanes : int    array; rows 0: no INT8
    fp16_rows : int      0: no FP16
    int4 : bool          INT4 too
    depth : int          reduction indices in the activation buffer, a power of two
    group_words : int    words of a scratchpad group

    Members
    -------
    command : In(stream)                  MATMUL commands
    beat_valid, beat_take, keep, rewind   the prefetch buffer's, see ports.WeightRead
    index : Out                           reduction index of the beat
    half : Out(1)                         the command in work, and its beats, are FP16
    int4, unsigned : Out(1)               its weights are INT4, and not negative
    running : Out(1)                      beats of a group are being taken
    block_begin, block_end, job           INT8: to BlockAccumulate
    block_room, no_scales_due             INT8: from it
    fp16_room : In(1)                     FP16: a tile's last beat may be issued
    other_settled : In(1)                 both: results of the format that ``half`` does not say are all given out
    tile_valid, tile, tile_room           to Drain, with the tile's last ``block_end``
    finished : In(1)                      nothing issued is unfinished
    error : Out(1), code : Out(8)         the command in work is faulty
    waits : Out(1)                        a beat waits for room, or a command for ``other_settled``
    starved : Out(1)                      the array waits for a beat, or a group for its scales
    idle : Out(1)                         no command in work
    """

    def __init__(self, *, rows, lanes, depth, group_words, fp16_rows=0, int4=False):
        for name, value in (("rows", rows or fp16_rows), ("fp16_rows", fp16_rows or rows), ("lanes", lanes),
                            ("depth", depth), ("group_words", group_words)):
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if group_words > lanes:
            raise ValueError(f"group_words = {group_words} must be at most lanes = {lanes}")
        self._rows, self._lanes, self._depth, self._group_words = rows, lanes, depth, group_words
        self._fp16_rows, self._int4 = fp16_rows, int4
        int8 = {
            "block_begin": Out(1), "block_end": Out(1), "job": Out(block_job(rows=rows, blocks=depth // BLOCK)),
            "block_room": In(1), "no_scales_due": In(1)}
        tile = drain_tile(rows=max(rows, fp16_rows), lanes=lanes if rows else lanes // 2,
                          halves=rows > 0 and fp16_rows > 0)
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.MATMUL))),
            "beat_valid": In(1), "beat_take": Out(1), "keep": Out(1), "rewind": Out(1), "index": Out(range(depth)),
            "half": Out(1), "int4": Out(1), "unsigned": Out(1), "running": Out(1),
            **(int8 if rows else {}), **({"fp16_room": In(1)} if fp16_rows else {}),
            **({"other_settled": In(1)} if rows and fp16_rows else {}),
            "tile_valid": Out(1), "tile": Out(tile), "tile_room": In(1),
            "finished": In(1), "error": Out(1), "code": Out(8),
            "waits": Out(1), "starved": Out(1), "idle": Out(1),
        })

    def _of_format(self, int8, fp16):
        """The value for the format in work, of what a build may have for both."""
        if self._rows and self._fp16_rows:
            return Mux(self.half, fp16(), int8())
        return int8() if self._rows else fp16()

    def elaborate(self, platform):
        m = Module()
        # The command, and where in it we are.
        command = Signal(data.StructLayout({
            "scaled": 1, "minimum": 1, "format": 2, "k": 16, "rows": 16, "activation": 16, "group_stride": 16,
            "dest": 16, "dest_stride": 16,
        }), reset_less=True)
        outputs_left, rows_left = Signal(16, reset_less=True), Signal(16, reset_less=True)
        column = Signal(16, reset_less=True)                # groups before the tile
        activation = Signal(18, reset_less=True)            # reduction index of the row group
        base = Signal(ADDRESS_WIDTH, reset_less=True)       # scratchpad group of the row group
        more_rows, more_tiles = Signal(), Signal()          # beyond this row group, this tile
        no_scales_due = self.no_scales_due if self._rows else Const(1)
        lanes, fp16_lanes = self._lanes, self._lanes // 2
        m.d.comb += [
            more_rows.eq(self._of_format(lambda: rows_left > self._rows, lambda: rows_left > self._fp16_rows)),
            more_tiles.eq(self._of_format(lambda: outputs_left > lanes, lambda: outputs_left > fp16_lanes)),
        ]
        # With one group a tile follows its predecessor at once. Where k is 1, this were not known in time.
        several_groups, at_once = Signal(), Signal()
        m.d.sync += at_once.eq(more_tiles & ~more_rows & ~several_groups & (command.k != 1))
        start_group, end_group, end_tiles = self._build_beats(m, command, activation, at_once)
        self._build_descriptors(m, command, outputs_left, rows_left, column, base, more_rows, more_tiles)
        bad, switch, settled = self._build_check(m, command, outputs_left)
        code = Signal(8, reset_less=True)
        m.d.comb += self.code.eq(code)

        def first_group():
            return [rows_left.eq(command.rows), activation.eq(command.activation), base.eq(command.dest)]

        def next_tile():
            return [
                outputs_left.eq(outputs_left - self._of_format(lambda: lanes, lambda: fp16_lanes)),
                column.eq(column + self._of_format(lambda: lanes // self._group_words,
                                                   lambda: fp16_lanes // self._group_words)),
            ]

        def accept():
            m.d.comb += self.command.ready.eq(1)
            with m.If(self.command.valid):
                m.d.sync += [
                    *(getattr(command, name).eq(self.command.payload[name]) for name, _ in command.shape()),
                    outputs_left.eq(self.command.payload.n), column.eq(0),
                ]
                m.next = "check"

        with m.FSM() as fsm:
            with m.State("idle"):
                accept()
            with m.State("check"):
                m.d.sync += [*first_group(), several_groups.eq(0)]
                with m.If(bad):
                    m.d.sync += code.eq(ErrorCode.BAD_FIELD)
                    m.next = "fault"
                with m.Elif(settled):
                    m.d.comb += switch.eq(1)
                    m.next = "group"
                with m.Else():
                    m.d.comb += self.waits.eq(1)
            with m.State("group"):
                # A scale taken with the wrong ``keep`` would stay stored.
                with m.If((activation + command.k)[:19] > self._depth):
                    m.d.sync += code.eq(ErrorCode.ACTIVATION_RANGE)
                    m.next = "fault"
                with m.Elif(~more_rows | no_scales_due):
                    m.d.comb += start_group.eq(1)
                    m.d.sync += self.keep.eq(more_rows)
                    m.next = "beats"
                with m.Else():
                    m.d.comb += self.starved.eq(1)
            with m.State("beats"):
                m.d.comb += [self.starved.eq(~self.beat_valid), self.waits.eq(self.beat_valid & ~self.beat_take)]
                with m.If(end_group):
                    m.d.sync += several_groups.eq(several_groups | more_rows)
                with m.If(end_group & at_once):
                    m.d.sync += next_tile()
                with m.If(end_tiles):
                    m.next = "next"
            with m.State("next"):
                with m.If(more_rows):
                    m.d.comb += [self.rewind.eq(no_scales_due), self.starved.eq(~no_scales_due)]
                    with m.If(no_scales_due):
                        m.d.sync += [
                            rows_left.eq(rows_left - self._of_format(lambda: self._rows, lambda: self._fp16_rows)),
                            activation.eq(activation + command.group_stride),
                            base.eq(base + self._of_format(
                                lambda: command.dest_stride << exact_log2(self._rows),
                                lambda: command.dest_stride << exact_log2(self._fp16_rows))),
                        ]
                        m.next = "group"
                with m.Elif(more_tiles):
                    m.d.sync += [*first_group(), *next_tile()]
                    m.next = "group"
                with m.Else():
                    m.next = "idle"
                    accept()
            with m.State("fault"):
                m.d.comb += self.error.eq(self.finished)
                with m.If(self.finished):
                    m.next = "stopped"
            with m.State("stopped"):
                pass
        m.d.comb += self.idle.eq(fsm.ongoing("idle"))
        return m

    def _build_check(self, m, command, outputs_left):
        """Returns: the command is faulty; switch to its format (an input); its format can be switched to."""
        bad, switch, settled = Signal(), Signal(), Signal()
        fp16 = command.format == Format.FP16
        known = [(command.format == Format.INT8) & ~command.minimum] * bool(self._rows)
        known += [fp16 & ~command.scaled & ~command.minimum] * bool(self._fp16_rows)
        known += [(command.format == Format.INT4) & command.scaled] * self._int4
        m.d.comb += bad.eq((command.k == 0) | (outputs_left == 0) | (command.rows == 0)
                           | command.activation[:5].any() | command.group_stride[:5].any() | ~Cat(known).any())
        if self._rows and self._fp16_rows:
            m.d.comb += settled.eq((self.half == fp16) | self.other_settled)
            with m.If(switch):
                m.d.sync += self.half.eq(fp16)
        else:
            m.d.comb += [settled.eq(1), self.half.eq(not self._rows)]
        return bad, switch, settled

    def _build_beats(self, m, command, activation, at_once):
        """The beats of a group, and of the next one ``at_once``. Returns the start (an input), a group's last beat, and
        the last beat of all."""
        running, start_group, end_group, end_tiles = self.running, Signal(), Signal(), Signal()
        index = Signal(range(self._depth), reset_less=True)
        left = Signal(16, reset_less=True)        # beats after this one
        last_of_group, last_of_block, again = Signal(), Signal(), Signal()
        room = self._of_format(lambda: self.block_room, lambda: self.fp16_room)
        m.d.comb += [
            last_of_group.eq(left == 0),
            last_of_block.eq(last_of_group | self._of_format(lambda: index[:5].all(), lambda: 0)),
            self.beat_take.eq(running & self.beat_valid & (~last_of_block | (room & self.tile_room))),
            self.index.eq(index),
            again.eq(last_of_group & at_once), end_tiles.eq(end_group & ~at_once),
            end_group.eq(self.beat_take & last_of_group), self.tile_valid.eq(end_group),
        ]
        with m.If(start_group | (self.beat_take & again)):
            m.d.sync += [index.eq(activation), left.eq(command.k - 1)]
        with m.Elif(self.beat_take):
            m.d.sync += [index.eq(index + 1), left.eq(left - 1)]
        with m.If(start_group):
            m.d.sync += running.eq(1)
        with m.Elif(end_tiles):
            m.d.sync += running.eq(0)
        if self._int4:
            m.d.comb += [self.int4.eq(command.format == Format.INT4), self.unsigned.eq(command.minimum)]
        if self._rows:
            self._build_blocks(m, command, start_group, index, last_of_group, last_of_block, again)
        return start_group, end_group, end_tiles

    def _build_blocks(self, m, command, start_group, index, last_of_group, last_of_block, again):
        first_block = Signal(reset_less=True)
        m.d.comb += [
            self.block_begin.eq(self.beat_take & (index[:5] == 0) & command.scaled),
            self.block_end.eq(self.beat_take & last_of_block & ~self.half),
            self.job.first.eq(first_block), self.job.last.eq(last_of_group), self.job.scaled.eq(command.scaled),
            self.job.minimum.eq(command.minimum),
            self.job.scale_block.eq(index >> 5), self.job.last_row.eq(self.tile.last_row),
        ]
        with m.If(start_group):
            m.d.sync += first_block.eq(1)
        with m.Elif(self.beat_take & last_of_block):
            m.d.sync += first_block.eq(again)

    def _build_descriptors(self, m, command, outputs_left, rows_left, column, base, more_rows, more_tiles):
        """What does not change within a group, registered before its last beat can come."""
        last_row = Signal.like(self.tile.last_row, reset_less=True)
        count = Signal.like(self.tile.count, reset_less=True)
        m.d.sync += [
            last_row.eq(Mux(more_rows, self._of_format(lambda: self._rows, lambda: self._fp16_rows), rows_left) - 1),
            count.eq(Mux(more_tiles, self._of_format(lambda: self._lanes, lambda: self._lanes // 2), outputs_left)),
        ]
        m.d.comb += [
            self.tile.last_row.eq(last_row), self.tile.count.eq(count),
            self.tile.base.eq(base), self.tile.stride.eq(command.dest_stride), self.tile.column.eq(column),
            self.tile.final.eq(~more_rows & ~more_tiles),
        ]
        if self._rows and self._fp16_rows:
            m.d.comb += self.tile.half.eq(self.half)
