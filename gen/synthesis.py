"""Area by synthesis for Lattice ECP5: units and presets, their budgets, and the history of their figures."""

import csv
import datetime
import json
import subprocess
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from .configuration import load_preset
from .generate import build_top
from .verilog import emit
from .yosys import run_script

__all__ = ["Area", "TARGETS", "synthesise", "synthesise_all", "read_budgets", "over_budget", "append_history"]

CELLS = {"lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4}, "ff": {"TRELLIS_FF": 1},
         "dsp": {"MULT18X18D": 1}, "bram": {"DP16KD": 1}}
"""Primitives that each figure counts, with their weight. PFUMX and L6MUX21 join LUT4s that are counted already."""


@dataclass(frozen=True, kw_only=True)
class Area:
    """What a design takes of an ECP5: LUT4s, flip-flops, 18x18 multipliers, 16 Kibit block RAMs."""

    lut: int
    ff: int
    dsp: int
    bram: int


def _units(preset):
    """Constructors of the main units of ``preset``, as hw/accelerator.py makes them."""
    config = load_preset(preset)

    def engine():
        from tilewright.hw.matmul.engine import MatmulEngine
        return MatmulEngine(
            formats=config.formats, rows=config.rows, fp16_rows=config.fp16_rows, lanes=config.lanes,
            width=config.bus_width, accumulate_lanes=config.accumulate_lanes, activation_depth=config.activation_depth,
            group_words=config.group_words, vector_lanes=config.vector_lanes, pe_dsps=config.pe_dsps)

    def vector():
        from tilewright.hw.vector.unit import VectorUnit

        from .functions import function_tables
        return VectorUnit(lanes=config.vector_lanes, group_words=config.group_words,
                          tables=function_tables(config.functions), formats=config.formats,
                          activation_rows=config.rows, fp16_rows=config.fp16_rows, max_row=config.max_head_dim)

    def sequencer():
        from tilewright.hw.sequencer.sequencer import Sequencer
        return Sequencer(width=config.bus_width, commands=config.program_commands)

    def prefetch():
        from tilewright.hw.memory.prefetch import Prefetch
        return Prefetch(width=config.bus_width, lanes=config.lanes, beats=config.prefetch_beats,
                        burst_beats=config.burst_beats, int4="int4" in config.formats)

    def load():
        from tilewright.hw.memory.load import Load
        return Load(group_words=config.group_words, burst_beats=config.burst_beats)

    def store():
        from tilewright.hw.memory.store import Store
        return Store(address_width=config.address_width, group_words=config.group_words,
                     burst_beats=config.burst_beats)

    def scratchpad():
        from tilewright.hw.memory.scratchpad import Scratchpad
        return Scratchpad(groups=config.scratchpad_groups, width=config.bus_width)

    return {f"{preset}_{make.__name__}": make
            for make in (engine, vector, sequencer, prefetch, load, store, scratchpad)}


TARGETS = {
    "micro_engine": _units("micro")["micro_engine"],
    **_units("small"), "small": lambda: build_top(load_preset("small")),
    **_units("medium"), "medium": lambda: build_top(load_preset("medium")),
}
"""Name of each measured design -> a function that makes its component."""


def synthesise(component, *, name):
    """Area of ``component`` after ``synth_ecp5`` of the Verilog that a user gets."""
    return _measure(emit(component, name=f"tilewright_{name}"), f"tilewright_{name}")


def _measure(verilog, top):
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        folder = Path(folder)
        (folder / "design.v").write_text(verilog)
        run_script(["read_verilog design.v", f"synth_ecp5 -top {top}", "tee -q -o stat.json stat -json"],
                   folder=folder)
        statistics = json.loads((folder / "stat.json").read_text())
    count = statistics["design"]["num_cells_by_type"]
    return Area(**{figure: sum(weight * count.get(cell, 0) for cell, weight in cells.items())
                   for figure, cells in CELLS.items()})


def synthesise_all(names, *, jobs=2, progress=lambda name: None):
    """Area of each named target, ``jobs`` processes of Yosys at a time; ``progress`` hears each name as it starts."""
    areas = {}
    with ThreadPoolExecutor(jobs) as pool:
        for name in reversed(names):  # the whole presets, which take longest, stand last
            progress(name)
            verilog = emit(TARGETS[name](), name=f"tilewright_{name}")
            areas[name] = pool.submit(_measure, verilog, f"tilewright_{name}")
        return {name: areas[name].result() for name in names}


def read_budgets(path):
    """Budgets: target -> {figure: most allowed}, of a TOML file with a table for each target."""
    return tomllib.loads(Path(path).read_text())


def over_budget(areas, budgets):
    """One line for each figure above its budget, and for each target without one."""
    lines = []
    for name, area in areas.items():
        if name not in budgets:
            lines.append(f"{name}: no budget; add a table [{name}]")
            continue
        for figure, value in asdict(area).items():
            allowed = budgets[name][figure]
            if value > allowed:
                lines.append(f"{name}: {figure} = {value}, over its budget of {allowed} by {value - allowed}")
    return lines


def _commit():
    result = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=Path(__file__).parent,
                            capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else "unknown"


def append_history(path, areas):
    """Append a line a target to the CSV file ``path`` where its figures differ from its last line; True if any."""
    path = Path(path)
    columns = ["date", "commit", "name", *CELLS]
    last = {}
    if path.exists():
        with open(path, newline="") as file:
            last = {row["name"]: row for row in csv.DictReader(file)}
    today, commit = datetime.date.today().isoformat(), _commit()
    rows = [{"date": today, "commit": commit, "name": name, **asdict(area)} for name, area in areas.items()
            if any(str(value) != last.get(name, {}).get(figure) for figure, value in asdict(area).items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not last:
            writer.writeheader()
        writer.writerows(rows)
    return bool(rows)
