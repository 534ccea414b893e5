"""The command set: what each command's fields are and where they lie. Hardware, compiler and documents read it here.

A command is 16 words of 32 bits, little-endian, aligned to 64 bytes. Word 0 holds the opcode and the waits, word 1 the
patches; the rest belongs to the opcode. Scratchpad addresses are in groups (``config.group_words`` FP32 words) unless a
field says bytes. Memory addresses are 32-bit offsets into a region (base and size set by registers).
"""

from dataclasses import dataclass
from enum import IntEnum

from amaranth.lib import data

__all__ = ["COMMAND_WORDS", "COMMAND_BYTES", "REGISTERS", "Opcode", "Unit", "NO_WAIT", "ScalarOp", "Condition",
           "Operand", "Reduce", "Format", "Dest", "Element", "Field", "HEADER", "COMMANDS", "layout", "last_word",
           "encode", "decode"]

COMMAND_WORDS = 16
COMMAND_BYTES = 4 * COMMAND_WORDS
REGISTERS = 16
"""Scalar registers of 32 bits; register 0 reads as zero."""
PATCHES = 4
NO_WAIT = 15


class Opcode(IntEnum):
    """Zero is no opcode, so that cleared memory stops the sequencer."""

    END = 1      # program finished, once every unit is idle
    SCALAR = 2   # rd = rs op (rt + immediate)
    BRANCH = 3   # loop or jump
    STREAM = 4   # memory -> prefetch buffer
    MATMUL = 5   # prefetch buffer x activation buffer -> scratchpad
    VECTOR = 6   # scratchpad -> scratchpad or activation buffer
    LOAD = 7     # memory -> scratchpad
    STORE = 8    # scratchpad -> memory


class Unit(IntEnum):
    """Units that work on their own; a command may wait for each by count."""

    STREAM = 0
    MATMUL = 1
    VECTOR = 2
    LOAD = 3
    STORE = 4


class ScalarOp(IntEnum):
    ADD = 0
    SUB = 1
    MUL = 2
    SHL = 3
    SHR = 4
    AND = 5
    MIN = 6
    READ = 7     # the word at byte rs + (rt + immediate) of a memory region


class Condition(IntEnum):
    LOOP = 0     # rs -= 1, then jump unless rs is zero
    ZERO = 1
    NONZERO = 2
    ALWAYS = 3


class Operand(IntEnum):
    """Where operand b, c or d of a vector command comes from."""

    NONE = 0       # neutral: b = d = 1.0, c = -0.0
    STREAM = 1     # one element for each element of a
    ROW = 2        # one word for each row: the first word of a group
    IMMEDIATE = 3  # the field itself is the FP32 value


class Reduce(IntEnum):
    NONE = 0
    SUM = 1
    MAX = 2
    ARGMAX = 3     # the number of the first greatest element, an integer


class Format(IntEnum):
    """What a MATMUL multiplies."""

    INT8 = 0       # A8 activations, INT8 weights
    FP16 = 1       # both FP16; a tile has half as many outputs
    INT4 = 2       # A8 activations, weights in 4 bits


class Dest(IntEnum):
    NONE = 0
    FP32 = 1         # scratchpad; with ``half`` FP16 in the low half of each word
    ACTIVATION = 2   # A8, activation buffer; with ``half`` FP16
    PACKED = 3       # A8, scratchpad: bytes, and scales as words


class Element(IntEnum):
    """What a STORE moves at a time."""

    ROW = 0    # rows of whole beats, the last one cut by byte strobes
    BYTE = 1   # single bytes from consecutive bytes
    HALF = 2   # low halves of consecutive words
    WORD = 3   # consecutive words


@dataclass(frozen=True)
class Field:
    """``width`` bits at bit ``lsb`` of word ``word``."""

    word: int
    lsb: int
    width: int
    doc: str

    @property
    def offset(self):
        return 32 * self.word + self.lsb


_WAIT = "issue once at most so many {} commands are unfinished; 15: at once"

HEADER = {
    "opcode": Field(0, 0, 8, "Opcode"),
    **{f"wait_{unit.name.lower()}": Field(0, 8 + 4 * unit, 4, _WAIT.format(unit.name)) for unit in Unit},
    **{f"patch{i}_word": Field(1, 8 * i, 4, f"word that register patch{i}_register is added to before issue")
       for i in range(PATCHES)},
    **{f"patch{i}_register": Field(1, 8 * i + 4, 4, "register added; 0: none") for i in range(PATCHES)},
}

