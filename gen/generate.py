"""Generate an accelerator: Verilog, its description, and the software's view of its registers and commands."""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tilewright.hw.config import AcceleratorConfig

from .errors import UserError
from .verilog import emit

__all__ = ["build_top", "register_map", "describe", "generate", "ports_of"]

_TOOLS = ("tilewright", "amaranth", "pyosys", "systemrdl-compiler", "peakrdl-html", "peakrdl-cheader")


def build_top(config: AcceleratorConfig):
    """The top component of ``config``, with the tables of its functions."""
    if not config.vector_lanes:
        from tilewright.hw.direct.accelerator import DirectAccelerator
        return DirectAccelerator(config)
    from tilewright.hw.accelerator import Accelerator

    from .functions import function_tables
    return Accelerator(config, function_tables(config.functions))


def register_map(config: AcceleratorConfig):
    """Name -> Register, of the top component of ``config``."""
    if not config.vector_lanes:
        from tilewright.hw.direct.registers import DIRECT_MAP
        return DIRECT_MAP
    from tilewright.hw.registers import REGISTER_MAP
    return REGISTER_MAP


def ports_of(component):
    """The component's ports as Verilog calls them: a list of name, direction and width, clock and reset first."""
    from amaranth.hdl import Value
    from amaranth.lib.wiring import In
    ports = [{"name": name, "direction": "input", "width": 1} for name in ("clk", "rst")]
    for path, member, value in component.signature.flatten(component):
        ports.append({"name": "__".join(map(str, path)), "direction": "input" if member.flow == In else "output",
                      "width": len(Value.cast(value))})
    return ports


def describe(config, component, verilog):
    """What the JSON beside the Verilog says: equal configurations and tools give an equal description."""
    return {
        "name": config.name,
        "top": config.module_name,
        "configuration": asdict(config),
        "config_hash": config.sha256,
        "tools": {tool: version(tool) for tool in _TOOLS},
        "verilog_sha256": hashlib.sha256(verilog.encode()).hexdigest(),
        "ports": ports_of(component),
    }


def generate(config, folder, *, top=build_top):
    """Write everything that ``config`` stands for into ``folder``; all of it, or nothing.

    Files: ``tilewright_NAME.v`` and ``.json`` (configuration, hash, versions of the tools, ports),
    ``tilewright_registers.rdl`` and ``.h``, ``tilewright_commands.h``, ``registers/index.html``. Files that hold the
    same already are left as they are, others in the folder are not touched. ``top`` makes the component.

    Returns the description, with the written files' names under ``files``. Raises UserError where the folder cannot be
    written.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise UserError(f"{folder}: not a folder that can be written; choose another with -o")
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; choose another with -o") from None
    try:
        description = _write_all(config, work, top(config))
        _move(work, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return description


def _write_all(config, work, component):
    from .register_files import (
        command_header,
        compile_systemrdl,
        systemrdl_text,
        write_register_header,
        write_register_page,
    )
    verilog = emit(component, name=config.module_name, path=work / f"{config.module_name}.v")
    description = describe(config, component, verilog)
    (work / f"{config.module_name}.json").write_text(json.dumps(description, indent=2) + "\n")
    (work / "tilewright_registers.rdl").write_text(systemrdl_text(register_map(config)))
    root = compile_systemrdl(work / "tilewright_registers.rdl")
    write_register_header(root, work / "tilewright_registers.h")
    write_register_page(root, work / "registers")
    (work / "tilewright_commands.h").write_text(command_header())
    files = sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())
    return description | {"files": [name for name in files if not name.startswith("registers/")]
                          + ["registers/index.html"]}


def _move(work, folder):
    """Move the finished files of ``work`` into ``folder``, except those that are there already with the same bytes."""
    work.chmod(0o755)
    if not folder.exists():
        work.rename(folder)
        return
    for source in sorted(path for path in work.rglob("*") if path.is_file()):
        target = folder / source.relative_to(work)
        if not (target.is_file() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
