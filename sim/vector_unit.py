"""The VECTOR command of the functional machine."""

import numpy as np

from tilewright.hw.commands import Dest, Format, Operand, Reduce
from tilewright.hw.config import BLOCK
from tilewright.hw.registers import ErrorCode
from tilewright.sim.golden import a8, fp32
from tilewright.sim.golden import vector as golden

__all__ = ["vector"]


def vector(machine, fields):
    """Carry out a decoded VECTOR on ``machine``; return its accesses."""
    n, rows, width = fields["n"], fields["rows"], machine.config.group_words
    _check(machine, fields)
    groups = -(-n // width)
    accesses = []

    def address(name):
        steps = np.arange(rows)
        if name == "d" and fields["group_rows"]:
            steps //= fields["group_rows"]
        return fields[name] + steps * fields[f"{name}_stride"] & 0xFFFF

    def read(name, n):
        first = address(name)
        accesses.append(machine.scratch_access(first, -(-n // width), write=False))
        return machine.read_words(first[:, None] * width + np.arange(n)).view(np.float32)

    def operand(name):
        kind = Operand(fields[f"{name}_kind"])
        if kind == Operand.STREAM:
            return read(name, n)
        if kind == Operand.ROW:
            return read(name, 1)
        if kind == Operand.IMMEDIATE:
            return np.array(fields[f"{name}_immediate"], np.uint32).view(np.float32)
        return None

    a, b, c, d = read("a", n), operand("b"), operand("c"), operand("d")
    first, valid = golden.window(fields["first"], fields["valid"], fields["valid_step"], fields["ring"], rows)
    table = machine.functions[fields["function"] - 1] if fields["function"] else None
    t3, t4 = golden.apply(a, b, c, d, square=bool(fields["square"]), c_negate=bool(fields["c_negate"]),
                          swap=bool(fields["swap"]), table=table, valid=valid, first=first)
    if fields["reduce"]:
        values = np.zeros((rows, width), np.uint32)
        values[:, 0] = _reduce(machine, fields, t3, golden.kept(valid, first, t3.shape)).view(np.uint32)
        accesses.append(machine.scratch_access(address("result"), 1, write=True))
        machine.write_rows(address("result"), values)
    if fields["dest"] == Dest.FP32:
        accesses.append(machine.scratch_access(address("target"), groups, write=True))
        machine.write_rows(address("target"), _halves(t4).astype(np.uint32) if fields["half"] else t4.view(np.uint32))
    elif fields["dest"] == Dest.ACTIVATION and fields["half"]:
        accesses += _halves_to_activation(machine, fields, _halves(t4))
    elif fields["dest"] != Dest.NONE:
        q, code = a8.quantise(t4, block=None if fields["row_scale"] else BLOCK)
        if fields["dest"] == Dest.ACTIVATION:
            accesses += _to_activation(machine, fields, q, code)
        else:
            accesses += _to_scratchpad(machine, fields, q, code, address)
    return accesses


def _check(machine, fields):
    config, dest, half, ring = machine.config, fields["dest"], fields["half"], fields["ring"]
    quantised = dest == Dest.PACKED or (dest == Dest.ACTIVATION and not half)
    bad = []
    if not fields["n"] or not fields["rows"]:
        bad.append(f"n = {fields['n']}, rows = {fields['rows']}")
    if fields["function"] > len(machine.functions):
        bad.append(f"function {fields['function']} of {len(machine.functions)}")
    if fields["swap"] and (fields["n"] % 2 or config.group_words == 1):
        bad.append(f"swap with n = {fields['n']} in groups of {config.group_words}")
    if half and ("fp16" not in config.formats or dest == Dest.PACKED):
        bad.append(f"an FP16 result for {Dest(dest).name} in a build with {', '.join(config.formats)}")
    if quantised and "int8" not in config.formats:
        bad.append(f"an INT8 result for {Dest(dest).name} in a build with {', '.join(config.formats)}")
    if fields["row_scale"] and dest == Dest.PACKED and fields["n"] > config.max_head_dim:
        bad.append(f"one scale for {fields['n']} elements, more than {config.max_head_dim}")
    if fields["row_scale"] and dest == Dest.ACTIVATION and not half:
        bad.append("one scale for a row of activations")
    if ring and (fields["valid_step"] > 1 or fields["valid"] > ring):
        bad.append(f"valid = {fields['valid']} and its step = {fields['valid_step']} in a ring of {ring}")
    if bad:
        machine.fail(bad[0], ErrorCode.BAD_FIELD)
    # What hardware does not notice.
    first = (fields["first"] + 0x8000 & 0xFFFF) - 0x8000
    if ring and (first >= ring or not fields["valid"]):
        machine.fail(f"first = {first} and valid = {fields['valid']} in a ring of {ring}")
    if not ring and first and first >= fields["valid"]:
        machine.fail(f"first = {first} is not below valid = {fields['valid']}, without a ring")


def _reduce(machine, fields, t3, keep):
    """Results of the rows; ARGMAX leaves on the machine what the next one may carry on from."""
    carried, machine.argmax = machine.argmax, None
    if fields["reduce"] == Reduce.SUM:
        return golden.sum_rows(t3)
    number, best = golden.argmax_rows(t3, keep)
    if fields["reduce"] == Reduce.MAX:
        return best
    if fields["carry"] and (carried is None or fields["rows"] != 1):
        machine.fail(f"ARGMAX of {fields['rows']} rows goes on from a reduction that was no ARGMAX of one row")
    number, best = golden.argmax_rows(t3, keep, fields["index"], carried if fields["carry"] else None)
    if fields["rows"] == 1:
        machine.argmax = number, best
    return number


def _halves(t4):
    return fp32.to_fp16(t4).view(np.uint16)


def _row_groups(machine, fields, rows, size):
    """Where rows go in an activation buffer with ``size`` rows: (their slice, first row, index) of each row group."""
    row, index, taken = fields["target_stride"], fields["target"], 0
    highest = max(row, min(row + rows, fields["group_rows"]) - 1)
    if highest >= size:
        machine.fail(f"activation row {highest} of {size}", ErrorCode.ACTIVATION_RANGE)
    size = fields["group_rows"] or size
    if row >= size:
        machine.fail(f"activation row {row} of a row group of {size}")
    if fields["group_stride"] % BLOCK:
        machine.fail(f"group_stride = {fields['group_stride']} is not a multiple of {BLOCK}", ErrorCode.BAD_FIELD)
    while taken < rows:
        count = min(size - row, rows - taken)
        yield slice(taken, taken + count), row, index
        row, index, taken = 0, index + fields["group_stride"], taken + count


def _halves_to_activation(machine, fields, halves):
    """Accesses. An FP16 row is two columns of bytes: low bytes, then high bytes."""
    rows, n = halves.shape
    accesses, state = [], machine.activation
    for part, row, index in _row_groups(machine, fields, rows, machine.config.fp16_rows):
        count = part.stop - part.start
        accesses.append(machine.activation_access(2 * row, index, 2 * count, n, write=True))
        columns = slice(2 * row, 2 * (row + count))
        data = np.stack([halves[part] & 0xFF, halves[part] >> 8], 1).astype(np.uint8).view(np.int8)
        state.q[columns, index:index + n] = data.reshape(2 * count, n)
        state.written[columns, index:index + n] = 1 + Format.FP16
    return accesses


def _to_activation(machine, fields, q, code):
    """Accesses."""
    (rows, n), blocks = q.shape, code.shape[1]
    accesses, state = [], machine.activation
    for part, row, index in _row_groups(machine, fields, rows, machine.config.rows):
        columns = slice(row, row + part.stop - part.start)
        accesses.append(machine.activation_access(row, index, part.stop - part.start, n, write=True))
        state.q[columns, index:index + n] = q[part]
        state.code[columns, index // BLOCK:index // BLOCK + blocks] = code[part]
        state.written[columns, index:index + n] = 1 + Format.INT8
        # The rest of the last block shares the new scale: whatever stood there is lost.
        state.written[columns, index + n:index + blocks * BLOCK] = 0
    return accesses


def _to_scratchpad(machine, fields, q, code, address):
    rows, n = q.shape
    padded = np.zeros((rows, -(-n // 4) * 4), np.int8)
    padded[:, :n] = q
    scales = a8.scale(code) if fields["scale_fp32"] else a8.scale_fp16(code)
    scales = scales.view(np.uint32) if fields["scale_fp32"] else scales.view(np.uint16).astype(np.uint32)
    accesses = []
    for name, words in (("target", padded.view("<u4")), ("scale", scales)):
        groups = -(-words.shape[1] // machine.config.group_words)
        accesses.append(machine.scratch_access(address(name), groups, write=True))
        machine.write_rows(address(name), words)
    return accesses
