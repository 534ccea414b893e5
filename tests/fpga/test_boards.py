"""Boards against the platforms of amaranth-boards, the parts and the presets."""

import pytest

from tilewright.fpga.boards import BOARDS
from tilewright.fpga.boards.board import BlockRamMemory, SdramMemory, SinglePortMemory
from tilewright.fpga.estimate import check_fits, estimate
from tilewright.fpga.flow import FLOWS
from tilewright.fpga.parts import PARTS
from tilewright.fpga.primitives.pll import PLLS, Pll, PllError
from tilewright.fpga.primitives.spram import SPRAM_DEPTH
from tilewright.gen.configuration import load_preset

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


@each_board
def test_part_is_the_platforms(board):
    platform, part = board.make_platform(), PARTS[board.part]
    if part.family == "ecp5":
        assert part.name == f"{platform.device}-{platform.speed}{platform.package}"
        assert part.device == (platform._nextpnr_device_options[platform.device], "--package",
                               platform._nextpnr_package_options[platform.package].upper(), "--speed", platform.speed)
    elif part.family == "ice40":
        assert part.name == f"{platform.device}-{platform.package}"
        assert part.device == ("--up5k", "--package", platform.package.lower())
    else:
        assert part.name == platform.part and platform.part in part.device
    assert part.family in FLOWS


@each_board
def test_platform_has_the_resources(board):
    resources = board.make_platform().resources
    leds = 2 if isinstance(board.memory, SinglePortMemory) else 4
    needed = {("uart", 0), *(("led", number) for number in range(leds))}
    if isinstance(board.memory, SdramMemory):
        needed.add(("sdram", 0))
    assert needed <= set(resources)


@each_board
def test_pll_makes_the_clock(board):
    platform = board.make_platform()
    assert board.baud * 4 <= board.frequency
    dividers = PLLS[PARTS[board.part].family].choose(platform.default_clk_frequency, board.frequency)
    assert dividers.frequency == pytest.approx(board.frequency, rel=1e-9)


@each_board
def test_preset_fits_by_the_estimate(board):
    config, part = board.load_configuration(), PARTS[board.part]
    count = estimate(config, board, part)
    assert count["dsp"] <= part.dsp and count["bram"] <= part.bram
    assert count["lut"] <= part.lut
    check_fits(config, board, part)


def test_memories_differ():
    assert {type(board.memory) for board in BOARDS.values()} == {SdramMemory, BlockRamMemory, SinglePortMemory}


def test_memory_of_the_engine_alone():
    """Half of it for weights, half as scratchpad."""
    for name in ("icebreaker", "tang-primer-20k"):
        assert BOARDS[name].memory.bytes == 2 * BOARDS[name].load_configuration().scratchpad_bytes
    assert BOARDS["icebreaker"].memory.bytes == 4 * SPRAM_DEPTH * 2


@pytest.mark.parametrize("preset, lut, dsp", [("small", 16780, 28), ("medium", 57153, 156)])
def test_estimate_is_near_the_synthesis(preset, lut, dsp):
    """Against tests/synth/history.csv."""
    board = BOARDS["ulx3s-85f"]
    count = estimate(load_preset(preset), board, PARTS[board.part])
    assert count["dsp"] == dsp
    assert 0.75 * lut < count["lut"] < 1.25 * lut


@pytest.mark.parametrize("family, oscillator, comparison", [
    ("ecp5", (400e6, 800e6), (10e6, 400e6)), ("gowin", (500e6, 1250e6), (3e6, 500e6)),
    ("ice40", (533e6, 1066e6), (10e6, 133e6))])
def test_pll_keeps_its_ranges(family, oscillator, comparison):
    made = 0
    for source in (12e6, 25e6, 27e6, 50e6):
        for megahertz in range(16, 110):
            try:
                dividers = PLLS[family].choose(source, megahertz * 1e6)
            except PllError as error:
                assert "nearest" in str(error)
                continue
            made += 1
            assert oscillator[0] <= dividers.oscillator <= oscillator[1]
            assert comparison[0] <= dividers.comparison <= comparison[1]
    assert made > 20


def test_pll_refuses_what_it_cannot_make():
    with pytest.raises(PllError, match="33.333 MHz: the PLL of GW2A cannot make it; the nearest are .* change"):
        Pll(family="gowin", input_frequency=27e6, frequency=33.333e6)
    with pytest.raises(ValueError, match="family = 'max10'"):
        Pll(family="max10", input_frequency=27e6, frequency=27e6)
