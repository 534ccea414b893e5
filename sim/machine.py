"""Functional model of the accelerator at command level: strict program order, every misuse an error.

It is stricter than hardware. Beside what hardware reports (ErrorCode) it refuses what hardware would silently get
wrong: data never written, streams out of step, commands that no wait orders, streams that would dead-lock.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tilewright.hw.commands import (
    COMMAND_BYTES,
    COMMAND_WORDS,
    HEADER,
    PATCHES,
    REGISTERS,
    Condition,
    Format,
    Opcode,
    ScalarOp,
    Unit,
    decode,
)
from tilewright.hw.config import BLOCK
from tilewright.hw.registers import ARGUMENTS, REGIONS, ErrorCode
from tilewright.sim.golden.functions import table_from
from tilewright.sim.golden.matmul import linear, linear_fp16

from .hazards import Access, HazardError, HazardTracker, intervals
from .transfers import transfer
from .vector_unit import vector

__all__ = ["Machine", "MachineError", "Issued", "UNIT_QUEUE"]

UNIT_QUEUE = 4
"""Commands that may wait at a unit; a STREAM more whose data nobody takes would block the sequencer for ever."""


class MachineError(Exception):
    """A program that went wrong.

    ``code`` is the ErrorCode that hardware reports, or None where hardware would not notice; ``offset`` the command's.
    """

    def __init__(self, message, *, code=None, offset=None):
        super().__init__(message)
        self.message, self.code, self.offset = message, code, offset

    def __str__(self):
        where = "" if self.offset is None else f"command at offset {self.offset:#x}: "
        return where + (f"{self.code.name}: " if self.code else "") + self.message


class Issued(NamedTuple):
    """A command as it was issued, for schedules and statistics. ``unit`` is None for the sequencer's own."""

    offset: int
    opcode: Opcode
    unit: Unit | None
    waits: tuple
    fields: dict


@dataclass
class _Tiles:
    """What a STREAM brought and MATMULs have not taken yet."""

    stream: int           # number of the STREAM
    scaled: bool
    weights: np.ndarray   # int8 [tiles, k, lanes]; FP16 are pairs of these
    scales: np.ndarray    # float16 [tiles, blocks, lanes]
    taken: int = 0


@dataclass
class _Scratchpad:
    words: np.ndarray     # uint32
    written: np.ndarray   # bool


@dataclass
class _Activation:
    q: np.ndarray         # int8 [columns, depth]; an INT8 row is a column of bytes, an FP16 row two
    code: np.ndarray      # uint8 [columns, depth / 32]
    written: np.ndarray   # uint8 [columns, depth]: 1 + Format of what was written last, 0 for nothing


