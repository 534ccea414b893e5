"""The report of real runs: what it counts from the commands agrees with the hardware's own counters."""

import json

import pytest

from tilewright.gen.functions import function_tables
from tilewright.sim import structures
from tilewright.sim.cosim import simulate
from tilewright.sim.golden.layer import LayerShape
from tilewright.sim.layer_run import golden_tables
from tilewright.sim.report import read_trace, write_trace
from tilewright.sim.report_page import page

SHAPE = LayerShape(hidden=64, heads=2, kv_heads=1, head_dim=32, ffn=76, norm_eps=1e-5, rope_theta=1e4,
                   rope_pairing="interleaved")
MEMORY = {"read_latency": 11, "write_latency": 7, "refresh_every": 300, "refresh_cycles": 25, "seed": 5}
SEED = 6
COMMAND_BYTES = 64


@pytest.mark.parametrize("formats", [("int8", "int8"), ("fp16", "fp16")], ids=["int8", "fp16"])
def test_counters(built, tmp_path, formats):
    print(f"seed {SEED}")
    config, folder = built("micro", "verilator")
    job = structures.layer_job(config, SHAPE, golden_tables(function_tables(config.functions)), context=8, prefill=3,
                               decode=2, seed=SEED, formats=formats)
    record, path = tmp_path / "record.txt", tmp_path / "trace.json"
    result = simulate(folder, job.job(MEMORY), job.image, record=record)
    assert result.errors == [None] * len(job.chunks)
    runs = [{"name": f"run {i}", "kind": "decode" if chunk.decode else "prefill", "position": chunk.position,
             "tokens": chunk.tokens, "counters": counters}
            for i, (chunk, counters) in enumerate(zip(job.chunks, result.counters, strict=True))]
    write_trace(path, record, config=config, compiled=job.compiled, caches=[(job.compiled.kv, 0)], runs=runs,
                title="a layer", memory=MEMORY, simulator="verilator")
    trace = read_trace(path)
    assert trace.cycles == result.cycles
    for kind, phase in trace.phases().items():
        read, written = phase.moved(config)
        fetched_ahead = read - sum(phase.read.values())
        assert fetched_ahead % COMMAND_BYTES == 0 and (fetched_ahead == 0 if kind == "decode" else fetched_ahead >= 0)
        assert 0 < sum(phase.write.values()) <= written
        assert sum(cycles.sum() for cycles in phase.spent.values()) == phase.cycles == phase.counters["cycles"]
        macs = phase.tokens * sum(n * k for n, k in SHAPE.matrix_shapes.values())
        assert phase.macs - sum(phase.kinds[name][0] for name in ("K", "V")) == macs
    assert "a layer on micro" in page(trace) and json.dumps(trace.as_json())
