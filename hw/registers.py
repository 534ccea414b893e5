"""The register map, written once: RTL, SystemRDL, C header, page and driver all take it from here."""

from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["Access", "ErrorCode", "RegisterField", "Register", "REGIONS", "ARGUMENTS", "COUNTERS", "REGISTER_MAP",
           "IDENTITY", "VERSION", "CSR_ADDRESS_WIDTH"]

IDENTITY = 0x54494C45  # "TILE"
VERSION = 0x0001_0001
REGIONS = 4
ARGUMENTS = 8
CSR_ADDRESS_WIDTH = 10


class Access(IntEnum):
    RO = 0   # hardware writes, software reads
    RW = 1   # software writes and reads
    W1 = 2   # writing one acts; reads as zero
    CONST = 3  # fixed by the configuration
    WO = 4   # software writes; reads as zero


class ErrorCode(IntEnum):
    NONE = 0
    BAD_OPCODE = 1
    BAD_FIELD = 2          # a field's value that no unit can carry out
    READ_RANGE = 3         # read outside its region
    WRITE_RANGE = 4        # write outside its region, or region not writable
    SCRATCHPAD_RANGE = 5
    ACTIVATION_RANGE = 6
    READ_RESPONSE = 7      # the bus answered a read with an error
    WRITE_RESPONSE = 8     # the bus answered a write with an error
    WATCHDOG = 9
    ABORTED = 10           # stopped by software


@dataclass(frozen=True)
class RegisterField:
    name: str
    lsb: int
    width: int
    access: Access
    doc: str


@dataclass(frozen=True)
class Register:
    name: str
    offset: int
    doc: str
    fields: tuple[RegisterField, ...] = field(default=())


def _word(access, doc):
    return (RegisterField("value", 0, 32, access, doc),)


COUNTERS = (
    ("cycles", "cycles from start to stop"),
    ("matmul_busy", "cycles in which the array took a weight beat"),
    ("vector_busy", "cycles in which the vector unit had a command"),
    ("read_beats", "beats received on R"),
    ("write_beats", "beats sent on W"),
    ("stall_weights", "cycles in which the array waited for weights"),
    ("stall_drain", "cycles in which the array waited for its results to drain"),
    ("stall_read", "cycles in which the memory held back RVALID with reads outstanding"),
    ("stall_issue", "cycles in which the sequencer waited for a unit"),
    ("prefetch_full", "cycles in which the prefetch buffer had no room for the next burst"),
)


def _build():
    registers = []
    offset = 0

    def add(name, doc, fields, at=None):
        nonlocal offset
        offset = offset if at is None else at
        registers.append(Register(name, offset, doc, tuple(fields)))
        offset += 4

    RO, RW, W1, CONST = Access.RO, Access.RW, Access.W1, Access.CONST
    add("identity", "reads 0x54494C45, \"TILE\"", _word(CONST, "identity"))
    add("version", "version of register map and command set, major and minor", _word(CONST, "version"))
    add("config_hash", "first 32 bits of the SHA-256 of the configuration", _word(CONST, "hash"))
    add("config_array", "size of the array", (
        RegisterField("rows", 0, 8, CONST, "rows"), RegisterField("lanes", 8, 8, CONST, "lanes"),
        RegisterField("bus_bytes", 16, 8, CONST, "bytes of a beat"),
        RegisterField("vector_lanes", 24, 8, CONST, "FP32 lanes of the vector unit")))
    add("config_buffers", "log2 of buffer sizes", (
        RegisterField("scratchpad_log2", 0, 8, CONST, "log2 of the scratchpad's bytes"),
        RegisterField("activation_log2", 8, 8, CONST, "log2 of the activation buffer's depth"),
        RegisterField("prefetch_log2", 16, 8, CONST, "log2 of the prefetch buffer's beats"),
        RegisterField("address_width", 24, 8, CONST, "address width in bits")))
    add("config_formats", "formats of the matmul engine", (
        RegisterField("int8", 0, 1, CONST, "multiplies INT8"), RegisterField("fp16", 1, 1, CONST, "multiplies FP16"),
        RegisterField("int4", 2, 1, CONST, "multiplies INT4"),
        RegisterField("fp16_rows", 8, 8, CONST, "FP16 rows; 0 without FP16")))
    add("control", "acts when written", (
        RegisterField("start", 0, 1, W1, "start the program; ignored while busy"),
        RegisterField("abort", 1, 1, W1, "stop with error ABORTED"),
        RegisterField("clear_interrupt", 2, 1, W1, "take the interrupt back"),
        RegisterField("keep", 3, 1, W1, "with start: memory still holds the commands kept on chip")),
        at=0x20)
    add("status", "state of the sequencer", (
        RegisterField("busy", 0, 1, RO, "a program runs, or its last bursts do"),
        RegisterField("done", 1, 1, RO, "the last program reached END"),
        RegisterField("error", 2, 1, RO, "the last program ended with an error"),
        RegisterField("interrupt", 3, 1, RO, "interrupt pending")))
    add("error_code", "why the last program stopped (ErrorCode)", (RegisterField("code", 0, 8, RO, "ErrorCode"),))
    add("error_address", "offset in region 0 of the command that failed", _word(RO, "offset"))
    add("interrupt_enable", "interrupt when a program ends", (RegisterField("enable", 0, 1, RW, "enable"),))
    add("program", "offset in region 0 of the first command, aligned to 64", _word(RW, "offset"))
    add("watchdog", "cycles without any progress until the program is stopped; 0: never", _word(RW, "cycles"))
    add("writable", "regions that may be written", (RegisterField("mask", 0, REGIONS, RW, "a bit a region"),))
    for i in range(REGIONS):
        base = 0x40 + 16 * i
        add(f"region{i}_base_low", f"region {i}: first byte's address, low half, aligned to 4 KiB",
            _word(RW, "address"), at=base)
        add(f"region{i}_base_high", f"region {i}: first byte's address, high half",
            (RegisterField("value", 0, 8, RW, "address"),))
        add(f"region{i}_size", f"region {i}: bytes", _word(RW, "bytes"))
    for i in range(ARGUMENTS):
        add(f"argument{i}", f"put into scalar register {i + 1} at start", _word(RW, "value"),
            at=0x80 if i == 0 else None)
    for i, (name, doc) in enumerate(COUNTERS):
        add(f"count_{name}_low", doc + ", low half", _word(RO, "count"), at=0x100 + 8 * i)
        add(f"count_{name}_high", doc + ", high half", (RegisterField("value", 0, 16, RO, "count"),))
    return tuple(registers)


REGISTER_MAP = {register.name: register for register in _build()}
