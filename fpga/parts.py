"""The parts on the boards: what they hold, and how the tools call them."""

from dataclasses import dataclass

__all__ = ["Part", "PARTS"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part: its family (``ecp5`` or ``gowin``), what it holds, and what nextpnr is told of it.

    ``lut`` are four-input ones, ``dsp`` multipliers of 18x18, ``bram`` blocks of ``bram_bits``.
    """

    name: str
    family: str
    device: tuple[str, ...]
    lut: int
    ff: int
    dsp: int
    bram: int
    bram_bits: int


def _ecp5(size, package, speed, *, option=None, **holds):
    return Part(name=f"LFE5U-{size}-{speed}{package}", family="ecp5", bram_bits=16384,
                device=(f"--{option or size.lower().replace('f', 'k')}", "--package", f"CABGA{package[2:]}",
                        "--speed", str(speed)), **holds)


_SMALL = {"lut": 24288, "ff": 24288, "dsp": 28, "bram": 56}

PARTS = {part.name: part for part in (
    # FPGA-DS-02012, table of the family. nextpnr treats the 12F as the 25F that its die is.
    _ecp5("12F", "BG381", 6, **_SMALL),
    _ecp5("25F", "BG381", 6, **_SMALL),
    _ecp5("45F", "BG381", 6, lut=43848, ff=43848, dsp=72, bram=108),
    _ecp5("85F", "BG381", 6, lut=83640, ff=83640, dsp=156, bram=208),
    _ecp5("25F", "BG256", 6, **_SMALL),
    # Gowin DS102.
    Part(name="GW2A-LV18PG256C8/I7", family="gowin", device=("--device", "GW2A-LV18PG256C8/I7"),
         lut=20736, ff=15552, dsp=48, bram=46, bram_bits=18432),
    # Lattice FPGA-DS-02008; its four single-port RAMs of 256 Kibit come beside.
    Part(name="iCE40UP5K-SG48", family="ice40", device=("--up5k", "--package", "sg48"),
         lut=5280, ff=5280, dsp=8, bram=30, bram_bits=4096),
)}
