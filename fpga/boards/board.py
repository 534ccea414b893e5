"""What the flow knows of a board."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tilewright.gen.configuration import load_preset, read_configuration
from tilewright.gen.errors import UserError

from ..link.protocol import BAUD

__all__ = ["Board", "SdramMemory", "BlockRamMemory", "SinglePortMemory"]


@dataclass(frozen=True, kw_only=True)
class SdramMemory:
    """16-bit SDR SDRAM. ``parts`` are the names in ``fpga.memory.timing.PARTS`` of those that the board came with."""

    parts: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class BlockRamMemory:
    """Block RAM of the part as the accelerator's memory, for boards whose DRAM open tools cannot drive; without vector
    unit, half of it for weights and half as scratchpad."""

    bytes: int


@dataclass(frozen=True, kw_only=True)
class SinglePortMemory:
    """Single-port RAM of the part, half of it for weights and half as scratchpad, for configurations without vector
    unit."""

    bytes: int


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board that a bitstream is built for.

    name : str                   as ``--board`` takes it
    title : str                  as its makers call it
    platform : str               module and class of amaranth-boards, with its pins
    part : str                   name in ``fpga.parts.PARTS``
    configuration : str          of the accelerator: a preset, or a TOML file in this folder
    frequency : int              Hz of the accelerator's clock, made by the PLL
    memory : SdramMemory, BlockRamMemory or SinglePortMemory
    loader : str                 the board as openFPGALoader calls it
    baud : int                   UART, bits a second
    router : str                 nextpnr's router: router2 where the first one does not come to an end
    reroute : str or None        the one that routes the nets on late paths again
    seed : int                   of the placement: with the same inputs and tools the bitstream is the same
    flash_only : bool            as it is delivered, the part can only be loaded from the board's flash
    """

    name: str
    title: str
    platform: str
    part: str
    configuration: str
    frequency: int
    memory: SdramMemory | BlockRamMemory | SinglePortMemory
    loader: str
    baud: int = BAUD
    router: str = "router1"
    reroute: str | None = None
    seed: int = 1
    flash_only: bool = False

    def load_configuration(self):
        """The board's AcceleratorConfig."""
        if self.configuration.endswith(".toml"):
            return read_configuration(Path(__file__).parent / self.configuration)
        return load_preset(self.configuration)

    def make_platform(self):
        """A platform of amaranth-boards; raises UserError where that is not installed."""
        module, name = self.platform.split(":")
        try:
            return getattr(import_module(f"amaranth_boards.{module}"), name)()
        except ImportError:
            raise UserError("amaranth-boards: not installed; pip install 'tilewright[board]'") from None
