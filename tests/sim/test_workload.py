"""Bytes and MACs of each command, against what the functional machine moves and what the layer's shape asks for."""

from collections import Counter

import numpy as np
import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Unit
from tilewright.sim import structures
from tilewright.sim.golden.layer import LayerShape
from tilewright.sim.layer_run import golden_tables
from tilewright.sim.machine import Machine
from tilewright.sim.trace import SEQUENCER, Event, Span, Timeline
from tilewright.sim.workload import TENSORS, work_of

SEED, PREFILL, DECODE, CONTEXT = 6, 3, 2, 16
SHAPE = {"hidden": 40, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 44, "norm_eps": 1e-5, "rope_theta": 1e4,
         "rope_pairing": "interleaved"}
MATRICES = {"q/k/v_proj": ("q_proj", "k_proj", "v_proj"), "o_proj": ("o_proj",), "down_proj": ("down_proj",),
            "up/gate_proj": ("up_proj", "gate_proj")}


class CountingMachine(Machine):
    """Keeps (region, write, bytes) of each access to memory."""

    moved = ()

    def memory(self, region, first, length, *, write=False):
        self.moved = [*self.moved, (region, write, np.size(first) * length)]
        return super().memory(region, first, length, write=write)


def followed(config, job):
    """A Timeline of a job's runs on the functional machine, an event ten cycles behind the other; the accesses of each
    run."""
    machine = CountingMachine(config, function_tables(config.functions))
    timeline, moved, now = Timeline(job.compiled.labels), [], 0
    memory = bytearray(job.image)
    for number, run in enumerate(job.job({}).runs):
        machine.regions[:3] = [memory[base:base + size] for base, size, _ in run.regions]
        machine.moved = []
        machine.run(run.program, run.arguments)
        moved.append(machine.moved)
        for (base, size, _), region in zip(run.regions, machine.regions, strict=False):
            memory[base:base + size] = region
        begin = now
        for each in machine.trace:
            timeline.events.append(Event(SEQUENCER, number, each.offset, now, now + 10))
            if each.unit is not None:
                timeline.events.append(Event(each.unit, number, each.offset, now + 10, now + 20))
            now += 20
        timeline.runs.append(Span(begin, now))
    return timeline, moved


@pytest.mark.parametrize("formats, extra", [
    (("int8", "int8"), {}), (("fp16", "fp16"), {}), (("int4", "int8"), {}), (("int8", "int8"), {"window": 4}),
], ids=["int8", "fp16", "int4", "ring"])
def test_layer(formats, extra):
    print(f"seed {SEED}")
    config, shape = load_preset("micro"), LayerShape(**SHAPE, **extra)
    job = structures.layer_job(config, shape, golden_tables(function_tables(config.functions)), context=CONTEXT,
                               prefill=PREFILL, decode=DECODE, seed=SEED, formats=formats)
    timeline, moved = followed(config, job)
    kv = job.compiled.kv
    work = work_of(timeline, config=config, image=job.compiled.image, caches=[(kv, 0)],
                   arguments=[(chunk.position, chunk.tokens) for chunk in job.chunks])
    assert {each.tensor for each in work.values()} <= set(TENSORS)
    for number, chunk in enumerate(job.chunks):
        found = [(event, work[event]) for event in timeline.events if event.run == number and event in work]
        transfers = [(event.track == Unit.STORE, each.bytes) for event, each in found if event.track != Unit.MATMUL]
        assert transfers == [(write, size) for _, write, size in moved[number]]
        for name, region in (("K", 1), ("V", 1), ("input and output", 2), ("o_proj", 0)):
            assert sum(each.bytes for _, each in found if each.tensor == name), (name, region)
        cached = sum(size for region, _, size in moved[number] if region == 1)
        assert cached == sum(each.bytes for _, each in found if each.tensor in ("K", "V"))

        macs = Counter()
        for _, each in found:
            macs[each.tensor] += each.macs
        assert {each.number_format for _, each in found if each.macs} == set(formats)
        for name, parts in MATRICES.items():
            assert macs[name] == chunk.tokens * sum(n * k for part, (n, k) in shape.matrix_shapes.items()
                                                    if part in parts), name
        used = min(chunk.position + chunk.tokens, kv.slots)
        assert macs["K"] == macs["V"] == chunk.tokens * used * shape.heads * shape.head_dim


def test_more_commands_than_events():
    """An error leaves commands that no unit began."""
    config, shape = load_preset("micro"), LayerShape(**SHAPE)
    job = structures.layer_job(config, shape, golden_tables(function_tables(config.functions)), context=CONTEXT,
                               prefill=PREFILL, decode=0, seed=SEED)
    timeline, _ = followed(config, job)
    stores = timeline.of(Unit.STORE)
    timeline.events.remove(stores[-1])
    work = work_of(timeline, config=config, image=job.compiled.image, caches=[(job.compiled.kv, 0)],
                   arguments=[(chunk.position, chunk.tokens) for chunk in job.chunks])
    assert stores[0] in work and stores[-1] not in work
