"""Bitstreams onto boards, through openFPGALoader."""

import subprocess
from pathlib import Path

from tilewright.gen.errors import ToolError, UserError

from .flow import FLOWS
from .parts import PARTS
from .tools import find_tool

__all__ = ["detect", "flash", "bitstream_of"]

SECONDS = 600

_HINTS = (
    ("error while loading shared libraries", "a library of the system is missing; on Debian apt-get install "
                                             "libusb-1.0-0 libftdi1-2 libhidapi-hidraw0"),
    ("unable to open ftdi device", "no board was found; is it plugged in, and may this user open it (udev rules)?"),
    ("device not found", "no board was found; is it plugged in, and may this user open it (udev rules)?"),
    ("cannot find", "no board was found; is it plugged in, and may this user open it (udev rules)?"),
    ("jtag init failed", "no board was found; is it plugged in, and may this user open it (udev rules)?"),
    ("mismatch between target's idcode and bitstream idcode", "the part on the board is another one; take the board's "
                                                              "own --board, as its label says"),
)


def bitstream_of(board, folder):
    """The bitstream that ``build`` wrote into ``folder``; raises UserError where there is none."""
    path = Path(folder) / f"{board.name}.{FLOWS[PARTS[board.part].family].bitstream}"
    if not path.is_file():
        raise UserError(f"{path}: no bitstream; tilewright build --board {board.name} makes it, or name one with "
                        f"--bitstream")
    return path


def detect(board, *, tools="auto"):
    """What openFPGALoader says of the part at the board's cable; raises ToolError where it finds none."""
    return _run(find_tool("openFPGALoader", source=tools), ["-b", board.loader, "--detect"])


def flash(board, bitstream, *, permanent=False, tools="auto"):
    """Load ``bitstream`` into the part, or with ``permanent`` into the board's flash, from which it starts; raises
    UserError where the board has only the second way."""
    if board.flash_only and not permanent:
        raise UserError(f"{board.name}: its part is loaded from the flash alone; add --permanent")
    return _run(find_tool("openFPGALoader", source=tools),
                ["-b", board.loader, "--write-flash" if permanent else "--write-sram", str(bitstream)])


def _run(tool, arguments):
    try:
        result = subprocess.run([*tool.command, *arguments], capture_output=True, text=True, timeout=SECONDS,
                                stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ToolError(f"openFPGALoader: no answer for {SECONDS} seconds; unplug the board and try again") from None
    said = result.stdout + result.stderr
    if result.returncode:
        for words, hint in _HINTS:
            if words in said.lower():
                raise ToolError(f"openFPGALoader: {hint}")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise ToolError(f"openFPGALoader: {lines[-1] if lines else f'ended with code {result.returncode}'}")
    return said
