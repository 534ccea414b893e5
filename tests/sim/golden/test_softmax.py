"""Softmax in the accelerator's arithmetic against float64, over random and adversarial rows."""

import numpy as np
import pytest

from tilewright.gen.softmax_report import LENGTHS, score_rows, softmax
from tilewright.sim.golden import fp32

SEED = 31


def exact(scores):
    """Softmax of each row in float64, small terms summed first."""
    e = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True).astype(np.float64))
    return e / np.sort(e, axis=1).sum(axis=1, keepdims=True)


def errors(scores, scale=1.0):
    """Largest errors of a probability and of a row's sum."""
    p = softmax(scores, scale).astype(np.float64)
    assert np.isfinite(p).all() and (p >= 0).all()
    return np.abs(p - exact(fp32.mul(scores, np.float32(scale)))).max(), np.abs(p.sum(axis=1) - 1).max()


def check(scores, scale=1.0):
    probability, total = errors(scores, scale)
    assert probability <= 2**-11 and total <= 2**-10


@pytest.mark.parametrize("n", LENGTHS)
def test_random_and_adversarial_rows(n):
    scores = score_rows(n, SEED)
    assert scores.shape[1] == n and scores.dtype == np.float32
    check(scores)


@pytest.mark.parametrize("n", [7, 129, 2048])
@pytest.mark.parametrize("head_dim", [8, 64, 80, 256])
def test_with_the_scale_of_a_head(n, head_dim):
    rng = np.random.default_rng([SEED, n, head_dim])
    q, k = rng.standard_normal((16, head_dim)), rng.standard_normal((n, head_dim))
    check((q @ k.T).astype(np.float32), 1 / np.sqrt(head_dim))


def test_every_length():
    rng = np.random.default_rng(SEED)
    for n in range(1, 2049, 61):
        check((rng.choice([0.5, 3, 12], (4, 1)) * rng.standard_normal((4, n))).astype(np.float32))


def test_rows_that_are_known():
    n = 2048
    equal = np.full((1, n), -3.7, np.float32)
    assert np.abs(softmax(equal) * n - 1).max() < 2**-14
    one = np.where(np.arange(n) == 1999, 20, 0)[None].astype(np.float32)
    p = softmax(one)
    assert abs(p[0, 1999] - 1) < 2**-14 and (np.delete(p, 1999) == 0).all()


def test_a_sum_that_leaves_terms_out_is_noticed():
    scores = score_rows(2048, SEED)
    p = softmax(scores)[:, :-8].astype(np.float64)
    assert np.abs(p.sum(axis=1) - 1).max() > 2**-10
