"""Format of a table function: the integers that define it, as docs/numerics.md states them."""

from dataclasses import dataclass

__all__ = ["FunctionTable", "WINDOW", "C0_BITS", "C1_BITS", "C2_BITS", "Y_BITS", "X_BITS", "K_BITS"]

WINDOW = 64     # binades a table distinguishes, for each sign
C0_BITS = 28
C1_BITS = 18
C2_BITS = 18
Y_BITS = 8
X_BITS = 9
K_BITS = 3


@dataclass(frozen=True, kw_only=True)
class FunctionTable:
    """A piecewise quadratic in floating point.

    ``base``, ``log2_segments`` and ``exponent`` have 2 * WINDOW entries (positive arguments first): the descriptors.
    ``c0``, ``c1``, ``c2`` and ``y`` have one entry a segment. ``e_min`` is the exponent field of window entry 0.
    """

    name: str
    e_min: int
    base: tuple[int, ...]
    log2_segments: tuple[int, ...]
    exponent: tuple[int, ...]
    c0: tuple[int, ...]
    c1: tuple[int, ...]
    c2: tuple[int, ...]
    y: tuple[int, ...]
