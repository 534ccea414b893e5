"""``tilewright complete --backend uart``: a published model on a board whose accelerator is the functional machine."""

import json
from pathlib import Path

import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.hw.registers import IDENTITY, REGISTER_MAP, VERSION
from tilewright.sim.machine import Machine

STORIES = Path(__file__).parents[4] / "shared/models/stories260K"


def offset(name):
    return REGISTER_MAP[name].offset


def install(board, config):
    """Make the board an accelerator of ``config``."""
    registers, machine = board.registers, Machine(config, function_tables(config.functions))
    registers |= {offset("identity"): IDENTITY, offset("version"): VERSION,
                  offset("config_hash"): int(config.sha256[:8], 16)}

    def written(at, value):
        if at == offset("control") and value & 1:
            places = [(registers[offset(f"region{i}_base_low")], registers[offset(f"region{i}_size")])
                      for i in range(3)]
            machine.regions[:3] = [board.memory[base:base + size] for base, size in places]
            machine.run(registers[offset("program")], tuple(registers[offset(f"argument{i}")] for i in range(2)))
            for i, (base, size) in enumerate(places):
                if registers[offset("writable")] >> i & 1:
                    board.memory[base:base + size] = machine.regions[i]
            registers[offset("status")], registers[offset("count_cycles_low")] = 0b010, 1000
            board.interrupt_after = 2
    board.register_written = written


@pytest.fixture
def stories(make_board):
    """A board with room for stories260K, of the preset micro."""
    with make_board(memory_bytes=4 << 20) as board:
        install(board, load_preset("micro"))
        yield board


def test_complete(stories, command, tmp_path):
    arguments = ["complete", STORIES / "stories260K.bin", "--backend", "uart", "--port", stories.port, "--preset",
                 "micro", "--context", 32, "--weights", "int8", "--tokens", 3, "--check", "--json"]
    texts = []
    for i in range(2):
        path = tmp_path / f"run{i}.json"
        code, out, err = command(*arguments, path)
        figures = json.loads(path.read_text())
        assert (code, figures["equal"], figures["differences"]) == (0, True, []), err
        assert figures["words_compared"] > 1500 and len(figures["tokens"]) == 3
        texts.append(out)
    assert texts[0] == texts[1] and len(texts[0]) > 3


def test_what_the_command_line_says(stories, command):
    model = ["complete", STORIES / "stories260K.bin"]
    uart = [*model, "--backend", "uart"]
    for arguments, message in (
            ([*model, "--port", "x"], "--port and --baud: --backend golden has none; add --backend uart"),
            (uart, "--backend uart: at which port? add --port"),
            ([*uart, "--port", "/dev/ttyMISSING"], "/dev/ttyMISSING: no such port"),
            ([*uart, "--port", stories.port, "--baud", 0], "--baud 0: must be above 0"),
            ([*uart, "--port", stories.port, "--preset", "small"], "config_hash = ")):
        code, out, err = command(*arguments)
        assert (code, out) == (2, ""), err
        assert message in err and err.startswith("tilewright: ") and err.count("\n") == 1


def test_a_memory_too_small_is_told_before_anything_is_loaded(make_board, command):
    """Image, KV cache and input and output have to fit, not the image alone."""
    model = ["complete", STORIES / "stories260K.bin", "--preset", "micro", "--weights", "int8", "--backend", "uart"]
    with make_board(memory_bytes=700 << 10) as board:
        install(board, load_preset("micro"))
        before = bytes(board.memory)
        code, out, err = command(*model, "--port", board.port, "--context", 512)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert "the board's memory has 716,800 bytes, " in err and "take a smaller model or context" in err
        assert bytes(board.memory) == before
