"""From a board and a configuration to a bitstream and a report of it."""

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tilewright.gen.configuration import format_configuration
from tilewright.gen.errors import ToolError, UserError
from tilewright.gen.verilog import emit_rtlil
from tilewright.gen.yosys import YosysError, yosys_version

from . import report as reporting
from .estimate import check_fits
from .flow import FLOWS
from .parts import PARTS
from .reroute import LATE, late_drivers, unroute
from .tools import find_tool

__all__ = ["build"]

_STAGES = {"Packing": "packing", "Creating initial": "placing", "Running main analytical": "placing",
           "Running Static": "placing", "Running simulated": "refining the placement", "Routing": "routing",
           "Running router2": "routing"}
_STAGE = re.compile(rf"^Info: ({'|'.join(_STAGES)})\b(?! globals)")
_TOO_LARGE = re.compile(r"^ERROR: (.*(?:[Uu]nable to (?:place|find legal placement)|no BELs remaining|"
                        r"failed to (?:place|legali[sz]e)).*)")


def build(board, config, folder, *, tools="auto", progress=lambda text: None):
    """Build the bitstream of ``board`` with the accelerator ``config`` into ``folder``; returns the report.

    Files: ``configuration.toml`` (for ``tilewright complete --config``), ``NAME.v`` and the constraints, ``NAME.json``
    (netlist), the routed design, the bitstream, nextpnr's own report and the logs, ``report.json`` and ``report.md``.
    ``progress`` hears what is being done. Where timing is not met everything is written, and the report's
    ``timing_met`` is False: the caller tells.

    Raises UserError where a tool is missing or the configuration is too large for the part; ToolError where a tool
    fails.
    """
    part, name = PARTS[board.part], board.name
    flow = FLOWS[part.family]
    router, packer = (find_tool(tool, source=tools) for tool in (flow.router, flow.packer))
    check_fits(config, board, part)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in ("report.json", "report.md", f"{name}.{flow.bitstream}"):
        (folder / stale).unlink(missing_ok=True)
    seconds = {}

    def step(title, run):
        progress(title)
        start = time.monotonic()
        result = run()
        seconds[title] = round(time.monotonic() - start, 1)
        return result

    step("generating Verilog", lambda: _write_sources(board, config, folder, flow))
    step("synthesis", lambda: _synthesise(folder, name, flow))
    arguments = flow.route_command(part, name=name, frequency=board.frequency, router=board.router, seed=board.seed)
    arguments += flow.keep_arguments(name) if board.reroute else ()
    step("place and route", lambda: _run(
        router, arguments, folder, f"{name}.nextpnr.log", progress=progress,
        too_large=f"configuration {config.name} is too large for {part.name} on {name}"))
    if board.reroute:
        step("routing late nets again", lambda: _reroute(router, flow, board, folder))
    step("packing the bitstream", lambda: _run(packer, flow.pack_command(name), folder, f"{name}.pack.log"))
    report = _report(board, part, flow, config, folder, seconds, {"yosys": f"pyosys {yosys_version()}",
                                                                 flow.router: router.version,
                                                                 flow.packer: packer.version})
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "report.md").write_text(reporting.markdown(report))
    return report


def _write_sources(board, config, folder, flow):
    """Configuration; Verilog and constraints, both out of Amaranth's platform."""
    from .boards.pins import BoardPins
    platform, top = board.make_platform(), _top(board.name)
    plan = platform.prepare(BoardPins(board, config), top)
    emit_rtlil(plan.files[f"{top}.il"], name=top, path=folder / f"{board.name}.v")
    (folder / "configuration.toml").write_text(format_configuration(config))
    (folder / f"{board.name}.{flow.constraints}").write_text(plan.files[f"{top}.{flow.constraints}"])


def _top(name):
    """Name of the top module: a plain identifier, while the files are called after the board."""
    return name.replace("-", "_")


def _synthesise(folder, name, flow):
    with tempfile.TemporaryDirectory(prefix="tilewright-") as work:
        work = Path(work)
        shutil.copy(folder / f"{name}.v", work / "design.v")
        try:
            flow.synthesise(work, top=_top(name))
        except YosysError as error:
            raise ToolError(f"Yosys: {error}; its log is {folder / f'{name}.yosys.log'}") from None
        finally:
            shutil.copy(work / "yosys.log", folder / f"{name}.yosys.log")
        shutil.move(work / "design.json", folder / f"{name}.json")


def _reroute(tool, flow, board, folder):
    """Let ``board.reroute`` find other ways for the nets on paths that are late, or nearly so."""
    name = board.name
    design, delays = files = [folder / file for file in flow.routed_files(name)]
    try:
        with delays.open() as lines:
            late = late_drivers(lines, LATE * 1e12 / board.frequency)
        netlist = json.loads(design.read_text())
        unroute(netlist, late, router=board.reroute)
        design.write_text(json.dumps(netlist))
        _run(tool, flow.reroute_command(PARTS[board.part], name=name, frequency=board.frequency), folder,
             f"{name}.reroute.log")
    finally:
        for file in files:   # 200 MB
            file.unlink(missing_ok=True)


def _run(tool, arguments, folder, log, *, progress=lambda text: None, too_large=None):
    """Run a tool in ``folder`` with its output in ``log``; ``progress`` hears each stage that begins.

    Raises UserError where the tool says that the part is too small, ToolError with its last message where it fails
    otherwise.
    """
    last = stage = None
    with open(folder / log, "w", buffering=1) as file:
        process = subprocess.Popen([*tool.command, *arguments], cwd=folder, stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            for line in process.stdout:
                file.write(line)
                if (match := _STAGE.match(line)) and _STAGES[match[1]] != stage:
                    stage = _STAGES[match[1]]
                    progress(stage)
                if "rror" in line or line.startswith("ERROR"):
                    last = line.strip()
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            process.wait()
    if process.returncode:
        if too_large and last and (match := _TOO_LARGE.match(last)):
            raise UserError(f"{too_large}: {match[1]}; take a smaller configuration with --config, or another board")
        raise ToolError(f"{tool.name}: {last or f'ended with code {process.returncode}'}; its log is {folder / log}")


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _report(board, part, flow, config, folder, seconds, tools):
    name = board.name
    routed = json.loads((folder / f"{name}.nextpnr.json").read_text())
    clocks = reporting.clocks(routed)
    files = (f"{name}.v", f"{name}.{flow.constraints}", f"{name}.{flow.bitstream}")
    return {
        "board": name, "title": board.title, "part": part.name, "configuration": asdict(config),
        "configuration_hash": config.sha256, "frequency_mhz": board.frequency / 1e6, "seed": board.seed,
        "bitstream": f"{name}.{flow.bitstream}",
        "resources": reporting.resources(routed, flow), "clocks": clocks,
        "timing_met": bool(clocks) and all(clock["met"] for clock in clocks.values()),
        "critical_path": reporting.critical_path(routed),
        "seconds": seconds | {"all": round(sum(seconds.values()), 1)},
        "tools": {"tilewright": version("tilewright"), "amaranth": version("amaranth"),
                  "amaranth-boards": version("amaranth-boards")} | tools,
        "files": {file: _sha256(folder / file) for file in files},
    }
