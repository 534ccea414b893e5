"""Unpack: beats of the prefetch buffer to beats of the array."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Unpack"]


class Unpack(wiring.Component):
    """Gives the array one reduction index a beat: a byte a lane, or FP16 of half as many lanes.

    With lanes = bytes of a bus beat, an INT8 or FP16 beat is one reduction index; an INT4 beat is two, byte l of it
    lane l's weights, the even index in the low half. With lanes twice the bytes of a bus beat, an INT8 or FP16 beat is
    half a reduction index, lower lanes first, and an INT4 beat a whole one, byte j of it the weights of lanes 2 j (low
    half) and 2 j + 1. INT4 weights are -8..7, or 0..15 where ``unsigned``.

    A bus beat is removed with the last array beat that it has a part in, but the first half of an index as soon as
    the array is ``running``. So nothing is held between tiles, and ``keep`` and ``rewind`` of the prefetch buffer need
    not know of this.

    Latency: none. Throughput: a bus beat or an array beat a cycle, whichever is slower.

    Parameters
    ----------
    width : int   bits of a bus beat
    lanes : int   lanes of the array, width / 8 or width / 4

    Members
    -------
    int4, unsigned : In(1)                format of the beats
    odd : In(1), last : In(1)             the next reduction index is odd; it is the last one of its tile
    beat, beat_take                       the prefetch buffer's, see ports.WeightRead
    weights : Out(8 * lanes), take : In(1)    the array beat; without ``halves`` it is there whenever ``beat`` is

    With ``halves``, where an index may take two beats:
    running : In(1)                       array beats will be taken
    beat_valid : In(1)                    the prefetch buffer's
    valid : Out(1)                        the array beat is there
    """

    def __init__(self, *, width, lanes):
        if lanes not in (width // 8, width // 4):
            raise ValueError(f"lanes must be width / 8 = {width // 8} or width / 4 = {width // 4}, not {lanes!r}")
        self._width, self._lanes, self.halves = width, lanes, lanes == width // 4
        super().__init__({
            "int4": In(1), "unsigned": In(1), "odd": In(1), "last": In(1),
            "beat": In(width), "beat_take": Out(1), "weights": Out(8 * lanes), "take": In(1),
            **({"running": In(1), "beat_valid": In(1), "valid": Out(1)} if self.halves else {}),
        })

    def elaborate(self, platform):
        m = Module()
        if not self.halves:
            m.d.comb += self.beat_take.eq(self.take & (~self.int4 | self.odd | self.last))
            whole = self.beat
            nibbles = [Mux(self.odd, self.beat.word_select(lane, 8)[4:], self.beat.word_select(lane, 8)[:4])
                       for lane in range(self._lanes)]
        else:
            whole = self._build_halves(m)
            nibbles = [self.beat.word_select(lane, 4) for lane in range(self._lanes)]
        for lane, nibble in enumerate(nibbles):
            extended = Cat(nibble, (nibble[3] & ~self.unsigned).replicate(4))
            m.d.comb += self.weights.word_select(lane, 8).eq(
                Mux(self.int4, extended, whole.word_select(lane, 8)))
        return m

    def _build_halves(self, m):
        """The first half of an index waits for the second one. Returns both."""
        held, first = Signal(), Signal(self._width, reset_less=True)
        m.d.comb += [
            self.valid.eq(self.beat_valid & (held | self.int4)),
            self.beat_take.eq(Mux(held | self.int4, self.take, self.running)),
        ]
        with m.If(self.beat_valid & self.beat_take):
            m.d.sync += [held.eq(~held & ~self.int4), first.eq(self.beat)]
        return Cat(first, self.beat)
