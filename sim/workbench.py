"""What benchmarks share: simulated presets, models, and runs of jobs and of whole models on them."""

import asyncio
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tilewright.gen.compiler.layer import compile_layer
from tilewright.gen.compiler.model import compile_model
from tilewright.gen.completion import Comparison, GoldenGenerator
from tilewright.gen.configuration import load_preset
from tilewright.gen.driver import Generator
from tilewright.gen.functions import function_tables
from tilewright.gen.package import whole_model
from tilewright.gen.simulation import MEMORY, build_simulation

from .cosim import simulate
from .golden.layer import LayerShape
from .layer_job import LayerJob
from .layer_run import golden_tables
from .measurement import Outcome, where_cycles_went
from .transport import SimulatorTransport

__all__ = ["Workbench", "MEMORY"]

MEMORY_BYTES = 1 << 25
"""Holds every job, so that each preset is built once."""
SHOWN = 5  # words that differ, in the report


@dataclass(frozen=True, kw_only=True)
class _Preset:
    config: object
    tables: dict
    built: Path

    def configuration(self, memory):
        return {"preset": self.config.name, "config_hash": self.config.sha256, "memory": memory}


class Workbench:
    """Builds of the presets, the model and its layer, each made when first needed.

    Parameters
    ----------
    folder : path              for Verilog and builds; builds are kept and used again
    open_model : function      returns (Checkpoint, tokens of the prompt)
    new_tokens : int           how many of the prompt's tokens are decoded
    context : int              positions that the layer's KV cache holds
    step : function            told what is being done
    """

    def __init__(self, *, folder, open_model, new_tokens, context, step=lambda text: None):
        self._folder, self._open_model, self.new_tokens, self.step = Path(folder), open_model, new_tokens, step
        self.context = context
        self.preset = cache(self._build)
        self.layer = cache(self._compile)

    def _build(self, name):
        config = load_preset(name)
        built = build_simulation(config, self._folder, memory_bytes=MEMORY_BYTES,
                                 step=lambda text: self.step(f"{name}: {text}"))
        return _Preset(config=config, built=built.folder, tables=golden_tables(function_tables(config.functions)))

    @cached_property
    def model(self):
        """(Checkpoint, tokens of the prompt)."""
        self.step("reading the model")
        return self._open_model()

    @cached_property
    def whole_model(self):
        """The model as a TransformerModel in INT8."""
        return whole_model(self.model[0], "int8", self.step)

    def _compile(self, name):
        """(LayerShape, weights, CompiledLayer) of the model's layer 0 for a preset."""
        checkpoint, _ = self.model
        shape, arrays = LayerShape.of(checkpoint.architecture.layer(0)), checkpoint.layer(0, "int8")
        return shape, arrays, compile_layer(self.preset(name).config, shape, arrays, context=self.context)

    def layer_job(self, name, x, **options):
        """LayerJob of the model's layer 0 on a preset."""
        self.step(f"{name}: running the golden model")
        preset, (shape, arrays, compiled) = self.preset(name), self.layer(name)
        return LayerJob(preset.config, shape, arrays, compiled, x, tables=preset.tables, **options)

    def run(self, name, job, memory=MEMORY):
        """Outcome of a job, simulated and compared."""
        def progress(done, label):
            self.step(f"{name}: simulating {label}")

        preset, record = self.preset(name), self._folder / "record.txt"
        data = job.job(memory)
        result = simulate(preset.built, data, job.image, progress=progress, record=record)
        _, differ = job.compare(result.memory)
        problems = [f"run {i}: {error[0]} at command offset {error[1]:#x}"
                    for i, error in enumerate(result.errors) if error]
        spent, read = ({}, {}) if problems else where_cycles_went(
            record, config=preset.config, compiled=job.compiled, caches=job.caches, memory=memory,
            runs=[run | {"counters": counters} for run, counters in zip(job.described, result.counters, strict=True)])
        problems += [f"words that differ: {len(differ)}"] if differ else []
        problems += [f"{job.place(at)}: got {got:#010x}, expected {expected:#010x}"
                     for at, got, expected in differ[:SHOWN]]
        return Outcome(counters=result.counters, seconds=result.seconds, problems=tuple(problems), spent=spent,
                       read=read, configuration=preset.configuration(memory))

    def run_model(self, name, model, task, *, kind, title, context, kv_format, memory=MEMORY, caches=None, position=0):
        """Outcome of the runs of a kind that ``task``, a coroutine function, lets a ``Comparison`` do.

        model : TransformerModel
        kind : 'prefill' or 'decode'
        caches : list of KvCache   what layers hold up to ``position``; None: nothing
        """
        preset, record = self.preset(name), self._folder / "record.txt"
        self.step(f"{name}: compiling {title}")
        compiled = compile_model(preset.config, model, context=context, kv_format=kv_format)
        golden = GoldenGenerator(model, preset.tables, context=context, kv_format=kv_format, slots=compiled.slots)
        golden.position = position
        if caches is not None:
            golden.caches = caches
        self.step(f"{name}: simulating {title}")
        with SimulatorTransport(preset.built, memory=memory, record=record) as transport:
            device = Generator(transport, compiled, config_hash=preset.config.sha256)
            both = Comparison(device=device, golden=golden)
            asyncio.run(_watched(both, task))
        runs = [{"name": step.kind, "kind": step.kind, "position": step.position, "tokens": step.tokens,
                 "counters": step.counters} for step in device.steps]
        chosen = [step for step in device.steps if step.kind == kind]
        spent, read = where_cycles_went(record, config=preset.config, compiled=compiled, caches=compiled.caches,
                                        runs=runs, memory=memory, kinds=(kind,))
        return Outcome(counters=[step.counters for step in chosen], seconds=sum(step.seconds for step in chosen),
                       problems=tuple(both.differences), spent=spent, read=read,
                       configuration=preset.configuration(memory) | {"model": title, "context": context})


async def _watched(both, task):
    """The task on a device and the golden model, from loading to the comparison of the KV caches."""
    await both.device.load()
    both.device.position = both.golden.position
    await both.start()
    await task(both)
    await both.finish()
