"""Yosys as a function: a script in, files out. Each call is a process of its own.

Inside one process the numbers of automatic names go on from call to call, so that the same design would come out as
different text; and an error of Yosys ends the process it happens in.
"""

import os
import subprocess
import sys
from importlib.metadata import version

__all__ = ["YosysError", "run_script", "yosys_version"]

# In several threads opt_clean removes a memory that is in use, or crashes, once in about a hundred times: the threads
# look memories up in one table, and the first look into it may sort it anew (pyosys 0.70, opt_clean/cells_all.cc).
_ENVIRONMENT = {"YOSYS_MAX_THREADS": "1"}
_CHILD = "import sys; from pyosys import libyosys as ys; ys.run_pass('script script.ys', ys.Design())"


class YosysError(Exception):
    """Yosys refused a script; the message is its last line, the log lies in the working folder."""


def yosys_version():
    """Version of the Yosys in use."""
    return version("pyosys")


def run_script(lines, *, folder):
    """Run the commands ``lines`` with ``folder`` (a ``Path``) as the working folder; script and log stay there.

    Raises YosysError with Yosys' own message.
    """
    (folder / "script.ys").write_text("".join(f"{line}\n" for line in lines))
    with open(folder / "yosys.log", "w") as log:
        code = subprocess.run([sys.executable, "-c", _CHILD], cwd=folder, stdout=log, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, text=True, env=os.environ | _ENVIRONMENT)
    if code.returncode:
        messages = [line for line in code.stderr.splitlines() if line.strip()]
        raise YosysError(messages[-1] if messages else f"Yosys ended with code {code.returncode}")
