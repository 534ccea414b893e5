"""The accelerator's configuration: one frozen dataclass, derived sizes, and every check in one place."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

__all__ = ["AcceleratorConfig", "ConfigError", "FORMATS", "FUNCTIONS", "BLOCK"]

BLOCK = 32
"""Values along the reduction dimension that share one scale (GGUF Q8_0, A8)."""

FORMATS = ("int8", "fp16", "int4")
"""Formats of weights that the matmul engine can multiply; int4 with the activations of int8."""

FUNCTIONS = ("exp", "silu", "rsqrt", "recip", "gelu_erf", "gelu_tanh", "quick_gelu", "sigmoid", "tanh")
"""Table functions a build can hold; a command names one by its position in ``AcceleratorConfig.functions``."""


class ConfigError(ValueError):
    """A configuration that cannot be built; the message names field, value, what is allowed and what to change."""


def _power_of_two(value):
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Sizes of a build and the units in it. Shapes of a model are run-time descriptors and do not appear here.

    Parameters
    ----------
    name : str              name of the configuration, used for the Verilog file
    formats : tuple         formats the matmul engine multiplies, of ``FORMATS``
    rows : int              INT8 activations (tokens, or query heads of a KV group) multiplied a cycle
    fp16_rows : int         FP16 activations multiplied a cycle; 0 without format fp16
    lanes : int             INT8 or INT4 weights taken a cycle, as many as a beat has bytes or twice that; half as many
                            are FP16
    bus_width : int         AXI4 data width in bits
    address_width : int     AXI4 address width in bits
    scratchpad_bytes : int  FP32 scratchpad
    activation_depth : int  reduction indices the activation buffer holds, for each of ``rows``
    prefetch_beats : int    weight beats the prefetch buffer holds
    program_commands : int  commands stored on chip: eight read ahead, the others kept for the next run of their program
    vector_lanes : int      FP32 lanes of the vector unit; 0: there is none, nor a sequencer, LOAD and STORE: the host
                            issues each STREAM and MATMUL and moves all data (``hw/direct``)
    accumulate_lanes : int  FP32 lanes that scale and accumulate block sums
    pe_dsps : int           multiplier primitives the PE array may use, two products each; the rest is logic. 0 with
                            vector_lanes = 0, where each PE has one of its own
    functions : tuple       table functions present, of ``FUNCTIONS``
    max_head_dim : int      longest row that the quantiser can give one scale (a V row of one head)
    max_hidden : int        longest activation vector kept in the activation buffer
    max_context : int       most positions of a sequence
    """

    name: str
    formats: tuple[str, ...]
    rows: int
    fp16_rows: int
    lanes: int
    bus_width: int
    address_width: int
    scratchpad_bytes: int
    activation_depth: int
    prefetch_beats: int
    program_commands: int
    vector_lanes: int
    accumulate_lanes: int
    pe_dsps: int
    functions: tuple[str, ...]
    max_head_dim: int
    max_hidden: int
    max_context: int

    def __post_init__(self):
        for problem in self._problems():
            raise ConfigError(problem)

    # Derived sizes, each with one definition.

    @property
    def bus_bytes(self):
        """Bytes of a beat."""
        return self.bus_width // 8

    @property
    def operand_formats(self):
        """Formats of activations and KV cache; INT4 weights go with INT8 ones."""
        return tuple(name for name in self.formats if name != "int4")

    @property
    def group_words(self):
        """FP32 words of a scratchpad group; a group is as wide as a beat."""
        return self.bus_width // 32

    @property
    def scratchpad_groups(self):
        """Depth of the scratchpad in groups."""
        return self.scratchpad_bytes // self.bus_bytes

    @property
    def burst_beats(self):
        """Longest AXI burst issued: 32 beats, or fewer where 4 KiB hold fewer."""
        return min(32, 4096 // self.bus_bytes)

    @property
    def burst_bytes(self):
        """Bytes of it: a stream that begins at a multiple has no burst cut short at a 4 KiB boundary."""
        return self.burst_beats * self.bus_bytes

    @property
    def macs(self):
        """Multiply-accumulates a cycle at peak."""
        return self.rows * self.lanes

    @property
    def module_name(self):
        """Name of the top module and its files; small, medium and large alone are keywords of Verilog."""
        return f"tilewright_{self.name}"

    @property
    def sha256(self):
        """SHA-256 of the configuration as JSON with sorted keys and no spaces, as 64 hexadecimal digits; its first 32
        bits stand in register ``config_hash``."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _problems(self):
        """Yield one line for each thing that is wrong, most basic first."""
        for f in fields(self):
            value = getattr(self, f.name)
            kind = f.type if f.type in (str, int) else tuple
            if not isinstance(value, kind) or isinstance(value, bool):
                yield f"{f.name} = {value!r}: must be {kind.__name__}; change {f.name}"
        if not (self.name.isascii() and self.name.isidentifier()):
            yield f"name = {self.name!r}: must be letters, digits and _, as it names files and modules; change name"
        for name, low, high in (
            ("rows", 1, 32), ("lanes", 4, 64), ("bus_width", 32, 512), ("scratchpad_bytes", 4096, 1 << 22),
            ("activation_depth", 256, 1 << 15), ("prefetch_beats", 64, 1 << 14),
            ("accumulate_lanes", 1, 64), ("max_head_dim", 32, 256),
        ):
            value = getattr(self, name)
            if not (low <= value <= high and _power_of_two(value)):
                yield f"{name} = {value}: must be a power of two from {low} to {high}; change {name}"
        if not 8 <= self.program_commands <= 4096 or self.program_commands % 8:
            yield (f"program_commands = {self.program_commands}: must be a multiple of 8 from 8 to 4096; "
                   "change program_commands")
        if not 32 <= self.address_width <= 40:
            yield f"address_width = {self.address_width}: must be from 32 to 40; change address_width"
        for field, known in (("functions", FUNCTIONS), ("formats", FORMATS)):
            names = getattr(self, field)
            for name in names:
                if name not in known:
                    yield f"{field} = {name!r}: unknown; allowed are {', '.join(known)}; change {field}"
            if len(set(names)) != len(names):
                yield f"{field} = {list(names)}: each may stand once; change {field}"
        yield from self._format_problems()
        if self.lanes * 8 not in (self.bus_width, 2 * self.bus_width):
            yield (f"lanes = {self.lanes}: must be bus_width / 8 = {self.bus_width // 8} or bus_width / 4 = "
                   f"{self.bus_width // 4}, so that INT8 or INT4 lanes eat one beat a cycle; change lanes or bus_width")
        if not (0 <= self.vector_lanes <= 8 and (self.vector_lanes == 0 or _power_of_two(self.vector_lanes))):
            yield f"vector_lanes = {self.vector_lanes}: must be 0 or a power of two up to 8; change vector_lanes"
        if self.vector_lanes == 0:
            yield from self._direct_problems()
        if self.vector_lanes > self.group_words:
            yield (f"vector_lanes = {self.vector_lanes}: must be at most bus_width / 32 = {self.group_words}, "
                   f"the words of a scratchpad group; change vector_lanes or bus_width")
        if self.accumulate_lanes > self.lanes:
            yield (f"accumulate_lanes = {self.accumulate_lanes}: must be at most lanes = {self.lanes}; "
                   f"change accumulate_lanes")
        if self.rows * self.lanes > BLOCK * self.accumulate_lanes:
            yield (f"accumulate_lanes = {self.accumulate_lanes}: must be at least rows * lanes / {BLOCK} = "
                   f"{self.rows * self.lanes // BLOCK}, or block sums arrive faster than they are scaled; "
                   f"change accumulate_lanes")
        if not 0 <= self.pe_dsps <= self.macs // 2:
            yield (f"pe_dsps = {self.pe_dsps}: must be from 0 to rows * lanes / 2 = {self.macs // 2}; "
                   f"change pe_dsps")
        if not 1 <= self.max_hidden <= self.activation_depth:
            yield (f"max_hidden = {self.max_hidden}: must be from 1 to activation_depth = {self.activation_depth}; "
                   f"change max_hidden or activation_depth")
        if not 1 <= self.max_context <= self.activation_depth:
            yield (f"max_context = {self.max_context}: must be from 1 to activation_depth = {self.activation_depth}, "
                   f"which holds a row of probabilities; change max_context or activation_depth")

    def _direct_problems(self):
        for name, needed in (("formats", ("int8",)), ("rows", 1), ("lanes", 4), ("bus_width", 32), ("functions", ()),
                             ("accumulate_lanes", 1), ("pe_dsps", 0), ("program_commands", 8)):
            value = getattr(self, name)
            if value != needed:
                value, needed = (list(v) if isinstance(v, tuple) else v for v in (value, needed))
                yield (f"{name} = {value}: must be {needed} with vector_lanes = 0; change {name} or vector_lanes")
        for name, low, high in (("scratchpad_bytes", 4096, 65536), ("activation_depth", 256, 2048)):
            value = getattr(self, name)
            if not low <= value <= high:
                yield (f"{name} = {value}: must be from {low} to {high} with vector_lanes = 0; "
                       f"change {name} or vector_lanes")

    def _format_problems(self):
        if not self.formats:
            yield f"formats = []: must name at least one of {', '.join(FORMATS)}; change formats"
        if "fp16" not in self.formats:
            if self.fp16_rows:
                yield f"fp16_rows = {self.fp16_rows}: must be 0 without fp16 in formats; change fp16_rows or formats"
        elif not (1 <= self.fp16_rows <= self.rows and _power_of_two(self.fp16_rows)):
            yield (f"fp16_rows = {self.fp16_rows}: must be a power of two from 1 to rows = {self.rows}; "
                   f"change fp16_rows")
        if "int4" in self.formats and "int8" not in self.formats:
            yield "formats: int4 uses the array and the activations of int8; add int8 or take out int4"
        if "int8" not in self.formats and self.pe_dsps:
            yield f"pe_dsps = {self.pe_dsps}: must be 0 without int8 in formats; change pe_dsps or formats"