_TRANSFER = {
    "region": Field(2, 0, 3, "memory region"),
    "offset": Field(3, 0, 32, "first byte in the region"),
    "rows": Field(6, 0, 16, "rows in a plane"),
    "planes": Field(6, 16, 16, "planes"),
    "row_stride": Field(7, 0, 32, "bytes from row to row in memory"),
    "plane_stride": Field(8, 0, 32, "bytes from plane to plane in memory"),
    "scratch": Field(9, 0, 32, "first byte in the scratchpad"),
    "scratch_row_stride": Field(10, 0, 32, "bytes from row to row in the scratchpad"),
    "scratch_plane_stride": Field(11, 0, 32, "bytes from plane to plane in the scratchpad"),
}

COMMANDS = {
    Opcode.END: {},
    Opcode.SCALAR: {
        "op": Field(2, 0, 4, "ScalarOp"),
        "rd": Field(2, 4, 4, "result register"),
        "rs": Field(2, 8, 4, "first operand"),
        "rt": Field(2, 12, 4, "second operand, added to the immediate; 0: the immediate alone"),
        "region": Field(2, 16, 3, "READ: memory region; the beat that holds the word lies inside it"),
        "immediate": Field(3, 0, 32, "second operand"),
    },
    Opcode.BRANCH: {
        "condition": Field(2, 0, 2, "Condition"),
        "rs": Field(2, 4, 4, "register counted or tested"),
        "distance": Field(3, 0, 32, "commands to jump, counted from this one, two's complement"),
    },
    Opcode.STREAM: {
        "region": Field(2, 0, 3, "memory region"),
        "scaled": Field(2, 4, 1, "an FP16 scale a lane follows each block of 32 k and the last, shorter one"),
        "minimum": Field(2, 5, 1, "INT4, scaled: an FP16 minimum a lane follows each block's scales"),
        "format": Field(2, 8, 2, "Format of the weights"),
        "offset": Field(3, 0, 32, "first byte, aligned to a beat"),
        "k": Field(4, 0, 16, "reduction length of a tile"),
        "tiles": Field(5, 0, 16, "tiles"),
        "tile_stride": Field(6, 0, 32, "bytes from tile to tile"),
    },
    Opcode.MATMUL: {
        "scaled": Field(2, 0, 1, "the stream carries block scales; else each is 1.0. INT8, and always INT4"),
        "format": Field(2, 1, 2, "Format"),
        "minimum": Field(2, 3, 1, "INT4: weights are 0..15 and the stream carries block minima; else -8..7"),
        "k": Field(3, 0, 16, "reduction length"),
        "n": Field(4, 0, 16, "outputs of a row; the last tile may be partly used"),
        "rows": Field(5, 0, 16, "activation rows; more than the array has are taken in groups that replay the tile"),
        "activation": Field(6, 0, 16, "first reduction index in the activation buffer"),
        "group_stride": Field(6, 16, 16, "reduction indices from row group to row group"),
        "dest": Field(7, 0, 16, "scratchpad group of output 0 of row 0"),
        "dest_stride": Field(7, 16, 16, "scratchpad groups from row to row"),
    },
    Opcode.VECTOR: {
        "b_kind": Field(2, 0, 2, "Operand"),
        "c_kind": Field(2, 2, 2, "Operand"),
        "d_kind": Field(2, 4, 2, "Operand"),
        "square": Field(2, 6, 1, "b is a itself"),
        "c_negate": Field(2, 7, 1, "c with its sign changed"),
        "swap": Field(2, 8, 1, "a with the elements of each pair (2i, 2i+1) exchanged"),
        "function": Field(2, 9, 4, "0: none, else 1 + position in config.functions"),
        "reduce": Field(2, 13, 2, "Reduce"),
        "dest": Field(2, 16, 2, "Dest"),
        "row_scale": Field(2, 18, 1, "A8 with one scale for the row instead of one a block of 32"),
        "scale_fp32": Field(2, 19, 1, "PACKED scales as FP32 words instead of FP16 in the low half"),
        "half": Field(2, 20, 1, "t4 as FP16, with dest FP32 or ACTIVATION"),
        "carry": Field(2, 21, 1, "ARGMAX goes on from the command before instead of starting anew"),
        "n": Field(3, 0, 16, "elements of a row"),
        "rows": Field(4, 0, 16, "rows"),
        "valid": Field(5, 0, 16, "elements from this one on count as zero (row 0)"),
        "valid_step": Field(5, 16, 16, "added to valid and first from row to row; 0 or 1 where ring is not 0"),
        "a": Field(6, 0, 16, "group of operand a, row 0"),
        "a_stride": Field(6, 16, 16, "groups from row to row, modulo 2^16"),
        "b": Field(7, 0, 16, "as a"),
        "b_stride": Field(7, 16, 16, ""),
        "b_immediate": Field(7, 0, 32, "FP32 value where b_kind is IMMEDIATE"),
        "c": Field(8, 0, 16, "as a"),
        "c_stride": Field(8, 16, 16, ""),
        "c_immediate": Field(8, 0, 32, "FP32 value where c_kind is IMMEDIATE"),
        "d": Field(9, 0, 16, "as a"),
        "d_stride": Field(9, 16, 16, "groups from row to row; where group_rows is not 0, from row group to row group"),
        "d_immediate": Field(9, 0, 32, "FP32 value where d_kind is IMMEDIATE"),
        "target": Field(10, 0, 16, "FP32, PACKED: group of row 0; ACTIVATION: reduction index of element 0"),
        "target_stride": Field(10, 16, 16, "FP32, PACKED: groups from row to row; ACTIVATION: activation row of row 0"),
        "scale": Field(11, 0, 16, "PACKED: group of the scales of row 0"),
        "scale_stride": Field(11, 16, 16, "PACKED: groups from row to row"),
        "group_rows": Field(15, 0, 16, "rows of a row group; 0: ACTIVATION: the array's rows, and d_stride is from row "
                                       "to row"),
        "group_stride": Field(11, 16, 16, "ACTIVATION: reduction indices from row group to row group; each begins "
                                          "again at activation row 0"),
        "result": Field(12, 0, 16, "group of the reduction's result for row 0; its other words become zero"),
        "result_stride": Field(12, 16, 16, "groups from row to row"),
        "first": Field(13, 0, 16, "elements before this one count as zero (row 0), two's complement"),
        "ring": Field(13, 16, 16, "valid and first start again behind this many elements; 0: they do not"),
        "index": Field(14, 0, 32, "ARGMAX: number of element 0"),
    },
    Opcode.LOAD: {
        **_TRANSFER,
        "count": Field(4, 0, 32, "bytes of a row, whole beats; offset and strides aligned to beats"),
    },
    Opcode.STORE: {
        **_TRANSFER,
        "element": Field(2, 4, 2, "Element"),
        "count": Field(4, 0, 32, "ROW: bytes of a row; else elements of a row"),
        "element_stride": Field(5, 0, 32, "bytes from element to element in memory; unused for ROW"),
    },
}


