"""Compiles a transformer layer alone: an image with constants and weights, a prefill and a decode program."""

from dataclasses import dataclass, field

from tilewright.hw.commands import Opcode

from .assembler import Program
from .builder import IO, LayerBuilder, Place
from .formats import widest_format
from .image import Image, KvLayout, layer_constants
from .plan import ceil_to, plan_layer, slots_of
from .streams import Streams
from .transformer import begin_layer, emit_layer, plan_projections

__all__ = ["CompiledLayer", "compile_layer", "kv_layout"]


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
    labels : dict          Label of each command, by its offset in region 0
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
    labels: dict = field(default_factory=dict)


def kv_layout(config, shape, context, kv):
    """KvLayout of a layer whose cache has the MatrixFormat ``kv``."""
    slots = slots_of(config, shape, context, kv)
    return KvLayout(format=kv, kv_heads=shape.kv_heads, head_dim=shape.head_dim, slots=slots, ring=slots < context)


def compile_layer(config, shape, weights, *, context, kv_format="int8"):
    """Compile one layer for sequences of up to ``context`` positions.

    shape : any object with the attributes of ``sim.golden.shape.LayerShape``
    weights : mapping of the names that ``shape`` gives to vectors (float32) and matrices, all INT8 or INT4 (with q int8
              [n, k] and d float16 [n, blocks]; INT4 with m float16 [n, blocks] or None) or all FP16 (float16 [n, k])
    kv_format : 'int8' or 'fp16'

    Raises UserError where the layer does not fit ``config``.
    """
    formats = widest_format({name: weights[name] for name in shape.matrix_shapes}), kv_format
    plans = {decode: plan_layer(config, shape, context, formats=formats, decode=decode)
             for decode in ((False, True) if shape.causal else (False,))}
    prefill = plans[False]
    row_bytes = ceil_to(4 * shape.hidden, config.bus_bytes)
    output = prefill.tokens * row_bytes
    image = Image()
    constants, weight_formats = layer_constants(image, config, shape, weights, context, {})
    place = Place(constants=constants, formats=weight_formats,
                  kv=kv_layout(config, shape, context, prefill.kv), cache=0, context=context)
    offsets, labels = {}, {}
    for decode, plan in plans.items():
        program = _program(config, shape, plan, place, row_bytes, output, decode)
        offsets[decode] = image.add(program.assemble())
        labels |= program.labels(offsets[decode])
    return CompiledLayer(image=image.data, prefill=offsets[False], decode=offsets.get(True),
                         prefill_tokens=prefill.tokens, kv=place.kv, context=context, row_bytes=row_bytes, input=0,
                         output=output, io_size=2 * output, labels=labels)


def _program(config, shape, plan, place, row_bytes, output, decode):
    """Program of an entry point; input rows lie at offset 0 of region 2, output rows at ``output``."""
    program = Program(config)
    b = LayerBuilder(config, shape, plan, place, decode=decode, program=program, streams=Streams(program))
    x = plan.scratch["x"] * config.bus_bytes

    def store(first, count):
        program.emit(Opcode.STORE, region=IO, offset=output + 4 * first, rows=b.tokens, planes=1, count=4 * count,
                     row_stride=row_bytes, scratch=x + 4 * first, scratch_row_stride=row_bytes)

    plan_projections(b)
    b.streams.pump()
    with b.label("input"):
        b.load("x", IO, 0, rows=b.tokens, row_stride=row_bytes, count=row_bytes, scratch_row_stride=row_bytes)
    begin_layer(b)
    emit_layer(b, finished=store)
    program.end()
    return program
