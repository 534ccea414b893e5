"""The register map as SystemRDL, and what is made of it: a C header and a page. And the command set as a C header."""

import re

from systemrdl import RDLCompiler
from systemrdl.messages import MessagePrinter

from tilewright.hw import commands
from tilewright.hw.registers import IDENTITY, VERSION, Access, ErrorCode

__all__ = ["systemrdl_text", "compile_systemrdl", "write_register_header", "write_register_page", "command_header"]

BLOCK = "tilewright"
"""Name of the address map, and prefix of everything in the headers."""

_ACCESS = {
    Access.RO: "sw = r; hw = w;",
    Access.RW: "sw = rw; hw = r; reset = 0;",
    Access.WO: "sw = w; hw = r; reset = 0;",
    Access.W1: "sw = w; hw = r; singlepulse; reset = 0;",
    Access.CONST: "sw = r; hw = na;",
}
_RESET = {"identity": IDENTITY, "version": VERSION}


def _quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def systemrdl_text(registers):
    """The map ``registers`` (name -> Register) as SystemRDL 2.0, one address map with 32-bit registers."""
    lines = ["enum error_code_e {"]
    lines += [f"    {code.name} = 8'd{code.value};" for code in ErrorCode]
    lines += ["};", "", f"addrmap {BLOCK} {{", '    name = "Tilewright accelerator";',
              "    default regwidth = 32;", "    default accesswidth = 32;"]
    for register in registers.values():
        lines += ["", "    reg {", f"        desc = {_quoted(register.doc)};"]
        for field in register.fields:
            reset = f" reset = 32'h{_RESET[register.name]:08x};" if register.name in _RESET else ""
            encode = " encode = error_code_e;" if register.name == "error_code" else ""
            lines.append(f"        field {{ desc = {_quoted(field.doc)}; {_ACCESS[field.access]}{reset}{encode} }} "
                         f"{field.name}[{field.lsb + field.width - 1}:{field.lsb}];")
        lines.append(f"    }} {register.name} @ 0x{register.offset:03x};")
    return "\n".join([*lines, "};", ""])


class _Silent(MessagePrinter):
    """Warnings and errors are raised or ignored by the compiler; nothing goes to standard error."""

    def print_message(self, severity, text, src_ref):
        if severity.name in ("ERROR", "FATAL"):
            super().print_message(severity, text, src_ref)


def compile_systemrdl(path):
    """The SystemRDL file ``path`` elaborated by the standard's compiler: its root node."""
    compiler = RDLCompiler(message_printer=_Silent())
    compiler.compile_file(str(path))
    return compiler.elaborate()


def write_register_header(root, path):
    """C header with a structure of the registers, and masks, positions, widths of every field."""
    from peakrdl_cheader.exporter import CHeaderExporter
    CHeaderExporter().export(root, str(path))


def write_register_page(root, folder):
    """HTML page of the registers in ``folder``. It loads its parts: show it through ``python -m http.server``."""
    from peakrdl_html import HTMLExporter
    HTMLExporter(generate_source_links=False).export(root, str(folder), title="Tilewright registers", footer="")
    index = folder / "index.html"
    text = re.sub(r"(BUILD_TS = |\?ts=)\d+", r"\g<1>0", index.read_text())  # equal input, equal output
    text = re.sub(r'<script async src="https:.*?</script>\s*<script type="text/x-mathjax.*?</script>\s*', "", text,
                  flags=re.DOTALL)  # the page has no formulas, and is to work without a network
    index.write_text(text)


_ENUMERATIONS = (
    (commands.Opcode, "OPCODE"), (commands.Unit, "UNIT"), (commands.ScalarOp, "SCALAR_OP"),
    (commands.Condition, "CONDITION"), (commands.Operand, "OPERAND"), (commands.Reduce, "REDUCE"),
    (commands.Dest, "DEST"), (commands.Element, "ELEMENT"), (ErrorCode, "ERROR"),
)


def command_header():
    """C header of the command set: enumerations, and word, shift and mask of every field.

    A field's value goes to ``words[NAME_WORD] |= (value << NAME_SHIFT) & NAME_MASK``.
    """
    prefix = BLOCK.upper()
    lines = ["/* Tilewright's command set: generated from the hardware's own description; do not edit. */",
             f"#ifndef {prefix}_COMMANDS_H", f"#define {prefix}_COMMANDS_H", "",
             f"#define {prefix}_COMMAND_WORDS {commands.COMMAND_WORDS}",
             f"#define {prefix}_COMMAND_BYTES {commands.COMMAND_BYTES}",
             f"#define {prefix}_SCALAR_REGISTERS {commands.REGISTERS}",
             f"#define {prefix}_NO_WAIT {commands.NO_WAIT}"]
    for enumeration, name in _ENUMERATIONS:
        lines += ["", f"enum {BLOCK}_{name.lower()} {{"]
        lines += [f"    {prefix}_{name}_{member.name} = {member.value}," for member in enumeration]
        lines.append("};")
    groups = {"HEADER": commands.HEADER} | {op.name: fields for op, fields in commands.COMMANDS.items()}
    for group, fields in groups.items():
        for name, field in fields.items():
            stem = f"{prefix}_{group}_{name.upper()}"
            mask = ((1 << field.width) - 1) << field.lsb
            lines += ["", *([f"/* {field.doc} */"] if field.doc else []), f"#define {stem}_WORD {field.word}",
                      f"#define {stem}_SHIFT {field.lsb}", f"#define {stem}_MASK 0x{mask:08x}u"]
    return "\n".join([*lines, "", "#endif", ""])
