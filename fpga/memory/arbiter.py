"""Several AXI initiators on one port."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from tilewright.hw.ports import AxiRead, AxiWrite

__all__ = ["AxiArbiter"]


class AxiArbiter(wiring.Component):
    """Joins the bursts of several initiators, in turn: who was served last comes last, for reads and for writes.

    A burst is granted every 3 cycles at most; several may be outstanding, so a stream through the arbiter has no gaps.
    Responses come in the order of the grants and go to their owners unchanged, without delay; AR and AW come two cycles
    later. Write data follows in the order of the granted AWs: an initiator that holds back the data of a granted burst
    holds back the data of all others, and one that holds RREADY low their reads. Reads and writes do not wait for each
    other.

    Parameters
    ----------
    initiators : int
    address_width, width : int
    outstanding : int          bursts of each kind

    Members
    -------
    reads : In(AxiRead), array; writes : In(AxiWrite), array
    read : Out(AxiRead), write : Out(AxiWrite)
    """

    def __init__(self, *, initiators, address_width, width, outstanding=8):
        for name, value in (("initiators", initiators), ("outstanding", outstanding)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        self._initiators, self._outstanding = initiators, outstanding
        read = AxiRead(address_width=address_width, width=width)
        write = AxiWrite(address_width=address_width, width=width)
        super().__init__({"reads": In(read).array(initiators), "writes": In(write).array(initiators),
                          "read": Out(read), "write": Out(write)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.read_owners = read_owners = self._queue()
        m.submodules.data_owners = data_owners = self._queue()
        m.submodules.response_owners = response_owners = self._queue()
        self._grant(m, "ar", self.reads, self.read, [read_owners])
        self._grant(m, "aw", self.writes, self.write, [data_owners, response_owners])

        self._route(m, "r", self.reads, self.read, read_owners, ("rdata", "rresp", "rlast"), self.read.rlast)
        self._route(m, "b", self.writes, self.write, response_owners, ("bresp",), 1)

        self._route_data(m, data_owners)
        return m

    def _front(self, m, name, owners, ends):
        """Owner of the burst in work, as a number and as a bit for each initiator, all zero while there is none:
        registers, since much hangs on valid and ready."""
        owner = Signal.like(owners.r_data, reset_less=True, name=f"{name}_owner")
        owns = Signal(self._initiators, name=f"{name}_owns")
        m.d.comb += owners.r_en.eq(~owns.any() | ends)
        with m.If(owners.r_en):
            m.d.sync += [owner.eq(owners.r_data), owns.eq(Mux(owners.r_rdy, 1 << owners.r_data, 0))]
        return owner, owns

    def _route_data(self, m, owners):
        """Write data from the owner at the front of ``owners``."""
        axi = self.write
        owner, owns = self._front(m, "w", owners, axi.wvalid & axi.wready & axi.wlast)
        m.d.comb += axi.wvalid.eq((Cat(port.wvalid for port in self.writes) & owns).any())
        for name in ("wdata", "wstrb", "wlast"):
            m.d.comb += getattr(axi, name).eq(Array(getattr(port, name) for port in self.writes)[owner])
        for i, port in enumerate(self.writes):
            m.d.comb += port.wready.eq(axi.wready & owns[i])

    def _queue(self):
        return SyncFIFO(width=max(1, (self._initiators - 1).bit_length()), depth=self._outstanding)

    def _grant(self, m, name, ports, axi, queues):
        """The next request, after the last one's owner, into a register that holds it until it is taken. It is chosen
        in one cycle and granted in the next, as much hangs on ready."""
        valid, ready, address, length = (name + end for end in ("valid", "ready", "addr", "len"))
        last = Signal(range(self._initiators), name=f"{name}_last")   # granted, or chosen to be
        chosen = Signal.like(last, name=f"{name}_chosen")
        # From the lowest priority to the highest: the last statement that applies holds.
        for i in reversed(range(self._initiators)):
            with m.If(getattr(ports[i], valid)):
                m.d.comb += chosen.eq(i)
        for i in reversed(range(self._initiators)):
            with m.If(getattr(ports[i], valid) & (i > last)):
                m.d.comb += chosen.eq(i)
        choose, granted, room = (Signal(name=f"{name}_{what}") for what in ("choose", "granted", "room"))
        grants = Signal(self._initiators, name=f"{name}_grants")
        m.d.sync += room.eq(queues[-1].w_rdy)    # the last is emptied last; no burst is granted in the cycle after one
        m.d.comb += choose.eq(Cat(getattr(port, valid) for port in ports).any()
                              & ~getattr(axi, valid) & room & ~granted)
        m.d.sync += [granted.eq(choose), grants.eq(Mux(choose, 1 << chosen, 0))]
        with m.If(choose):
            m.d.sync += last.eq(chosen)
        for queue in queues:
            m.d.comb += [queue.w_en.eq(granted), queue.w_data.eq(last)]
        for i, port in enumerate(ports):
            m.d.comb += getattr(port, ready).eq(grants[i])
        with m.If(getattr(axi, ready)):
            m.d.sync += getattr(axi, valid).eq(0)
        with m.If(granted):
            m.d.sync += [
                getattr(axi, valid).eq(1),
                getattr(axi, address).eq(Array(getattr(port, address) for port in ports)[last]),
                getattr(axi, length).eq(Array(getattr(port, length) for port in ports)[last]),
            ]

    def _route(self, m, name, ports, axi, owners, payload, last):
        """Responses to the owner at the front of ``owners``."""
        valid, ready = f"{name}valid", f"{name}ready"
        _, owns = self._front(m, name, owners, getattr(axi, valid) & getattr(axi, ready) & last)
        m.d.comb += getattr(axi, ready).eq((Cat(getattr(port, ready) for port in ports) & owns).any())
        for i, port in enumerate(ports):
            m.d.comb += getattr(port, valid).eq(getattr(axi, valid) & owns[i])
            m.d.comb += [getattr(port, field).eq(getattr(axi, field)) for field in payload]
