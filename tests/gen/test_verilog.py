"""Emission: deterministic text, merged modules, and one behaviour in Amaranth's simulator, Icarus and Verilator."""

import random
import re
import subprocess
import sys

import pytest
from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from tilewright.gen.verilog import emit, merge_modules, write_if_changed
from tilewright.sim.verilator import environment

SEED = 20240611
CYCLES = 400


class Cell(wiring.Component):
    """Multiply-accumulate without a reset on its product."""

    def __init__(self):
        super().__init__({"a": In(signed(8)), "b": In(signed(8)), "clear": In(1), "o": Out(signed(24))})

    def elaborate(self, platform):
        m = Module()
        product = Signal(signed(16), reset_less=True)
        m.d.sync += product.eq(self.a * self.b)
        m.d.sync += self.o.eq(Mux(self.clear, 0, self.o) + product)
        return m


class Specimen(wiring.Component):
    """One of each thing whose emission has gone wrong somewhere: constants, switches, arrays, each kind of memory."""

    def __init__(self):
        pair = data.StructLayout({"x": 8, "y": data.StructLayout({"p": 4, "q": 4})})
        super().__init__({
            "a": In(signed(8)).array(3), "b": In(signed(8)).array(2), "clear": In(1), "select": In(8),
            "write": In(2), "write_address": In(6), "write_data": In(32), "read": In(1), "read_address": In(6),
            "o": Out(signed(24)), "s": Out(stream.Signature(pair)), "constant": Out(4, init=9),
            "transparent": Out(32), "plain": Out(32), "asynchronous": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        sums = []
        for i in range(3):
            for j in range(2):
                cell = m.submodules[f"cell_{i}{j}"] = Cell()
                m.d.comb += [cell.a.eq(self.a[i]), cell.b.eq(self.b[j]), cell.clear.eq(self.clear)]
                sums.append(cell.o)
        m.d.sync += self.o.eq(Array(sums)[self.select])
        m.d.comb += [self.s.payload.x.eq(self.select), self.s.payload.y.p.eq(3), self.s.valid.eq(1)]
        with m.Switch(self.select):
            with m.Case(0, 1):
                m.d.comb += self.s.payload.y.q.eq(5)
            with m.Case("1-------"):
                m.d.comb += self.s.payload.y.q.eq(self.write_address)
        self._build_memories(m)
        return m

    def _build_memories(self, m):
        for name, domain, init, attrs in (("transparent", "sync", range(10), {}),
                                          ("plain", "sync", (), {"no_rw_check": 1}),
                                          ("asynchronous", "comb", (7, 0, 5), {})):
            block = m.submodules[f"memory_{name}"] = memory.Memory(shape=32, depth=64, init=init, attrs=attrs)
            write = block.write_port(granularity=16)
            read = block.read_port(domain=domain, transparent_for=[write] if name == "transparent" else [])
            m.d.comb += [write.addr.eq(self.write_address), write.data.eq(self.write_data), write.en.eq(self.write),
                         read.addr.eq(self.read_address), getattr(self, name).eq(read.data)]
            if domain == "sync":
                # A read of the address being written has no defined result without transparency.
                clash = (name == "plain") & self.write.any() & (self.read_address == self.write_address)
                m.d.comb += read.en.eq(self.read & ~clash)


INPUTS = (("a__0", 8), ("a__1", 8), ("a__2", 8), ("b__0", 8), ("b__1", 8), ("clear", 1), ("select", 8), ("s__ready", 1),
          ("write", 2), ("write_address", 6), ("write_data", 32), ("read", 1), ("read_address", 6))
OUTPUTS = (("o", 24), ("s__payload", 16), ("s__valid", 1), ("constant", 4), ("transparent", 32), ("plain", 32),
           ("asynchronous", 32))


def stimuli():
    """One dictionary of inputs a cycle; the first cycles hold zero, so that time zero itself is tested."""
    rng = random.Random(SEED)
    small = {"select": 8, "read_address": 12, "write_address": 12}
    return [dict.fromkeys(dict(INPUTS), 0)] * 2 + [
        {name: rng.randrange(small.get(name, 1 << width)) for name, width in INPUTS} for _ in range(CYCLES - 2)]


def expected():
    """Outputs of each cycle in Amaranth's own simulator, joined into one binary number as the bench prints it."""
    dut, lines = Specimen(), []
    port = {path: value for path, value in (
        ("__".join(map(str, path)), value) for path, _, value in dut.signature.flatten(dut))}

    async def bench(ctx):
        for values in stimuli():
            for name, value in values.items():
                ctx.set(port[name], value)
            row = [ctx.get(Cat(port[name])) for name, _ in OUTPUTS]
            lines.append("".join(f"{value:0{width}b}" for value, (_, width) in zip(row, OUTPUTS, strict=True)))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return lines


def write_bench(folder):
    """A Verilog bench that applies ``stimuli.hex`` and prints the outputs just before each clock edge."""
    width = sum(w for _, w in INPUTS)
    (folder / "stimuli.hex").write_text("".join(
        f"{int(''.join(f'{v[n]:0{w}b}' for n, w in INPUTS), 2):x}\n" for v in stimuli()))
    wires = "".join(f"  wire [{w - 1}:0] {n};\n" for n, w in INPUTS + OUTPUTS)
    connections = ", ".join(f".{n}({n})" for n, _ in INPUTS + OUTPUTS)
    (folder / "bench.v").write_text(f"""
module bench;
  reg clk = 0, rst = 0;
  reg [{width - 1}:0] rows [0:{CYCLES - 1}];
  reg [{width - 1}:0] row;
  integer i;
{wires}
  assign {{{", ".join(n for n, _ in INPUTS)}}} = row;
  specimen dut (.clk(clk), .rst(rst), {connections});
  initial begin
    $readmemh("stimuli.hex", rows);
    for (i = 0; i < {CYCLES}; i = i + 1) begin
      row = rows[i];
      #5 $display("%b", {{{", ".join(n for n, _ in OUTPUTS)}}});
      clk = 1;
      #5 clk = 0;
    end
    $finish;
  end
endmodule
""")


def printed(command, folder, env=None):
    out = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True).stdout
    return [line for line in out.splitlines() if re.fullmatch("[01xz]{20,}", line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("emission")
    emit(Specimen(), name="specimen", path=path / "specimen.v")
    write_bench(path)
    return path


@pytest.mark.icarus
@pytest.mark.parametrize("standard", ["2005", "2012"])
def test_icarus_equals_amaranth(folder, standard):
    subprocess.run(["iverilog", f"-g{standard}", "-Wall", "-o", f"icarus{standard}", "-s", "bench",
                    "bench.v", "specimen.v"], cwd=folder, check=True)
    assert printed(["vvp", "-n", f"icarus{standard}"], folder) == expected()


@pytest.mark.slow
def test_verilator_equals_amaranth(folder):
    env = environment()
    subprocess.run(["verilator", "--binary", "-Wno-fatal", "--x-initial", "unique", "--x-assign", "unique",
                    "--top", "bench", "bench.v", "specimen.v"], cwd=folder, env=env, check=True, capture_output=True)
    assert printed(["obj_dir/Vbench", "+verilator+rand+reset+2", f"+verilator+seed+{SEED}"], folder, env) == expected()


def test_text_is_the_same_in_every_process(folder):
    text = (folder / "specimen.v").read_text()
    assert emit(Specimen(), name="specimen") == text
    script = ("import importlib.util, sys; s = importlib.util.spec_from_file_location('t', sys.argv[1]); "
              "t = importlib.util.module_from_spec(s); s.loader.exec_module(t); "
              "sys.stdout.write(t.emit(t.Specimen(), name='specimen'))")
    for seed in ("1", "2"):
        env = environment() | {"PYTHONHASHSEED": seed}
        assert subprocess.run([sys.executable, "-c", script, __file__], env=env, check=True, capture_output=True,
                              text=True).stdout == text


def test_shape_of_the_text(folder):
    text = (folder / "specimen.v").read_text()
    assert "@*" not in text
    assert text.count("\nmodule ") == 2, "six equal cells must share one module"
    ports = re.search(r"module specimen\((.*?)\);", text, re.DOTALL)[1].replace("\n", "").split(", ")
    assert ports[0] == "a__0"
    assert set(ports) == {n for n, _ in INPUTS + OUTPUTS} | {"clk", "rst"}
    assert "no_rw_check" in text
    assert len(re.findall(r"memory_plain\[\d+\] = ", text)) == 0, "zero rows are a loop"
    assert "memory_transparent[9] = 32'd9;" in text


def test_merge_modules_keeps_what_differs():
    module = "attribute \\generator \"x\"\nmodule \\{name}\n  wire width {width} input 0 \\a\n{cell}end\n"
    cell = "  cell \\{of} \\{name}\n    connect \\a \\a\n  end\n"
    text = (module.format(name="t", width=1, cell=cell.format(of="t.u", name="u") + cell.format(of="t.v", name="v")
                          + cell.format(of="t.w", name="w"))
            + module.format(name="t.u", width=1, cell=cell.format(of="t.u.x", name="x"))
            + module.format(name="t.u.x", width=1, cell="")
            + module.format(name="t.v", width=1, cell=cell.format(of="t.v.x", name="x"))
            + module.format(name="t.v.x", width=1, cell="")
            + module.format(name="t.w", width=2, cell=""))
    merged = merge_modules(text)
    assert re.findall(r"^module \\(\S+)", merged, re.MULTILINE) == ["t", "t_u", "t_u_x", "t_w"]
    assert re.findall(r"^  cell \\(\S+)", merged, re.MULTILINE) == ["t_u", "t_u", "t_w", "t_u_x"]


def test_merge_modules_numbers_ports_within_their_module():
    """Two copies whose ports carry net numbers of the whole design are one module, connected as before."""
    def part(name, net):
        return f"module \\{name}\n  wire width 1 input 0 \\port${net}$0\n  connect \\o \\port${net}$0 [0]\nend\n"

    cells = "".join(f"  cell \\t.{n} \\{n}\n    connect \\port${net}$0 \\port$99${net} [0]\n  end\n"
                    for n, net in (("u", 10), ("v", 20)))
    merged = merge_modules(f"module \\t\n{cells}end\n{part('t.u', 10)}{part('t.v', 20)}")
    assert re.findall(r"^module \\(\S+)", merged, re.MULTILINE) == ["t", "t_u"]
    assert re.findall(r"    connect (.*)", merged) == ["\\port$p0 \\port$p0 [0]", "\\port$p0 \\port$p1 [0]"]
    assert "  connect \\o \\port$p0 [0]" in merged


def test_written_only_if_changed(tmp_path):
    path = tmp_path / "folder" / "file.v"
    assert write_if_changed(path, "a")
    before = path.stat().st_mtime_ns
    assert not write_if_changed(path, "a")
    assert path.stat().st_mtime_ns == before
    assert write_if_changed(path, "b")
