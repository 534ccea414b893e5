"""Drain: takes finished tiles to the scratchpad."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data, fifo, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..ports import SCRATCH_ADDRESS_WIDTH, ScratchWrite

__all__ = ["ADDRESS_WIDTH", "drain_tile", "Drain"]

ADDRESS_WIDTH = SCRATCH_ADDRESS_WIDTH + 1
"""Width of an address in work. Addresses are reached in ascending steps, and the first one of 2^16 or more stops the
drain, so that one bit more is enough."""

TILES = 8


def drain_tile(*, rows, lanes, halves=False):
    """Layout of what the drain must know of a tile: the group of its first row's output 0 (``ADDRESS_WIDTH`` bits),
    groups from row to row, groups from output 0 to its first output, outputs in use, last row in use, last tile of a
    command. With ``halves`` also whether a row has half as many outputs, as FP16 tiles beside INT8 ones."""
    return data.StructLayout({
        "base": ADDRESS_WIDTH, "stride": SCRATCH_ADDRESS_WIDTH, "column": SCRATCH_ADDRESS_WIDTH,
        "count": range(lanes + 1), "last_row": range(rows), "final": 1,
        **({"half": 1} if halves else {})})


class Drain(wiring.Component):
    """Buffers the results of tiles and writes them row by row: output n of row r of a tile is word n from group
    base + r * stride + column on. Words of outputs not in use are not written.

    Latency: a result is offered to the scratchpad 2 cycles after it came, if nothing waits before it. Throughput:
    min(outputs, group_words) words a cycle. Flow control: results are always taken; who sends them claims an entry of
    the buffer before, while ``free`` is not zero.

    Parameters
    ----------
    rows, lanes : int    size of a tile
    outputs : int        words that come together: outputs c * outputs .. of a row, rows first, then c
    group_words : int    words of a scratchpad group, a divisor of ``lanes``
    entries : int        results buffered, a power of two
    halves : bool        there are ``half`` tiles too; one of their results holds a row at most
    lut_ram : bool       the tiles' queue is made for LUT RAM, else for block RAM

    Members
    -------
    tile_valid, tile : In     a tile's results will come; in order
    room : Out(1)             two more tiles can be announced
    result_valid, result : In [outputs] FP32
    free : Out, claim : In(1) entries of the result buffer that nobody has claimed; one is claimed
    write : Out(ScratchWrite)
    done : Out(1)             a command's last result is written, and every reader sees it
    error : Out(1)            a result lies outside the scratchpad; nothing is written any more
    idle : Out(1)             no tile announced is unfinished
    """

    def __init__(self, *, rows, lanes, outputs, group_words, entries, halves=False, lut_ram=True):
        for name, value in (("rows", rows), ("lanes", lanes), ("outputs", outputs), ("group_words", group_words),
                            ("entries", entries)):
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        if outputs > lanes or group_words > lanes:
            raise ValueError(f"outputs = {outputs} and group_words = {group_words} must be at most lanes = {lanes}")
        if halves and group_words > lanes // 2:
            raise ValueError(f"group_words = {group_words} must be at most lanes / 2 = {lanes // 2} with halves")
        self._queue = fifo.SyncFIFO if lut_ram else fifo.SyncFIFOBuffered
        self._outputs, self._group_words, self._entries = outputs, group_words, entries
        self._words = min(outputs, group_words)
        self._pieces = lanes // self._words  # of a row
        self._halves, self._wide_results = halves, halves and outputs > lanes // 2
        self._tile = drain_tile(rows=rows, lanes=lanes, halves=halves)
        super().__init__({
            "tile_valid": In(1), "tile": In(self._tile), "room": Out(1),
            "result_valid": In(1), "result": In(32 * outputs),
            "free": Out(range(entries + 1), init=entries), "claim": In(1),
            "write": Out(ScratchWrite(width=32 * group_words)),
            "done": Out(1), "error": Out(1), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.tiles = tiles = self._queue(width=self._tile.size, depth=TILES)
        m.d.comb += [tiles.w_data.eq(self.tile), tiles.w_en.eq(self.tile_valid)]
        m.d.sync += self.room.eq(tiles.level <= TILES - 3)  # one may come in this cycle, and two are promised
        taken, result_valid, front = self._build_results(m)

        # The tile in work is copied into a register, and leaves the queue a cycle later. One piece of a row after the
        # other.
        tile, tile_there, tile_ends = Signal(self._tile, reset_less=True), Signal(), Signal()
        copied = Signal()
        m.d.comb += tiles.r_en.eq(copied)
        m.d.sync += copied.eq(0)
        with m.If(~tile_there | tile_ends):
            m.d.sync += [tile.eq(tiles.r_data), tile_there.eq(tiles.r_rdy & ~copied), copied.eq(tiles.r_rdy & ~copied)]
        piece = Signal(range(self._pieces))
        row = Signal.like(tile.last_row)
        row_base = Signal(ADDRESS_WIDTH, reset_less=True)
        base = Signal(ADDRESS_WIDTH)
        begun = Signal()  # row_base holds; the first row starts at the tile's base
        forward, go, end_of_row = Signal(), Signal(), Signal()
        m.d.comb += [
            base.eq(row_base),
            go.eq(tile_there & result_valid & forward),
            end_of_row.eq(piece == self._pieces - 1),
            tile_ends.eq(go & end_of_row & (row == tile.last_row)),
            taken.eq(go & (piece[:exact_log2(self._outputs // self._words)] == self._outputs // self._words - 1)),
        ]
        if self._halves:
            with m.If(tile.half):
                m.d.comb += end_of_row.eq(piece == self._pieces // 2 - 1)
        if self._wide_results:
            with m.If(end_of_row):
                m.d.comb += taken.eq(go)
        with m.If(~begun):
            m.d.comb += base.eq(tile.base)
        with m.If(go):
            m.d.sync += piece.eq(piece + 1)
            with m.If(end_of_row):
                m.d.sync += [piece.eq(0), row.eq(row + 1), row_base.eq(base + tile.stride), begun.eq(1)]
            with m.If(tile_ends):
                m.d.sync += [row.eq(0), begun.eq(0)]
        writing = self._build_write(m, tile, tile_ends & tile.final, go, forward, base, piece, front)
        m.d.comb += self.idle.eq(~tiles.r_rdy & ~tile_there & ~writing & ~self.done)
        return m

    def _build_results(self, m):
        """The result buffer. Returns: take the front entry, it is there, its words for the piece in work."""
        m.submodules.results = store = memory.Memory(shape=32 * self._outputs, depth=self._entries, init=[])
        write, read = store.write_port(), store.read_port(domain="comb")
        head, tail = (Signal(range(self._entries), name=name) for name in ("head", "tail"))
        stored = Signal(range(self._entries + 1))   # beside head, which drives every bit's read address
        taken = Signal()
        m.d.comb += [
            write.addr.eq(tail), write.en.eq(self.result_valid), write.data.eq(self.result), read.addr.eq(head),
        ]
        m.d.sync += [
            self.free.eq(self.free + taken - self.claim), stored.eq(stored + self.result_valid - taken),
            tail.eq(tail + self.result_valid), head.eq(head + taken),
        ]
        return taken, stored != 0, read.data

    def _build_write(self, m, tile, ends, go, forward, base, piece, front):
        """Output register at the scratchpad. A piece without any output in use passes through it unwritten."""
        words, group_words = self._words, self._group_words
        piece_bits, group_bits = exact_log2(self._outputs // words), exact_log2(group_words // words)
        full, final, writes = Signal(), Signal(), Signal()
        address = Signal(ADDRESS_WIDTH, reset_less=True)
        value, mask = Signal(32 * words, reset_less=True), Signal(group_words, reset_less=True)
        failed = Signal()

        in_use = Cat((piece * words + i) < tile.count for i in range(words))
        pieces = Array(front.word_select(i, 32 * words) for i in range(self._outputs // words))
        place = piece[:group_bits]
        with m.If(forward):
            m.d.sync += full.eq(go)
        with m.If(go):
            m.d.sync += [
                final.eq(ends), writes.eq(in_use[0]),
                address.eq(base + tile.column + (piece >> group_bits)),
                value.eq(pieces[piece[:piece_bits]]), mask.eq(in_use << (place * words)),
            ]
        outside, ending = Signal(), Signal()
        m.d.comb += [
            self.write.valid.eq(full & writes & ~address[-1] & ~failed),
            self.write.address.eq(address), self.write.mask.eq(mask),
            self.write.data.eq(value.replicate(group_words // words)),
            outside.eq(full & writes & (address[-1] | (self.write.valid & self.write.ready & self.write.fault))),
            # Behind a failure results move on unwritten; whether this one fails is not known early enough.
            forward.eq(~full | ~writes | address[-1] | self.write.ready),
        ]
        # A write is seen by reads taken two cycles later.
        m.d.sync += [
            failed.eq(failed | outside), self.error.eq(outside & ~failed),
            ending.eq(full & final & forward & ~outside & ~failed), self.done.eq(ending),
        ]
        return full | ending | failed
