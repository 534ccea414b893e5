"""A model's weights in the formats of the machine; one that has no place there is reported with tensor and index."""

import numpy as np

from tilewright.gen.errors import UserError
from tilewright.sim.golden.weights import BLOCK, quantise, quantise_int4

__all__ = ["check_finite", "to_fp16", "to_int8", "to_int4"]


def check_finite(name, array, *, rows=None):
    """Raise UserError that names the first element of tensor ``name`` that is NaN or infinite.

    rows : numbers of the array's rows in the tensor, where the array is not the whole of it
    """
    _refuse_first(~np.isfinite(array), name, array, "weights must be finite; get another copy of the file", rows)


def to_fp16(name, array):
    """The array rounded to FP16; UserError for an element that is not finite or is beyond FP16's numbers."""
    check_finite(name, array)
    with np.errstate(over="ignore"):
        half = np.asarray(array).astype(np.float16)
    _refuse_first(np.isinf(half), name, array, "is beyond FP16's largest number, 65504; take the format int8 for it")
    return half


def to_int8(name, array):
    """The matrix [n, k] as ``QuantisedMatrix``; UserError for an element that is not finite or is beyond an FP16 scale
    of its block, which reaches 127 * 65504."""
    try:
        return quantise(array)
    except ValueError:
        check_finite(name, array)
        with np.errstate(over="ignore"):
            beyond = np.isinf((np.abs(np.asarray(array, np.float32)) / np.float32(127)).astype(np.float16))
        _refuse_first(beyond, name, array, "is beyond 127 * 65504, to which an FP16 scale of its block reaches; scale "
                                           "the model's weights down")
        raise


def to_int4(name, array):
    """The matrix [n, k] as ``Int4Matrix``; UserError for an element that is not finite, is beyond FP16's numbers, or
    makes its block's range one that 15 steps of an FP16 scale cannot span."""
    try:
        return quantise_int4(array)
    except ValueError:
        check_finite(name, array)
        raise UserError(f"tensor {name}: a block of {BLOCK} has values beyond an FP16 scale and minimum; take the "
                        "format int8 for it") from None


def _refuse_first(wrong, name, array, why, rows=None):
    if not wrong.any():
        return
    index = [int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape)]
    value = array[tuple(index)]
    if rows is not None:
        index[0] = int(rows[index[0]])
    raise UserError(f"tensor {name}{index} = {value:g}: {why}")
