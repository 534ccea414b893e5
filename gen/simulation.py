"""A configuration in simulation: Verilog generated and built, and started as a device behind a transport."""

import time
from dataclasses import dataclass
from pathlib import Path

from tilewright.gen.compiler.requirements import check_runs_programs
from tilewright.gen.generate import build_top
from tilewright.gen.verilog import emit
from tilewright.sim.cosim import build, locked
from tilewright.sim.transport import SimulatorTransport

__all__ = ["MEMORY", "Simulation", "build_simulation", "simulated"]

MEMORY = {"read_latency": 40, "write_latency": 20}
"""Settings of the memory model."""
LEAST_BYTES = 1 << 21
"""Size of the smallest memory, so that small models share a build."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A configuration's Verilog and its build.

    verilog, folder : path                        file; what ``cosim.simulate`` and ``SimulatorTransport`` take
    generate_seconds, build_seconds : float       how long each took, little where it was there already
    """

    verilog: Path
    folder: Path
    generate_seconds: float
    build_seconds: float


def build_simulation(config, folder, *, memory_bytes, step=lambda text: None, **options):
    """The ``Simulation`` of a configuration in ``folder``, where what is there already is used again.

    memory_bytes : int    a power of two
    step : function       told what is being done
    options               as for ``cosim.build``: simulator, waves

    Raises UserError for a build that runs no programs.
    """
    check_runs_programs(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    step("generating Verilog")
    started = time.perf_counter()
    verilog = folder / f"{config.module_name}.v"
    with locked(verilog.with_suffix(".lock")):
        emit(build_top(config), name=config.module_name, path=verilog)
        generated = time.perf_counter()
        step("building the simulation")
        built = build(config, verilog, folder, memory_bytes=memory_bytes, **options)
    return Simulation(verilog=verilog, folder=built, generate_seconds=generated - started,
                      build_seconds=time.perf_counter() - generated)


def simulated(config, memory_bytes, folder, *, memory=MEMORY, record=None, waiting=lambda cycles: None,
              step=lambda text: None):
    """A ``SimulatorTransport``, not yet started, with room for ``memory_bytes``.

    Verilog and builds lie in ``folder`` and are used again. ``record`` is as for ``SimulatorTransport``. ``step`` is
    told what is being done, ``waiting`` how many cycles a program has run.
    """
    size = max(LEAST_BYTES, 1 << (memory_bytes - 1).bit_length())
    built = build_simulation(config, folder, memory_bytes=size, step=step).folder
    step("starting the simulation")
    return SimulatorTransport(built, memory=memory, record=record, waiting=waiting)
