"""A8 quantiser: blocks of FP32 values to INT8 with one scale."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import BLOCK
from .issue import slot_layout

__all__ = ["CODE", "Quantiser", "check_max_row"]

CODE = data.StructLayout({"m": 2, "e": 6})  # scale 2^(e - 22) * (4 + m) / 4
E_LAST = 37
# amax = 1.f * 2^E: largest f, in 512ths, for each scale but the last; then (m - 4, 1 where e = E - 6 instead of E - 7).
LIMITS = (123, 250, 377, 504)
SCALES = ((1, 0), (2, 0), (3, 0), (0, 1), (1, 1))
RECIPROCALS = (131072, 104858, 87381, 74898)  # 2^17 * 4/m


def check_max_row(max_row):
    """Raise ValueError for a longest row that the quantiser cannot hold."""
    if not (BLOCK <= max_row <= 1024 and max_row % BLOCK == 0):
        raise ValueError(f"max_row = {max_row}: must be a multiple of {BLOCK} from {BLOCK} to 1024")


class Quantiser(wiring.Component):
    """Turns slots of FP32 values into slots of INT8, as docs/numerics.md defines A8.

    A block is 32 elements, the rest of a row, or a whole row. Its values wait in block RAM until its scale is known,
    then leave in the same slots. Blocks may follow each other at once.

    Latency: a block plus about 14 cycles. Throughput: a slot a cycle. Flow control: none; output is always taken.

    Parameters
    ----------
    lanes : int      elements of a slot, a power of two up to 8
    max_row : int    most elements of a row with one scale, a multiple of 32

    Members
    -------
    row_scale : In(1)       one scale for a row, constant while rows are in work
    slot : In(slot_layout)  elements without ``keep`` count as zero
    i : In(32 * lanes)      FP32; no subnormal numbers
    o_valid, o : Out        slot of INT8
    o_first, o_row_end      the slot is a block's first, a row's last
    o_code : Out(8)         scale code of the slot's block
    busy : Out(1)           a slot is inside
    """

    def __init__(self, *, lanes, max_row):
        check_max_row(max_row)
        self._lanes = lanes
        # The ring holds a block that is read while the next one arrives: together one block, and the time to its scale.
        self._ring = 1 << (max_row // lanes + 16 - 1).bit_length()
        super().__init__({
            "row_scale": In(1), "slot": In(slot_layout(lanes)), "i": In(32 * lanes),
            "o_valid": Out(1), "o": Out(8 * lanes), "o_first": Out(1), "o_row_end": Out(1), "o_code": Out(8),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        block_slots = BLOCK // self._lanes
        position, block_end = Signal(range(block_slots)), Signal()
        m.d.comb += block_end.eq(self.slot.row_end | (~self.row_scale & (position == block_slots - 1)))
        with m.If(self.slot.valid):
            m.d.sync += position.eq(Mux(block_end, 0, position + 1))

        written, write = self._ring_write(m, block_end)
        committed, code, scale_busy = self._scales(m, block_end, written)
        entry, valid, ring_busy = self._ring_read(m, write, committed)
        m.submodules.codes = codes = Memory(shape=CODE, depth=8, init=[])
        push, front = codes.write_port(), codes.read_port(domain="comb")
        m.d.comb += [push.en.eq(code.valid), push.data.eq(code.code)]
        with m.If(code.valid):
            m.d.sync += push.addr.eq(push.addr + 1)
        with m.If(valid & entry.block_end):
            m.d.sync += front.addr.eq(front.addr + 1)
        quotient_busy = self._quotients(m, entry, valid, front.data)
        m.d.comb += self.busy.eq(scale_busy | ring_busy | quotient_busy | self.o_valid)
        return m

    @property
    def _entry(self):
        """What the ring keeps of a slot: the values without the six bits that the quotient ignores."""
        value = data.StructLayout({"fraction": 17, "exponent": 8, "sign": 1})
        return data.StructLayout({"values": data.ArrayLayout(value, self._lanes), "block_end": 1, "row_end": 1})

    def _ring_write(self, m, block_end):
        """Stage 1: values into registers. Returns the write pointer after them and (valid, entry)."""
        write, valid, pointer = Signal(self._entry, reset_less=True), Signal(), Signal(range(self._ring))
        m.d.sync += [valid.eq(self.slot.valid), write.block_end.eq(block_end), write.row_end.eq(self.slot.row_end)]
        for lane in range(self._lanes):
            m.d.sync += write["values"][lane].eq(self.i.word_select(lane, 32)[6:])
            with m.If(~self.slot.keep[lane]):
                m.d.sync += write["values"][lane].eq(0)
        with m.If(valid):
            m.d.sync += pointer.eq(pointer + 1)
        return pointer, (valid, write)

    def _scales(self, m, block_end, pointer):
        """Largest magnitude of each block, its scale, and the ring's pointer behind the block when that is known."""
        flags = data.StructLayout({"valid": 1, "block_end": 1})
        now, busy = Signal(flags), []
        keys = []
        # Stage 1: exponent, top 9 bits of the fraction (the limits have no more), one bit for the rest.
        m.d.sync += now.eq(Cat(self.slot.valid, block_end))
        for lane in range(self._lanes):
            bits, key = self.i.word_select(lane, 32), Signal(18, reset_less=True, name=f"key{lane}")
            m.d.sync += key.eq(Cat(bits[:14].any(), bits[14:31]))
            with m.If(~self.slot.keep[lane]):
                m.d.sync += key.eq(0)
            keys.append(key)
        behind = pointer + 1
        while len(keys) > 1:
            pairs = []
            for i, (low, high) in enumerate(zip(keys[::2], keys[1::2], strict=True)):
                larger = Signal(18, reset_less=True, name=f"larger{len(keys)}_of{i}")
                m.d.sync += larger.eq(Mux(low > high, low, high))
                pairs.append(larger)
            behind = self._later(m, behind, len(pointer), f"behind{len(keys)}")
            busy.append(now.valid)
            now, keys = self._later(m, now, flags, f"flags{len(keys)}"), pairs
        busy.append(now.valid)

        # Running maximum of the block.
        amax, fresh, end = Signal(18, reset_less=True), Signal(init=1), Signal()
        m.d.sync += end.eq(now.valid & now.block_end)
        with m.If(now.valid):
            m.d.sync += fresh.eq(now.block_end)
            with m.If(fresh | (keys[0] > amax)):
                m.d.sync += amax.eq(keys[0])
        behind = self._later(m, behind, len(pointer), "behind_amax")

        # Which of the five scales; then the exponent, clamped.
        above, exponent, compared = Signal(len(LIMITS), reset_less=True), Signal(8, reset_less=True), Signal()
        m.d.sync += [
            above.eq(Cat(amax[:10] > 2 * limit for limit in LIMITS)),
            exponent.eq(amax[10:]),
            compared.eq(end),
        ]
        behind = self._later(m, behind, len(pointer), "behind_compared")
        code = Signal(data.StructLayout({"code": CODE, "valid": 1}))
        e = Signal(signed(9))
        case = Array([scale for scale, _ in SCALES])[sum(above)]
        m.d.comb += e.eq(exponent - 112 + Mux(above[2], 1, 0))
        m.d.sync += [code.valid.eq(compared), code.code.m.eq(case), code.code.e.eq(e)]
        with m.If(e < 0):
            m.d.sync += [code.code.m.eq(0), code.code.e.eq(0)]
        with m.Elif(e > E_LAST):
            m.d.sync += [code.code.m.eq(3), code.code.e.eq(E_LAST)]
        behind = self._later(m, behind, len(pointer), "behind_code")
        committed = Signal(len(pointer))
        with m.If(code.valid):
            m.d.sync += committed.eq(behind)
        return committed, code, Cat(busy).any() | end | compared | code.valid

    @staticmethod
    def _later(m, value, shape, name):
        register = Signal(shape, name=name)
        m.d.sync += register.eq(value)
        return register

    def _ring_read(self, m, write, committed):
        """Reads whole blocks whose scale is known; two cycles from address to entry."""
        write_valid, write_entry = write
        # no_rw_check: no slot is read while it is written; the ring is never full, and only committed slots are read.
        m.submodules.ring = ring = Memory(shape=unsigned(self._entry.size), depth=self._ring, init=[],
                                          attrs={"no_rw_check": 1})
        writer, reader = ring.write_port(), ring.read_port()
        reading, fetched, valid = Signal(), Signal(), Signal()
        entry = Signal(self._entry, reset_less=True)
        m.d.comb += [
            writer.en.eq(write_valid),
            writer.data.eq(write_entry),
            reading.eq(reader.addr != committed),
        ]
        with m.If(write_valid):
            m.d.sync += writer.addr.eq(writer.addr + 1)
        with m.If(reading):
            m.d.sync += reader.addr.eq(reader.addr + 1)
        m.d.sync += [fetched.eq(reading), valid.eq(fetched), entry.eq(reader.data)]
        return entry, valid, write_valid | (reader.addr != writer.addr) | fetched | valid

    def _quotients(self, m, entry, valid, code):
        """Five stages from the ring's entry to INT8."""
        flags = data.StructLayout({"valid": 1, "first": 1, "row_end": 1, "code": CODE})
        first, now, valids = Signal(init=1), Signal(flags), []
        with m.If(valid):
            m.d.sync += first.eq(entry.block_end)
        m.d.comb += now.eq(Cat(valid, first, entry.row_end, code))
        for stage in "ABCDE":
            now = self._later(m, now, flags, f"flags_{stage}")
            valids.append(now.valid)
        m.d.sync += [
            self.o_valid.eq(now.valid), self.o_first.eq(now.first), self.o_row_end.eq(now.row_end),
            self.o_code.eq(now.code),
        ]
        o = Signal(8 * self._lanes, reset_less=True)
        m.d.comb += self.o.eq(o)
        reciprocal = Array(RECIPROCALS)[code.m]
        for lane in range(self._lanes):
            m.d.sync += o.word_select(lane, 8).eq(
                self._quotient(m, entry["values"][lane], reciprocal, code.e, f"_{lane}"))
        return Cat(valids).any()

    def _quotient(self, m, value, reciprocal, e, lane):
        """One value to INT8, five registers deep; the sixth is the caller's."""
        def reg(shape, name):
            return Signal(shape, reset_less=True, name=name + lane)

        # Stage A: operands, and how far beyond 26 places the product goes right: 34 + (e - 22) - (exponent - 127) - 26.
        significand, factor, shift = reg(18, "significand"), reg(18, "factor"), reg(signed(9), "shift")
        sign = value.sign
        m.d.sync += [
            significand.eq(Cat(value.fraction, 1)),
            factor.eq(reciprocal),
            shift.eq(e + 113 - value.exponent),
        ]
        # Stage B: product. No shift right beyond 26 places: the quotient is past 127. More than 15: it is zero.
        product, places, past, none = reg(36, "product"), reg(4, "places"), reg(1, "past"), reg(1, "none")
        m.d.sync += [
            product.eq(significand * factor),
            places.eq(shift[:4]),
            past.eq(shift < 0),
            none.eq(~shift[8] & shift[4:8].any()),
        ]
        # Stages C and D: shift. 10 bits of quotient, the rounding bit, and below it one bit for all others.
        coarse, fine_places, past_c = reg(12, "coarse"), reg(2, "fine_places"), reg(1, "past_c")
        by8 = self._shift(Cat(product[:25].any(), product[25:]), 8, places[3])
        m.d.sync += [coarse.eq(self._shift(by8, 4, places[2])), fine_places.eq(places[:2]), past_c.eq(past)]
        with m.If(none):
            m.d.sync += coarse.eq(0)
        fine, past_d = reg(12, "fine"), reg(1, "past_d")
        by2 = self._shift(coarse, 2, fine_places[1])
        m.d.sync += [fine.eq(self._shift(by2, 1, fine_places[0])), past_d.eq(past_c)]
        # Stage E: round to nearest even, clip.
        magnitude = reg(7, "magnitude")
        rounded = fine[2:] + (fine[1] & (fine[0] | fine[2]))
        m.d.sync += magnitude.eq(Mux(past_d | rounded[7:].any(), 127, rounded[:7]))
        for stage in "ABCDE":
            later = reg(1, f"sign_{stage}")
            m.d.sync += later.eq(sign)
            sign = later
        return Mux(sign, -magnitude, magnitude)

    @staticmethod
    def _shift(value, places, enable):
        """Right shift whose dropped bits stay in the last bit."""
        dropped = value[:places + 1].any()
        return Mux(enable, Cat(dropped, value[places + 1:]), value)
