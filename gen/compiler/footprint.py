"""What a command touches, as an upper bound taken from its fields; the basis of the waits."""

from dataclasses import dataclass, fields

from tilewright.hw.commands import Dest, Element, Format, Opcode, Operand
from tilewright.hw.config import BLOCK

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """Places read and written. Scratchpad groups and activation blocks are bit sets, parts of memory sets of names."""

    scratch_reads: int = 0
    scratch_writes: int = 0
    activation_reads: int = 0
    activation_writes: int = 0
    memory_reads: frozenset = frozenset()
    memory_writes: frozenset = frozenset()

    def __or__(self, other):
        return Footprint(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(self)))

    def conflicts(self, other):
        """Whether the order of the two commands matters."""
        return bool(
            self.scratch_writes & (other.scratch_reads | other.scratch_writes)
            | self.scratch_reads & other.scratch_writes
            | self.activation_writes & (other.activation_reads | other.activation_writes)
            | self.activation_reads & other.activation_writes
            or self.memory_writes & (other.memory_reads | other.memory_writes)
            or self.memory_reads & other.memory_writes)


def _rows(first, length, rows, stride):
    """Bit set of ``length`` places from ``first`` on and from every ``stride``-th after it."""
    bits = 0
    for row in range(rows):
        bits |= (1 << length) - 1 << first + row * stride
    return bits


def footprint(config, opcode, values, *, reads=frozenset(), writes=frozenset()):
    """Footprint of a command with these values of its fields (those left out are zero)."""
    values = _Zeros(values)
    scratch_reads, scratch_writes, activation_reads, activation_writes = {
        Opcode.STREAM: lambda *_: (0, 0, 0, 0), Opcode.MATMUL: _matmul, Opcode.VECTOR: _vector,
        Opcode.LOAD: _load, Opcode.STORE: _store}[opcode](config, values)
    return Footprint(scratch_reads, scratch_writes, activation_reads, activation_writes, reads, writes)


class _Zeros(dict):
    """Fields of a command; one that is not given is zero."""

    def __missing__(self, key):
        return 0


def _activation(config, half, row, index, rows, n, group_stride, group_rows=0):
    """Bit set of blocks of 32 activations, in byte columns: an INT8 row is one, an FP16 row two neighbouring ones."""
    size, columns = (config.fp16_rows, 2) if half else (config.rows, 1)
    size = group_rows or size
    depth, bits = config.activation_depth // BLOCK, 0
    while rows > 0:
        taken = min(rows, size - row)
        first, last = index // BLOCK, -(-(index + n) // BLOCK)
        bits |= _rows(columns * row * depth + first, last - first, columns * taken, depth)
        row, rows, index = 0, rows - taken, index + group_stride
    return bits


def _matmul(config, f):
    written = _rows(f["dest"], -(-f["n"] // config.group_words), f["rows"], f["dest_stride"])
    read = _activation(config, f["format"] == Format.FP16, 0, f["activation"], f["rows"], f["k"], f["group_stride"])
    return 0, written, read, 0


def _vector(config, f):
    width, n, rows = config.group_words, f["n"], f["rows"]
    groups = -(-n // width)
    read = _rows(f["a"], groups, rows, f["a_stride"])
    for name in "bcd":
        kind = f[f"{name}_kind"]
        if kind in (Operand.STREAM, Operand.ROW):
            shared = f["group_rows"] if name == "d" and f["group_rows"] else 1
            read |= _rows(f[name], groups if kind == Operand.STREAM else 1, -(-rows // shared), f[f"{name}_stride"])
    written, activation = 0, 0
    if f["reduce"]:
        written |= _rows(f["result"], 1, rows, f["result_stride"])
    if f["dest"] == Dest.FP32:
        written |= _rows(f["target"], groups, rows, f["target_stride"])
    elif f["dest"] == Dest.ACTIVATION:
        activation = _activation(config, f["half"], f["target_stride"], f["target"], rows, n, f["group_stride"],
                                 f["group_rows"])
    elif f["dest"] == Dest.PACKED:
        blocks = 1 if f["row_scale"] else -(-n // BLOCK)
        written |= _rows(f["target"], -(-n // config.bus_bytes), rows, f["target_stride"])
        written |= _rows(f["scale"], -(-blocks // width), rows, f["scale_stride"])
    return read, written, 0, activation


def _span(config, f, length):
    """Groups of a transfer's scratchpad side: ``length`` bytes from each row and plane on."""
    beat, bits = config.bus_bytes, 0
    for plane in range(f["planes"]):
        for row in range(f["rows"]):
            first = f["scratch"] + plane * f["scratch_plane_stride"] + row * f["scratch_row_stride"]
            bits |= _rows(first // beat, (first + length - 1) // beat - first // beat + 1, 1, 0)
    return bits


def _load(config, f):
    return 0, _span(config, f, f["count"]), 0, 0


def _store(config, f):
    step = {Element.ROW: 1, Element.BYTE: 1, Element.HALF: 4, Element.WORD: 4}[f["element"]]
    return _span(config, f, step * f["count"]), 0, 0, 0
