"""The report's pictures, as SVG elements for a page."""

import io
import re

import numpy as np

from tilewright.hw.commands import Unit

from .report import START
from .trace import SEQUENCER, WAITING
from .workload import TENSORS

__all__ = ["utilisation", "roofline", "tensor_bars", "cycle_bars", "compute_roofs", "unique"]

BINS = 240
WIDTH = 9.6  # inches; the page scales pictures to its own width
PREFILL, DECODE, GREY = "#2f6fb0", "#d9722e", "#8a8f98"
PHASE_COLOURS = {"prefill": PREFILL, "decode": DECODE}
COLOURS = ("#2f6fb0", "#d9722e", "#4c9f70", "#b8485a", "#8064a2", "#c9a227", "#5aa9c4", "#8c6d4f", "#d488b0", "#7f7f7f",
           "#a5b642", "#30475e")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_STYLE = {"svg.hashsalt": "tilewright", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
          "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}


def _draw(draw, height):
    """SVG element of the figure that ``draw(figure)`` fills; equal input gives equal text."""
    import matplotlib
    from matplotlib.figure import Figure  # half a second: only when a plot is asked for

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.DOTALL)
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)  # hundredths of a point are enough
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', text, count=1)


def unique(svg, prefix):
    """The element with ids that no other of the page has."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def _bus_bytes(trace, edges):
    """Bytes (read, written) between neighbouring cycles ``edges``, each command's spread evenly over its time."""
    tracks = trace.tracks
    sequencer = tracks[SEQUENCER]
    read = sum(tracks[unit].busy(edges, tracks[unit].bytes) for unit in (Unit.STREAM, Unit.LOAD))
    each = trace.program_bytes / np.bincount(sequencer.run, minlength=len(trace.runs))
    read += sequencer.busy(edges, sequencer.bytes + each[sequencer.run])
    return read, tracks[Unit.STORE].busy(edges, tracks[Unit.STORE].bytes)


def utilisation(trace, first, last, *, runs=()):
    """Share of the time that each unit had work, from cycle ``first`` to ``last``; borders of ``runs`` are marked."""
    edges = np.linspace(first, last, min(BINS, last - first) + 1)
    widths = np.diff(edges)
    read, written = (part / widths / trace.config.bus_bytes for part in _bus_bytes(trace, edges))
    tracks = trace.tracks
    rows = [("bus, reads", read), ("bus, writes", written),
            *((title, tracks[unit].busy(edges) / widths) for title, unit in
              (("matmul", Unit.MATMUL), ("vector", Unit.VECTOR), ("load", Unit.LOAD), ("store", Unit.STORE))),
            ("sequencer", (tracks[SEQUENCER].busy(edges) - tracks[WAITING].busy(edges)) / widths)]

    def draw(figure):
        for number, (axis, (title, shares)) in enumerate(
                zip(figure.subplots(len(rows), 1, sharex=True), rows, strict=True)):
            axis.stairs(np.clip(shares, 0, 1), edges, fill=True, color=COLOURS[number], linewidth=0)
            axis.set_ylim(0, 1)
            axis.set_yticks([0, 1], ["0", "100 %"], fontsize=7)
            axis.set_ylabel(title, rotation=0, ha="right", va="center", labelpad=22)
            mean = float((shares * widths).sum() / widths.sum())
            axis.text(1.01, 0.5, f"{mean:.1%}", transform=axis.transAxes, va="center")
            for run in runs[1:]:
                axis.axvline(run.start, color="0.35", linewidth=0.5)
        axis.set_xlim(first, last)
        axis.set_xlabel("cycle")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if runs:
            _name_runs(figure.axes[0], runs, last - first)

    return _draw(draw, 5.2)


def _name_runs(axis, runs, cycles):
    """Names of kinds above their runs, where there is room for them."""
    for kind in ("prefill", "decode"):
        chosen = [run for run in runs if run.kind == kind]
        if chosen:
            first, last = chosen[0].start, chosen[-1].stop
            axis.axvspan(first, last, ymin=1.05, ymax=1.2, clip_on=False, color=PHASE_COLOURS[kind], linewidth=0)
            if last - first > cycles / 12:
                axis.text((first + last) / 2, 1.3, kind, ha="center", color=PHASE_COLOURS[kind])


