"""Parts that the floating-point units share: field layouts, the left shift that normalises, the rounding add."""

from amaranth.hdl import Cat, Const, Mux, Signal
from amaranth.lib import data

__all__ = ["FP16", "FP32", "normalise", "round_up"]

FP32 = data.StructLayout({"fraction": 23, "exponent": 8, "sign": 1})
FP16 = data.StructLayout({"fraction": 10, "exponent": 5, "sign": 1})


def normalise(m, value, *, steps, name):
    """Combinational left shift of ``value`` by each of ``steps`` (descending powers of two) whose top bits are zero.

    Returns (shifted, steps_taken): a Signal as wide as ``value``, and one bit a step, the smallest step first, so that
    steps down to 1 make ``steps_taken`` the number of leading zeros. Steps may be spread over pipeline stages. Which
    steps are taken is found beside the shift, for all places that larger steps may leave, so that each step costs no
    more than its multiplexer.
    """
    taken = _steps_taken(value, steps)
    for step, empty in zip(steps, taken, strict=True):
        shifted = Signal(len(value), name=f"{name}_by{step}")
        m.d.comb += shifted.eq(Mux(empty, Cat(Const(0, step), value[:-step]), value))
        value = shifted
    return value, Cat(reversed(taken))


def _steps_taken(value, steps):
    """One bit a step, the largest first."""
    if not steps:
        return []
    step, *smaller = steps
    empty = ~value[-step:].any()
    behind = _steps_taken(Cat(Const(0, step), value[:-step]), smaller)
    return [empty, *(Mux(empty, *pair) for pair in zip(behind, _steps_taken(value, smaller), strict=True))]


def round_up(value, *, keep):
    """The bit that round to nearest, ties to even, adds below the top ``keep`` bits of ``value``."""
    dropped = len(value) - keep
    return value[dropped - 1] & (value[dropped] | value[:dropped - 1].any())
