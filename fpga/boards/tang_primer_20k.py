"""Tang Primer 20K by Sipeed: Gowin GW2A-18 with 128 MB of DDR3, 27 MHz, UART through a BL616 or FT2232.

The DDR3 stays unused: no controller of open tools is known to run it on this part. The memory is block RAM. The whole
accelerator takes more of the part than there is (docs/boards.md): the board has the matmul engine alone.
"""

from .board import BlockRamMemory, Board

__all__ = ["BOARDS"]

BOARDS = (
    Board(name="tang-primer-20k", title="Tang Primer 20K on its dock",
          platform="tang_primer_20k:TangPrimer20kDockPlatform", part="GW2A-LV18PG256C8/I7",
          configuration="tang_primer_20k.toml", frequency=27_000_000, memory=BlockRamMemory(bytes=64 << 10),
          baud=1_000_000, loader="tangprimer20k"),
)
