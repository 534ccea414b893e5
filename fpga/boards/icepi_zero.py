"""Icepi Zero by Chengyin Yao: ECP5-25F with 32 MB of SDR SDRAM, 50 MHz, UART through an FT231X.

Its memory is a W9825G6KH. Source: https://github.com/cheyao/icepi-zero, pins as amaranth-boards has them.
"""

from .board import Board, SdramMemory

__all__ = ["BOARDS"]

BOARDS = (
    Board(name="icepi-zero", title="Icepi Zero 1.3", platform="icepi_zero:IcepiZero1_3Platform",
          part="LFE5U-25F-6BG256", configuration="icepi_zero.toml", frequency=80_000_000,
          memory=SdramMemory(parts=("w9825g6kh-6",), bytes=32 << 20), loader="icepi-zero"),
)
