"""``tilewright generate`` and ``tilewright presets``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tilewright.gen.configuration import PRESETS, load_preset, read_configuration
from tilewright.gen.errors import UserError

__all__ = ["register", "PresetOption", "ConfigOption", "JsonOption", "chosen"]

PresetOption = Annotated[str | None, typer.Option("--preset", help=f"One of {', '.join(PRESETS)}.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML file with the fields of a preset.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def chosen(preset, config):
    """The configuration that --preset or --config names; raises UserError unless it is one of them."""
    if (preset is None) == (config is None):
        raise UserError(f"give either --preset ({', '.join(PRESETS)}) or --config FILE")
    return load_preset(preset) if config is None else read_configuration(config)


def generate(
    preset: PresetOption = None,
    config: ConfigOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write into.")] = Path("build/generated"),
    as_json: JsonOption = False,
):
    """Write Verilog, its description, register map and headers of a configuration."""
    configuration = chosen(preset, config)
    from tilewright.gen import generate as generator
    description = generator.generate(configuration, output)
    if as_json:
        typer.echo(json.dumps(description | {"folder": str(output)}, indent=2))
    else:
        for name in description["files"]:
            typer.echo(output / name)


def presets(as_json: JsonOption = False):
    """List the presets."""
    configurations = [load_preset(name) for name in PRESETS]
    if as_json:
        typer.echo(json.dumps([asdict(c) | {"config_hash": c.sha256} for c in configurations], indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    table = Table()
    columns = {"name": "name", "rows": "rows", "lanes": "lanes", "bus_width": "bus bits",
               "scratchpad_bytes": "scratchpad", "vector_lanes": "vector lanes", "max_hidden": "hidden",
               "max_context": "context"}
    for field, title in columns.items():
        table.add_column(title, justify="left" if field == "name" else "right")
    for c in configurations:
        table.add_row(*(str(getattr(c, field)) for field in columns))
    Console().print(table)


def register(app):
    """Add the commands to ``app``."""
    app.command()(generate)
    app.command()(presets)
