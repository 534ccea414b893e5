"""The LOAD and STORE commands of the functional machine."""

import numpy as np

from tilewright.hw.commands import Element
from tilewright.hw.registers import ErrorCode

__all__ = ["transfer"]

_ELEMENT_BYTES = {Element.BYTE: (1, 1), Element.HALF: (2, 4), Element.WORD: (4, 4)}
"""Bytes of an element in memory, and from element to element in the scratchpad."""


def transfer(machine, fields, *, store):
    """Carry out a decoded LOAD or STORE on ``machine``; return its accesses."""
    if not fields["count"] or not fields["rows"] or not fields["planes"]:
        machine.fail(f"count = {fields['count']}, rows = {fields['rows']}, planes = {fields['planes']}",
                     ErrorCode.BAD_FIELD)
    element = Element(fields["element"]) if store else Element.ROW
    plane, row = np.arange(fields["planes"])[:, None], np.arange(fields["rows"])

    def places(first, strides):
        return (fields[first] + plane * _signed(fields[f"{strides}plane_stride"])
                + row * _signed(fields[f"{strides}row_stride"])).ravel()

    far, near = places("offset", ""), places("scratch", "scratch_")
    if element != Element.ROW:
        return _store_elements(machine, fields, element, far, near)
    beat, count = machine.config.bus_bytes, fields["count"]
    if (far % beat).any() or (near % beat).any() or (not store and count % beat):
        machine.fail("a row is not aligned to beats", ErrorCode.BAD_FIELD)
    memory = machine.memory(fields["region"], far, count, write=store)
    scratch = machine.scratch_access(near // beat, -(-count // beat), write=not store)
    data = machine.region(fields["region"])
    at = far[:, None] + np.arange(count)
    if store:
        data[at] = _read_bytes(machine, near[:, None] + np.arange(count))
    else:
        machine.write_rows(near // beat, data[at].view("<u4"))
    return [memory, scratch]


def _store_elements(machine, fields, element, far, near):
    width, step = _ELEMENT_BYTES[element]
    stride, count, beat = _signed(fields["element_stride"]), fields["count"], machine.config.bus_bytes
    at = far[:, None] + np.arange(count) * stride
    if (at % width).any() or (near % step).any():
        machine.fail("an element is not aligned to its size", ErrorCode.BAD_FIELD)
    memory = machine.memory(fields["region"], at, width, write=True)
    source = near[:, None] + np.arange(count) * step
    scratch = machine.scratch_access(source // beat, 1, write=False)
    data = machine.region(fields["region"])
    data[at[..., None] + np.arange(width)] = _read_bytes(machine, source[..., None] + np.arange(width))
    return [memory, scratch]


def _read_bytes(machine, addresses):
    return (machine.read_words(addresses // 4) >> (addresses % 4 * 8).astype(np.uint32)).astype(np.uint8)


def _signed(stride):
    return stride - (1 << 32) if stride >> 31 else stride
