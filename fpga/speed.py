"""How fast a board tells a text: the whole board simulated, against what its memory, or its serial line, allows.

    python -m tilewright.fpga.speed ulx3s-85f --weights int8 --tokens 32 [--preset micro]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tilewright.gen.cli.output import write_json
from tilewright.gen.configuration import format_configuration, load_preset

from .board_simulation import SimulatedBoard, build_board
from .boards import find_board
from .boards.board import SdramMemory

__all__ = ["measure", "SDRAM_BYTES"]

SDRAM_BYTES = 2
"""The most that an SDRAM gives in a cycle; block RAM gives a beat."""
HOST_BAUD = 5_000
"""Below what the simulated line does in a second: the host's patience comes from it."""
PROMPT = "Once upon a time"


def measure(board, config, folder, *, model="stories260K", weights="int8", tokens=32, context=64, prompt=PROMPT):
    """Figures of ``model`` on the simulated ``board`` with the accelerator ``config``, as a dict.

    The host's own program drives the board over its serial line, and compares with the golden model. Builds and results
    go into ``folder``. ``cycles_per_token`` is the mean over the decode steps; ``least_cycles_per_token`` is what the
    weights and the KV cache alone take at the memory's best; ``counters``: mean of the accelerator's over those steps;
    ``tokens_per_second`` is derived from the clock that the board asks for. Of a board with the engine alone these are
    the bytes on the line a decode step, and what the board's rate allows with them.

    Raises ToolError where the board or the host fails.
    """
    folder = Path(folder)
    program = build_board(board, config, folder / config.sha256[:16])
    toml, result = folder / "configuration.toml", folder / f"{weights}.json"
    toml.write_text(format_configuration(config))
    with SimulatedBoard(program) as simulated:
        subprocess.run([sys.executable, "-c", "from tilewright.gen.cli import main; main()", "complete", str(model),
                        "--backend", "uart", "--port", simulated.port, "--baud", str(HOST_BAUD), "--config", toml,
                        "--weights", weights, "--prompt", prompt, "--tokens", str(tokens), "--context",
                        str(context), "--check", "--json", result], check=True, stdout=sys.stderr)
    told = json.loads(result.read_text())
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


def main():
    """The figures as JSON on standard output, and into a file of the folder."""
    parser = argparse.ArgumentParser(prog="python -m tilewright.fpga.speed", description=__doc__.splitlines()[0])
    parser.add_argument("board")
    parser.add_argument("--preset", help="another accelerator than the board's own")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--model", default="stories260K", help="as tilewright complete takes it")
    asked = parser.parse_args()
    board = find_board(asked.board)
    config = load_preset(asked.preset) if asked.preset else board.load_configuration()
    folder = Path("build/speed")
    figures = measure(board, config, folder / config.name, model=asked.model, weights=asked.weights,
                      tokens=asked.tokens, context=asked.context)
    write_json(folder / f"{board.name}-{config.name}-{asked.weights}.json", figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
