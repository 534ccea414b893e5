"""The fitter: turns a function's definition into the integers of a table.

It gives identical integers on every machine: it uses IEEE 754 operations alone (no libm, no BLAS), each of which has
one correct result.
"""

from functools import cache

import numpy as np

from tilewright.hw.tables import C1_BITS, C2_BITS, K_BITS, WINDOW, FunctionTable

__all__ = ["fit"]

# Points of a segment at which the fit is judged, in units of 2^-17: both ends and a Chebyshev quadratic's three nodes.
_EVEN = np.arange(129, dtype=np.int64) * (2**17 - 1) // 128
_NODES = np.array([8780, 65536, 122292], dtype=np.int64)
_POINTS = np.concatenate([_EVEN, _NODES])
_LIMIT1, _LIMIT2 = 1 << C1_BITS - 1, 1 << C2_BITS - 1
_LARGEST = (1 << 27) - (1 << 10)   # |p0| stays below 2^27 between the points too
_SMALLEST = (1 << 25) + (1 << 12)  # and above 2^25: the hardware normalises by one place

# Rows that many binades of many functions can use: tried first, so that they stand in the table once.
_ZERO = (0, 0, 0, 0)
_INFINITE = (1 << 26, 0, 0, 127)
_COMMON = tuple((s << 26, c1 * s << 16, 0, 0) for c1 in (1, 0) for s in (1, -1))  # +-(1 + u) and +-1


@cache
def fit(definition):
    """FunctionTable of a ``gen.functions.Definition``: each binade has the fewest segments that meet its error, and
    those of an earlier binade where they meet it as well.

    Raises ValueError where 2^7 segments in a binade are not enough.
    """
    rows, blocks, descriptors = [], [], []
    for sign in (1, -1):
        for w in range(WINDOW):
            k, exponent, block = _fit_binade(definition, sign, definition.e_min + w - 127, blocks)
            if block not in blocks:
                blocks.append(block)
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


def _fit_binade(definition, sign, e, blocks):
    """(k, exponent, rows) of the binade sign * [2^e, 2^(e+1)), with the smallest k that will do."""
    for k in range(1 << K_BITS):
        fitted = _fit_segments(definition, sign, e, k, blocks)
        if fitted is not None:
            return k, *fitted
    raise ValueError(f"{definition.name}: an error of {definition.error:.3g} needs more than {1 << k} segments from "
                     f"{sign * 2.0**e} to {sign * 2.0**(e + 1)}; ask for a larger error, or choose another domain")


def _fit_segments(definition, sign, e, k, blocks):
    """(exponent, rows) for 2^k equal segments, or None where they miss the error or a range of the format."""
    start = np.arange(1 << k)[:, None] + _POINTS * 2.0**-17
    f = definition.value(sign * np.ldexp(1.0 + start * 2.0**-k, e))
    infinite, zero = np.isinf(f), f == 0
    if (infinite.any(axis=1) != infinite.all(axis=1)).any() or (zero.any(axis=1) != zero.all(axis=1)).any():
        return None
    infinite, zero = infinite[:, 0], zero[:, 0]
    if not (infinite | zero).any():
        shared = _find_block(definition, f, blocks)
        if shared is not None:
            return shared
    f = np.where((infinite | zero)[:, None], 1.0, f)

    # Scale each segment so that its largest magnitude lies in [1, 2).
    top = np.abs(f).max(axis=1)
    scale = np.frexp(top)[1] - 1
    scale += np.ldexp(top, -scale) * 2**26 > _LARGEST
    g = np.ldexp(f, (26 - scale)[:, None])
    c0, c1, c2, good = _fit_quadratics(g, np.ldexp(definition.tolerance(f), (26 - scale)[:, None]))
    if not (good | infinite | zero).all():
        return None

    finite = scale[~(infinite | zero)]
    exponent = int(finite.max()) if finite.size else 128 if infinite.any() else 0
    rows = [_INFINITE if infinite[j] else _ZERO if zero[j] else
            (int(c0[j]), int(c1[j]), int(c2[j]), int(scale[j]) - exponent) for j in range(1 << k)]
    if any(not -128 <= y <= 127 for *_, y in rows) or (infinite.any() and exponent < 1):
        return None
    return exponent, rows


def _find_block(definition, f, blocks):
    """(exponent, rows) of common rows or of an earlier binade's that meet the error for ``f`` [segments, points]."""
    tolerance = definition.tolerance(f)
    for block in [*([row] for row in _COMMON), *blocks]:
        if len(block) != len(f) or block[0][0] * f[0, 0] <= 0:
            continue
        c0, c1, c2, y = (np.array(column)[:, None] for column in zip(*block, strict=True))
        p0 = c0 + ((c1 + (c2 * _POINTS >> 17)) * _POINTS >> 7)
        for exponent in np.frexp(f[0, 0])[1] - int(y[0, 0]) + np.array([0, -1]):
            error = np.abs(np.ldexp(p0.astype(np.float64), exponent + y - 26) - f)
            if -256 <= exponent < 256 and (error <= tolerance).all():
                return int(exponent), block
    return None


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
