"""How far the accelerator's arithmetic moves a model's predictions, against the same model in floating point."""

from dataclasses import asdict, dataclass

import numpy as np

from tilewright.sim.golden import model as golden
from tilewright.sim.golden import reference, vector

__all__ = ["Evaluation", "evaluate"]

CHUNK = 128
"""Tokens that go through the models together; the outcome does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of a text, golden model against float64.

    tokens : int                   positions whose predictions were compared
    agreeing : int                 of them, where both hold the same token for the most probable
    kl : float                     mean Kullback-Leibler divergence from reference to golden model, in nats
    kl_largest : float             the largest of a position
    cosine, cosine_least : float   of the logits of a position: mean, least
    perplexity, reference_perplexity : float or None   of the text's tokens but the first; None: there is no other
    """

    tokens: int
    agreeing: int
    kl: float
    kl_largest: float
    cosine: float
    cosine_least: float
    perplexity: float | None
    reference_perplexity: float | None

    @property
    def agreement(self):
        return self.agreeing / self.tokens

    def as_json(self):
        return asdict(self) | {"agreement": self.agreement}


def evaluate(model, exact, tokens, tables, *, kv_format, progress=lambda done: None):
    """``Evaluation`` of a text's tokens, taken as one sequence from position 0.

    Parameters
    ----------
    model : golden.TransformerModel    causal, with lm_head, in the accelerator's formats
    exact : golden.TransformerModel    the same with float arrays: what the reference computes with
    tokens : int [n]
    tables : mapping of the functions' names to golden Tables
    kv_format : str                    'int8' or 'fp16'
    progress : function                told how many tokens are done
    """
    tokens = np.asarray(tokens)
    caches = model.empty_caches(len(tokens), kv_format)
    exact_caches = [reference.ReferenceCache(shape) for shape in exact.shapes]
    agree, kl, cosine, right = [], [], [], []
    for first in range(0, len(tokens), CHUNK):
        chunk = tokens[first:first + CHUNK]
        got = golden.logits(model, golden.final_states(model, caches, chunk, first, tables))
        expected = reference.logits(exact, reference.states(exact, exact_caches, chunk)[-1])
        agree.append(vector.argmax_rows(got)[0] == expected.argmax(axis=1))
        following = tokens[first + 1:first + 1 + len(chunk)]
        cosine.append(_cosine(got, expected))
        got, expected = (_log_softmax(rows) for rows in (got, expected))
        kl.append((np.exp(expected) * (expected - got)).sum(axis=1))
        right.append([rows[np.arange(len(following)), following] for rows in (got, expected)])
        progress(first + len(chunk))
    agree, kl, cosine, right = (np.concatenate(parts, axis=-1) for parts in (agree, kl, cosine, right))
    perplexity = np.exp(-right.mean(axis=1)).tolist() if right.size else (None, None)
    return Evaluation(tokens=len(tokens), agreeing=int(agree.sum()), kl=float(kl.mean()), kl_largest=float(kl.max()),
                      cosine=float(cosine.mean()), cosine_least=float(cosine.min()),
                      perplexity=perplexity[0], reference_perplexity=perplexity[1])


def _log_softmax(rows):
    rows = np.asarray(rows, np.float64)
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def _cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
