"""Weight tiles as they lie in memory, taken apart."""

from typing import NamedTuple

import numpy as np

from tilewright.hw.commands import Format
from tilewright.hw.config import BLOCK

__all__ = ["Tiles", "block_bytes", "take_apart"]


class Tiles(NamedTuple):
    """weights int8 [tiles, k, lanes], FP16 as pairs of bytes; scales and minima float16 [tiles, blocks, lanes] or
    None; beats: weight beats of a tile."""

    weights: np.ndarray
    scales: np.ndarray | None
    minima: np.ndarray | None
    beats: int


def block_bytes(fields, k, config):
    """Bytes of a block of ``k`` reduction indices: of its weights, whole beats; of it in all."""
    weights = k * config.lanes
    if fields["format"] == Format.INT4:
        weights = -(-weights // 2 // config.bus_bytes) * config.bus_bytes
    return weights, weights + 2 * config.lanes * (fields["scaled"] + fields["minimum"])


def take_apart(data, fields, config):
    """Tiles of a STREAM with ``fields`` from their bytes, uint8 [tiles, bytes of a tile]."""
    lanes, at, weights, scales, minima, beats = config.lanes, 0, [], [], [], 0
    for first in range(0, fields["k"], BLOCK):
        k = min(BLOCK, fields["k"] - first)
        size, whole = block_bytes(fields, k, config)
        part = data[:, at:at + size]
        if fields["format"] == Format.INT4:
            weights.append(_nibbles(part, config, bool(fields["minimum"]))[:, :k])
        else:
            weights.append(part.view(np.int8).reshape(-1, k, lanes))
        halves = np.ascontiguousarray(data[:, at + size:at + whole]).view("<f2").reshape(len(data), -1, lanes)
        if fields["scaled"]:
            scales.append(halves[:, 0])
        if fields["minimum"]:
            minima.append(halves[:, 1])
        beats += size // config.bus_bytes
        at += whole
    return Tiles(np.concatenate(weights, axis=1), *(np.stack(part, 1) if part else None for part in (scales, minima)),
                 beats)


def _nibbles(part, config, unsigned):
    """INT4 weights [tiles, k, lanes]. A byte holds two reduction indices of a lane, where a bus beat has a byte a lane;
    else two lanes of one. The first one lies in the low half."""
    pairs = np.stack([part & 15, part >> 4], axis=-1).astype(np.int8)
    if not unsigned:
        pairs = (pairs ^ 8) - 8
    if config.lanes == config.bus_bytes:
        pairs = pairs.reshape(len(part), -1, config.lanes, 2).swapaxes(2, 3)
    return pairs.reshape(len(part), -1, config.lanes)