def compute_roofs(trace):
    """MACs a cycle at most, by number format used: {'int8': ...}."""
    config = trace.config
    return {name: config.fp16_rows * config.lanes // 2 if name == "fp16" else config.macs for name in trace.formats}


def roofline(trace, phases):
    """MACs a byte against MACs a cycle: the phases, and each kind of matrix in them, under the two roofs."""
    roofs, bus = compute_roofs(trace), trace.config.bus_bytes
    names = [name for name in TENSORS if any(name in phase.kinds for phase in phases.values())]
    points = [(phase.kind, name, macs / size, macs / cycles) for phase in phases.values()
              for name, (macs, cycles, size) in phase.kinds.items()]
    whole = [(phase.kind, phase.macs / sum(phase.moved(trace.config)), phase.macs / phase.cycles)
             for phase in phases.values() if phase.macs]

    def draw(figure):
        axis = figure.subplots()
        peak = max(roofs.values(), default=trace.config.macs)
        values = [x for *_, x, _ in points] + [x for _, x, _ in whole]
        low, high = min([*values, peak / bus]) / 2, max([*values, peak / bus]) * 3
        axis.plot([low, peak / bus], [low * bus, peak], color="0.2")
        for name, roof in roofs.items():
            axis.plot([roof / bus, high], [roof, roof], color="0.2")
            axis.text(high, roof * 1.04, f"array, {name}: {roof} MACs a cycle", ha="right", va="bottom")
        axis.annotate(f"bus: {bus} bytes a cycle", (low, low * bus), xytext=(16, 4), textcoords="offset points",
                      va="top")
        for kind, name, at, rate in points:
            axis.plot([at], [rate], MARKERS[names.index(name) % len(MARKERS)], color=PHASE_COLOURS[kind], markersize=7,
                      markerfacecolor="none", markeredgewidth=1.3)
        for kind, at, rate in whole:
            axis.plot([at], [rate], "o", color=PHASE_COLOURS[kind], markersize=12, alpha=0.85)
            axis.annotate(f"{kind}, whole", (at, rate), xytext=(9, -4), textcoords="offset points", va="top",
                          color=PHASE_COLOURS[kind], fontweight="bold")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlim(low, high)
        axis.set_ylim(min([rate for *_, rate in (*points, *whole)] + [low * bus]) / 1.5, peak * 1.7)
        axis.set_xlabel("MACs for each byte moved")
        axis.set_ylabel("MACs a cycle")
        axis.grid(alpha=0.25)
        _roofline_legend(figure, names, [phase for phase in phases if phases[phase].macs])

    return _draw(draw, 4.6)


def _roofline_legend(figure, names, kinds):
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", marker="o", color=PHASE_COLOURS[kind], label=kind) for kind in kinds]
    handles += [Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], color="0.25", markerfacecolor="none",
                       label=name) for i, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)


def _stacked(figure, rows, names, *, unit, height=0.7):
    """Horizontal bars, one for each of ``rows`` [(title, {name: value})], in parts coloured by name."""
    axis = figure.subplots()
    place, left = np.arange(len(rows)), np.zeros(len(rows))
    for number, name in enumerate(names):
        values = np.array([parts.get(name, 0) for _, parts in rows], float)
        axis.barh(place, values, height, left=left, label=name, color=COLOURS[number % len(COLOURS)], linewidth=0)
        left += values
    axis.set_yticks(place, [title for title, _ in rows])
    axis.set_ylim(max(len(rows), 3) - 0.5, -0.5)  # first at the top; a few bars stay slim
    axis.set_xlabel(unit)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False)


def tensor_bars(phases):
    """Bytes read and written by class, for each run of a phase on average."""
    rows = [(f"{phase.kind}, {what}", {name: size / phase.runs for name, size in sizes.items()})
            for phase in phases.values() for what, sizes in (("read", phase.read), ("written", phase.write))]
    names = [name for name in TENSORS if any(name in sizes for _, sizes in rows)]
    return _draw(lambda figure: _stacked(figure, rows, names, unit="bytes a run"), max(2.6, 0.5 + 0.45 * len(rows)))


def cycle_bars(phase):
    """Cycles by operation, a bar for each layer and one for what is outside them, for a run on average."""
    names = [name for name in phase.operations() if name != START]
    rows = {}
    for (layer, operation), cycles in phase.spent.items():
        if operation != START:
            parts = rows.setdefault(layer or "outside layers", {})
            parts[operation] = cycles.sum() / phase.runs
    rows = dict(sorted(rows.items(), key=lambda row: row[0] == "outside layers"))
    if list(rows) == ["outside layers"]:
        rows = {"the layer": rows["outside layers"]}
    return _draw(lambda figure: _stacked(figure, list(rows.items()), names, unit="cycles a run"),
                 max(2.4, 0.7 + 0.28 * len(rows)))
