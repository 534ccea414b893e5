"""Weight streams: issued as far ahead of their MATMULs as the queues allow."""

from collections import deque

from tilewright.hw.commands import Opcode

from .assembler import STREAMS_AHEAD

__all__ = ["Streams"]

FORMAT = ("format", "scaled", "minimum")
"""Fields that STREAM and MATMUL have in common, beside k."""


class Streams:
    """STREAM commands in the order in which MATMULs take their data.

    Each is issued as soon as fewer than ``STREAMS_AHEAD`` others wait for their MATMULs, at the latest before its own.
    """

    def __init__(self, program):
        self._program = program
        self._planned = deque()
        self._ahead = deque()  # for each STREAM issued the MATMULs that still have to take data, and its format

    def plan(self, *, matmuls=1, reads=(), **values):
        """Add a STREAM that the next ``matmuls`` MATMULs share; it takes the program's present label."""
        self._planned.append((matmuls, self._program.where, reads, values))

    def pump(self):
        """Issue what may be issued now."""
        while self._planned and len(self._ahead) < STREAMS_AHEAD:
            matmuls, label, reads, values = self._planned.popleft()
            with self._program.label(label):
                self._program.emit(Opcode.STREAM, reads=reads, **values)
            self._ahead.append([matmuls, {name: values[name] for name in FORMAT}])

    def matmul(self, **values):
        """Issue a MATMUL that takes from the first STREAM not used up, in its format."""
        if not self._ahead:
            self.pump()
        stream = self._ahead[0]
        token = self._program.emit(Opcode.MATMUL, **values, **stream[1])
        stream[0] -= 1
        if not stream[0]:
            self._ahead.popleft()
        return token
