"""A row of PEs made of accumulating multipliers, for parts where logic cells are scarce."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .array import SUM_WIDTH, PeArray

__all__ = ["MacArray"]


class MacArray(wiring.Component):
    """In place of ``PeArray`` with one row and one output a step. Yosys puts a lane's operand registers, product, adder
    and accumulator into one SB_MAC16 (Lattice FPGA-TN-02007); block sums that are held move up to the output, lane by
    lane, where ``PeArray`` chooses among them.

    Latency and members as ``PeArray``'s, but for ``delay``. Throughput: a beat a cycle, none in the cycle behind a
    block's last one; a step a cycle. Steps read the lanes in order, all of them once for each block.

    Parameters
    ----------
    lanes : int   PEs, at least 2
    """

    delay = 3
    step_delay = PeArray.step_delay

    def __init__(self, *, lanes):
        if lanes < 2:
            raise ValueError(f"lanes must be at least 2, not {lanes!r}")
        self._lanes = lanes
        super().__init__({
            "valid": In(1), "last": In(1), "activations": In(8), "weights": In(8 * lanes),
            "step": In(1), "step_row": In(range(1)), "step_column": In(range(lanes)),
            "sums": Out(SUM_WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        add, last, clear = Signal(), Signal(), Signal(init=1)   # init: reset clears the sums, a cycle later
        activation = Signal(signed(8), reset_less=True)
        m.d.sync += [
            add.eq(self.valid), last.eq(self.valid & self.last), clear.eq(last),
            activation.eq(self.activations.as_signed()),
        ]
        sums = []
        for lane in range(self._lanes):
            weight = Signal(signed(8), reset_less=True, name=f"weight_{lane}")
            total = Signal(signed(SUM_WIDTH), reset_less=True, name=f"total_{lane}")
            m.d.sync += weight.eq(self.weights.word_select(lane, 8).as_signed())
            with m.If(add | clear):
                m.d.sync += total.eq(Mux(clear, 0, total + activation * weight))
            sums.append(total)

        # A finished sum is there for the one cycle in which it is cleared.
        held = Signal(SUM_WIDTH * self._lanes, reset_less=True)
        step, shown, front = Signal(), Signal(SUM_WIDTH, reset_less=True), Signal(SUM_WIDTH, reset_less=True)
        m.d.sync += [step.eq(self.step), front.eq(held[:SUM_WIDTH]), shown.eq(front)]
        with m.If(clear):
            m.d.sync += held.eq(Cat(sums))
        with m.Elif(step):
            m.d.sync += held.eq(held >> SUM_WIDTH)
        m.d.comb += self.sums.eq(shown)
        return m
