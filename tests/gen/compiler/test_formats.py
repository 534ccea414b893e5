"""Weights in the order of memory, byte by byte; formats that a layer may mix."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.compiler.formats import MatrixFormat, format_of, stream_formats, tile_matrix, widest_format
from tilewright.gen.configuration import load_preset
from tilewright.gen.errors import UserError
from tilewright.sim.golden.weights import Int4Matrix, QuantisedMatrix

SMALL = load_preset("small")  # 8 lanes
SEED = 5


def int4(n, k, *, minimum=True):
    rng = np.random.default_rng(SEED)
    d, m = (rng.normal(size=(n, -(-k // 32))).astype(np.float16) for _ in range(2))
    low = 0 if minimum else -8
    return Int4Matrix(rng.integers(low, low + 16, (n, k)).astype(np.int8), d, m if minimum else None)


def int8(n, k):
    matrix = int4(n, k)
    return QuantisedMatrix(matrix.q, matrix.d)


@pytest.mark.parametrize("minimum", [True, False])
@pytest.mark.parametrize("n, k", [(8, 32), (11, 33), (3, 1), (17, 70)])
def test_int4_tiles(n, k, minimum):
    """Each weight is where the layout says, in bytes read one after another."""
    matrix = int4(n, k, minimum=minimum)
    tiles = tile_matrix(matrix, SMALL)
    assert tiles.shape == (-(-n // 8), MatrixFormat(SMALL, format_of(matrix)).tile_bytes(k))
    for tile, content in enumerate(tiles.tolist()):
        at = 0
        for block in range(-(-k // 32)):
            for pair in range(32 * block, min(k, 32 * block + 32), 2):
                for lane in range(8):
                    for i in range(2):
                        inside = tile * 8 + lane < n and pair + i < k
                        value = matrix.q[tile * 8 + lane, pair + i] if inside else 0
                        assert content[at + lane] >> 4 * i & 15 == value & 15
                at += 8
            for factor in (matrix.d, matrix.m) if minimum else (matrix.d,):
                values = np.zeros(8, np.float16)
                values[:min(8, n - tile * 8)] = factor[tile * 8:tile * 8 + 8, block]
                assert bytes(content[at:at + 16]) == values.tobytes()
                at += 16
        assert at == len(content)


def test_formats_of_streams():
    weights = {name: int8(8, 32) for name in ("k_proj", "v_proj", "q_proj", "o_proj")} | {
        "gate_proj": int4(8, 32), "up_proj": int4(8, 32), "down_proj": int4(8, 32, minimum=False)}
    formats = stream_formats(SMALL, weights)
    assert {name: each.name for name, each in formats.items()} == {
        "projections": "int8", "o_proj": "int8", "up": "int4", "down_proj": "int4_symmetric"}
    assert widest_format(weights) == "int8"
    with pytest.raises(UserError, match="small: gate_proj in int4 needs it in formats = .'int8'.; add it"):
        stream_formats(replace(SMALL, formats=("int8",)), weights)
    weights["q_proj"] = int4(8, 32)
    with pytest.raises(UserError, match="k_proj in int8, v_proj in int8, q_proj in int4: must have one format"):
        stream_formats(SMALL, weights)
    weights["o_proj"] = np.zeros((8, 32), np.float16)
    with pytest.raises(UserError, match="k_proj is in int8, other weights are in FP16"):
        widest_format(weights)
