"""Table functions: their definitions, and the fitter that turns a definition into the integers of a table.

The fitter gives identical integers on every machine: it uses IEEE 754 operations alone (no libm, no BLAS), each of
which has one correct result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from tilewright.hw.tables import C1_BITS, C2_BITS, K_BITS, WINDOW, FunctionTable

__all__ = ["Definition", "DEFINITIONS", "fit", "function_tables"]


def _exp(x):
    """e^x in float64 for |x| < 700, to about one unit in the last place."""
    n = np.rint(x * 1.4426950408889634)
    r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10  # ln 2 in two parts, n * first is exact
    term = np.ones_like(r)
    for i in range(14, 0, -1):
        term = 1.0 + r * term / i
    return np.ldexp(term, n.astype(np.int32))


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A function in float64, and how well its table has to meet it.

    Parameters
    ----------
    formula : callable      float64 array to float64 array, called within ``domain`` only
    domain : (low, high)    open interval in which the formula holds; both ends must end a segment of a binade
    below, above : float    value at x <= low and at x >= high: 0, a number or infinity
    e_min : int             exponent field of the window's first binade; smaller operands count as that binade's least
                            one, operands past the window's 64 binades as its largest
    zero : float or None    value for the window's first binade (so for zero too) where it is not the formula's
    error : float           relative error asked for
    floor : float           absolute error that is always good enough
    """

    name: str
    formula: Callable
    domain: tuple[float, float] = (-np.inf, np.inf)
    below: float = 0.0
    above: float = np.inf
    e_min: int
    zero: float | None = None
    error: float
    floor: float = 0.0

    def value(self, x):
        """The function at ``x`` (float64 array), ends of the domain and smallest operands included."""
        x = np.asarray(x, dtype=np.float64)
        low, high = self.domain
        inside = (x > low) & (x < high)
        small = np.abs(x) < np.ldexp(1.0, self.e_min + 1 - 127)
        if self.zero is not None:
            inside &= ~small
        harmless = np.where(inside, x, 1.0)
        y = np.where(x <= low, self.below, np.where(inside, self.formula(harmless), self.above))
        return y if self.zero is None else np.where(small, self.zero, y)


DEFINITIONS = {d.name: d for d in (
    # FP16's last value above zero is exp(-17.33); 88.7, where FP32 overflows, would double the table.
    Definition(name="exp", formula=_exp, domain=(-17.375, 16.0), e_min=131 - 63, error=0.9 * 2**-15),
    Definition(name="silu", formula=lambda x: x / (1.0 + _exp(-np.clip(x, -64, 64))), domain=(-21.0, 2.0**26),
               e_min=127 - 37, zero=0.0, error=2**-14, floor=2**-26),
    # Zero, and a negative operand (rounding noise of a sum of squares), give the window's largest value, 2^14.
    Definition(name="rsqrt", formula=lambda x: 1.0 / np.sqrt(x), domain=(2.0**-28, np.inf), below=2.0**14,
               e_min=127 - 28, error=0.7 * 2**-15),
    # Zero gives 2^32 with its sign, infinity 2^-32.
    Definition(name="recip", formula=lambda x: 1.0 / x, e_min=127 - 32, error=0.8 * 2**-15),
)}


def function_tables(names):
    """Tables of the named functions, in this order."""
    return tuple(fit(DEFINITIONS[name]) for name in names)


@cache
def fit(definition):
    """FunctionTable of a definition: each binade has the fewest segments that meet the error; equal ones are shared.

    Raises ValueError where 2^7 segments in a binade are not enough.
    """
    rows, descriptors = [], []
    for sign in (1, -1):
        for w in range(WINDOW):
            k, exponent, block = _fit_binade(definition, sign, definition.e_min + w - 127)
            descriptors.append((_place(rows, block), k, exponent))
    base, log2_segments, exponent = zip(*descriptors, strict=True)
    c0, c1, c2, y = zip(*rows, strict=True)
    return FunctionTable(name=definition.name, e_min=definition.e_min, base=base, log2_segments=log2_segments,
                         exponent=exponent, c0=c0, c1=c1, c2=c2, y=y)


def _place(rows, block):
    """Index at which ``block`` stands in ``rows``, appended if it is not there yet."""
    for i in range(len(rows) - len(block) + 1):
        if rows[i:i + len(block)] == block:
            return i
    rows.extend(block)
    return len(rows) - len(block)


