"""Vector unit: carries out VECTOR commands."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Dest, Opcode, Operand, layout
from ..config import BLOCK, FORMATS
from ..ports import ActivationWrite, ScratchRead, ScratchWrite, UnitStatus
from ..registers import ErrorCode
from .fetch import OperandBuffer, OperandFetch
from .function import check_table
from .issue import SlotIssue, slot_layout
from .lanes import Lane
from .quantise import Quantiser, check_max_row
from .reduce import Reducer
from .write import ResultWriter

__all__ = ["VectorUnit", "REPEATED_GROUPS"]

REPEATED_GROUPS = 32
"""Groups that a row of d may have, at most, to be read once for all rows of a command (``d_stride`` 0)."""

ONE, MINUS_ZERO = 0x3F800000, 0x80000000


class VectorUnit(wiring.Component):
    """FP32 vector operations on rows in the scratchpad, as docs/numerics.md ("Vector unit") defines them.

    A command is checked, then its operands are fetched group by group while the groups before are computed; elements
    pass the lanes ``lanes`` a cycle. A group of ``group_words`` takes max(operands streamed, group_words / lanes)
    cycles; d does not count behind the first row where all rows share one of up to ``REPEATED_GROUPS``. The next
    command begins when the last write of the one before has been taken: about 12 cycles, the lanes' delay, and for A8 a
    block and about 15 cycles more, from command to command.

    A command is taken into a register when it begins, so that the next one can be brought while it runs. ``done``
    comes with its last cycle. An error leaves the unit stopped until it is reset.

    Parameters
    ----------
    lanes : int            elements a cycle, a power of two up to 8
    group_words : int      FP32 words of a scratchpad group, a power of two, at least ``lanes``
    tables : tuple of FunctionTable
    formats : tuple        of config.FORMATS: int8 has a quantiser, fp16 conversions
    activation_rows : int  INT8 rows of the activation buffer
    fp16_rows : int        its FP16 rows, 0 without format fp16
    max_row : int          longest row with one A8 scale, a multiple of 32
    multiply_dsps : int    multiplier primitives of a FP32 multiplier, 1 to 4

    Members
    -------
    command : In(stream of layout(Opcode.VECTOR))
    status : Out(UnitStatus)
    read : Out(ScratchRead)           answers within 14 cycles
    write : Out(ScratchWrite)         must be taken at once
    activation : Out(ActivationWrite)
    busy : Out(1)                     a command is in work

    Errors
    ------
    BAD_FIELD: n or rows zero, no such function, swap where a group has one word, a row of more than ``max_row``
    elements with one scale, an activation target that is not a multiple of 32, a destination in a format that the
    build has not, PACKED in FP16, a ring with steps other than 0 and 1 or with less elements than ``valid``.
    ACTIVATION_RANGE, SCRATCHPAD_RANGE: rows beyond the activation buffer's, or a fault at a port.
    """

    def __init__(self, *, lanes, group_words, tables, activation_rows, max_row, formats=("int8",), fp16_rows=0,
                 multiply_dsps=4):
        for name, value, low, high in (("lanes", lanes, 1, 8), ("group_words", group_words, lanes, 16)):
            if not (low <= value <= high and value & (value - 1) == 0):
                raise ValueError(f"{name} = {value}: must be a power of two from {low} to {high}")
        for name, value, high in (("activation_rows", activation_rows, 1 << 15), ("multiply_dsps", multiply_dsps, 4)):
            if not 1 <= value <= high:
                raise ValueError(f"{name} = {value}: must be from 1 to {high}")
        if not formats or not set(formats) <= set(FORMATS):
            raise ValueError(f"formats = {formats}: must name at least one of {', '.join(FORMATS)}, and nothing else")
        if ("fp16" in formats) != (fp16_rows > 0):
            raise ValueError(f"fp16_rows = {fp16_rows}: must be above 0 with format fp16, else 0")
        check_max_row(max_row)
        for table in tables:
            check_table(table)
        self._lanes, self._words, self._tables = lanes, group_words, tuple(tables)
        self._activation_rows, self._fp16_rows, self._max_row = activation_rows, fp16_rows, max_row
        self._int8, self._fp16 = "int8" in formats, "fp16" in formats
        self._lane = [Lane(tables=self._tables, multiply_dsps=multiply_dsps, fp16=self._fp16) for _ in range(lanes)]
        self._reducer = Reducer(lanes=lanes)
        self._quantiser = Quantiser(lanes=lanes, max_row=max_row) if self._int8 else None
        self._command = Signal(layout(Opcode.VECTOR), reset_less=True)   # the one in work
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.VECTOR))),
            "status": Out(UnitStatus()),
            "read": Out(ScratchRead(width=32 * group_words)),
            "write": Out(ScratchWrite(width=32 * group_words)),
            "activation": Out(ActivationWrite(lanes=lanes, fp16=self._fp16)),
            "busy": Out(1),
        })

    @property
    def _d_depth(self):
        """Groups in the buffer of d: those on their way through the lanes and a few to come, or those that repeat."""
        groups = -(-self._lane[0].d_delay * self._lanes // self._words) + 6
        return max(REPEATED_GROUPS, 1 << (groups - 1).bit_length())

    def elaborate(self, platform):
        m = Module()
        command, start = self._command, Signal()
        m.submodules.reducer = self._reducer
        if self._int8:
            m.submodules.quantiser = self._quantiser
        m.submodules.issue = issue = SlotIssue(lanes=self._lanes, group_words=self._words, reducer=self._reducer)
        m.submodules.fetch = fetch = OperandFetch(group_words=self._words, depths=(16, self._d_depth))
        m.submodules.writer = writer = ResultWriter(lanes=self._lanes, group_words=self._words,
                                                    int8_rows=self._activation_rows if self._int8 else 0,
                                                    fp16_rows=self._fp16_rows)
        for part in (issue, fetch, writer):
            m.d.comb += [part.command.eq(command), part.start.eq(start)]
        last = Signal(16, reset_less=True)
        m.d.comb += [
            issue.arrived.eq(fetch.arrived),
            issue.last.eq(last),
            fetch.last_group.eq(last >> self._words.bit_length() - 1),
        ]

        slots, halves = self._slots(m, issue)
        self._connect_scratchpad(m, fetch, writer)
        self._connect_lanes(m, start, fetch, slots)
        self._connect_results(m, writer, slots, halves)
        working = [issue.busy, *(slot.valid for slot in (*slots[1:], *halves)), self._reducer.busy, writer.busy]
        working += [self._quantiser.busy] if self._int8 else []
        self._control(m, start, last, Cat(working).any())
        return m

    def _slots(self, m, issue):
        """The slot tag after 0, 1, ... cycles, up to the one with t4; and those after it, up to the one with FP16."""
        slots, lane = [issue.slot], self._lane[0]
        for i in range((lane.half_delay if self._fp16 else lane.delay) + 1):
            slot = Signal(slot_layout(self._lanes), name=f"slot{i}")
            m.d.sync += slot.eq(slots[-1])
            if i == lane.delay + 1:  # a command without FP16 leaves nothing for the next one to find
                m.d.sync += slot.valid.eq(slots[-1].valid & self._command.half)
            slots.append(slot)
        return slots[:lane.delay + 2], slots[lane.delay + 2:]

    def _connect_scratchpad(self, m, fetch, writer):
        for member in ("valid", "address"):
            m.d.comb += getattr(self.read, member).eq(getattr(fetch.read, member))
        for member in ("ready", "data", "data_valid", "fault"):
            m.d.comb += getattr(fetch.read, member).eq(getattr(self.read, member))
        wiring.connect(m, writer.write, wiring.flipped(self.write))
        wiring.connect(m, writer.activation, wiring.flipped(self.activation))

    def _connect_lanes(self, m, start, fetch, slots):
        command, lane = self._command, self._lane[0]
        operands = {}
        for i, (name, kind, immediate, at, neutral) in enumerate((
            ("a", Operand.STREAM, 0, 0, ONE),
            ("b", Mux(command.square, Operand.STREAM, command.b_kind), command.b_immediate, 0, ONE),
            ("c", command.c_kind, command.c_immediate, lane.c_delay, MINUS_ZERO),
            ("d", command.d_kind, command.d_immediate, lane.d_delay, ONE),
        )):
            buffer = OperandBuffer(lanes=self._lanes, group_words=self._words, neutral=neutral,
                                   depth=self._d_depth if name == "d" else 16)
            m.submodules[f"buffer_{name}"] = operands[name] = buffer
            m.d.comb += [
                buffer.start.eq(start),
                buffer.kind.eq(kind),
                buffer.immediate.eq(immediate),
                buffer.write.eq(fetch.write[i]),
                buffer.data.eq(self.read.data),
                buffer.take.eq(slots[at].valid),
                buffer.row_end.eq(slots[at].row_end),
            ]
        # b is a itself: its buffer takes a's groups too.
        with m.If(command.square):
            m.d.comb += operands["b"].write.eq(fetch.write[0])
        m.d.comb += [
            operands["a"].swap.eq(command.swap),
            operands["b"].swap.eq(command.swap & command.square),
            operands["d"].repeat.eq(fetch.repeat),
            fetch.released.eq(Cat(operands["c"].released, operands["d"].released)),
        ]
        for i, lane in enumerate(self._lane):
            m.submodules[f"lane{i}"] = lane
            m.d.comb += [lane.function.eq(command.function), lane.c_negate.eq(command.c_negate)]
            m.d.comb += [getattr(lane, name).eq(buffer.o.word_select(i, 32)) for name, buffer in operands.items()]

    def _connect_results(self, m, writer, slots, halves):
        command, reducer, quantiser = self._command, self._reducer, self._quantiser
        t3, t4 = (Cat(getattr(lane, name) for lane in self._lane) for name in ("t3", "t4"))
        with_t3, with_t4 = slots[self._lane[0].d_delay + 1], slots[-1]
        m.d.comb += [
            reducer.reduce.eq(command.reduce),
            reducer.index.eq(command.index),
            reducer.carry.eq(command.carry),
            reducer.slot.eq(with_t3),
            reducer.i.eq(t3),
            writer.slot.eq(with_t4),
            writer.t4.eq(t4),
            writer.result_valid.eq(reducer.result_valid),
            writer.result.eq(reducer.result),
            reducer.result_ready.eq(writer.result_ready),
        ]
        if self._fp16:
            with m.If(command.half):
                m.d.comb += [
                    writer.slot.eq(halves[-1]),
                    writer.t4.eq(Cat(Cat(lane.half, Const(0, 16)) for lane in self._lane)),
                ]
        if self._int8:
            m.d.comb += [
                quantiser.row_scale.eq(command.row_scale),
                quantiser.slot.eq(with_t4),
                quantiser.slot.valid.eq(with_t4.valid & self._quantised(command)),
                quantiser.i.eq(t4),
                writer.q_valid.eq(quantiser.o_valid),
                writer.q.eq(quantiser.o),
                writer.q_first.eq(quantiser.o_first),
                writer.q_row_end.eq(quantiser.o_row_end),
                writer.q_code.eq(quantiser.o_code),
            ]

    @staticmethod
    def _quantised(command):
        return (command.dest == Dest.PACKED) | ((command.dest == Dest.ACTIVATION) & ~command.half)

    def _control(self, m, start, last, working):
        """Take, check and start commands; ``last`` is n - 1 of the one in work."""
        command, status = self._command, self.status
        offered = self.command.payload
        field, rows = self._checks(offered)
        bad_field, bad_rows = Signal(), Signal()
        fault = Signal(8)   # seen a cycle later, no later than ``running`` falls
        m.d.sync += fault.eq(0)
        with m.If((self.read.data_valid & self.read.fault) | (self.write.valid & self.write.fault)):
            m.d.sync += fault.eq(ErrorCode.SCRATCHPAD_RANGE)
        with m.Elif((self.activation.valid | self.activation.scale_valid) & self.activation.fault):
            m.d.sync += fault.eq(ErrorCode.ACTIVATION_RANGE)

        running, take = Signal(), Signal()
        m.d.sync += running.eq(start | working)
        m.d.comb += self.command.ready.eq(take)
        with m.If(take):
            m.d.sync += [command.eq(offered), last.eq(offered.n - 1), bad_field.eq(field), bad_rows.eq(rows)]
        with m.FSM(name="control") as fsm:
            with m.State("IDLE"):
                m.d.comb += take.eq(1)
                with m.If(self.command.valid):
                    m.next = "START"
            with m.State("START"):
                with m.If(bad_field | bad_rows):
                    m.d.comb += [
                        status.error.eq(1),
                        status.code.eq(Mux(bad_field, ErrorCode.BAD_FIELD, ErrorCode.ACTIVATION_RANGE)),
                    ]
                    m.next = "STOPPED"
                with m.Else():
                    m.d.comb += start.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(fault != 0):
                    m.d.comb += [status.error.eq(1), status.code.eq(fault)]
                    m.next = "STOPPED"
                with m.Elif(~running):
                    m.d.comb += status.done.eq(1)
                    m.next = "IDLE"
                    with m.If(self.command.valid):
                        m.next = "START"
                m.d.comb += take.eq(~running)   # behind a fault nothing matters any more
            with m.State("STOPPED"):
                pass
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))

    def _checks(self, command):
        """Whether something is wrong with a command's fields, and whether its rows are not in the activation buffer."""
        activation, quantised = command.dest == Dest.ACTIVATION, self._quantised(command)
        no_format = command.half & (command.dest == Dest.PACKED) if self._fp16 else command.half
        if not self._int8:
            no_format = no_format | quantised
        rows = Mux(command.half, self._fp16_rows, self._activation_rows)
        bad_field = (
            (command.n == 0) | (command.rows == 0)
            | (command.function > len(self._tables))
            | (command.swap & (self._words == 1))
            | (quantised & command.row_scale & (command.n > self._max_row))
            | (activation & ((command.target % BLOCK != 0) | (command.group_stride % BLOCK != 0)))
            | no_format
            | ((command.ring != 0) & ((command.valid_step > 1) | (command.ring < command.valid))))
        return bad_field, activation & (rows <= command.target_stride)
