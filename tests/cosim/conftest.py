"""Builds of whole accelerators: Verilog once a session, simulators once for the same sources, whoever asks first."""

import functools
from pathlib import Path

import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.generate import build_top
from tilewright.gen.verilog import emit
from tilewright.sim import cosim

MEMORY_BYTES = 1 << 21
BUILDS = Path(__file__).parents[2] / "build" / "tests"


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory, request):
    """Folder of this session, the same one in all workers of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if hasattr(request.config, "workerinput") else own


@pytest.fixture(scope="session")
def generated(session_folder):
    """Function preset -> (config, path of its Verilog)."""
    @functools.cache
    def generate(preset):
        config = load_preset(preset)
        verilog = session_folder / f"{config.module_name}.v"
        with cosim.locked(session_folder / f"{preset}.lock"):
            if not verilog.exists():
                emit(build_top(config), name=config.module_name, path=verilog)
        return config, verilog
    return generate


@pytest.fixture(scope="session")
def shared_build():
    """Function as ``cosim.build``, but into the folder that keeps builds from session to session, with one size of
    memory for all jobs."""
    def build(config, verilog, folder, *, memory_bytes, simulator="verilator", waves=False):
        assert memory_bytes <= MEMORY_BYTES
        return cosim.build(config, verilog, BUILDS, memory_bytes=MEMORY_BYTES, simulator=simulator, waves=waves)
    return build


@pytest.fixture(scope="session")
def built(generated, shared_build):
    """Function (preset, simulator) -> (config, build folder)."""
    @functools.cache
    def build(preset, simulator):
        config, verilog = generated(preset)
        return config, shared_build(config, verilog, None, memory_bytes=MEMORY_BYTES, simulator=simulator)
    return build
