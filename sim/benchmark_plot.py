"""A picture of where the cycles of benchmarks went."""

from .measurement import ARRAY, REST

__all__ = ["write_plot"]

GROUPS = {**{text: text for text in ARRAY.values()}, REST: REST, "vector": "vector unit alone", "load": "load alone",
          "store": "store alone", "stream": "prefetch alone", "sequencer": "sequencer alone"}
"""First words of a key of ``Measurement.spent``, and how the picture calls it."""
COLOURS = ("#2f6fb0", "#d9722e", "#c9a227", "#8a8f98", "#b8485a", "#8064a2", "#4c9f70", "#5aa9c4", "#30475e")


def grouped(spent):
    """Shares of the cycles by the names of ``GROUPS``."""
    total, shares = sum(spent.values()), dict.fromkeys(GROUPS.values(), 0.0)
    for name, cycles in spent.items():
        shares[GROUPS[name.split(" alone,")[0]]] += cycles / total
    return shares


def write_plot(path, measurements):
    """A bar for each run of which it is known, as SVG; nothing is written without any. Returns whether it was."""
    import matplotlib
    from matplotlib.figure import Figure

    bars = {}
    for m in measurements:
        if m.spent and m.spent not in bars.values():   # several figures of one run
            bars[m.name] = m.spent
    if not bars:
        return False
    with matplotlib.rc_context({"svg.hashsalt": "tilewright", "font.size": 8}):
        figure = Figure(figsize=(11, 1.2 + 0.24 * len(bars)), layout="constrained")
        axes = figure.subplots()
        shares, left = [grouped(spent) for spent in bars.values()], [0.0] * len(bars)
        for name, colour in zip(GROUPS.values(), COLOURS, strict=True):
            widths = [100 * share[name] for share in shares]
            axes.barh(list(bars), widths, left=left, color=colour, label=name)
            left = [at + width for at, width in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="% of the cycles")
        figure.legend(loc="outside upper center", ncols=5, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
    return True
