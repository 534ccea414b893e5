"""Appends keys and values of the tokens in work to the KV cache."""

from tilewright.hw.commands import Dest, Element, Opcode, ScalarOp
from tilewright.hw.config import BLOCK

from .assembler import Dynamic
from .builder import CACHE

__all__ = ["append_to_cache"]

REGISTERS = ("at", "offset", "scale_offset")
LOOP_REGISTERS = ("store_count", "row_at", "scale_at")


def append_to_cache(b):
    """Finish the tokens' keys, round them and the values to the cache's format, store both token by token."""
    shape, p, kv = b.shape, b.program, b.place.kv
    b.finish_heads("k", 0, shape.kv_heads, shape.kv_heads)
    b.add_bias("v_bias", "v", shape.kv_heads * shape.head_dim, shape.kv_heads * b.head)
    store = _Int8Store(b) if kv.format.scaled else _Fp16Store(b)
    store.round()
    at, offset, scale_offset = (p.register(name) for name in REGISTERS)
    p.scalar(ScalarOp.ADD, at, b.slot if kv.ring else b.position)
    if b.decode:
        store.token(at, offset, scale_offset)
        p.release(*REGISTERS)
        return
    count, *moving = (p.register(name) for name in LOOP_REGISTERS)
    p.scalar(ScalarOp.ADD, count, b.tokens.register)
    for register in moving:
        p.set(register, 0)
    store.moving = moving
    with p.loop(count):
        store.token(at, offset, scale_offset)
        p.scalar(ScalarOp.ADD, at, at, 1)
        if kv.ring:
            p.scalar(ScalarOp.SUB, offset, at, kv.slots)
            with p.skip_if(offset):
                p.set(at, 0)
        for register, step in zip(moving, store.steps, strict=True):
            p.scalar(ScalarOp.ADD, register, register, step)
    p.release(*REGISTERS, *LOOP_REGISTERS)


class _Store:
    """STOREs of one token's keys and values. ``moving`` are registers with the token's place behind the first one's: of
    its values, of its scales; None for the only token. ``steps`` are bytes from token to token."""

    def __init__(self, b):
        self.b, self.kv, self.beat = b, b.place.kv, b.config.bus_bytes
        self.moving, self.steps = None, (0, 0)

    def _place(self, name, moving, behind=0):
        """Scratchpad byte of a token's row, ``behind`` bytes on."""
        base = self.b.plan.scratch[name] * self.beat + behind
        if self.moving is None:
            return base
        step = self.steps[moving]
        return Dynamic(self.moving[moving], base + (self.b.plan.tokens - 1) * step, base, step)

    def _store(self, part, offset, base, **fields):
        self.b.program.emit(Opcode.STORE, region=CACHE, writes=[self.b.cached(part)],
                            offset=Dynamic(offset, base=self.b.place.cache + base),
                            **{"rows": 1, "planes": self.kv.kv_heads} | fields)

    def _key_offset(self, at, offset, lane, element_bytes):
        """offset = place of slot ``at`` in its tile of K; ``lane`` is the slot's number within the tile."""
        p, shift = self.b.program, self.kv.outputs.bit_length() - 1
        p.scalar(ScalarOp.SHR, offset, at, shift)
        p.scalar(ScalarOp.MUL, offset, offset, self.kv.k_tile_bytes)
        p.scalar(ScalarOp.AND, lane, at, self.kv.outputs - 1)
        for _ in range(element_bytes):
            p.scalar(ScalarOp.ADD, offset, offset, rt=lane)


