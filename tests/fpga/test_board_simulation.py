"""A whole board, down to its serial line and its SDRAM's pins: a trained model's text comes out of it."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tilewright.fpga.board_simulation import SimulatedBoard, build_board
from tilewright.fpga.boards import find_board
from tilewright.fpga.link.protocol import Command, pack_request
from tilewright.fpga.speed import SDRAM_BYTES
from tilewright.gen.configuration import load_preset
from tilewright.hw.commands import COMMAND_BYTES

ROOT = Path(__file__).parents[2]
STORIES = ROOT.parent / "shared/models/stories260K"
PROMPT = "Once upon a time"
BAUD = 5_000
"""Below what a simulated line does in a second, beside other work: the host's patience comes from it."""
HANG_SECONDS = 300

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    return build_board(find_board("ulx3s-85f"), load_preset("micro"), ROOT / "build/tests/board-micro")


def arguments(port, preset="micro"):
    return ["complete", STORIES / "stories260K.bin", "--backend", "uart", "--port", port, "--baud", BAUD, "--preset",
            preset, "--context", 64]


@pytest.fixture
def complete(command, tmp_path):
    """Function (port, options): runs ``tilewright complete`` on the board; (exit code, text, messages, figures)."""
    def run(port, *options, preset="micro"):
        path = tmp_path / "run.json"
        code, out, err = command(*arguments(port, preset), "--json", path, *options)
        return code, out, err, json.loads(path.read_text()) if code == 0 else {"equal": None, "tokens": []}
    return run


def disturbed(port, act):
    """``act`` between two tokens of a run: the run's exit code and last line. One that hangs is killed."""
    words = map(str, [sys.executable, "-c", "from tilewright.gen.cli import main; main()", *arguments(port),
                      "--weights", "int8", "--prompt", PROMPT, "--tokens", 8, "--check"])
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        hang = threading.Timer(HANG_SECONDS, process.kill)
        hang.start()
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("decode") and act is not None:
                act()
                act = None
        hang.cancel()
    return process.returncode, lines[-1]


def scribble(port, data):
    """Put bytes on the line, as noise or a host that goes in the middle of a frame does."""
    line = os.open(port, os.O_WRONLY | os.O_NOCTTY)
    os.write(line, data)
    os.close(line)


def test_published_text_and_a_second_prompt_after_reset(program, complete):
    """The reset comes in the middle of a run; it is told to the host of that run, and to none after it."""
    published = (STORIES / "expected_greedy.txt").read_text()
    with SimulatedBoard(program) as board:
        code, out, err, figures = complete(board.port, "--weights", "fp16", "--prompt", PROMPT, "--tokens", 32,
                                            "--check")
        assert (code, figures["equal"], len(figures["tokens"])) == (0, True, 32), err
        assert published.strip().startswith(PROMPT + out.rstrip("\n"))
        code, last = disturbed(board.port, board.press_reset)
        assert code == 1 and "the board was reset" in last, last
        code, _, err, figures = complete(board.port, "--weights", "int8", "--prompt", "The dog", "--tokens", 4,
                                              "--check")
        assert (code, figures["equal"]) == (0, True), err


def test_faults(program, complete):
    """Noise, half a frame from a host that went, an image for other hardware; SDRAM that gets no refresh for a while
    and loses program, weights and keys in a run: an error in words at most, and the next command works."""
    with SimulatedBoard(program, decays=True) as board:
        scribble(board.port, bytes(range(256)))
        frame = pack_request(Command.WRITE_MEMORY, 7, address=0x1000, payload=bytes(1024))
        scribble(board.port, frame[:500])
        code, out, err, _ = complete(board.port, "--weights", "int8", "--tokens", 1, preset="small")
        assert (code, out) == (2, "") and "config_hash" in err and err.count("\n") == 1
        scribble(board.port, frame[:-1] + b"?")
        time.sleep(0.1)
        code, last = disturbed(board.port, board.starve_memory)
        assert code == 1, last
        code, _, err, figures = complete(board.port, "--weights", "int8", "--prompt", PROMPT, "--tokens", 3, "--check")
        assert (code, figures["equal"]) == (0, True), err
    assert board.decays >= 1


def test_commands_are_kept_for_the_next_token(command, tmp_path):
    """The first token's program is read, the next ones' but for what does not fit; with the same results."""
    board, result = find_board("icepi-zero"), tmp_path / "run.json"
    config = board.load_configuration()
    with SimulatedBoard(build_board(board, config, ROOT / "build/tests/board-icepi")) as simulated:
        code, _, _ = command(
            "complete", STORIES / "stories260K.bin", "--backend", "uart", "--port", simulated.port, "--baud", BAUD,
            "--config", ROOT / "fpga/boards/icepi_zero.toml", "--context", 64, "--weights", "int8", "--prompt", "Once",
            "--tokens", 5, "--check", "--json", result)     # all in the KV cache's first tile of 8 positions
    assert code == 0
    first, *others = [step["counters"]["read_beats"] for step in json.loads(result.read_text())["steps"]
                      if step["kind"] == "decode"]
    kept = (config.program_commands - 8) * COMMAND_BYTES // config.bus_bytes
    assert len(others) >= 3 and all(0.95 * kept < first - other <= kept for other in others), (first, others)


def test_a_model_in_block_ram_alone(command):
    """Image, KV cache and all else of stories260K fit into the part's block RAM with 48 positions, not with 64; a token
    takes less than half of the cycles in which an SDRAM gives its weights and keys."""
    board, folder, model = find_board("ulx3s-85f-on-chip"), ROOT / "build/tests/board-chip", STORIES / "stories260K.bin"
    config = board.load_configuration()
    code, out, err = command("speed", "--board", board.name, "--model", model, "--weights", "int4", "--context", 48,
                             "--tokens", 6, "--json", "-o", folder)
    assert code == 0, err
    figures = json.loads(out)
    assert figures["equal"] and figures["tokens"] == 6
    assert figures["bytes_per_token"] / SDRAM_BYTES > 2 * figures["cycles_per_token"]
    assert figures["tokens_per_second"] == board.frequency / figures["cycles_per_token"]
    with SimulatedBoard(build_board(board, config, folder / f"{board.name}-{config.sha256[:16]}")) as simulated:
        code, out, err = command(
            "complete", model, "--backend", "uart", "--port", simulated.port, "--baud", BAUD, "--config",
            ROOT / "fpga/boards/ulx3s_85f_on_chip.toml", "--weights", "int4", "--prompt", PROMPT, "--context", 64)
    assert (code, out) == (2, "") and f"the board's memory has {board.memory.bytes:,} bytes" in err
