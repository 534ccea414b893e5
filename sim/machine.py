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
from tilewright.sim.golden.matmul import linear, linear_fp16, linear_int4
from tilewright.sim.golden.weights import Int4Matrix

from .hazards import Access, HazardError, HazardTracker, intervals
from .transfers import transfer
from .vector_unit import vector
from .weight_tiles import Tiles, block_bytes, take_apart

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
    fields: dict          # of the STREAM
    tiles: Tiles
    taken: int = 0

    @property
    def left(self):
        return len(self.tiles.weights) - self.taken


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
            beats += tiles.left * tiles.tiles.beats
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
        config, k, tiles = self.config, fields["k"], fields["tiles"]
        if not k or not tiles:
            self.fail(f"k = {k}, tiles = {tiles}", ErrorCode.BAD_FIELD)
        if fields["offset"] % config.bus_bytes or fields["tile_stride"] % config.bus_bytes:
            self.fail("offset and tile stride must be whole beats", ErrorCode.BAD_FIELD)
        int4 = fields["format"] == Format.INT4
        if (int4 and "int4" not in config.formats) or (fields["minimum"] and not (int4 and fields["scaled"])):
            self._refuse_format(fields)
        size = sum(block_bytes(fields, min(BLOCK, k - block), config)[1] for block in range(0, k, BLOCK))
        first = fields["offset"] + np.arange(tiles) * fields["tile_stride"]
        access = self.memory(fields["region"], first, size)
        data = self.region(fields["region"])[first[:, None] + np.arange(size)]
        self.stream.append(_Tiles(self.hazards.issued[Unit.STREAM], fields, take_apart(data, fields, config)))
        return [access]

    def _refuse_format(self, fields):
        self.fail(", ".join(f"{name} = {fields[name]}" for name in ("format", "scaled", "minimum"))
                  + f" on a build with {', '.join(self.config.formats)}", ErrorCode.BAD_FIELD)

    def _take_tiles(self, count, fields):
        """The next ``count`` tiles of the stream for a MATMUL: weights [count * lanes, k], scales and minima
        [count * lanes, blocks] or None; and the weight beats of a tile."""
        parts = []
        while count:
            if not self.stream:
                self.fail(f"MATMUL needs {count} tiles more than the STREAM commands before it brought")
            front = self.stream[0]
            for name in ("k", "format", "scaled", "minimum"):
                if front.fields[name] != fields[name]:
                    self.fail(f"MATMUL with {name} = {fields[name]} meets a STREAM with {name} = {front.fields[name]}")
            taken = slice(front.taken, front.taken + count)
            parts.append([None if part is None else part[taken] for part in front.tiles[:3]])
            count -= len(parts[-1][0])
            front.taken += len(parts[-1][0])
            if not front.left:
                self.stream.popleft()
                self.hazards.consumed(front.stream)
        joined = [None if part[0] is None else np.concatenate(part).swapaxes(1, 2)
                  for part in zip(*parts, strict=True)]
        return [None if part is None else part.reshape(-1, part.shape[2]) for part in joined], front.tiles.beats

    def _matmul(self, fields):
        config, k, n, rows = self.config, fields["k"], fields["n"], fields["rows"]
        half, int4 = (fields["format"] == each for each in (Format.FP16, Format.INT4))
        size, outputs = (config.fp16_rows, config.lanes // 2) if half else (config.rows, config.lanes)
        if not k or not n or not rows:
            self.fail(f"k = {k}, n = {n}, rows = {rows}", ErrorCode.BAD_FIELD)
        known = {Format[name.upper()] for name in config.formats}
        if fields["format"] not in known or (fields["minimum"] and not int4) or (
                fields["scaled"] and half) or (int4 and not fields["scaled"]):
            self._refuse_format(fields)
        dest = fields["dest"] + np.arange(rows) * fields["dest_stride"] & 0xFFFF
        accesses = [self.scratch_access(dest, -(-n // config.group_words), write=True)]
        (weights, scales, minima), beats = self._take_tiles(-(-n // outputs), fields)
        if rows > size and beats > config.prefetch_beats:
            self.fail(f"{rows} rows replay tiles of {beats} beats, the prefetch buffer holds {config.prefetch_beats}",
                      ErrorCode.BAD_FIELD)
        if half:
            weights = _joined(weights.reshape(-1, outputs, 2, k)[:, :, 0], weights.reshape(-1, outputs, 2, k)[:, :, 1])
            weights = weights.reshape(-1, k)
        results = []
        for group, first in enumerate(range(0, rows, size)):
            count = min(size, rows - first)
            index = fields["activation"] + group * fields["group_stride"] & 0xFFFF
            columns = 2 * count if half else count
            accesses.append(self.activation_access(0, index, columns, k, write=False))
            kind = Format.FP16 if half else Format.INT8
            if (self.activation.written[:columns, index:index + k] != 1 + kind).any():
                self.fail(f"{kind.name} activations from {index} are read, but were not all "
                          "written")
            q = self.activation.q[:columns, index:index + k]
            if half:
                results.append(linear_fp16(_joined(q[0::2], q[1::2]), weights[:n]))
                continue
            codes = self.activation.code[:count, index // BLOCK:-(-(index + k) // BLOCK)]
            d, m = (None if part is None else part[:n] for part in (scales, minima))
            results.append(linear_int4(q, codes, Int4Matrix(weights[:n], d, m)) if int4
                           else linear(q, codes, weights[:n], d))
        self.write_rows(dest, np.concatenate(results).view(np.uint32))
        return accesses


def _joined(low, high):
    """FP16 from arrays of their low and high bytes."""
    return np.ascontiguousarray(np.stack([low, high], -1)).view(np.float16)[..., 0]
