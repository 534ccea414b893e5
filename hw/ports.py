"""Signatures at the borders of the blocks, each from the initiator's view."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .registers import REGIONS

__all__ = ["ScratchRead", "ScratchWrite", "ActivationWrite", "WeightRead", "BeatRead", "AxiRead", "AxiWrite",
           "RamPort", "UnitStatus", "region_layout", "join_flat", "OKAY", "SLVERR", "DECERR"]

OKAY, SLVERR, DECERR = 0b00, 0b10, 0b11
"""Responses of AXI."""
SCRATCH_ADDRESS_WIDTH = 16


class ScratchRead(wiring.Signature):
    """A reader of the scratchpad. A request is taken when ``valid & ready``; its data comes with ``data_valid``,
    in order, a fixed number of cycles later (the scratchpad's ``delay``); readers rely on the pulse alone.
    ``fault`` pulses with ``data_valid`` where the address was outside the scratchpad."""

    def __init__(self, *, width):
        super().__init__({
            "valid": Out(1), "ready": In(1), "address": Out(SCRATCH_ADDRESS_WIDTH),
            "data": In(width), "data_valid": In(1), "fault": In(1),
        })


class ScratchWrite(wiring.Signature):
    """A writer of the scratchpad: one group when ``valid & ready``; ``mask`` has a bit a 32-bit word.
    ``fault`` is high beside ``ready`` where the address is outside the scratchpad: nothing is written."""

    def __init__(self, *, width):
        super().__init__({
            "valid": Out(1), "ready": In(1), "address": Out(SCRATCH_ADDRESS_WIDTH),
            "data": Out(width), "mask": Out(width // 32), "fault": In(1),
        })


class ActivationWrite(wiring.Signature):
    """The vector unit's way into the activation buffer: ``lanes`` consecutive reduction indices of one row a cycle
    (``index`` is a multiple of ``lanes``), and scale codes of whole blocks. Always taken. ``fault`` is high in the same
    cycle where index or row is outside the buffer: nothing is written.

    With ``fp16`` each element has 16 bits: where ``half`` is high they are FP16 for FP16 row ``row``; else the elements
    are INT8, packed in the low ``8 * lanes`` bits as without ``fp16``."""

    def __init__(self, *, lanes, fp16=False):
        half = {"half": Out(1)} if fp16 else {}
        super().__init__({
            "valid": Out(1), "row": Out(16), "index": Out(16), "data": Out((16 if fp16 else 8) * lanes),
            "mask": Out(lanes), **half,
            "scale_valid": Out(1), "scale_row": Out(16), "scale_block": Out(11), "scale_code": Out(8),
            "fault": In(1),
        })


class WeightRead(wiring.Signature):
    """The engine's end of the prefetch buffer: weight beats and, apart from them, block scales or minima (one FP16 a
    lane).

    The front entry is on ``beat`` while ``beat_valid``; ``beat_take`` removes it. While ``keep`` is high, entries taken
    stay stored; ``rewind`` and ``rewind_scales`` (not together with a take) go back to the first entry that is still
    stored. An entry taken with ``keep`` low is the first one stored, and is freed.

    With ``turn`` beats need no rewind: while ``keep`` is high, those stored are a tile of ``length`` beats, 5 at least,
    whose first one follows the last one without a gap.
    """

    def __init__(self, *, width, lanes):
        super().__init__({
            "beat_valid": In(1), "beat": In(width), "beat_take": Out(1),
            "scale_valid": In(1), "scale": In(16 * lanes), "scale_take": Out(1),
            "keep": Out(1), "rewind": Out(1), "rewind_scales": Out(1), "turn": Out(1), "length": Out(17),
        })


class BeatRead(wiring.Signature):
    """A requestor of bursts at the shared read port (prefetch, load, program fetch).

    A request stands unchanged until ``request_ready``, or is taken back by a cycle with ``request_valid`` low.
    ``request_offset`` is a byte offset into ``request_region``, aligned to a beat; the burst has ``request_beats``
    (1 to 256) beats and crosses no 4 KiB boundary of the offset (region bases are aligned to 4 KiB, the read port adds
    them). Beats come back in order of the accepted requests and are always taken: the requestor reserves room before it
    asks. ``beat_error`` marks a beat whose response was not OKAY. ``fault`` is high beside ``request_ready`` where the
    burst lies outside its region: no burst is issued and no beat comes.
    """

    def __init__(self, *, width):
        super().__init__({
            "request_valid": Out(1), "request_ready": In(1), "request_region": Out(3), "request_offset": Out(32),
            "request_beats": Out(9), "fault": In(1),
            "beat_valid": In(1), "beat": In(width), "beat_error": In(1),
        })


class AxiRead(wiring.Signature):
    """AXI4 AR and R channels: one ID, INCR bursts of whole beats."""

    def __init__(self, *, address_width, width):
        super().__init__({
            "arvalid": Out(1), "arready": In(1), "araddr": Out(address_width), "arlen": Out(8),
            "rvalid": In(1), "rready": Out(1), "rdata": In(width), "rresp": In(2), "rlast": In(1),
        })


class AxiWrite(wiring.Signature):
    """AXI4 AW, W and B channels: one ID, INCR bursts of whole beats with byte strobes."""

    def __init__(self, *, address_width, width):
        super().__init__({
            "awvalid": Out(1), "awready": In(1), "awaddr": Out(address_width), "awlen": Out(8),
            "wvalid": Out(1), "wready": In(1), "wdata": Out(width), "wstrb": Out(width // 8), "wlast": Out(1),
            "bvalid": In(1), "bready": Out(1), "bresp": In(2),
        })


class RamPort(wiring.Signature):
    """A user of a RAM with a single port of ``depth`` words. While ``enable``, bytes with a bit in ``strobe`` are
    written; without any the word is read, and is ``value`` in the next cycle."""

    def __init__(self, *, depth, width):
        super().__init__({
            "enable": Out(1), "address": Out(range(depth)), "strobe": Out(width // 8), "data": Out(width),
            "value": In(width),
        })


class UnitStatus(wiring.Signature):
    """What a unit tells the sequencer. ``done`` pulses once for each command, in order, when all its effects are
    visible to every other unit. ``error`` pulses with ``code`` (registers.ErrorCode) when the command in work cannot go
    on; the unit then need not do anything more, as the sequencer resets it."""

    def __init__(self):
        super().__init__({"done": Out(1), "error": Out(1), "code": Out(8)})


def region_layout(address_width):
    """Layout of the memory regions as the registers hold them: base (aligned to 4 KiB), size in bytes, writable."""
    return data.ArrayLayout(data.StructLayout({"base": address_width, "size": 32, "writable": 1}), REGIONS)


def join_flat(m, component, prefix, interface):
    """Join the flat ports ``prefix_*`` of a component to another block's interface with the same members; from inside
    the component or from outside."""
    for name, member in interface.signature.members.items():
        port, inner = getattr(component, f"{prefix}_{name}"), getattr(interface, name)
        m.d.comb += port.eq(inner) if member.flow == Out else inner.eq(port)
