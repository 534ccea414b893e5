"""Reads of the sequencer: commands as a stream of words, and single words for the scalar registers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..commands import COMMAND_BYTES
from ..ports import BeatRead

__all__ = ["ProgramFetch", "WordRead"]

READ_AHEAD = 8
"""Commands."""
COMMAND_LOG = COMMAND_BYTES.bit_length() - 1


class WordRead(wiring.Signature):
    """A reader of single words. ``valid``, ``region`` and ``offset`` (in bytes, a multiple of 4) stand until ``done``,
    which comes with the word, or with ``error`` (bus error) or ``fault`` (its beat is not inside the region)."""

    def __init__(self):
        super().__init__({
            "valid": Out(1), "region": Out(3), "offset": Out(32),
            "done": In(1), "word": In(32), "error": In(1), "fault": In(1),
        })


class ProgramFetch(wiring.Component):
    """Reads commands ahead of their use, in order, until told to jump; the first of a program stay for the next run.

    Words come out one a cycle, least significant first, through a register. Up to eight commands are stored or on their
    way: enough where each waits behind the bursts of the prefetch. What was read ahead in vain (behind a jump, or
    skipped) is dropped; an error there is none: ``error`` and ``fault`` speak of the word that would come next.

    Eight slots of the store are a ring that commands pass through. The others hold, one behind the other, the commands
    from the last ``forget``'s target on, for good, each from when it was first read and none left out; a jump among
    these asks memory for nothing.

    A single word (``data``) goes between: the program's requests rest until it has come.

    Parameters
    ----------
    width : int      bits of a beat
    commands : int   slots: a multiple of 8; with 8 none is kept

    Members
    -------
    enable : In(1)      read ahead; while low nothing is requested
    jump : In(1)        go on at ``target`` (byte offset in region 0, aligned to a command; it stands since the cycle
                        before)
    forget : In(1)      beside ``jump``: keep the commands from ``target`` on instead
    word : Out(stream)  words
    skip : In(1)        beside a word that is taken: the next word is the first of the next command; it comes 2 cycles
                        later than the one behind would have
    error : Out(1)      the next word's beat came with a bus error
    fault : Out(1)      the next word lies outside region 0
    data : In(WordRead)
    """

    def __init__(self, *, width, commands):
        self._width, self._commands = width, commands
        self._kept_slots = commands - READ_AHEAD
        self._command_beats = 8 * COMMAND_BYTES // width
        super().__init__({
            "read": Out(BeatRead(width=width)),
            "enable": In(1), "jump": In(1), "forget": In(1), "target": In(32),
            "word": Out(stream.Signature(32)), "skip": In(1),
            "error": Out(1), "fault": Out(1),
            "data": In(WordRead()),
        })

    def elaborate(self, platform):
        m = Module()
        command_beats, depth = self._command_beats, self._commands * self._command_beats
        ahead = READ_AHEAD * command_beats
        # A beat is read in a later cycle than it is written, and written again in a later one than it is read.
        m.submodules.store = store = memory.Memory(shape=self._width + 1, depth=depth, init=[],
                                                   attrs={"no_rw_check": 1})
        write, self._front = store.write_port(), store.read_port()

        self._offset = offset = Signal(32)        # of the next request
        self._stored = stored = Signal(range(depth + 1))      # beats, without that in front
        self._reserved = reserved = Signal(range(depth + 1))  # stored or on their way; sees them leave a cycle late
        flight = Signal(range(8 * ahead))         # beats on their way, wanted or not
        unwanted = Signal.like(flight)            # of these, the first so many are dropped
        faulted = Signal()

        self._idle = Signal()                     # no single word is wanted or on its way
        self._data_beat = Signal()                # the beat that arrives is a single word's
        program_beat = Signal()
        room = Signal()                           # for a command; a register, which rests behind each request
        asked = Signal()                          # a burst was accepted
        accepted = Signal()                       # ... or refused
        keep = Signal()                           # a beat arrives that is wanted
        leaving = Signal(range(command_beats + 1))  # beats that leave
        gone = Signal.like(leaving)               # those that left in the cycle before
        m.d.comb += [
            accepted.eq(self._idle & self.read.request_valid & self.read.request_ready),
            asked.eq(accepted & ~self.read.fault),
            program_beat.eq(self.read.beat_valid & ~self._data_beat),
            keep.eq(program_beat & (unwanted == 0) & ~self.jump),
            write.data[:-1].eq(self.read.beat), write.data[-1].eq(self.read.beat_error), write.en.eq(keep),
        ]
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
            room.eq(self.enable & ~faulted & (reserved <= ahead - command_beats) & (flight < 6 * ahead) & ~accepted),
            flight.eq(flight + Mux(asked, command_beats, 0) - program_beat),
            unwanted.eq(unwanted - (program_beat & (unwanted != 0))),
            reserved.eq(reserved + Mux(asked, command_beats, 0) - gone), gone.eq(leaving),
            stored.eq(stored + keep - leaving),
        ]
        waiting = Signal()                        # nothing is left to come out
        m.d.comb += self.fault.eq(waiting & (flight == unwanted) & faulted)
        self._build_arrival(m, write, keep)
        self._build_output(m, leaving, waiting)
        with m.If(self.jump):
            m.d.sync += [unwanted.eq(flight - program_beat), gone.eq(0), faulted.eq(0), room.eq(0)]
        self._build_jump(m)
        return m

    def _following(self, slot):
        """The slot behind: the last one's is the first of the ring."""
        return Mux(slot == self._commands - 1, self._kept_slots, slot + 1)

    def _build_arrival(self, m, write, keep):
        """Beats into the store; ``kept`` counts the commands that stay."""
        self._write_slot = slot = Signal(range(self._commands))
        self._write_beat = beat = Signal(range(self._command_beats))
        self._kept = kept = Signal(range(self._kept_slots + 1))
        self._keeping = keeping = Signal()        # the command that arrives is the first that is not kept yet
        m.d.comb += write.addr.eq(Cat(beat, slot))
        with m.If(keep):
            m.d.sync += beat.eq(beat + 1)
            with m.If(self.read.beat_error):
                m.d.sync += keeping.eq(0)
            with m.If(beat == self._command_beats - 1):
                m.d.sync += slot.eq(self._following(slot))
                with m.If(keeping & ~self.read.beat_error):
                    m.d.sync += [kept.eq(kept + 1), keeping.eq(kept != self._kept_slots - 1)]

    def _build_output(self, m, leaving, waiting):
        """Beats into the store's output register, words out of it, and the rest of a command away at once."""
        beats, lanes, stored, front = self._command_beats, self._width // 32, self._stored, self._front
        self._read_slot, self._read_beat = Signal(range(self._commands)), Signal(range(beats))
        self._full, first = Signal(), Signal()    # a beat is in front; it is a command's first
        self._skipping = skipping = Signal()      # the rest of a command is unwanted
        lane = Signal(range(max(lanes, 2)))
        take, used = Signal(), Signal()           # a word goes into the word register; it is the front's last
        self._failed = failed = Signal()          # ... and does not count: an error
        load, skipped = Signal(), Signal()        # a beat comes to the front; the unwanted rest is there, and leaves
        rest = Signal(range(beats))               # beats between the front and the command's end
        slot, beat = Signal.like(self._read_slot), Signal.like(self._read_beat)  # of the beat to load
        taken = self.word.valid & self.word.ready
        few, many = stored[:len(rest)], stored[len(rest):].any()    # as a compare of all of ``stored`` takes long
        m.d.comb += [
            rest.eq(-self._read_beat), skipped.eq(skipping & (many | (few >= rest))),
            load.eq(Mux(skipping, many | (few > rest), (stored != 0) & (~self._full | used))),
            leaving.eq(Mux(skipped, rest, 0) + load),
            slot.eq(Mux(skipped & (rest != 0), self._following(self._read_slot), self._read_slot)),
            beat.eq(Mux(skipped, 0, self._read_beat)),
            front.addr.eq(Cat(beat, slot)), front.en.eq(load), used.eq(take & (lane == lanes - 1)),
            self.error.eq(failed), waiting.eq((stored == 0) & ~self._full & ~self.word.valid & ~failed),
        ]
        m.d.sync += [self._read_slot.eq(slot), self._read_beat.eq(beat)]
        with m.If(~self.word.valid | self.word.ready):
            m.d.comb += take.eq(self._full & ~failed & ~skipping & ~(taken & self.skip))
            m.d.sync += [
                self.word.valid.eq(take & ~front.data[-1]), failed.eq((take & front.data[-1]) | failed),
                self.word.payload.eq(front.data[:-1].word_select(lane, 32)),
            ]
        with m.If(take):
            m.d.sync += lane.eq(lane + 1)
        with m.If(load):
            m.d.sync += [self._full.eq(1), lane.eq(0), first.eq(beat == 0), self._read_beat.eq(beat + 1)]
            with m.If(beat == beats - 1):
                m.d.sync += self._read_slot.eq(self._following(slot))
        with m.Elif(used | skipped):
            m.d.sync += self._full.eq(0)
        with m.If(skipped):
            m.d.sync += skipping.eq(0)
        begins = Mux(self._full, first & (lane == 0), self._read_beat == 0)  # behind a command's last word
        with m.If(taken & self.skip & ~begins):
            m.d.sync += skipping.eq(1)

    def _build_jump(self, m):
        """Where the next command lies: in its slot since an earlier run or loop, or in memory."""
        kept, slots = self._kept, self._kept_slots
        base = Signal(32)                         # offset of the command in slot 0
        distance = Signal(32 - COMMAND_LOG)       # commands from there to the target
        slot = Signal(range(self._commands))
        m.d.sync += distance.eq((self.target - base)[COMMAND_LOG:])
        with m.If(self.jump):
            m.d.sync += [
                self._full.eq(0), self._skipping.eq(0), self.word.valid.eq(0), self._failed.eq(0),
                self._read_beat.eq(0), self._write_beat.eq(0), self._read_slot.eq(slot), self._write_slot.eq(slot),
                self._offset.eq(self.target), self._stored.eq(0), self._reserved.eq(0), self._keeping.eq(0),
            ]
            if not slots:
                return
            with m.If(self.forget):
                m.d.sync += [base.eq(self.target), kept.eq(0), self._keeping.eq(1)]
            with m.Elif(distance <= kept):
                ready = (kept - distance) * self._command_beats
                m.d.comb += slot.eq(distance)
                m.d.sync += [
                    self._write_slot.eq(kept), self._offset.eq(base + (kept << COMMAND_LOG)), self._stored.eq(ready),
                    self._reserved.eq(ready), self._keeping.eq(kept != slots),
                ]
            with m.Else():
                m.d.comb += slot.eq(slots)

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
