"""Attention over the KV cache: scores, softmax and weighted sum, pipelined over heads."""

from dataclasses import dataclass

import numpy as np

from tilewright.hw.commands import Dest, Operand, Reduce
from tilewright.hw.config import BLOCK

from .assembler import Dynamic
from .builder import CACHE, fp32
from .plan import ceil_to

__all__ = ["plan_projections", "plan_streams", "first_queries", "attention"]

PIECES = 4
"""Pieces of q_proj whose results are taken up while the next one is computed, in decode."""
HEADS_AHEAD = 2
"""Heads that q_proj is ahead of the scores in prefill."""


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
    row_groups: int    # of the array, at most


def plan_projections(b):
    """Plan the STREAMs of k_proj and v_proj and of the first queries."""
    kv_tiles = b.weights.tiles(b.shape.kv_heads * b.shape.head_dim)
    b.plan_weights("projections", b.shape.hidden, 2 * kv_tiles, matmuls=2)
    _plan_queries(b, -1)


def _plan_queries(b, step):
    """The q_proj matrix lies behind k_proj and v_proj."""
    pieces = _query_pieces(b, step)
    if pieces:
        skipped = 2 * b.weights.tiles(b.shape.kv_heads * b.shape.head_dim) + pieces[0][0] // b.weights.outputs
        b.plan_weights("projections", b.shape.hidden, sum(b.weights.tiles(count) for _, count in pieces),
                       matmuls=len(pieces), skipped=skipped)


def first_queries(b):
    """Compute q before attention begins: in decode all heads, in prefill the first ones."""
    _project_queries(b, -1)


