"""What came out of place and route: area, clocks and the critical path, as nextpnr reports them."""

import csv
import datetime
import re
from collections import defaultdict
from pathlib import Path

__all__ = ["resources", "clocks", "critical_path", "markdown", "append_history"]

COLUMNS = ("date", "board", "configuration", "part", "lut", "ff", "dsp", "bram", "mhz", "asked_mhz", "seconds",
           "configuration_hash")

_TIMED = re.compile(r"^posedge (\S+)$")
_CELL_TYPES = re.compile(r"_(?:TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|DFF\w*|SB_\w+|ALU|MUX2_LUT\d)_")
DEPTH = 4  # levels of the hierarchy that the critical path is told by


def resources(report, flow):
    """Figure -> {"used", "available"} of nextpnr's report: used is summed over the cells of ``flow.cells``, which share
    the places that are counted for the first of them."""
    utilisation = report["utilization"]
    return {figure: {"used": sum(utilisation.get(cell, {}).get("used", 0) for cell in cells),
                     "available": utilisation.get(cells[0], {}).get("available", 0)}
            for figure, cells in flow.cells.items()}


def _plain(net):
    """A clock's name without what the tools wrapped around it."""
    return re.sub(r"^\$glbnet\$|^\$PACKER_|\$TRELLIS_IO_IN$|_SB_LUT4\S*$", "", net)


def clocks(report):
    """Clock -> {"mhz", "constraint_mhz", "met"} of nextpnr's report."""
    return {_plain(net): {"mhz": round(clock["achieved"], 2), "constraint_mhz": round(clock["constraint"], 2),
                          "met": clock["achieved"] >= clock["constraint"]}
            for net, clock in sorted(report["fmax"].items())}


def _module(cell):
    """Place in the hierarchy of a cell, from its name: the first levels, or the top's own name where it has none."""
    return ".".join(cell.replace("\\", "").split(".")[:-1][:DEPTH]) or "top"


def _name(cell):
    return _CELL_TYPES.split(cell.replace("\\", "") + "_")[0].rstrip("_")


def critical_path(report, clock=None):
    """The longest path of ``clock`` (the one with the least slack where it is None), or None without any.

    Returns a dict: ``clock``, ``ns``, ``from`` and ``to`` as names of registers, ``levels`` (cells of logic on the
    way), ``logic_ns``, ``routing_ns`` and ``modules``: nanoseconds spent in each, most first.
    """
    def slack(path):
        constraint = report["fmax"][_TIMED.match(path["from"])[1]]["constraint"]
        return 1e3 / constraint - sum(step["delay"] for step in path["path"])

    paths = [path for path in report["critical_paths"] if path["from"] == path["to"] and _TIMED.match(path["from"])
             and _TIMED.match(path["from"])[1] in report["fmax"]]
    if clock is not None:
        paths = [path for path in paths if _plain(_TIMED.match(path["from"])[1]) == clock]
    if not paths:
        return None
    worst = min(paths, key=slack)
    steps = worst["path"]
    modules = defaultdict(float)
    for step in steps:
        modules[_module(step["to"]["cell"])] += step["delay"]
    return {
        "clock": _plain(_TIMED.match(worst["from"])[1]),
        "ns": round(sum(step["delay"] for step in steps), 2),
        "from": _name(steps[0]["from"]["cell"]), "to": _name(steps[-1]["to"]["cell"]),
        "levels": sum(step["type"] == "logic" for step in steps),
        "logic_ns": round(sum(step["delay"] for step in steps if step["type"] != "routing"), 2),
        "routing_ns": round(sum(step["delay"] for step in steps if step["type"] == "routing"), 2),
        "modules": {name: round(delay, 2) for name, delay in sorted(modules.items(), key=lambda item: -item[1])},
    }


def markdown(report):
    """The text of ``report.md`` for the dict that ``report.json`` holds."""
    lines = [f"# {report['board']}: {report['title']}", "",
             f"Configuration `{report['configuration']['name']}` ({report['configuration_hash'][:16]}), part "
             f"{report['part']}, clock {report['frequency_mhz']:g} MHz, timing "
             f"{'met' if report['timing_met'] else 'NOT met'}. Figures are nextpnr's, after routing.", "",
             "| resource | used | available | share |", "|---|---:|---:|---:|"]
    for figure, value in report["resources"].items():
        share = f"{100 * value['used'] / value['available']:.0f} %" if value["available"] else ""
        lines.append(f"| {figure} | {value['used']} | {value['available']} | {share} |")
    lines += ["", "| clock | reached | asked | |", "|---|---:|---:|---|"]
    for name, clock in report["clocks"].items():
        lines.append(f"| {name} | {clock['mhz']} MHz | {clock['constraint_mhz']} MHz | "
                     f"{'met' if clock['met'] else 'NOT met'} |")
    if path := report["critical_path"]:
        lines += ["", f"Critical path: {path['ns']} ns from `{path['from']}` to `{path['to']}`, {path['levels']} "
                      f"levels, {path['logic_ns']} ns logic, {path['routing_ns']} ns routing.", "",
                  "| module | ns |", "|---|---:|"]
        lines += [f"| {name} | {delay} |" for name, delay in path["modules"].items()]
    lines += ["", "| step | seconds |", "|---|---:|"]
    lines += [f"| {name} | {seconds} |" for name, seconds in report["seconds"].items()]
    lines += ["", "| tool | version |", "|---|---|"]
    lines += [f"| {name} | {told} |" for name, told in report["tools"].items()]
    lines += ["", "| file | SHA-256 |", "|---|---|"]
    lines += [f"| {name} | `{digest}` |" for name, digest in report["files"].items()]
    return "\n".join(lines) + "\n"


def append_history(path, report):
    """Append the figures of ``report`` to the CSV file ``path`` where they differ from the board's last line; True if
    they did."""
    path = Path(path)
    used = {name: value["used"] for name, value in report["resources"].items()}
    if "lc" in used:    # a LUT with a flip-flop
        used["lut"] = used["lc"]
    figures = {"board": report["board"], "configuration": report["configuration"]["name"], "part": report["part"],
               **{name: count for name, count in used.items() if name in COLUMNS},
               "mhz": min((clock["mhz"] for clock in report["clocks"].values()), default=""),
               "asked_mhz": report["frequency_mhz"], "seconds": report["seconds"]["all"],
               "configuration_hash": report["configuration_hash"][:16]}
    rows = []
    if path.exists():
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["board"] == report["board"]]
    same = [name for name in figures if name not in ("seconds",)]
    if rows and all(rows[-1].get(name) == str(figures[name]) for name in same):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", restval="")
        if new:
            writer.writeheader()
        writer.writerow({"date": datetime.date.today().isoformat()} | figures)
    return True
