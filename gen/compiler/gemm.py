"""Compiles a GEMM: FP32 rows times INT8 or FP16 weights, for measuring how busy the array is kept."""

from dataclasses import dataclass

from tilewright.gen.errors import UserError
from tilewright.hw.commands import Opcode
from tilewright.hw.config import BLOCK

from .assembler import Program
from .formats import MatrixFormat, format_of, tile_matrix
from .image import WEIGHT_ALIGNMENT, Image
from .plan import ceil_to
from .streams import Streams

__all__ = ["CompiledGemm", "compile_gemm"]

MOST_GROUPS = 4
"""Row groups that replay a tile, at most: with two the array already outruns no bus."""
MOST_OUTPUTS = 128
"""Outputs of a MATMUL, at most; the last one's results are stored when the array is done."""
LOAD_PARTS = 4
"""Parts in which the rows of a row group are loaded and quantised, so that the first ones take little time."""


@dataclass(frozen=True, kw_only=True)
class CompiledGemm:
    """C [m, n] = X [m, k] W [n, k]^T, X rounded to the format that goes with W's, ready to run.

    image : bytes            region 0: program at offset ``program`` and weights
    program : int
    x, x_row_bytes : int     X in region 2, FP32 rows padded to beats
    c, c_row_bytes : int     C behind it, alike
    io_size : int            bytes of region 2
    macs : int               multiply-accumulates asked for
    peak : int               multiply-accumulates a cycle at peak
    weight_beats : int       beats of the bus that hold the weights with their scales
    labels : dict            Label of each command, by its offset in region 0
    """

    image: bytes
    program: int
    x: int
    x_row_bytes: int
    c: int
    c_row_bytes: int
    io_size: int
    macs: int
    peak: int
    weight_beats: int
    labels: dict


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How a GEMM is cut.

    groups : int    row groups that replay a tile, a set
    slots : int     sets that the activation buffer holds
    chunk : int     outputs of a MATMUL
    part : int      rows of X loaded and quantised at a time; two parts in the scratchpad
    """

    groups: int
    slots: int
    chunk: int
    part: int


def _plan(config, fmt, k, n):
    """The plan that reads weights least often, quantising under the matmul where the buffer is deep enough."""
    depth, row = ceil_to(k, BLOCK), -(-k // config.group_words)
    most = MOST_GROUPS if fmt.tile_beats(k) <= config.prefetch_beats else 1
    outputs, part = min(MOST_OUTPUTS, ceil_to(n, fmt.outputs)), max(1, fmt.rows // LOAD_PARTS)
    for slots in (2, 1):
        for groups in range(min(most, config.activation_depth // (slots * depth)), 0, -1):
            rows = groups * fmt.rows
            left = config.scratchpad_groups - 2 * part * row  # for two chunks of C
            chunk = left * config.group_words // (2 * rows) // fmt.outputs * fmt.outputs
            if chunk > 0:
                return _Plan(groups=groups, slots=slots, chunk=min(chunk, outputs), part=part)
    if depth > config.activation_depth:
        raise UserError(f"{config.name}: k = {k} needs activation_depth = {depth}, "
                        f"{depth - config.activation_depth} more than {config.activation_depth}; "
                        "reduce k or change activation_depth")
    needed = 8 * (part * row * config.group_words + fmt.rows * fmt.outputs)
    raise UserError(f"{config.name}: k = {k} needs scratchpad_bytes = {needed}, "
                    f"{needed - config.scratchpad_bytes} more than {config.scratchpad_bytes}; "
                    "reduce k or change scratchpad_bytes")


def compile_gemm(config, weights, *, rows):
    """Compile a product of ``rows`` FP32 rows with ``weights``: INT8 or INT4 (q int8 [n, k], d float16 [n, blocks],
    INT4 with m float16 [n, blocks] or None) or FP16 (float16 [n, k]).

    A set of row groups shares each weight tile; the next set is loaded and quantised, and results are stored, under the
    matmuls. The program is unrolled. Raises UserError where it does not fit.
    """
    fmt = MatrixFormat(config, format_of(weights))
    if fmt.unit not in config.formats:
        raise UserError(f"{config.name}: weights in {fmt.unit} need it in formats = {list(config.formats)}; add it")
    n, k = weights.shape if fmt.name == "fp16" else weights.q.shape
    plan, beat = _plan(config, fmt, k, n), config.bus_bytes
    image = Image()
    tiles = image.add(tile_matrix(weights, config).tobytes(), align=WEIGHT_ALIGNMENT)
    x_row, c_row = ceil_to(4 * k, beat), ceil_to(4 * n, beat)
    gemm = _Gemm(config, fmt, plan, rows=rows, n=n, k=k, weights=tiles, x_row=x_row, c_row=c_row)
    program = image.add(gemm.build())
    labels = gemm.program.labels(program)
    return CompiledGemm(image=image.data, program=program, x=0, x_row_bytes=x_row, c=rows * x_row, c_row_bytes=c_row,
                        io_size=rows * (x_row + c_row), macs=rows * n * k, peak=fmt.rows * fmt.outputs,
                        weight_beats=fmt.tiles(n) * fmt.tile_bytes(k) // beat, labels=labels)


class _Gemm:
    def __init__(self, config, fmt, plan, *, rows, n, k, weights, x_row, c_row):
        self.config, self.format, self.plan, self.rows, self.n, self.k = config, fmt, plan, rows, n, k
        self.weights, self.x_row, self.c_row = weights, x_row, c_row
        self.program = Program(config, where="gemm")
        self.streams = Streams(self.program)
        self.x_groups = x_row // config.bus_bytes
        self.c_base = 2 * plan.part * self.x_groups
        self.chunks = [(first, min(plan.chunk, n - first)) for first in range(0, n, plan.chunk)]
        self.depth = ceil_to(k, BLOCK)
        self.loaded = 0

    def build(self):
        """The program's bytes."""
        sets = self._sets()
        for _ in sets:
            self.streams.plan(matmuls=len(self.chunks), region=0, **self.format.stream,
                              offset=self.weights, k=self.k, tiles=self.format.tiles(self.n),
                              tile_stride=self.format.tile_bytes(self.k))
        self.streams.pump()
        for part in self._parts(0, sets):
            self._quantise(*part)
        waiting = None
        for number, (first, rows) in enumerate(sets):
            following = self._parts(number + 1, sets)
            share = -(-len(following) // len(self.chunks)) if self.plan.slots > 1 else 0
            for chunk, (output, count) in enumerate(self.chunks):
                place = self._matmul(number, chunk, rows, count)
                self.streams.pump()
                if waiting:
                    self._store(*waiting)
                waiting = (first, rows, output, count, place)
                for part in following[:share]:
                    self._quantise(*part)
                following = following[share:]
            for part in following:
                self._quantise(*part)
        self._store(*waiting)
        self.program.end()
        return self.program.assemble()

    def _sets(self):
        """(first row, rows) of each set, the row groups spread evenly."""
        size = self.format.rows
        groups = -(-self.rows // size)
        count = -(-groups // self.plan.groups)
        edges = [min(self.rows, size * (groups * i // count)) for i in range(count)] + [self.rows]
        return [(first, end - first) for first, end in zip(edges, edges[1:], strict=False)]

    def _parts(self, number, sets):
        """(set, row in the set, first row, rows) of each part that brings set ``number`` into the activation buffer."""
        if number == len(sets):
            return []
        first, rows = sets[number]
        return [(number, row, first + row, min(self.plan.part, rows - row)) for row in range(0, rows, self.plan.part)]

    def _slot(self, number):
        return number % self.plan.slots * self.plan.groups * self.depth

    def _quantise(self, number, row, first, rows):
        """Load and quantise a part, alternating between two places in the scratchpad."""
        place = self.loaded % 2 * self.plan.part * self.x_groups
        self.loaded += 1
        self.program.emit(Opcode.LOAD, region=2, offset=first * self.x_row, rows=rows, planes=1, count=self.x_row,
                          row_stride=self.x_row, scratch=place * self.config.bus_bytes, scratch_row_stride=self.x_row)
        group, inside = divmod(row, self.format.rows)
        self.program.emit(Opcode.VECTOR, n=self.k, rows=rows, a=place, a_stride=self.x_groups, target_stride=inside,
                          target=self._slot(number) + group * self.depth, **self.format.activation)

    def _matmul(self, number, chunk, rows, count):
        """Returns the scratchpad group of the results."""
        stride = -(-self.plan.chunk // self.config.group_words)
        place = self.c_base + (number * len(self.chunks) + chunk) % 2 * self.plan.groups * self.format.rows * stride
        self.streams.matmul(k=self.k, n=count, rows=rows,
                            activation=self._slot(number), group_stride=self.depth, dest=place, dest_stride=stride)
        return place

    def _store(self, first, rows, output, count, place):
        beat, stride = self.config.bus_bytes, -(-self.plan.chunk // self.config.group_words)
        offset = self.rows * self.x_row + first * self.c_row + 4 * output
        self.program.emit(Opcode.STORE, region=2, offset=offset, rows=rows, planes=1, count=4 * count,
                          row_stride=self.c_row, scratch=place * beat, scratch_row_stride=stride * beat)
