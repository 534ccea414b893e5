"""Whether a configuration can fit a part, told before synthesis from its sizes."""

from tilewright.gen.errors import UserError
from tilewright.hw.commands import COMMAND_BYTES

from .boards.board import BlockRamMemory, SdramMemory, SinglePortMemory

__all__ = ["estimate", "check_fits"]

TOLERANCE = 1.25
"""A LUT count up to this much above what the part has is tried: the tools then tell."""

UNITS = {"lut": "LUTs", "ff": "flip-flops", "dsp": "multipliers", "bram": "block RAMs"}
FIELDS = {"lut": "rows, fp16_rows, vector_lanes or formats", "ff": "rows, fp16_rows or vector_lanes",
          "dsp": "pe_dsps, fp16_rows or vector_lanes",
          "bram": "scratchpad_bytes, prefetch_beats, program_commands or activation_depth"}


def estimate(config, board, part):
    """What the board's design takes of ``part``: figure -> count, of ``UNITS``.

    Multipliers are counted as hw makes them. Block RAMs are those of the four large memories, a lower bound. LUTs are
    a fit to syntheses of the presets for ECP5 (tests/synth/history.csv) and 3000 for what a board adds, good to about a
    quarter.
    """
    if not config.vector_lanes:
        return _estimate_direct(config, board, part)
    half = config.lanes // 2
    fp16_pes = config.fp16_rows * half
    fp16 = "fp16" in config.formats
    dsp = config.pe_dsps + fp16_pes + config.accumulate_lanes + 11 * config.vector_lanes
    in_logic = max(0, config.rows * config.lanes - 2 * config.pe_dsps) if "int8" in config.formats else 0
    lut = (12000 + 60 * config.rows * config.lanes + 140 * in_logic + 540 * fp16_pes + 600 * config.accumulate_lanes
           + 3000 * config.vector_lanes)
    memories = [config.scratchpad_bytes * 8, config.prefetch_beats * config.bus_width,
                config.program_commands * COMMAND_BYTES * 8,
                config.activation_depth * (8 * config.rows + 16 * config.fp16_rows * fp16)]
    if isinstance(board.memory, BlockRamMemory):
        memories.append(board.memory.bytes * 8)
    return {"lut": lut, "dsp": dsp, "bram": sum(-(-bits // part.bram_bits) for bits in memories)}


def _estimate_direct(config, board, part):
    """The same of the engine alone, as synthesis counts it for iCE40 (decision 14), its logic cells as LUTs. Its block
    RAMs beside that of the activations are of fixed size."""
    memories = [config.activation_depth * 8]
    if isinstance(board.memory, BlockRamMemory):
        memories += [config.scratchpad_bytes * 8] * 2
    return {"lut": 4600, "dsp": config.lanes + 2 * config.accumulate_lanes,
            "bram": 12 + sum(-(-bits // part.bram_bits) for bits in memories)}


def check_fits(config, board, part):
    """Raise UserError where ``config`` is certainly too large for ``part``, or is not for boards of that kind."""
    whole = config.vector_lanes > 0
    if isinstance(board.memory, SinglePortMemory) and whole:
        raise UserError(f"configuration {config.name}: needs about {estimate(config, board, part)['lut']} LUTs, "
                        f"{part.name} on {board.name} has {part.lut}, enough for a matmul engine alone; take "
                        "vector_lanes = 0, as preset nano has, or another board")
    if isinstance(board.memory, SdramMemory) and not whole:
        raise UserError(f"configuration {config.name}: vector_lanes = 0: {board.name} takes whole accelerators; take "
                        "another configuration, or a board without SDRAM")
    for figure, count in estimate(config, board, part).items():
        available = getattr(part, figure)
        if count > available * (TOLERANCE if figure == "lut" else 1):
            raise UserError(f"configuration {config.name}: needs about {count} {UNITS[figure]}, {part.name} on "
                            f"{board.name} has {available}; make {FIELDS[figure]} smaller, or take another board")
