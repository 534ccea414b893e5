"""The main job: a layer of a real model on the generated Verilog, compared word for word with the golden model."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .cosim import simulate
from .golden import functions
from .golden.layer import dequantise_weights
from .golden.reference import ReferenceCache
from .golden.reference import decoder_layer as reference_layer
from .layer_job import LayerJob
from .report import write_trace

__all__ = ["LayerReport", "run_layer", "macs_of", "golden_tables"]

SHOWN = 5  # words that differ, in the report


@dataclass
class LayerReport:
    """What the run found; ``as_json`` gives the keys that scripts read."""

    values: dict = field(default_factory=dict)
    differences: list = field(default_factory=list)

    @property
    def equal(self):
        return self.values["equal"]

    def as_json(self):
        """The values with what differs in words."""
        return self.values | {"differences": self.differences}


def golden_tables(tables):
    """Golden tables by name, from the build's."""
    return {table.name: functions.table_from(table) for table in tables}


def macs_of(shape, chunk):
    """Multiply-accumulates of a chunk: every matrix for each token, attention over each token's causal context."""
    linear = sum(n * k for n, k in shape.matrix_shapes.values())
    attended = sum(range(chunk.position + 1, chunk.position + chunk.tokens + 1))
    return chunk.tokens * linear + 2 * attended * shape.heads * shape.head_dim


def run_layer(*, config, shape, weights, x, prefill, context, folder, memory, simulator="verilator", waves=None,
              trace=None, title="", step=lambda text: None, progress=None):
    """Compile, generate, build, simulate and compare one layer.

    Parameters
    ----------
    config : AcceleratorConfig
    shape : LayerShape
    weights : mapping of names to tensors (golden)
    x : float32 [tokens, hidden]   the layer's input; the first ``prefill`` rows as prefill, the rest one by one
    context : int                  positions that the KV cache holds
    folder : path                  for Verilog and builds; builds are kept and used again
    memory : dict                  settings of the memory model
    waves : path or None           FST file to write
    trace : path or None           timeline to write, in Chrome's trace format
    title : str                    what is run, for the timeline
    step, progress : functions     told what is being done, and how far the simulation is

    Returns a LayerReport.
    """
    from tilewright.gen.compiler.layer import compile_layer
    from tilewright.gen.functions import function_tables
    from tilewright.gen.simulation import build_simulation

    folder = Path(folder)
    step("compiling the layer")
    compiled = compile_layer(config, shape, weights, context=context)
    tables = golden_tables(function_tables(config.functions))
    step("running the golden model")
    job = LayerJob(config, shape, weights, compiled, x, prefill=prefill, tables=tables)
    built = build_simulation(config, folder, memory_bytes=job.memory_bytes, step=step, simulator=simulator,
                             waves=waves is not None)
    step("simulating")
    record = None if trace is None else folder / "trace.txt"
    result = simulate(built.folder, job.job(memory), job.image, progress=progress, waves=waves, record=record)
    if trace is not None:
        step("writing the timeline")
        runs = [{"name": run.label, "kind": "decode" if chunk.decode else "prefill", "position": chunk.position,
                 "tokens": chunk.tokens, "counters": counters}
                for run, chunk, counters in zip(job.job(memory).runs, job.chunks, result.counters, strict=True)]
        write_trace(trace, record, config=config, compiled=compiled, caches=[(compiled.kv, 0)], runs=runs, title=title,
                    memory=memory, simulator=simulator)
    step("comparing")
    report = LayerReport()
    words, differ = job.compare(result.memory)
    errors = [f"{job.chunks[i].position}: {code} at command offset {address:#x}"
              for i, (code, address) in ((i, e) for i, e in enumerate(result.errors) if e)]
    report.differences = errors + [f"{job.place(at)}: got {got:#010x}, expected {expected:#010x}"
                                   for at, got, expected in differ[:SHOWN]]
    report.values = {
        "equal": not differ and not errors, "words_compared": words, "words_different": len(differ),
        "cycles": result.cycles,
        "prefill": _phase(config, shape, weights, job, result, decode=False),
        "decode": _phase(config, shape, weights, job, result, decode=True),
        "float64": _against_float64(shape, weights, x, job.outputs),
        "simulation": {"cycles_per_second": result.cycles / result.seconds, "seconds": result.seconds,
                       "build_seconds": built.build_seconds, "simulator": simulator},
        "generation": {"seconds": built.generate_seconds, "verilog_bytes": built.verilog.stat().st_size},
        "configuration": config.name, "memory": memory, "context": context,
    }
    return report


def _phase(config, shape, weights, job, result, *, decode):
    """Figures of the prefill or the decode runs together."""
    chosen = [(chunk, counters) for chunk, counters in zip(job.chunks, result.counters, strict=True)
              if chunk.decode == decode]
    cycles = sum(counters["cycles"] for _, counters in chosen)
    least = sum(job.least_bytes(chunk, weights) for chunk, _ in chosen)
    moved = config.bus_bytes * sum(c["read_beats"] + c["write_beats"] for _, c in chosen)
    streamed = sum(job.streamed_bytes(chunk, weights) for chunk, _ in chosen)
    macs = sum(macs_of(shape, chunk) for chunk, _ in chosen)
    return {
        "tokens": sum(chunk.tokens for chunk, _ in chosen), "runs": len(chosen), "cycles": cycles, "macs": macs,
        "mac_utilisation": macs / (cycles * config.macs) if cycles else 0.0,
        "bandwidth_share": streamed / (cycles * config.bus_bytes) if cycles else 0.0,
        "bytes_moved": moved, "bytes_least": least,
        "counters": [counters for _, counters in chosen],
    }


def _against_float64(shape, weights, x, outputs):
    """How far the quantised layer is from the textbook's in float64 with the same (dequantised) weights."""
    reference = reference_layer(shape, dequantise_weights(weights), ReferenceCache(shape), x)
    got = outputs.astype(np.float64)
    cosine = (got * reference).sum() / np.sqrt((got ** 2).sum() * (reference ** 2).sum())
    return {"cosine": float(cosine), "max_abs": float(np.abs(got - reference).max())}
