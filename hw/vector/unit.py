"""Vector unit: carries out VECTOR commands."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import Dest, Opcode, Operand, Reduce, layout
from ..config import BLOCK
from ..ports import ActivationWrite, ScratchRead, ScratchWrite, UnitStatus
from ..registers import ErrorCode
from .fetch import OperandBuffer, OperandFetch
from .function import check_table
from .issue import SlotIssue, slot_layout
from .lanes import Lane
from .quantise import Quantiser, check_max_row
from .reduce import Reducer
from .write import ResultWriter

__all__ = ["VectorUnit"]

ONE, MINUS_ZERO = 0x3F800000, 0x80000000


class VectorUnit(wiring.Component):
    """FP32 vector operations on rows in the scratchpad, as docs/numerics.md ("Vector unit") defines them.

    A command is checked, then its operands are fetched group by group while the groups before are computed; elements
    pass the lanes ``lanes`` a cycle. A group of ``group_words`` takes max(operands streamed, group_words / lanes)
    cycles. The next command begins when the last write of the one before has been taken: about 12 cycles, the lanes'
    delay, and for A8 a block and about 15 cycles more, from command to command.

    The command stays valid while it runs; ``ready`` is high in its last cycle, beside ``done``. An error leaves the
    unit stopped until it is reset.

    Parameters
    ----------
    lanes : int            elements a cycle, a power of two up to 8
    group_words : int      FP32 words of a scratchpad group, a power of two, at least ``lanes``
    tables : tuple of FunctionTable
    activation_rows : int  rows of the activation buffer
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
    BAD_FIELD: n or rows zero, no such function or reduction, swap where a group has one word, a row of more than
    ``max_row`` elements with one scale, an activation target that is not a multiple of 32.
    ACTIVATION_RANGE, SCRATCHPAD_RANGE: rows beyond the activation buffer's, or a fault at a port.
    """

    def __init__(self, *, lanes, group_words, tables, activation_rows, max_row, multiply_dsps=4):
        for name, value, low, high in (("lanes", lanes, 1, 8), ("group_words", group_words, lanes, 16)):
            if not (low <= value <= high and value & (value - 1) == 0):
                raise ValueError(f"{name} = {value}: must be a power of two from {low} to {high}")
        for name, value, high in (("activation_rows", activation_rows, 1 << 15), ("multiply_dsps", multiply_dsps, 4)):
            if not 1 <= value <= high:
                raise ValueError(f"{name} = {value}: must be from 1 to {high}")
        check_max_row(max_row)
        for table in tables:
            check_table(table)
        self._lanes, self._words, self._tables = lanes, group_words, tuple(tables)
        self._activation_rows, self._max_row = activation_rows, max_row
        self._lane = [Lane(tables=self._tables, multiply_dsps=multiply_dsps) for _ in range(lanes)]
        self._reducer = Reducer(lanes=lanes)
        self._quantiser = Quantiser(lanes=lanes, max_row=max_row)
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.VECTOR))),
            "status": Out(UnitStatus()),
            "read": Out(ScratchRead(width=32 * group_words)),
            "write": Out(ScratchWrite(width=32 * group_words)),
            "activation": Out(ActivationWrite(lanes=lanes)),
            "busy": Out(1),
        })

    @property
    def _d_depth(self):
        """Groups in the buffer of d: those on their way through the lanes, and a few to come."""
        groups = -(-self._lane[0].d_delay * self._lanes // self._words) + 6
        return max(16, 1 << (groups - 1).bit_length())

    def elaborate(self, platform):
        m = Module()
        command, start = self.command.payload, Signal()
        m.submodules.reducer, m.submodules.quantiser = self._reducer, self._quantiser
        m.submodules.issue = issue = SlotIssue(lanes=self._lanes, group_words=self._words, reducer=self._reducer)
        m.submodules.fetch = fetch = OperandFetch(group_words=self._words, depths=(16, self._d_depth))
        m.submodules.writer = writer = ResultWriter(lanes=self._lanes, group_words=self._words)
        for part in (issue, fetch, writer):
            m.d.comb += [part.command.eq(command), part.start.eq(start)]
        m.d.comb += issue.arrived.eq(fetch.arrived)
        m.d.sync += fetch.last_group.eq((command.n - 1) >> self._words.bit_length() - 1)

        slots = self._slots(m, issue)
        self._connect_scratchpad(m, fetch, writer)
        self._connect_lanes(m, start, fetch, slots)
        self._connect_results(m, writer, slots)
        pipeline = Cat(slot.valid for slot in slots[1:]).any()
        self._control(m, start, issue.busy | pipeline | self._reducer.busy | self._quantiser.busy | writer.busy)
        return m

    def _slots(self, m, issue):
        """The slot tag after 0, 1, ... cycles, up to the one with t4."""
        slots = [issue.slot]
        for i in range(self._lane[0].delay + 1):
            slot = Signal(slot_layout(self._lanes), name=f"slot{i}")
            m.d.sync += slot.eq(slots[-1])
            slots.append(slot)
        return slots

    def _connect_scratchpad(self, m, fetch, writer):
        for member in ("valid", "address"):
            m.d.comb += getattr(self.read, member).eq(getattr(fetch.read, member))
        for member in ("ready", "data", "data_valid", "fault"):
            m.d.comb += getattr(fetch.read, member).eq(getattr(self.read, member))
        wiring.connect(m, writer.write, wiring.flipped(self.write))
        wiring.connect(m, writer.activation, wiring.flipped(self.activation))

    def _connect_lanes(self, m, start, fetch, slots):
        command, lane = self.command.payload, self._lane[0]
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
            fetch.released.eq(Cat(operands["c"].released, operands["d"].released)),
        ]
        for i, lane in enumerate(self._lane):
            m.submodules[f"lane{i}"] = lane
            m.d.comb += [lane.function.eq(command.function), lane.c_negate.eq(command.c_negate)]
            m.d.comb += [getattr(lane, name).eq(buffer.o.word_select(i, 32)) for name, buffer in operands.items()]

    def _connect_results(self, m, writer, slots):
        command, reducer, quantiser = self.command.payload, self._reducer, self._quantiser
        t3, t4 = (Cat(getattr(lane, name) for lane in self._lane) for name in ("t3", "t4"))
        with_t3, with_t4 = slots[self._lane[0].d_delay + 1], slots[-1]
        quantised = (command.dest == Dest.ACTIVATION) | (command.dest == Dest.PACKED)
        m.d.comb += [
            reducer.reduce.eq(command.reduce),
            reducer.slot.eq(with_t3),
            reducer.i.eq(t3),
            quantiser.row_scale.eq(command.row_scale),
            quantiser.slot.eq(with_t4),
            quantiser.slot.valid.eq(with_t4.valid & quantised),
            quantiser.i.eq(t4),
            writer.slot.eq(with_t4),
            writer.slot.valid.eq(with_t4.valid & (command.dest == Dest.FP32)),
            writer.t4.eq(t4),
            writer.q_valid.eq(quantiser.o_valid),
            writer.q.eq(quantiser.o),
            writer.q_first.eq(quantiser.o_first),
            writer.q_row_end.eq(quantiser.o_row_end),
            writer.q_code.eq(quantiser.o_code),
            writer.result_valid.eq(reducer.result_valid),
            writer.result.eq(reducer.result),
            reducer.result_ready.eq(writer.result_ready),
        ]

    def _control(self, m, start, working):
        command, status = self.command.payload, self.status
        bad_field, bad_rows = self._checks(m, command)
        fault = Signal(8)
        with m.If((self.read.data_valid & self.read.fault) | (self.write.valid & self.write.fault)):
            m.d.comb += fault.eq(ErrorCode.SCRATCHPAD_RANGE)
        with m.Elif((self.activation.valid | self.activation.scale_valid) & self.activation.fault):
            m.d.comb += fault.eq(ErrorCode.ACTIVATION_RANGE)

        running = Signal()
        m.d.sync += running.eq(start | working)
        with m.FSM(name="control") as fsm:
            with m.State("IDLE"):
                with m.If(self.command.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
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
                    m.d.comb += [status.done.eq(1), self.command.ready.eq(1)]
                    m.next = "IDLE"
            with m.State("STOPPED"):
                pass
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))

    def _checks(self, m, command):
        """What is wrong with a command's fields, a cycle after they came."""
        bad_field, bad_rows = Signal(), Signal()
        activation = command.dest == Dest.ACTIVATION
        quantised = activation | (command.dest == Dest.PACKED)
        m.d.sync += [
            bad_field.eq(
                (command.n == 0) | (command.rows == 0)
                | (command.function > len(self._tables))
                | (command.reduce > Reduce.MAX)
                | (command.swap & (self._words == 1))
                | (quantised & command.row_scale & (command.n > self._max_row))
                | (activation & (command.target % BLOCK != 0))),
            bad_rows.eq(activation & (command.rows + command.target_stride > self._activation_rows)),
        ]
        return bad_field, bad_rows
