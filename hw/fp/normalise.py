"""Parts that the floating-point units share: field layouts, the left shift that normalises, the rounding add."""

from amaranth.hdl import Cat, Const, Mux, Signal
from amaranth.lib import data

__all__ = ["FP16", "FP32", "normalise", "round_up"]

FP32 = data.StructLayout({"fraction": 23, "exponent": 8, "sign": 1})
FP16 = data.StructLayout({"fraction": 10, "exponent": 5, "sign": 1})


def normalise(m, value, *, steps, name):
    """Combinational left shift of ``value`` by each of ``steps`` (descending powers of two) whose top bits are zero.

    Returns (shifted, steps_taken): a Signal as wide as ``value``, and one bit a step, the smallest step first, so that
    steps down to 1 make ``steps_taken`` the number of leading zeros. Steps may be spread over pipeline stages.
    """
    taken = []
    for step in steps:
        shifted = Signal(len(value), name=f"{name}_by{step}")
        empty = Signal(name=f"{name}_empty{step}")
        m.d.comb += [
            empty.eq(value[-step:] == 0),
            shifted.eq(Mux(empty, Cat(Const(0, step), value[:-step]), value)),
        ]
        value = shifted
        taken.insert(0, empty)
    return value, Cat(taken)


def round_up(value, *, keep):
    """The bit that round to nearest, ties to even, adds below the top ``keep`` bits of ``value``."""
    dropped = len(value) - keep
    return value[dropped - 1] & (value[dropped] | value[:dropped - 1].any())
