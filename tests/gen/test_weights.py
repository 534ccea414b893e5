"""Weights that have no place in a format are named, with the first index that is wrong."""

import numpy as np
import pytest

from tilewright.gen.errors import UserError
from tilewright.gen.weights import check_finite, to_fp16, to_int4, to_int8
from tilewright.sim.golden.weights import quantise, quantise_int4

SEED = 4711


@pytest.fixture
def matrix():
    print("seed", SEED)
    return np.random.default_rng(SEED).standard_normal((40, 44)).astype(np.float32)


def refusal(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("function", [check_finite, to_fp16, to_int8, to_int4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_first_element_that_is_not_finite(matrix, function, value):
    matrix[[3, 3, 39], [17, 43, 0]] = value
    assert refusal(function, "up", matrix) == (
        f"tensor up[3, 17] = {value:g}: weights must be finite; get another copy of the file")


def test_vectors_and_rows(matrix):
    check_finite("up", matrix)
    matrix[1, 2] = np.nan
    assert refusal(check_finite, "up", matrix[1]).startswith("tensor up[2] = nan")
    assert refusal(check_finite, "up", matrix[:3], rows=[7, 21, 4]).startswith("tensor up[21, 2] = nan")


@pytest.mark.parametrize("value, fits", [(65519.0, True), (65520.0, False), (-65519.99, True), (-65520.0, False)])
def test_fp16(matrix, value, fits):
    matrix[5, 6] = value
    if fits:
        half = to_fp16("up", matrix)
        assert half.dtype == np.float16 and abs(half[5, 6]) == 65504
    else:
        assert refusal(to_fp16, "up", matrix).startswith(f"tensor up[5, 6] = {value:g}: is beyond FP16's")


def test_q8_0(matrix):
    for got, expected in zip(to_int8("up", matrix), quantise(matrix), strict=True):
        np.testing.assert_array_equal(got, expected)
    matrix[5, 43] = -127 * 65504.0
    assert to_int8("up", matrix).d[5, 1] == 65504
    matrix[5, 43] = -127 * 65520.0
    assert refusal(to_int8, "up", matrix).startswith("tensor up[5, 43] = -8.32104e+06: is beyond 127 * 65504")


def test_int4(matrix):
    for got, expected in zip(to_int4("up", matrix), quantise_int4(matrix), strict=True):
        np.testing.assert_array_equal(got, expected)
    matrix[5, 43] = -65520.0
    assert refusal(to_int4, "up", matrix) == (
        "tensor up: a block of 32 has values beyond an FP16 scale and minimum; take the format int8 for it")
