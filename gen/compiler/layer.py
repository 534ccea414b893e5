"""Compiles a decoder layer of the Llama type: an image with weights, a prefill and a decode program."""

from dataclasses import dataclass

from tilewright.hw.commands import ScalarOp

from . import attention, feed_forward
from .assembler import Dynamic
from .builder import CONSTANTS, IO, LayerBuilder, Place
from .image import Image, KvLayout, layer_constants
from .kv_cache import append_to_cache
from .plan import ceil_to, plan_layer

__all__ = ["CompiledLayer", "compile_layer"]

PIECES = 4
"""Pieces of q_proj and o_proj whose results are taken up while the next one is computed."""


@dataclass(frozen=True, kw_only=True)
class CompiledLayer:
    """A layer ready to run: region 0 holds ``image``, region 1 the KV cache, region 2 input and output.

    Argument 0 is the position of the first token, argument 1 the number of tokens (decode takes it as 1).

    image : bytes          region 0, read only
    prefill, decode : int  offsets of the programs
    prefill_tokens : int   most tokens of a prefill run
    kv : KvLayout          layout of region 1
    row_bytes : int        bytes of a token's row of region 2: FP32, padded to beats
    input, output : int    offsets of the rows in region 2
    io_size : int          bytes of region 2
    """

    image: bytes
    prefill: int
    decode: int
    prefill_tokens: int
    kv: KvLayout
    row_bytes: int
    input: int
    output: int
    io_size: int


def compile_layer(config, shape, weights, *, context):
    """Compile one layer for sequences of up to ``context`` positions.

    shape : any object with the attributes hidden, heads, kv_heads, head_dim, ffn, norm_eps, rope_theta, rope_pairing
    weights : any object with attn_norm, ffn_norm (float32 [hidden]) and q_proj, k_proj, v_proj, o_proj, gate_proj,
              up_proj, down_proj (q int8 [n, k], d float16 [n, blocks])

    Raises UserError where the layer does not fit ``config``.
    """
    plans = {decode: plan_layer(config, shape, context, decode=decode) for decode in (False, True)}
    kv = KvLayout(lanes=config.lanes, kv_heads=shape.kv_heads, head_dim=shape.head_dim, context=context)
    tokens, row_bytes = plans[False].tokens, ceil_to(4 * shape.hidden, config.bus_bytes)
    image = Image()
    place = Place(constants=layer_constants(image, config, shape, weights, context), kv=kv, row_bytes=row_bytes,
                  input=0, output=tokens * row_bytes)
    offsets = {decode: image.add(_program(LayerBuilder(config, shape, plan, place, decode=decode)))
               for decode, plan in plans.items()}
    return CompiledLayer(image=image.data, prefill=offsets[False], decode=offsets[True], prefill_tokens=tokens, kv=kv,
                         row_bytes=row_bytes, input=0, output=place.output, io_size=2 * tokens * row_bytes)


def _program(b):
    """Bytes of an entry point's program."""
    q_outputs, kv_outputs = (heads * b.shape.head_dim for heads in (b.shape.heads, b.shape.kv_heads))
    q_pieces, o_pieces = (b.pieces(n, n // PIECES) for n in (q_outputs, b.shape.hidden))
    tiles = 2 * b.tiles(kv_outputs) + b.tiles(q_outputs)
    b.plan_weights("projections", b.shape.hidden, tiles, matmuls=2 + len(q_pieces))
    b.streams.pump()
    _load_input(b)
    b.norm("attn_norm", "h")
    for name, heads, pieces in (("k", b.shape.kv_heads, [(0, kv_outputs)]), ("v", b.shape.kv_heads, [(0, kv_outputs)]),
                                ("q", b.shape.heads, q_pieces)):
        for first, count in pieces:
            b.streams.matmul(scaled=1, k=b.shape.hidden, n=count, rows=b.tokens, activation=b.plan.activation["h"],
                             dest=b.plan.scratch[name] + first // b.config.group_words, dest_stride=heads * b.head)
    append_to_cache(b)
    attention.plan_streams(b)
    b.plan_weights("o_proj", q_outputs, b.tiles(b.shape.hidden), matmuls=len(o_pieces))
    feed_forward.plan_streams(b)
    b.streams.pump()
    if not b.decode:  # under the last piece of q_proj
        b.heads_rotated = q_pieces[-1][0] // b.shape.head_dim
        b.rotate("q", 0, b.heads_rotated, b.shape.heads)
    attention.attention(b)
    b.load("ffn_norm", CONSTANTS, b.place.constants["ffn_norm"], count=b.place.row_bytes)
    b.project_to_residual(q_outputs, "o", o_pieces)
    b.norm("ffn_norm", "h_ffn")
    feed_forward.feed_forward(b)
    b.program.end()
    return b.program.assemble()


def _load_input(b):
    """x, the norm's gain and the rotations of the tokens' positions."""
    p, row, table_row = b.program, b.place.row_bytes, 2 * b.head * b.config.bus_bytes
    b.load("x", IO, b.place.input, rows=b.tokens, row_stride=row, count=row, scratch_row_stride=row)
    b.load("attn_norm", CONSTANTS, b.place.constants["attn_norm"], count=row)
    offset = p.scalar(ScalarOp.MUL, p.register("rope_offset"), b.position, table_row)
    b.load("rope", CONSTANTS, Dynamic(offset, base=b.place.constants["rope"]), rows=b.tokens, row_stride=table_row,
           count=table_row, scratch_row_stride=table_row)
    p.release("rope_offset")
