"""Configurations as TOML: the presets, and files of a user's own."""

import json
import tomllib
from dataclasses import asdict, fields
from importlib.resources import files
from pathlib import Path

from tilewright.hw.config import AcceleratorConfig, ConfigError

from .errors import UserError

__all__ = ["PRESETS", "load_preset", "read_configuration", "parse_configuration", "format_configuration"]

_FOLDER = files(__package__) / "presets"

PRESETS = tuple(sorted(
    (entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml")),
    key=["nano", "micro", "small", "medium", "large"].index))
"""Names of the presets, smallest first."""


def load_preset(name):
    """The preset ``name`` as an AcceleratorConfig; raises UserError naming the known ones."""
    if name not in PRESETS:
        raise UserError(f"preset {name!r}: unknown; allowed are {', '.join(PRESETS)}")
    return parse_configuration((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"), source=f"preset {name}")


def read_configuration(path):
    """The TOML file ``path`` as an AcceleratorConfig; raises UserError or ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    return parse_configuration(text, source=str(path))


def format_configuration(config):
    """``config`` as the text of a TOML file, which ``read_configuration`` takes."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(config).items())


def parse_configuration(text, *, source):
    """TOML text as an AcceleratorConfig: its fields and no other key, but that ``preset`` names the preset which those
    come from that are not given (``name`` always is).

    Raises ConfigError; its message is one line that starts with ``source``.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from None
    known = [field.name for field in fields(AcceleratorConfig)]
    base = values.pop("preset", None)
    if base is not None and base not in PRESETS:
        raise ConfigError(f"{source}: preset = {base!r}: unknown; allowed are {', '.join(PRESETS)}; change preset")
    for name in values:
        if name not in known:
            raise ConfigError(f"{source}: {name} = {values[name]!r}: unknown; allowed are {', '.join(known)}; "
                              f"remove {name}")
    if base is not None:
        values = {name: value for name, value in asdict(load_preset(base)).items() if name != "name"} | values
    for name in known:
        if name not in values:
            raise ConfigError(f"{source}: {name} is missing; add {name}, as in the preset micro, or preset = \"micro\"")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return AcceleratorConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
