"""Compiles a transformer layer: an image with constants and weights, a prefill and a decode program."""

from dataclasses import dataclass

from tilewright.hw.commands import ScalarOp

from . import attention, feed_forward
from .assembler import Dynamic
from .builder import CONSTANTS, IO, LayerBuilder, Place
from .formats import format_of
from .image import Image, KvLayout, layer_constants
from .kv_cache import append_to_cache
from .plan import ATTENTION, FFN, INPUT, OUTPUT, ceil_to, plan_layer, slots_of
from .residual import project_to_residual, store_output

__all__ = ["CompiledLayer", "compile_layer"]

PIECES = 4
"""Pieces of q_proj, o_proj and down_proj whose results are taken up while the next one is computed."""


@dataclass(frozen=True, kw_only=True)
class CompiledLayer:
    """A layer ready to run: region 0 holds ``image``, region 1 the KV cache, region 2 input and output.

    Argument 0 is the position of the first token, argument 1 the number of tokens (decode takes it as 1).

    image : bytes          region 0, read only
    prefill, decode : int  offsets of the programs; decode is None where attention is not causal
    prefill_tokens : int   most tokens of a prefill run; where attention is not causal, the sequence fits into one
    kv : KvLayout          layout of region 1
    context : int          positions, at most
    row_bytes : int        bytes of a token's row of region 2: FP32, padded to beats
    input, output : int    offsets of the rows in region 2
    io_size : int          bytes of region 2
    """

    image: bytes
    prefill: int
    decode: int | None
    prefill_tokens: int
    kv: KvLayout
    context: int
    row_bytes: int
    input: int
    output: int
    io_size: int


def compile_layer(config, shape, weights, *, context, kv_format="int8"):
    """Compile one layer for sequences of up to ``context`` positions.

    shape : any object with the attributes of ``sim.golden.shape.LayerShape``
    weights : mapping of the names that ``shape`` gives to vectors (float32) and matrices, all INT8 (with q int8 [n, k]
              and d float16 [n, blocks]) or all FP16 (float16 [n, k])
    kv_format : 'int8' or 'fp16'

    Raises UserError where the layer does not fit ``config``.
    """
    formats = format_of(weights["q_proj"]), kv_format
    plans = {decode: plan_layer(config, shape, context, formats=formats, decode=decode)
             for decode in ((False, True) if shape.causal else (False,))}
    prefill = plans[False]
    slots = slots_of(config, shape, context, prefill.kv)
    kv = KvLayout(format=prefill.kv, kv_heads=shape.kv_heads, head_dim=shape.head_dim, slots=slots,
                  ring=slots < context)
    row_bytes = ceil_to(4 * shape.hidden, config.bus_bytes)
    image = Image()
    place = Place(constants=layer_constants(image, config, shape, weights, context), kv=kv, context=context,
                  row_bytes=row_bytes, input=0, output=prefill.tokens * row_bytes)
    offsets = {decode: image.add(_program(LayerBuilder(config, shape, plan, place, decode=decode)))
               for decode, plan in plans.items()}
    return CompiledLayer(image=image.data, prefill=offsets[False], decode=offsets.get(True),
                         prefill_tokens=prefill.tokens, kv=kv, context=context, row_bytes=row_bytes, input=0,
                         output=place.output, io_size=2 * prefill.tokens * row_bytes)


def _program(b):
    """Bytes of an entry point's program."""
    shape, hidden = b.shape, b.shape.hidden
    width = shape.heads * shape.head_dim
    o_pieces = b.pieces(hidden, hidden // PIECES)
    _project_heads(b, width)
    append_to_cache(b)
    attention.plan_streams(b)
    b.plan_weights("o_proj", width, b.weights.tiles(hidden), matmuls=len(o_pieces))
    feed_forward.plan_streams(b, len(o_pieces))
    b.streams.pump()
    if not b.decode:  # under the last piece of q_proj
        b.heads_finished = _q_pieces(b, width)[-1][0] // shape.head_dim
        b.finish_heads("q", 0, b.heads_finished, shape.heads)
    b.load_vectors(ATTENTION)
    attention.attention(b)

    b.load_vectors(OUTPUT)
    sandwich, post = shape.topology == "sandwich", shape.topology == "post_norm"
    project_to_residual(b, width, "o", o_pieces, bias="o_bias", post_norm="post_attn_norm" if sandwich else None)
    source = "h" if shape.topology == "parallel_shared" else "h_ffn"
    if post:
        b.norm("attn_norm", "x", hidden)
        _round_x(b, source)
    elif shape.topology in ("sequential", "sandwich"):
        b.norm("ffn_norm", "x", hidden, **b.operand(source, hidden))
    b.load_vectors(FFN)
    feed_forward.activate(b, source)
    whole = sandwich or post
    project_to_residual(b, shape.ffn, "gated", o_pieces, bias="down_bias",
                        post_norm="post_ffn_norm" if sandwich else None,
                        then=(lambda first, count: None) if whole else (lambda *piece: store_output(b, *piece)))
    if post:
        b.norm("ffn_norm", "x", hidden)
    if whole:
        store_output(b, 0, hidden)
    b.program.end()
    return b.program.assemble()


def _q_pieces(b, width):
    return b.pieces(width, width // PIECES)


def _project_heads(b, width):
    """Input, its norm, and the projections to k, v and q, in this order, so that k and v are in the cache early."""
    shape, hidden, kv_width = b.shape, b.shape.hidden, b.shape.kv_heads * b.shape.head_dim
    pieces = _q_pieces(b, width)
    b.plan_weights("projections", hidden, 2 * b.weights.tiles(kv_width) + b.weights.tiles(width),
                   matmuls=2 + len(pieces))
    b.streams.pump()
    _load_input(b)
    b.load_vectors(INPUT)
    if shape.topology == "post_norm":
        _round_x(b, "h")
    else:
        b.norm("attn_norm", "x", hidden, **b.operand("h", hidden))
    if shape.topology == "parallel":
        b.norm("ffn_norm", "x", hidden, **b.operand("h_ffn", hidden))
    for name, heads, parts in (("k", shape.kv_heads, [(0, kv_width)]), ("v", shape.kv_heads, [(0, kv_width)]),
                               ("q", shape.heads, pieces)):
        for first, count in parts:
            b.project(hidden, count, activation="h", dest=b.plan.scratch[name] + first // b.config.group_words,
                      dest_stride=heads * b.head)


def _round_x(b, target):
    """x itself as a matmul's operand."""
    b.vector(b.shape.hidden, b.tokens, a=b.plan.scratch["x"], a_stride=b.hidden, **b.operand(target, b.shape.hidden))


def _load_input(b):
    """x and the rotations of the tokens' positions."""
    p, row = b.program, b.place.row_bytes
    b.load("x", IO, b.place.input, rows=b.tokens, row_stride=row, count=row, scratch_row_stride=row)
    if b.shape.rotary_dim:
        table_row = 2 * b.groups(b.shape.rotary_dim) * b.config.bus_bytes
        offset = p.scalar(ScalarOp.MUL, p.register("rope_offset"), b.position, table_row)
        b.load("rope", CONSTANTS, Dynamic(offset, base=b.place.constants["rope"]), rows=b.tokens, row_stride=table_row,
               count=table_row, scratch_row_stride=table_row)
        p.release("rope_offset")
