"""``docs/commands.md``: the command set and the register map, written from the hardware's own description.

``python -m tilewright.gen.command_document FILE`` writes it.
"""

import sys
from pathlib import Path

from tilewright.hw import commands
from tilewright.hw.commands import COMMANDS, HEADER, Opcode
from tilewright.hw.registers import REGIONS, REGISTER_MAP, Access, ErrorCode

from .verilog import write_if_changed

__all__ = ["command_document"]

_INTRODUCTION = f"""\
# Commands and registers

Generated from `hw/commands.py` and `hw/registers.py` by `make docs`; a test compares. Do not edit.

A program is a row of commands in memory region 0. A command is {commands.COMMAND_WORDS} words of 32 bits,
little-endian, aligned to {commands.COMMAND_BYTES} bytes. The sequencer takes commands in order and hands them to five
units (STREAM, MATMUL, VECTOR, LOAD, STORE), each with a small queue; SCALAR and BRANCH it carries out itself. A command
is issued once every unit has at most as many unfinished commands as its wait field says. Before that, up to
{commands.PATCHES} words of it are patched: a scalar register is added to the word. There are {commands.REGISTERS}
scalar registers of 32 bits; register 0 reads as zero.

Scratchpad addresses count groups, as wide as a beat of the bus, unless a field says bytes. A memory address is a
32-bit offset in one of {REGIONS} regions, whose base and size are registers.
"""

_OPCODES = {
    Opcode.END: "End of the program, once every unit is idle.",
    Opcode.SCALAR: "A scalar register becomes `rs op (rt + immediate)`; READ: the memory word at byte "
                   "`rs + rt + immediate`, a multiple of 4.",
    Opcode.BRANCH: "A hardware loop or a jump.",
    Opcode.STREAM: "Weight tiles from memory into the prefetch buffer, ahead of the MATMUL that eats them.",
    Opcode.MATMUL: "Weights of the prefetch buffer times the activation buffer into the scratchpad, in FP32.",
    Opcode.VECTOR: "Element-wise operations, a table function, a reduction and the A8 quantiser over rows of the "
                   "scratchpad; `docs/numerics.md` has the arithmetic.",
    Opcode.LOAD: "Rows of memory into the scratchpad.",
    Opcode.STORE: "The scratchpad into memory, by rows or by single elements.",
}

_ENUMERATIONS = (commands.Unit, commands.ScalarOp, commands.Condition, commands.Operand, commands.Reduce,
                 commands.Format, commands.Dest, commands.Element)
_ACCESS = {Access.RO: "read", Access.RW: "read, write", Access.W1: "write one", Access.CONST: "constant"}


def _bits(lsb, width):
    return str(lsb) if width == 1 else f"{lsb + width - 1}:{lsb}"


def _table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows] + [""]


def _fields(fields):
    return _table(("word", "bits", "field", "meaning"),
                  ((f.word, _bits(f.lsb, f.width), f"`{name}`", f.doc or "as above") for name, f in fields.items()))


def command_document():
    """Text of ``docs/commands.md``."""
    lines = [_INTRODUCTION, "## Every command", "", *_fields(HEADER), "## Commands", ""]
    lines += _table(("opcode", "command", "meaning"), ((op.value, op.name, _OPCODES[op]) for op in Opcode))
    for op, fields in COMMANDS.items():
        if fields:
            lines += [f"### {op.name}", "", *_fields(fields)]
    lines += ["## Values", ""]
    for enumeration in _ENUMERATIONS:
        members = ", ".join(f"{member.value} {member.name}" for member in enumeration)
        lines += [f"- **{enumeration.__name__}**: {members}"]
    lines += ["", "## Registers", "", "32 bits each, on AXI4-Lite; byte offsets. An access to any other offset "
              "answers SLVERR and does nothing.", ""]
    lines += _table(("offset", "register", "bits", "field", "access", "meaning"), (
        (f"`0x{r.offset:03x}`", f"`{r.name}`", _bits(f.lsb, f.width), f"`{f.name}`", _ACCESS[f.access],
         r.doc if len(r.fields) == 1 else f"{r.doc}: {f.doc}")
        for r in REGISTER_MAP.values() for f in r.fields))
    lines += ["## Error codes", ""]
    lines += _table(("code", "name"), ((code.value, code.name) for code in ErrorCode))
    return "\n".join(lines)


if __name__ == "__main__":
    write_if_changed(Path(sys.argv[1]), command_document())
