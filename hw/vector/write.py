"""Results of the vector unit on their way to scratchpad and activation buffer."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..commands import Dest, Opcode, layout
from ..config import BLOCK
from ..ports import SCRATCH_ADDRESS_WIDTH, ActivationWrite, ScratchWrite
from .issue import slot_layout
from .quantise import CODE

__all__ = ["ResultWriter"]

BYTES_OF_WORD = 4


class ResultWriter(wiring.Component):
    """Gathers FP32 words, or packed INT8, into groups and writes them; writes scales and row results as single words.
    INT8 or FP16 for the activation buffer passes through.

    Gathered groups go first, as they cannot wait; scales and row results use the cycles between. The scratchpad must
    take a write in the cycle it is offered. Only words that the command defines are written; bytes of a word past a
    row's end are zero.

    Latency: 1 cycle from the slot that fills a group to its write. Throughput: a slot a cycle.

    Parameters
    ----------
    lanes, group_words : int    elements of a slot, words of a group
    int8_rows, fp16_rows : int  of the activation buffer in A8 and in FP16; 0: the format does not exist

    Members
    -------
    command : In(layout(Opcode.VECTOR))    held while the command runs
    start : In(1)                          begin with the command
    slot, t4 : In                          elements for an unquantised destination: FP32, or with ``command.half`` FP16
                                           in the low halves of words; those without ``keep`` become +0
    q_* : In                               the quantiser's output; with A8
    result_valid, result_ready, result     the reduced row
    write : Out(ScratchWrite)
    activation : Out(ActivationWrite)
    busy : Out(1)                          something is still to be written
    """

    def __init__(self, *, lanes, group_words, int8_rows, fp16_rows):
        self._lanes, self._words, self._int8, self._fp16 = lanes, group_words, int8_rows, fp16_rows
        quantised = {"q_valid": In(1), "q": In(8 * lanes), "q_first": In(1), "q_row_end": In(1), "q_code": In(8)}
        super().__init__({
            "command": In(layout(Opcode.VECTOR)), "start": In(1),
            "slot": In(slot_layout(lanes)), "t4": In(32 * lanes), **(quantised if int8_rows else {}),
            "result_valid": In(1), "result_ready": Out(1), "result": In(32),
            "write": Out(ScratchWrite(width=32 * group_words)),
            "activation": Out(ActivationWrite(lanes=lanes, fp16=fp16_rows > 0)),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # Elements of a slot that a row of n has: all, or in its last slot the first few.
        inside = Signal(self._lanes)
        rest = Signal(range(self._lanes)) if self._lanes > 1 else Const(0)
        if self._lanes > 1:
            m.d.comb += rest.eq(self.command.n - 1)
        m.d.comb += inside.eq(Cat(rest >= lane for lane in range(self._lanes)))

        elements = Signal(32 * self._lanes)
        m.d.comb += elements.eq(Cat(Mux(self.slot.keep[lane], self.t4.word_select(lane, 32), 0)
                                    for lane in range(self._lanes)))
        self._write_activation(m, inside, elements)
        packed = self._pack(m, inside) if self._int8 else None
        gathered, words, mask, address = self._gather(m, inside, elements, packed)
        result_address = self._rows(m, self.command.result, self.command.result_stride,
                                    self.result_valid & self.result_ready, "result")
        scale_valid, single = Const(0), self.result
        if self._int8:
            scale_valid, scale, scale_address, scale_mask = self._scale(m)
            single = Mux(scale_valid, scale, self.result)

        # One LUT a bit: gathered word, single word, or zero beside a row result.
        m.d.comb += [
            self.write.valid.eq(gathered | scale_valid | self.result_valid),
            self.result_ready.eq(~gathered & ~scale_valid),
            self.busy.eq(self.write.valid | (packed[0] if packed else 0)),
            self.write.address.eq(result_address),
            self.write.mask.eq(~0),
        ]
        for i in range(self._words):
            m.d.comb += self.write.data.word_select(i, 32).eq(
                Mux(gathered, words.word_select(i, 32), Mux(scale_valid | (i == 0), single, 0)))
        with m.If(gathered):
            m.d.comb += [self.write.address.eq(address), self.write.mask.eq(mask)]
        if self._int8:
            with m.Elif(scale_valid):
                m.d.comb += [self.write.address.eq(scale_address), self.write.mask.eq(scale_mask)]
            with m.If(~gathered):
                m.d.sync += scale_valid.eq(0)
            with m.If(self.q_valid & self.q_first & (self.command.dest == Dest.PACKED)):
                m.d.sync += scale_valid.eq(1)
        return m

    def _write_activation(self, m, inside, elements):
        """Bytes of a slot, and the scale code wherever 32 elements begin (with one scale for a row: the same one); or
        FP16 elements of a slot. Behind its last row the next row group begins."""
        out, command = self.activation, self.command
        index, row = Signal(17), Signal(16)   # the top bit of an index stays: it is beyond any buffer
        base, following, last_row = Signal(17), Signal(17), Signal()
        here, active, row_end = Signal(), Signal(), Signal()
        last = Signal(16)                     # row of a row group
        m.d.comb += [
            here.eq(command.dest == Dest.ACTIVATION),
            out.valid.eq(active),
            out.row.eq(row),
            out.index.eq(index[:16] | index[16].replicate(16)),
            out.mask.eq(Mux(row_end, inside, ~0)),
            last_row.eq(row == last),
            following.eq(base + Mux(last_row, command.group_stride, 0)),
        ]
        if self._int8:
            m.d.comb += [
                active.eq(self.q_valid & here),
                row_end.eq(self.q_row_end),
                out.data.eq(self.q),
                out.scale_valid.eq(self.q_valid & here & (index[:5] == 0)),
                out.scale_row.eq(row),
                out.scale_block.eq(out.index[BLOCK.bit_length() - 1:]),
                out.scale_code.eq(self.q_code),
            ]
        if self._fp16:
            m.d.comb += out.half.eq(command.half)
            with m.If(command.half):
                m.d.comb += [
                    active.eq(self.slot.valid & here),
                    row_end.eq(self.slot.row_end),
                    out.data.eq(Cat(elements.word_select(lane, 32)[:16] for lane in range(self._lanes))),
                ]
        with m.If(active):
            m.d.sync += index.eq(index + self._lanes)
            with m.If(row_end):
                m.d.sync += [index.eq(following), base.eq(following), row.eq(Mux(last_row, 0, row + 1))]
        with m.If(self.start):
            rows = Mux(command.half, self._fp16, self._int8)
            m.d.sync += [
                index.eq(command.target), base.eq(command.target), row.eq(command.target_stride),
                last.eq(Mux(command.group_rows == 0, rows, command.group_rows) - 1),
            ]

    def _pack(self, m, inside):
        """INT8 slots to slots of words: (valid, words, their mask, last of a row)."""
        count = max(1, self._lanes // BYTES_OF_WORD)
        slots = max(1, BYTES_OF_WORD // self._lanes)
        valid, row_end, mask = Signal(), Signal(), Signal(count, reset_less=True)
        words = Signal(32 * count, reset_less=True)
        part, taken = Signal(range(slots)), Signal()
        here = Mux(self.q_row_end, inside, Const(-1, self._lanes))
        m.d.comb += taken.eq(self.q_valid & (self.command.dest == Dest.PACKED))
        m.d.sync += [
            valid.eq(taken & (self.q_row_end | (part == slots - 1))),
            row_end.eq(self.q_row_end),
        ]
        with m.If(taken):
            m.d.sync += [
                part.eq(Mux(self.q_row_end, 0, part + 1)),
                mask.eq(Cat(here[min(BYTES_OF_WORD, self._lanes) * i] for i in range(count))),
            ]
            for byte in range(4 * count):
                value = self.q.word_select(byte % self._lanes, 8) & here[byte % self._lanes].replicate(8)
                with m.If(part == byte // self._lanes):
                    m.d.sync += words.word_select(byte, 8).eq(value)
                with m.Elif(part == 0):
                    m.d.sync += words.word_select(byte, 8).eq(0)
        return valid, words, mask, row_end

    def _gather(self, m, inside, elements, packed):
        """Words of a group, from slots of elements or of packed words: (valid, words, mask, address), for one cycle."""
        valid, ended = Signal(), Signal()
        words, mask = Signal(32 * self._words, reset_less=True), Signal(self._words)
        position = Signal(range(self._words))
        kept, unquantised = Signal(self._words), Signal()
        m.d.comb += [
            kept.eq(Mux(valid, 0, mask)),
            unquantised.eq(self.slot.valid & (self.command.dest == Dest.FP32)),
        ]
        m.d.sync += [mask.eq(kept), valid.eq(0)]
        sources = [(unquantised, self.slot.row_end, elements, Mux(self.slot.row_end, inside, ~Const(0, self._lanes)))]
        if packed:
            packed_valid, packed_words, packed_mask, packed_end = packed
            sources.append((packed_valid, packed_end, packed_words, packed_mask))
        for source_valid, row_end, source, source_mask in sources:
            step = len(source) // 32
            with m.If(source_valid):
                m.d.sync += [
                    position.eq(Mux(row_end, 0, position + step)),
                    valid.eq(row_end | (position == self._words - step)),
                    ended.eq(row_end),
                ]
            for i in range(self._words):
                with m.If(source_valid & (position == i - i % step)):
                    m.d.sync += [
                        words.word_select(i, 32).eq(source.word_select(i % step, 32)),
                        mask[i].eq(source_mask[i % step]),
                    ]
        address = self._rows(m, self.command.target, self.command.target_stride, valid & ended, "target",
                             step=valid)
        return valid, words, mask, address

    def _rows(self, m, first, stride, row_end, name, *, step=None):
        """Address of a row's next group, from row to row."""
        address = Signal(SCRATCH_ADDRESS_WIDTH, name=f"{name}_address")
        row = address
        if step is not None:
            row = Signal(SCRATCH_ADDRESS_WIDTH, name=f"{name}_row")
            with m.If(step):
                m.d.sync += address.eq(address + 1)
        with m.If(row_end):
            m.d.sync += [row.eq(row + stride), address.eq(row + stride)]
        with m.If(self.start):
            m.d.sync += [row.eq(first), address.eq(first)]
        return address

    def _scale(self, m):
        """A block's scale as a word: (valid, word, address, mask). ``valid`` is the caller's to set and clear."""
        command, code = self.command, CODE(self.q_code)
        valid, address = Signal(), Signal(SCRATCH_ADDRESS_WIDTH, reset_less=True)
        word, mask = Signal(32, reset_less=True), Signal(self._words, reset_less=True)
        position = Signal(range(self._words))
        taken = self.q_valid & self.q_first
        wrap = position == self._words - 1
        end = self.q_valid & self.q_row_end
        next_address = self._rows(m, command.scale, command.scale_stride, end, "scale", step=taken & wrap)
        with m.If(taken):
            m.d.sync += [
                address.eq(next_address),
                mask.eq(1 << position),
                word.eq(Mux(command.scale_fp32, self._as_fp32(code), self._as_fp16(code))),
                position.eq(Mux(wrap, 0, position + 1)),
            ]
        with m.If(end):
            m.d.sync += position.eq(0)
        return valid, word, address, mask

    @staticmethod
    def _as_fp32(code):
        # 2^(e - 22) * 1.m
        return Cat(Const(0, 21), code.m, (code.e + 105)[:8], 0)

    @staticmethod
    def _as_fp16(code):
        # Normal from 2^-14 on; below, (4 + m) * 2^e units of 2^-24.
        normal = Cat(Const(0, 8), code.m, (code.e - 7)[:5])
        subnormal = Cat(code.m, 1) << code.e[:3]
        return Mux(code.e >= 8, normal, subnormal)