def _query_pieces(b, step):
    """Pieces (first output, outputs) of q_proj that are computed in a step of attention, -1 before the first one.

    In prefill q_proj runs a few heads ahead of the softmax, which would otherwise have nothing of the array's to hide
    under.
    """
    width, head = b.shape.heads * b.shape.head_dim, b.shape.head_dim
    if b.decode:
        return b.pieces(width, width // PIECES) if step < 0 else []
    first, behind = (0 if step < 0 else step + HEADS_AHEAD), step + 1 + HEADS_AHEAD
    return [piece for piece in b.pieces(width, head) if first * head <= piece[0] < behind * head]


def _project_queries(b, step):
    for first, count in _query_pieces(b, step):
        b.project(b.shape.hidden, count, activation="h", dest=b.plan.scratch["q"] + first // b.config.group_words,
                  dest_stride=b.shape.heads * b.head)


def attention(b):
    """Softmax(q K) V of all heads: o in the place of q, and for o_proj in the activation buffer.

    The array works ``plan.ahead`` units ahead with scores, so that softmax runs under later matmuls. A
    step's vector work is issued behind the next step's MATMUL, unless that one needs its result or its place.
    """
    units = _units(b)
    ahead, waiting = b.plan.ahead, None
    eager = b.plan.score_slots == 1 or (b.kv.scaled and b.plan.scale_slots < min(2, b.shape.kv_heads))
    for step in range(len(units) + ahead):
        steps = []
        _project_queries(b, step)
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
    if not _straight_to_projection(b):
        _whole_rows(b)


def _straight_to_projection(b):
    """Whether a head's output can go to o_proj's activations as it comes."""
    return b.shape.head_dim % BLOCK == 0 and not b.shape.sub_norm


def _whole_rows(b):
    """Concatenated heads to o_proj's activations, normalised where the layer does that."""
    width = b.shape.heads * b.shape.head_dim
    if b.shape.sub_norm:
        b.norm("attn_sub_norm", "q", width, **b.operand("o", width))
    else:
        b.vector(width, b.tokens, a=b.plan.scratch["q"], a_stride=b.shape.heads * b.head, **b.operand("o", width))


def plan_streams(b):
    """Plan the STREAMs over K and V in the order in which ``attention`` takes them."""
    units, kv, ahead = _units(b), b.place.kv, b.plan.ahead
    for step in range(len(units) + ahead):
        _plan_queries(b, step)
        if step < len(units):
            b.streams.plan(reads=[b.cached("k")], region=CACHE, **b.kv.stream, k=kv.head_dim,
                           offset=b.place.cache + units[step].kv_head * kv.k_head_bytes,
                           tiles=b.k_tiles, tile_stride=kv.k_tile_bytes)
        if step >= ahead:
            unit = units[step - ahead]
            for _ in _passes(b, unit):
                b.streams.plan(reads=[b.cached("v")], region=CACHE, **b.kv.unscaled_stream, k=b.used,
                               offset=b.place.cache + kv.v_offset + unit.kv_head * kv.v_head_bytes,
                               tiles=kv.v_tiles, tile_stride=kv.v_tile_bytes)


def _units(b):
    base = b.plan.scratch["q"]
    if not b.decode:
        return [_Unit(h, h // b.group, h, 1, base + h * b.head, b.shape.heads * b.head, b.tokens,
                      b.kv.groups(b.plan.tokens)) for h in range(b.shape.heads)]
    return [_Unit(g, g, g * b.group, b.group, base + g * b.group * b.head, b.head, b.group, b.kv.groups(b.group))
            for g in range(b.shape.kv_heads)]


def _passes(b, unit):
    """(first row, rows) of each pass over V: all of them, if the prefetch buffer can replay a tile, else a row group at
    a time. A prefill run that would need several passes has no more tokens than the array has rows."""
    if unit.row_groups == 1 or b.place.kv.slots <= b.config.prefetch_beats:
        return [(0, unit.rows)]
    return [(first, min(b.kv.rows, unit.rows - first)) for first in range(0, unit.rows, b.kv.rows)]


def _query(b, unit):
    """Reduction index of a unit's queries; two units' at a time."""
    return b.plan.activation["q"] + unit.index % 2 * unit.row_groups * ceil_to(b.shape.head_dim, BLOCK)


def _probabilities(b, unit):
    slot = unit.index % b.plan.probability_slots
    return b.plan.activation["probabilities"] + slot * unit.row_groups * ceil_to(b.place.kv.slots, BLOCK)


def _row_slots(b):
    """Rows of a unit, at most."""
    return b.group if b.decode else b.plan.tokens


def _score_place(b, unit):
    return b.plan.scratch["scores"] + unit.index % b.plan.score_slots * _row_slots(b) * b.slot_groups


def _weight_place(b, unit):
    return b.plan.scratch["weight"] + unit.index % (b.plan.ahead + 1) * _row_slots(b)


def _scale_groups(b, unit):
    return unit.kv_head % b.plan.scale_slots * b.slot_groups


def _scores(b, unit):
    """Finished and rounded queries, then their products with K."""
    kv, span = b.place.kv, ceil_to(b.shape.head_dim, BLOCK)
    b.finish_heads("q", unit.head, unit.heads, b.shape.heads,
                   {**b.kv.activation, "target": _query(b, unit), "group_stride": span})
    if b.kv.scaled and unit.head % b.group == 0:
        b.load("scales", CACHE, b.place.cache + kv.scale_offset + unit.kv_head * kv.scale_head_bytes,
               count=b.scale_bytes, behind=_scale_groups(b, unit), reads=[b.cached("v_scale")])
    b.streams.matmul(k=b.shape.head_dim, n=b.used, rows=unit.rows, activation=_query(b, unit),
                     group_stride=span, dest=_score_place(b, unit), dest_stride=b.slot_groups)


def _mask(b):
    """Fields of a VECTOR over scores that leave out what a row's token does not see."""
    slots, step = b.place.kv.slots, int(not b.decode)
    if b.place.kv.ring:
        return {"valid": Dynamic(b.slot, slots, 1), "first": Dynamic(b.first), "ring": slots, "valid_step": step}
    if b.decode or not b.shape.causal:
        return {}
    return {"valid": Dynamic(b.position, slots, 1), "valid_step": 1}


def _softmax(b, unit):
    """Unnormalised probabilities, with V's scales in INT8, to the activation buffer; the reciprocal of their sum."""
    at, scores = b.plan.scratch, _score_place(b, unit)
    fields = {"a": scores, "a_stride": b.slot_groups, "b_kind": Operand.IMMEDIATE,
              "b_immediate": fp32(1 / np.sqrt(b.shape.head_dim)), **_mask(b)}
    scales = {"d_kind": Operand.STREAM, "d": at["scales"] + _scale_groups(b, unit)} if b.kv.scaled else {}
    b.vector(b.used, unit.rows, **fields, reduce=Reduce.MAX, result=at["maximum"], result_stride=1)
    b.vector(b.used, unit.rows, **fields, c_kind=Operand.ROW, c=at["maximum"], c_stride=1, c_negate=1,
             function=b.function("exp"), **scales, reduce=Reduce.SUM, result=at["total"], result_stride=1,
             **b.kv.activation, target=_probabilities(b, unit), group_stride=ceil_to(b.place.kv.slots, BLOCK))
    b.vector(1, unit.rows, a=at["total"], a_stride=1, function=b.function("recip"), dest=Dest.FP32,
             target=_weight_place(b, unit), target_stride=1)


def _weighted_sum(b, unit):
    """Products of the probabilities with V, in the place of the queries."""
    span = ceil_to(b.place.kv.slots, BLOCK)
    for first, rows in _passes(b, unit):
        b.streams.matmul(k=b.used, n=b.shape.head_dim, rows=rows, group_stride=span,
                         activation=_probabilities(b, unit) + first // b.kv.rows * span,
                         dest=unit.q + first * unit.stride, dest_stride=unit.stride)


def _normalise(b, unit):
    """Output of the heads times the reciprocal; straight to o_proj's activations where that can be."""
    weight = {"b_kind": Operand.ROW, "b": _weight_place(b, unit), "b_stride": 1}
    if not _straight_to_projection(b):
        b.in_place(b.shape.head_dim, unit.rows, unit.q, unit.stride, **weight)
        return
    operand = b.operand("o", b.shape.heads * b.shape.head_dim)
    operand["target"] += unit.head * b.shape.head_dim
    if not b.decode:
        b.vector(b.shape.head_dim, unit.rows, a=unit.q, a_stride=unit.stride, **weight, **operand)
        return
    for head in range(unit.heads):
        b.vector(b.shape.head_dim, 1, a=unit.q + head * unit.stride, **weight | {"b": weight["b"] + head},
                 **operand | {"target": operand["target"] + head * b.shape.head_dim})
