"""``tilewright complete`` and ``tilewright embed``: whole models on the golden model, simulated hardware or a board."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .compile import ContextOption, KvOption, ModelArgument, PresetOption, SourceOption, WeightsOption
from .generate import ConfigOption
from .output import check_writable

__all__ = ["register"]

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
    with _job(model, preset, config, backend=backend, check=check, weights=weights, kv=kv, source=source, folder=folder,
              trace=trace, port=port, baud=baud) as job:
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
    with _job(model, preset, config, backend=backend, check=check, weights=weights, kv=kv, source=source, folder=folder,
              port=port, baud=baud) as job:
        package = job.open(job.checkpoint and _tokens_in(job.checkpoint, text))
        if not package.compiled.is_encoder:
            raise UserError(f"{model}: is no encoder; see tilewright complete")
        numbers = package.tokenizer.prompt(text)
        report = job.run(lambda generator: _embedding(generator, numbers, package.architecture.hidden))
    typer.echo(json.dumps(report["embedding"]))
    return job.finish(report | {"text": text, "tokens": numbers}, json_file)


def _job(*arguments, **options):
    from .job import open_job  # here, so that --help does not wait for what it imports

    return open_job(*arguments, **options)


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


def register(app):
    """Add the commands to ``app``."""
    app.command()(complete)
    app.command()(embed)
