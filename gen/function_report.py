"""Error of the table functions over every FP16 operand: numbers, docs/functions.md and its plot."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilewright.hw.tables import WINDOW
from tilewright.sim.golden import functions as golden

from .function_fit import fit
from .functions import DEFINITIONS

__all__ = ["FunctionError", "measure", "markdown", "plot", "write"]


@dataclass(frozen=True, kw_only=True)
class FunctionError:
    """Errors of a table against float64, over the FP16 operands within the definition's domain and window.

    ``x`` and ``relative`` are arrays in ascending order of x; ``ulps`` counts FP16 numbers between the two results
    once both are rounded to FP16.
    """

    x: np.ndarray
    relative: np.ndarray
    worst: float
    worst_normal: float
    mean: float
    ulps: int


def measure(definition, table):
    """FunctionError of ``table``; evaluated by the golden model."""
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = np.sort(x[np.isfinite(x)]).astype(np.float64)
    low, high = definition.domain
    smallest = definition.e_min + (definition.zero is not None) - 127
    x = x[(x > low) & (x < high) & (np.abs(x) >= 2.0**smallest) & (np.abs(x) < 2.0**(definition.e_min + WINDOW - 127))]
    exact = definition.formula(x)
    result = golden.evaluate(golden.table_from(table), x.astype(np.float32)).astype(np.float64)
    relative = result / exact - 1
    normal = np.abs(exact) >= 2.0**-14
    return FunctionError(x=x, relative=relative, worst=np.abs(relative).max(),
                         worst_normal=np.abs(relative[normal]).max(), mean=np.abs(relative).mean(),
                         ulps=int(np.abs(_fp16_order(result) - _fp16_order(exact)).max()))


def _fp16_order(value):
    """Position of each value, rounded to FP16, among the FP16 numbers."""
    with np.errstate(over="ignore"):
        bits = value.astype(np.float16).view(np.int16).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


def markdown():
    """Text of docs/functions.md."""
    lines = [
        "# Table functions: size and error", "",
        "Generated from `gen/functions.py`; do not edit. [Numerics](numerics.md) defines how a table is evaluated.", "",
        "Measured over every finite FP16 operand within domain and window, against float64. FP16 subnormals (below",
        "2^-14) are left out of \"over normal results\"; `silu` may miss by 2^-26 there. The last column counts the",
        "FP16 numbers between the rounded table result and the rounded exact one, at worst. An operand whose magnitude",
        "lies outside the window counts as the nearest one inside.", "",
        "| function | domain | window | segments | worst relative error | over normal results | mean | FP16 ulps |",
        "|---|---|---|---|---|---|---|---|"]
    total = 0
    for definition in DEFINITIONS.values():
        table = fit(definition)
        error = measure(definition, table)
        total += len(table.c0)
        low, high = (_limit(value) for value in definition.domain)
        window = f"2^{table.e_min - 127} to 2^{table.e_min + WINDOW - 127}"
        lines.append(f"| {definition.name} | {low} to {high} | {window} | {len(table.c0)} | {_power(error.worst)} | "
                     f"{_power(error.worst_normal)} | {100 * error.mean:.5f} % | {error.ulps} |")
    lines += ["", f"All of them take {total} segments of 72 bits.", "",
              "![Relative error of each function over its FP16 operands](images/function_error.png)", ""]
    return "\n".join(lines)


def _power(value):
    return f"2^{np.log2(value):.2f}"


def _limit(value):
    if np.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    exponent = np.log2(abs(value))
    return f"{value:g}" if abs(exponent) < 10 else f"{'-' if value < 0 else ''}2^{exponent:g}"


def plot(path):
    """Write the plot: largest and mean relative error of 64 neighbouring FP16 operands each."""
    from matplotlib.figure import Figure  # half a second: only when a plot is asked for

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots((len(DEFINITIONS) + 1) // 2, 2, squeeze=False).flat
    for axis, definition in zip(axes, DEFINITIONS.values(), strict=False):
        error = measure(definition, fit(definition))
        groups = np.array_split(np.arange(len(error.x)), len(error.x) // 64)
        x = [error.x[g].mean() for g in groups]
        size = np.abs(error.relative)
        axis.plot(x, [size[g].max() for g in groups], ".", markersize=2, label="largest of 64 operands")
        axis.plot(x, [size[g].mean() for g in groups], ".", markersize=2, label="their mean")
        axis.set_xscale("symlog", base=2, linthresh=2.0**-10)
        axis.set_xticks([t for e in (-5, 0, 5, 10, 15) for t in (-2.0**e, 2.0**e) if error.x[0] <= t <= error.x[-1]])
        axis.set_yscale("log", base=2)
        axis.set_ylim(2.0**-24, 2.0**-9)
        axis.set_title(definition.name)
        axis.set_xlabel("operand")
        axis.set_ylabel("relative error")
        axis.grid(alpha=0.3)
        axis.legend(loc="upper right", markerscale=4)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write(docs):
    """Write functions.md and images/function_error.png under the folder ``docs``."""
    docs = Path(docs)
    (docs / "images").mkdir(exist_ok=True)
    (docs / "functions.md").write_text(markdown(), encoding="utf-8")
    plot(docs / "images" / "function_error.png")
