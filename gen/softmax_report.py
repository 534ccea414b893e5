"""Error of softmax in the accelerator's arithmetic, over random and adversarial rows."""

from dataclasses import dataclass

import numpy as np

from tilewright.sim.golden import fp32, functions, vector

from .functions import function_tables

__all__ = ["SoftmaxError", "score_rows", "softmax", "measure_softmax"]

SEED = 2048
LENGTHS = (1, 2, 3, 31, 32, 33, 100, 576, 1023, 1024, 2047, 2048)


@dataclass(frozen=True, kw_only=True)
class SoftmaxError:
    """``rows``: how many were measured. ``worst_probability``, ``worst_sum``: largest errors against float64."""

    rows: int
    worst_probability: float
    worst_sum: float


def score_rows(n, seed=SEED):
    """Rows [rows, n] of FP32 scores, already multiplied by the attention's scale."""
    rng = np.random.default_rng([seed, n])
    ramp = np.arange(n) / max(n - 1, 1)
    equal, one = np.ones(n), np.eye(1, n, n // 2)[0]
    rows = [
        *(spread * rng.standard_normal(n) for spread in (0.01, 0.3, 1, 1, 1, 2, 4, 10, 100, 1e4)),
        *(rng.uniform(-spread, spread, n) for spread in (1, 8, 17.5, 65504)),
        *(value * equal for value in (0, 1, -7.3, 65504, -3e38)),
        *(height * one for height in (1, 5, 7.62, 17.3, 17.5, 17.6, 88, 65504, 3e38)),  # 7.62: as much as 2,047 others
        12 * np.eye(1, n)[0] + 12 * np.eye(1, n, n - 1)[0],
        *(-length * ramp for length in (1e-3, 0.1, 1, 8, 16, 17.5, 40, 1e6)),
        -0.25 * np.arange(n), -rng.exponential(3, n), np.where(rng.random(n) < 0.5, 0, -17.49),
        # e just above where segments of exp begin, where the error is largest
        -(2.0**rng.integers(-8, 5, n)) * (1 + rng.integers(0, 64, n) / 64),
    ]
    return np.array(rows).astype(np.float32)


def softmax(scores, scale=1.0):
    """Probabilities of rows of FP32 scores in the order of operations of ``sim.golden.layer.attention``."""
    exp, recip = (functions.table_from(table) for table in function_tables(("exp", "recip")))
    scaled, _ = vector.apply(scores, b=scale)
    e, _ = vector.apply(scores, b=scale, c=vector.max_rows(scaled)[:, None], c_negate=True, table=exp)
    r, _ = vector.apply(vector.sum_rows(e)[:, None], table=recip)
    return fp32.mul(e, r)


def measure_softmax():
    """SoftmaxError over ``score_rows`` of every length in ``LENGTHS``."""
    rows, worst_probability, worst_sum = 0, 0.0, 0.0
    for n in LENGTHS:
        scores = score_rows(n)
        p = softmax(scores).astype(np.float64)
        s = scores.astype(np.float64)
        e = np.exp(s - s.max(axis=1, keepdims=True))
        worst_probability = max(worst_probability, np.abs(p - e / e.sum(axis=1, keepdims=True)).max())
        worst_sum = max(worst_sum, np.abs(p.sum(axis=1) - 1).max())
        rows += len(scores)
    return SoftmaxError(rows=rows, worst_probability=float(worst_probability), worst_sum=float(worst_sum))
