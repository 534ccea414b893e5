"""The matmul engine: weights from the prefetch buffer times activations, into the scratchpad."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Opcode, layout
from ..config import BLOCK
from ..ports import ActivationWrite, ScratchWrite, UnitStatus, WeightRead
from ..registers import ErrorCode
from .accumulate import BlockAccumulate
from .activations import ActivationBuffer
from .array import PeArray
from .drain import Drain
from .issue import MatmulIssue

__all__ = ["MatmulEngine"]


class MatmulEngine(wiring.Component):
    """Carries out MATMUL commands: out[r, n] = sum over k of activation[r, k] * weight[n, k], with block scales, to the
    bit as docs/numerics.md defines it.

    A tile of ``lanes`` outputs takes k beats for each group of ``rows`` activation rows; a finished tile drains while
    the next one is computed, and a command follows its predecessor in the same way.
    Throughput: rows * lanes multiply-accumulates a cycle, if the prefetch buffer keeps up, a block's 32 beats take no
    less than (rows in use) * lanes / accumulate_lanes steps, and results drain: (rows in use) * lanes /
    min(accumulate_lanes, group_words) cycles a tile.

    Errors: BAD_FIELD where k, n or rows is 0, or ``activation`` or ``group_stride`` no multiple of 32; ACTIVATION_RANGE
    where a row group's indices leave the buffer; SCRATCHPAD_RANGE where a result leaves the scratchpad. After an error
    the engine must be reset.

    Parameters
    ----------
    rows, lanes, accumulate_lanes, activation_depth, group_words, vector_lanes, pe_dsps : int
        as in ``AcceleratorConfig``

    Members
    -------
    command : In(stream)                MATMUL commands
    status : Out(UnitStatus)
    weights : Out(WeightRead)           prefetch buffer
    activation : In(ActivationWrite)    the vector unit's way into the activation buffer
    write : Out(ScratchWrite)           results
    busy : Out(1)                       a command is in work
    took_beat : Out(1)                  the array took a beat
    stall_weights : Out(1)              a command waited for beats or scales
    stall_drain : Out(1)                a beat waited for steps or results before it
    """

    def __init__(self, *, rows, lanes, accumulate_lanes, activation_depth, group_words, vector_lanes, pe_dsps):
        if rows * lanes > BLOCK * accumulate_lanes:
            raise ValueError(f"accumulate_lanes must be at least rows * lanes / {BLOCK} = {rows * lanes // BLOCK}, "
                             f"not {accumulate_lanes!r}")
        if group_words > lanes:
            raise ValueError(f"group_words must be at most lanes = {lanes}, not {group_words!r}")
        if not 0 <= pe_dsps <= rows * lanes // 2:
            raise ValueError(f"pe_dsps must be from 0 to rows * lanes / 2 = {rows * lanes // 2}, not {pe_dsps!r}")
        self._rows, self._lanes, self._outputs = rows, lanes, accumulate_lanes
        self._depth, self._group_words, self._vector_lanes = activation_depth, group_words, vector_lanes
        self._dsps = pe_dsps
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.MATMUL))), "status": Out(UnitStatus()),
            "weights": Out(WeightRead(width=8 * lanes)), "activation": In(ActivationWrite(lanes=vector_lanes)),
            "write": Out(ScratchWrite(width=32 * group_words)),
            "busy": Out(1), "took_beat": Out(1), "stall_weights": Out(1), "stall_drain": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        sizes = {"rows": self._rows, "lanes": self._lanes}
        results = max(16, self._rows * self._lanes // self._outputs)  # one tile; LUT RAM is 16 deep at least
        m.submodules.issue = issue = MatmulIssue(**sizes, depth=self._depth, group_words=self._group_words)
        m.submodules.activations = activations = ActivationBuffer(
            rows=self._rows, depth=self._depth, lanes=self._vector_lanes)
        m.submodules.array = array = PeArray(**sizes, outputs=self._outputs, dsps=self._dsps)
        m.submodules.accumulate = accumulate = BlockAccumulate(
            **sizes, outputs=self._outputs, blocks=self._depth // BLOCK, results=results,
            array_delay=ActivationBuffer.delay + PeArray.delay)
        m.submodules.drain = drain = Drain(
            **sizes, outputs=self._outputs, group_words=self._group_words, entries=results)
        wiring.connect(m, wiring.flipped(self.command), issue.command)
        wiring.connect(m, wiring.flipped(self.activation), activations.write)
        wiring.connect(m, wiring.flipped(self.write), drain.write)
        self._build_beats(m, issue, activations, array)
        self._build_accumulate(m, issue, activations, array, accumulate, drain)
        self._build_status(m, issue, accumulate, drain)
        return m

    def _build_beats(self, m, issue, activations, array):
        """Weights, valid and last wait for the activation buffer."""
        weights = self.weights
        m.d.comb += [
            issue.beat_valid.eq(weights.beat_valid), weights.beat_take.eq(issue.beat_take),
            weights.keep.eq(issue.keep), weights.rewind.eq(issue.rewind),
            activations.index.eq(issue.index), array.activations.eq(activations.data),
        ]
        beat, valid, last = weights.beat, issue.beat_take, issue.block_end
        for stage in range(ActivationBuffer.delay):
            next_beat = Signal.like(beat, name=f"beat_{stage}", reset_less=True)
            next_valid, next_last = Signal(name=f"valid_{stage}"), Signal(name=f"last_{stage}")
            m.d.sync += [next_beat.eq(beat), next_valid.eq(valid), next_last.eq(last)]
            beat, valid, last = next_beat, next_valid, next_last
        m.d.comb += [array.weights.eq(beat), array.valid.eq(valid), array.last.eq(last)]

    def _build_accumulate(self, m, issue, activations, array, accumulate, drain):
        weights = self.weights
        m.d.comb += [
            accumulate.block_begin.eq(issue.block_begin), accumulate.block_end.eq(issue.block_end),
            accumulate.job.eq(issue.job), issue.block_room.eq(accumulate.room),
            issue.no_scales_due.eq(accumulate.no_scales_due),
            accumulate.scale_valid.eq(weights.scale_valid), accumulate.scale.eq(weights.scale),
            weights.scale_take.eq(accumulate.scale_take),
            array.step.eq(accumulate.step), array.step_row.eq(accumulate.step_row),
            array.step_column.eq(accumulate.step_column), accumulate.sums.eq(array.sums),
            activations.scale_row.eq(accumulate.scale_row), activations.scale_block.eq(accumulate.scale_block),
            accumulate.code.eq(activations.code),
            drain.result_valid.eq(accumulate.result_valid), drain.result.eq(accumulate.result),
            accumulate.result_freed.eq(drain.freed),
            drain.tile_valid.eq(issue.tile_valid), drain.tile.eq(issue.tile), issue.tile_room.eq(drain.room),
        ]

    def _build_status(self, m, issue, accumulate, drain):
        m.d.comb += [
            issue.finished.eq(accumulate.idle & drain.idle),
            self.status.done.eq(drain.done), self.status.error.eq(issue.error | drain.error),
            self.busy.eq(~issue.idle | ~accumulate.idle | ~drain.idle),
            self.took_beat.eq(issue.beat_take),
            self.stall_weights.eq(issue.starved | (issue.waits & accumulate.waits_for_scales)),
            self.stall_drain.eq(issue.waits & ~accumulate.waits_for_scales),
            self.status.code.eq(issue.code),
        ]
        with m.If(drain.error):
            m.d.comb += self.status.code.eq(ErrorCode.SCRATCHPAD_RANGE)
