"""Programs: commands with registers and loops, and waits that follow from what commands touch."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tilewright.hw.commands import (
    COMMAND_BYTES,
    COMMANDS,
    NO_WAIT,
    PATCHES,
    REGISTERS,
    Condition,
    Opcode,
    ScalarOp,
    Unit,
    encode,
)
from tilewright.hw.registers import ARGUMENTS

from .footprint import Footprint, footprint

__all__ = ["Program", "Dynamic", "Label", "Token", "MAX_WAIT", "STREAMS_AHEAD"]

MAX_WAIT = NO_WAIT - 1
STREAMS_AHEAD = 4
"""STREAM commands that may be issued before the MATMULs that take their data: more could block the sequencer."""


NO_MASK = 0xFFFF
"""Value of ``valid`` beyond every row."""
PLACES = {"scratch", "dest", "activation", "a", "b", "c", "d", "target", "scale", "result"}
"""Fields that say where, not how much."""


class Dynamic(NamedTuple):
    """A field's value known at run time: register + ``base``.

    Waits count with ``maximum`` for a size, and with base, base + ``step``, ... ``maximum`` for a place in the
    scratchpad or the activation buffer. Offsets in memory need no maximum.
    """

    register: int
    maximum: int = 0
    base: int = 0
    step: int = 0


class Token(NamedTuple):
    """A unit's command in a program, to wait for."""

    unit: Unit
    index: int      # among the unit's commands, in program order
    position: int   # among all commands


class Label(NamedTuple):
    """What a command of a program is for."""

    opcode: str
    text: str       # as "layer 3/attention"; empty where nothing was said


@dataclass
class _Command:
    opcode: Opcode
    values: dict
    label: str
    token: Token | None = None
    footprint: Footprint | None = None

    @property
    def unit(self):
        return self.token and self.token.unit


