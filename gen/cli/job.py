"""A model, opened and run on the back end asked for: what ``complete`` and ``embed`` have in common."""

import asyncio
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from tilewright.gen.backends import hardware_backends, open_backend
from tilewright.gen.checkpoint import open_checkpoint
from tilewright.gen.compiler.requirements import check_runs_programs
from tilewright.gen.completion import Comparison, GoldenGenerator, streamed_bytes
from tilewright.gen.driver import Generator, place_regions
from tilewright.gen.errors import UserError
from tilewright.gen.functions import function_tables
from tilewright.gen.offload import OffloadComparison, OffloadGenerator, offload_package, offload_tables
from tilewright.gen.package import compile_package, is_package, read_package, whole_model
from tilewright.gen.simulation import MEMORY, simulated
from tilewright.sim.layer_run import golden_tables
from tilewright.sim.report import write_trace

from .compile import configuration_of, kv_format
from .output import write_json
from .progress import Progress

__all__ = ["open_job"]

BACKENDS = ("golden", "sim")


def open_job(model, preset, config, **options):
    """The job of running ``model``, a context manager; the options are those of the commands.

    Without vector unit the accelerator runs no programs: a board's multiplies for the host, which runs the model.
    """
    configuration = configuration_of(preset, config)
    return (_Job if configuration.vector_lanes else _OffloadedJob)(
        model, configuration, named=preset is not None or config is not None, **options)


class _Job:
    """A model as a program that the accelerator runs.

    config : Configuration
    named : bool              the user named it: a package must have been compiled for it
    others                    the commands' options
    """

    comparison = Comparison

    def __init__(self, model, config, *, named, backend, check, weights, kv, source, folder, trace=None, port=None,
                 baud=None):
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
        self.config, self.named = config, named
        if self.simulates:
            check_runs_programs(config)
        self.progress = Progress()
        self.steps, self.seconds, self.differences, self.words = [], 0.0, [], 0
        self._board = open_backend(backend, port=port, baud=baud, **self._told()) if backend in hardware else None

    def __enter__(self):
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
        if self.checkpoint is None:
            if self.golden:
                raise UserError(f"{self.model}: a package has no weights for the golden model; give the model itself, "
                                "or --backend sim without --check")
            self.package = read_package(self.model, self.config if self.named else None)
        else:
            self.whole = whole_model(self.checkpoint, self.weights, self.progress.update)
            self.package = self.package_of(
                self.checkpoint, self.whole, self.config, name=Path(self.model).stem, weights=self.weights, kv=self.kv,
                context=context, step=self.progress.update)
        return self.package

    package_of = staticmethod(compile_package)

    def run(self, task):
        """Report of the coroutine that ``task`` makes of a generator."""
        if self._board is not None:
            return asyncio.run(self._on_device(task, self._device(self._board)))
        if not self.simulates:
            return asyncio.run(self._timed(task, self._golden()))
        _, size = place_regions(self.package.compiled)
        with TemporaryDirectory() as place:
            record = None if self.trace is None else Path(place) / "record.txt"
            transport = simulated(self.package.config, size, self.folder, record=record, waiting=self._waiting,
                                  step=self.progress.update)
            with transport:
                report = asyncio.run(self._on_device(task, self._device(transport)))
            if record is not None:
                self._write_trace(record)
        return report

    def _write_trace(self, record):
        self.progress.update("writing the timeline")
        compiled = self.package.compiled
        runs = [{"name": f"{step.kind} at {step.position}", "kind": step.kind, "position": step.position,
                 "tokens": step.tokens, "counters": step.counters} for step in self.steps]
        write_trace(self.trace, record, config=self.package.config, compiled=compiled, caches=compiled.caches,
                    runs=runs, title=self.package.model, memory=MEMORY, simulator="verilator")

    async def _on_device(self, task, device):
        self.progress.update("loading the model")
        await device.load()
        self.progress.update("prefill")
        if not self.check:
            return await self._timed(task, device)
        both = self.comparison(device=device, golden=self._golden())
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

    def _device(self, transport):
        """Generator of the accelerator behind a transport."""
        return Generator(transport, self.package.compiled, config_hash=self.package.config.sha256, step=self._step)

    def _golden(self):
        return GoldenGenerator(self.whole, self._tables(), **self._sizes())

    def _tables(self):
        return golden_tables(function_tables(self.package.config.functions))

    def _sizes(self):
        compiled = self.package.compiled
        return {"context": compiled.context, "slots": compiled.slots, "kv_format": self.package.kv}

    def _told(self):
        """What a board's back end tells, as ``open_backend`` takes it."""
        return {"progress": self._loading, "waiting": self._running}

    def _waiting(self, cycles):
        self.progress.update(f"{self._doing()}, {cycles:,} cycles")

    def _loading(self, done, total):
        if not self.steps:
            self.progress.update(f"loading the model, {done:,} of {total:,} bytes")

    def _running(self, seconds):
        self.progress.update(f"{self._doing()}, {seconds:.1f} seconds")

    def _doing(self):
        return f"token {sum(step.kind == 'decode' for step in self.steps) + 2}" if self.steps else "prefill"

    def _step(self, step):
        self.steps.append(step)
        self.progress.line(f"{step.kind} at {step.position}, tokens: {step.tokens}, {self._spent(step)}")

    def _spent(self, step):
        return f"cycles: {step.counters['cycles']:,}"

    def finish(self, report, json_file):
        """Print the figures, write them; returns the exit code."""
        package = self.package
        report |= {
            "model": package.model, "configuration": package.config.name, "config_hash": package.config.sha256,
            "weights": package.weights, "kv": package.kv, "context": package.compiled.context,
            "backend": "both" if self.check else self.backend, "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps],
            **self._speed([step for step in self.steps if step.kind == "decode"]),
            "equal": not self.differences if self.check else None, "words_compared": self.words,
            "differences": self.differences,
        }
        if json_file is not None:
            write_json(json_file, report)
        self._show_figures(report)
        return int(bool(self.differences))

    def _speed(self, decode):
        """Cycles and rates of the runs, of which ``decode`` are those of one token."""
        if not self.steps:
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
        if not decode or self.checkpoint is None:
            return None
        slots = self.package.compiled.slots
        needed = sum(streamed_bytes(self.whole, slots, self.package.kv, step.position) for step in decode)
        return needed / (self.package.config.bus_bytes * sum(step.counters["cycles"] for step in decode))

    def _show_figures(self, report):
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


class _OffloadedJob(_Job):
    """A model that the host runs and whose products a board computes."""

    comparison = OffloadComparison
    package_of = staticmethod(offload_package)

    def _device(self, transport):
        return OffloadGenerator(transport, self.whole, self._tables(), config=self.config, step=self._step,
                                product=self._multiplied, **self._sizes())

    def _tables(self):
        return offload_tables(self.whole)

    def _told(self):
        return {}

    def _multiplied(self, products):
        self.progress.update(f"{self._doing()}, {products:,} products")

    def _spent(self, step):
        return f"seconds: {step.seconds:.2f}"

    def _speed(self, decode):
        """The link's and the host's."""
        return {"seconds_per_token": sum(step.seconds for step in decode) / len(decode)} if decode else {}
