"""Driver of an accelerator: the same for simulation and boards, over a transport to its registers and memory."""

import time
from dataclasses import dataclass

import numpy as np

from tilewright.hw.registers import ARGUMENTS, COUNTERS, IDENTITY, REGIONS, REGISTER_MAP, VERSION, ErrorCode

from .errors import ToolError, UserError

__all__ = ["Driver", "Generator", "Region", "Step", "ProgramError", "ContextError", "best", "check_tokens",
           "place_regions"]

PAGE = 4096
"""Alignment of regions."""
WATCHDOG = 1_000_000
"""Cycles without any progress until a program is stopped."""


class ProgramError(ToolError):
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
    ``wait()``, which returns when the interrupt is pending. For memory, which ``Generator`` needs, it has
    ``load(address, data)`` and ``fetch(address, size) -> bytes``; addresses and sizes are multiples of 4. One whose
    accesses take long may have ``read_words(offset, count)`` and ``write_words(offset, values)``, for registers that
    follow one another.
    """

    def __init__(self, transport):
        self._transport = transport

    async def read(self, name):
        """Value of a whole register."""
        return await self._transport.read(REGISTER_MAP[name].offset)

    async def write(self, name, value):
        """Write a whole register."""
        await self._transport.write(REGISTER_MAP[name].offset, value)

    async def write_words(self, offset, values):
        """Write registers that follow one another."""
        if hasattr(self._transport, "write_words"):
            await self._transport.write_words(offset, values)
        else:
            for i, value in enumerate(values):
                await self._transport.write(offset + 4 * i, value)

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

    async def run(self, program, arguments=(), *, keep=False):
        """Run the program at ``program`` (offset in region 0) to its end; raises ProgramError.

        ``keep``: memory still holds the commands of the last run without ``keep``, which need not be read again.
        """
        if len(arguments) > ARGUMENTS:
            raise ValueError(f"{len(arguments)} arguments: at most {ARGUMENTS}")
        await self.write("program", program)
        for i, value in enumerate(arguments):
            await self.write(f"argument{i}", value)
        await self.write("control", 1 << _lsb("control", "start") | keep << _lsb("control", "keep"))
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
        words = await self._read_words(f"count_{COUNTERS[0][0]}_low", 2 * len(COUNTERS))
        return {name: words[2 * i] | words[2 * i + 1] << 32 for i, (name, _) in enumerate(COUNTERS)}

    async def _read_words(self, first, count):
        """Values of ``count`` registers that follow one another."""
        offset = REGISTER_MAP[first].offset
        if hasattr(self._transport, "read_words"):
            return await self._transport.read_words(offset, count)
        return [await self._transport.read(offset + 4 * i) for i in range(count)]


def _lsb(register, field):
    return next(f.lsb for f in REGISTER_MAP[register].fields if f.name == field)


class ContextError(UserError):
    """There is no position left for a token."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run of a program: ``kind`` 'prefill' or 'decode', its first position, its tokens, its counters by name, and
    the seconds that it took the host."""

    kind: str
    position: int
    tokens: int
    counters: dict
    seconds: float


class Generator:
    """A compiled model on an accelerator: token numbers in, token numbers out. Keeps the position of the sequence.

    Parameters
    ----------
    transport : as for Driver
    compiled : CompiledModel
    config_hash : str        of the configuration it was compiled for, SHA-256 as 64 hexadecimal digits
    base : int               address of the first region; the others follow, each aligned to 4 KiB
    step : function          told each ``Step`` when it is over

    Attributes
    ----------
    driver : Driver
    regions : list of Region    program and weights, KV cache, input and output
    position : int              of the next token
    steps : list of Step        since ``reset``
    """

    def __init__(self, transport, compiled, *, config_hash, base=0, step=lambda step: None):
        self.driver, self.compiled, self._transport = Driver(transport), compiled, transport
        self._config_hash, self._step = config_hash, step
        self._kept = None                     # program whose commands are on chip
        self.regions, _ = place_regions(compiled, base)
        self.reset()

    def reset(self):
        """A new sequence."""
        self.position, self.steps = 0, []

    async def load(self):
        """Bring the model into memory; UserError if the hardware is of another configuration or has too little."""
        self._kept, last = None, self.regions[-1]
        await self.driver.check(int(self._config_hash[:8], 16))
        await self._transport.fetch(last.base + last.size - 4, 4)   # where memory ends before, this is refused
        await self._transport.load(self.regions[0].base, self.compiled.image)
        await self.driver.configure(self.regions, watchdog=WATCHDOG)

    async def prompt(self, tokens):
        """Take in tokens, as many at a time as the program can; returns the token chosen to follow them."""
        self._check(tokens)
        most = self.compiled.prefill_tokens
        for first in range(0, len(tokens), most):
            await self._run("prefill", self.compiled.prefill, tokens[first:first + most],
                            more=first + most < len(tokens))
        return await self._chosen()

    async def next(self, token):
        """Take in one token; returns the one chosen to follow it."""
        self._check([token])
        await self._run("decode", self.compiled.decode, [token])
        return await self._chosen()

    async def embedding(self, tokens, hidden):
        """An encoder's vector for a whole sequence, float32 [hidden]."""
        self.reset()
        self._check(tokens)
        await self._run("prefill", self.compiled.prefill, tokens)
        return await self._floats(self.compiled.embedding, 4 * hidden)

    async def logits(self):
        """Logits behind the last token taken in, float32 [vocab]."""
        return await self._floats(self.compiled.logits, 4 * self.compiled.vocab)

    async def top_k(self, k):
        """The k best candidates to follow, best first: list of (token, logit)."""
        return best(await self.logits(), k)

    async def fill_kv_cache(self, data):
        """Write all of region 1."""
        await self._transport.load(self.regions[1].base, data)

    async def kv_cache(self):
        """The whole of region 1, uint8."""
        region = self.regions[1]
        return np.frombuffer(await self._transport.fetch(region.base, region.size), np.uint8)

    def _check(self, tokens):
        check_tokens(tokens, self.position, vocab=self.compiled.vocab, context=self.compiled.context)

    async def _run(self, kind, program, tokens, more=False):
        io = self.regions[2].base + self.compiled.tokens
        await self._transport.load(io, np.asarray(tokens, "<u4").tobytes())
        started = time.perf_counter()
        kept, self._kept = self._kept, None   # an error leaves nothing behind
        await self.driver.run(program, (self.position, len(tokens), int(more)), keep=program == kept)
        self._kept = program
        seconds = time.perf_counter() - started
        self.steps.append(Step(kind=kind, position=self.position, tokens=len(tokens),
                               counters=await self.driver.counters(), seconds=seconds))
        self.position += len(tokens)
        self._step(self.steps[-1])

    async def _chosen(self):
        word = await self._transport.fetch(self.regions[2].base + self.compiled.next_token, 4)
        return int.from_bytes(word, "little")

    async def _floats(self, offset, size):
        return np.frombuffer(await self._transport.fetch(self.regions[2].base + offset, size), "<f4")


