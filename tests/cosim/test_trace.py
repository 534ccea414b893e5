"""The timeline of real runs: what ran, as often as it ran, and times that agree with the hardware's own counters."""

import json
from collections import Counter
from itertools import pairwise

import pytest

from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Opcode, Unit
from tilewright.sim import structures
from tilewright.sim.cosim import Job, Run, simulate
from tilewright.sim.golden.layer import LayerShape
from tilewright.sim.layer_run import golden_tables
from tilewright.sim.machine import Machine
from tilewright.sim.trace import SEQUENCER, WAITING, read_timeline

SHAPE = LayerShape(hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=44, norm_eps=1e-5, rope_theta=1e4,
                   rope_pairing="interleaved")
MEMORY = {"read_latency": 11, "write_latency": 7, "refresh_every": 300, "refresh_cycles": 25, "seed": 5}
SEED = 6


@pytest.fixture(scope="module", params=["verilator", pytest.param("icarus", marks=pytest.mark.icarus)])
def traced(built, request, tmp_path_factory):
    """A layer over three tokens of prefill and two of decode: (configuration, LayerJob, counters, Timeline)."""
    print(f"seed {SEED}")
    config, folder = built("micro", request.param)
    job = structures.layer_job(config, SHAPE, golden_tables(function_tables(config.functions)), context=8, prefill=3,
                               decode=2, seed=SEED)
    record = tmp_path_factory.mktemp("record") / "trace.txt"
    result = simulate(folder, job.job(MEMORY), job.image, record=record)
    assert result.errors == [None] * len(job.chunks)
    return config, job, result.counters, read_timeline(record, job.compiled.labels)


def issued(config, job):
    """Offsets of the commands that each run goes through, by the functional machine."""
    machine = Machine(config, function_tables(config.functions))
    memory = bytearray(job.image)
    for run in job.job({}).runs:
        machine.regions[:3] = [memory[base:base + size] for base, size, _ in run.regions]
        machine.run(run.program, run.arguments)
        for (base, size, _), region in zip(run.regions, machine.regions, strict=False):
            memory[base:base + size] = region
        yield list(machine.trace)


def test_timeline(traced):
    config, job, counters, timeline = traced
    assert len(timeline.runs) == len(job.chunks)
    assert [span.end - span.begin for span in timeline.runs] == [each["cycles"] for each in counters]
    assert all(event.finished for event in timeline.events)
    for number, (trace, count) in enumerate(zip(issued(config, job), counters, strict=True)):
        assert [event.offset for event in timeline.of(SEQUENCER, number)] == [each.offset for each in trace]
        for unit in Unit:
            assert [event.offset for event in timeline.of(unit, number)] == [
                each.offset for each in trace if each.unit == unit]
        assert timeline.busy(Unit.VECTOR, number) == count["vector_busy"]
        assert timeline.busy(WAITING, number) == count["stall_issue"]
        assert timeline.busy(Unit.MATMUL, number) >= count["matmul_busy"]
    for track in (*Unit, SEQUENCER, WAITING):
        for before, after in pairwise(timeline.of(track)):
            assert before.begin < before.end <= after.begin
    for event in timeline.events:
        span = timeline.runs[event.run]
        assert span.begin <= event.begin < event.end <= span.end


def test_labels_are_the_programs(traced):
    """The opcodes beside the labels are those in memory; each part of a layer has its matmuls and streams."""
    _, job, _, timeline = traced
    for offset, label in timeline.labels.items():
        assert job.compiled.image[offset] == Opcode[label.opcode]
    parts = {"projections", "attention", "o_proj", "up_proj", "down_proj"}
    for unit in (Unit.STREAM, Unit.MATMUL):
        assert {timeline.labels[event.offset].text for event in timeline.of(unit)} == parts
    assert {timeline.labels[event.offset].text for event in timeline.of(Unit.STORE)} == {"kv_cache", "down_proj"}


def test_file(traced, tmp_path):
    """Chrome's format: complete events with times, names and rows; nothing of the timeline is left out."""
    *_, timeline = traced
    timeline.write(tmp_path / "deep" / "trace.json", names=["first"])
    events = json.loads((tmp_path / "deep" / "trace.json").read_text())["traceEvents"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    complete = [event for event in events if event["ph"] == "X"]
    assert all({"name", "ts", "dur", "pid", "tid"} <= set(event) and event["dur"] > 0 for event in complete)
    found = Counter(rows[event["tid"]] for event in complete)
    assert found == {"program": len(timeline.runs), "sequencer": len(timeline.of(SEQUENCER)),
                     "sequencer waits": len(timeline.of(WAITING)), "prefetch (STREAM)": len(timeline.of(Unit.STREAM)),
                     **{unit.name.lower(): len(timeline.of(unit)) for unit in Unit if unit != Unit.STREAM}}
    assert [event["name"] for event in complete if rows[event["tid"]] == "program"][:2] == ["first", "run 1"]


def test_aborted_run(built, tmp_path):
    """What the abort cut off is there, and marked; the next run's timeline is whole."""
    print(f"seed {SEED}")
    config, folder = built("micro", "verilator")
    job = structures.layer_job(config, SHAPE, golden_tables(function_tables(config.functions)), context=8, prefill=3,
                               decode=2, seed=SEED)
    whole = job.job(MEMORY)
    aborted = Run(whole.runs[0].program, whole.runs[0].arguments, whole.runs[0].regions, abort_after=1000)
    record = tmp_path / "trace.txt"
    result = simulate(folder, Job((aborted, whole.runs[0]), whole.read_back, whole.config_hash, MEMORY), job.image,
                      record=record)
    assert [error and error[0] for error in result.errors] == ["ABORTED", None]
    timeline = read_timeline(record, job.compiled.labels)
    cut = [event for event in timeline.events if not event.finished]
    assert cut and {event.run for event in cut} == {0} and len({event.track for event in cut}) == len(cut)
    assert all(event.end == timeline.runs[0].end for event in cut if event.track != SEQUENCER)
    assert [event.offset for event in timeline.of(SEQUENCER, 1)] == [
        each.offset for each in next(issued(config, job))]
