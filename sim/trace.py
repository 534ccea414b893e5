"""A timeline of what ran: the test bench's record joined with the program's labels, and Chrome's trace format.

A record (``+trace=FILE`` of the test bench) has a line for each cycle in which something changes: the cycle, then in
hexadecimal the sequencer's state (program runs, command in work, command held back), the units that are offered a
command, the units that have ended one, and the offset of the sequencer's command.
"""

import json
from collections import deque
from pathlib import Path
from typing import NamedTuple

from tilewright.hw.commands import Opcode, Unit

__all__ = ["SEQUENCER", "WAITING", "TRACKS", "Event", "Span", "Timeline", "read_timeline"]

SEQUENCER, WAITING, PROGRAM = "sequencer", "waiting", "program"
TRACKS = {PROGRAM: "program", SEQUENCER: "sequencer", WAITING: "sequencer waits", Unit.STREAM: "prefetch (STREAM)",
          Unit.MATMUL: "matmul", Unit.VECTOR: "vector", Unit.LOAD: "load", Unit.STORE: "store"}
"""Rows of the picture, from top to bottom: a key of ``Event.track`` and its title."""
_BUSY, _COMMAND, _WAITING = 4, 2, 1


class Event(NamedTuple):
    """A command on a track, from cycle ``begin`` up to, not including, cycle ``end``.

    On a unit's track an event begins when the command is offered and the one before has ended, and ends when it is
    done: where a unit works on two commands at once, their common time is the earlier one's. On the sequencer's track
    it is the time from the command's first word to its issue or completion; the track WAITING shows how long of that
    the command was held back. ``finished`` is False where the program ended first, with an error.
    """

    track: object   # Unit, SEQUENCER or WAITING
    run: int        # number of the program's run
    offset: int     # of the command in region 0
    begin: int
    end: int
    finished: bool = True


class Span(NamedTuple):
    """A run of a program: cycles ``begin`` up to ``end``, the count that the register ``cycles`` shows."""

    begin: int
    end: int


class Timeline:
    """What ran and when.

    runs : list of Span
    events : list of Event   by end
    labels : mapping         of a command's offset to what ``Program.labels`` gives (``opcode`` and ``text``)
    """

    def __init__(self, labels):
        self.labels, self.runs, self.events = labels, [], []

    def of(self, track, run=None):
        """The events of a track, in order; of one run or of all."""
        return [event for event in self.events if event.track == track and run in (None, event.run)]

    def busy(self, track, run=None):
        """Cycles that a track's events take."""
        return sum(event.end - event.begin for event in self.of(track, run))

    def as_json(self, names=(), *, work=None, about=None):
        """Chrome's trace format (Perfetto reads it), a cycle as a microsecond. ``names`` are those of the runs,
        ``work`` maps events to what ``workload.work_of`` says of them, ``about`` is added as what the whole was."""
        rows = {track: i for i, track in enumerate(TRACKS)}
        events = [{"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "accelerator (1 us is a cycle)"}}]
        for track, row in rows.items():
            events += [{"ph": "M", "name": name, "pid": 0, "tid": row, "args": args} for name, args in
                       (("thread_name", {"name": TRACKS[track]}), ("thread_sort_index", {"sort_index": row}))]
        for number, span in enumerate(self.runs):
            name = names[number] if number < len(names) else f"run {number}"
            events.append({"ph": "X", "name": name, "cat": PROGRAM, "pid": 0, "tid": rows[PROGRAM], "ts": span.begin,
                           "dur": span.end - span.begin, "args": {"run": number}})
        for event in self.events:
            opcode, text = self.labels.get(event.offset, ("", ""))
            args = {"command": opcode, "offset": f"{event.offset:#x}", "run": event.run}
            if work and event in work:
                args |= work[event].as_json()
            events.append({"ph": "X", "name": text or opcode or args["offset"], "cat": opcode, "pid": 0,
                           "tid": rows[event.track], "ts": event.begin, "dur": event.end - event.begin,
                           "args": args if event.finished else args | {"unfinished": True}})
        return {"traceEvents": events, "displayTimeUnit": "ms"} | ({"otherData": about} if about else {})

    def write(self, path, names=(), **details):
        """Write ``as_json`` to a file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(names, **details), separators=(",", ":")) + "\n")


def read_timeline(path, labels):
    """Timeline of the record ``path``; ``labels`` must have every command that was run."""
    reader = _Reader(Timeline(labels))
    with open(path) as file:
        for line in file:
            cycle, *words = line.split()
            reader.step(int(cycle), *(int(word, 16) for word in words))
    return reader.timeline


class _Reader:
    """Follows a record line by line."""

    def __init__(self, timeline):
        self.timeline = timeline
        self._state, self._run_begin = 0, 0
        self._clear(0)

    def _clear(self, cycle):
        self._issued = {unit: deque() for unit in Unit}   # offsets of commands in the units' queues
        self._offered = {unit: deque() for unit in Unit}  # (offset, cycle)
        self._done = dict.fromkeys(Unit, cycle)           # when the last command ended
        self._levels = {}                                 # (offset, cycle) of what the sequencer is at

    def step(self, cycle, state, begin, done, address):
        """Take in a line of the record."""
        rose, fell = state & ~self._state, self._state & ~state
        self._state = state
        if rose & _BUSY:
            self._run_begin = cycle
            self._clear(cycle)
        for level, track in ((_COMMAND, SEQUENCER), (_WAITING, WAITING)):
            if fell & level:
                self._leave(track, cycle)
            if rose & level:
                self._levels[track] = address, cycle
        for unit in Unit:
            if done >> unit & 1:
                self._end(unit, cycle)
            if begin >> unit & 1:
                self._offered[unit].append((self._issued[unit].popleft(), cycle))
        if fell & _BUSY:
            self._end_run(cycle)

    def _add(self, track, offset, begin, end, finished=True):
        self.timeline.events.append(Event(track, len(self.timeline.runs), offset, begin, end, finished))

    def _end(self, unit, cycle, finished=True):
        offset, offered = self._offered[unit].popleft()
        self._add(unit, offset, max(offered, self._done[unit]), cycle, finished)
        self._done[unit] = cycle

    def _leave(self, track, cycle):
        """The sequencer is through with a command, or waits no longer; a unit's command has gone to its queue."""
        offset, begin = self._levels.pop(track)
        self._add(track, offset, begin, cycle)
        opcode = Opcode[self.timeline.labels[offset].opcode]
        if track == SEQUENCER and opcode.name in Unit.__members__:
            self._issued[Unit[opcode.name]].append(offset)

    def _end_run(self, cycle):
        """Nothing is left behind END; behind an error each unit's first command may be, and the sequencer's was cut."""
        for unit in Unit:
            if self._offered[unit] and self._offered[unit][0][1] < cycle:
                self._end(unit, cycle, finished=False)
        last = max((i for i, event in enumerate(self.timeline.events) if event.track == SEQUENCER), default=None)
        if last is not None and self.timeline.labels[self.timeline.events[last].offset].opcode != Opcode.END.name:
            self.timeline.events[last] = self.timeline.events[last]._replace(finished=False)
        self.timeline.runs.append(Span(self._run_begin, cycle))
