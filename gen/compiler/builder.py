"""What the parts of a layer's program share: registers, places, streams, and the commands that several parts use."""

from dataclasses import dataclass

import numpy as np

from tilewright.hw.commands import Dest, Opcode, Operand, Reduce, ScalarOp
from tilewright.hw.config import BLOCK
from tilewright.hw.vector.reduce import PARTIALS
from tilewright.hw.vector.unit import REPEATED_GROUPS

from .assembler import Dynamic
from .image import KvLayout
from .plan import ceil_to, vector_phases

__all__ = ["LayerBuilder", "Place", "CONSTANTS", "CACHE", "IO", "fp32", "moved"]

CONSTANTS, CACHE, IO = range(3)
"""Memory regions."""

REGISTERS = {"kv_rows", "used", "k_tiles", "scale_bytes", "slot", "first"}
"""Attributes of a LayerBuilder that stand for registers."""


def fp32(value):
    """Bit pattern of a value rounded to FP32."""
    return int(np.float32(value).view(np.uint32))


def moved(place, groups):
    """A place in the scratchpad, fixed or Dynamic, so many groups on."""
    if not isinstance(place, Dynamic):
        return place + groups
    return place._replace(base=place.base + groups, maximum=place.maximum + groups)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a layer's data lies in memory.

    constants : dict    offsets of constants and weights by name
    formats : dict      MatrixFormat of the weights by name
    kv : KvLayout
    cache : int         offset of the layer's KV cache
    context : int       positions, at most
    name : str          of the layer, for what is read and written in its cache
    """

    constants: dict
    formats: dict
    kv: KvLayout
    cache: int
    context: int
    name: str = ""


class LayerBuilder:
    """State and helpers of one entry point's program.

    Decode takes one token and the query heads of a KV group as rows; prefill takes the tokens as rows, head after head.
    The values a run depends on are in registers: ``position`` and, of a ring, ``slot`` and ``first`` (the first slot
    that the first token sees); and as Dynamic ``tokens``, ``kv_rows`` (tokens times KV heads), ``used`` (slots in use),
    ``k_tiles`` (tiles of K that hold them), ``scale_bytes`` (their V scales).
    ``head``, ``hidden`` and ``slot_groups`` are sizes in
    scratchpad groups. ``summed`` says that the root mean squares of x are there before the layer's first norm.
    """

    summed = False

    def __init__(self, config, shape, plan, place, *, decode, program, streams):
        self.config, self.shape, self.plan, self.place, self.decode = config, shape, plan, place, decode
        self.weights, self.kv = plan.weights, plan.kv
        self.program, self.streams = program, streams
        self.group = shape.heads // shape.kv_heads
        self.head, self.hidden = self.groups(shape.head_dim), self.groups(shape.hidden)
        self.slot_groups = self.groups(place.kv.slots)
        self.position = program.argument(0, "position")
        tokens = program.argument(1, "tokens")
        self.tokens = 1 if decode else Dynamic(tokens, plan.tokens)

    def set_registers(self, previous=None):
        """Compute what the layer's commands take from registers, from the arguments; what the ``previous`` layer
        computed stays, if it was the same."""
        if previous and (self.place.kv, self.shape.window) == (previous.place.kv, previous.shape.window):
            for name in REGISTERS & vars(previous).keys():
                setattr(self, name, getattr(previous, name))
            return
        p, kv, beat = self.program, self.place.kv, self.config.bus_bytes
        used, tiles = p.register("used"), p.register("k_tiles")
        if self.decode:
            p.scalar(ScalarOp.ADD, used, self.position, 1)
            self.kv_rows = self.shape.kv_heads
        else:
            tokens = self.tokens.register
            p.scalar(ScalarOp.ADD, used, self.position, rt=tokens)
            kv_rows = p.scalar(ScalarOp.MUL, p.register("kv_rows"), tokens, self.shape.kv_heads)
            self.kv_rows = Dynamic(kv_rows, self.plan.tokens * self.shape.kv_heads)
        if kv.ring:
            p.scalar(ScalarOp.MIN, used, used, kv.slots)
            self._ring_registers()
        shift = kv.outputs.bit_length() - 1
        p.scalar(ScalarOp.ADD, tiles, used, kv.outputs - 1)
        p.scalar(ScalarOp.SHR, tiles, tiles, shift)
        self.used = Dynamic(used, kv.slots)
        self.k_tiles = Dynamic(tiles, -(-kv.slots // kv.outputs))
        if kv.format.scaled:
            size = p.scalar(ScalarOp.SHL, p.register("scale_bytes"), used, 2)
            p.scalar(ScalarOp.ADD, size, size, beat - 1)
            p.scalar(ScalarOp.AND, size, size, -beat)
            self.scale_bytes = Dynamic(size, kv.scale_head_bytes)

    def _ring_registers(self):
        """``first`` is 16 bits in two's complement: negative while the window reaches back before position 0."""
        p, slots, last = self.program, self.place.kv.slots, self.place.context - 1
        self.slot = p.modulo(p.register("slot"), self.position, slots, last)
        self.first = p.scalar(ScalarOp.ADD, p.register("first"), self.position, 1 - self.shape.window)
        sign, wrapped = p.register("sign"), p.register("wrapped")
        p.scalar(ScalarOp.SHR, sign, self.first, 31)
        with p.skip_if(sign):
            p.modulo(wrapped, self.first, slots, last)
            p.scalar(ScalarOp.ADD, self.first, wrapped)
        p.scalar(ScalarOp.AND, self.first, self.first, 0xFFFF)
        p.release("sign", "wrapped")

    def label(self, part):
        """The program's commands inside are for this part of the layer."""
        return self.program.label(f"layer {self.place.name.strip()}/{part}" if self.place.name else part)

    def groups(self, words):
        """Scratchpad groups that hold so many words."""
        return -(-words // self.config.group_words)

    def function(self, name):
        """Value of a VECTOR's field ``function``."""
        return 1 + self.config.functions.index(name)

    def pieces(self, n, size):
        """Cut n outputs at tiles' borders into pieces of about ``size`` outputs: [(first, count), ...]."""
        outputs = self.weights.outputs
        step = max(outputs, size // outputs * outputs)
        return [(first, min(step, n - first)) for first in range(0, n, step)]

    def operand(self, value, k):
        """Fields of a VECTOR that makes the first reduction indices of ``value`` (k of them a row) for a matmul with
        weights."""
        return {**self.weights.activation, "target": self.plan.activation[value], "group_stride": ceil_to(k, BLOCK)}

    # Commands.

    def vector(self, n, rows, **fields):
        return self.program.emit(Opcode.VECTOR, n=n, rows=rows, **fields)

    def in_place(self, n, rows, a, stride, **fields):
        """A VECTOR whose FP32 result takes the place of its operand."""
        return self.vector(n, rows, a=a, a_stride=stride, dest=Dest.FP32, target=a, target_stride=stride, **fields)

    def cached(self, part):
        """Name of a part of the layer's KV cache ('k', 'v', 'v_scale'), for ``reads`` and ``writes``."""
        return f"{self.place.name}{part}"

    def load(self, name, region, offset, *, behind=0, **fields):
        """LOAD to the scratchpad value ``name``, ``behind`` groups from its start."""
        return self.program.emit(Opcode.LOAD, region=region, offset=offset, planes=1, **{"rows": 1} | fields,
                                 scratch=(self.plan.scratch[name] + behind) * self.config.bus_bytes)

    def load_vectors(self, phase):
        """LOAD the gains and biases that are needed from this phase on."""
        for name, (first, _) in vector_phases(self.shape).items():
            if first == phase:
                self.load(name, CONSTANTS, self.place.constants[name],
                          count=self.groups(self.shape.vector_sizes[name]) * self.config.bus_bytes)

    def plan_weights(self, name, k, tiles, *, matmuls, skipped=0):
        """Plan the STREAM of weights that lie at the constant ``name``, ``skipped`` tiles behind its start."""
        weights = self.place.formats[name]
        size = weights.tile_bytes(k)
        self.streams.plan(matmuls=matmuls, region=CONSTANTS, **weights.stream,
                          offset=self.place.constants[name] + skipped * size, k=k, tiles=tiles, tile_stride=size)

    def project(self, k, n, *, activation, dest, dest_stride):
        """MATMUL of all tokens with weights."""
        self.streams.matmul(k=k, n=n, rows=self.tokens, dest=dest, dest_stride=dest_stride,
                            activation=self.plan.activation[activation], group_stride=ceil_to(k, BLOCK))

    def add_bias(self, name, value, n, stride, rows=None):
        """Add a bias, if the layer has it, to each row of ``value`` in place."""
        if name in self.shape.vector_sizes:
            self.in_place(n, self.tokens, self.plan.scratch[value], stride, c_kind=Operand.STREAM,
                          c=self.plan.scratch[name])

    # Norms.

    def norm(self, name, source, n, *, rows=None, summed=False, **target):
        """Norm ``name`` of rows in the scratchpad, n long each: all tokens' of the value ``source``, or ``rows`` rows
        from the group ``source`` on; with ``summed`` their root mean squares are there.

        ``target`` are the fields that say where the result goes; without any it takes the place of the source.
        """
        at, stride = self.plan.scratch, self.groups(n)
        rows, place = (self.tokens, at[source]) if rows is None else (rows, source)
        in_place = {"dest": Dest.FP32, "target": place, "target_stride": stride}
        if self.shape.norm == "rms_norm":
            self._rms_norm(name, n, rows, place, stride, target or in_place, summed)
            return
        centred = at["centred"] if source == "x" and target and "centred" in at else place
        self.vector(n, rows, a=place, a_stride=stride, reduce=Reduce.SUM, result=at["sum"], result_stride=1)
        self.vector(1, rows, a=at["sum"], a_stride=1, b_kind=Operand.IMMEDIATE, b_immediate=fp32(1 / n),
                    dest=Dest.FP32, target=at["mean"], target_stride=1)
        self.vector(n, rows, a=place, a_stride=stride, c_kind=Operand.ROW, c=at["mean"], c_stride=1, c_negate=1,
                    dest=Dest.FP32, target=centred, target_stride=stride)
        self._rms_norm(name, n, rows, centred, stride, in_place | {"target": centred})
        self.vector(n, rows, a=centred, a_stride=stride, c_kind=Operand.STREAM, c=at[f"{name}_bias"],
                    **target or in_place)

    def _rms_norm(self, name, n, rows, place, stride, target, summed=False):
        """Rows times gain, over their root mean square."""
        at = self.plan.scratch
        if not summed:
            self.vector(n, rows, a=place, a_stride=stride, square=1, reduce=Reduce.SUM, result=at["sum"],
                        result_stride=1)
            self._inverse(n, rows)
        width = self._shared_row(rows)
        for first in range(0, n, width or n):
            behind = first // self.config.group_words
            moved_on = first if target["dest"] == Dest.ACTIVATION else behind
            self.vector(min(width or n, n - first), rows, a=moved(place, behind), a_stride=stride, b_kind=Operand.ROW,
                        b=at["inverse"], b_stride=1, d_kind=Operand.STREAM, d=at[name] + behind,
                        **target | {"target": moved(target["target"], moved_on)})

    def _shared_row(self, rows):
        """Elements of a norm's gain that the vector unit reads but once for all rows of a command, in blocks of 32;
        0 where there is one row, or time to read them again."""
        words = self.config.group_words
        if self.decode or rows == 1 or self.config.vector_lanes < words:
            return 0
        return REPEATED_GROUPS * words // BLOCK * BLOCK

    def _inverse(self, n, rows):
        """Reciprocals of root mean squares, from the sums of n squares."""
        at = self.plan.scratch
        self.vector(1, rows, a=at["sum"], a_stride=1, b_kind=Operand.IMMEDIATE, b_immediate=fp32(1 / n),
                    c_kind=Operand.IMMEDIATE, c_immediate=fp32(self.shape.norm_eps), function=self.function("rsqrt"),
                    dest=Dest.FP32, target=at["inverse"], target_stride=1)

    def add_squares(self, source, sums, first, count, n):
        """Add the squares of the elements ``first`` .. ``first`` + ``count`` of the tokens' rows of ``source`` (n each)
        to the partial sums of SUM, which lie in the place of the first elements of ``sums``. Elements come in order."""
        width, stride, at = self.config.group_words, self.groups(n), self.plan.scratch
        while count:
            place = first % PARTIALS
            taken = min(count, PARTIALS - place)
            partial = {"target": at[sums] + place // width, "target_stride": stride}
            before = {"c_kind": Operand.STREAM, "c": partial["target"], "c_stride": stride} if first >= PARTIALS else {}
            self.vector(taken, self.tokens, a=at[source] + first // width, a_stride=stride, square=1, **before,
                        dest=Dest.FP32, **partial)
            first, count = first + taken, count - taken

    def root_mean_square(self, sums, n):
        """What ``norm`` begins with, from the partial sums that ``add_squares`` made of rows of n."""
        at = self.plan.scratch
        self.vector(min(n, PARTIALS), self.tokens, a=at[sums], a_stride=self.groups(n), reduce=Reduce.SUM,
                    result=at["sum"], result_stride=1)
        self._inverse(n, self.tokens)

    # Heads.

    def finish_heads(self, name, first, heads, all_heads, target=None):
        """Bias, norm and RoPE in place on ``heads`` heads of ``name`` ('q' or 'k'), which has ``all_heads``, from head
        ``first`` on.

        With ``target`` (fields of a VECTOR; one token or one head) the result goes there instead.
        """
        shape, at, head = self.shape, self.plan.scratch, self.head
        base, bias = at[name] + first * head, f"{name}_bias"
        if self.decode:
            turns = [(base, head, heads, first * head, head)]
        else:
            turns = [(base + h * head, all_heads * head, self.tokens, (first + h) * head, 0) for h in range(heads)]
        for a, stride, rows, bias_place, bias_stride in turns:
            fields = {"c_kind": Operand.STREAM, "c": at[bias] + bias_place, "c_stride": bias_stride} \
                if bias in shape.vector_sizes else {}
            self._finish_turn(name, a, stride, rows, fields, target)

    def _finish_turn(self, name, a, stride, rows, bias, target):
        """``finish_heads`` of rows at the group ``a``; ``bias`` are the fields that add it, if there is one."""
        shape, n = self.shape, self.shape.head_dim
        here = {"dest": Dest.FP32, "target": a, "target_stride": stride}
        steps = []
        if bias:
            steps.append(lambda to: self.vector(n, rows, a=a, a_stride=stride, **bias, **to))
        if shape.qk_norm:
            steps.append(lambda to: self._rms_norm(f"{name}_norm", n, rows, a, stride, to))
        if shape.rotary_dim:
            steps.append(lambda to: self._rotate(a, stride, rows, to))
        if target and (not steps or 0 < shape.rotary_dim < n):   # the last step leaves a part of the head alone
            steps.append(lambda to: self.vector(n, rows, a=a, a_stride=stride, **to))
        for step in steps[:-1]:
            step(here)
        for step in steps[-1:]:
            step(target or here)

    def _rotate(self, a, stride, rows, target):
        """RoPE: a row is a head of the one token in decode, a token in prefill."""
        turned, at = self.groups(self.shape.rotary_dim), self.plan.scratch
        cos, sin, table_stride = at["rope"], at["rope"] + turned, 0 if self.decode else 2 * turned
        if self.config.group_words > 1:
            self.vector(self.shape.rotary_dim, rows, a=a, a_stride=stride, swap=1, b_kind=Operand.STREAM, b=sin,
                        b_stride=table_stride, dest=Dest.FP32, target=at["crossed"], target_stride=turned)
        elif self.decode:
            for h in range(rows):
                self._cross(a + h * stride, sin, at["crossed"] + h * turned)
        else:
            self._cross_tokens(a, stride, sin, table_stride, at["crossed"], turned)
        self.vector(self.shape.rotary_dim, rows, a=a, a_stride=stride, b_kind=Operand.STREAM, b=cos,
                    b_stride=table_stride, c_kind=Operand.STREAM, c=at["crossed"], c_stride=turned, **target)

    def _cross(self, a, b, target):
        """The product of ``swap`` where a pair has no group in common: odd elements as rows, then even ones."""
        for even, odd in ((0, 1), (1, 0)):
            self.vector(1, self.shape.rotary_dim // 2, a=moved(a, odd), a_stride=2, b_kind=Operand.STREAM,
                        b=moved(b, even), b_stride=2, dest=Dest.FP32, target=moved(target, even), target_stride=2)

    def _cross_tokens(self, a, a_step, b, b_step, target, target_step):
        """``_cross`` for each token's row of a head."""
        p, most = self.program, self.plan.tokens - 1
        names = ("cross_count", "cross_a", "cross_b", "cross_target")
        count, *registers = (p.register(name) for name in names)
        moves = list(zip(registers, (a, b, target), (a_step, b_step, target_step), strict=True))
        p.scalar(ScalarOp.ADD, count, self.tokens.register)
        for register, _, _ in moves:
            p.set(register, 0)
        with p.loop(count):
            self._cross(*(Dynamic(register, first + most * step, first, step) for register, first, step in moves))
            for register, _, step in moves:
                p.scalar(ScalarOp.ADD, register, register, step)
        p.release(*names)
