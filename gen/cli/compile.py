"""``tilewright compile``: a model as a package that an accelerator runs."""

from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.errors import UserError

from .generate import ConfigOption, chosen

__all__ = ["register", "configuration_of", "kv_format", "WeightsOption", "KvOption", "ContextOption", "SourceOption",
           "PresetOption"]

KV_FORMATS = ("int8", "fp16")
PRESET = "medium"

ModelArgument = Annotated[str, typer.Argument(help="A known model's name, or a .gguf file, a llama2.c checkpoint "
                                                   "(.bin) or a Hugging Face folder.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help=f"Configuration by name; default: {PRESET}.")]
WeightsOption = Annotated[str, typer.Option("--weights", help="Format of the matrices: file (as the file has them, "
                                                              "else INT8), int8, fp16 or int4.")]
KvOption = Annotated[str | None, typer.Option("--kv", help="Format of the KV cache, int8 or fp16; default: fp16 with "
                                                           "--weights fp16, else int8.")]
ContextOption = Annotated[int | None, typer.Option("--context", min=1, help="Positions of a sequence, at most; "
                                                                            "default: 512 or the model's limit.")]
SourceOption = Annotated[str | None, typer.Option("--source", help="Where a known model's file comes from, as for "
                                                                   "fetch.")]


def compile_command(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write into.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    weights: WeightsOption = "file",
    kv: KvOption = None,
    context: ContextOption = None,
    source: SourceOption = None,
):
    """Compile a model for a configuration: image, manifest and tokenizer."""
    from rich.console import Console
    from rich.table import Table

    from tilewright.gen.checkpoint import open_checkpoint
    from tilewright.gen.package import compile_package, whole_model, write_package

    configuration = configuration_of(preset, config)
    kv = kv_format(weights, kv)
    console = Console(stderr=True)
    with console.status("opening the model") as status:
        checkpoint = open_checkpoint(model, source)
        package = compile_package(
            checkpoint, whole_model(checkpoint, weights, status.update), configuration, name=Path(model).stem,
            weights=weights, kv=kv, context=context, step=status.update, with_errors=True)
        status.update("writing")
        write_package(package, output)
    compiled, worst = package.compiled, max(package.tensors, key=lambda each: each["relative"])
    table = Table(title=f"{package.model} for {configuration.name}", show_header=False)
    for name, value in (
        ("folder", str(output)), ("image", f"{len(compiled.image):,} bytes"),
        ("KV cache", f"{compiled.kv_bytes:,} bytes, {kv}, context {compiled.context}"),
        ("prefill", f"{compiled.prefill_tokens} tokens at a time"),
        ("rounding", f"at most {worst['relative']:.2%} of a matrix ({worst['name']}, {worst['kind']} to "
                     f"{worst['format']})" if worst["relative"] else "none: every matrix as in the file"),
    ):
        table.add_row(name, value)
    Console().print(table)


def configuration_of(preset, config):
    """The configuration that the options name."""
    return chosen(preset or (None if config else PRESET), config)


def kv_format(weights, kv):
    """Format of the KV cache; UserError for formats that the machine lacks."""
    from tilewright.gen.checkpoint import MACHINE_FORMATS

    if weights not in MACHINE_FORMATS:
        raise UserError(f"--weights {weights}: no format of the machine; allowed are {', '.join(MACHINE_FORMATS)}")
    if kv is None:
        return "fp16" if weights == "fp16" else "int8"
    if kv not in KV_FORMATS:
        raise UserError(f"--kv {kv}: unknown; allowed are {', '.join(KV_FORMATS)}")
    return kv


def register(app):
    """Add the command to ``app``."""
    app.command("compile")(compile_command)
