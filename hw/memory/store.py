"""STORE: rows, or scattered bytes, half words and words, from the scratchpad to memory."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..commands import Element, Opcode, layout
from ..ports import SCRATCH_ADDRESS_WIDTH, AxiWrite, ScratchRead, UnitStatus, region_layout
from ..registers import REGIONS, ErrorCode
from .errors import report_first
from .rows import TRANSFER, Bursts, Rows, misaligned
from .scratchpad import Scratchpad
from .store_source import GroupFetch, Pack, beat_tag
from .write_port import WritePort

__all__ = ["Store"]

BUFFERED_BURSTS = 2
ROWS_AHEAD = 8


class Store(wiring.Component):
    """Writes scratchpad contents to memory; the owner of the AXI write channels.

    ROW moves rows in bursts, the last beat of a row cut by strobes. BYTE, HALF and WORD move single elements, each in
    a burst of one beat: BYTE takes consecutive bytes, HALF the low halves of consecutive words, WORD consecutive words.
    Throughput: a beat, or an element, a cycle. Data is fetched before its burst is issued, so that W never waits for
    the scratchpad. ``done`` comes after the last response of the command; the next one starts then.

    ``abort``, held for 2 cycles at least, ends the command in work: from the third cycle on no AW is raised, beats
    still owed are sent without strobes, and ``idle`` says when that is over. The unit is ready for a command once
    ``abort`` is low then. It is not to be reset in another way.

    Errors: BAD_FIELD: rows, planes or count is 0; for ROW an address or stride is not a multiple of a beat; for others
    an address or stride in memory is not a multiple of the element, or one in the scratchpad not of its source (BYTE 1,
    else 4 bytes). WRITE_RANGE (also where the region is not writable), SCRATCHPAD_RANGE, WRITE_RESPONSE. No burst that
    is not wholly inside its region is issued.

    Parameters
    ----------
    address_width : int   bits of the AXI address
    group_words : int     words of a group, which is as wide as a beat
    burst_beats : int     longest burst

    Members
    -------
    regions : In(region_layout)    stable while a command is in work
    idle : Out(1)                  nothing is on the bus or outstanding
    beat : Out(1)                  a beat was sent on W
    """

    def __init__(self, *, address_width, group_words, burst_beats):
        self._address_width, self._group_words, self._burst_beats = address_width, group_words, burst_beats
        width = 32 * group_words
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.STORE))), "status": Out(UnitStatus()),
            "regions": In(region_layout(address_width)),
            "read": Out(ScratchRead(width=width)),
            "axi": Out(AxiWrite(address_width=address_width, width=width)),
            "abort": In(1), "idle": Out(1), "beat": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        width = 32 * self._group_words
        beat_log = (width // 8).bit_length() - 1
        m.submodules.port = port = WritePort(address_width=self._address_width, width=width,
                                             burst_beats=self._burst_beats, tag=beat_tag(beat_log))
        engine = StoreEngine(address_width=self._address_width, group_words=self._group_words,
                             burst_beats=self._burst_beats)
        stopped = Signal()      # from abort until everything outstanding is done
        reading = Signal(Scratchpad.delay)      # reads under way, which come back whatever happens
        m.submodules.engine = ResetInserter(stopped)(engine)
        for inner, outer in ((engine.command, self.command), (engine.read, self.read), (port.axi, self.axi),
                             (engine.status, self.status)):
            wiring.connect(m, inner, wiring.flipped(outer))
        wiring.connect(m, engine.burst, port.burst)
        wiring.connect(m, engine.beat, port.beat)
        m.d.comb += [
            port.abort.eq(stopped), self.idle.eq(port.idle & (reading == 0)),
            engine.regions.eq(self.regions), engine.tag.eq(port.tag), engine.last.eq(port.last),
            engine.port_idle.eq(port.idle), engine.port_error.eq(port.error),
            self.beat.eq(self.axi.wvalid & self.axi.wready),
        ]
        m.d.sync += [stopped.eq(self.abort | (stopped & ~self.idle)),
                     reading.eq(Cat(self.read.valid & self.read.ready, reading))]
        return m


class StoreEngine(wiring.Component):
    """A STORE command as bursts and beats for ``WritePort``; members as Store's and the port's. Reset by an abort."""

    def __init__(self, *, address_width, group_words, burst_beats):
        self._width = width = 32 * group_words
        self._beat_log = (width // 8).bit_length() - 1
        self._burst_beats = burst_beats
        self._address_width = address_width
        tag = beat_tag(self._beat_log)
        # What is known of a burst before it is checked.
        self._item = data.StructLayout({
            "offset": 32, "beats": range(burst_beats + 1), "last": 1, "row_ends": 1,
            "slot": self._beat_log, "group_begins": 1, "group_ends": 1})
        super().__init__({
            "command": In(stream.Signature(layout(Opcode.STORE))), "status": Out(UnitStatus()),
            "regions": In(region_layout(address_width)),
            "read": Out(ScratchRead(width=width)),
            "burst": Out(stream.Signature(data.StructLayout(
                {"address": address_width, "beats": range(burst_beats + 1), "tag": tag}))),
            "beat": Out(stream.Signature(data.StructLayout({"data": width, "strobe": width // 8}))),
            "tag": In(tag), "last": In(1), "port_idle": In(1), "port_error": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        self._starting, self._bad, self._outside = Signal(), Signal(), Signal()
        self._committed = Signal()      # the command's last burst went to the port
        m.submodules.rows = self._rows = Rows()
        m.submodules.bursts = self._bursts = Bursts(beat_bytes=self._width // 8, burst_beats=self._burst_beats)
        m.submodules.fetch = self._fetch = fetch = GroupFetch(
            width=self._width, entries=BUFFERED_BURSTS * self._burst_beats)
        wiring.connect(m, fetch.read, wiring.flipped(self.read))
        self._failed = report_first(
            m, self.status,
            (self._starting & self._bad, ErrorCode.BAD_FIELD), (self._outside, ErrorCode.WRITE_RANGE),
            (fetch.fault, ErrorCode.SCRATCHPAD_RANGE), (self.port_error, ErrorCode.WRITE_RESPONSE))
        m.d.comb += fetch.hold.eq(self._failed)
        self._build_command(m)
        self._build_rows(m)
        self._build_items(m)
        self._build_check(m)
        self._build_beats(m)
        return m

    def _build_command(self, m):
        """Check the command, work out what all rows have in common, and follow the command to its end."""
        command, beat_log = self.command.payload, self._beat_log
        beat_bytes = 1 << beat_log
        self._element, self._tail = Signal(Element), Signal(beat_log)
        self._step = Signal(beat_log + 1)                 # source bytes of an element
        self._count = Signal(32)                          # beats or elements of a row
        self._source_bytes = Signal(34)                   # of a row, rounded up for division
        in_memory = (command.offset, command.row_stride, command.plane_stride)
        in_scratch = (command.scratch, command.scratch_row_stride, command.scratch_plane_stride)
        empty = (command.rows == 0) | (command.planes == 0) | (command.count == 0)
        m.d.sync += self.status.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [self._element.eq(command.element), self._tail.eq(command.count - 1)]
                with m.Switch(command.element):
                    for element, log, source_log in ((Element.ROW, beat_log, beat_log), (Element.BYTE, 0, 0),
                                                     (Element.HALF, 1, 2), (Element.WORD, 2, 2)):
                        row = element == Element.ROW
                        scattered = () if row else (command.element_stride,)
                        with m.Case(element):
                            m.d.sync += [
                                self._bad.eq(misaligned(log, *in_memory, *scattered)
                                             | misaligned(source_log, *in_scratch) | empty),
                                self._count.eq((command.count + beat_bytes - 1) >> beat_log if row else command.count),
                                self._source_bytes.eq((command.count << (0 if row else source_log)) + beat_bytes - 1),
                                self._step.eq(1 << source_log),
                            ]
                with m.If(self.command.valid & ~self._failed):
                    m.next = "START"
            with m.State("START"):
                m.d.comb += self._starting.eq(1)
                m.next = "ISSUE"
            with m.State("ISSUE"), m.If(self._committed):
                m.d.comb += self.command.ready.eq(1)
                m.next = "RESPONSES"
            with m.State("RESPONSES"), m.If(self.port_idle & ~self._failed):
                m.d.sync += self.status.done.eq(1)
                m.next = "IDLE"

    def _build_rows(self, m):
        """Each row goes to the fetch at once, and through a queue to the bursts: fetching runs ahead over rows."""
        rows, fetch, bursts, command = self._rows, self._fetch, self._bursts, self.command.payload
        row_layout = data.StructLayout({"offset": 32, "slot": self._beat_log, "last": 1})
        m.submodules.ahead = ahead = SyncFIFO(width=row_layout.size, depth=ROWS_AHEAD)
        row, following = Signal(row_layout), Signal(row_layout)
        group, slot = rows.row.payload.scratch[self._beat_log:], rows.row.payload.scratch[:self._beat_log]
        m.d.comb += [rows.transfer[name].eq(command[name]) for name in TRANSFER.members]
        m.d.comb += [
            rows.start.eq(self._starting & ~self._bad),
            rows.row.ready.eq(fetch.row.ready & ahead.w_rdy),
            fetch.row.valid.eq(rows.row.valid & ahead.w_rdy),
            fetch.row.payload.group.eq(Cat(group[:SCRATCH_ADDRESS_WIDTH], group[SCRATCH_ADDRESS_WIDTH:].any())),
            fetch.row.payload.groups.eq((slot + self._source_bytes) >> self._beat_log),
            row.offset.eq(rows.row.payload.offset), row.slot.eq(slot), row.last.eq(rows.row.payload.last),
            ahead.w_data.eq(row), ahead.w_en.eq(rows.row.valid & fetch.row.ready),
            following.eq(ahead.r_data), ahead.r_en.eq(bursts.run.ready),
            bursts.run.valid.eq(ahead.r_rdy), bursts.run.payload.offset.eq(following.offset),
            bursts.run.payload.count.eq(self._count), bursts.run.payload.last.eq(following.last),
            bursts.single.eq(self._element != Element.ROW), bursts.stride.eq(command.element_stride),
        ]
        self._row_slot = following.slot

    def _build_items(self, m):
        """Stage 1: a burst, and where its element lies in the scratchpad's group. The queue behind it keeps the bus's
        ready signals away from all that comes before."""
        bursts, burst, item = self._bursts, self._bursts.burst.payload, Signal(self._item)
        m.submodules.items = self._items = items = SyncFIFO(width=self._item.size, depth=2)
        slot, first = Signal(self._beat_log), Signal()
        following = Signal(self._beat_log + 1)
        m.d.comb += [
            following.eq(slot + self._step),
            item.offset.eq(burst.offset), item.beats.eq(burst.beats), item.last.eq(burst.last),
            item.row_ends.eq(burst.last_of_run), item.slot.eq(slot),
            item.group_begins.eq(first | (slot == 0)),
            item.group_ends.eq(burst.last_of_run | following[-1]),
            items.w_data.eq(item), items.w_en.eq(bursts.burst.valid), bursts.burst.ready.eq(items.w_rdy),
        ]
        with m.If(bursts.burst.valid & bursts.burst.ready):
            m.d.sync += [slot.eq(following), first.eq(0)]
        with m.If(bursts.run.valid & bursts.run.ready):
            m.d.sync += [slot.eq(self._row_slot), first.eq(1)]

    def _build_check(self, m):
        """Stage 2: region and range. Then the burst waits until its groups are stored, and goes to the port."""
        item, beat_log, burst = data.View(self._item, self._items.r_data), self._beat_log, self.burst
        region = self.command.payload.region
        base, size, writable = Signal(self._address_width), Signal(32), Signal()
        m.d.comb += [signal.eq(Array(entry[name] for entry in self.regions)[region])
                     for name, signal in (("base", base), ("size", size), ("writable", writable))]
        # A burst stays between two multiples of its greatest length, so only these bits of its end differ.
        burst_log = self._burst_beats.bit_length() - 1
        low, high = item.offset[beat_log:beat_log + burst_log], item.offset[beat_log + burst_log:]
        end_beat, end_byte = Signal(burst_log), Signal(beat_log)
        m.d.comb += end_beat.eq(low + item.beats - 1)
        with m.Switch(self._element):
            with m.Case(Element.ROW):
                m.d.comb += end_byte.eq(Mux(item.row_ends, self._tail, ~0))
            for element, size_log in ((Element.BYTE, 0), (Element.HALF, 1), (Element.WORD, 2)):
                with m.Case(element):
                    m.d.comb += end_byte.eq(item.offset[:beat_log] | ((1 << size_log) - 1))

        valid, inside, last = Signal(), Signal(), Signal()
        available = Signal(range(BUFFERED_BURSTS * self._burst_beats + 1))   # groups stored that no burst claims
        need, commit = Signal(range(self._burst_beats + 1)), Signal()
        m.d.comb += [
            burst.valid.eq(valid & inside & (available >= need) & ~self._failed),
            commit.eq(burst.valid & burst.ready), self._committed.eq(commit & last),
            self._outside.eq(valid & ~inside), self._items.r_en.eq(~valid | commit),
        ]
        m.d.sync += available.eq(available + self._fetch.arrived - Mux(commit, need, 0))
        with m.If(self._items.r_en):
            address = Cat(Const(0, beat_log), item.offset[beat_log:])
            m.d.sync += [
                valid.eq(self._items.r_rdy), last.eq(item.last), burst.payload.beats.eq(item.beats),
                burst.payload.address.eq(base + address),
                inside.eq((Cat(end_byte, end_beat, high) < size) & writable & (region < REGIONS)),
                need.eq(Mux(self._element == Element.ROW, item.beats, item.group_begins)),
                burst.payload.tag.slot.eq(item.slot), burst.payload.tag.lane.eq(item.offset),
                burst.payload.tag.group_ends.eq(item.group_ends), burst.payload.tag.row_ends.eq(item.row_ends),
            ]

    def _build_beats(self, m):
        m.submodules.pack = pack = Pack(width=self._width)
        fetch, beat = self._fetch, self.beat
        m.d.comb += [
            pack.element.eq(self._element), pack.tail.eq(self._tail), pack.tag.eq(self.tag), pack.last.eq(self.last),
            pack.group.eq(fetch.front), beat.valid.eq(fetch.valid), beat.payload.data.eq(pack.data),
            beat.payload.strobe.eq(pack.strobe), fetch.take.eq(beat.valid & beat.ready & pack.group_ends),
        ]
