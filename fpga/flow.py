"""The steps behind the Verilog, for each family of parts: synthesis, place and route, packing."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from tilewright.gen.yosys import run_script

from .multipliers import use_registers

__all__ = ["Flow", "FLOWS"]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How one family is built; ``name`` below stands for the build's name, which all files have.

    synthesis : str           Yosys' command, to which ``-top`` is added
    router, packer : str      programs of ``tools.TOOLS``
    constraints : str         suffix of the constraints' file that the platform writes
    constrain : str           option of the router that takes it; "" where it goes another way
    routed : str              suffix of the routed design
    write : str               option of the router that takes it
    bitstream : str           suffix of the bitstream
    cells : dict              figure -> the cells of nextpnr's utilisation that make it up, each as often as it takes
                              places of the first one
    prepare, finish : tuple   Yosys' commands between reading the Verilog and ``synthesis``, and behind it
    pack : function           changes the netlist's top module, as Yosys' JSON has it
    placer : str              nextpnr's, by name
    """

    synthesis: str
    router: str
    packer: str
    constraints: str
    constrain: tuple[str, ...]
    routed: str
    write: str
    bitstream: str
    cells: dict[str, tuple[str, ...]]
    prepare: tuple[str, ...] = ()
    finish: tuple[str, ...] = ()
    pack: Callable = lambda module: None
    placer: str = "heap"

    def synthesise(self, folder, *, top):
        """From ``design.v`` to the netlist ``design.json``, both in ``folder``. Raises YosysError."""
        run_script(["read_verilog design.v", *self.prepare, f"{self.synthesis} -top {top}", *self.finish,
                    "write_json design.json"], folder=folder)
        path = folder / "design.json"
        netlist = json.loads(path.read_text())
        self.pack(netlist["modules"][top])
        path.write_text(json.dumps(netlist))

    def route_command(self, part, *, name, frequency, router, seed):
        """Arguments that place and route the netlist; ``frequency`` in Hz is for clocks without a constraint of their
        own, ``router`` nextpnr's."""
        return [*self._common(part, name, frequency, f"{name}.json"), "--seed", str(seed), "--placer", self.placer,
                "--router", router]

    def reroute_command(self, part, *, name, frequency):
        """Arguments that route what is not routed in the design that an earlier run wrote with ``keep_arguments``."""
        return [*self._common(part, name, frequency, self.routed_files(name)[0]), "--no-pack", "--no-place"]

    def routed_files(self, name):
        """Of ``keep_arguments``: the routed design, its delays."""
        return f"{name}.routes.json", f"{name}.sdf"

    def keep_arguments(self, name):
        """Arguments that write the routed design, and its delays."""
        design, delays = self.routed_files(name)
        return ["--write", design, "--sdf", delays]

    def _common(self, part, name, frequency, design):
        return [*part.device, *(word.format(name=name) for word in self.constrain), "--json", design, self.write,
                f"{name}.{self.routed}", "--report", f"{name}.nextpnr.json", "--freq", f"{frequency / 1e6:g}",
                "--timing-allow-fail"]

    def pack_command(self, name):
        """Arguments of the packer."""
        source, target = f"{name}.{self.routed}", f"{name}.{self.bitstream}"
        return {"ecppack": ["--compress", "--input", source, "--bit", target],
                # Two of the Tang Primer's LEDs are at pins that the configuration uses before they are ours.
                "gowin_pack": ["-d", "GW2A-18C", "--ready_as_gpio", "--done_as_gpio", "-o", target, source],
                "icepack": [source, target]}[self.packer]


FLOWS = {
    "ecp5": Flow(
        # The electrostatic placer gives the flagship 24 % less wire than the analytical one, in two thirds of the time.
        placer="static",
        # Rows of an array keep their own registers of what all have in common: one for all would be far from most.
        prepare=("setattr -mod -set keep_hierarchy 1 *_array_row_*",),
        pack=use_registers,
        finish=("setattr -mod -unset keep_hierarchy *_array_row_*", "flatten", "opt_clean -purge"),
        synthesis="synth_ecp5", router="nextpnr-ecp5", packer="ecppack", constraints="lpf",
        constrain=("--lpf", "{name}.lpf"), routed="config", write="--textcfg", bitstream="bit",
        cells={"lut": ("TRELLIS_COMB",), "ff": ("TRELLIS_FF",), "dsp": ("MULT18X18D",), "bram": ("DP16KD",)}),
    "gowin": Flow(
        # Small rather than fast, as there is time at the board's clock; wide multiplexers take LUTs of their own.
        prepare=("scratchpad -set abc9.script +&scorr;&sweep;&dc2;&dch,-f,-r,5;&ps;&if,-a,{C},{W},{R},-v;&mfs",),
        synthesis="synth_gowin -family gw2a -nowidelut", router="nextpnr-gowin", packer="gowin_pack", constraints="cst",
        constrain=("--vopt", "family=GW2A-18C", "--vopt", "cst={name}.cst"), routed="routed.json", write="--write",
        bitstream="fs",
        # An ALU takes a LUT's place, LUT RAM the eight of a logic block.
        cells={"lut": ("LUT4", "ALU", *("RAM16SDP4",) * 8), "ff": ("DFF",),
               "dsp": ("MULT18X18", "MULT9X9", "MULTADDALU18X18", "MULTALU18X18", "MULTALU36X18", "MULT36X36"),
               "bram": ("BSRAM",)}),
    "ice40": Flow(
        # Wide and short memories, which would be left to flip-flops: logic cells are what is scarce. None of them is
        # read where it is written in the same cycle.
        prepare=tuple(f'setattr -set ram_style "block" -set no_rw_check 1 */m:{name}'
                      for name in ("storage", "results", "accumulators")),
        synthesis="synth_ice40 -device u -dsp", router="nextpnr-ice40", packer="icepack", constraints="pcf",
        constrain=("--pcf", "{name}.pcf"), routed="asc", write="--asc", bitstream="bin",
        cells={"lc": ("ICESTORM_LC",), "dsp": ("ICESTORM_DSP",), "bram": ("ICESTORM_RAM",),
               "spram": ("ICESTORM_SPRAM",)}),
}