@dataclass(eq=False)
class Program:
    """Builder of one program for ``config``.

    Waits: a command waits for each earlier command of another unit that touches the same place (one of them writing),
    with the largest count that is safe. Places are scratchpad groups, activation blocks and named parts of memory
    (``reads``, ``writes``); fields given as ``Dynamic`` count with their maximum. ``after`` adds tokens by hand.
    """

    config: object
    _commands: list = field(default_factory=list)
    _issued: list = field(default_factory=lambda: [0] * len(Unit))
    _finished: list = field(default_factory=lambda: [0] * len(Unit))
    _names: dict = field(default_factory=dict)
    _pending: list = field(default_factory=list)  # commands that may be unfinished here
    _in_loop: bool = False
    where: str = ""  # label of the commands to come

    # Registers.

    def argument(self, index, name):
        """The register that holds argument ``index`` at the start, under this name."""
        if self._names.get(name) == index + 1:
            return index + 1
        if not 0 <= index < ARGUMENTS:
            raise ValueError(f"argument {index}: must be from 0 to {ARGUMENTS - 1}")
        return self._name(name, index + 1)

    def register(self, name):
        """A register of that name, the same one for the same name."""
        if name in self._names:
            return self._names[name]
        free = [r for r in range(1, REGISTERS) if r not in self._names.values()]
        if not free:
            raise ValueError(f"no register is left for {name!r}; in use: {', '.join(self._names)}")
        return self._name(name, free[-1])  # arguments take the lowest

    @contextmanager
    def label(self, text):
        """Commands appended inside are for ``text``; a label within takes the place of the one around it."""
        before, self.where = self.where, text
        yield
        self.where = before

    def release(self, *names):
        """Give registers back for other names."""
        for name in names:
            del self._names[name]

    def _name(self, name, register):
        if register in self._names.values() or name in self._names:
            raise ValueError(f"register {register} or name {name!r} is taken")
        self._names[name] = register
        return register

    def scalar(self, op, rd, rs, immediate=0, rt=0):
        """rd = rs op (rt + immediate); returns rd."""
        self._append(Opcode.SCALAR, {"op": ScalarOp(op), "rd": rd, "rs": rs, "rt": rt,
                                     "immediate": immediate & 0xFFFFFFFF})
        return rd

    def read(self, rd, region, offset, rs=0, rt=0, *, reads=(), after=()):
        """rd = the word at byte rs + rt + ``offset`` of ``region``; returns rd. reads, after : as for ``emit``."""
        command = self._append(Opcode.SCALAR, {"op": ScalarOp.READ, "rd": rd, "rs": rs, "rt": rt, "region": region,
                                               "immediate": offset})
        command.footprint = Footprint(memory_reads=frozenset(reads))
        self._order(command, after)
        return rd

    def set(self, rd, value):
        """rd = value; returns rd."""
        return self.scalar(ScalarOp.ADD, rd, 0, value)

    def modulo(self, rd, rs, n, maximum):
        """rd = rs modulo the constant ``n`` for rs up to ``maximum``; rd is another register than rs. Returns rd."""
        if n & (n - 1) == 0:
            return self.scalar(ScalarOp.AND, rd, rs, n - 1)
        shift = n.bit_length() + max(maximum, 1).bit_length()   # quotient = rs * (2^shift / n, rounded up) >> shift
        factor = -(-(1 << shift) // n)
        if maximum * factor >= 1 << 32:
            raise ValueError(f"modulo {n} of up to {maximum} needs more than 32 bits")
        self.scalar(ScalarOp.MUL, rd, rs, factor)
        self.scalar(ScalarOp.SHR, rd, rd, shift)
        self.scalar(ScalarOp.MUL, rd, rd, n)
        return self.scalar(ScalarOp.SUB, rd, rs, rt=rd)

    @contextmanager
    def skip_if(self, register):
        """Scalar commands inside (without ``read``) are left out where ``register`` is not zero."""
        first = len(self._commands)
        branch = self._append(Opcode.BRANCH, {"condition": Condition.NONZERO, "rs": register})
        yield
        if any(c.footprint for c in self._commands[first:]):
            raise ValueError("only commands that touch nothing but registers may be skipped: waits count the others")
        branch.values["distance"] = len(self._commands) - first

    # Commands.

    def emit(self, opcode, *, reads=(), writes=(), after=(), **values):
        """Append a unit's command and return its Token.

        values : fields of ``hw.commands.COMMANDS``, integers or Dynamic; those left out are zero, ``valid`` no mask
        reads, writes : names of parts of memory that the command reads or writes while others may do so
        after : tokens to wait for beside those found
        """
        unit = Unit[opcode.name]
        if opcode == Opcode.VECTOR:
            values = {"valid": NO_MASK} | values
        touched = self._footprint(opcode, values, frozenset(reads), frozenset(writes))
        command = self._append(opcode, self._patched(opcode, values))
        command.footprint = touched
        self._order(command, after, unit)
        command.token = Token(unit, self._issued[unit], len(self._commands) - 1)
        self._issued[unit] += 1
        self._pending = [c for c in self._pending if not self._is_finished(c.token)] + [command]
        return command.token

    def _footprint(self, opcode, values, reads, writes):
        """Upper bound of what the command touches."""
        largest = {name: v.maximum if isinstance(v, Dynamic) else v for name, v in values.items()}
        result = footprint(self.config, opcode, largest, reads=reads, writes=writes)
        for name in PLACES & values.keys():
            if isinstance(values[name], Dynamic):
                place = values[name]
                for at in range(place.base, place.maximum, place.step):
                    result |= footprint(self.config, opcode, largest | {name: at}, reads=reads, writes=writes)
        return result

    def end(self):
        self._append(Opcode.END, {})

    def end_if(self, register):
        """End here where ``register`` is not zero; no STREAM may be on its way whose data no MATMUL before took."""
        self._append(Opcode.BRANCH, {"condition": Condition.ZERO, "rs": register, "distance": 2})
        self.end()

    def _append(self, opcode, values):
        self._commands.append(_Command(opcode, values, self.where))
        return self._commands[-1]

    def _order(self, command, after, unit=None):
        """Let ``command`` wait for the tokens ``after`` and for what it conflicts with on units other than its own."""
        for token in [*after, *(c.token for c in self._pending
                                if c.token.unit != unit and command.footprint.conflicts(c.footprint))]:
            self._wait(command, token)

    def _is_finished(self, token):
        return token.index < self._finished[token.unit]

    def _wait(self, command, token):
        """Let ``command`` wait until ``token`` is finished."""
        if self._is_finished(token):
            return
        count = min(self._issued[token.unit] - 1 - token.index, MAX_WAIT)
        name = f"wait_{token.unit.name.lower()}"
        command.values[name] = min(count, command.values.get(name, NO_WAIT))
        self._finished[token.unit] = max(self._finished[token.unit], self._issued[token.unit] - count)

    def _patched(self, opcode, values):
        """Fields with Dynamic ones replaced by base and patch."""
        result, patches = {}, 0
        for name, value in values.items():
            if not isinstance(value, Dynamic):
                result[name] = value
                continue
            place = COMMANDS[opcode][name]
            if place.lsb:
                raise ValueError(f"{opcode.name}.{name} lies at bit {place.lsb}: a register is added at bit 0")
            if patches == PATCHES:
                raise ValueError(f"{opcode.name}: more than {PATCHES} fields with registers")
            result |= {name: value.base, f"patch{patches}_word": place.word, f"patch{patches}_register": value.register}
            patches += 1
        return result

    # Loops.

    @contextmanager
    def loop(self, register):
        """Repeat the commands inside; ``register`` counts down to zero and must not be zero before."""
        if self._in_loop:
            raise ValueError("loops do not nest")
        first, self._in_loop = len(self._commands), True
        yield
        self._in_loop = False
        self._order_iterations(self._commands[first:])
        self._append(Opcode.BRANCH, {"condition": Condition.LOOP, "rs": register,
                                     "distance": first - len(self._commands) & 0xFFFFFFFF})

    def _order_iterations(self, body):
        """Waits of an iteration's commands for the previous one's, which ran them in the same order.

        Counts within the loop and from before it hold in every iteration: more commands than counted can only have
        been issued since.
        """
        touching = [c for c in body if c.footprint]
        for i, later in enumerate(touching):
            for j in range(i, len(touching)):
                earlier = touching[j]
                if earlier.unit in (None, later.unit) or not later.footprint.conflicts(earlier.footprint):
                    continue  # a READ is over before anything behind it is issued
                count = sum(c.unit == earlier.unit for c in touching[j + 1:] + touching[:i])
                name = f"wait_{earlier.unit.name.lower()}"
                later.values[name] = min(count, MAX_WAIT, later.values.get(name, NO_WAIT))

    # Result.

    @property
    def size(self):
        """Commands so far."""
        return len(self._commands)

    def labels(self, offset=0):
        """Label of each command, by its offset, for a program that lies at ``offset``."""
        return {offset + COMMAND_BYTES * i: Label(c.opcode.name, c.label) for i, c in enumerate(self._commands)}

    def assemble(self):
        """The program's bytes; it may be put anywhere on a multiple of 64."""
        return np.array([encode(c.opcode, **c.values) for c in self._commands], "<u4").tobytes()