@dataclass(eq=False)
class Machine:
    """The state of an accelerator built with ``config``; ``tables`` are those of ``config.functions``, in that order.

    ``regions`` are bytearrays to fill and read; ``writable`` the regions that may be written.
    """

    config: object
    tables: tuple
    regions: list = field(default_factory=lambda: [bytearray() for _ in range(REGIONS)])
    writable: tuple = (1, 2)
    trace: list = field(default_factory=list)

    def __post_init__(self):
        config = self.config
        self.functions = [table_from(table) for table in self.tables]
        self._groups = config.scratchpad_groups
        self.scratchpad = _Scratchpad(np.zeros(config.scratchpad_bytes // 4, np.uint32),
                                      np.zeros(config.scratchpad_bytes // 4, bool))
        columns = max(config.rows if "int8" in config.formats else 0, 2 * config.fp16_rows)
        self.activation = _Activation(np.zeros((columns, config.activation_depth), np.int8),
                                      np.zeros((columns, config.activation_depth // BLOCK), np.uint8),
                                      np.zeros((columns, config.activation_depth), np.uint8))

    # Running a program.

    def run(self, program=0, arguments=(), *, limit=1_000_000):
        """Run the program at offset ``program`` of region 0 to its END; ``trace`` then holds what was issued.

        What an earlier run left in the scratchpad and the activation buffer counts as never written.
        Raises MachineError.
        """
        self.scratchpad.written[:] = False
        self.activation.written[:] = 0
        self.registers = [0, *arguments, *[0] * (ARGUMENTS - len(arguments))] + [0] * (REGISTERS - 1 - ARGUMENTS)
        self.hazards, self.stream, self.trace = HazardTracker(), deque(), []
        self.argmax = None  # (number, greatest) of the reduction before, where that was an ARGMAX of one row
        offset = program
        try:
            for _ in range(limit):
                following = self._step(offset)
                if following is None:
                    return
                offset = following
            self.fail("the program does not end", ErrorCode.WATCHDOG)
        except MachineError as error:
            error.offset = offset
            raise
        except HazardError as hazard:
            raise MachineError(str(hazard), offset=offset) from None

    def fail(self, message, code=None):
        raise MachineError(message, code=code)

    def _step(self, offset):
        """Carry out the command at ``offset``; return the next one's offset, None behind END."""
        words = self._fetch(offset)
        opcode, fields = decode(words)
        waits = tuple(fields[f"wait_{unit.name.lower()}"] for unit in Unit)
        unit = Unit[opcode.name] if opcode.name in Unit.__members__ else None
        self.trace.append(Issued(offset, opcode, unit, waits, fields))
        if opcode == Opcode.END:
            if self.stream:
                self.fail(f"{len(self.stream)} STREAM commands are not used up at END")
            return None
        self.hazards.wait(waits)
        self._check_deadlock(unit)
        if opcode == Opcode.SCALAR:
            self._scalar(fields)
        elif opcode == Opcode.BRANCH:
            return self._branch(fields, offset)
        else:
            work = {Unit.STREAM: self._stream, Unit.MATMUL: self._matmul}.get(unit)
            if work:
                accesses = work(fields)
            elif unit == Unit.VECTOR:
                accesses = vector(self, fields)
            else:
                accesses = transfer(self, fields, store=unit == Unit.STORE)
            self.hazards.issue(unit, offset, accesses)
        return offset + COMMAND_BYTES

    def _fetch(self, offset):
        if offset % COMMAND_BYTES or not 0 <= offset <= len(self.regions[0]) - COMMAND_BYTES:
            self.fail(f"no command lies at {offset:#x}", ErrorCode.READ_RANGE)
        words = np.frombuffer(self.regions[0], "<u4", COMMAND_WORDS, offset).tolist()
        if words[0] & 0xFF not in list(Opcode):
            self.fail(f"opcode {words[0] & 0xFF}", ErrorCode.BAD_OPCODE)
        for i in range(PATCHES):
            word, register = (words[1] >> HEADER[f"patch{i}_{part}"].lsb & 15 for part in ("word", "register"))
            if register and word >= 2:
                words[word] = words[word] + self.registers[register] & 0xFFFFFFFF
        return words

    def _check_deadlock(self, unit):
        """Streams whose data no MATMUL issued so far takes must fit the unit's queue; a wait for one may never end."""
        if unit == Unit.STREAM and len(self.stream) >= UNIT_QUEUE:
            self.fail(f"{len(self.stream)} STREAM commands are already ahead of their MATMUL: may dead-lock")
        beats = 0
        for tiles in self.stream:
            left = tiles.weights[tiles.taken:]
            beats += left.shape[0] * left.shape[1]
            if tiles.stream < self.hazards.finished[Unit.STREAM] and beats > self.config.prefetch_beats:
                self.fail("waits for a STREAM that has no room in the prefetch buffer: dead-lock")

    # Sequencer.

    def _scalar(self, fields):
        a = self.registers[fields["rs"]]
        b = self.registers[fields["rt"]] + fields["immediate"] & 0xFFFFFFFF
        operations = {
            ScalarOp.ADD: lambda: a + b, ScalarOp.SUB: lambda: a - b, ScalarOp.MUL: lambda: a * b,
            ScalarOp.SHL: lambda: a << b if b < 32 else 0, ScalarOp.SHR: lambda: a >> b if b < 32 else 0,
            ScalarOp.AND: lambda: a & b, ScalarOp.MIN: lambda: min(a, b),
            ScalarOp.READ: lambda: self._read(fields["region"], a + b & 0xFFFFFFFF),
        }
        if fields["op"] not in operations:
            self.fail(f"scalar operation {fields['op']}", ErrorCode.BAD_FIELD)
        if fields["rd"]:
            self.registers[fields["rd"]] = operations[fields["op"]]() & 0xFFFFFFFF

    def _read(self, region, offset):
        """The word at ``offset``; memory is read by whole beats, so the beat must lie inside the region."""
        if offset % 4:
            self.fail(f"READ at {offset:#x}, which is not a multiple of 4", ErrorCode.BAD_FIELD)
        beat = self.config.bus_bytes
        self.memory(region, offset // beat * beat, beat)
        self.hazards.check("READ", None, [self.memory(region, offset, 4)])
        return int.from_bytes(self.regions[region][offset:offset + 4], "little")

    def _branch(self, fields, offset):
        rs, condition = fields["rs"], fields["condition"]
        value = self.registers[rs]
        if condition == Condition.LOOP:
            value = value - 1 & 0xFFFFFFFF
            if rs:
                self.registers[rs] = value
        taken = {Condition.LOOP: value != 0, Condition.ZERO: value == 0,
                 Condition.NONZERO: value != 0, Condition.ALWAYS: True}[condition]
        return (offset + (fields["distance"] if taken else 1) * COMMAND_BYTES) & 0xFFFFFFFF

    # Checked access, for the units.

    def memory(self, region, first, length, *, write=False):
        """Access for ``length`` bytes from each of ``first`` (offsets of any shape) in ``region``."""
        first = np.asarray(first, dtype=np.int64)
        code = ErrorCode.WRITE_RANGE if write else ErrorCode.READ_RANGE
        if region >= REGIONS:
            self.fail(f"region {region}", code)
        if write and region not in self.writable:
            self.fail(f"region {region} is not writable", code)
        if first.min() < 0 or first.max() + length > len(self.regions[region]):
            self.fail(f"bytes {first.min():#x} to {first.max() + length:#x} of region {region}, which has "
                      f"{len(self.regions[region]):#x}", code)
        return Access(f"region {region}", write, intervals(first, length))

    def region(self, number):
        """Region as a uint8 array that shares its memory."""
        return np.frombuffer(self.regions[number], np.uint8)

    def scratch_access(self, first, groups, *, write):
        """Access for ``groups`` scratchpad groups from each of ``first``."""
        first = np.asarray(first, dtype=np.int64)
        if first.min() < 0 or first.max() + groups > self._groups:
            self.fail(f"scratchpad groups {first.min()} to {first.max() + groups}, which has {self._groups}",
                      ErrorCode.SCRATCHPAD_RANGE)
        return Access("scratchpad", write, intervals(first, groups))

    def read_words(self, words):
        """Values of scratchpad word addresses (any shape); each must have been written."""
        if not self.scratchpad.written[words].all():
            missing = np.asarray(words)[~self.scratchpad.written[words]].ravel()
            self.fail(f"scratchpad word {missing[0]} (group {missing[0] // self.config.group_words}) is read, "
                      "but was never written")
        return self.scratchpad.words[words]

    def write_rows(self, first, values):
        """uint32 [rows, n] to groups ``first`` [rows]. What else lies in the last group of a row becomes undefined."""
        n, width = values.shape[1], self.config.group_words
        words = np.asarray(first, dtype=np.int64)[:, None] * width + np.arange(-(-n // width) * width)
        self.scratchpad.written[words[:, n:]] = False
        self.scratchpad.written[words[:, :n]] = True
        self.scratchpad.words[words[:, :n]] = values

    def activation_access(self, row, index, rows, n, *, write):
        """Access for ``n`` activations in ``rows`` columns from [row, index]."""
        count, depth = self.activation.q.shape
        if row + rows > count or index + n > depth:
            self.fail(f"activation rows {row} to {row + rows} of {count}, indices {index} to {index + n} of {depth}",
                      ErrorCode.ACTIVATION_RANGE)
        if index % BLOCK:
            self.fail(f"activation index {index} is not a multiple of {BLOCK}", ErrorCode.BAD_FIELD)
        return Access("activation", write, intervals((row + np.arange(rows)) * depth + index, n))

    # STREAM and MATMUL.

    def _stream(self, fields):
        k, tiles, lanes = fields["k"], fields["tiles"], self.config.lanes
        if not k or not tiles:
            self.fail(f"k = {k}, tiles = {tiles}", ErrorCode.BAD_FIELD)
        if fields["offset"] % lanes or fields["tile_stride"] % lanes:
            self.fail("offset and tile stride must be whole beats", ErrorCode.BAD_FIELD)
        blocks = -(-k // BLOCK)
        beats = k + (2 * blocks if fields["scaled"] else 0)
        first = fields["offset"] + np.arange(tiles) * fields["tile_stride"]
        access = self.memory(fields["region"], first, beats * lanes)
        data = self.region(fields["region"])[first[:, None] + np.arange(beats * lanes)].reshape(tiles, beats, lanes)
        if fields["scaled"]:
            behind = np.minimum(np.arange(1, blocks + 1) * BLOCK, k) + 2 * np.arange(blocks)
            is_scale = np.zeros(beats, bool)
            is_scale[[behind, behind + 1]] = True
            scales = np.ascontiguousarray(data[:, is_scale]).reshape(tiles, blocks, 2 * lanes).view("<f2")
            data = data[:, ~is_scale]
        else:
            scales = np.ones((tiles, blocks, lanes), np.float16)
        self.stream.append(_Tiles(self.hazards.issued[Unit.STREAM], bool(fields["scaled"]), data.view(np.int8), scales))
        return [access]

    def _take_tiles(self, count, k, scaled):
        """The next ``count`` tiles of the stream: weights [count * lanes, k], scales [count * lanes, blocks]."""
        weights, scales = [], []
        while count:
            if not self.stream:
                self.fail(f"MATMUL needs {count} tiles more than the STREAM commands before it brought")
            front = self.stream[0]
            if front.weights.shape[1] != k or front.scaled != scaled:
                self.fail(f"MATMUL with k = {k}, scaled = {scaled:d} meets a STREAM with k = {front.weights.shape[1]}, "
                          f"scaled = {front.scaled:d}")
            part = slice(front.taken, front.taken + count)
            weights.append(front.weights[part])
            scales.append(front.scales[part])
            count -= len(weights[-1])
            front.taken += len(weights[-1])
            if front.taken == len(front.weights):
                self.stream.popleft()
                self.hazards.consumed(front.stream)
        return [np.concatenate(part).transpose(0, 2, 1).reshape(-1, part[0].shape[1]) for part in (weights, scales)]

    def _matmul(self, fields):
        config, k, n, rows = self.config, fields["k"], fields["n"], fields["rows"]
        half = fields["format"] == Format.FP16
        size, outputs = (config.fp16_rows, config.lanes // 2) if half else (config.rows, config.lanes)
        if not k or not n or not rows:
            self.fail(f"k = {k}, n = {n}, rows = {rows}", ErrorCode.BAD_FIELD)
        if ("fp16" if half else "int8") not in config.formats or (half and fields["scaled"]):
            self.fail(f"format = {Format(fields['format']).name}, scaled = {fields['scaled']} on a build with "
                      f"{', '.join(config.formats)}", ErrorCode.BAD_FIELD)
        if rows > size and k > config.prefetch_beats:
            self.fail(f"{rows} rows replay tiles of {k} beats, the prefetch buffer holds {config.prefetch_beats}",
                      ErrorCode.BAD_FIELD)
        dest = fields["dest"] + np.arange(rows) * fields["dest_stride"] & 0xFFFF
        accesses = [self.scratch_access(dest, -(-n // config.group_words), write=True)]
        weights, scales = self._take_tiles(-(-n // outputs), k, bool(fields["scaled"]))
        if half:
            weights = _joined(weights.reshape(-1, outputs, 2, k)[:, :, 0], weights.reshape(-1, outputs, 2, k)[:, :, 1])
            weights = weights.reshape(-1, k)
        results = []
        for group, first in enumerate(range(0, rows, size)):
            count = min(size, rows - first)
            index = fields["activation"] + group * fields["group_stride"] & 0xFFFF
            columns = 2 * count if half else count
            accesses.append(self.activation_access(0, index, columns, k, write=False))
            if (self.activation.written[:columns, index:index + k] != 1 + fields["format"]).any():
                self.fail(f"{Format(fields['format']).name} activations from {index} are read, but were not all "
                          "written")
            q = self.activation.q[:columns, index:index + k]
            if half:
                results.append(linear_fp16(_joined(q[0::2], q[1::2]), weights[:n]))
                continue
            codes = self.activation.code[:count, index // BLOCK:-(-(index + k) // BLOCK)]
            results.append(linear(q, codes, weights[:n], scales[:n] if fields["scaled"] else None))
        self.write_rows(dest, np.concatenate(results).view(np.uint32))
        return accesses


def _joined(low, high):
    """FP16 from arrays of their low and high bytes."""
    return np.ascontiguousarray(np.stack([low, high], -1)).view(np.float16)[..., 0]
