"""The matmul engine: weights from the prefetch buffer times activations, into the scratchpad."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Opcode, layout
from ..config import BLOCK, FORMATS
from ..ports import ActivationWrite, ScratchWrite, UnitStatus, WeightRead
from ..registers import ErrorCode
from .accumulate import BlockAccumulate
from .activations import ActivationBuffer
from .array import PeArray
from .drain import Drain
from .fp16_array import Fp16Array
from .fp16_results import Fp16Results
from .issue import MatmulIssue
from .mac_array import MacArray
from .sums import any_of
from .unpack import Unpack

__all__ = ["MatmulEngine"]

FP16_TILE_STEPS = 64
"""Steps that an FP16 tile's results take at most: as many as a head has dimensions, in the shortest usual reduction."""


class MatmulEngine(wiring.Component):
    """Carries out MATMUL commands: out[r, n] = sum over k of activation[r, k] * weight[n, k], with block scales in INT8
    and INT4, exact in FP16, to the bit as docs/numerics.md defines it. INT4 is INT8 with narrower weights in memory.

    A tile of ``lanes`` outputs takes k beats for each group of ``rows`` activation rows, in FP16 a tile of
    ``lanes / 2`` for each ``fp16_rows``; a finished tile drains while the next one is computed, and a command follows
    its predecessor in the same way, of whatever format. Only the third of three commands in changing formats waits
    until the first one's results have left the array.

    Throughput: rows * lanes (fp16_rows * lanes / 2) multiply-accumulates a cycle, and 3 cycles between commands, if the
    prefetch buffer keeps up and results drain: (rows in use) * outputs / min(accumulate_lanes, group_words) cycles a
    tile. INT8, INT4: a block's 32 beats take no less than (rows in use) * lanes / accumulate_lanes steps, with a
    minimum twice as many. FP16: a tile's k beats take no less than 1 + (rows in use) * (lanes / 2) / (sums rounded a
    cycle), 65 at most, nor than 8 cycles.

    Errors: BAD_FIELD where k, n or rows is 0, ``activation`` or ``group_stride`` no multiple of 32, a format missing,
    FP16 with ``scaled``, INT4 without, ``minimum`` without INT4; ACTIVATION_RANGE where a row group's indices leave the
    buffer; SCRATCHPAD_RANGE where a result leaves the scratchpad. After an error the engine must be reset.

    Parameters
    ----------
    formats, rows, fp16_rows, lanes, accumulate_lanes, activation_depth, group_words, vector_lanes, pe_dsps
        as in ``AcceleratorConfig``. Without int8 ``rows`` means nothing, and accumulate_lanes only groups results.
    width : int    bits of a prefetched beat: 8 * lanes, as None means, or 4 * lanes
    compact : bool for parts with few logic cells, no LUT RAM and a slow clock: short queues and buffers are made for
                   block RAM, and no deeper than needed, and each PE is a multiplier primitive. Only with rows = 1,
                   accumulate_lanes = 1, vector_lanes = 1, pe_dsps = 0 and INT8 alone; no beat may come in the cycle
                   behind another.

    Members
    -------
    command : In(stream)                MATMUL commands
    status : Out(UnitStatus)
    weights : Out(WeightRead)           prefetch buffer
    scale_held : Out(1)                 where compact: the ``weights.scale`` taken must stay, and no other be valid
    activation : In(ActivationWrite)    the vector unit's way into the activation buffer
    write : Out(ScratchWrite)           results
    busy : Out(1)                       a command is in work
    took_beat : Out(1)                  the array took a beat
    stall_weights : Out(1)              a command waited for beats or scales
    stall_drain : Out(1)                a beat or command waited for steps or results before it
    """

    def __init__(self, *, rows, lanes, accumulate_lanes, activation_depth, group_words, vector_lanes, pe_dsps,
                 formats=("int8",), fp16_rows=0, width=None, compact=False):
        if not formats or not set(formats) <= set(FORMATS):
            raise ValueError(f"formats must name at least one of {', '.join(FORMATS)}, and nothing else: {formats!r}")
        if ("fp16" in formats) != (fp16_rows > 0):
            raise ValueError(f"fp16_rows must be above 0 with format fp16, else 0, not {fp16_rows!r}")
        if "int4" in formats and "int8" not in formats:
            raise ValueError(f"formats must have int8 beside int4, not {formats!r}")
        rows = rows if "int8" in formats else 0
        if rows * lanes > BLOCK * accumulate_lanes:
            raise ValueError(f"accumulate_lanes must be at least rows * lanes / {BLOCK} = {rows * lanes // BLOCK}, "
                             f"not {accumulate_lanes!r}")
        most = lanes // 2 if fp16_rows else lanes
        if group_words > most:
            raise ValueError(f"group_words must be at most {'lanes / 2' if fp16_rows else 'lanes'} = {most}, "
                             f"not {group_words!r}")
        if not 0 <= pe_dsps <= rows * lanes // 2:
            raise ValueError(f"pe_dsps must be from 0 to rows * lanes / 2 = {rows * lanes // 2}, not {pe_dsps!r}")
        if compact and (rows, accumulate_lanes, pe_dsps, *formats) != (1, 1, 0, "int8"):
            raise ValueError(f"compact must be False with rows = {rows}, accumulate_lanes = {accumulate_lanes}, "
                             f"pe_dsps = {pe_dsps} and formats {formats!r}: it takes 1, 1, 0 and int8")
        self._rows, self._fp16_rows, self._lanes, self._fp16_lanes = rows, fp16_rows, lanes, lanes // 2
        self._outputs = accumulate_lanes if rows else min(accumulate_lanes, lanes // 2)
        self._depth, self._group_words, self._vector_lanes = activation_depth, group_words, vector_lanes
        self._compact = compact
        self._dsps, self._int4, self._width = pe_dsps, "int4" in formats, width or 8 * lanes
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.MATMUL))), "status": Out(UnitStatus()),
            "weights": Out(WeightRead(width=self._width, lanes=lanes)),
            "activation": In(ActivationWrite(lanes=vector_lanes, fp16=fp16_rows > 0)),
            "write": Out(ScratchWrite(width=32 * group_words)), **({"scale_held": Out(1)} if compact else {}),
            "busy": Out(1), "took_beat": Out(1), "stall_weights": Out(1), "stall_drain": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # One tile of either format; LUT RAM is 16 deep at least.
        results = max(1 if self._compact else 16, self._rows * self._lanes // self._outputs,
                      self._fp16_rows * self._fp16_lanes // min(self._outputs, self._fp16_lanes))
        m.submodules.issue = issue = MatmulIssue(
            rows=self._rows, lanes=self._lanes, fp16_rows=self._fp16_rows, depth=self._depth,
            group_words=self._group_words, int4=self._int4, index_beats=8 * self._lanes // self._width)
        m.submodules.activations = activations = ActivationBuffer(
            rows=self._rows, fp16_rows=self._fp16_rows, depth=self._depth, lanes=self._vector_lanes,
            compact=self._compact)
        m.submodules.drain = drain = Drain(
            rows=max(self._rows, self._fp16_rows), lanes=self._lanes if self._rows else self._fp16_lanes,
            outputs=self._outputs, group_words=self._group_words, entries=results,
            halves=self._rows > 0 and self._fp16_rows > 0, lut_ram=not self._compact)
        wiring.connect(m, wiring.flipped(self.command), issue.command)
        wiring.connect(m, wiring.flipped(self.activation), activations.write)
        wiring.connect(m, wiring.flipped(self.write), drain.write)
        beat = self._build_beats(m, issue, activations)
        accumulate = self._build_int8(m, issue, activations, beat, drain, results) if self._rows else None
        fp16 = self._build_fp16(m, issue, activations, beat, drain, results) if self._fp16_rows else None
        self._build_results(m, issue, accumulate, fp16, drain)
        self._build_status(m, issue, accumulate, drain)
        return m

    def _build_beats(self, m, issue, activations):
        """Weights wait for the activation buffer; returns them."""
        weights = self.weights
        m.submodules.unpack = unpack = Unpack(width=self._width, lanes=self._lanes)
        m.d.comb += [
            unpack.beat.eq(weights.beat), weights.beat_take.eq(unpack.beat_take),
            unpack.int4.eq(issue.int4), unpack.unsigned.eq(issue.unsigned),
            unpack.odd.eq(issue.index[0]), unpack.last.eq(issue.tile_valid), unpack.take.eq(issue.beat_take),
            issue.beat_valid.eq(unpack.valid if unpack.halves else weights.beat_valid),
            *(getattr(weights, name).eq(getattr(issue, name))
              for name in ("keep", "rewind", "rewind_scales", "turn", "length")),
            activations.index.eq(issue.index),
        ]
        if unpack.halves:
            m.d.comb += [unpack.beat_valid.eq(weights.beat_valid), unpack.running.eq(issue.running)]
        beat = unpack.weights
        for stage in range(activations.delay):
            next_beat = Signal.like(beat, name=f"beat_{stage}", reset_less=True)
            m.d.sync += next_beat.eq(beat)
            beat = next_beat
        return beat

    def _build_array(self, m, array, valid, last, beat, activations):
        """Operands of an array; ``valid`` and ``last`` wait as the weights do."""
        for stage in range(activations.delay):
            next_valid, next_last = Signal(name=f"valid_{stage}"), Signal(name=f"last_{stage}")
            m.d.sync += [next_valid.eq(valid), next_last.eq(last)]
            valid, last = next_valid, next_last
        m.d.comb += [
            array.weights.eq(beat), array.activations.eq(activations.data),
            array.valid.eq(valid), array.last.eq(last),
        ]

    def _build_int8(self, m, issue, activations, beat, drain, results):
        sizes = {"rows": self._rows, "lanes": self._lanes, "outputs": self._outputs}
        weights = self.weights
        m.submodules.array = array = MacArray(lanes=self._lanes) if self._compact else PeArray(
            **sizes, dsps=self._dsps, minimum=self._int4)
        m.submodules.accumulate = accumulate = BlockAccumulate(
            **sizes, blocks=self._depth // BLOCK, results=results, array_delay=activations.delay + array.delay,
            minimum=self._int4, compact=self._compact)
        self._build_array(m, array, issue.beat_take & ~issue.half, issue.block_end, beat, activations)
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
        ]
        if self._compact:
            m.d.comb += self.scale_held.eq(accumulate.scale_held)
        if self._int4:
            m.d.comb += array.step_minimum.eq(accumulate.step_minimum)
        return accumulate

    def _build_fp16(self, m, issue, activations, beat, drain, results):
        sizes = {"rows": self._fp16_rows, "lanes": self._fp16_lanes, "depth": self._depth}
        outputs = min(self._outputs, self._fp16_lanes)
        round_lanes = min(max(1, self._fp16_rows * self._fp16_lanes // FP16_TILE_STEPS), outputs)
        m.submodules.fp16_array = array = Fp16Array(**sizes, outputs=round_lanes)
        m.submodules.fp16_results = fp16 = Fp16Results(
            **sizes, round_lanes=round_lanes, outputs=outputs, results=results,
            array_delay=activations.delay + Fp16Array.delay)
        tile_end = issue.tile_valid & issue.half
        self._build_array(m, array, issue.beat_take & issue.half, tile_end, beat, activations)
        m.d.comb += [
            fp16.tile_end.eq(tile_end), fp16.last_row.eq(issue.tile.last_row), issue.fp16_room.eq(fp16.room),
            array.step.eq(fp16.step), array.step_row.eq(fp16.step_row), array.step_column.eq(fp16.step_column),
            fp16.sums.eq(array.sums),
        ]
        return fp16

    def _build_results(self, m, issue, accumulate, fp16, drain):
        """One result buffer; results of a format come only when those of the other one before it have."""
        sources = [source for source in (accumulate, fp16) if source is not None]
        m.d.comb += [
            *(source.free.eq(drain.free) for source in sources), drain.result.eq(sources[-1].result),
            drain.result_valid.eq(any_of([source.result_valid for source in sources])),
            drain.claim.eq(any_of([source.claim for source in sources])),
            drain.tile_valid.eq(issue.tile_valid), drain.tile.eq(issue.tile), issue.tile_room.eq(drain.room),
        ]
        if len(sources) == 2:
            with m.If(~fp16.result_valid):
                m.d.comb += drain.result.eq(accumulate.result)
            m.d.comb += [
                accumulate.hold.eq(~issue.half & ~fp16.settled), fp16.hold.eq(issue.half & ~accumulate.settled),
                issue.other_settled.eq(Mux(issue.half, accumulate.settled, fp16.settled)),
            ]

    def _build_status(self, m, issue, accumulate, drain):
        idle = accumulate.idle if accumulate is not None else Const(1)
        for_scales = accumulate.waits_for_scales if accumulate is not None else Const(0)
        m.d.comb += [
            issue.finished.eq(idle & drain.idle),
            self.status.done.eq(drain.done), self.status.error.eq(issue.error | drain.error),
            self.busy.eq(~issue.idle | ~idle | ~drain.idle),
            self.took_beat.eq(issue.beat_take),
            self.stall_weights.eq(issue.starved | (issue.waits & for_scales)),
            self.stall_drain.eq(issue.waits & ~for_scales),
            self.status.code.eq(issue.code),
        ]
        with m.If(drain.error):
            m.d.comb += self.status.code.eq(ErrorCode.SCRATCHPAD_RANGE)
