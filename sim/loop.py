"""A unit in a loop of C++: Verilator makes a program of both, for tests of millions of operands."""

import subprocess
from pathlib import Path

from tilewright.gen.errors import ToolError
from tilewright.gen.verilog import emit

from .verilator import environment

__all__ = ["build_loop"]


def build_loop(unit, source, *, folder, defines=(), top="unit", hdl=(), macros=()):
    """Path of the program made of the component ``unit`` and the C++ file ``source``, which has it as ``Vunit``.

    defines : dict    macros for ``source``
    top : str         another top module than ``unit``, in one of the HDL files ``hdl``
    macros : dict     for the HDL files

    Raises ToolError, which names the log, if it cannot be built.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    emit(unit, name="unit", path=folder / "unit.v")
    flags = " ".join(["-O2", *(f"-D{name}={value}" for name, value in dict(defines).items())])
    command = ["verilator", "--cc", "--exe", "--build", "-O3", "-Wno-fatal", "-Wno-WIDTH", "--x-assign", "fast",
               "--x-initial", "fast", "--noassert", "--top-module", top, "--prefix", "Vunit", "--Mdir", "obj",
               "-CFLAGS", flags,
               *(f"+define+{name}={value}" for name, value in dict(macros).items()), "unit.v",
               *(str(Path(file).resolve()) for file in (*hdl, source))]
    log = folder / "build.log"
    with open(log, "w") as file:
        code = subprocess.run(command, cwd=folder, env=environment(), stdout=file, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL).returncode
    if code:
        raise ToolError(f"Verilator could not build {folder.name}; see {log}")
    return folder / "obj" / "Vunit"