def layout(opcode):
    """Amaranth view of a whole command: ``data.FlexibleLayout`` over 512 bits with header and fields."""
    return data.FlexibleLayout(32 * COMMAND_WORDS, {
        name: data.Field(f.width, f.offset) for name, f in (HEADER | COMMANDS[opcode]).items()})


def last_word(opcode):
    """Number of the last word of which the command has a field."""
    return max(f.word for f in COMMANDS[opcode].values())


def encode(opcode, **values):
    """Words of a command. Waits default to NO_WAIT, other fields to zero.

    Raises ValueError naming the field for an unknown field or a value that does not fit.
    """
    known = HEADER | COMMANDS[opcode]
    words = [0] * COMMAND_WORDS
    values = {f"wait_{unit.name.lower()}": NO_WAIT for unit in Unit} | {"opcode": opcode} | values
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{opcode.name}: no field {name!r}; allowed are {', '.join(known)}")
        field, value = known[name], int(value)
        if not 0 <= value < 1 << field.width:
            raise ValueError(f"{opcode.name}.{name} = {value}: must be from 0 to {(1 << field.width) - 1}")
        words[field.word] |= value << field.lsb
    return words


def decode(words):
    """Opcode and a dictionary of all fields of a command; raises ValueError for a bad opcode."""
    opcode = Opcode(words[0] & 0xFF)
    return opcode, {name: words[f.word] >> f.lsb & (1 << f.width) - 1
                    for name, f in (HEADER | COMMANDS[opcode]).items()}