# Points of a segment at which the fit is judged, in units of 2^-17: both ends and a Chebyshev quadratic's three nodes.
_EVEN = np.arange(129, dtype=np.int64) * (2**17 - 1) // 128
_NODES = np.array([8780, 65536, 122292], dtype=np.int64)
_POINTS = np.concatenate([_EVEN, _NODES])
_LIMIT1, _LIMIT2 = 1 << C1_BITS - 1, 1 << C2_BITS - 1
_LARGEST = (1 << 27) - (1 << 10)   # |p0| stays below 2^27 between the points too
_SMALLEST = (1 << 25) + (1 << 12)  # and above 2^25: the hardware normalises by one place
_INFINITE = (1 << 26, 0, 0, 127)
_ZERO = (0, 0, 0, 0)


def _fit_binade(definition, sign, e):
    """(k, exponent, rows) of the binade sign * [2^e, 2^(e+1)), with the smallest k that will do."""
    for k in range(1 << K_BITS):
        fitted = _fit_segments(definition, sign, e, k)
        if fitted is not None:
            return k, *fitted
    raise ValueError(f"{definition.name}: an error of {definition.error:.3g} needs more than {1 << k} segments from "
                     f"{sign * 2.0**e} to {sign * 2.0**(e + 1)}; ask for less, or choose another domain")


def _fit_segments(definition, sign, e, k):
    """(exponent, rows) for 2^k equal segments, or None where they miss the error or a range of the format."""
    start = np.arange(1 << k)[:, None] + _POINTS * 2.0**-17
    f = definition.value(sign * np.ldexp(1.0 + start * 2.0**-k, e))
    infinite, zero = np.isinf(f), f == 0
    if (infinite.any(axis=1) != infinite.all(axis=1)).any() or (zero.any(axis=1) != zero.all(axis=1)).any():
        return None
    infinite, zero = infinite[:, 0], zero[:, 0]
    f = np.where((infinite | zero)[:, None], 1.0, f)

    # Scale each segment so that its largest magnitude lies in [1, 2).
    top = np.abs(f).max(axis=1)
    scale = np.frexp(top)[1] - 1
    scale += np.ldexp(top, -scale) * 2**26 > _LARGEST
    g = np.ldexp(f, (26 - scale)[:, None])
    tolerance = np.maximum(definition.error * np.abs(g), np.ldexp(definition.floor, 26 - scale)[:, None])
    c0, c1, c2, good = _fit_quadratics(g, tolerance)
    if not (good | infinite | zero).all():
        return None

    finite = scale[~(infinite | zero)]
    exponent = int(finite.max()) if finite.size else 128 if infinite.any() else 0
    rows = [_INFINITE if infinite[j] else _ZERO if zero[j] else
            (int(c0[j]), int(c1[j]), int(c2[j]), int(scale[j]) - exponent) for j in range(1 << k)]
    if any(not -128 <= y <= 127 for *_, y in rows) or (infinite.any() and exponent < 1):
        return None
    return exponent, rows


def _fit_quadratics(g, tolerance):
    """c0, c1, c2 for each row of ``g`` [segments, points] (26 fraction bits), and whether they meet the tolerance.

    c2 and c1 are those of the quadratic through the Chebyshev nodes, rounded; of their neighbours, judged in the
    hardware's own integers, the best is taken. c0 then centres the error that is left.
    """
    low, middle, high = (g[:, i] for i in range(len(_EVEN), len(_POINTS)))
    u_low, _, u_high = _NODES * 2.0**-17
    curve = (low - 2.0 * middle + high) / (2.0 * (u_high - 0.5) * (u_high - 0.5)) * 2.0**-10
    slope = (high - low) / (u_high - u_low) * 2.0**-10
    c2 = np.rint(curve).astype(np.int64) + np.array([0, -1, 1])[:, None, None]
    c1 = np.rint(slope).astype(np.int64) - c2 + np.array([0, 1, -1, 2])[:, None]
    c2 = np.broadcast_to(c2, c1.shape)
    c1, c2 = (c.reshape(-1, len(g), 1) for c in (c1, c2))

    p1 = c1 + (c2 * _POINTS >> 17)
    tail = p1 * _POINTS >> 7
    left = g - tail
    most, least = left.max(axis=2), left.min(axis=2)
    best = np.argmin(most - least, axis=0)
    each = np.arange(len(g))
    c0 = np.rint((most + least) / 2)[best, each].astype(np.int64)
    c1, c2 = c1[best, each, 0], c2[best, each, 0]

    p1, p0 = p1[best, each], c0[:, None] + tail[best, each]
    good = ((np.abs(p0 - g) <= tolerance).all(axis=1) & (np.abs(p0) <= _LARGEST).all(axis=1)
            & (p0 * np.sign(g) >= _SMALLEST).all(axis=1) & (np.abs(p1) < _LIMIT1).all(axis=1)
            & (np.abs(c1) < _LIMIT1) & (np.abs(c2) < _LIMIT2))
    return c0, c1, c2, good
