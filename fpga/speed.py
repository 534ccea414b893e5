"""How fast a board tells a text: the whole board simulated, against what its memory, or its serial line, allows."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tilewright.gen.configuration import format_configuration
from tilewright.gen.errors import UserError

from .board_simulation import SimulatedBoard
from .boards.board import SdramMemory

__all__ = ["measure", "SDRAM_BYTES"]

SDRAM_BYTES = 2
"""The most that an SDRAM gives in a cycle; block RAM gives a beat."""
HOST_BAUD = 5_000
"""Below what the simulated line does in a second: the host's patience comes from it."""


def measure(board, config, program, *, model, weights, prompt, tokens, context):
    """Figures of ``model`` on the simulated ``board`` with the accelerator ``config``, as a dict.

    The host's own program drives ``program``, of ``build_board``, over its serial line, and compares with the golden
    model. ``cycles_per_token`` is the mean over the decode steps; ``least_cycles_per_token`` is what the
    weights and the KV cache alone take at the memory's best; ``counters``: mean of the accelerator's over those steps;
    ``tokens_per_second`` is derived from the clock that the board asks for. Of a board with the engine alone these are
    the bytes on the line a decode step, and what the board's rate allows with them.

    Raises UserError where less than two tokens come, ToolError where the simulation ends by itself, CalledProcessError
    where the host does not come to the end, which it has told on standard error.
    """
    with TemporaryDirectory() as folder, SimulatedBoard(program) as simulated:
        toml, result = Path(folder) / "configuration.toml", Path(folder) / "run.json"
        toml.write_text(format_configuration(config))
        subprocess.run([sys.executable, "-c", "from tilewright.gen.cli import main; main()", "complete", str(model),
                        "--backend", "uart", "--port", simulated.port, "--baud", str(HOST_BAUD), "--config", toml,
                        "--weights", weights, "--prompt", prompt, "--tokens", str(tokens), "--context",
                        str(context), "--check", "--json", result], check=True, stdout=sys.__stderr__)
        told = json.loads(result.read_text())
    if len(told["tokens"]) < 2:
        raise UserError(f"prompt {prompt!r}: {told['end'] or 'the model ends behind one token'}; give another one")
    decode = [step["counters"] for step in told["steps"] if step["kind"] == "decode"]
    counters = {name: sum(step[name] for step in decode) / len(decode) for name in decode[0]}
    figures = {
        "board": board.name, "configuration": config.name, "weights": weights, "tokens": len(told["tokens"]),
        "equal": told["equal"], "words_compared": told["words_compared"], "clock_hz": board.frequency,
        "board_cycles": simulated.cycles, "counters": counters,
    }
    if not config.vector_lanes:
        return figures | {"baud": board.baud, "most_tokens_per_second": board.baud / 10 / max(counters.values())}
    memory_bytes = SDRAM_BYTES if isinstance(board.memory, SdramMemory) else config.bus_bytes
    share = told["bandwidth_share"] * config.bus_bytes / memory_bytes
    cycles = told["cycles_per_token"]
    return figures | {
        "cycles_per_token": cycles, "least_cycles_per_token": share * cycles, "share_of_memory": share,
        "bytes_per_token": share * cycles * memory_bytes, "tokens_per_second": board.frequency / cycles,
        "most_tokens_per_second": board.frequency / cycles / share,
    }
