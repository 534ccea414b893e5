"""ULX3S by Radiona: ECP5 with 32 MB of SDR SDRAM, 25 MHz, UART through an FT231X.

Boards came with AS4C16M16SA, IS42S16160G, W9825G6KH or MT48LC16M16A2 as memory; the timing is one that all of them
meet. Source: the schematics in https://github.com/emard/ulx3s, pins as amaranth-boards has them.
"""

from .board import Board, SdramMemory

__all__ = ["BOARDS"]

_MEMORY = SdramMemory(parts=("as4c16m16sa-7", "is42s16160g-7", "w9825g6kh-6", "mt48lc16m16a2-75"), bytes=32 << 20)


def _board(size, configuration, frequency, **options):
    return Board(name=f"ulx3s-{size.lower()}", title=f"ULX3S with LFE5U-{size}",
                 platform=f"ulx3s:ULX3S_{size}_Platform", part=f"LFE5U-{size}-6BG381",
                 configuration=configuration, frequency=frequency, memory=_MEMORY, loader="ulx3s",
                 **options)


BOARDS = (
    _board("85F", "ulx3s_85f.toml", 80_000_000, router="router2", reroute="router1", seed=3),
    _board("45F", "small", 80_000_000),
    _board("25F", "icepi_zero.toml", 80_000_000),
    _board("12F", "icepi_zero.toml", 80_000_000),
)
