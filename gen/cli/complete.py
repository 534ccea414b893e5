"""``tilewright complete`` and ``tilewright embed``: whole models, on the golden model or on simulated hardware."""

import json
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .compile import (
    ContextOption,
    KvOption,
    ModelArgument,
    PresetOption,
    SourceOption,
    WeightsOption,
    configuration_of,
    kv_format,
)
from .generate import ConfigOption
from .output import check_writable, write_json

__all__ = ["register"]

BACKENDS = ("golden", "sim")
ENCODER = "all-minilm-l6-v2"

BackendOption = Annotated[str | None, typer.Option(
    "--backend", help="golden (bit-exact model), sim (generated Verilog) or uart (a board); default: golden, sim for a "
                      "package.")]
PortOption = Annotated[str | None, typer.Option(help="Serial port of the board, such as /dev/ttyUSB0.")]
BaudOption = Annotated[int | None, typer.Option(help="Its rate, as the bitstream was built with.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Run the golden model too and compare every word.")]
FolderOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for Verilog and builds.")]
JsonFileOption = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
BUILDS = Path("build/whole")


def complete(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="New tokens, at most.")] = 64,
    backend: BackendOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    weights: WeightsOption = "file",
    kv: KvOption = None,
    context: ContextOption = None,
    check: CheckOption = False,
    top: Annotated[int, typer.Option(min=0, help="Keep so many best candidates of each token, for --json.")] = 0,
    json_file: JsonFileOption = None,
    trace: Annotated[Path | None, typer.Option(help="Write a timeline to this file, for report, Perfetto or "
                                                    "Chrome.")] = None,
    source: SourceOption = None,
    folder: FolderOption = BUILDS,
    port: PortOption = None,
    baud: BaudOption = None,
):
    """Complete a text with a model's most probable tokens; the text goes to standard output as it comes.

    MODEL may also be a package, the folder that tilewright compile wrote. --check compares each token, its logits and
    the final KV cache with the golden model; exit code 1 if anything differs.
    """
    check_writable(json_file)
    check_writable(trace)
    with _Job(model, backend, check, preset, config, weights, kv, source, folder, trace, port, baud) as job:
        package = job.open(context)
        numbers = package.tokenizer.prompt(prompt)
        if package.compiled.is_encoder:
            raise UserError(f"{model}: has no lm_head, so that it completes nothing; see tilewright embed")
        report = job.run(lambda generator: _tell(job, generator, numbers, tokens, top))
    report |= {"prompt": prompt, "prompt_tokens": numbers}
    return job.finish(report, json_file)


def embed(
    text: Annotated[str, typer.Argument(help="Text to embed.")],
    model: Annotated[str, typer.Option(help="An encoder, as for compile.")] = ENCODER,
    backend: BackendOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    weights: WeightsOption = "int8",
    kv: KvOption = None,
    check: CheckOption = False,
    json_file: JsonFileOption = None,
    source: SourceOption = None,
    folder: FolderOption = BUILDS,
    port: PortOption = None,
    baud: BaudOption = None,
):
    """Print the embedding of a text by an encoder model, as a JSON list. --check compares it with the golden model.

    MODEL may also be a package whose context holds the text.
    """
    check_writable(json_file)
    with _Job(model, backend, check, preset, config, weights, kv, source, folder, port=port, baud=baud) as job:
        package = job.open(job.checkpoint and _tokens_in(job.checkpoint, text))
        if not package.compiled.is_encoder:
            raise UserError(f"{model}: is no encoder; see tilewright complete")
        numbers = package.tokenizer.prompt(text)
        report = job.run(lambda generator: _embedding(generator, numbers, package.architecture.hidden))
    typer.echo(json.dumps(report["embedding"]))
    return job.finish(report | {"text": text, "tokens": numbers}, json_file)


def _tokens_in(checkpoint, text):
    """How many tokens the text is, which an encoder takes at once; UserError unless the model can."""
    count, limit = len(checkpoint.tokenizer().prompt(text)), checkpoint.architecture.max_context
    if not 1 <= count <= limit:
        raise UserError(f"text = {count} tokens: must be from 1 to {limit}, the model's limit; give another one")
    return count


async def _tell(job, generator, prompt, count, top):
    """Stream the text; what came of it, as a report."""
    from tilewright.gen.completion import complete as completion
    from tilewright.gen.driver import ContextError

    tokenizer, chosen, candidates, text, end = job.package.tokenizer, [], [], "", None
    stream = tokenizer.stream()
    for token in prompt:
        stream.put(token)
    try:
        async for token in completion(generator, prompt, count, eos=tokenizer.eos):
            chosen.append(token)
            if top:
                candidates.append(await generator.top_k(top))
            text += job.progress.show(stream.put(token))
    except ContextError as error:
        if not chosen:
            raise
        end = str(error)
    text += job.progress.show(stream.finish())
    return {"tokens": chosen, "text": text, "candidates": candidates, "end": end}


async def _embedding(generator, numbers, hidden):
    values = await generator.embedding(numbers, hidden)
    return {"embedding": [float(value) for value in values]}


