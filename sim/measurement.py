"""One figure of a benchmark, and where the cycles of its runs went."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from .report import ORDER, read_trace, write_trace

__all__ = ["Measurement", "Outcome", "where_cycles_went", "ARRAY"]

ARRAY = {"matmul_busy": "array multiplies", "stall_weights": "array waits for weights",
         "stall_drain": "array waits for its results to leave"}
"""Counters of cycles in which a MATMUL is in work, and what they say."""
REST = "array begins or ends"
"""Cycles with a MATMUL in work that none of ``ARRAY`` counts."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One figure.

    title : str            what it is, for a reader of the table of all; empty: not in that table
    goal : float or None   ``at_most``: the value must not be above it, else not below
    kind : str             'measured': counted or timed, a share of the possible included; 'derived': calculated from
                           several runs, or from a run of a part
    configuration : dict   preset, hash and memory settings
    counters : list        of each run, by name
    problems : tuple       where the result is wrong, a line each
    spent : dict           cycles of all runs, each counted once, by what they went into; empty: not known
    """

    name: str
    value: float
    unit: str
    title: str = ""
    goal: float | None = None
    at_most: bool = False
    kind: str = "measured"
    configuration: dict
    counters: list = ()
    problems: tuple = ()
    spent: dict | None = None

    @property
    def met(self):
        """Whether the result is right and the goal met; None without a goal."""
        if self.problems:
            return False
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def as_json(self):
        """What scripts read."""
        return {"name": self.name, "title": self.title, "value": self.value, "unit": self.unit, "goal": self.goal,
                "goal_is": self.goal and ("at most" if self.at_most else "at least"), "met": self.met,
                "kind": self.kind, "configuration": self.configuration, "counters": list(self.counters),
                "problems": list(self.problems), "spent": self.spent or {}}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What runs on a simulated preset gave, from which figures are made.

    counters : list of dicts   of each run
    seconds : float            of simulated running
    read : dict                bytes read by class of ``workload.TENSORS``
    problems, spent, configuration : as for ``Measurement``
    """

    counters: list
    seconds: float
    problems: tuple
    spent: dict
    read: dict
    configuration: dict

    @property
    def cycles(self):
        """Cycles of all runs together."""
        return sum(counters["cycles"] for counters in self.counters)

    def without(self, fewer):
        """What these runs took more than as many other ones."""
        return self.plus(fewer, -1)

    def plus(self, other, times):
        """These runs and so many times what ``other``, as many runs, took; counts are rounded."""
        def sums(ours, theirs):
            names = dict.fromkeys((*ours, *theirs))
            return {name: round(ours.get(name, 0) + times * theirs.get(name, 0)) for name in names}

        return replace(self, counters=[sums(*each) for each in zip(self.counters, other.counters, strict=True)],
                       seconds=self.seconds + times * other.seconds,
                       problems=tuple(dict.fromkeys(self.problems + other.problems)),
                       spent=sums(self.spent, other.spent), read=sums(self.read, other.read))

    def measurement(self, *, about=None, **fields):
        """A Measurement of these runs; ``about`` is added to the configuration."""
        return Measurement(configuration=self.configuration | (about or {}), counters=self.counters,
                           problems=self.problems, **fields,
                           spent={name: cycles for name, cycles in self.spent.items() if cycles > 0})


def where_cycles_went(record, *, config, compiled, caches, runs, memory, kinds=("prefill", "decode")):
    """(cycles by what they went into: what the array did, or which other unit worked for which operation; bytes read by
    class of ``workload.TENSORS``).

    record, config, compiled, caches, runs, memory : as for ``report.write_trace``
    kinds : of the runs that count
    """
    with TemporaryDirectory() as place:
        path = Path(place) / "trace.json"
        write_trace(path, record, config=config, compiled=compiled, caches=caches, runs=runs, title="", memory=memory,
                    simulator="verilator")
        phases = read_trace(path).phases()
    chosen = [phase for kind, phase in phases.items() if kind in kinds]
    spent, array = Counter(), 0
    for phase in chosen:
        for operation, cycles in phase.operations().items():
            array += int(cycles[0])
            for unit, count in zip(ORDER[1:], cycles[1:], strict=True):
                name = getattr(unit, "name", unit).lower()
                spent[f"{name} alone, {operation}"] += int(count)
    for counter, text in ARRAY.items():
        spent[text] = sum(phase.counters[counter] for phase in chosen)
        array -= spent[text]
    spent[REST] = max(0, array)
    read = Counter()
    for phase in chosen:
        read.update(phase.read)
    return {name: cycles for name, cycles in spent.most_common() if cycles}, dict(read)
