"""Attention over the KV cache: scores, softmax and weighted sum, pipelined over heads."""

from dataclasses import dataclass

import numpy as np

from tilewright.hw.commands import Dest, Operand, Reduce
from tilewright.hw.config import BLOCK

from .assembler import Dynamic
from .builder import CACHE, fp32
from .plan import ceil_to

__all__ = ["plan_streams", "attention"]


@dataclass(frozen=True)
class _Unit:
    """What one MATMUL over K (and one over V) covers: a KV group's query heads of a token, or a head of all tokens."""

    index: int
    kv_head: int
    head: int       # first query head
    heads: int
    q: int          # scratchpad group of row 0 of q, later of o
    stride: int     # groups from row to row
    rows: object    # int or Dynamic
    pieces: tuple   # (first row, rows) of each row group of the array


def attention(b):
    """Softmax(q K) V of all heads, quantised for o_proj.

    The array works ``plan.ahead`` units ahead with scores, so that softmax runs under later matmuls. A
    step's vector work is issued behind the next step's MATMUL, unless that one needs its result or its place.
    """
    units = _units(b)
    ahead, waiting = b.plan.ahead, None
    eager = b.plan.score_slots == 1 or b.plan.scale_slots < min(2, b.shape.kv_heads)
    for step in range(len(units) + ahead):
        steps = []
        if step < len(units):
            steps.append((_scores, _softmax, units[step], eager))
        if step >= ahead:
            steps.append((_weighted_sum, _normalise, units[step - ahead], not ahead))
        for matmul, follow, unit, flush in steps:
            if flush and waiting:
                waiting()
                waiting = None
            matmul(b, unit)
            b.streams.pump()
            if waiting:
                waiting()
            waiting = lambda follow=follow, unit=unit: follow(b, unit)  # noqa: E731
    waiting()
    if b.shape.head_dim % BLOCK:
        b.vector(b.shape.heads * b.shape.head_dim, b.tokens, a=b.plan.scratch["q"], a_stride=b.shape.heads * b.head,
                 dest=Dest.ACTIVATION, target=b.plan.activation["o"])


def plan_streams(b):
    """Plan the STREAMs over K and V in the order in which ``attention`` takes them."""
    units, kv, ahead = _units(b), b.place.kv, b.plan.ahead
    for step in range(len(units) + ahead):
        if step < len(units):
            b.streams.plan(reads=["k"], region=CACHE, scaled=1, offset=units[step].kv_head * kv.k_head_bytes,
                           k=kv.head_dim, tiles=b.k_tiles, tile_stride=kv.k_tile_bytes)
        if step >= ahead:
            unit = units[step - ahead]
            for _ in _passes(b, unit):
                b.streams.plan(reads=["v"], region=CACHE, offset=kv.v_offset + unit.kv_head * kv.v_head_bytes,
                               k=b.context, tiles=kv.v_tiles, tile_stride=kv.v_tile_bytes)


