"""Products: the packed multiplier's arithmetic over all operands, and the RTL of one row over all pairs."""

import numpy as np
import pytest
from amaranth.hdl import Signal, signed
from amaranth.sim import Simulator

from tilewright.hw.matmul.array import SUM_WIDTH, PeRow
from tilewright.hw.matmul.products import PRODUCT_DELAY, multiples, pack_weights

SEED = 21


def test_packing_separates_both_products_of_all_operands():
    """The identity in ``packed_products``, in integers, for all 255 * 2^16 triples."""
    low, high = (x.astype(np.int32) for x in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    packed = high * 512 + low
    assert packed.min() >= -(1 << 17) and packed.max() < 1 << 17
    for a in range(-127, 128):
        t = a * packed
        overlap = (a * high) % 64
        split = (t >> 9) - (overlap - 32)
        assert np.array_equal((((split & 63) - 32) << 9) + (t & 511), a * low)
        assert np.array_equal((split >> 6 << 6) + overlap, a * high)


class Row(PeRow):
    """A row with plain operands, for the test."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        self.a = Signal(signed(8))
        self.w = [Signal(signed(8), name=f"w{i}") for i in range(2)]
        m.d.comb += [self.activation.eq(multiples(self.a)), self.weights.eq(pack_weights(*self.w))]
        return m


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dsp_pairs", [0, 1])
def test_row_multiplies(dsp_pairs, step):
    """Every ``step``-th pair of activation and weight in each lane, in another order in the other, and corners."""
    rng = np.random.default_rng(SEED)
    print("seed", SEED)
    a, w = (x.ravel() for x in np.meshgrid(np.arange(-127, 128), np.arange(-128, 128)))
    other = rng.permuted(w.reshape(256, 255), axis=0).ravel()  # for each activation all weights again
    corners = np.array(np.meshgrid([-127, -1, 0, 1, 127], [-128, -127, -1, 0, 1, 127], [-128, -127, -1, 0, 1, 127]))
    assert step > 1 or len(np.unique(a * 256 + w)) == len(np.unique(a * 256 + other)) == 255 * 256
    triples = np.concatenate([corners.reshape(3, -1).T, np.stack([a, w, other], 1)[::step]])
    dut = Row(lanes=2, dsp_pairs=dsp_pairs)
    results = []

    async def bench(ctx):
        delay = PRODUCT_DELAY + 2
        ctx.set(dut.select, 3)
        ctx.set(dut.last, 1)
        await ctx.tick().repeat(3)  # the sums clear
        for i in range(len(triples) + delay):
            if i >= delay:
                results.append([ctx.get(dut.sums[at:at + SUM_WIDTH].as_signed()) for at in (0, SUM_WIDTH)])
            if i < len(triples):
                ctx.set(dut.a, int(triples[i][0]))
                ctx.set(dut.w[0], int(triples[i][1]))
                ctx.set(dut.w[1], int(triples[i][2]))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert np.array_equal(np.array(results), triples[:, :1] * triples[:, 1:])
