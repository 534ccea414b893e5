"""Compiles a GEMM: FP32 rows times INT8 or FP16 weights, for measuring how busy the array is kept."""

from dataclasses import dataclass

from tilewright.gen.errors import UserError
from tilewright.hw.commands import Opcode
from tilewright.hw.config import BLOCK

from .assembler import Program
from .formats import MatrixFormat, format_of, tile_matrix
from .image import Image
from .plan import ceil_to
from .requirements import check_runs_programs
from .streams import Streams

__all__ = ["CompiledGemm", "compile_gemm"]

MOST_GROUPS = 4
"""Row groups that replay a tile, at most: with two the array already outruns no bus."""
MOST_OUTPUTS = 256
"""Outputs of a MATMUL, at most."""
LOAD_PARTS = 4
"""Parts in which a row group of X is brought in, at least: one is quantised while the next one is loaded."""


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

    groups : int          row groups that replay a tile, a set
    slots : int           sets that the activation buffer holds
    chunk : int           outputs of a MATMUL
    part, columns : int   rows and reduction indices of X loaded and quantised at a time; two parts in the scratchpad
    """

    groups: int
    slots: int
    chunk: int
    part: int
    columns: int


def _plan(config, fmt, *, rows, n, k):
    """The plan that should take the fewest cycles."""
    depth = ceil_to(k, BLOCK)
    most = MOST_GROUPS if fmt.tile_beats(k) <= config.prefetch_beats else 1
    plans = [plan for slots in (2, 1) for groups in range(min(most, config.activation_depth // (slots * depth)), 0, -1)
             if (plan := _fit(config, fmt, min(rows, fmt.rows), n, k, slots, groups))]
    if plans:
        return min(plans, key=lambda plan: _cycles(config, fmt, plan, rows, n, k))
    if depth > config.activation_depth:
        raise UserError(f"{config.name}: k = {k} needs activation_depth = {depth}, "
                        f"{depth - config.activation_depth} more than {config.activation_depth}; "
                        "reduce k or change activation_depth")
    needed = 8 * (BLOCK + fmt.rows * fmt.outputs)
    raise UserError(f"{config.name}: a GEMM needs scratchpad_bytes = {needed}, "
                    f"{needed - config.scratchpad_bytes} more than {config.scratchpad_bytes}; change scratchpad_bytes")


def _fit(config, fmt, rows, n, k, slots, groups):
    """The plan with the largest parts of X that leave room for two whole chunks of C, or the one with the largest
    chunks; None if there is no room at all."""
    best, outputs, parts = None, min(MOST_OUTPUTS, ceil_to(n, fmt.outputs)), LOAD_PARTS
    while True:
        part, columns = max(1, rows // parts), min(k, ceil_to(-(-k * rows // parts), BLOCK))
        left = config.scratchpad_groups - 2 * part * -(-columns // config.group_words)
        chunk = left * config.group_words // (2 * groups * fmt.rows) // fmt.outputs * fmt.outputs
        if chunk > (best.chunk if best else 0):
            best = _Plan(groups=groups, slots=slots, chunk=min(chunk, outputs), part=part, columns=columns)
        if best and best.chunk == outputs or columns <= BLOCK:
            return best
        parts *= 2


def _cycles(config, fmt, plan, rows, n, k):
    """Cycles of the array, the bus or the vector unit, whichever takes longest, and of what nothing runs under."""
    row_groups = fmt.groups(rows)
    weights = -(-row_groups // plan.groups) * fmt.tiles(n) * fmt.tile_bytes(k) // config.bus_bytes
    array = row_groups * fmt.tiles(n) * k
    x, vector = rows * -(-k // config.group_words), rows * k // config.vector_lanes
    if plan.slots == 1:   # a set is brought in while the array stands still
        return max(array, weights) + max(x, vector)
    first = min(1, plan.groups * fmt.rows / rows)
    return max(array, weights + x, vector) + first * max(x, vector)


def compile_gemm(config, weights, *, rows):
    """Compile a product of ``rows`` FP32 rows with ``weights``: INT8 or INT4 (q int8 [n, k], d float16 [n, blocks],
    INT4 with m float16 [n, blocks] or None) or FP16 (float16 [n, k]).

    A set of row groups shares each weight tile; the next set is loaded and quantised, and results are stored, under the
    matmuls. The program is unrolled. Raises UserError where it does not fit.
    """
    check_runs_programs(config)
    fmt = MatrixFormat(config, format_of(weights))
    if fmt.unit not in config.formats:
        raise UserError(f"{config.name}: weights in {fmt.unit} need it in formats = {list(config.formats)}; add it")
    n, k = weights.shape if fmt.name == "fp16" else weights.q.shape
    plan, beat = _plan(config, fmt, rows=rows, n=n, k=k), config.bus_bytes
    image = Image()
    tiles = image.add(tile_matrix(weights, config).tobytes(), align=config.burst_bytes)
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
        self.x_groups = -(-plan.columns // config.group_words)   # of a row of a part
        self.c_base = 2 * plan.part * self.x_groups
        self.chunks = [(first, min(plan.chunk, n - first)) for first in range(0, n, plan.chunk)]
        self.multiplied = 0
        self.depth = ceil_to(k, BLOCK)
        self.loaded = 0

    def build(self):
        """The program's bytes."""
        sets = self._sets()
        replays = sets[0][1] > self.format.rows
        if not replays:   # the bus is what takes longest: it has to be busy at once
            self._plan_streams(sets)
        *parts, last = self._parts(0, sets)
        for part in parts:
            self._quantise(self._load(*part)[0], *part)
        place, loaded = self._load(*last)
        if replays:       # the array is: nothing may slow down the loads that it waits for
            self._plan_streams(sets, after=(loaded,))
        self._quantise(place, *last)
        waiting = None
        for number, (first, rows) in enumerate(sets):
            following, chunks = self._parts(number + 1, sets), self._chunks(number, sets)
            share = -(-len(following) // len(chunks)) if self.plan.slots > 1 else 0
            for output, count in chunks:
                place = self._matmul(number, rows, count)
                self.streams.pump()
                if waiting:
                    self._store(*waiting)
                waiting = (first, rows, output, count, place)
                for part in following[:share]:
                    self._quantise(self._load(*part)[0], *part)
                following = following[share:]
            for part in following:
                self._quantise(self._load(*part)[0], *part)
        self._store(*waiting)
        self.program.end()
        return self.program.assemble()

    def _plan_streams(self, sets, after=()):
        """A STREAM for each set, the first ones issued now."""
        for number in range(len(sets)):
            self.streams.plan(matmuls=len(self._chunks(number, sets)), region=0, **self.format.stream,
                              offset=self.weights, k=self.k, tiles=self.format.tiles(self.n),
                              tile_stride=self.format.tile_bytes(self.k), after=() if number else after)
        self.streams.pump()

    def _sets(self):
        """(first row, rows) of each set, the row groups spread evenly."""
        size = self.format.rows
        groups = -(-self.rows // size)
        count = -(-groups // self.plan.groups)
        edges = [min(self.rows, size * (groups * i // count)) for i in range(count)] + [self.rows]
        return [(first, end - first) for first, end in zip(edges, edges[1:], strict=False)]

    def _chunks(self, number, sets):
        """(first output, outputs) of each MATMUL of set ``number``. The last ones of all become smaller and smaller,
        since nothing hides the storing of the last one's results."""
        if number < len(sets) - 1:
            return self.chunks
        *chunks, (first, count) = self.chunks
        while count > self.format.outputs:
            taken = ceil_to(count // 2, self.format.outputs)
            chunks.append((first, taken))
            first, count = first + taken, count - taken
        return [*chunks, (first, count)]

    def _parts(self, number, sets):
        """(set, row in the set, first row, rows, first column, columns) of each part that brings set ``number`` into
        the activation buffer."""
        if number == len(sets):
            return []
        first, rows = sets[number]
        return [(number, row, first + row, min(self.plan.part, rows - row), column,
                 min(self.plan.columns, self.k - column))
                for row in range(0, rows, self.plan.part) for column in range(0, self.k, self.plan.columns)]

    def _slot(self, number):
        return number % self.plan.slots * self.plan.groups * self.depth

    def _load(self, number, row, first, rows, column, columns):
        """Load a part, alternating between two places in the scratchpad; returns the place and the LOAD's token."""
        place, beat = self.loaded % 2 * self.plan.part * self.x_groups, self.config.bus_bytes
        self.loaded += 1
        token = self.program.emit(Opcode.LOAD, region=2, offset=first * self.x_row + 4 * column, rows=rows, planes=1,
                                  count=ceil_to(4 * columns, beat), row_stride=self.x_row, scratch=place * beat,
                                  scratch_row_stride=self.x_groups * beat)
        return place, token

    def _quantise(self, place, number, row, first, rows, column, columns):
        """Round a part that lies at ``place``."""
        group, inside = divmod(row, self.format.rows)
        self.program.emit(Opcode.VECTOR, n=columns, rows=rows, a=place, a_stride=self.x_groups, target_stride=inside,
                          target=self._slot(number) + group * self.depth + column, **self.format.activation)

    def _matmul(self, number, rows, count):
        """Returns the scratchpad group of the results."""
        stride = -(-self.plan.chunk // self.config.group_words)
        place = self.c_base + self.multiplied % 2 * self.plan.groups * self.format.rows * stride
        self.multiplied += 1
        self.streams.matmul(k=self.k, n=count, rows=rows,
                            activation=self._slot(number), group_stride=self.depth, dest=place, dest_stride=stride)
        return place

    def _store(self, first, rows, output, count, place):
        beat, stride = self.config.bus_bytes, -(-self.plan.chunk // self.config.group_words)
        offset = self.rows * self.x_row + first * self.c_row + 4 * output
        self.program.emit(Opcode.STORE, region=2, offset=offset, rows=rows, planes=1, count=4 * count,
                          row_stride=self.c_row, scratch=place * beat, scratch_row_stride=stride * beat)
