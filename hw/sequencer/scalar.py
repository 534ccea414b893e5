"""Scalar registers and their small ALU."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import REGISTERS, Opcode, ScalarOp, layout
from ..registers import ErrorCode
from .fetch import WordRead

__all__ = ["ScalarUnit"]


class ScalarUnit(wiring.Component):
    """Sixteen registers of 32 bits (register 0 is zero) and one operation at a time.

    Shifts go one bit and products one bit of the second operand a cycle, up to its highest one: programs need a handful
    for each token, and a barrel shifter or multiplier would cost more than it saves. Latency 5 cycles, up to 37 for
    SHL, SHR and MUL; READ takes 7 and the memory's time.

    Members
    -------
    command : In(stream)             SCALAR command; taken when its result is written
    put, put_index, put_value : In   write a register (arguments at start, loop counts); not during a command
    index : In(4), value : Out(32)   combinational read port; the unit's own while a command is in work
    memory : Out(WordRead)           of READ
    error : Out(8)                   ErrorCode of a command that cannot be carried out; it is not taken
    """

    command: In(stream.Signature(layout(Opcode.SCALAR)))
    put: In(1)
    put_index: In(range(REGISTERS))
    put_value: In(32)
    index: In(range(REGISTERS))
    value: Out(32)
    memory: Out(WordRead())
    error: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = memory.Memory(shape=32, depth=REGISTERS, init=[])
        write, read = registers.write_port(), registers.read_port(domain="comb")
        command = self.command.payload
        left, right, result = Signal(32), Signal(32), Signal(32)

        m.d.comb += [
            read.addr.eq(self.index), self.value.eq(read.data),
            write.addr.eq(self.put_index), write.data.eq(self.put_value),
            write.en.eq(self.put & (self.put_index != 0)),
            self.memory.region.eq(command.region), self.memory.offset.eq(result),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.command.valid):
                    m.d.comb += read.addr.eq(command.rs)
                    m.d.sync += left.eq(read.data)
                    m.next = "RIGHT"
            with m.State("RIGHT"):
                m.d.comb += read.addr.eq(command.rt)
                m.d.sync += [right.eq(read.data), result.eq(0)]
                m.next = "IMMEDIATE"
            with m.State("IMMEDIATE"):
                m.d.sync += right.eq(right + command.immediate)
                m.next = "OPERATE"
            with m.State("OPERATE"):
                m.next = "WRITE"
                with m.Switch(command.op):
                    with m.Case(ScalarOp.ADD):
                        m.d.sync += result.eq(left + right)
                    with m.Case(ScalarOp.SUB):
                        m.d.sync += result.eq(left - right)
                    with m.Case(ScalarOp.AND):
                        m.d.sync += result.eq(left & right)
                    with m.Case(ScalarOp.MIN):
                        m.d.sync += result.eq(Mux(left < right, left, right))
                    with m.Case(ScalarOp.MUL):
                        m.d.sync += [
                            left.eq(left << 1), right.eq(right >> 1),
                            result.eq(result + Mux(right[0], left, 0)),
                        ]
                        with m.If(right[1:] != 0):
                            m.next = "OPERATE"
                    with m.Case(ScalarOp.SHL, ScalarOp.SHR):
                        m.d.sync += result.eq(left)
                        with m.If(right[:6] != 0):
                            m.d.sync += [
                                left.eq(Mux(command.op == ScalarOp.SHL, left << 1, left >> 1)),
                                right.eq(right - 1),
                            ]
                            m.next = "OPERATE"
                    with m.Case(ScalarOp.READ):
                        m.d.sync += result.eq(left + right)
                        m.next = "ALIGNED"
                    with m.Default():
                        m.d.comb += self.error.eq(ErrorCode.BAD_FIELD)
                        m.next = "OPERATE"
            with m.State("ALIGNED"):
                with m.If(result[:2] != 0):
                    m.d.comb += self.error.eq(ErrorCode.BAD_FIELD)
                with m.Else():
                    m.d.sync += self.memory.valid.eq(1)
                    m.next = "READ"
            with m.State("READ"):
                with m.If(self.memory.fault):
                    m.d.comb += self.error.eq(ErrorCode.READ_RANGE)
                with m.If(self.memory.error):
                    m.d.comb += self.error.eq(ErrorCode.READ_RESPONSE)
                with m.If(self.memory.done):
                    m.d.sync += [self.memory.valid.eq(0), result.eq(self.memory.word)]
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [
                    write.addr.eq(command.rd), write.data.eq(result), write.en.eq(command.rd != 0),
                    self.command.ready.eq(1),
                ]
                m.next = "IDLE"
        return m
