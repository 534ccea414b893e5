"""The shared read port: bursts of several requestors on one AXI read channel."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..ports import AxiRead, BeatRead, region_layout
from ..registers import REGIONS

__all__ = ["ReadPort"]

PAGE_LOG = 12


class ReadPort(wiring.Component):
    """Checks bursts against their region, issues them, and hands the beats back in order.

    Requestor 0 goes first, then 1, and so on: the rare requestors stand before the one that would take everything.
    A requestor holds its request until it is accepted, or drops ``request_valid`` for at least a cycle to take it back.
    A burst is accepted every 4 cycles at most, so bursts of 4 beats and more keep the bus busy.
    Latency: 4 cycles from request to ARVALID, 1 cycle from R to the requestor. RREADY is always high.

    ``abort`` stops it: nothing new is issued (an ARVALID that is up stays up until ARREADY), and the beats outstanding
    are dropped. It works again when ``abort`` is low and ``idle`` was high; requestors are reset meanwhile.

    Parameters
    ----------
    requestors : int
    address_width, width : int   of the AXI channel, bits
    outstanding : int            bursts outstanding at most

    Members
    -------
    requests : In(BeatRead), array    a request's region number from REGIONS on is outside of all regions
    regions : In(region_layout)       stable while bursts are requested
    axi : Out(AxiRead)
    abort : In(1), idle : Out(1)      stop; no burst outstanding and no beat on its way
    beat : Out(1)                     a beat was received on R
    stalled : Out(1)                  bursts are outstanding and RVALID is low
    """

    def __init__(self, *, requestors, address_width, width, outstanding):
        for name, value in (("requestors", requestors), ("outstanding", outstanding)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        if address_width <= PAGE_LOG:
            raise ValueError(f"address_width must be more than {PAGE_LOG}, not {address_width!r}")
        self._requestors, self._outstanding = requestors, outstanding
        self._address_width, self._width = address_width, width
        super().__init__({
            "requests": In(BeatRead(width=width)).array(requestors),
            "regions": In(region_layout(address_width)),
            "axi": Out(AxiRead(address_width=address_width, width=width)),
            "abort": In(1), "idle": Out(1), "beat": Out(1), "stalled": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        axi = self.axi
        m.submodules.owners = owners = SyncFIFO(width=max(1, (self._requestors - 1).bit_length()),
                                                depth=self._outstanding)
        stopping = Signal()   # from abort until everything outstanding has come
        stopped = Signal()
        m.d.comb += stopped.eq(self.abort | stopping)
        m.d.sync += stopping.eq(stopped & ~self.idle)

        arrived = Signal()
        m.d.comb += [
            axi.rready.eq(1), self.beat.eq(axi.rvalid), owners.r_en.eq(axi.rvalid & axi.rlast),
            self.stalled.eq(owners.r_rdy & ~axi.rvalid),
            self.idle.eq(~axi.arvalid & ~owners.r_rdy & ~arrived),
        ]
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        self._build_request(m, owners, stopped)

        # Beats back to their owner
        data, error = Signal(self._width, reset_less=True), Signal(reset_less=True)
        owner = Signal(range(self._requestors), reset_less=True)
        m.d.sync += [
            arrived.eq(axi.rvalid & ~stopped), data.eq(axi.rdata), error.eq(axi.rresp != 0), owner.eq(owners.r_data),
        ]
        for i, port in enumerate(self.requests):
            m.d.comb += [port.beat_valid.eq(arrived & (owner == i)), port.beat.eq(data),
                         port.beat_error.eq(error)]
        return m

    def _build_request(self, m, owners, stopped):
        """Choose, check in two steps, answer: one cycle each."""
        axi, beat_log = self.axi, (self._width // 8).bit_length() - 1
        chosen = Signal(range(self._requestors))
        gone = Signal()       # the request in work was taken back
        m.d.comb += gone.eq(stopped | ~Array(port.request_valid for port in self.requests)[chosen])
        region, offset, beats = Signal(3), Signal(32), Signal(9)
        inside, free = Signal(), Signal()
        ready, taken, issued = Signal(), Signal(), Signal()
        # Only this FSM takes room away, and not in the cycles before an answer: free may be a cycle old. No answer
        # depends on what the requestor does in its cycle; a request that is taken back in it is not taken.
        m.d.sync += free.eq(owners.w_rdy & ~axi.arvalid)
        m.d.comb += [taken.eq(ready & inside & ~gone), owners.w_data.eq(chosen), owners.w_en.eq(issued)]
        m.d.sync += issued.eq(taken)    # beside ARVALID; R comes in the cycle behind that at the earliest
        for i, port in enumerate(self.requests):
            m.d.comb += [port.request_ready.eq(ready & (chosen == i)), port.fault.eq(ready & ~inside)]
        with m.FSM():
            with m.State("CHOOSE"):
                for i, port in reversed(list(enumerate(self.requests))):
                    with m.If(port.request_valid):
                        m.d.sync += [chosen.eq(i), region.eq(port.request_region), offset.eq(port.request_offset),
                                     beats.eq(port.request_beats)]
                        m.next = "CHECK"
                with m.If(stopped):
                    m.next = "CHOOSE"
            with m.State("CHECK"):
                # A burst stays in its 4 KiB page: compare the pages, and the burst's end inside its page.
                base, size = Signal(self._address_width), Signal(32)
                m.d.comb += [base.eq(Array(entry.base for entry in self.regions)[region]),
                             size.eq(Array(entry.size for entry in self.regions)[region])]
                end = Signal(PAGE_LOG + 1)
                start, address = Signal(self._address_width), Signal(self._address_width)
                limit, known = Signal(32), Signal()
                m.d.sync += [
                    limit.eq(size), known.eq(region < REGIONS), start.eq(base),
                    end.eq(offset[:PAGE_LOG] + (beats << beat_log)),
                ]
                m.next = "COMPARE"
                with m.If(gone):
                    m.next = "CHOOSE"
            with m.State("COMPARE"):
                page, last_page = offset[PAGE_LOG:], limit[PAGE_LOG:]
                m.d.sync += [
                    inside.eq(known & ((page < last_page) | ((page == last_page) & (end <= limit[:PAGE_LOG])))),
                    address.eq(start + offset),
                ]
                m.next = "ANSWER"
                with m.If(gone):
                    m.next = "CHOOSE"
            with m.State("ANSWER"):
                m.d.comb += ready.eq(free | ~inside)
                with m.If(taken):
                    m.d.sync += [axi.arvalid.eq(1), axi.araddr.eq(address), axi.arlen.eq(beats - 1)]
                with m.If(ready | gone):
                    m.next = "CHOOSE"
