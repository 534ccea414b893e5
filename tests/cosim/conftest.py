"""Builds of whole accelerators, once for all benches of a session."""

import functools
import os
from pathlib import Path

import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.generate import build_top
from tilewright.gen.verilog import emit
from tilewright.sim import cosim

MEMORY_BYTES = 1 << 20
BUILDS = Path(__file__).parents[2] / "build" / "tests"


@functools.cache
def _built(preset, simulator):
    config = load_preset(preset)
    folder = BUILDS / f"{preset}-{os.getpid()}"
    verilog = folder / f"{config.module_name}.v"
    emit(build_top(config), name=config.module_name, path=verilog)
    return config, cosim.build(config, verilog, BUILDS, memory_bytes=MEMORY_BYTES, simulator=simulator)


@pytest.fixture
def built():
    """Function (preset, simulator) -> (config, build folder)."""
    return _built
