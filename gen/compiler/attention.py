"""Attention over the KV cache: scores, softmax and weighted sum, pipelined over heads."""

from dataclasses import dataclass

import numpy as np

from tilewright.hw.commands import Dest, Operand, Reduce
from tilewright.hw.config import BLOCK

from .assembler import Dynamic
from .builder import CACHE, fp32
from .plan import ceil_to

__all__ = ["plan_projections", "plan_streams", "first_queries", "finish_first", "attention"]

PIECES = 4
"""Pieces of q_proj whose results are taken up while the next one is computed, in decode."""
HEADS_AHEAD = 2
"""Heads that q_proj is ahead of the scores in prefill."""


@dataclass(frozen=True)
class _Unit:
    """What one MATMUL over K (and one over V) covers: a KV group's query heads of a token, or a head of all tokens."""

    number: int     # in its batch
    kv_head: int
    head: int       # first query head
    heads: int
    q: int          # scratchpad group of row 0 of q, later of o
    stride: int     # groups from row to row
    rows: object    # int or Dynamic
    row_groups: int    # of the array, at most


class _Batch:
    """Units whose rows the vector unit takes together: in prefill one, in decode as many as the plan says."""

    def __init__(self, index, units):
        self.index, self.units, self.first = index, units, units[0]
        self.heads = sum(unit.heads for unit in units)
        self.rows = self.first.rows if len(units) == 1 else self.heads   # several: a row a head


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

    ``finish_first`` was called before. The array works ``plan.ahead`` batches ahead with scores, so that softmax runs
    under later matmuls. A step's vector work is issued behind the next step's MATMUL, unless that one needs its result
    or its place.
    """
    batches = _batches(b)
    ahead, waiting = b.plan.ahead, None
    eager = b.plan.score_slots == 1 or (b.kv.scaled and b.plan.scale_slots < min(2, b.shape.kv_heads))
    for step in range(len(batches) + ahead):
        steps = []
        _project_queries(b, step)
        if step < len(batches):
            steps.append((_scores, _softmax, batches[step], eager))
        if step >= ahead:
            steps.append((_weighted_sum, _normalise, batches[step - ahead], not ahead))
        for matmul, follow, batch, flush in steps:
            if flush and waiting:
                waiting()
                waiting = None
            matmul(b, batch)
            b.streams.pump()
            if matmul is _scores and not b.decode and step + 1 < len(batches):
                _finish_queries(b, batches[step + 1])
            if waiting:
                waiting()
            waiting = lambda follow=follow, batch=batch: follow(b, batch)  # noqa: E731
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
    batches, kv, ahead = _batches(b), b.place.kv, b.plan.ahead
    for step in range(len(batches) + ahead):
        _plan_queries(b, step)
        if step < len(batches):
            for unit in batches[step].units:
                b.streams.plan(reads=[b.cached("k")], region=CACHE, **b.kv.stream, k=kv.head_dim,
                               offset=b.place.cache + unit.kv_head * kv.k_head_bytes,
                               tiles=b.k_tiles, tile_stride=kv.k_tile_bytes)
        if step >= ahead:
            for unit in batches[step - ahead].units:
                for _ in _passes(b, unit):
                    b.streams.plan(reads=[b.cached("v")], region=CACHE, **b.kv.unscaled_stream, k=b.used,
                                   offset=b.place.cache + kv.v_offset + unit.kv_head * kv.v_head_bytes,
                                   tiles=kv.v_tiles, tile_stride=kv.v_tile_bytes)


def _batches(b):
    base, size = b.plan.scratch["q"], b.plan.batch
    if not b.decode:
        return [_Batch(h, [_Unit(0, h // b.group, h, 1, base + h * b.head, b.shape.heads * b.head, b.tokens,
                                 b.kv.groups(b.plan.tokens))]) for h in range(b.shape.heads)]
    units = [_Unit(g % size, g, g * b.group, b.group, base + g * b.group * b.head, b.head, b.group,
                   b.kv.groups(b.group)) for g in range(b.shape.kv_heads)]
    return [_Batch(i, units[i * size:][:size]) for i in range(-(-len(units) // size))]


def _passes(b, unit):
    """(first row, rows) of each pass over V: all of them, if the prefetch buffer can replay a tile, else a row group at
    a time. A prefill run that would need several passes has no more tokens than the array has rows."""
    if unit.row_groups == 1 or b.place.kv.slots <= b.config.prefetch_beats:
        return [(0, unit.rows)]
    return [(first, min(b.kv.rows, unit.rows - first)) for first in range(0, unit.rows, b.kv.rows)]


def _places(b, batch, name, slots, k):
    """Reduction index of the first unit's rows in the activation buffer, and the reduction indices from unit to unit;
    ``slots`` batches' at a time, with ``k`` reduction indices a row."""
    step = batch.first.row_groups * ceil_to(k, BLOCK)
    return b.plan.activation[name] + batch.index % slots * b.plan.batch * step, step


def _queries(b, batch):
    return _places(b, batch, "q", 2, b.shape.head_dim)


def _probabilities(b, batch):
    return _places(b, batch, "probabilities", b.plan.probability_slots, b.place.kv.slots)


def _row_groups(b, batch):
    """Fields of a VECTOR that makes rows of a batch's units: those of a unit are a row group."""
    return {"group_rows": b.group} if len(batch.units) > 1 else {}


