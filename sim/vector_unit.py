"""The VECTOR command of the functional machine."""

import numpy as np

from tilewright.hw.commands import Dest, Operand, Reduce
from tilewright.hw.config import BLOCK
from tilewright.hw.registers import ErrorCode
from tilewright.sim.golden import a8
from tilewright.sim.golden import vector as golden

__all__ = ["vector"]


def vector(machine, fields):
    """Carry out a decoded VECTOR on ``machine``; return its accesses."""
    n, rows, width = fields["n"], fields["rows"], machine.config.group_words
    _check(machine, fields)
    groups = -(-n // width)
    accesses = []

    def address(name):
        return fields[name] + np.arange(rows) * fields[f"{name}_stride"] & 0xFFFF

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
    valid = fields["valid"] + np.arange(rows) * fields["valid_step"] & 0xFFFF
    table = machine.functions[fields["function"] - 1] if fields["function"] else None
    t3, t4 = golden.apply(a, b, c, d, square=bool(fields["square"]), c_negate=bool(fields["c_negate"]),
                          swap=bool(fields["swap"]), table=table, valid=valid)
    if fields["reduce"]:
        reduced = golden.sum_rows(t3) if fields["reduce"] == Reduce.SUM else golden.max_rows(t3, valid)
        values = np.zeros((rows, width), np.uint32)
        values[:, 0] = reduced.view(np.uint32)
        accesses.append(machine.scratch_access(address("result"), 1, write=True))
        machine.write_rows(address("result"), values)
    if fields["dest"] == Dest.FP32:
        accesses.append(machine.scratch_access(address("target"), groups, write=True))
        machine.write_rows(address("target"), t4.view(np.uint32))
    elif fields["dest"] != Dest.NONE:
        q, code = a8.quantise(t4, block=None if fields["row_scale"] else BLOCK)
        if fields["dest"] == Dest.ACTIVATION:
            accesses.append(_to_activation(machine, fields, q, code))
        else:
            accesses += _to_scratchpad(machine, fields, q, code, address)
    return accesses


def _check(machine, fields):
    bad = []
    if not fields["n"] or not fields["rows"]:
        bad.append(f"n = {fields['n']}, rows = {fields['rows']}")
    if fields["function"] > len(machine.functions):
        bad.append(f"function {fields['function']} of {len(machine.functions)}")
    if fields["reduce"] not in list(Reduce):
        bad.append(f"reduce = {fields['reduce']}")
    if fields["swap"] and (fields["n"] % 2 or machine.config.group_words == 1):
        bad.append(f"swap with n = {fields['n']} in groups of {machine.config.group_words}")
    if fields["row_scale"] and fields["dest"] == Dest.PACKED and fields["n"] > machine.config.max_head_dim:
        bad.append(f"one scale for {fields['n']} elements, more than {machine.config.max_head_dim}")
    if fields["row_scale"] and fields["dest"] == Dest.ACTIVATION:
        bad.append("one scale for a row of activations")
    if bad:
        machine.fail(bad[0], ErrorCode.BAD_FIELD)


def _to_activation(machine, fields, q, code):
    (rows, n), index, row = q.shape, fields["target"], fields["target_stride"]
    access = machine.activation_access(row, index, rows, n, write=True)
    blocks = code.shape[1]
    state = machine.activation
    state.q[row:row + rows, index:index + n] = q
    state.code[row:row + rows, index // BLOCK:index // BLOCK + blocks] = code
    state.written[row:row + rows, index:index + n] = True
    # The rest of the last block shares the new scale: whatever stood there is lost.
    state.written[row:row + rows, index + n:index + blocks * BLOCK] = False
    return access


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
