"""Issue: turns matmul commands into beats, block jobs and tiles."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..commands import Opcode, layout
from ..config import BLOCK
from ..registers import ErrorCode
from .accumulate import block_job
from .drain import ADDRESS_WIDTH, drain_tile

__all__ = ["MatmulIssue"]


class MatmulIssue(wiring.Component):
    """Carries commands out: for each tile of ``lanes`` outputs and each group of ``rows`` activation rows, k beats.

    A tile is kept in the prefetch buffer while further groups follow, and replayed for each.
    Throughput: a beat a cycle; 2 cycles between tiles, 3 between commands, and between groups what a rewind takes.

    A faulty command raises ``error`` when all before it is finished, and nothing is issued any more.

    Parameters
    ----------
    rows, lanes : int    array
    depth : int          reduction indices in the activation buffer, a power of two
    group_words : int    words of a scratchpad group

    Members
    -------
    command : In(stream)                  MATMUL commands
    beat_valid, beat_take, keep, rewind   the prefetch buffer's, see ports.WeightRead
    index : Out                           reduction index of the beat
    block_begin, block_end, job           to BlockAccumulate
    block_room, no_scales_due             from it
    tile_valid, tile, tile_room           to Drain, with the tile's last ``block_end``
    finished : In(1)                      nothing issued is unfinished
    error : Out(1), code : Out(8)         the command in work is faulty
    waits : Out(1)                        a beat waits for room
    starved : Out(1)                      the array waits for a beat, or a group for its scales
    idle : Out(1)                         no command in work
    """

    def __init__(self, *, rows, lanes, depth, group_words):
        for name, value in (("rows", rows), ("lanes", lanes), ("depth", depth), ("group_words", group_words)):
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if group_words > lanes:
            raise ValueError(f"group_words = {group_words} must be at most lanes = {lanes}")
        self._rows, self._lanes, self._depth, self._group_words = rows, lanes, depth, group_words
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.MATMUL))),
            "beat_valid": In(1), "beat_take": Out(1), "keep": Out(1), "rewind": Out(1), "index": Out(range(depth)),
            "block_begin": Out(1), "block_end": Out(1), "job": Out(block_job(rows=rows, blocks=depth // BLOCK)),
            "block_room": In(1), "no_scales_due": In(1),
            "tile_valid": Out(1), "tile": Out(drain_tile(rows=rows, lanes=lanes)), "tile_room": In(1),
            "finished": In(1), "error": Out(1), "code": Out(8),
            "waits": Out(1), "starved": Out(1), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # The command, and where in it we are.
        command = Signal(data.StructLayout({
            "scaled": 1, "k": 16, "rows": 16, "activation": 16, "group_stride": 16, "dest": 16, "dest_stride": 16,
        }), reset_less=True)
        outputs_left, rows_left = Signal(16, reset_less=True), Signal(16, reset_less=True)
        column = Signal(16, reset_less=True)                # groups before the tile
        activation = Signal(18, reset_less=True)            # reduction index of the row group
        base = Signal(ADDRESS_WIDTH, reset_less=True)       # scratchpad group of the row group
        more_rows, more_tiles = Signal(), Signal()          # beyond this row group, this tile
        code = Signal(8, reset_less=True)
        m.d.comb += [
            more_rows.eq(rows_left > self._rows), more_tiles.eq(outputs_left > self._lanes), self.code.eq(code)]
        start_group, end_group = self._build_beats(m, command, activation)
        self._build_descriptors(m, command, outputs_left, rows_left, column, base, more_rows, more_tiles)

        def first_group():
            return [rows_left.eq(command.rows), activation.eq(command.activation), base.eq(command.dest)]

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
                m.d.sync += first_group()
                with m.If((command.k == 0) | (outputs_left == 0) | (command.rows == 0)
                          | command.activation[:5].any() | command.group_stride[:5].any()):
                    m.d.sync += code.eq(ErrorCode.BAD_FIELD)
                    m.next = "fault"
                with m.Else():
                    m.next = "group"
            with m.State("group"):
                # A scale taken with the wrong ``keep`` would stay stored.
                with m.If((activation + command.k)[:19] > self._depth):
                    m.d.sync += code.eq(ErrorCode.ACTIVATION_RANGE)
                    m.next = "fault"
                with m.Elif(~more_rows | self.no_scales_due):
                    m.d.comb += start_group.eq(1)
                    m.d.sync += self.keep.eq(more_rows)
                    m.next = "beats"
                with m.Else():
                    m.d.comb += self.starved.eq(1)
            with m.State("beats"):
                m.d.comb += self.starved.eq(~self.beat_valid)
                with m.If(end_group):
                    m.next = "next"
            with m.State("next"):
                with m.If(more_rows):
                    m.d.comb += [self.rewind.eq(self.no_scales_due), self.starved.eq(~self.no_scales_due)]
                    with m.If(self.no_scales_due):
                        m.d.sync += [
                            rows_left.eq(rows_left - self._rows), activation.eq(activation + command.group_stride),
                            base.eq(base + (command.dest_stride << exact_log2(self._rows))),
                        ]
                        m.next = "group"
                with m.Elif(more_tiles):
                    m.d.sync += [
                        *first_group(), outputs_left.eq(outputs_left - self._lanes),
                        column.eq(column + self._lanes // self._group_words),
                    ]
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

    def _build_beats(self, m, command, activation):
        """One group's beats. Returns its start (an input) and its last beat."""
        running, start_group, end_group = Signal(), Signal(), Signal()
        index = Signal(range(self._depth), reset_less=True)
        left = Signal(16, reset_less=True)        # beats after this one
        first_block = Signal(reset_less=True)
        last_of_block, last_of_group = Signal(), Signal()
        m.d.comb += [
            last_of_group.eq(left == 0), last_of_block.eq(last_of_group | index[:5].all()),
            self.beat_take.eq(running & self.beat_valid & (~last_of_block | (self.block_room & self.tile_room))),
            self.waits.eq(running & self.beat_valid & ~self.beat_take),
            self.index.eq(index),
            self.block_begin.eq(self.beat_take & (index[:5] == 0) & command.scaled),
            self.block_end.eq(self.beat_take & last_of_block), end_group.eq(self.beat_take & last_of_group),
            self.tile_valid.eq(end_group),
            self.job.first.eq(first_block), self.job.last.eq(last_of_group), self.job.scaled.eq(command.scaled),
            self.job.scale_block.eq(index >> 5),
        ]
        with m.If(self.beat_take):
            m.d.sync += [index.eq(index + 1), left.eq(left - 1), first_block.eq(first_block & ~last_of_block)]
        with m.If(start_group):
            m.d.sync += [running.eq(1), index.eq(activation), left.eq(command.k - 1), first_block.eq(1)]
        with m.Elif(end_group):
            m.d.sync += running.eq(0)
        return start_group, end_group

    def _build_descriptors(self, m, command, outputs_left, rows_left, column, base, more_rows, more_tiles):
        """What does not change within a group, registered before its last beat can come."""
        last_row = Signal.like(self.job.last_row, reset_less=True)
        count = Signal.like(self.tile.count, reset_less=True)
        m.d.sync += [
            last_row.eq(Mux(more_rows, self._rows, rows_left) - 1),
            count.eq(Mux(more_tiles, self._lanes, outputs_left)),
        ]
        m.d.comb += [
            self.job.last_row.eq(last_row),
            self.tile.last_row.eq(last_row), self.tile.count.eq(count),
            self.tile.base.eq(base), self.tile.stride.eq(command.dest_stride), self.tile.column.eq(column),
            self.tile.final.eq(~more_rows & ~more_tiles),
        ]
