"""A whole accelerator's netlist for ECP5 on the bench of its design."""

from pathlib import Path

import pytest

from tilewright.fpga.netlist import ecp5_netlist
from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.gen.generate import build_top
from tilewright.gen.verilog import emit
from tilewright.sim import cosim, structures
from tilewright.sim.golden.layer import LayerShape
from tilewright.sim.layer_run import golden_tables

BUILDS = Path(__file__).parents[2] / "build" / "tests"
MEMORY_BYTES = 1 << 21
MEMORY = {"read_latency": 11, "write_latency": 7, "bandwidth": 150, "refresh_every": 300, "refresh_cycles": 25,
          "stall_ar": 80, "stall_r": 60, "stall_aw": 80, "stall_w": 60, "stall_b": 80, "seed": 5}
SHAPE = LayerShape(hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=44, norm_eps=1e-5, rope_theta=1e4,
                   rope_pairing="interleaved")
SEED = 21


@pytest.mark.slow
def test_layers(tmp_path):
    """``micro`` and its netlist run decoder layers on the same bench: memory, cycles and all other counters are equal,
    and memory is what the golden model says."""
    print(f"seed {SEED}")
    config = load_preset("micro")
    paths = [tmp_path / "design.v", tmp_path / "netlist.sv"]
    emit(build_top(config), name=config.module_name, path=paths[0])
    ecp5_netlist(paths[0], top=config.module_name, path=paths[1])
    folders = [cosim.build(config, path, BUILDS, memory_bytes=MEMORY_BYTES) for path in paths]
    tables = golden_tables(function_tables(config.functions))
    for weights, cache in (("int8", "int8"), ("int4", "fp16")):
        job = structures.layer_job(config, SHAPE, tables, context=8, prefill=2, decode=2, seed=SEED,
                                   formats=(weights, cache))
        design, netlist = (cosim.simulate(folder, job.job(MEMORY), job.image) for folder in folders)
        assert design.errors == netlist.errors == [None] * len(job.chunks)
        assert design.counters == netlist.counters
        assert job.compare(design.memory)[1] == job.compare(netlist.memory)[1] == []
