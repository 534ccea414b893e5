"""Synchronisation checker: which commands may still run, and whether a new one touches what they touch."""

from typing import NamedTuple

import numpy as np

from tilewright.hw.commands import NO_WAIT, Unit

__all__ = ["Access", "HazardError", "HazardTracker", "intervals"]


class Access(NamedTuple):
    """Ranges of one space ("scratchpad", "activation", "region 0", ...) that a command reads or writes."""

    space: str
    write: bool
    ranges: np.ndarray  # [n, 2] first and end, sorted and disjoint


class HazardError(Exception):
    """Two commands of different units touch the same place, one of them writes, and no wait orders them."""


class _Pending(NamedTuple):
    unit: Unit
    index: int
    offset: int
    accesses: tuple


def intervals(first, length):
    """Sorted disjoint [n, 2] ranges covering ``length`` items from each of ``first`` (any shape)."""
    first = np.sort(np.asarray(first, dtype=np.int64).ravel())
    end = first + length
    new = np.ones(len(first), dtype=bool)
    new[1:] = first[1:] > end[:-1]
    starts = np.flatnonzero(new)
    return np.stack([first[starts], np.append(end[starts[1:] - 1], end[-1:])], axis=-1)


def _overlap(a, b):
    """First item that two sorted disjoint range lists share, or None."""
    at = np.searchsorted(b[:, 1], a[:, 0], side="right")
    hit = np.flatnonzero((at < len(b)) & (b[np.minimum(at, len(b) - 1), 0] < a[:, 1]))
    return None if len(hit) == 0 else int(max(a[hit[0], 0], b[at[hit[0]], 0]))


class HazardTracker:
    """Follows the wait fields: what is certain to be finished when a command is issued.

    Commands of one unit run in order, so only commands of other units can conflict. A STREAM is finished, too, once a
    finished MATMUL has taken its last beat.
    """

    def __init__(self):
        self.issued = [0] * len(Unit)
        self.finished = [0] * len(Unit)
        self._pending = []
        self._consumed = {}  # index of a STREAM -> index of the MATMUL that takes its last beat

    def wait(self, waits):
        """Apply a command's wait fields (one count a unit)."""
        for unit, count in enumerate(waits):
            if count != NO_WAIT:
                self.finished[unit] = max(self.finished[unit], self.issued[unit] - count)
        self._pending = [p for p in self._pending if not self._is_finished(p)]

    def _is_finished(self, pending):
        if pending.index < self.finished[pending.unit]:
            return True
        taken = self._consumed.get(pending.index) if pending.unit == Unit.STREAM else None
        return taken is not None and taken < self.finished[Unit.MATMUL]

    def consumed(self, stream_index):
        """The MATMUL issued next takes the last beat of STREAM number ``stream_index``."""
        self._consumed[stream_index] = self.issued[Unit.MATMUL]

    def issue(self, unit, offset, accesses):
        """Check a command against everything that may be unfinished, then add it; raises HazardError."""
        self.check(unit.name, unit, accesses)
        self._pending.append(_Pending(unit, self.issued[unit], offset, tuple(accesses)))
        self.issued[unit] += 1

    def check(self, name, unit, accesses):
        """Raise HazardError where an unfinished command of another unit conflicts with these accesses of ``name``."""
        for other in self._pending:
            if other.unit == unit:
                continue
            for mine in accesses:
                for theirs in other.accesses:
                    if mine.space != theirs.space or not (mine.write or theirs.write):
                        continue
                    place = _overlap(mine.ranges, theirs.ranges)
                    if place is not None:
                        verbs = ["writes" if access.write else "reads" for access in (mine, theirs)]
                        raise HazardError(f"{name} {verbs[0]} {mine.space} at {place}, which {other.unit.name} at "
                                          f"offset {other.offset:#x} {verbs[1]} and may not have finished")
