"""Synthesis as a measure: counting, budgets, history; and what Yosys makes of idioms that the hardware relies on."""

import csv
from pathlib import Path

import pytest
from amaranth.hdl import Fragment, Module, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from tilewright.gen.synthesis import TARGETS, Area, append_history, over_budget, read_budgets, synthesise

BUDGETS = Path(__file__).with_name("budgets.toml")
DEVICES = {"small": (Area(lut=24288, ff=24288, dsp=28, bram=56), 0.80),
           "medium": (Area(lut=83640, ff=83640, dsp=156, bram=208), 0.75)}


class BlockRam(wiring.Component):
    """1024 x 32 with a registered read port."""

    def __init__(self, *, attrs):
        self._attrs = attrs
        super().__init__({"write_address": In(10), "write_data": In(32), "write": In(1), "read_address": In(10),
                          "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = block = memory.Memory(shape=32, depth=1024, init=[], attrs=self._attrs)
        write, read = block.write_port(), block.read_port()
        m.d.comb += [write.addr.eq(self.write_address), write.data.eq(self.write_data), write.en.eq(self.write),
                     read.addr.eq(self.read_address), self.o.eq(read.data)]
        return m


class LutRam(wiring.Component):
    """16 x 8 with a combinational read port, and a multiplier with registers beside it."""

    address: In(4)
    data: In(signed(8))
    write: In(1)
    o: Out(signed(16))

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = block = memory.Memory(shape=signed(8), depth=16, init=[])
        write, read = block.write_port(), block.read_port(domain="comb")
        a, b = Signal(signed(8), reset_less=True), Signal(signed(8), reset_less=True)
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.data), write.en.eq(self.write),
                     read.addr.eq(self.address)]
        m.d.sync += [a.eq(read.data), b.eq(self.data), self.o.eq(a * b)]
        return m


def test_block_ram_without_collision_logic():
    """``no_rw_check`` survives emission: two block RAMs and no logic at all."""
    assert synthesise(BlockRam(attrs={"no_rw_check": 1}), name="plain") == Area(lut=0, ff=0, dsp=0, bram=2)
    assert synthesise(BlockRam(attrs={}), name="checked").lut > 30


def test_small_memory_and_multiplier_are_inferred():
    area = synthesise(LutRam(), name="lut_ram")
    assert (area.dsp, area.bram, area.ff) == (1, 0, 32)
    assert 8 <= area.lut <= 10, "two DPR16X4 at four LUTs each"


def test_over_budget_names_target_figure_and_excess():
    areas = {"a": Area(lut=10, ff=5, dsp=1, bram=0), "b": Area(lut=1, ff=1, dsp=0, bram=0)}
    fits = {"lut": 10, "ff": 5, "dsp": 1, "bram": 0}
    assert over_budget(areas, {"a": fits, "b": fits}) == []
    assert over_budget(areas, {"a": fits | {"lut": 7}}) == [
        "a: lut = 10, over its budget of 7 by 3", "b: no budget; add a table [b]"]


def test_history_grows_by_what_changed(tmp_path):
    path = tmp_path / "history.csv"
    areas = {"a": Area(lut=10, ff=5, dsp=1, bram=0), "b": Area(lut=1, ff=1, dsp=0, bram=0)}
    assert append_history(path, areas)
    assert not append_history(path, areas)
    assert append_history(path, areas | {"b": Area(lut=2, ff=1, dsp=0, bram=0)})
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["lut"]) for row in rows] == [("a", "10"), ("b", "1"), ("b", "2")]


def test_budgets_fit_their_devices():
    budgets = read_budgets(BUDGETS)
    assert set(budgets) == set(TARGETS)
    for preset, (device, share) in DEVICES.items():
        assert budgets[preset]["lut"] <= device.lut * share
        for figure in ("ff", "dsp", "bram"):
            assert budgets[preset][figure] <= getattr(device, figure)


def test_multipliers_and_block_rams_of_units_are_exact():
    """The last record of each unit has as many as its budget says, not fewer."""
    with open(BUDGETS.with_name("history.csv"), newline="") as file:
        last = {row["name"]: row for row in csv.DictReader(file)}
    for name, budget in read_budgets(BUDGETS).items():
        if "_" in name:
            assert {figure: int(last[name][figure]) for figure in ("dsp", "bram")} == \
                {figure: budget[figure] for figure in ("dsp", "bram")}, name


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("small_")])
def test_units_are_made_as_the_accelerator_makes_them(name):
    Fragment.get(TARGETS[name](), None)
