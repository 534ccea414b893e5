"""A simulated accelerator as a device: a transport for ``gen.driver`` whose other end is a simulator's process."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from .cosim import SimulationError
from .verilator import SIMULATION, environment

__all__ = ["SimulatorTransport"]

PIECE_BYTES = 1 << 20
"""Most bytes of memory that go to the simulator at a time."""
PATIENCE_SECONDS = 10
"""What a simulator is given to end by itself."""


class SimulatorTransport:
    """Registers, interrupt and memory of a build of ``cosim.build``. A context manager; at its end the simulator ends.

    The coroutines are those that ``gen.driver.Driver`` needs. They never let another one run: the simulator works only
    while it is asked to.

    Parameters
    ----------
    built : path           build folder
    memory : dict          settings of the memory model (plusargs of axi_memory)
    record : path          file for what ``trace.read_timeline`` reads, complete once the simulator has ended
    waiting : function     told several times a second, during a wait, how many cycles it has lasted

    Raises SimulationError, one line that names the log, where the simulator does not start or ends early; its folder
    then stays.
    """

    def __init__(self, built, *, memory=None, record=None, waiting=lambda cycles: None):
        self._built, self._memory, self._waiting = Path(built).resolve(), dict(memory or {}), waiting
        if record is not None:
            self._memory["trace"] = Path(record).resolve()
        self._connection = None

    def __enter__(self):
        self._folder = Path(tempfile.mkdtemp(prefix="device-", dir=self._built))
        self._log = self._folder / "run.log"
        with tempfile.TemporaryDirectory(prefix="tilewright-") as place:   # a socket's path must be short
            address = str(Path(place) / "socket")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(address)
                listener.listen(1)
                listener.settimeout(0.1)
                self._process = self._start(address)
                try:
                    self._connection = self._accept(listener)
                except BaseException:
                    self._end_process(patience=0)
                    raise
        return self

    def __exit__(self, kind, error, trace):
        self._connection.close()
        self._end_process(patience=0 if kind is not None else PATIENCE_SECONDS)
        if not isinstance(error, SimulationError):
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self):
        """The process that leads the simulator's session."""
        return self._process.pid

    async def read(self, offset):
        """Value of a 32-bit register."""
        return self._ask("read", offset)

    async def write(self, offset, value):
        """Write a 32-bit register."""
        self._ask("write", offset, value)

    async def wait(self):
        """Until the interrupt is pending."""
        self._ask("wait")

    async def load(self, address, data):
        """Write bytes to memory."""
        data, beat = np.frombuffer(data, np.uint8), self._beat_bytes
        first, end = address // beat * beat, -(-(address + len(data)) // beat) * beat
        if first != address or end != address + len(data):
            whole = np.empty(end - first, np.uint8)
            for edge in {first, end - beat}:
                whole[edge - first:][:beat] = await self._fetch_array(edge, beat)
            whole[address - first:][:len(data)] = data
            data = whole
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at:at + PIECE_BYTES]
            piece.tofile(self._folder / "fill.bin")
            self._ask("fill", (first + at) // beat, len(piece) // beat)

    async def fetch(self, address, size):
        """Bytes of memory."""
        return (await self._fetch_array(address, size)).tobytes()

    async def _fetch_array(self, address, size):
        beat = self._beat_bytes
        first = address // beat
        self._ask("dump", first, -(-(address + size) // beat) - first)
        lines = (self._folder / "dump.hex").read_text().split()
        beats = np.frombuffer(bytes.fromhex("".join(lines)), np.uint8).reshape(-1, beat)[:, ::-1]
        return beats.reshape(-1)[address - first * beat:][:size]

    def _ask(self, *request):
        try:
            self._connection.send(request)
            while True:
                kind, value = self._connection.recv()
                if kind == "done":
                    return value
                self._waiting(value)
        except (EOFError, ConnectionError):
            raise SimulationError(f"the simulator ended early{self._last_words()}; see {self._log}") from None

    def _last_words(self):
        """The line of the log that says why, if there is one."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        told = [line for line in lines if "VIOLATION" in line or "Error" in line or "Fatal" in line]
        return f" ({told[0].strip()})" if told else ""

    def _start(self, address):
        info = json.loads((self._built / "build.json").read_text())
        self._beat_bytes = info["beat_bytes"]
        plusargs = [f"+{name}={value}" for name, value in self._memory.items()]
        plusargs += [f"+fill={self._folder / 'fill.bin'}", f"+dump={self._folder / 'dump.hex'}"]
        env = environment() | SIMULATION | {"TILEWRIGHT_SOCKET": address}
        env.pop("PYTEST_CURRENT_TEST", None)   # cocotb's runner would look for results of its own
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", __name__, info["simulator"], str(self._built), str(self._folder), *plusargs],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def _accept(self, listener):
        while True:
            try:
                return Connection(listener.accept()[0].detach())
            except TimeoutError:
                if self._process.poll() is not None:
                    raise SimulationError(
                        f"the simulator did not start{self._last_words()}; see {self._log}") from None

    def _end_process(self, patience):
        """Wait for the simulator and what started it; kill both after ``patience`` seconds."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _simulate(simulator, built, folder, *plusargs):
    """The simulation with its server in it, to its end."""
    from cocotb_tools.runner import get_runner

    get_runner(simulator).test(
        test_module="tilewright.sim.device", hdl_toplevel="testbench", hdl_toplevel_lang="verilog", build_dir=built,
        test_dir=folder, results_xml=f"{folder}/results.xml", plusargs=plusargs)


if __name__ == "__main__":
    _simulate(*sys.argv[1:])
