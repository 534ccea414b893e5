"""ULX3S by Radiona: ECP5 with 32 MB of SDR SDRAM, 25 MHz, UART through an FT231X.

Boards came with AS4C16M16SA, IS42S16160G, W9825G6KH or MT48LC16M16A2 as memory; the timing is one that all of them
meet. Source: the schematics in https://github.com/emard/ulx3s, pins as amaranth-boards has them.
"""

from .board import BlockRamMemory, Board, SdramMemory

__all__ = ["BOARDS"]

_MEMORY = SdramMemory(parts=("as4c16m16sa-7", "is42s16160g-7", "w9825g6kh-6", "mt48lc16m16a2-75"), bytes=32 << 20)


def _board(size, configuration, frequency, *, kind="", memory=_MEMORY, **options):
    return Board(name=f"ulx3s-{size.lower()}{kind}", title=f"ULX3S with LFE5U-{size}",
                 platform=f"ulx3s:ULX3S_{size}_Platform", part=f"LFE5U-{size}-6BG381",
                 configuration=configuration, frequency=frequency, memory=memory, loader="ulx3s",
                 **options)


BOARDS = (
    _board("85F", "ulx3s_85f.toml", 80_000_000, router="router2", reroute="router1", seed=3),
    # The whole of a small model in block RAM, the SDRAM unused.
    _board("85F", "ulx3s_85f_on_chip.toml", 80_000_000, kind="-on-chip", memory=BlockRamMemory(bytes=368 << 10),
           seed=3),
    _board("45F", "ulx3s_45f.toml", 80_000_000),
    _board("25F", "icepi_zero.toml", 80_000_000),
    _board("12F", "icepi_zero.toml", 80_000_000),
)
