"""A whole board, down to its serial line and its SDRAM's pins: a trained model's text comes out of it."""

import json
import os
import time
from pathlib import Path

import pytest

from tilewright.fpga.board_simulation import SimulatedBoard, build_board
from tilewright.fpga.boards import find_board
from tilewright.fpga.link.protocol import Command, pack_request
from tilewright.gen.configuration import load_preset

ROOT = Path(__file__).parents[2]
STORIES = ROOT.parent / "shared/models/stories260K"
PROMPT = "Once upon a time"
BAUD = 20_000
"""What a simulated line does in a second, roughly: the host's patience comes from it."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    return build_board(find_board("ulx3s-85f"), load_preset("micro"), ROOT / "build/tests/board-micro")


@pytest.fixture
def complete(command, tmp_path):
    """Function (port, options): runs ``tilewright complete`` on the board; (exit code, text, messages, figures)."""
    def run(port, *options, preset="micro"):
        path = tmp_path / "run.json"
        code, out, err = command("complete", STORIES / "stories260K.bin", "--backend", "uart", "--port", port, "--baud",
                                 BAUD, "--preset", preset, "--context", 64, "--json", path, *options)
        return code, out, err, json.loads(path.read_text()) if code == 0 else None
    return run


def scribble(port, data):
    """Put bytes on the line, as noise or a host that goes in the middle of a frame does."""
    line = os.open(port, os.O_WRONLY | os.O_NOCTTY)
    os.write(line, data)
    os.close(line)


def test_published_text_and_a_second_prompt_after_reset(program, complete):
    published = (STORIES / "expected_greedy.txt").read_text()
    with SimulatedBoard(program) as board:
        code, out, err, figures = complete(board.port, "--weights", "fp16", "--prompt", PROMPT, "--tokens", 32,
                                            "--check")
        assert (code, figures["equal"], len(figures["tokens"])) == (0, True, 32), err
        assert published.strip().startswith(PROMPT + out.rstrip("\n"))
        board.press_reset()
        code, _, err, figures = complete(board.port, "--weights", "int8", "--prompt", "The dog", "--tokens", 4,
                                              "--check")
        assert (code, figures["equal"]) == (0, True), err


def test_faults_on_the_line(program, complete):
    """Noise, half a frame from a host that went, an image for other hardware: an error in words at most, and the next
    command works."""
    with SimulatedBoard(program) as board:
        scribble(board.port, bytes(range(256)))
        frame = pack_request(Command.WRITE_MEMORY, 7, address=0x1000, payload=bytes(1024))
        scribble(board.port, frame[:500])
        code, out, err, _ = complete(board.port, "--weights", "int8", "--tokens", 1, preset="small")
        assert (code, out) == (2, "") and "config_hash" in err and err.count("\n") == 1
        scribble(board.port, frame[:-1] + b"?")
        time.sleep(0.1)
        code, _, err, figures = complete(board.port, "--weights", "int8", "--prompt", PROMPT, "--tokens", 3, "--check")
        assert (code, figures["equal"]) == (0, True), err
