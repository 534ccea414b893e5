"""The activation buffer: INT8 activations and their scale codes, FP16 activations."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..config import BLOCK
from ..ports import ActivationWrite

__all__ = ["ActivationBuffer"]


def _reaches(value, size):
    """``value`` is at least ``size``, a power of two or 0."""
    return value[exact_log2(size):].any() if size else Const(1)


class ActivationBuffer(wiring.Component):
    """``depth`` bytes in each of max(rows, 2 * fp16_rows) columns, and a scale code for each INT8 row and block of 32
    reduction indices. INT8 row r is column r; FP16 row r is columns 2 r (low bytes) and 2 r + 1.

    The vector unit writes ``lanes`` consecutive indices of one row a cycle, the array reads one index of all rows. So
    there are ``lanes`` banks, index k in bank k mod lanes, each as wide as all columns and written by byte strobes.

    Latency: ``delay`` cycles from an index to its data, 1 where compact, 2 with one bank, else 3; ``code_delay`` cycles
    from a block to its code. Throughput: one index, one code and one write a cycle. Flow control: none.

    An index must not be written while a command that reads it is in work: what is read then is undefined. A write is
    seen by reads that come two cycles later, where compact one.

    Parameters
    ----------
    rows : int        INT8 rows, a power of two; 0: none, and no scales
    fp16_rows : int   FP16 rows, a power of two; 0: none
    depth : int       reduction indices, a power of two, a multiple of 32 and of ``lanes``
    lanes : int       indices written a cycle, a power of two
    compact : bool    as in ``MatmulEngine``: one bank, whose word is not registered

    Members
    -------
    write : In(ActivationWrite)          the vector unit's port; ``fault``: outside the buffer, nothing is written
    index : In                           reduction index to read
    data : Out(8 * columns)              its bytes, column 0 lowest
    scale_row, scale_block : In          scale to read
    code : Out(8)                        its code
    """

    code_delay = 2

    def __init__(self, *, rows, depth, lanes, fp16_rows=0, compact=False):
        for name, value in (("rows", rows), ("fp16_rows", fp16_rows), ("depth", depth), ("lanes", lanes)):
            least = 0 if name.endswith("rows") else 1
            if not isinstance(value, int) or value < least or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if not rows and not fp16_rows:
            raise ValueError("rows and fp16_rows must not both be 0")
        if depth % BLOCK or depth < 2 * lanes:
            raise ValueError(f"depth must be a multiple of {BLOCK} and at least 2 * lanes = {2 * lanes}, not {depth}")
        self._rows, self._fp16_rows, self._depth, self._lanes = rows, fp16_rows, depth, lanes
        if compact and lanes > 1:
            raise ValueError(f"lanes must be 1 where compact, not {lanes!r}")
        self._columns, self._compact = max(rows, 2 * fp16_rows), compact
        self.delay = (1 if compact else 2) if lanes == 1 else 3
        super().__init__({
            "write": In(ActivationWrite(lanes=lanes, fp16=fp16_rows > 0)),
            "index": In(range(depth)), "data": Out(8 * self._columns),
            "scale_row": In(range(max(rows, 1))), "scale_block": In(range(depth // BLOCK)), "code": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        port = self.write
        outside = _reaches(port.row, self._rows)
        if self._fp16_rows:
            outside = Mux(port.half, _reaches(port.row, self._fp16_rows), outside)
        m.d.comb += port.fault.eq(
            (port.valid & (_reaches(port.index, self._depth) | outside))
            | (port.scale_valid & (_reaches(port.scale_block, self._depth // BLOCK)
                                   | _reaches(port.scale_row, self._rows))))
        self._build_data(m)
        if self._rows:
            self._build_scales(m)
        return m

    def _build_data(self, m):
        port, shift = self.write, exact_log2(self._lanes)
        # What is written goes far, to check and to store: a cycle for each, where there is room for the registers.
        later = m.d.comb if self._compact else m.d.sync
        address = Signal(range(self._depth // self._lanes), reset_less=True)
        later += address.eq(port.index >> shift)
        words = []
        for lane in range(self._lanes):
            # no_rw_check: no index is written while it is read, see the class.
            m.submodules[f"bank_{lane}"] = bank = memory.Memory(
                shape=8 * self._columns, depth=self._depth // self._lanes, init=[], attrs={"no_rw_check": 1})
            write, read = bank.write_port(granularity=8), bank.read_port()
            even = odd = port.data.word_select(lane, 8)
            if self._fp16_rows:
                even, odd = [Mux(port.half, port.data.word_select(2 * lane + i, 8), even) for i in range(2)]
            pair = Signal(16, reset_less=True, name=f"pair_{lane}")
            m.d.comb += [
                write.addr.eq(address), write.data.eq(pair.replicate(-(-self._columns // 2))),
                read.addr.eq(self.index >> shift), read.en.eq(1),
            ]
            enable = Signal(self._columns, name=f"enable_{lane}")
            later += [
                pair.eq(Cat(even, odd)),
                enable.eq(Mux(port.valid & ~port.fault & port.mask[lane], self._columns_of_row(), 0)),
            ]
            m.d.comb += write.en.eq(enable)
            word = Signal(8 * self._columns, reset_less=True, name=f"word_{lane}")
            m.d.sync += word.eq(read.data)
            words.append(read.data if self._compact else word)
        data = words[0]
        if self._lanes > 1:  # a block RAM is slow: its word is registered before a bank is chosen
            banks = [self.index[:shift]]
            for stage in range(2):
                bank_read = Signal(shift, reset_less=True, name=f"bank_{stage}")
                m.d.sync += bank_read.eq(banks[-1])
                banks.append(bank_read)
            data = Signal(8 * self._columns, reset_less=True)
            m.d.sync += data.eq(Array(words)[banks[-1]])
        m.d.comb += self.data.eq(data)

    def _columns_of_row(self):
        """A bit a column that the row written lies in."""
        port, bits = self.write, exact_log2(self._columns)
        hits = [port.row[:bits] == column for column in range(self._columns)]
        if self._fp16_rows:
            halves = [port.row[:bits] == column // 2 for column in range(self._columns)]
            hits = [Mux(port.half, half, hit) for half, hit in zip(halves, hits, strict=True)]
        return Cat(hits)

    def _build_scales(self, m):
        port, bits = self.write, exact_log2(self._rows)
        m.submodules.scales = scales = memory.Memory(
            shape=8, depth=self._depth // BLOCK * self._rows, init=[], attrs={"no_rw_check": 1})
        write, read = scales.write_port(), scales.read_port()
        code = Signal(8, reset_less=True)
        address, value, enable = Signal.like(write.addr, reset_less=True), Signal(8, reset_less=True), Signal()
        later = m.d.comb if self._compact else m.d.sync
        later += [address.eq(Cat(port.scale_row[:bits], port.scale_block)), value.eq(port.scale_code),
                  enable.eq(port.scale_valid & ~port.fault)]
        m.d.comb += [
            write.addr.eq(address), write.data.eq(value), write.en.eq(enable),
            read.addr.eq(Cat(self.scale_row[:bits], self.scale_block)), read.en.eq(1),
            self.code.eq(code),
        ]
        m.d.sync += code.eq(read.data)
