"""The board with the engine alone, down to its serial line: design and netlist under the host's own driver, and a
trained model whose products come out of it."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from tilewright.fpga.board_simulation import BIT_CYCLES, HDL, PATIENCE_CYCLES, SimulatedBoard, build_board
from tilewright.fpga.boards import find_board
from tilewright.fpga.direct_top import DirectTop
from tilewright.fpga.link.host import SerialTransport
from tilewright.fpga.netlist import ice40_netlist
from tilewright.gen.configuration import format_configuration
from tilewright.gen.direct import DirectDriver
from tilewright.gen.verilog import emit
from tilewright.sim.golden import a8
from tilewright.sim.golden.matmul import linear
from tilewright.sim.golden.weights import quantise
from tilewright.sim.loop import build_loop

FOLDER = Path(__file__).parents[2] / "build/tests/board-nano"
STORIES = Path(__file__).parents[3] / "shared/models/stories260K/stories260K.bin"
BAUD = 5_000
"""Below what a simulated line does in a second, beside other work: the host's patience comes from it."""
SEED = 71

pytestmark = pytest.mark.slow


def design(board, config):
    return build_board(board, config, FOLDER / board.name)


def netlist(board, config):
    """The program with the netlist in the design's place; its memories are the part's, in Yosys' models."""
    folder = FOLDER / "netlist"
    sizes = {"frequency": board.frequency, "baud": board.frequency // BIT_CYCLES, "patience": PATIENCE_CYCLES}
    folder.mkdir(parents=True, exist_ok=True)
    emit(DirectTop(config, family="ice40", **sizes), name="board", path=folder / "board.v")
    ice40_netlist(folder / "board.v", top="board", path=folder / "netlist.v")
    return build_loop(DirectTop(config, **sizes), HDL / "board_line.cpp", folder=folder,
                      defines={"BIT_CYCLES": BIT_CYCLES, "NO_SDRAM": 1}, top="board", hdl=[folder / "netlist.v"])


@pytest.mark.parametrize(("name", "make"), [("icebreaker", design), ("icebreaker", netlist),
                                           ("tang-primer-20k", design)])
def test_products_over_the_serial_line(name, make):
    """Several rows at once; the last block short; after a reset another, of one block and one row."""
    board = find_board(name)
    config, rng = board.load_configuration(), np.random.default_rng(SEED)
    print("seed", SEED)

    async def multiply(transport, m, n, k):
        x = rng.standard_normal((m, k)).astype(np.float32)
        weights = quantise(rng.standard_normal((n, k)).astype(np.float32))
        driver = DirectDriver(transport, config)
        await driver.check()
        got = await driver.linear(x, weights)
        assert np.array_equal(got.view(np.uint32), linear(*a8.quantise(x), *weights).view(np.uint32))

    with SimulatedBoard(make(board, config)) as simulated:
        with SerialTransport(simulated.port, baud=BAUD) as transport:
            assert transport.identity.clock_hz == board.frequency
            asyncio.run(multiply(transport, 3, 10, 200))
        simulated.press_reset()
        with SerialTransport(simulated.port, baud=BAUD) as transport:
            asyncio.run(multiply(transport, 1, 5, 32))


def test_a_trained_models_text(command, tmp_path):
    """Every word as the golden model's; then a reset, and a second prompt."""
    board = find_board("tang-primer-20k")
    config = board.load_configuration()
    (tmp_path / "own.toml").write_text(format_configuration(config))
    with SimulatedBoard(design(board, config)) as simulated:
        for prompt, tokens in (("Once upon a time", 3), ("Tom", 2)):
            code, out, err = command(
                "complete", STORIES, "--backend", "uart", "--port", simulated.port, "--baud", BAUD, "--config",
                "own.toml", "--prompt", prompt, "--tokens", tokens, "--context", 64, "--check", "--json", "run.json")
            figures = json.loads((tmp_path / "run.json").read_text())
            assert (code, figures["equal"], len(figures["tokens"])) == (0, True, tokens), err
            assert out.strip() and figures["words_compared"] > 512 * tokens
            simulated.press_reset()
