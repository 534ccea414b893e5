"""Appends keys and values of the tokens in work to the KV cache."""

from tilewright.hw.commands import Dest, Element, Opcode, ScalarOp
from tilewright.hw.config import BLOCK

from .assembler import Dynamic
from .builder import CACHE

__all__ = ["append_to_cache"]


def append_to_cache(b):
    """Rotate and quantise the tokens' keys, quantise their values, store both."""
    at, shape = b.plan.scratch, b.shape
    packed, scales = b.place.kv.v_tiles, b.groups(-(-shape.head_dim // BLOCK))
    b.rotate("k", 0, shape.kv_heads, shape.kv_heads)
    b.vector(shape.head_dim, b.kv_rows, a=at["k"], a_stride=b.head, dest=Dest.PACKED, target=at["k_bytes"],
             target_stride=packed, scale=at["k_scales"], scale_stride=scales)
    _store_keys(b, packed, scales)
    b.vector(shape.head_dim, b.kv_rows, a=at["v"], a_stride=b.head, dest=Dest.PACKED, row_scale=1,
             scale_fp32=1, target=at["v_bytes"], target_stride=packed, scale=at["v_scale"], scale_stride=1)
    _store_values(b, packed)


def _store(b, writes, offset, **fields):
    b.program.emit(Opcode.STORE, region=CACHE, offset=offset, writes=[writes], **fields)


def _store_keys(b, packed, scales):
    """Each token's keys go to one lane of a tile, a byte each; so do their scales."""
    p, lanes, kv = b.program, b.config.lanes, b.place.kv
    shift = lanes.bit_length() - 1
    names = ["k_position", "k_offset", "k_scale_offset"]
    position, offset, scale_offset = (p.register(name) for name in names)

    def addresses():
        p.scalar(ScalarOp.SHR, offset, position, shift)
        p.scalar(ScalarOp.MUL, offset, offset, kv.k_tile_bytes)
        p.scalar(ScalarOp.AND, scale_offset, position, lanes - 1)
        p.scalar(ScalarOp.ADD, offset, offset, rt=scale_offset)
        p.scalar(ScalarOp.ADD, scale_offset, offset, rt=scale_offset)

    p.scalar(ScalarOp.ADD, position, b.position)
    if b.decode:
        addresses()
        _store_key(b, Dynamic(offset), Dynamic(scale_offset), None, packed, scales)
    else:
        names += ["k_count", "k_bytes", "k_scales"]
        count, bytes_at, scales_at = (p.register(name) for name in names[3:])
        p.scalar(ScalarOp.ADD, count, b.tokens.register)
        p.set(bytes_at, 0)
        p.set(scales_at, 0)
        with p.loop(count):
            addresses()
            _store_key(b, Dynamic(offset), Dynamic(scale_offset), (bytes_at, scales_at), packed, scales)
            p.scalar(ScalarOp.ADD, position, position, 1)
            p.scalar(ScalarOp.ADD, bytes_at, bytes_at, kv.kv_heads * packed * b.config.bus_bytes)
            p.scalar(ScalarOp.ADD, scales_at, scales_at, kv.kv_heads * scales * b.config.bus_bytes)
    p.release(*names)


def _store_key(b, offset, scale_offset, moving, packed, scales):
    """Store one token's keys; ``moving`` are registers with its place behind the first token's, or None."""
    at, kv, beat = b.plan.scratch, b.place.kv, b.config.bus_bytes
    full, rest = divmod(kv.head_dim, BLOCK)

    def place(index, name, stride, behind):
        base = at[name] * beat + behind
        if moving is None:
            return base
        step = kv.kv_heads * stride * beat
        return Dynamic(moving[index], base + (b.plan.tokens - 1) * step, base, step)

    heads = {"planes": kv.kv_heads, "plane_stride": kv.k_head_bytes}
    for rows, count, block in ((full, BLOCK, 0), (1, rest, full)):
        if not rows or not count:
            continue
        first = block * kv.k_block_bytes
        _store(b, "k", offset._replace(base=first), element=Element.BYTE, rows=rows, count=count,
                    row_stride=kv.k_block_bytes, element_stride=kv.lanes, **heads,
                    scratch=place(0, "k_bytes", packed, block * BLOCK), scratch_row_stride=BLOCK,
                    scratch_plane_stride=packed * beat)
        _store(b, "k", scale_offset._replace(base=first + count * kv.lanes), element=Element.HALF, rows=rows,
                    count=1, row_stride=kv.k_block_bytes, **heads,
                    scratch=place(1, "k_scales", scales, 4 * block), scratch_row_stride=4,
                    scratch_plane_stride=scales * beat)


def _store_values(b, packed):
    """All tokens at once: positions follow each other within a tile."""
    p, at, kv, beat = b.program, b.plan.scratch, b.place.kv, b.config.bus_bytes
    offset = p.scalar(ScalarOp.MUL, p.register("v_offset"), b.position, kv.lanes)
    scale_offset = p.scalar(ScalarOp.SHL, p.register("v_scale_offset"), b.position, 2)
    tokens = {"rows": b.tokens, "row_stride": kv.lanes, "scratch_row_stride": kv.kv_heads * packed * beat}
    full, rest = divmod(kv.head_dim, kv.lanes)
    if not rest:
        pieces = [(0, kv.lanes, kv.kv_heads * full, kv.v_tile_bytes, beat)]
    else:
        pieces = [(tile, kv.lanes if tile < full else rest, kv.kv_heads, kv.v_head_bytes, packed * beat)
                  for tile in range(full + 1)]
    for tile, count, planes, plane_stride, scratch_plane_stride in pieces:
        _store(b, "v", Dynamic(offset, base=kv.v_offset + tile * kv.v_tile_bytes), count=count, planes=planes,
                    plane_stride=plane_stride, scratch=(at["v_bytes"] + tile) * beat,
                    scratch_plane_stride=scratch_plane_stride, **tokens)
    _store(b, "v_scale", Dynamic(scale_offset, base=kv.scale_offset), element=Element.WORD, count=1,
                **tokens | {"row_stride": 4, "scratch_row_stride": kv.kv_heads * beat}, planes=kv.kv_heads,
                plane_stride=kv.scale_head_bytes, scratch=at["v_scale"] * beat, scratch_plane_stride=beat)
    p.release("v_offset", "v_scale_offset")
