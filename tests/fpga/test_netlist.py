# amaranth: UnusedElaboratable=no
"""fpga/netlist.py and fpga/hdl/ecp5_cells.sv: netlists for ECP5 do in every cycle what their designs do."""

import functools
import re
import subprocess
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from tilewright.fpga.netlist import ecp5_netlist
from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.gen.synthesis import TARGETS
from tilewright.gen.verilog import emit
from tilewright.hw.matmul.array import PeRow
from tilewright.hw.vector.lanes import Lane
from tilewright.sim.loop import build_loop
from tilewright.sim.verilator import environment

HERE = Path(__file__).parent
SEED = 21


class Flat(wiring.Component):
    """A component with all its inputs as ``i`` and all its outputs as ``o``."""

    def __init__(self, unit):
        self._unit = unit
        members = list(unit.signature.flatten(unit))
        self._inputs, self._outputs = (
            [Value.cast(value) for _, member, value in members if member.flow == flow] for flow in (In, Out))
        super().__init__({"i": In(sum(map(len, self._inputs))), "o": Out(sum(map(len, self._outputs)))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = self._unit
        m.d.comb += [Cat(self._inputs).eq(self.i), self.o.eq(Cat(self._outputs))]
        return m


def compare(make, folder, *, cycles, change=lambda netlist: netlist):
    """Run the component that ``make`` makes beside its netlist, whose text goes through ``change``.

    Returns exit code, text of the simulation, and how often each kind of cell stands in the netlist.
    """
    print(f"seed {SEED}")
    unit, netlist = Flat(make()), folder / "netlist.sv"
    emit(unit, name="unit", path=folder / "unit.v")
    ecp5_netlist(folder / "unit.v", top="unit", name="unit_netlist", path=netlist)
    text = netlist.read_text()
    netlist.write_text(change(text))
    program = build_loop(Flat(make()), HERE / "netlist_bench.cpp", folder=folder, top="netlist_bench",
                         hdl=[HERE / "netlist_bench.sv", netlist],
                         macros={"INPUTS": len(unit.i), "OUTPUTS": len(unit.o)})
    result = subprocess.run([program, str(cycles), f"+verilator+seed+{SEED}"], capture_output=True, text=True,
                            env=environment(), cwd=folder)
    cells = re.findall(r"^  ([A-Z]\w+) ", text.partition("endmodule")[0], re.MULTILINE)
    return result.returncode, result.stdout + result.stderr, {cell: cells.count(cell) for cell in set(cells)}


class Cells(wiring.Component):
    """Memories of each width that a block RAM's port has, with byte enables, contents, and the promise ``no_rw_check``
    or the logic in its place; products of signed and unsigned numbers between registers."""

    MEMORIES = [(36, 512, 9, True), (32, 512, 8, False), (36, 512, 36, True), (18, 1024, 9, True),
                (16, 1024, 16, False), (9, 2048, 9, True), (4, 4096, 4, True), (2, 8192, 2, True), (1, 16384, 1, True)]
    """Width, depth, granularity, promise."""
    TABLES = [(36, 512), (18, 1024), (9, 2048)]
    OPERANDS = [signed(18), unsigned(18), signed(8), unsigned(24)]

    def __init__(self):
        results = [row[0] for row in (*self.MEMORIES, *self.TABLES)] + [2 * shape.width for shape in self.OPERANDS]
        super().__init__({"write": In(7), "read": In(7), "enable": In(4), "get": In(1), "word": In(36),
                          "o": Out(sum(results))})

    def elaborate(self, platform):
        m = Module()
        results = [self._memory(m, *row) for row in self.MEMORIES] + [self._table(m, *row) for row in self.TABLES]
        m.d.comb += self.o.eq(Cat(results + [self._product(m, shape) for shape in self.OPERANDS]))
        return m

    def _memory(self, m, width, depth, granularity, promise):
        attributes = {"no_rw_check": 1, "ram_style": "block"} if promise else {"ram_style": "block"}
        m.submodules += (store := memory.Memory(shape=width, depth=depth, init=[], attrs=attributes))
        write, read = store.write_port(granularity=granularity), store.read_port()
        for port, bits in ((write, self.write), (read, self.read)):  # both ends of the address from few bits
            m.d.comb += port.addr.eq(Cat(bits[:4], bits[4:].replicate(4))[:depth.bit_length() - 1])
        allowed = self.write != self.read if promise else 1
        m.d.comb += [write.en.eq(Mux(allowed, self.enable, 0)), write.data.eq(self.word), read.en.eq(self.get)]
        return read.data

    def _table(self, m, width, depth):
        words = [(at * 2654435761 >> 7) % (1 << width) for at in range(depth)]
        m.submodules += (store := memory.Memory(shape=width, depth=depth, init=words, attrs={"rom_style": "block"}))
        read = store.read_port()
        m.d.comb += [read.addr.eq(Cat(self.read, self.write)), read.en.eq(self.get)]
        return read.data

    def _product(self, m, shape):
        a, b = Signal(shape, reset_less=True), Signal(shape, reset_less=True)
        o = Signal(2 * shape.width, reset_less=True)
        m.d.sync += [a.eq(self.word), b.eq(Cat(self.read, self.write, self.enable, self.read)), o.eq(a * b)]
        return o


class Small(wiring.Component):
    """A counter, a product, and a memory whose reads may meet writes though it promises that they do not."""

    def __init__(self, *, meets=False):
        self._meets = meets
        super().__init__({"a": In(8), "b": In(8), "write": In(4), "read": In(4), "o": Out(16 + 9 + 8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.store = store = memory.Memory(shape=9, depth=2048, init=[], attrs={"no_rw_check": 1})
        write, read = store.write_port(), store.read_port()
        count, product = Signal(8), Signal(16)
        m.d.comb += [write.addr.eq(self.write), read.addr.eq(self.read), write.data.eq(Cat(self.a, 1)),
                     write.en.eq(1 if self._meets else self.read != self.write),
                     self.o.eq(Cat(product, read.data, count))]
        m.d.sync += [count.eq(count + self.a[0]), product.eq(self.a * self.b)]
        return m


def test_small(tmp_path):
    """A netlist runs beside its design; all kinds of cells are in it, and the block RAM starts at zero."""
    code, text, cells = compare(Small, tmp_path, cycles=20_000)
    assert code == 0 and "19999 cycles equal" in text, text
    assert cells["DP16KD"] == cells["MULT18X18D"] == 1 and {"LUT4", "CCU2C", "TRELLIS_FF"} <= set(cells)


@pytest.mark.slow
@pytest.mark.parametrize("old, new, says", [
    (r"\.REGSET\(\"RESET\"\)", '.REGSET("SET")', "netlist and design differ"),
    (r"\.DATA_WIDTH_A\(32'd9\)", ".DATA_WIDTH_A(32'd8)", "DP16KD: a port of 8 bits"),
    (r"\.REGMODE_B\(\"NOREG\"\)", '.REGMODE_B("OUTREG")', "netlist and design differ"),
    (r"\.CLKB\(clk\)", ".CLKB(1'h0)", "DP16KD: the ports have different clocks"),
    (r"\.SOURCEA\(1'h0\)", ".SOURCEA(1'h1)", "MULT18X18D: operands from the shift chain"),
], ids=["register", "width", "output_register", "clock", "source"])
def test_what_is_wrong_is_seen(tmp_path, old, new, says):
    def change(netlist):
        changed = re.sub(old, new, netlist)
        assert changed != netlist
        return changed

    code, text, _ = compare(Small, tmp_path, cycles=20_000, change=change)
    assert code and says in text, text


@pytest.mark.slow
def test_broken_promise(tmp_path):
    """A memory with ``no_rw_check`` whose reads do meet writes."""
    code, text, _ = compare(functools.partial(Small, meets=True), tmp_path, cycles=20_000)
    assert code and "netlist and design differ" in text


@pytest.mark.slow
def test_cells(tmp_path):
    """The models of block RAM and multiplier behave as the memories and products that synthesis made them of."""
    code, text, cells = compare(Cells, tmp_path, cycles=100_000)
    assert code == 0 and "99999 cycles equal" in text, text
    assert cells["DP16KD"] == 12 and cells["MULT18X18D"] == 7
    netlist = (tmp_path / "netlist.sv").read_text()
    # The operands of 24 bits are spread over four cells.
    assert netlist.count('.REG_INPUTA_CLK("CLK0")') == 7 and netlist.count('.REG_OUTPUT_CLK("CLK0")') == 3


@pytest.mark.slow
def test_pe_row(tmp_path):
    """A row of the flagship's array: its packed products are the multipliers that all of its rate comes from."""
    lanes = load_preset("medium").lanes
    code, text, cells = compare(lambda: PeRow(lanes=lanes, dsp_pairs=lanes // 2), tmp_path, cycles=50_000)
    assert code == 0 and "49999 cycles equal" in text, text
    assert cells["MULT18X18D"] == lanes // 2
    assert int(text.split()[-1]) > 5000     # cycles in which the outputs change


def vector_lane():
    return Lane(tables=function_tables(load_preset("medium").functions), multiply_dsps=4, fp16=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [vector_lane, TARGETS["medium_sequencer"]], ids=["vector_lane", "sequencer"])
def test_units(tmp_path, make):
    code, text, _ = compare(make, tmp_path, cycles=50_000)
    assert code == 0 and "49999 cycles equal" in text, text
    assert int(text.split()[-1]) > 5000     # cycles in which the outputs change
