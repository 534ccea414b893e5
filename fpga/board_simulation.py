"""A whole board in simulation: its top with its SDRAM in Verilator, its serial line at a pseudo-terminal."""

import os
import signal
import subprocess
import tempfile
import tty
from pathlib import Path

from tilewright.gen.errors import ToolError
from tilewright.sim.loop import build_loop

from .boards.board import SdramMemory
from .direct_top import DirectTop
from .memory.timing import slowest
from .top import BoardTop

__all__ = ["SimulatedBoard", "build_board"]

HDL = Path(__file__).parent / "hdl"
BIT_CYCLES = 4
"""Cycles of a bit on the line: the fastest that the UART takes."""
PATIENCE_CYCLES = 20_000
"""After which the bridge drops a frame that does not go on."""
END_SECONDS = 10


def build_board(board, config, folder):
    """Program that simulates ``board`` with the accelerator ``config``, built in ``folder``. Raises ToolError, which
    names the log."""
    line = {"frequency": board.frequency, "baud": board.frequency // BIT_CYCLES, "patience": PATIENCE_CYCLES}
    defines = {"BIT_CYCLES": BIT_CYCLES}
    top = BoardTop(config, memory=board.memory, **line) if config.vector_lanes else DirectTop(config, **line)
    if not isinstance(board.memory, SdramMemory):
        return build_loop(top, HDL / "board_line.cpp", folder=folder, defines=defines | {"NO_SDRAM": 1})
    timing = slowest(*board.memory.parts)
    model = ", ".join(f".{name}({value})" for name, value in timing.model_parameters(board.frequency).items())
    return build_loop(top, HDL / "board_line.cpp", folder=folder, defines=defines,
                      top="board_bench", hdl=(HDL / "board_bench.sv", HDL / "sdram_model.sv"),
                      macros={"MODEL_PARAMETERS": model})


class SimulatedBoard:
    """A board that runs from entering to leaving the context.

    Parameters
    ----------
    program : path     of ``build_board``
    decays : bool      a late refresh makes the SDRAM's contents noise, instead of ending the simulation

    Attributes
    ----------
    port : str         name of the serial port
    cycles : int       simulated, known at the end
    decays : int       times that the SDRAM lost its contents, known at the end

    Leaving raises ToolError with the model's message where the simulation ended by itself, as after a violation of the
    SDRAM's timing.
    """

    def __init__(self, program, *, decays=False):
        self._program, self._plusargs = Path(program).resolve(), ["+sdram_decays"] * decays
        self.cycles = self.decays = None

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="tilewright-board-")
        board_end, self._line = os.openpty()
        tty.setraw(self._line)          # kept open, so that the line stays when a host goes
        self.port = os.ttyname(self._line)
        self._log = open(Path(self._folder.name) / "board.log", "w+")
        try:
            self._process = subprocess.Popen([self._program, str(board_end), *self._plusargs], pass_fds=[board_end],
                                             stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT)
        finally:
            os.close(board_end)
        return self

    def press_reset(self):
        """Press the reset button."""
        self._process.send_signal(signal.SIGUSR1)

    def starve_memory(self):
        """Withhold the SDRAM's refreshes for several times as long as one may be late."""
        self._process.send_signal(signal.SIGUSR2)

    def __exit__(self, kind, error, trace):
        early = self._process.poll() is not None
        try:
            self._process.terminate()
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._line)
        self._log.seek(0)
        lines = self._log.read().splitlines()
        self._log.close()
        self._folder.cleanup()
        self.cycles = next((int(line.split()[1]) for line in lines if line.startswith("cycles ")), None)
        self.decays = sum(line.startswith("SDRAM DECAY") for line in lines)
        if early:
            told = next((line for line in lines if "VIOLATION" in line), " ".join(lines[-1:]))
            raise ToolError(f"the simulated board stopped: {told}") from error
