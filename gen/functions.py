"""Table functions: their definitions in float64, from IEEE 754 operations alone (no libm, no BLAS), so that a table's
integers are the same on every machine.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .function_fit import fit

__all__ = ["Definition", "DEFINITIONS", "function_tables", "with_error"]


def _exp(x):
    """e^x in float64 for |x| < 700, to about one unit in the last place."""
    n = np.rint(x * 1.4426950408889634)
    r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10  # ln 2 in two parts, n * first is exact
    term = np.ones_like(r)
    for i in range(14, 0, -1):
        term = 1.0 + r * term / i
    return np.ldexp(term, n.astype(np.int32))


def _expm1(x):
    """e^x - 1 in float64, without cancellation about zero."""
    small = np.abs(x) < 0.5
    r = np.where(small, x, 0.0)
    term = np.ones_like(r)
    for i in range(16, 1, -1):
        term = 1.0 + r * term / i
    return np.where(small, r * term, _exp(x) - 1.0)


def _erfc(z):
    """Complementary error function in float64 for |z| < 26, to a few units in the last place of the larger of erfc
    and 2^-8.

    erf by the series of positive terms below 2, erfc by its continued fraction above (Abramowitz and Stegun 7.1.6,
    7.1.14).
    """
    a = np.abs(z)
    bell = _exp(-a * a) / 1.7724538509055160273  # square root of pi
    near = np.minimum(a, 2.0)
    term = np.ones_like(a)
    for n in range(60, 0, -1):
        term = 1.0 + near * near * term / (n + 0.5)
    far = np.maximum(a, 2.0)
    fraction = far
    for n in range(80, 0, -1):
        fraction = far + 0.5 * n / fraction
    upper = np.where(a < 2.0, 1.0 - 2.0 * near * bell * term, bell / fraction)
    return np.where(z < 0, 2.0 - upper, upper)


def _sigmoid(x):
    return 1.0 / (1.0 + _exp(-np.clip(x, -64.0, 64.0)))


def _gelu_erf(x):
    """x times the normal distribution."""
    return 0.5 * x * _erfc(np.clip(x, -32.0, 32.0) * -0.70710678118654752440)


def _gelu_tanh(x):
    """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), written with a sigmoid, which does not cancel."""
    z = np.clip(x, -32.0, 32.0)
    return x * _sigmoid(1.5957691216057307117 * (z + 0.044715 * z * z * z))


def _tanh(x):
    double = _expm1(2.0 * np.clip(x, -32.0, 32.0))
    return double / (double + 2.0)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A function in float64, and how well its table has to meet it.

    Parameters
    ----------
    text : str              the function, as documents write it
    formula : callable      float64 array to float64 array, called within ``domain`` only
    domain : (low, high)    open interval in which the formula holds; both ends must end a segment of a binade
    below, above : float    value at x <= low and at x >= high: 0, a number or infinity
    e_min : int             exponent field of the window's first binade; smaller operands count as that binade's least
                            one, operands past the window's 64 binades as its largest
    zero : float or None    value for the window's first binade (so for zero too) where it is not the formula's
    error : float           relative error asked for
    least : float           values of smaller magnitude may be as wrong as this one: FP16's numbers below 2^-14, all
                            2^-24 apart, are no more precise than 2^-14 is
    """

    name: str
    text: str
    formula: Callable
    domain: tuple[float, float] = (-np.inf, np.inf)
    below: float = 0.0
    above: float = np.inf
    e_min: int
    zero: float | None = None
    error: float
    least: float = 0.0

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

    def tolerance(self, y):
        """Greatest error allowed at the values ``y``."""
        return self.error * np.maximum(np.abs(y), self.least)


# Activation functions: 2^-13 is a quarter to a half of an FP16 ulp.
_ACTIVATION = {"e_min": 127 - 37, "error": 2**-13, "least": 2**-13}
# Those that are about linear at zero: the least operand that is not zero is 2^-36.
_LINEAR = _ACTIVATION | {"zero": 0.0}

DEFINITIONS = {d.name: d for d in (
    # FP16's last value above zero is exp(-17.33); 88.7, where FP32 overflows, would double the table, and so would an
    # error below 2^-13.3.
    Definition(name="exp", text="e^x", formula=_exp, domain=(-17.5, 16.0), e_min=131 - 63, error=0.84 * 2**-13),
    Definition(name="silu", text="x / (1 + e^-x)", formula=lambda x: x * _sigmoid(x),
               domain=(-21.0, 2.0**26), **_LINEAR),
    # Zero, and a negative operand (rounding noise of a sum of squares), give the window's largest value, 2^14.
    Definition(name="rsqrt", text="1 / sqrt(x)", formula=lambda x: 1.0 / np.sqrt(x),
               domain=(2.0**-28, np.inf), below=2.0**14, e_min=127 - 28, error=0.7 * 2**-15),
    # Zero gives 2^32 with its sign, infinity 2^-32.
    Definition(name="recip", text="1 / x", formula=lambda x: 1.0 / x, e_min=127 - 32, error=0.8 * 2**-15),
    Definition(name="gelu_erf", text="x/2 (1 + erf(x / sqrt(2)))", formula=_gelu_erf,
               domain=(-5.75, 2.0**26), **_LINEAR),
    Definition(name="gelu_tanh", text="x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))", formula=_gelu_tanh,
               domain=(-5.375, 2.0**26), **_LINEAR),
    Definition(name="quick_gelu", text="x / (1 + e^(-1.702 x))", formula=lambda x: x * _sigmoid(1.702 * x),
               domain=(-12.0, 2.0**26), **_LINEAR),
    Definition(name="sigmoid", text="1 / (1 + e^-x)", formula=_sigmoid, domain=(-18.0, np.inf), **_ACTIVATION),
    Definition(name="tanh", text="(e^x - e^-x) / (e^x + e^-x)", formula=_tanh, **_LINEAR),
)}

_REQUEST = re.compile(
    r"(?P<ulps>\d{1,3}) ?ulps?|2\^-(?P<power>\d{1,3}(?:\.\d+)?)|(?P<number>(?:\d+\.?\d*|\.\d+)(?:e-?\d{1,3})?)")


def with_error(definition, text):
    """The definition with another error: "1ulp" or "2ulp" (results rounded to FP16 are at most so many FP16 numbers
    from the exact one), or a relative error as "2^-14" or "1e-4".

    Raises ValueError for any other text, and for an error that is not between 2^-30 and 1/8.
    """
    match = _REQUEST.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"error {text!r}: must be like 1ulp, 2^-14 or 1e-4")
    if match["ulps"]:
        # A little less, as the floors in the hardware's integers come on top of what the fitter sees.
        error, least = int(match["ulps"]) * 0.96 * 2**-11, 2**-13
    else:
        error = 2.0**-float(match["power"]) if match["power"] else float(match["number"])
        least = definition.least
    if not 2**-30 <= error <= 0.125:
        raise ValueError(f"error {text!r}: must be between 2^-30 and 1/8, or from 1ulp to 266ulp")
    return replace(definition, error=error, least=least)


def function_tables(names):
    """Tables of the named functions, in this order."""
    return tuple(fit(DEFINITIONS[name]) for name in names)