def _units(b):
    base, size = b.plan.scratch["q"], b.config.rows
    if not b.decode:
        return [_Unit(h, h // b.group, h, 1, base + h * b.head, b.shape.heads * b.head, b.tokens, ((0, b.tokens),))
                for h in range(b.shape.heads)]
    pieces = tuple((first, min(size, b.group - first)) for first in range(0, b.group, size))
    return [_Unit(g, g, g * b.group, b.group, base + g * b.group * b.head, b.head, b.group, pieces)
            for g in range(b.shape.kv_heads)]


def _passes(b, unit):
    """Row groups that share a pass over V: all, if the prefetch buffer can replay a tile, else one at a time."""
    if len(unit.pieces) == 1 or b.place.kv.context <= b.config.prefetch_beats:
        return [(0, unit.rows)]
    return unit.pieces


def _query(b, unit):
    """Reduction index of a unit's queries; two units' at a time."""
    return b.plan.activation["q"] + unit.index % 2 * len(unit.pieces) * ceil_to(b.shape.head_dim, BLOCK)


def _probabilities(b, unit):
    slot = unit.index % b.plan.probability_slots
    return b.plan.activation["probabilities"] + slot * len(unit.pieces) * ceil_to(b.place.kv.context, BLOCK)


def _row_slots(b):
    """Rows of a unit, at most."""
    return b.group if b.decode else b.plan.tokens


def _score_place(b, unit):
    return b.plan.scratch["scores"] + unit.index % b.plan.score_slots * _row_slots(b) * b.context_groups


def _weight_place(b, unit):
    return b.plan.scratch["weight"] + unit.index % (b.plan.ahead + 1) * _row_slots(b)


def _scale_groups(b, unit):
    return unit.kv_head % b.plan.scale_slots * b.context_groups


def _scores(b, unit):
    """Rotated and quantised queries, then their products with K."""
    if unit.head >= b.heads_rotated:
        b.rotate("q", unit.head, unit.heads, b.shape.heads)
    kv, span = b.place.kv, ceil_to(b.shape.head_dim, BLOCK)
    for piece, (first, rows) in enumerate(unit.pieces):
        b.vector(b.shape.head_dim, rows, a=unit.q + first * unit.stride, a_stride=unit.stride, dest=Dest.ACTIVATION,
                 target=_query(b, unit) + piece * span)
    if unit.head % b.group == 0:
        b.load("scales", CACHE, kv.scale_offset + unit.kv_head * kv.scale_head_bytes, count=b.scale_bytes,
               behind=_scale_groups(b, unit), reads=["v_scale"])
    b.streams.matmul(scaled=1, k=b.shape.head_dim, n=b.context, rows=unit.rows, activation=_query(b, unit),
                     group_stride=span, dest=_score_place(b, unit), dest_stride=b.context_groups)


def _softmax(b, unit):
    """Unnormalised probabilities times V scales to the activation buffer, and the reciprocal of their sum."""
    at = b.plan.scratch
    scaled = {"b_kind": Operand.IMMEDIATE, "b_immediate": fp32(1 / np.sqrt(b.shape.head_dim))}
    mask = {} if b.decode else {"valid": Dynamic(b.position, b.place.kv.context, 1), "valid_step": 1}
    scores, span = _score_place(b, unit), ceil_to(b.place.kv.context, BLOCK)
    b.vector(b.context, unit.rows, a=scores, a_stride=b.context_groups, reduce=Reduce.MAX, result=at["maximum"],
             result_stride=1, **scaled, **mask)
    for piece, (first, rows) in enumerate(unit.pieces):
        b.vector(b.context, rows, a=scores + first * b.context_groups, a_stride=b.context_groups, **scaled, **mask,
                 c_kind=Operand.ROW, c=at["maximum"] + first, c_stride=1, c_negate=1, function=b.function("exp"),
                 d_kind=Operand.STREAM, d=at["scales"] + _scale_groups(b, unit), reduce=Reduce.SUM,
                 result=at["total"] + first, result_stride=1, dest=Dest.ACTIVATION,
                 target=_probabilities(b, unit) + piece * span)
    b.vector(1, unit.rows, a=at["total"], a_stride=1, function=b.function("recip"), dest=Dest.FP32,
             target=_weight_place(b, unit), target_stride=1)


def _weighted_sum(b, unit):
    """Products of the probabilities with V, in the place of the queries."""
    span = ceil_to(b.place.kv.context, BLOCK)
    for first, rows in _passes(b, unit):
        b.streams.matmul(k=b.context, n=b.shape.head_dim, rows=rows, group_stride=span,
                         activation=_probabilities(b, unit) + first // b.config.rows * span,
                         dest=unit.q + first * unit.stride, dest_stride=unit.stride)


def _normalise(b, unit):
    """Output of the heads times the reciprocal; straight to o_proj's activations where heads are whole blocks."""
    weight = {"b_kind": Operand.ROW, "b": _weight_place(b, unit), "b_stride": 1}
    if b.shape.head_dim % BLOCK:
        b.vector(b.shape.head_dim, unit.rows, a=unit.q, a_stride=unit.stride, **weight, dest=Dest.FP32, target=unit.q,
                 target_stride=unit.stride)
        return
    target = b.plan.activation["o"] + unit.head * b.shape.head_dim
    if not b.decode:
        b.vector(b.shape.head_dim, unit.rows, a=unit.q, a_stride=unit.stride, **weight, dest=Dest.ACTIVATION,
                 target=target)
        return
    for head in range(unit.heads):
        b.vector(b.shape.head_dim, 1, a=unit.q + head * unit.stride, **weight | {"b": weight["b"] + head},
                 dest=Dest.ACTIVATION, target=target + head * b.shape.head_dim)
