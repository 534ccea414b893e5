"""What synthesis for ECP5 makes of a design, as Verilog that a simulator takes in the design's place."""

import tempfile
from importlib.util import find_spec
from pathlib import Path

from tilewright.gen.verilog import write_if_changed
from tilewright.gen.yosys import run_script

from .flow import FLOWS

__all__ = ["ecp5_netlist", "ice40_netlist"]

CELLS = Path(__file__).parent / "hdl" / "ecp5_cells.sv"
YOSYS_CELLS = ("common_sim.vh", "ccu2c_sim.vh")
"""Files of Yosys with its models of the cells in logic slices."""


def ecp5_netlist(verilog, *, top, path, name=None, cells=True):
    """Synthesise module ``top`` of the Verilog file ``verilog`` as boards are; write the netlist to ``path``.

    Ports, and what they do in each cycle, are those of the design: the netlist is simulated on the same bench.

    name : str      another name for the netlist's module, so that it can stand beside the design
    cells : bool    also write the models of the cells into the file: Yosys' own, and ecp5_cells.sv

    Raises YosysError with Yosys' own message.
    """
    text = _synthesise(verilog, FLOWS["ecp5"], top=top, name=name)
    if cells:
        text += "`define NO_INCLUDES\n" + "".join(
            file.read_text() for file in (*(_yosys("lattice") / name for name in YOSYS_CELLS), CELLS))
    write_if_changed(Path(path), text)


def ice40_netlist(verilog, *, top, path, name=None):
    """The same for iCE40 UltraPlus, with Yosys' models of all cells."""
    text = _synthesise(verilog, FLOWS["ice40"], top=top, name=name)
    cells = (_yosys("ice40") / "cells_sim.v").read_text()
    write_if_changed(Path(path), f"{text}`define NO_ICE40_DEFAULT_ASSIGNMENTS\n{cells}")


def _synthesise(verilog, flow, *, top, name):
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        folder = Path(folder)
        (folder / "design.v").write_text(Path(verilog).read_text())
        # One wire a net: in vectors a simulator sees loops that there are not, as a carry chain's through its own bits.
        flow.synthesise(folder, top=top)
        run_script(["read_json design.json", "splitnets", "delete t:$scopeinfo", "delete =A:blackbox",
                    f"rename {top} {name or top}", "write_verilog -noattr netlist.v"], folder=folder)
        return (folder / "netlist.v").read_text()


def _yosys(family):
    return Path(find_spec("pyosys").origin).parent / "share" / family
