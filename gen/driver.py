"""Driver of an accelerator: the same for simulation and boards, over a transport that reads and writes words."""

from dataclasses import dataclass

from tilewright.hw.registers import ARGUMENTS, COUNTERS, IDENTITY, REGIONS, REGISTER_MAP, VERSION, ErrorCode

from .errors import UserError

__all__ = ["Driver", "Region", "ProgramError"]


class ProgramError(Exception):
    """A program ended with an error; ``code`` is an ErrorCode, ``address`` the offset of the command in region 0."""

    def __init__(self, code, address):
        self.code, self.address = ErrorCode(code), address
        super().__init__(f"program stopped with {self.code.name} at command offset {address:#x}")


@dataclass(frozen=True)
class Region:
    """A memory region: address of its first byte (aligned to 4 KiB), size in bytes, whether it may be written."""

    base: int
    size: int
    writable: bool = False


class Driver:
    """Registers by name, programs, counters.

    ``transport`` has coroutines ``read(offset) -> int`` and ``write(offset, value)`` for 32-bit registers, and
    ``wait()``, which returns when the interrupt is pending.
    """

    def __init__(self, transport):
        self._transport = transport

    async def read(self, name):
        """Value of a whole register."""
        return await self._transport.read(REGISTER_MAP[name].offset)

    async def write(self, name, value):
        """Write a whole register."""
        await self._transport.write(REGISTER_MAP[name].offset, value)

    async def read_fields(self, name):
        """Fields of a register by name."""
        value = await self.read(name)
        return {field.name: value >> field.lsb & (1 << field.width) - 1 for field in REGISTER_MAP[name].fields}

    async def check(self, config_hash):
        """Raise UserError unless the hardware is a Tilewright build of the configuration with this hash (32 bits)."""
        identity, version = await self.read("identity"), await self.read("version")
        if identity != IDENTITY or version >> 16 != VERSION >> 16:
            raise UserError(f"identity = {identity:#010x}, version = {version:#010x}: not an accelerator that this "
                            f"driver knows ({IDENTITY:#010x}, {VERSION:#010x}); load a Tilewright bitstream")
        built = await self.read("config_hash")
        if built != config_hash:
            raise UserError(f"config_hash = {built:#010x}: the image was compiled for {config_hash:#010x}; compile it "
                            f"for the configuration that the hardware was generated from")

    async def configure(self, regions, *, watchdog):
        """Set the regions (at most four) and the watchdog in cycles, and let the interrupt through."""
        mask = 0
        for i in range(REGIONS):
            region = regions[i] if i < len(regions) else Region(0, 0)
            await self.write(f"region{i}_base_low", region.base & 0xFFFFFFFF)
            await self.write(f"region{i}_base_high", region.base >> 32)
            await self.write(f"region{i}_size", region.size)
            mask |= region.writable << i
        await self.write("writable", mask)
        await self.write("watchdog", watchdog)
        await self.write("interrupt_enable", 1)

    async def run(self, program, arguments=()):
        """Run the program at ``program`` (offset in region 0) to its end; raises ProgramError."""
        if len(arguments) > ARGUMENTS:
            raise ValueError(f"{len(arguments)} arguments: at most {ARGUMENTS}")
        await self.write("program", program)
        for i, value in enumerate(arguments):
            await self.write(f"argument{i}", value)
        await self.write("control", 1 << _lsb("control", "start"))
        await self._transport.wait()
        status = await self.read_fields("status")
        await self.write("control", 1 << _lsb("control", "clear_interrupt"))
        if status["error"]:
            raise ProgramError(await self.read("error_code"), await self.read("error_address"))

    async def abort(self):
        """Stop the program that runs; ``run`` then raises ProgramError with ABORTED."""
        await self.write("control", 1 << _lsb("control", "abort"))

    async def counters(self):
        """Performance counters of the last program, by name."""
        return {name: await self.read(f"count_{name}_low") | await self.read(f"count_{name}_high") << 32
                for name, _ in COUNTERS}


def _lsb(register, field):
    return next(f.lsb for f in REGISTER_MAP[register].fields if f.name == field)
