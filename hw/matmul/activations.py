"""The activation buffer: INT8 activations and their scale codes."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..config import BLOCK
from ..ports import ActivationWrite

__all__ = ["ActivationBuffer"]


class ActivationBuffer(wiring.Component):
    """``rows`` x ``depth`` INT8 activations, and a scale code for each row and block of 32 reduction indices.

    The vector unit writes ``lanes`` consecutive indices of one row a cycle, the array reads one index of all rows. So
    there are ``lanes`` banks, index k in bank k mod lanes, each as wide as all rows and written by byte strobes.

    Latency: ``delay`` cycles from an index or block to its data. Throughput: one index, one code and one write a cycle.
    Flow control: none.

    An index must not be written while a command that reads it is in work: what is read then is undefined.

    Parameters
    ----------
    rows : int    a power of two
    depth : int   reduction indices, a power of two, a multiple of 32 and of ``lanes``
    lanes : int   indices written a cycle, a power of two

    Members
    -------
    write : In(ActivationWrite)          the vector unit's port; ``fault``: outside the buffer, nothing is written
    index : In                           reduction index to read
    data : Out(8 * rows)                 its activations, row 0 lowest
    scale_row, scale_block : In          scale to read
    code : Out(8)                        its code
    """

    delay = 2

    def __init__(self, *, rows, depth, lanes):
        for name, value in (("rows", rows), ("depth", depth), ("lanes", lanes)):
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if depth % BLOCK or depth < 2 * lanes:
            raise ValueError(f"depth must be a multiple of {BLOCK} and at least 2 * lanes = {2 * lanes}, not {depth}")
        self._rows, self._depth, self._lanes = rows, depth, lanes
        super().__init__({
            "write": In(ActivationWrite(lanes=lanes)),
            "index": In(range(depth)), "data": Out(8 * rows),
            "scale_row": In(range(rows)), "scale_block": In(range(depth // BLOCK)), "code": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        port = self.write
        m.d.comb += port.fault.eq(
            (port.valid & ((port.index >= self._depth) | (port.row >= self._rows)))
            | (port.scale_valid & ((port.scale_block >= self._depth // BLOCK) | (port.scale_row >= self._rows))))
        self._build_data(m)
        self._build_scales(m)
        return m

    def _build_data(self, m):
        port, shift = self.write, exact_log2(self._lanes)
        words = []
        for lane in range(self._lanes):
            # no_rw_check: no index is written while it is read, see the class.
            m.submodules[f"bank_{lane}"] = bank = memory.Memory(
                shape=8 * self._rows, depth=self._depth // self._lanes, init=[], attrs={"no_rw_check": 1})
            write, read = bank.write_port(granularity=8), bank.read_port()
            m.d.comb += [
                write.addr.eq(port.index >> shift),
                write.data.eq(port.data.word_select(lane, 8).replicate(self._rows)),
                read.addr.eq(self.index >> shift), read.en.eq(1),
            ]
            for row in range(self._rows):
                m.d.comb += write.en[row].eq(port.valid & ~port.fault & port.mask[lane] & (port.row == row))
            words.append(read.data)
        bank_read = Signal(range(self._lanes), reset_less=True)
        data = Signal(8 * self._rows, reset_less=True)
        m.d.sync += [bank_read.eq(self.index[:shift]), data.eq(Array(words)[bank_read])]
        m.d.comb += self.data.eq(data)

    def _build_scales(self, m):
        port, bits = self.write, exact_log2(self._rows)
        m.submodules.scales = scales = memory.Memory(
            shape=8, depth=self._depth // BLOCK * self._rows, init=[], attrs={"no_rw_check": 1})
        write, read = scales.write_port(), scales.read_port()
        code = Signal(8, reset_less=True)
        m.d.comb += [
            write.addr.eq(Cat(port.scale_row[:bits], port.scale_block)), write.data.eq(port.scale_code),
            write.en.eq(port.scale_valid & ~port.fault),
            read.addr.eq(Cat(self.scale_row[:bits], self.scale_block)), read.en.eq(1),
            self.code.eq(code),
        ]
        m.d.sync += code.eq(read.data)
