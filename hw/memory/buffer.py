"""A FIFO in block RAM whose front part can be replayed."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ReplayBuffer"]


class ReplayBuffer(wiring.Component):
    """First-word-fall-through FIFO of ``entries`` entries of ``words`` words each, written word by word.

    Entries taken while ``keep`` is high stay stored, and are read again before one is taken with ``keep`` low, which
    frees it: ``rewind`` goes back to the first that is stored. With ``turn`` that needs no rewind: behind the last of
    ``length`` entries from the first one stored on, that one follows again without a gap.

    Latency: an entry is at the front 3 cycles after its last word was written, or after a rewind. Throughput: a word a
    cycle. Flow control: writes are always taken; the writer reserves entries first, and reserves no more than ``room``.

    Parameters
    ----------
    width : int     bits of a word
    words : int     words of an entry: 1, 2 or 4, least significant first
    entries : int   a power of two

    Members
    -------
    write : In(1), data : In(width)    store a word
    reserve : In                       entries reserved in this cycle
    room : Out                         entries neither stored nor reserved
    valid : Out(1), front : Out        the entry at the front
    take, keep, rewind : In(1)         see above; no ``take`` together with ``rewind``
    turn : In(1), length : In          see above; 5 entries at least. ``turn`` matters while ``keep`` is high, which
                                       changes with the first of the ``length`` entries at the front, or earlier
    """

    def __init__(self, *, width, entries, words=1):
        if entries < 2 or entries & (entries - 1):
            raise ValueError(f"entries must be a power of two from 2 on, not {entries!r}")
        if words not in (1, 2, 4):
            raise ValueError(f"words must be 1, 2 or 4, not {words!r}")
        self._width, self._entries, self._words = width, entries, words
        super().__init__({
            "write": In(1), "data": In(width),
            "reserve": In(range(entries + 1)), "room": Out(range(entries + 1)),
            "valid": Out(1), "front": Out(words * width), "take": In(1), "keep": In(1), "rewind": In(1),
            "turn": In(1), "length": In(range(entries + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        entries, words = self._entries, self._words
        # no_rw_check: only words written before are read for use; what an idle cycle reads is dropped.
        m.submodules.store = store = memory.Memory(
            shape=self._width, depth=entries * words, init=[], attrs={"no_rw_check": 1})
        write, read = store.write_port(), store.read_port()

        # Positions run over twice the depth, so that full and empty differ.
        written, fetched = Signal(range(2 * entries * words)), Signal(range(2 * entries * words))
        reserved, base = Signal(range(2 * entries)), Signal(range(2 * entries))    # base: the first entry stored
        m.d.comb += [
            write.addr.eq(written), write.data.eq(self.data), write.en.eq(self.write),
            self.room.eq((base ^ entries) - reserved),
        ]
        m.d.sync += [written.eq(written + self.write), reserved.eq(reserved + self.reserve)]
        with m.If(self.take & self.valid & ~self.keep):
            m.d.sync += base.eq(base + 1)

        # Stage 1: memory. Stage 2: front. Each moves on when the next is free.
        in_memory, word_index = Signal(), Signal(range(words))
        forward, fetch = Signal(), Signal()
        front = Signal(words * self._width, reset_less=True)
        m.d.comb += [
            forward.eq(~self.valid | self.take), fetch.eq(~in_memory | forward),
            read.addr.eq(fetched), read.en.eq(fetch), self.front.eq(front),
        ]
        # What is fetched runs two entries ahead of the front, so that the last one to keep is settled when it comes.
        last_kept, at_last = Signal.like(fetched, reset_less=True), Signal()
        m.d.sync += last_kept.eq((base + self.length) * words - 1)
        m.d.comb += at_last.eq(self.keep & self.turn & (fetched == last_kept))
        with m.If(fetch):
            m.d.sync += [in_memory.eq(fetched != written), word_index.eq(fetched % words)]
            with m.If(fetched != written):
                m.d.sync += fetched.eq(Mux(at_last, base * words, fetched + 1))
        with m.If(forward):
            m.d.sync += self.valid.eq(in_memory & (word_index == words - 1))
            with m.If(in_memory):
                m.d.sync += front.word_select(word_index, self._width).eq(read.data)
        with m.If(self.rewind):
            m.d.sync += [self.valid.eq(0), in_memory.eq(0), fetched.eq(base * words)]
        return m