class _Int8Store(_Store):
    def __init__(self, b):
        super().__init__(b)
        self.packed, self.scales = -(-b.shape.head_dim // self.beat), b.groups(-(-b.shape.head_dim // BLOCK))
        self.steps = tuple(self.kv.kv_heads * groups * self.beat for groups in (self.packed, self.scales))

    def round(self):
        b, at, n = self.b, self.b.plan.scratch, self.b.shape.head_dim
        for name, scale, options in (("k", "k_scales", {}), ("v", "v_scale", {"row_scale": 1, "scale_fp32": 1})):
            b.vector(n, b.kv_rows, a=at[name], a_stride=b.head, dest=Dest.PACKED, target=at[f"{name}_bytes"],
                     target_stride=self.packed, scale=at[scale], scale_stride=self.scales, **options)

    def token(self, at, offset, scale_offset):
        p, kv = self.b.program, self.kv
        self._key_offset(at, offset, scale_offset, 1)
        p.scalar(ScalarOp.ADD, scale_offset, offset, rt=scale_offset)
        self._keys(offset, scale_offset)
        p.scalar(ScalarOp.MUL, offset, at, kv.lanes)
        p.scalar(ScalarOp.SHL, scale_offset, at, 2)
        full, rest = divmod(kv.head_dim, kv.lanes)
        if rest:
            pieces = [(tile, kv.lanes if tile < full else rest, kv.kv_heads, kv.v_head_bytes, self.packed * self.beat)
                      for tile in range(full + 1)]
        else:
            pieces = [(0, kv.lanes, kv.kv_heads * full, kv.v_tile_bytes, kv.lanes)]
        for tile, count, planes, plane_stride, scratch_plane_stride in pieces:
            self._store("v", offset, kv.v_offset + tile * kv.v_tile_bytes, count=count, planes=planes,
                        plane_stride=plane_stride, scratch=self._place("v_bytes", 0, tile * kv.lanes),
                        scratch_plane_stride=scratch_plane_stride)
        self._store("v_scale", scale_offset, kv.scale_offset, element=Element.WORD, count=1,
                    plane_stride=kv.scale_head_bytes, scratch=self._place("v_scale", 1),
                    scratch_plane_stride=self.scales * self.beat)

    def _keys(self, offset, scale_offset):
        """Bytes and scales of a block of 32 dimensions lie behind each other in the tile."""
        kv = self.kv
        full, rest = divmod(kv.head_dim, BLOCK)
        for rows, count, block in ((full, BLOCK, 0), (1, rest, full)):
            if not rows or not count:
                continue
            first = block * kv.k_block_bytes
            fields = {"rows": rows, "row_stride": kv.k_block_bytes, "plane_stride": kv.k_head_bytes}
            self._store("k", offset, first, element=Element.BYTE, count=count, element_stride=kv.lanes, **fields,
                        scratch=self._place("k_bytes", 0, block * BLOCK), scratch_row_stride=BLOCK,
                        scratch_plane_stride=self.packed * self.beat)
            self._store("k", scale_offset, first + count * kv.lanes, element=Element.HALF, count=1, **fields,
                        scratch=self._place("k_scales", 1, 4 * block), scratch_row_stride=4,
                        scratch_plane_stride=self.scales * self.beat)


class _Fp16Store(_Store):
    def __init__(self, b):
        super().__init__(b)
        self.steps = (self.kv.kv_heads * b.head * self.beat, 0)

    def round(self):
        for name in ("k", "v"):
            self.b.in_place(self.b.shape.head_dim, self.b.kv_rows, self.b.plan.scratch[name], self.b.head, half=1)

    def token(self, at, offset, scale_offset):
        p, kv, row = self.b.program, self.kv, self.b.head * self.beat
        self._key_offset(at, offset, scale_offset, 2)
        self._store("k", offset, 0, element=Element.HALF, count=kv.head_dim, element_stride=kv.lanes,
                    plane_stride=kv.k_head_bytes, scratch=self._place("k", 0), scratch_plane_stride=row)
        p.scalar(ScalarOp.MUL, offset, at, kv.lanes)
        full, rest = divmod(kv.head_dim, kv.outputs)
        for rows, count, tile in ((full, kv.outputs, 0), (1, rest, full)):
            if rows and count:
                self._store("v", offset, kv.v_offset + tile * kv.v_tile_bytes, element=Element.HALF, rows=rows,
                            count=count, element_stride=2, row_stride=kv.v_tile_bytes, plane_stride=kv.v_head_bytes,
                            scratch=self._place("v", 0, 4 * tile * kv.outputs), scratch_row_stride=4 * kv.outputs,
                            scratch_plane_stride=row)
