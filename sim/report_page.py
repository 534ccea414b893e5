"""The report as one HTML page that needs nothing else."""

from dataclasses import asdict
from html import escape

from tilewright.hw.registers import COUNTERS

from . import report_plots as plots
from .report import ORDER
from .trace import SEQUENCER, TRACKS
from .workload import TENSORS

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2329; background: #fff; max-width: 68rem; margin: 2rem auto;
  padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { max-width: 52rem; margin: .4rem 0; } .muted { color: #5c6670; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #e3e7eb; vertical-align: top; }
th { font-weight: 600; } td:first-child, th:first-child { text-align: left; padding-left: 0; }
table.text td { text-align: left; }
svg { width: 100%; height: auto; display: block; margin: .4rem 0; }
.wide { overflow-x: auto; } summary { cursor: pointer; margin: .5rem 0; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.figures div { border: 1px solid #e3e7eb; border-radius: .4rem; padding: .5rem .9rem; }
.figures b { display: block; font-size: 1.25rem; } @media print { details > * { display: block; } }
"""
_INTRODUCTION = """A run is one start of a program: prefill takes in several tokens, decode one. Nothing here was
measured on a board."""
_TIME = """Share of each moment in which a unit had a command (the array also while it waited for weights), and in
which the sequencer worked without being held back; at the right the mean. Of the bus each command's bytes are spread
evenly over the command's time."""
_ROOFLINE = """Filled points are whole phases: all their MACs, bytes and cycles. They cannot lie above the slanted
roof, which is the bus, nor above the level one, which is the array. The others are kinds of matrices: MACs and
streamed bytes of their MATMULs, over the cycles in which the array had one of them; what was fetched ahead lifts them
a little."""
_BYTES = """From the programs' commands, scales included. Not used is the rest of the beats counted: commands fetched
ahead that a jump left out, and bytes of a written beat that were not to be changed."""
_CYCLES = """Each cycle counts once: for the array if a MATMUL was in work, else for the vector unit, else for a
store, a load or a prefetch, else for the sequencer, which fetched a command or worked on one; and for the part of the
model that this command belonged to. What is hidden under the array therefore does not show."""
_UNITS = {track: "sequencer" if track == SEQUENCER else TRACKS[track] for track in ORDER}


def page(trace, *, date=None):
    """HTML of a ``report.Trace``; ``date`` is shown if it is given. Equal input gives equal text."""
    phases = trace.phases()
    title = f"{trace.about['title'] or 'Run'} on {trace.config.name}"
    sections = (_head(trace, title, date), _figures(trace, phases), _summary(trace, phases), _time(trace),
                _roofline(trace, phases), _bytes(trace, phases), _cycles(phases), _counters(phases), _setting(trace))
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
            + "\n".join(sections) + "\n</body></html>\n")


def _table(columns, rows, kind=""):
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>\n" for row in rows)
    return (f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>")


def _share(part, whole):
    return f"{part / whole:.1%}" if whole else ""


def _head(trace, title, date):
    line = f"{len(trace.runs)} runs, {trace.cycles:,} cycles in co-simulation ({trace.about['simulator']})"
    return (f"<h1>{escape(title)}</h1>\n<p class='muted'>{escape(line + (f'; {date}' if date else ''))}. "
            f"{_INTRODUCTION}</p>")


def _figures(trace, phases):
    """The few numbers that matter most."""
    config, shown = trace.config, []
    for kind, phase in phases.items():
        shown.append((f"{phase.cycles / phase.tokens:,.0f}", f"cycles a token in {kind}"))
        if kind == "prefill" and phase.macs:
            peak = max(plots.compute_roofs(trace).values())
            shown.append((_share(phase.macs, phase.cycles * peak), f"of the array's peak in {kind}"))
        if kind == "decode":
            shown.append((_share(phase.moved(config)[0], phase.cycles * config.bus_bytes),
                          f"of the bus's read cycles in {kind}"))
    return f'<div class="figures">{"".join(f"<div><b>{value}</b>{escape(text)}</div>" for value, text in shown)}</div>'


def _summary(trace, phases):
    config, peak = trace.config, max(plots.compute_roofs(trace).values(), default=trace.config.macs)

    def column(phase):
        read, written = phase.moved(config)
        return (phase.runs, phase.tokens, f"{phase.cycles:,}", f"{phase.cycles / phase.tokens:,.0f}", f"{phase.macs:,}",
                f"{phase.macs / phase.cycles:.2f} ({_share(phase.macs, phase.cycles * peak)} of {peak})",
                f"{read:,}", f"{written:,}",
                f"{read / phase.cycles:.2f} ({_share(read, phase.cycles * config.bus_bytes)} of {config.bus_bytes})",
                f"{phase.macs / (read + written):.2f}")

    names = ("runs", "tokens", "cycles", "cycles a token", "MACs", "MACs a cycle", "bytes read", "bytes written",
             "bytes read a cycle", "MACs for each byte")
    columns = zip(names, *map(column, phases.values()), strict=True)
    return "<h2>Summary</h2>\n" + _table(["", *phases], columns)


def _time(trace):
    """The whole, then one run of each kind from near."""
    text = f"<h2>Utilisation over time</h2>\n<p>{_TIME}</p>\n"
    text += f"<h3>All runs</h3>\n{plots.unique(plots.utilisation(trace, 0, trace.cycles, runs=trace.runs), 'all')}"
    for kind, place, what in (("prefill", 0, "First prefill run"), ("decode", -1, "Last decode run")):
        runs = [run for run in trace.runs if run.kind == kind]
        if runs and len(trace.runs) > 1:
            run = runs[place]
            tokens = f"{run.tokens} token{'s' if run.tokens > 1 else ''} at position {run.position}"
            text += (f"\n<h3>{what}: {tokens}</h3>\n"
                     + plots.unique(plots.utilisation(trace, run.start, run.stop), kind))
    return text


def _roofline(trace, phases):
    peak = max(plots.compute_roofs(trace).values(), default=0)
    rows = [(f"{phase.kind}, {name}", f"{macs:,}", f"{size:,}", f"{macs / size:.2f}", f"{cycles:,}",
             f"{macs / cycles:.2f}", _share(macs, cycles * min(peak, macs / size * trace.config.bus_bytes)))
            for phase in phases.values() for name, (macs, cycles, size) in phase.kinds.items()]
    return (f"<h2>Roofline</h2>\n<p>{_ROOFLINE}</p>\n"
            + plots.unique(plots.roofline(trace, phases), "roofline")
            + _table(["matrix", "MACs", "bytes streamed", "MACs a byte", "cycles of its MATMULs", "MACs a cycle",
                      "of the roof above it"], rows))


def _bytes(trace, phases):
    columns, parts = [], []
    for phase in phases.values():
        columns += [f"{phase.kind}, read", "share", f"{phase.kind}, written", "share"]
        parts += list(zip((phase.read, phase.write), phase.moved(trace.config), strict=True))

    def row(title, values):
        return [title] + [cell for value, (_, moved) in zip(values, parts, strict=True)
                          for cell in ((f"{value:,}", _share(value, moved)) if value else ("", ""))]

    rows = [row(name, [sizes.get(name, 0) for sizes, _ in parts]) for name in TENSORS
            if any(name in sizes for sizes, _ in parts)]
    rows.append(row("not used", [moved - sum(sizes.values()) for sizes, moved in parts]))
    rows.append(row("moved, by the counters of beats", [moved for _, moved in parts]))
    return (f"<h2>Bytes by class of tensor</h2>\n<p>{_BYTES}</p>\n" + plots.unique(plots.tensor_bars(phases), "bytes")
            + _table(["class", *columns], rows))


def _cycles(phases):
    text = f"<h2>Where the cycles went</h2>\n<p>{_CYCLES}</p>\n"
    for phase in phases.values():
        text += (f"<h3>{phase.kind}</h3>\n{plots.unique(plots.cycle_bars(phase), f'cycles-{phase.kind}')}"
                 + _table(["operation", "cycles", "share", *_UNITS.values()],
                          [_cycle_row(phase, [name], cycles) for name, cycles in phase.operations().items()]))
        if any(layer for layer, _ in phase.spent):
            rows = [_cycle_row(phase, [layer, operation], cycles) for (layer, operation), cycles in phase.spent.items()]
            text += ("<details><summary>by layer and operation</summary>"
                     + _table(["layer", "operation", "cycles", "share", *_UNITS.values()], rows) + "</details>\n")
    return text


def _cycle_row(phase, names, cycles):
    return [*names, f"{cycles.sum():,}", _share(cycles.sum(), phase.cycles), *(f"{each:,}" if each else "" for each in
                                                                               cycles)]


def _counters(phases):
    rows = []
    for name, doc in COUNTERS:
        row = [name]
        for phase in phases.values():
            row += [f"{phase.counters[name]:,}", _share(phase.counters[name], phase.cycles)]
        rows.append([*row, doc])
    columns = [column for kind in phases for column in (kind, "of its cycles")]
    return "<h2>Hardware counters</h2>\n" + _table(["counter", *columns, "meaning"], rows)


def _setting(trace):
    def pairs(title, values):
        return f"<h3>{title}</h3>\n" + _table(["", ""], [(name, ", ".join(value) if isinstance(value, tuple) else value)
                                                        for name, value in values.items()], "text")

    runs = _table(["run", "position", "tokens", "cycles", "cycles a token"],
                  [(run.name, run.position, run.tokens, f"{run.cycles:,}", f"{run.cycles / run.tokens:,.0f}")
                   for run in trace.runs])
    return ("<h2>Setting</h2>\n"
            + pairs("Configuration", asdict(trace.config) | {"SHA-256": trace.config.sha256})
            + pairs("Memory model (cycles)", trace.about["memory"]) + pairs("Tools", trace.about["tools"])
            + f"<details><summary>all {len(trace.runs)} runs</summary>{runs}</details>")
