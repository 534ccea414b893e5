"""Reads of the sequencer: commands as a stream of words, and single words for the scalar registers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import COMMAND_BYTES
from ..ports import BeatRead

__all__ = ["ProgramFetch", "WordRead"]

QUEUE_BYTES = 8 * COMMAND_BYTES


class WordRead(wiring.Signature):
    """A reader of single words. ``valid``, ``region`` and ``offset`` (in bytes, a multiple of 4) stand until ``done``,
    which comes with the word, or with ``error`` (bus error) or ``fault`` (its beat is not inside the region)."""

    def __init__(self):
        super().__init__({
            "valid": Out(1), "region": Out(3), "offset": Out(32),
            "done": In(1), "word": In(32), "error": In(1), "fault": In(1),
        })


class ProgramFetch(wiring.Component):
    """Reads commands ahead of their use, in order, until told to jump.

    Words come out one a cycle, least significant first, through a register. Up to eight commands are stored or on their
    way: enough where each waits behind the bursts of the prefetch. What was read ahead in vain (behind a jump, or
    skipped) is dropped; an error there is none: ``error`` and ``fault`` speak of the word that would come next.

    A single word (``data``) goes between: the program's requests rest until it has come.

    Members
    -------
    enable : In(1)      read ahead; while low nothing is requested
    jump : In(1)        go on at ``target`` (byte offset in region 0, aligned to a command)
    word : Out(stream)  words
    skip : In(1)        beside a word that is taken: the next word is the first of the next command; it comes 2 cycles
                        later than the one behind would have
    error : Out(1)      the next word's beat came with a bus error
    fault : Out(1)      the next word lies outside region 0
    data : In(WordRead)
    """

    def __init__(self, *, width):
        self._width = width
        super().__init__({
            "read": Out(BeatRead(width=width)),
            "enable": In(1), "jump": In(1), "target": In(32),
            "word": Out(stream.Signature(32)), "skip": In(1),
            "error": Out(1), "fault": Out(1),
            "data": In(WordRead()),
        })

    def elaborate(self, platform):
        m = Module()
        beat_bytes = self._width // 8
        self._command_beats = command_beats = COMMAND_BYTES // beat_bytes
        depth = QUEUE_BYTES // beat_bytes
        m.submodules.store = store = memory.Memory(shape=self._width + 1, depth=depth, init=[])
        write, read = store.write_port(), store.read_port(domain="comb")

        offset = Signal(32)
        reserved = Signal(range(depth + 1))       # beats stored or on their way; sees them leave a cycle late
        flight = Signal(range(8 * depth))         # beats on their way, wanted or not
        unwanted = Signal.like(flight)            # of these, the first so many are dropped
        stored = Signal(range(depth + 1))
        head, tail = Signal(range(depth)), Signal(range(depth))
        faulted = Signal()

        self._idle = Signal()                     # no single word is wanted or on its way
        self._data_beat = Signal()                # the beat that arrives is a single word's
        program_beat = Signal()
        room = Signal()                           # for a command; a register, which rests behind each request
        asked = Signal()                          # a burst was accepted
        accepted = Signal()                       # ... or refused
        keep = Signal()                           # a beat arrives that is wanted
        skipping = Signal()                       # the rest of a command is unwanted
        beat = head[:command_beats.bit_length() - 1]
        leaving = Signal(range(command_beats + 1))  # beats that leave
        gone = Signal.like(leaving)               # those that left in the cycle before
        m.d.comb += [
            accepted.eq(self._idle & self.read.request_valid & self.read.request_ready),
            asked.eq(accepted & ~self.read.fault),
            program_beat.eq(self.read.beat_valid & ~self._data_beat),
            keep.eq(program_beat & (unwanted == 0)),
            write.addr.eq(tail), write.data[:-1].eq(self.read.beat), write.data[-1].eq(self.read.beat_error),
            write.en.eq(keep),
            read.addr.eq(head),
            self.error.eq((stored != 0) & read.data[-1] & ~skipping & ~self.word.valid),
            self.fault.eq((stored == 0) & (flight == unwanted) & faulted & ~self.word.valid),
        ]
        self._build_output(m, read.data, stored, beat, skipping, leaving)
        with m.If(self._idle):
            m.d.comb += [
                # A jump takes the request back, and so does a single word.
                self.read.request_valid.eq(room & ~self.jump & ~self.data.valid),
                self.read.request_offset.eq(offset),
                self.read.request_beats.eq(command_beats),
            ]
        self._build_data(m, flight)
        with m.If(accepted):
            m.d.sync += [faulted.eq(self.read.fault), offset.eq(offset + COMMAND_BYTES)]
        m.d.sync += [
            room.eq(self.enable & ~faulted & (reserved <= depth - command_beats) & (flight < 6 * depth) & ~accepted),
            flight.eq(flight + Mux(asked, command_beats, 0) - program_beat),
            unwanted.eq(unwanted - (program_beat & (unwanted != 0))),
            reserved.eq(reserved + Mux(asked, command_beats, 0) - gone), gone.eq(leaving),
            stored.eq(stored + keep - leaving),
            tail.eq(tail + keep),
            head.eq(head + leaving),
        ]
        with m.If(self.jump):
            m.d.sync += [
                unwanted.eq(flight - program_beat), reserved.eq(0), gone.eq(0), stored.eq(0), head.eq(0), tail.eq(0),
                self._lane.eq(0), faulted.eq(0), room.eq(0), skipping.eq(0), self.word.valid.eq(0),
                offset.eq(self.target),
            ]
        return m

    def _build_output(self, m, front, stored, beat, skipping, leaving):
        """Words out of the ``front`` beat into the output register, and the rest of a command away at once."""
        lanes = self._width // 32
        self._lane = lane = Signal(range(max(lanes, 2)))
        take = Signal()                           # a word goes into the output register
        skipped = Signal()                        # the unwanted rest is there, and leaves
        rest = Signal.like(leaving)               # beats from the front to the command's end
        m.d.comb += [rest.eq(self._command_beats - beat), skipped.eq(skipping & (stored >= rest))]
        taken = self.word.valid & self.word.ready
        with m.If(~self.word.valid | self.word.ready):
            m.d.comb += take.eq((stored != 0) & ~front[-1] & ~skipping & ~(taken & self.skip))
            m.d.sync += [self.word.valid.eq(take), self.word.payload.eq(front[:-1].word_select(lane, 32))]
        with m.If(take):
            m.d.sync += lane.eq(lane + 1)
        with m.If(skipped):
            m.d.comb += leaving.eq(rest)
            m.d.sync += [lane.eq(0), skipping.eq(0)]
        with m.Elif(take & (lane == lanes - 1)):
            m.d.comb += leaving.eq(1)
            m.d.sync += lane.eq(0)
        with m.If(taken & self.skip & ~((beat == 0) & (lane == 0))):  # at a command's last word nothing is behind it
            m.d.sync += skipping.eq(1)

    def _build_data(self, m, flight):
        """A single word: the request behind a cycle without any, its beat behind those of the program."""
        read, data = self.read, self.data
        beat_log = (self._width // 8).bit_length() - 1
        m.d.comb += data.word.eq(read.beat.word_select(data.offset[2:beat_log], 32))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self._idle.eq(1)
                with m.If(data.valid):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += [
                    read.request_valid.eq(1), read.request_region.eq(data.region), read.request_beats.eq(1),
                    read.request_offset.eq(Cat(Const(0, beat_log), data.offset[beat_log:])),
                ]
                with m.If(read.request_ready):
                    m.d.comb += [data.fault.eq(read.fault), data.done.eq(read.fault)]
                    m.next = "ARRIVE"
                    with m.If(read.fault):
                        m.next = "IDLE"
            with m.State("ARRIVE"):
                m.d.comb += self._data_beat.eq(flight == 0)
                with m.If(self._data_beat & read.beat_valid):
                    m.d.comb += [data.done.eq(1), data.error.eq(read.beat_error)]
                    m.next = "IDLE"
