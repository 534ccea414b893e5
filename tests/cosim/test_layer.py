"""Decoder layers on the generated RTL: every word of memory equal to the golden model's, on any bus, in any order."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.functions import function_tables
from tilewright.sim import structures
from tilewright.sim.cosim import Job, simulate
from tilewright.sim.golden.layer import LayerShape
from tilewright.sim.layer_run import golden_tables

GROUPED = {"hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 16, "ffn": 172}
STORIES = {"hidden": 64, "heads": 8, "kv_heads": 4, "head_dim": 8, "ffn": 172}  # stories260K
MHA = {"hidden": 48, "heads": 4, "kv_heads": 4, "head_dim": 24, "ffn": 100}  # V's last tile is not full
WIDE_HEAD = {"hidden": 96, "heads": 3, "kv_heads": 1, "head_dim": 80, "ffn": 132, "rope_pairing": "half_split"}
TINY = {"hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 44}

MEMORIES = {
    "fast": {},
    "slow": {"read_latency": 40, "write_latency": 20},
    "jerky": {"read_latency": 11, "write_latency": 7, "bandwidth": 150, "refresh_every": 300, "refresh_cycles": 25,
              "stall_ar": 80, "stall_r": 60, "stall_aw": 80, "stall_w": 60, "stall_b": 80, "seed": 5},
}


def layer_job(config, sizes, *, context, prefill, decode, seed, formats=("int8", "int8")):
    """A LayerJob with random weights and inputs: ``prefill`` tokens as prefill, then ``decode`` as decode; ``formats``
    of weights and KV cache."""
    print(f"seed {seed}")
    shape = LayerShape(**{"norm_eps": 1e-5, "rope_theta": 1e4, "rope_pairing": "interleaved"} | sizes)
    return structures.layer_job(config, shape, golden_tables(function_tables(config.functions)), context=context,
                                prefill=prefill, decode=decode, seed=seed, formats=formats)


def run(folder, job, memory):
    """Simulate a LayerJob and compare all of its memory; returns the counters of its runs."""
    result = simulate(folder, job.job(memory), job.image)
    assert result.errors == [None] * len(job.chunks)
    assert_equal(job, result.memory)
    return result.counters


def assert_equal(job, memory):
    words, differ = job.compare(memory)
    assert 4 * words == len(job.image)
    assert not differ, (f"{len(differ)} of {words} words differ: " + "; ".join(
        f"{job.place(at)}: got {got:#010x}, expected {expected:#010x}" for at, got, expected in differ[:5]))


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("preset, sizes, context, prefill, decode", [
    ("micro", GROUPED, 24, 5, 4),  # chunks of two tokens; decode from position 5 over the borders at 8
    ("small", GROUPED, 40, 6, 4),  # chunks of four
], ids=["micro", "small"])
def test_layer_on_any_memory(built, preset, sizes, context, prefill, decode, memory):
    config, folder = built(preset, "verilator")
    run(folder, layer_job(config, sizes, context=context, prefill=prefill, decode=decode, seed=1), MEMORIES[memory])


@pytest.mark.parametrize("preset, sizes, context, prefill, decode", [
    ("micro", STORIES, 16, 3, 2),
    ("micro", MHA, 13, 1, 4),
    ("micro", WIDE_HEAD, 12, 2, 3),
    ("small", STORIES, 37, 9, 1),
    ("small", MHA, 21, 5, 4),
    ("small", WIDE_HEAD, 40, 1, 9),
    pytest.param("medium", GROUPED, 44, 20, 14, marks=pytest.mark.slow),
    pytest.param("medium", STORIES, 300, 5, 2, marks=pytest.mark.slow),
    pytest.param("medium", WIDE_HEAD, 70, 16, 1, marks=pytest.mark.slow),
], ids=lambda value: value if isinstance(value, str) else "")
def test_shapes(built, preset, sizes, context, prefill, decode):
    config, folder = built(preset, "verilator")
    job = layer_job(config, sizes, context=context, prefill=prefill, decode=decode, seed=2)
    run(folder, job, MEMORIES["jerky" if sizes is STORIES else "slow"])


@pytest.mark.parametrize("sizes, kv_format", [(STORIES, "int8"), (STORIES, "fp16"), (WIDE_HEAD, "int8")],
                         ids=["stories", "stories_fp16", "wide_head"])
def test_int4_weights(built, sizes, kv_format):
    config, folder = built("micro", "verilator")
    job = layer_job(config, sizes, context=24, prefill=3, decode=3, seed=11, formats=("int4", kv_format))
    run(folder, job, MEMORIES["jerky"])


@pytest.mark.parametrize("decode", [True, False])
def test_whole_context(built, decode):
    """The last position of a context that ends within a tile and within a block of 32."""
    config, folder = built("small", "verilator")
    run(folder, layer_job(config, STORIES, context=37, prefill=0 if decode else 37, decode=37 * decode, seed=3), {})


@pytest.mark.icarus
def test_layer_in_icarus(built):
    """From X in every register without a reset: what nothing has set reaches neither memory nor a handshake."""
    config, folder = built("micro", "icarus")
    run(folder, layer_job(config, TINY, context=8, prefill=3, decode=2, seed=4), MEMORIES["jerky"])


def test_layers_back_to_back(built):
    """Programs of layers of different shapes take turns; nothing of one is left when the next begins."""
    config, folder = built("micro", "verilator")
    jobs = [layer_job(config, sizes, context=context, prefill=2, decode=2, seed=seed)
            for seed, (sizes, context) in enumerate(((MHA, 9), (STORIES, 16), (TINY, 5)), start=5)]
    bases = np.cumsum([0] + [len(job.image) for job in jobs])
    parts = [moved(job.job({}), int(base)) for job, base in zip(jobs, bases, strict=False)]
    turns = [run for runs in zip(*(part.runs for part in parts), strict=True) for run in runs]
    whole = Job(tuple(turns), (0, int(bases[-1])), parts[0].config_hash, MEMORIES["slow"], parts[0].watchdog)
    result = simulate(folder, whole, b"".join(job.image for job in jobs))
    assert result.errors == [None] * len(turns)
    for job, base in zip(jobs, bases, strict=False):
        assert_equal(job, result.memory[base:base + len(job.image)])


def moved(job, base):
    """The job with its memory from ``base`` on."""
    return replace(job, runs=tuple(
        replace(run, regions=tuple((base + first, size, writable) for first, size, writable in run.regions))
        for run in job.runs))


def test_times_do_not_depend_on_data(built):
    """The same shape with other weights and inputs takes the same cycles: nothing but commands decides the schedule."""
    config, folder = built("micro", "verilator")
    counters = [run(folder, layer_job(config, TINY, context=8, prefill=2, decode=1, seed=seed), MEMORIES["slow"])
                for seed in (8, 9)]
    assert counters[0] == counters[1]


def test_comparison_sees_every_byte(built):
    """A single bit wrong anywhere is found and named: weights, cache, gaps between regions, input, output."""
    config, _ = built("micro", "verilator")
    job = layer_job(config, TINY, context=8, prefill=2, decode=1, seed=10)
    assert job.compare(job.expected_memory) == (len(job.image) // 4, [])
    places = set()
    for at in range(0, len(job.image), 37):
        memory = job.expected_memory.copy()
        memory[at] ^= 1 << at % 8
        _, differ = job.compare(memory)
        assert [offset for offset, _, _ in differ] == [at // 4 * 4]
        places.add(job.place(at).partition(",")[0])
    assert places == {"program and weights", "KV cache", "input of run 0", "input of run 1", "output of run 0",
                      "output of run 1"}
