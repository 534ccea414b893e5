"""Maximum of FP32 numbers by the total order of their bit patterns."""

from amaranth.hdl import Cat, Mux

__all__ = ["greater", "maximum"]


def _key(bits):
    """Unsigned integer that orders as max does: ``s ? 0x7FFFFFFF ^ bits : bits`` as signed, its sign bit inverted."""
    return Cat(bits[:31] ^ bits[31].replicate(31), ~bits[31])


def greater(a, b):
    """Combinational: the FP32 bits a come after b in the order of max(a, b) of docs/numerics.md.

    About 64 LUTs (two XORs a bit) and a 32-bit carry chain; no NaN rule.
    """
    return _key(a) > _key(b)


def maximum(a, b):
    """Combinational: max(a, b) of docs/numerics.md, the bits unchanged. ``greater`` and 32 more LUTs."""
    return Mux(greater(a, b), a, b)