def place_regions(compiled, base=0):
    """Regions of a CompiledModel, one behind the other from address ``base`` on, and the first address behind them."""
    if base % PAGE:
        raise ValueError(f"base = {base:#x}: must be a multiple of {PAGE}")
    regions = []
    for size, writable in ((len(compiled.image), False), (compiled.kv_bytes, True), (compiled.io_bytes, True)):
        regions.append(Region(base, size, writable))
        base += -(-size // PAGE) * PAGE
    return regions, base


def check_tokens(tokens, position, *, vocab, context):
    """Raise UserError unless these tokens can be taken in at ``position``, ContextError if they are too many."""
    if not len(tokens):
        raise UserError("prompt: holds no token; give at least one")
    for token in tokens:
        if not 0 <= token < vocab:
            raise UserError(f"token {token}: must be from 0 to {vocab - 1}, the model's vocabulary")
    if position + len(tokens) > context:
        raise ContextError(f"position {position}: {len(tokens)} more tokens do not fit into the context of {context}; "
                           f"take a shorter prompt or a larger context")


def best(logits, k):
    """The k greatest of the logits, greatest first and of equal ones the first: list of (token, logit)."""
    order = np.argsort(-logits, kind="stable")[:k]
    return [(int(token), float(logits[token])) for token in order]
