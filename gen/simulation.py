"""A configuration as a simulated device: Verilog generated, built, and started behind a transport."""

from pathlib import Path

from tilewright.gen.generate import build_top
from tilewright.gen.verilog import emit
from tilewright.sim.cosim import build, locked
from tilewright.sim.transport import SimulatorTransport

__all__ = ["MEMORY", "simulated"]

MEMORY = {"read_latency": 40, "write_latency": 20}
"""Settings of the memory model."""
LEAST_BYTES = 1 << 21
"""Size of the smallest memory, so that small models share a build."""


def simulated(config, memory_bytes, folder, *, memory=MEMORY, record=None, waiting=lambda cycles: None,
              step=lambda text: None):
    """A ``SimulatorTransport``, not yet started, with room for ``memory_bytes``.

    Verilog and builds lie in ``folder`` and are used again. ``record`` is as for ``SimulatorTransport``. ``step`` is
    told what is being done, ``waiting`` how many cycles a program has run.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    step("generating Verilog")
    verilog = folder / f"{config.module_name}.v"
    with locked(verilog.with_suffix(".lock")):
        emit(build_top(config), name=config.module_name, path=verilog)
        step("building the simulation")
        size = max(LEAST_BYTES, 1 << (memory_bytes - 1).bit_length())
        built = build(config, verilog, folder, memory_bytes=size)
    step("starting the simulation")
    return SimulatorTransport(built, memory=memory, record=record, waiting=waiting)
