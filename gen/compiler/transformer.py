"""The commands of one transformer layer: x in the scratchpad before, x in the scratchpad behind."""

from tilewright.hw.commands import ScalarOp

from . import attention, feed_forward
from .assembler import Dynamic
from .builder import CONSTANTS
from .kv_cache import append_to_cache
from .plan import ATTENTION, FFN, INPUT, OUTPUT
from .residual import project_to_residual

__all__ = ["plan_projections", "begin_layer", "emit_layer"]

PIECES = 4
"""Pieces of o_proj and down_proj whose results are taken up while the next one is computed, in decode."""
PIECE = 32
"""Outputs of such a piece in prefill; the last one is cut in two, as the array waits while its end is taken up."""


def plan_projections(b):
    """Plan the layer's first STREAMs."""
    with b.label("projections"):
        attention.plan_projections(b)


def begin_layer(b, previous=None):
    """What stands before a layer's first command: registers (some may be left from the ``previous`` layer), and the
    first norm's vectors and the rotations in the scratchpad."""
    with b.label("projections"):
        b.set_registers(previous)
        b.load_vectors(INPUT)
        if b.shape.rotary_dim:
            _load_rope(b, previous)


def _load_rope(b, previous):
    """The rotations of the tokens' positions. In decode their offset stays in its register from layer to layer; prefill
    has no register to spare, and the time."""
    p, row = b.program, 2 * b.groups(b.shape.rotary_dim) * b.config.bus_bytes
    offset = p.register("rope_offset")
    if not (b.decode and previous and previous.shape.rotary_dim == b.shape.rotary_dim):
        p.scalar(ScalarOp.MUL, offset, b.position, row)
    b.load("rope", CONSTANTS, Dynamic(offset, base=b.place.constants["rope"]), rows=b.tokens, row_stride=row, count=row,
           scratch_row_stride=row)
    if not b.decode:
        p.release("rope_offset")


def emit_layer(b, *, following=lambda: None, upcoming=None, finished=lambda first, count: None):
    """The layer's commands behind ``begin_layer``, its first STREAM planned already.

    ``following`` is called once the layer's own STREAMs are planned, to plan those behind them; ``upcoming`` is the
    next layer, if there is one, which this one begins; ``finished`` is called behind the command that makes the
    elements ``first`` .. ``first`` + ``count`` of x final.
    """
    shape, hidden = b.shape, b.shape.hidden
    width = shape.heads * shape.head_dim
    o_pieces = _pieces(b)
    sums = _sums_early(b) and shape.topology == "sequential"
    with b.label("projections"):
        _project_heads(b)
    with b.label("kv_cache"):
        append_to_cache(b)
    with b.label("attention"):
        attention.finish_first(b)
        attention.plan_streams(b)
    with b.label("o_proj"):
        b.plan_weights("o_proj", width, b.weights.tiles(hidden), matmuls=len(o_pieces))
    feed_forward.plan_streams(b, len(o_pieces))
    following()
    b.streams.pump()
    with b.label("attention"):
        b.load_vectors(ATTENTION)
        attention.attention(b)
    with b.label("o_proj"):
        b.load_vectors(OUTPUT)
        project_to_residual(b, width, "o", o_pieces, bias="o_bias", sums=sums,
                            post_norm="post_attn_norm" if shape.topology == "sandwich" else None)
    source = "h" if shape.topology == "parallel_shared" else "h_ffn"
    with b.label("up_proj"):
        if shape.topology == "post_norm":
            b.norm("attn_norm", "x", hidden)
            _round_x(b, source)
        elif shape.topology in ("sequential", "sandwich"):
            b.norm("ffn_norm", "x", hidden, summed=sums, **b.operand(source, hidden))
        b.load_vectors(FFN)
        feed_forward.activate(b, source)
    if upcoming and b.decode:   # in decode nothing else lies in these places
        begin_layer(upcoming, b)
    with b.label("down_proj"):
        _add_feed_forward(b, o_pieces, upcoming, finished)
    if upcoming and not b.decode:
        begin_layer(upcoming, b)


def _pieces(b):
    """Pieces of o_proj and down_proj."""
    hidden = b.shape.hidden
    if b.decode:
        return b.pieces(hidden, hidden // PIECES)
    *pieces, (first, count) = b.pieces(hidden, PIECE)
    return [*pieces, *((first + place, size) for place, size in b.pieces(count, PIECE // 2))]


def _sums_early(b):
    """Whether root mean squares of x are computed beside the projection before the norm: it takes the vector unit more
    time in all, which it has where the array works on many rows."""
    return b.shape.norm == "rms_norm" and not b.decode


def _add_feed_forward(b, pieces, upcoming, finished):
    """down_proj into the residual, and the layer's last norm."""
    shape, hidden = b.shape, b.shape.hidden
    sandwich, post = shape.topology == "sandwich", shape.topology == "post_norm"
    in_pieces = {} if sandwich or post else {"then": finished}
    if in_pieces and upcoming and _sums_early(b):
        in_pieces["sums"] = upcoming.summed = True
    project_to_residual(b, shape.ffn, "gated", pieces, bias="down_bias",
                        post_norm="post_ffn_norm" if sandwich else None, **in_pieces)
    if post:
        b.norm("ffn_norm", "x", hidden)
    if not in_pieces:
        finished(0, hidden)


def _project_heads(b):
    """Norm of x, and the projections to k, v and (first) q, in this order, so that k and v are in the cache early."""
    shape, hidden, kv_width = b.shape, b.shape.hidden, b.shape.kv_heads * b.shape.head_dim
    if shape.topology == "post_norm":
        _round_x(b, "h")
    else:
        b.norm("attn_norm", "x", hidden, summed=b.summed, **b.operand("h", hidden))
    if shape.topology == "parallel":
        b.norm("ffn_norm", "x", hidden, summed=b.summed, **b.operand("h_ffn", hidden))
    for name in ("k", "v"):
        b.project(hidden, kv_width, activation="h", dest=b.plan.scratch[name], dest_stride=shape.kv_heads * b.head)
    attention.first_queries(b)


def _round_x(b, target):
    """x itself as a matmul's operand."""
    b.vector(b.shape.hidden, b.tokens, a=b.plan.scratch["x"], a_stride=b.hidden, **b.operand(target, b.shape.hidden))
