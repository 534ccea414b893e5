"""iCEBreaker by 1BitSquared: iCE40 UP5K, 12 MHz, UART through an FT2232H.

Too small for the whole accelerator: the preset nano is the matmul engine alone, with weights and results in the part's
four single-port RAMs (docs/decisions/0014-engine-alone-on-ice40.md). Source:
https://github.com/icebreaker-fpga/icebreaker, pins as amaranth-boards has them.
"""

from .board import Board, SinglePortMemory

__all__ = ["BOARDS"]

BOARDS = (
    Board(name="icebreaker", title="iCEBreaker", platform="icebreaker:ICEBreakerPlatform", part="iCE40UP5K-SG48",
          configuration="nano", frequency=24_000_000, memory=SinglePortMemory(bytes=128 << 10),
          loader="ice40_generic", flash_only=True),
)
