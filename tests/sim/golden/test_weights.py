import struct

import numpy as np
import pytest

from tilewright.sim.golden import weights

SEED = 20240611


def fp16(value):
    """Round to FP16 by the struct module (ties to even), as a Python float."""
    return struct.unpack("<e", struct.pack("<e", value))[0]


def expected_block(block):
    """One block by Python scalars: FP32 divisions, Python's own round (ties to even)."""
    d = fp16(float(np.float32(max(abs(float(x)) for x in block)) / np.float32(127)))
    q = [0 if d == 0 else max(-127, min(127, round(float(np.float32(x) / np.float32(d))))) for x in block]
    return q, d


@pytest.mark.parametrize("n, k", [(1, 1), (3, 31), (4, 32), (5, 33), (7, 172), (2, 576)])
@pytest.mark.parametrize("magnitude", [1e-5, 0.02, 1.0, 3e4])
def test_against_scalars(n, k, magnitude):
    print("seed", SEED)
    rng = np.random.default_rng(SEED + k)
    w = (rng.standard_normal((n, k)) * magnitude).astype(np.float32)
    w[0, 0] = -abs(w).max() * 2  # the block's largest is negative
    q, d = weights.quantise(w)
    assert (q.dtype, d.dtype) == (np.int8, np.float16)
    assert (q.shape, d.shape) == ((n, k), (n, -(-k // 32)))
    for row in range(n):
        for block in range(d.shape[1]):
            span = slice(32 * block, 32 * block + 32)
            expected_q, expected_d = expected_block(w[row, span])
            assert q[row, span].tolist() == expected_q
            assert float(d[row, block]) == expected_d


def test_ties_go_to_even():
    w = np.zeros((1, 32), np.float32)
    w[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]  # d = 1
    q, d = weights.quantise(w)
    assert d.tolist() == [[1.0]]
    assert q[0, :6].tolist() == [127, 0, 2, 2, 0, -2]


def test_scale_rounded_down_clips():
    w = np.full((1, 1), 127 * (1 + 2.0**-12), np.float32)  # amax / 127 lies below the middle to the next FP16 number
    w[0, 0] = 127 * 1.00048  # 1.00048 rounds to 1.0 in FP16
    q, d = weights.quantise(w)
    assert (q.tolist(), d.tolist()) == ([[127]], [[1.0]])
    big = np.array([[-40000.0 * 127 * 1.0004]], np.float32)
    assert weights.quantise(big).q.tolist() == [[-127]]


def test_zero_and_tiny_blocks():
    w = np.zeros((2, 64), np.float32)
    w[1, :32] = 2.0**-17     # a subnormal scale
    w[1, 32:] = 1e-7         # a scale below FP16: the block vanishes
    q, d = weights.quantise(w)
    assert not q[0].any() and not d[0].any()
    assert d[1, 0] > 0 and q[1, :32].all()
    assert d[1, 1] == 0 and not q[1, 32:].any()


def test_dequantise_is_exact_and_stable():
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    matrix = weights.QuantisedMatrix(rng.integers(-128, 128, (5, 77)).astype(np.int8),
                                     rng.standard_normal((5, 3)).astype(np.float16))
    w = weights.dequantise(matrix)
    assert w.dtype == np.float32
    for row, column in np.ndindex(w.shape):
        assert float(w[row, column]) == int(matrix.q[row, column]) * float(matrix.d[row, column // 32])


def test_error_is_at_most_half_a_step():
    print("seed", SEED)
    w = np.random.default_rng(SEED).standard_normal((16, 100)).astype(np.float32)
    matrix = weights.quantise(w)
    step = np.repeat(matrix.d.astype(np.float64), 32, axis=1)[:, :100]
    assert (abs(weights.dequantise(matrix) - w) <= step * (0.5 + 127 * 2.0**-11)).all()  # FP16 may round d down


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_refuses_what_has_no_scale(bad):
    w = np.ones((2, 40), np.float32)
    w[1, 35] = bad
    with pytest.raises(ValueError, match="finite|FP16"):
        weights.quantise(w)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (4, 0), (2, 2, 2)])
def test_refuses_what_is_no_matrix(shape):
    with pytest.raises(ValueError, match="two dimensions"):
        weights.quantise(np.zeros(shape, np.float32))


def expected_block_int4(block):
    """One block of Q4_1 by Python scalars."""
    least, greatest = float(min(block)), float(max(block))
    d = fp16(float(np.float32(np.float32(greatest) - np.float32(least)) / np.float32(15)))
    m = fp16(least)
    q = [0 if d == 0 else max(0, min(15, round(float((np.float32(x) - np.float32(m)) / np.float32(d))))) for x in block]
    return q, d, m


@pytest.mark.parametrize("n, k", [(1, 1), (3, 31), (4, 32), (5, 33), (7, 172), (2, 576)])
@pytest.mark.parametrize("magnitude, offset", [(1e-5, 0), (0.02, 0), (1.0, 7), (1.0, -7), (1e4, 0)])
def test_int4_against_scalars(n, k, magnitude, offset):
    print("seed", SEED)
    rng = np.random.default_rng(SEED + k)
    w = (rng.standard_normal((n, k)) * magnitude + offset).astype(np.float32)
    w[-1, -1] = w[-1, 0]
    q, d, m = matrix = weights.quantise_int4(w)
    assert (q.dtype, d.dtype, m.dtype) == (np.int8, np.float16, np.float16)
    assert (q.shape, d.shape, m.shape) == ((n, k), (n, -(-k // 32)), (n, -(-k // 32)))
    values = weights.dequantise(matrix)
    for row in range(n):
        for block in range(d.shape[1]):
            span = slice(32 * block, 32 * block + 32)
            expected_q, expected_d, expected_m = expected_block_int4(w[row, span])
            assert q[row, span].tolist() == expected_q
            assert (float(d[row, block]), float(m[row, block])) == (expected_d, expected_m)
            assert values[row, span].tolist() == [float(np.float32(x * expected_d + expected_m)) for x in expected_q]


def test_int4_corners():
    flat = weights.quantise_int4(np.full((2, 40), -3.5, np.float32))
    assert not flat.q.any() and not flat.d.any() and (flat.m == -3.5).all()
    for bad in (np.nan, np.inf, -np.inf, 1e6, -65520.0):
        w = np.zeros((3, 33), np.float32)
        w[1, 32] = bad
        if bad == 1e6:
            w[1, 32:] = 1e6  # one element: no range, but its minimum is beyond FP16
        with pytest.raises(ValueError, match="beyond FP16"):
            weights.quantise_int4(w)
    with pytest.raises(ValueError, match="two dimensions"):
        weights.quantise_int4(np.zeros(4))


def test_q4_0_values():
    matrix = weights.Int4Matrix(np.array([[-8, 7, 1]], np.int8), np.array([[0.5]], np.float16), None)
    assert weights.dequantise(matrix).tolist() == [[-4.0, 3.5, 0.5]]


@pytest.mark.parametrize("matrix, size", [
    (np.zeros((3, 40), np.float16), 240),
    (weights.quantise(np.ones((3, 40))), 120 + 3 * 2 * 2),
    (weights.quantise_int4(np.ones((3, 40))), 60 + 3 * 2 * 2 * 2),
    (weights.Int4Matrix(np.zeros((3, 40), np.int8), np.zeros((3, 2), np.float16), None), 60 + 3 * 2 * 2),
], ids=["fp16", "q8_0", "q4_1", "q4_0"])
def test_stored_bytes(matrix, size):
    """What the formats' definitions say: 2 bytes, 1 byte or half a byte a value, 2 a scale and a minimum."""
    assert weights.stored_bytes(matrix) == size
