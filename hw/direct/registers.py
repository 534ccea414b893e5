"""Registers of the accelerator that the host gives single commands: those of the whole one, and the commands' words."""

from ..commands import COMMANDS, Opcode, Unit
from ..registers import REGISTER_MAP, Access, Register, RegisterField

__all__ = ["DIRECT_UNITS", "DIRECT_MAP", "LEFT_OUT", "command_offset"]

DIRECT_UNITS = (Unit.STREAM, Unit.MATMUL)
"""Units that take commands."""

LEFT_OUT = ("region", "minimum", "format")
"""Fields of commands that are always zero: region 0, INT8."""

_SHARED = ("identity", "version", "config_hash", "config_array", "config_buffers", "config_formats", "status",
           "error_code", "error_address")
_WORDS_FROM, _WORDS_STEP = 0x200, 0x40


_WIDTHS = {"offset": 17, "tile_stride": 17, "k": 12, "tiles": 15, "n": 15, "rows": 12, "activation": 12,
           "group_stride": 12, "dest": 15, "dest_stride": 15}
"""Bits of a field that are kept: enough for memories of 64 KiB and 2048 activations, and for what lies beyond."""


def command_offset(unit, word=0):
    """Offset of the register that holds word ``word`` of the unit's command."""
    return _WORDS_FROM + _WORDS_STEP * DIRECT_UNITS.index(unit) + 4 * word


def _command_words(unit):
    """A register for each word of the unit's command with fields that are not left out, named as the fields are."""
    name, words = unit.name.lower(), {}
    for field_name, field in COMMANDS[Opcode[unit.name]].items():
        if field_name not in LEFT_OUT:
            words.setdefault(field.word, []).append(
                RegisterField(field_name, field.lsb, _WIDTHS.get(field_name, field.width), Access.WO, field.doc))
    return [Register(f"{name}_word{word}", command_offset(unit, word), f"word {word} of a {unit.name} command",
                     tuple(fields)) for word, fields in words.items()]


def _build():
    registers = [REGISTER_MAP[name] for name in _SHARED]
    registers.append(Register("control", REGISTER_MAP["control"].offset, "acts when written", (
        RegisterField("abort", 1, 1, Access.W1, "reset the units, forget their commands and the error"),
        RegisterField("clear_interrupt", 2, 1, Access.W1, "take the interrupt back"),
        *(RegisterField(unit.name.lower(), 8 + i, 1, Access.W1, f"issue the {unit.name} command of the words below; "
                                                                "ignored while the one before it waits")
          for i, unit in enumerate(DIRECT_UNITS)))))
    for unit in DIRECT_UNITS:
        registers += _command_words(unit)
    return {register.name: register for register in sorted(registers, key=lambda register: register.offset)}


DIRECT_MAP = _build()
"""Name -> Register; what the whole accelerator has too lies at the same place."""