def _row_slots(b):
    """Rows of a batch, at most."""
    return b.plan.batch * b.group if b.decode else b.plan.tokens


def _score_place(b, batch):
    return b.plan.scratch["scores"] + batch.index % b.plan.score_slots * _row_slots(b) * b.slot_groups


def _weight_place(b, batch):
    return b.plan.scratch["weight"] + batch.index % (b.plan.ahead + 1) * _row_slots(b)


def _scale_groups(b, batch):
    return batch.first.kv_head // b.plan.batch % b.plan.scale_slots * b.plan.batch * b.slot_groups


def finish_first(b):
    """Finish the first batch's queries: work for the vector unit while keys and values are on their way to memory."""
    _finish_queries(b, _batches(b)[0])


def _finish_queries(b, batch):
    """Biases, norms, RoPE and rounding of queries. In prefill they are a batch ahead of the scores, since the array
    leaves the last batches' vector work uncovered."""
    target, _ = _queries(b, batch)
    b.finish_heads("q", batch.first.head, batch.heads, b.shape.heads,
                   {**b.kv.activation, "target": target, "group_stride": ceil_to(b.shape.head_dim, BLOCK),
                    **_row_groups(b, batch)})


def _scores(b, batch):
    """Products of finished and rounded queries with K; in decode the queries are finished here."""
    kv, span = b.place.kv, ceil_to(b.shape.head_dim, BLOCK)
    if batch.index and b.decode:
        _finish_queries(b, batch)
    if b.kv.scaled and batch.first.head % b.group == 0:
        b.load("scales", CACHE, b.place.cache + kv.scale_offset + batch.first.kv_head * kv.scale_head_bytes,
               count=b.scale_bytes, rows=len(batch.units), row_stride=kv.scale_head_bytes,
               scratch_row_stride=b.slot_groups * b.config.bus_bytes, behind=_scale_groups(b, batch),
               reads=[b.cached("v_scale")])
    queries, step = _queries(b, batch)
    for unit in batch.units:
        b.streams.matmul(k=b.shape.head_dim, n=b.used, rows=unit.rows, activation=queries + unit.number * step,
                         group_stride=span, dest_stride=b.slot_groups,
                         dest=_score_place(b, batch) + unit.number * b.group * b.slot_groups)


def _mask(b):
    """Fields of a VECTOR over scores that leave out what a row's token does not see."""
    slots, step = b.place.kv.slots, int(not b.decode)
    if b.place.kv.ring:
        return {"valid": Dynamic(b.slot, slots, 1), "first": Dynamic(b.first), "ring": slots, "valid_step": step}
    if b.decode or not b.shape.causal:
        return {}
    return {"valid": Dynamic(b.position, slots, 1), "valid_step": 1}


def _softmax(b, batch):
    """Unnormalised probabilities, with V's scales in INT8, to the activation buffer; the reciprocal of their sum."""
    at, scores, rows = b.plan.scratch, _score_place(b, batch), batch.rows
    fields = {"a": scores, "a_stride": b.slot_groups, "b_kind": Operand.IMMEDIATE,
              "b_immediate": fp32(1 / np.sqrt(b.shape.head_dim)), **_mask(b)}
    scales, groups = {}, _row_groups(b, batch)
    if b.kv.scaled:
        scales = {"d_kind": Operand.STREAM, "d": at["scales"] + _scale_groups(b, batch),
                  "d_stride": b.slot_groups if groups else 0}
    b.vector(b.used, rows, **fields, reduce=Reduce.MAX, result=at["maximum"], result_stride=1)
    b.vector(b.used, rows, **fields, c_kind=Operand.ROW, c=at["maximum"], c_stride=1, c_negate=1,
             function=b.function("exp"), **scales, reduce=Reduce.SUM, result=at["total"], result_stride=1,
             **b.kv.activation, target=_probabilities(b, batch)[0], group_stride=ceil_to(b.place.kv.slots, BLOCK),
             **groups)
    b.vector(1, rows, a=at["total"], a_stride=1, function=b.function("recip"), dest=Dest.FP32,
             target=_weight_place(b, batch), target_stride=1)


def _weighted_sum(b, batch):
    """Products of the probabilities with V, in the place of the queries."""
    span = ceil_to(b.place.kv.slots, BLOCK)
    probabilities, step = _probabilities(b, batch)
    for unit in batch.units:
        for first, rows in _passes(b, unit):
            b.streams.matmul(k=b.used, n=b.shape.head_dim, rows=rows, group_stride=span,
                             activation=probabilities + unit.number * step + first // b.kv.rows * span,
                             dest=unit.q + first * unit.stride, dest_stride=unit.stride)


def _normalise(b, batch):
    """Output of the heads times the reciprocal; straight to o_proj's activations where that can be."""
    weight = {"b_kind": Operand.ROW, "b": _weight_place(b, batch), "b_stride": 1}
    n, unit = b.shape.head_dim, batch.first
    if not _straight_to_projection(b):
        b.in_place(n, batch.rows, unit.q, unit.stride, **weight)
        return
    operand = b.operand("o", b.shape.heads * n)
    operand["target"] += unit.head * n
    if b.decode:  # the heads of the one token are one row of activations
        operand |= {"group_rows": 1, "group_stride": n}
    b.vector(n, batch.rows, a=unit.q, a_stride=unit.stride, **weight, **operand)
