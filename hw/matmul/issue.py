"""Issue: turns matmul commands into beats, block jobs and tiles."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Format, Opcode, layout
from ..config import BLOCK
from ..registers import ErrorCode
from .accumulate import block_job
from .drain import drain_tile
from .progress import Progress

__all__ = ["MatmulIssue"]


class MatmulIssue(wiring.Component):
    """Carries commands out: for each tile of ``lanes`` outputs and each group of ``rows`` activation rows, k beats; in
    FP16 for each ``lanes / 2`` outputs and ``fp16_rows`` rows.

    The formats share the result buffer. Results stay in order as one format's are held back until the other's are all
    given out (have settled), and a command that changes the format back waits until those of its own have settled.

    A tile is kept in the prefetch buffer while further groups follow, and replayed for each.
    Throughput: a beat a cycle, tiles without a gap (but for k = 1), 3 cycles between commands. Groups and their tiles
    follow each other without a gap too where ``Progress.turns``, as the prefetch buffer then knows where the tile ends
    and its scales are taken before; else there are 2 cycles between tiles and what a rewind takes between groups.

    A faulty command raises ``error`` when all before it is finished, and nothing is issued any more.

    Parameters
    ----------
    rows, lanes : int    array; rows 0: no INT8
    fp16_rows : int      0: no FP16
    int4 : bool          INT4 too
    depth : int          reduction indices in the activation buffer, a power of two
    group_words : int    words of a scratchpad group
    index_beats : int    beats in the prefetch buffer of an INT8 or FP16 reduction index

    Members
    -------
    command : In(stream)                  MATMUL commands
    beat_valid, beat_take                 the prefetch buffer's, see ports.WeightRead, as are
    keep, rewind, rewind_scales, turn, length
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

    def __init__(self, *, rows, lanes, depth, group_words, fp16_rows=0, int4=False, index_beats=1):
        for name, value in (("rows", rows or fp16_rows), ("fp16_rows", fp16_rows or rows), ("lanes", lanes),
                            ("depth", depth), ("group_words", group_words)):
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if group_words > lanes:
            raise ValueError(f"group_words = {group_words} must be at most lanes = {lanes}")
        self._rows, self._lanes, self._depth, self._group_words = rows, lanes, depth, group_words
        self._fp16_rows, self._int4, self._index_beats = fp16_rows, int4, index_beats
        int8 = {
            "block_begin": Out(1), "block_end": Out(1), "job": Out(block_job(rows=rows, blocks=depth // BLOCK)),
            "block_room": In(1), "no_scales_due": In(1)}
        tile = drain_tile(rows=max(rows, fp16_rows), lanes=lanes if rows else lanes // 2,
                          halves=rows > 0 and fp16_rows > 0)
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.MATMUL))),
            "beat_valid": In(1), "beat_take": Out(1), "keep": Out(1), "rewind": Out(1), "rewind_scales": Out(1),
            "turn": Out(1), "length": Out(17), "index": Out(range(depth)),
            "half": Out(1), "int4": Out(1), "unsigned": Out(1), "running": Out(1),
            **(int8 if rows else {}), **({"fp16_room": In(1)} if fp16_rows else {}),
            **({"other_settled": In(1)} if rows and fp16_rows else {}),
            "tile_valid": Out(1), "tile": Out(tile), "tile_room": In(1),
            "finished": In(1), "error": Out(1), "code": Out(8),
            "waits": Out(1), "starved": Out(1), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        progress = Progress(rows=self._rows, fp16_rows=self._fp16_rows, lanes=self._lanes,
                            group_words=self._group_words, depth=self._depth, index_beats=self._index_beats,
                            half=self.half)
        progress.build(m)
        m.d.comb += [self.turn.eq(progress.turns), self.length.eq(progress.tile_beats)]
        no_scales_due = self.no_scales_due if self._rows else Const(1)
        turning = Signal()     # scales of the row group's last block may be due
        start_group, end_group = self._build_beats(m, progress, turning)
        self._build_descriptors(m, progress)
        bad, switch, settled = self._build_check(m, progress)
        code = Signal(8, reset_less=True)
        m.d.comb += self.code.eq(code)
        with m.FSM() as fsm:
            with m.State("idle"):
                self._accept(m, progress)
            with m.State("check"):
                self._check(m, progress, bad, switch, settled, code)
            with m.State("group"):
                self._start_group(m, progress, start_group, no_scales_due, code)
            with m.State("beats"):
                self._follow_beats(m, progress, end_group)
            with m.State("next"):
                self._move_on(m, progress, turning)
            with m.State("fault"):
                m.d.comb += self.error.eq(self.finished)
                with m.If(self.finished):
                    m.next = "stopped"
            with m.State("stopped"):
                pass
        m.d.comb += self.idle.eq(fsm.ongoing("idle"))
        return m

    def _accept(self, m, progress):
        """States "idle" and, after a command's last tile, "next"."""
        m.d.comb += self.command.ready.eq(1)
        with m.If(self.command.valid):
            m.d.sync += progress.start(self.command.payload)
            m.next = "check"

    def _check(self, m, progress, bad, switch, settled, code):
        """State "check": refuse a faulty command, wait until its format can be switched to."""
        m.d.sync += progress.check()
        with m.If(bad):
            m.d.sync += code.eq(ErrorCode.BAD_FIELD)
            m.next = "fault"
        with m.Elif(settled):
            m.d.comb += switch.eq(1)
            m.next = "group"
        with m.Else():
            m.d.comb += self.waits.eq(1)

    def _start_group(self, m, progress, start_group, no_scales_due, code):
        """State "group": a row group's beats can start, unless scales before it are not taken yet: one taken with the
        wrong ``keep`` would stay stored."""
        with m.If(progress.beyond):
            m.d.sync += code.eq(ErrorCode.ACTIVATION_RANGE)
            m.next = "fault"
        with m.Elif(~progress.more_rows | no_scales_due):
            m.d.comb += start_group.eq(1)
            m.d.sync += self.keep.eq(progress.more_rows)
            m.next = "beats"
        with m.Else():
            m.d.comb += self.starved.eq(1)

    def _follow_beats(self, m, progress, end_group):
        """State "beats": a row group's, and those of groups that follow at once."""
        m.d.comb += [self.starved.eq(~self.beat_valid), self.waits.eq(self.beat_valid & ~self.beat_take)]
        with m.If(end_group):
            with m.If(progress.at_once):
                self._next_group(m, progress)
                m.d.sync += self.keep.eq(progress.next_more_rows)
            with m.Else():
                m.next = "next"

    def _move_on(self, m, progress, turning):
        """State "next": to the next row group with the same weights, else to the next tile, else to the next command.
        """
        with m.If(progress.more_rows):
            m.d.comb += [self.rewind.eq(~turning), self.starved.eq(turning)]
        with m.If(progress.more_rows & turning):
            pass
        with m.Elif(progress.more_rows | progress.more_tiles):
            self._next_group(m, progress)
            m.next = "group"
        with m.Else():
            m.next = "idle"
            self._accept(m, progress)

    def _next_group(self, m, progress):
        m.d.sync += progress.next_group()
        with m.If(~progress.more_rows):
            m.d.sync += progress.next_tile()

    def _build_check(self, m, progress):
        """Returns: the command is faulty; switch to its format (an input); its format can be switched to."""
        command = progress.command
        bad, switch, settled = Signal(), Signal(), Signal()
        fp16 = command.format == Format.FP16
        known = [(command.format == Format.INT8) & ~command.minimum] * bool(self._rows)
        known += [fp16 & ~command.scaled & ~command.minimum] * bool(self._fp16_rows)
        known += [(command.format == Format.INT4) & command.scaled] * self._int4
        m.d.comb += bad.eq((command.k == 0) | (progress.outputs_left == 0) | (command.rows == 0)
                           | command.activation[:5].any() | command.group_stride[:5].any() | ~Cat(known).any())
        if self._rows and self._fp16_rows:
            m.d.comb += settled.eq((self.half == fp16) | self.other_settled)
            with m.If(switch):
                m.d.sync += self.half.eq(fp16)
        else:
            m.d.comb += [settled.eq(1), self.half.eq(not self._rows)]
        return bad, switch, settled

    def _build_beats(self, m, progress, turning):
        """The beats of a group, and of the next one ``at_once``. Returns the start (an input), and a group's last beat.
        """
        command, at_once, running = progress.command, progress.at_once, self.running
        start_group, end_group, again = Signal(), Signal(), Signal()
        index, left = (Signal(range(self._depth), reset_less=True, name=name) for name in ("beat_index", "left"))
        # Of the beat that ``left`` follow. A register each: the beat's being taken depends on them.
        last_of_group, last_of_block = Signal(reset_less=True), Signal(reset_less=True)
        room = progress.of_format(lambda: self.block_room, lambda: self.fp16_room)
        m.d.comb += [
            self.beat_take.eq(running & self.beat_valid & (
                ~last_of_block | (room & self.tile_room & ~(turning & at_once)))),
            self.index.eq(index), again.eq(last_of_group & at_once),
            end_group.eq(self.beat_take & last_of_group), self.tile_valid.eq(end_group),
        ]
        with m.If(start_group | self.beat_take):
            with m.If(start_group | again):
                m.d.sync += [
                    index.eq(Mux(start_group, progress.activation, progress.next_activation)), left.eq(command.k - 1),
                    last_of_group.eq(progress.one_beat), last_of_block.eq(progress.one_beat),
                ]
            with m.Else():
                m.d.sync += [
                    index.eq(index + 1), left.eq(left - 1), last_of_group.eq(left == 1),
                    last_of_block.eq((left == 1) | progress.of_format(lambda: index[:5] == 30, lambda: 0)),
                ]
        with m.If(start_group):
            m.d.sync += running.eq(1)
        with m.Elif(end_group & ~at_once):
            m.d.sync += running.eq(0)
        if self._int4:
            m.d.comb += [self.int4.eq(command.format == Format.INT4), self.unsigned.eq(command.minimum)]
        if self._rows:
            self._build_blocks(m, command, start_group, index, last_of_group, last_of_block, again)
            self._build_turn(m, progress, start_group, left, turning)
        return start_group, end_group

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

    def _build_turn(self, m, progress, start_group, left, turning):
        """Scales go back to the tile's first when those of a group's last block are taken. One taken only in the next
        group, with the ``keep`` of that, would stay stored or not as it should."""
        m.d.comb += self.rewind_scales.eq(turning & self.no_scales_due & self.keep)
        with m.If(start_group | (turning & self.no_scales_due)):
            m.d.sync += turning.eq(0)
        with m.If(self.block_begin & (left < BLOCK) & progress.several):
            m.d.sync += turning.eq(1)

    def _build_descriptors(self, m, progress):
        """What does not change within a group, registered before its last beat can come."""
        more_rows, more_tiles = progress.more_rows, progress.more_tiles
        last_row = Signal.like(self.tile.last_row, reset_less=True)
        count = Signal.like(self.tile.count, reset_less=True)
        m.d.sync += [
            last_row.eq(Mux(more_rows, progress.rows, progress.rows_left) - 1),
            count.eq(Mux(more_tiles, progress.lanes, progress.outputs_left)),
        ]
        m.d.comb += [
            self.tile.last_row.eq(last_row), self.tile.count.eq(count), self.tile.base.eq(progress.base),
            self.tile.stride.eq(progress.command.dest_stride), self.tile.column.eq(progress.column),
            self.tile.final.eq(~more_rows & ~more_tiles),
        ]
        if self._rows and self._fp16_rows:
            m.d.comb += self.tile.half.eq(self.half)
