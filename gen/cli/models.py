"""``tilewright models``: the known models, and what a configuration lacks for each."""

import json
from typing import Annotated

import typer

from tilewright.gen.configuration import PRESETS, load_preset, read_configuration
from tilewright.gen.errors import UserError

from .generate import JsonOption

__all__ = ["register"]

ConfigOption = Annotated[str, typer.Option("--config", help=f"What to hold the models against: "
                                                            f"{', '.join(PRESETS)}, or a TOML file.")]


def models(
    name: Annotated[str | None, typer.Argument(help="Show the tensors of this model; all models if none is named.")]
    = None,
    config: ConfigOption = "medium",
    as_json: JsonOption = False,
):
    """List the known models with size, structure, and what a configuration lacks for each."""
    from tilewright.gen.model import known_models, load_model
    from tilewright.gen.model_report import summary, tensor_list

    configuration = _configuration(config)
    if name is None:
        found = sorted((summary(load_model(each), configuration) for each in known_models()),
                       key=lambda values: values["parameters"])
        if as_json:
            typer.echo(json.dumps({"configuration": configuration.name, "models": found}, indent=2))
        else:
            _show_all(found, configuration)
        return
    model = load_model(name)
    values = summary(model, configuration)
    tensors = tensor_list(model.architecture)
    if as_json:
        typer.echo(json.dumps(values | {"configuration": configuration.name, "tensors": tensors}, indent=2))
    else:
        _show_one(values, tensors, configuration)


def _configuration(given):
    """The preset or the TOML file that --config names."""
    if given in PRESETS:
        return load_preset(given)
    try:
        return read_configuration(given)
    except UserError as error:
        raise UserError(f"{error}; give a TOML file or one of {', '.join(PRESETS)}") from None


def _megabytes(count):
    return f"{count / 1e6:,.1f}"


def _sizes(values):
    """Columns of a model's sizes: title and text of each."""
    return {
        "parameters": f"{values['parameters']:,}", "layers": str(values["layers"]), "hidden": str(values["hidden"]),
        "heads / KV": f"{values['heads']} / {values['kv_heads']}", "head_dim": str(values["head_dim"]),
        "FFN": str(values["ffn"]), "INT8 MB": _megabytes(values["bytes"]["int8"]),
        "FP16 MB": _megabytes(values["bytes"]["fp16"])}


def _lacks(values, *, blocking):
    return [lack for lack in values["lacks"] if lack["blocking"] == blocking]


def _to_add(lack):
    """A lack in few words: the field and what it needs."""
    field, needed = lack["field"], lack["needed"]
    if needed is None:
        return lack["line"]
    return f"{field}: {needed}" if field in ("functions", "formats") else f"{field} = {needed}"


def _show_all(found, configuration):
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sizes = Table(title="Models", caption="MB = 10^6 bytes, embeddings included; tensors: tilewright models NAME")
    structures = Table(title="Structures")
    lacking = Table(title=f"What {configuration.name} lacks", caption="context: the longest whose program fits into "
                    "scratchpad and activation buffer, a power of two or the longest possible")
    for column in ("model", *_sizes(found[0])):
        sizes.add_column(column, justify="left" if column == "model" else "right")
    for column in ("model", *found[0]["structure"]):
        structures.add_column(column)
    contexts = [f"context {name.upper()}" for name in configuration.operand_formats]
    for column in ("model", "lacks", *contexts, "model's own"):
        lacking.add_column(column, justify="left" if column in ("model", "lacks") else "right")
    for values in found:
        sizes.add_row(values["name"], *_sizes(values).values())
        structures.add_row(values["name"], *values["structure"].values())
        lacks = "\n".join(_to_add(lack) for lack in _lacks(values, blocking=True))
        lacking.add_row(values["name"], lacks or "[green]nothing[/]",
                        *(f"{values['contexts'][name]['longest']:,}" if values["contexts"] else ""
                          for name in configuration.operand_formats), f"{values['max_context']:,}")
    for table in (sizes, structures, lacking):
        console.print(table)
    for lack in _lacks(found[0], blocking=False):  # formats, the same for all
        if lack["field"] == "formats":
            console.print(lack["line"], markup=False, highlight=False, soft_wrap=True)


def _show_one(values, tensors, configuration):
    from functools import partial

    from rich.console import Console
    from rich.table import Table

    console = Console()
    tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    facts = Table(title=values["title"], show_header=False)
    for title, text in (_sizes(values) | {"vocabulary": f"{values['vocab']:,}", "context": f"{values['max_context']:,}",
                                          "file": values["file"] or "none known"} | values["structure"]).items():
        facts.add_row(title, text)
    console.print(facts)
    table = Table(title="Tensors", caption="bytes of one; layers.* stands for all layers")
    for column in ("tensor", "count", "shape", "INT8 bytes", "FP16 bytes"):
        table.add_column(column, justify="left" if column == "tensor" else "right")
    for tensor in tensors:
        table.add_row(tensor["name"], str(tensor["count"]), " x ".join(str(n) for n in tensor["shape"]),
                      *(f"{tensor['bytes'][name]:,}" for name in ("int8", "fp16")))
    console.print(table)
    for blocking, title in ((True, "lacks"), (False, "restricts")):
        for lack in _lacks(values, blocking=blocking):
            tell(f"{configuration.name} {title}: {lack['line']}")
    for name, found in values["contexts"].items():
        tell(f"{configuration.name} holds a context of {found['longest']:,} in {name.upper()}"
             + (f", no more because: {found['limit']}" if found["limit"] else ""))


def register(app):
    """Add the command to ``app``."""
    app.command()(models)
