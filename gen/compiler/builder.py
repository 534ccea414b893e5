"""What the parts of a layer's program share: registers, places, streams, and the commands that several parts use."""

from dataclasses import dataclass

import numpy as np

from tilewright.hw.commands import Dest, Opcode, Operand, Reduce, ScalarOp
from tilewright.hw.config import BLOCK

from .assembler import Dynamic, Program
from .image import KvLayout
from .streams import Streams

__all__ = ["LayerBuilder", "Place", "CONSTANTS", "CACHE", "IO", "fp32"]

CONSTANTS, CACHE, IO = range(3)
"""Memory regions."""


def fp32(value):
    """Bit pattern of a value rounded to FP32."""
    return int(np.float32(value).view(np.uint32))


def _moved(place, groups):
    """A place in the scratchpad, fixed or Dynamic, so many groups on."""
    if not isinstance(place, Dynamic):
        return place + groups
    return place._replace(base=place.base + groups, maximum=place.maximum + groups)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a layer's data lies in memory.

    constants : dict       offsets of constants and weights by name
    kv : KvLayout
    row_bytes : int        bytes of a token's row of input and output
    input, output : int    offsets of the rows
    """

    constants: dict
    kv: KvLayout
    row_bytes: int
    input: int
    output: int


class LayerBuilder:
    """State and helpers of one entry point's program.

    Decode takes one token and the query heads of a KV group as rows; prefill takes the tokens as rows, head after head.
    The values a run depends on are in registers: ``position``, and as Dynamic ``tokens``, ``kv_rows`` (tokens times
    KV heads), ``context``, ``k_tiles`` (tiles of K that hold the context), ``scale_bytes`` (V scales of the context).
    ``heads_rotated`` query heads have had their RoPE. ``head``, ``hidden`` and ``context_groups`` are sizes in
    scratchpad groups.
    """

    def __init__(self, config, shape, plan, place, *, decode):
        self.config, self.shape, self.plan, self.place, self.decode = config, shape, plan, place, decode
        self.program = Program(config)
        self.streams = Streams(self.program)
        self.group = shape.heads // shape.kv_heads
        self.head, self.hidden = self.groups(shape.head_dim), self.groups(shape.hidden)
        self.context_groups = self.groups(place.kv.context)
        self.heads_rotated = 0
        self._registers()

    def _registers(self):
        p, lanes, kv = self.program, self.config.lanes, self.place.kv
        shift = lanes.bit_length() - 1
        self.position, tokens = p.argument(0, "position"), p.argument(1, "tokens")
        context, tiles, size = (p.register(name) for name in ("context", "k_tiles", "scale_bytes"))
        if self.decode:
            p.scalar(ScalarOp.ADD, context, self.position, 1)
            self.tokens, self.kv_rows = 1, self.shape.kv_heads
        else:
            p.scalar(ScalarOp.ADD, context, self.position, rt=tokens)
            kv_rows = p.scalar(ScalarOp.MUL, p.register("kv_rows"), tokens, self.shape.kv_heads)
            self.tokens = Dynamic(tokens, self.plan.tokens)
            self.kv_rows = Dynamic(kv_rows, self.plan.tokens * self.shape.kv_heads)
        p.scalar(ScalarOp.ADD, tiles, context, lanes - 1)
        p.scalar(ScalarOp.SHR, tiles, tiles, shift)
        p.scalar(ScalarOp.SHL, size, context, 2)
        p.scalar(ScalarOp.ADD, size, size, lanes - 1)
        p.scalar(ScalarOp.SHR, size, size, shift)
        p.scalar(ScalarOp.SHL, size, size, shift)
        self.context = Dynamic(context, kv.context)
        self.k_tiles = Dynamic(tiles, -(-kv.context // lanes))
        self.scale_bytes = Dynamic(size, kv.scale_head_bytes)

    def groups(self, words):
        """Scratchpad groups that hold so many words."""
        return -(-words // self.config.group_words)

    def tiles(self, n):
        """Tiles of n outputs."""
        return -(-n // self.config.lanes)

    def function(self, name):
        """Value of a VECTOR's field ``function``."""
        return 1 + self.config.functions.index(name)

    def pieces(self, n, size):
        """Cut n outputs at tiles' borders into pieces of about ``size`` outputs: [(first, count), ...]."""
        step = max(self.config.lanes, size // self.config.lanes * self.config.lanes)
        return [(first, min(step, n - first)) for first in range(0, n, step)]

    # Commands.

    def vector(self, n, rows, **fields):
        return self.program.emit(Opcode.VECTOR, n=n, rows=rows, **fields)

    def load(self, name, region, offset, *, behind=0, **fields):
        """LOAD to the scratchpad value ``name``, ``behind`` groups from its start."""
        return self.program.emit(Opcode.LOAD, region=region, offset=offset, planes=1, **{"rows": 1} | fields,
                                 scratch=(self.plan.scratch[name] + behind) * self.config.bus_bytes)

    def plan_weights(self, name, k, tiles, *, matmuls):
        """Plan the STREAM of weights that lie at the constant ``name``."""
        tile_bytes = self.config.lanes * (k + 2 * -(-k // BLOCK))
        self.streams.plan(matmuls=matmuls, region=CONSTANTS, scaled=1, offset=self.place.constants[name], k=k,
                          tiles=tiles, tile_stride=tile_bytes)

    def norm(self, gain, target):
        """RMSNorm of x into the activation buffer."""
        at, shape = self.plan.scratch, self.shape
        self.vector(shape.hidden, self.tokens, a=at["x"], a_stride=self.hidden, square=1, reduce=Reduce.SUM,
                    result=at["sum"], result_stride=1)
        self.vector(1, self.tokens, a=at["sum"], a_stride=1,
                    b_kind=Operand.IMMEDIATE, b_immediate=fp32(1 / shape.hidden),
                    c_kind=Operand.IMMEDIATE, c_immediate=fp32(shape.norm_eps), function=self.function("rsqrt"),
                    dest=Dest.FP32, target=at["inverse"], target_stride=1)
        self.vector(shape.hidden, self.tokens, a=at["x"], a_stride=self.hidden, b_kind=Operand.ROW, b=at["inverse"],
                    b_stride=1, d_kind=Operand.STREAM, d=at[gain], dest=Dest.ACTIVATION,
                    target=self.plan.activation[target])

    def rotate(self, name, first, heads, all_heads):
        """RoPE in place on ``heads`` heads of a value with ``all_heads``, from head ``first`` on."""
        at, head = self.plan.scratch, self.head
        base, cos = at[name] + first * head, at["rope"]
        if self.decode:
            turns = [(base, head, heads, 0)]
        else:
            turns = [(base + h * head, all_heads * head, self.tokens, 2 * head) for h in range(heads)]
        for a, stride, rows, table_stride in turns:
            if self.config.group_words > 1:
                self.vector(self.shape.head_dim, rows, a=a, a_stride=stride, swap=1, b_kind=Operand.STREAM,
                            b=cos + head, b_stride=table_stride, dest=Dest.FP32, target=at["crossed"],
                            target_stride=head)
            elif self.decode:
                for h in range(rows):
                    self._cross(a + h * stride, cos + head, at["crossed"] + h * head)
            else:
                self._cross_tokens(a, stride, cos + head, table_stride, at["crossed"])
            self.vector(self.shape.head_dim, rows, a=a, a_stride=stride, b_kind=Operand.STREAM, b=cos,
                        b_stride=table_stride, c_kind=Operand.STREAM, c=at["crossed"], c_stride=head,
                        dest=Dest.FP32, target=a, target_stride=stride)

    def _cross(self, a, b, target):
        """The product of ``swap`` where a pair has no group in common: odd elements as rows, then even ones."""
        for even, odd in ((0, 1), (1, 0)):
            self.vector(1, self.shape.head_dim // 2, a=_moved(a, odd), a_stride=2, b_kind=Operand.STREAM,
                        b=_moved(b, even), b_stride=2, dest=Dest.FP32, target=_moved(target, even), target_stride=2)

    def _cross_tokens(self, a, a_step, b, b_step, target):
        """``_cross`` for each token's row of a head."""
        p, most = self.program, self.plan.tokens - 1
        names = ("cross_count", "cross_a", "cross_b", "cross_target")
        count, *registers = (p.register(name) for name in names)
        moves = list(zip(registers, (a, b, target), (a_step, b_step, self.head), strict=True))
        p.scalar(ScalarOp.ADD, count, self.tokens.register)
        for register, _, _ in moves:
            p.set(register, 0)
        with p.loop(count):
            self._cross(*(Dynamic(register, first + most * step, first, step) for register, first, step in moves))
            for register, _, step in moves:
                p.scalar(ScalarOp.ADD, register, register, step)
        p.release(*names)

    def project_to_residual(self, k, activation, pieces, then=lambda first, count: None):
        """x = x + projection, piece by piece, the vector unit one piece behind the array.

        ``then`` is called behind each piece's addition.
        """
        x, y, width = self.plan.scratch["x"], self.plan.scratch["y"], self.config.group_words

        def add(first, count):
            place = first // width
            self.vector(count, self.tokens, a=x + place, a_stride=self.hidden, c_kind=Operand.STREAM, c=y + place,
                        c_stride=self.hidden, dest=Dest.FP32, target=x + place, target_stride=self.hidden)
            then(first, count)

        for i, (first, count) in enumerate(pieces):
            self.streams.matmul(scaled=1, k=k, n=count, rows=self.tokens, activation=self.plan.activation[activation],
                                dest=y + first // width, dest_stride=self.hidden)
            self.streams.pump()
            if i:
                add(*pieces[i - 1])
        add(*pieces[-1])
