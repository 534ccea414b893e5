"""What each command of a run moved and multiplied: the program followed along a timeline, with its registers."""

from bisect import bisect_right
from collections import defaultdict, deque
from typing import NamedTuple

import numpy as np

from tilewright.gen.compiler.builder import CACHE, CONSTANTS
from tilewright.hw.commands import (
    COMMAND_WORDS,
    HEADER,
    PATCHES,
    REGISTERS,
    Condition,
    Element,
    Format,
    Opcode,
    ScalarOp,
    Unit,
    decode,
)
from tilewright.hw.config import BLOCK

from .trace import SEQUENCER
from .weight_tiles import block_bytes

__all__ = ["MATRICES", "TENSORS", "PROGRAM", "Work", "work_of"]

MATRICES = {"projections": "q/k/v_proj", "attention": "q/k/v_proj", "o_proj": "o_proj", "up_proj": "up/gate_proj",
            "down_proj": "down_proj", "lm_head": "lm_head"}
"""Class of the weights that a STREAM with a label's last part reads: q_proj is read until attention ends."""
KEYS, VALUES, EMBEDDING, VECTORS, IN_OUT, OTHER, PROGRAM = (
    "K", "V", "embedding", "norms, biases, RoPE", "input and output", "other", "program")
TENSORS = (*dict.fromkeys(MATRICES.values()), KEYS, VALUES, EMBEDDING, VECTORS, IN_OUT, OTHER, PROGRAM)
"""Classes of tensors, in the order in which they are shown."""
_ELEMENT_BYTES = {Element.ROW: 1, Element.BYTE: 1, Element.HALF: 2, Element.WORD: 4}


class Work(NamedTuple):
    """A command's share: ``bytes`` of the class ``tensor`` moved, or (MATMUL) ``macs`` with a matrix of that class in
    ``number_format``."""

    tensor: str
    bytes: int = 0
    macs: int = 0
    number_format: str = ""

    def as_json(self):
        """What is known, by name."""
        return {name: value for name, value in self._asdict().items() if value}


def work_of(timeline, *, config, image, arguments, caches):
    """Work by Event, for each command that moves data or multiplies.

    timeline : Timeline
    config : AcceleratorConfig
    image : bytes            region 0
    arguments : sequence     of each run, a tuple of its arguments
    caches : sequence        (KvLayout, offset in region 1) of each layer, by offset

    What a READ brings counts as zero: the compiler's programs take nothing but places from memory, no sizes.
    """
    events, result = defaultdict(deque), {}
    for event in timeline.events:
        events[event.run, event.track].append(event)
    for run, values in enumerate(arguments):
        follower = _Follower(config, image, values, caches, timeline.labels)
        for event in events[run, SEQUENCER]:
            opcode, work = follower.step(event.offset)
            track = Unit[opcode.name] if opcode.name in Unit.__members__ else SEQUENCER
            if track != SEQUENCER:
                queue = events[run, track]
                event = queue.popleft() if queue else None  # an error may leave commands that no unit began
            if work and event:
                result[event] = work
    return result


class _Follower:
    """Registers and streams of one run, along the commands that it went through."""

    def __init__(self, config, image, arguments, caches, labels):
        self._config, self._image, self._labels = config, image, labels
        self._cache_offsets, self._layouts = [offset for _, offset in caches], [layout for layout, _ in caches]
        self._registers = [0, *arguments, *[0] * (REGISTERS - 1 - len(arguments))]
        self._streams = deque()  # [class, tiles left]

    def step(self, offset):
        """Opcode and Work (or None) of the command at ``offset``."""
        opcode, fields = self._command(offset)
        part = self._labels[offset].text.rpartition("/")[2]
        work = {Opcode.SCALAR: self._scalar, Opcode.BRANCH: self._branch, Opcode.STREAM: self._stream,
                Opcode.MATMUL: self._matmul, Opcode.LOAD: self._transfer, Opcode.STORE: self._transfer}.get(opcode)
        return opcode, work(opcode, fields, part) if work else None

    def _command(self, offset):
        """The command with its registers added."""
        words = np.frombuffer(self._image, "<u4", COMMAND_WORDS, offset).tolist()
        for i in range(PATCHES):
            word, register = (words[1] >> HEADER[f"patch{i}_{part}"].lsb & 15 for part in ("word", "register"))
            if register:
                words[word] = words[word] + self._registers[register] & 0xFFFFFFFF
        return decode(words)

    def _scalar(self, _, fields, part):
        a, op = self._registers[fields["rs"]], fields["op"]
        b = self._registers[fields["rt"]] + fields["immediate"] & 0xFFFFFFFF
        value = {ScalarOp.ADD: a + b, ScalarOp.SUB: a - b, ScalarOp.MUL: a * b, ScalarOp.AND: a & b,
                 ScalarOp.SHL: a << b if b < 32 else 0, ScalarOp.SHR: a >> b if b < 32 else 0,
                 ScalarOp.MIN: min(a, b), ScalarOp.READ: 0}[op]
        if fields["rd"]:
            self._registers[fields["rd"]] = value & 0xFFFFFFFF
        if op != ScalarOp.READ:
            return None
        return Work(self._tensor(Opcode.LOAD, fields["region"], 0, part), self._config.bus_bytes)

    def _branch(self, _, fields, part):
        if fields["condition"] == Condition.LOOP and fields["rs"]:
            self._registers[fields["rs"]] = self._registers[fields["rs"]] - 1 & 0xFFFFFFFF

    def _stream(self, opcode, fields, part):
        tensor = self._tensor(opcode, fields["region"], fields["offset"], part)
        k, tiles = fields["k"], fields["tiles"]
        self._streams.append([tensor, tiles])
        whole, rest = divmod(k, BLOCK)
        size = whole * block_bytes(fields, BLOCK, self._config)[1]
        return Work(tensor, tiles * (size + (block_bytes(fields, rest, self._config)[1] if rest else 0)))

    def _matmul(self, _, fields, part):
        number_format = Format(fields["format"])
        outputs = self._config.lanes // 2 if number_format == Format.FP16 else self._config.lanes
        tensor, left = self._streams[0][0], -(-fields["n"] // outputs)
        while left:
            taken = min(left, self._streams[0][1])
            left -= taken
            self._streams[0][1] -= taken
            if not self._streams[0][1]:
                self._streams.popleft()
        return Work(tensor, macs=fields["rows"] * fields["n"] * fields["k"], number_format=number_format.name.lower())

    def _transfer(self, opcode, fields, part):
        width = _ELEMENT_BYTES[Element(fields["element"])] if opcode == Opcode.STORE else 1
        return Work(self._tensor(opcode, fields["region"], fields["offset"], part),
                    fields["planes"] * fields["rows"] * fields["count"] * width)

    def _tensor(self, opcode, region, offset, part):
        if region == CACHE:
            layer = bisect_right(self._cache_offsets, offset) - 1
            return KEYS if offset - self._cache_offsets[layer] < self._layouts[layer].v_offset else VALUES
        if region != CONSTANTS:
            return IN_OUT
        if opcode == Opcode.STREAM:
            return MATRICES.get(part, OTHER)
        return EMBEDDING if part == "embedding" else VECTORS