class _Job:
    """A model, opened and run on the back ends asked for."""

    def __init__(self, model, backend, check, preset, config, weights, kv, source, folder, trace=None, port=None,
                 baud=None):
        from tilewright.gen.backends import hardware_backends, open_backend
        from tilewright.gen.compiler.requirements import check_runs_programs
        from tilewright.gen.package import is_package

        from .progress import Progress

        if backend is None:
            backend = "sim" if is_package(model) else "golden"
        hardware = hardware_backends()
        if backend not in BACKENDS + hardware:
            raise UserError(f"--backend {backend}: unknown; allowed are {', '.join(BACKENDS + hardware)}")
        if backend not in hardware and (port, baud) != (None, None):
            raise UserError(f"--port and --baud: --backend {backend} has none; add --backend uart, or leave them out")
        self.model, self.source, self.folder, self.check = model, source, folder, check
        self.backend, self.golden = backend, backend == "golden" or check
        self.simulates = backend == "sim" or backend == "golden" and check
        if trace is not None and not self.simulates:
            raise UserError(f"--trace {trace}: nothing is simulated; add --backend sim")
        self.trace = trace
        self.weights, self.kv = weights, kv_format(weights, kv)
        self.named = preset is not None or config is not None
        self.config = configuration_of(preset, config)
        # Without vector unit the accelerator runs no programs; a board's multiplies for the host, which runs the model.
        self.offloads = not self.config.vector_lanes
        if self.offloads and self.simulates:
            check_runs_programs(self.config)
        self.progress = Progress()
        self.steps, self.seconds, self.differences, self.words = [], 0.0, [], 0
        self._board = None
        if backend in hardware:
            told = {} if self.offloads else {"progress": self._loading, "waiting": self._running}
            self._board = open_backend(backend, port=port, baud=baud, **told)

    def __enter__(self):
        from tilewright.gen.checkpoint import open_checkpoint
        from tilewright.gen.package import is_package

        with ExitStack() as stack:
            stack.callback(self.progress.stop)
            self.progress.start("looking for the board" if self._board is not None else "opening the model")
            if self._board is not None:
                stack.enter_context(self._board)
                self.progress.update("opening the model")
            self.checkpoint = None if is_package(self.model) else open_checkpoint(self.model, self.source)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details):
        return self._stack.__exit__(*details)

    def open(self, context):
        """The ``Package``."""
        from tilewright.gen.offload import offload_package
        from tilewright.gen.package import compile_package, read_package, whole_model

        if self.checkpoint is None:
            if self.golden:
                raise UserError(f"{self.model}: a package has no weights for the golden model; give the model itself, "
                                "or --backend sim without --check")
            self.package = read_package(self.model, self.config if self.named else None)
        else:
            self.whole = whole_model(self.checkpoint, self.weights, self.progress.update)
            self.package = (offload_package if self.offloads else compile_package)(
                self.checkpoint, self.whole, self.config, name=Path(self.model).stem, weights=self.weights, kv=self.kv,
                context=context, step=self.progress.update)
        return self.package

    def run(self, task):
        """Report of the coroutine that ``task`` makes of a generator."""
        import asyncio

        from tilewright.gen.driver import Generator, place_regions
        from tilewright.gen.simulation import simulated

        compiled, config = self.package.compiled, self.package.config
        if self._board is not None:
            device = self._offloading() if self.offloads else Generator(
                self._board, compiled, config_hash=config.sha256, step=self._step)
            return asyncio.run(self._on_device(task, device))
        if not self.simulates:
            return asyncio.run(self._timed(task, self._golden()))
        _, size = place_regions(compiled)
        with TemporaryDirectory() as place:
            record = None if self.trace is None else Path(place) / "record.txt"
            transport = simulated(config, size, self.folder, record=record, waiting=self._waiting,
                                  step=self.progress.update)
            with transport:
                device = Generator(transport, compiled, config_hash=config.sha256, step=self._step)
                report = asyncio.run(self._on_device(task, device))
            if record is not None:
                self._write_trace(record)
        return report

    def _write_trace(self, record):
        from tilewright.gen.simulation import MEMORY
        from tilewright.sim.report import write_trace

        self.progress.update("writing the timeline")
        compiled = self.package.compiled
        runs = [{"name": f"{step.kind} at {step.position}", "kind": step.kind, "position": step.position,
                 "tokens": step.tokens, "counters": step.counters} for step in self.steps]
        write_trace(self.trace, record, config=self.package.config, compiled=compiled, caches=compiled.caches,
                    runs=runs, title=self.package.model, memory=MEMORY, simulator="verilator")

    async def _on_device(self, task, device):
        from tilewright.gen.completion import Comparison
        from tilewright.gen.offload import OffloadComparison

        self.progress.update("loading the model")
        await device.load()
        self.progress.update("prefill")
        if not self.check:
            return await self._timed(task, device)
        both = (OffloadComparison if self.offloads else Comparison)(device=device, golden=self._golden())
        await both.start()
        report = await self._timed(task, both)
        if not self.package.compiled.is_encoder:
            await both.finish()
        self.differences, self.words = both.differences, both.words
        return report

    async def _timed(self, task, generator):
        started = time.perf_counter()
        report = await task(generator)
        self.seconds = time.perf_counter() - started
        return report

    def _golden(self):
        from tilewright.gen.completion import GoldenGenerator

        return GoldenGenerator(self.whole, self._tables(), **self._sizes())

    def _offloading(self):
        from tilewright.gen.offload import OffloadGenerator

        return OffloadGenerator(self._board, self.whole, self._tables(), config=self.config, step=self._step,
                                product=self._multiplied, **self._sizes())

    def _tables(self):
        from tilewright.gen.functions import function_tables
        from tilewright.gen.offload import offload_tables
        from tilewright.sim.layer_run import golden_tables

        return (offload_tables(self.whole) if self.offloads else
                golden_tables(function_tables(self.package.config.functions)))

    def _sizes(self):
        compiled = self.package.compiled
        return {"context": compiled.context, "slots": compiled.slots, "kv_format": self.package.kv}

    def _waiting(self, cycles):
        self.progress.update(f"{self._doing()}, {cycles:,} cycles")

    def _loading(self, done, total):
        if not self.steps:
            self.progress.update(f"loading the model, {done:,} of {total:,} bytes")

    def _multiplied(self, products):
        self.progress.update(f"{self._doing()}, {products:,} products")

    def _running(self, seconds):
        self.progress.update(f"{self._doing()}, {seconds:.1f} seconds")

    def _doing(self):
        return f"token {sum(step.kind == 'decode' for step in self.steps) + 2}" if self.steps else "prefill"

    def _step(self, step):
        self.steps.append(step)
        spent = f"seconds: {step.seconds:.2f}" if self.offloads else f"cycles: {step.counters['cycles']:,}"
        self.progress.line(f"{step.kind} at {step.position}, tokens: {step.tokens}, {spent}")

    def finish(self, report, json_file):
        """Print the figures, write them; returns the exit code."""
        package = self.package
        report |= {
            "model": package.model, "configuration": package.config.name, "config_hash": package.config.sha256,
            "weights": package.weights, "kv": package.kv, "context": package.compiled.context,
            "backend": "both" if self.check else self.backend, "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps], **self._speed(),
            "equal": not self.differences if self.check else None, "words_compared": self.words,
            "differences": self.differences,
        }
        if json_file is not None:
            write_json(json_file, report)
        self._show_figures(report)
        return int(bool(self.differences))

    def _speed(self):
        """Cycles and rates of the runs; an offloaded model's are the link's and the host's."""
        decode = [step for step in self.steps if step.kind == "decode"]
        if self.offloads and decode:
            return {"seconds_per_token": sum(step.seconds for step in decode) / len(decode)}
        if not self.steps or self.offloads:
            return {}
        cycles = sum(step.counters["cycles"] for step in decode)
        total = sum(step.counters["cycles"] for step in self.steps)
        return {"cycles": total, "prefill_cycles": total - cycles,
                "cycles_per_token": cycles / len(decode) if decode else None,
                "bandwidth_share": self._bandwidth_share(decode),
                "cycles_per_second": total / sum(step.seconds for step in self.steps)}

    def _bandwidth_share(self, decode):
        """Of the bus's beats in decode, the share that the weights and the KV cache need at least; None where the
        weights are not known."""
        from tilewright.gen.completion import streamed_bytes

        if not decode or self.checkpoint is None:
            return None
        slots = self.package.compiled.slots
        needed = sum(streamed_bytes(self.whole, slots, self.package.kv, step.position) for step in decode)
        return needed / (self.package.config.bus_bytes * sum(step.counters["cycles"] for step in decode))

    def _show_figures(self, report):
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"{report['model']} on {report['configuration']}", show_header=False)
        rows = [("weights, KV cache, context", f"{report['weights']}, {report['kv']}, {report['context']}"),
                ("seconds", f"{report['seconds']:.1f}")]
        if "seconds_per_token" in report:
            rows.append(("seconds a token", f"{report['seconds_per_token']:.2f}"))
        if "cycles" in report:
            rows.append(("cycles", f"{report['cycles']:,}, of them {report['prefill_cycles']:,} for the prompt"))
            if report["cycles_per_token"] is not None:
                rows.append(("cycles a token", f"{report['cycles_per_token']:,.0f}"))
            if report["bandwidth_share"] is not None:
                rows.append(("weights and KV, share of the bus in decode", f"{report['bandwidth_share']:.1%}"))
            rows.append(("simulation" if self.simulates else "board and link",
                         f"{report['cycles_per_second']:,.0f} cycles a second"))
        if report.get("end"):
            rows.append(("ended early", report["end"]))
        if self.check:
            rows.append(("against the golden model", f"{len(self.differences)} differences" if self.differences else
                         f"equal, {self.words:,} words compared"))
        for row in rows:
            table.add_row(*row)
        console = Console(stderr=True)
        console.print(table)
        for line in self.differences:
            console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)


def register(app):
    """Add the commands to ``app``."""
    app.command()(complete)
    app.command()(embed)
