"""The environment of Verilator: ccache is used where it is installed and can store, and nowhere else."""

import pytest

from tilewright.sim.verilator import environment


@pytest.fixture
def flags(tmp_path):
    """Function (what ``ccache --get-config`` prints and its exit code; None: not installed) -> MAKEFLAGS, as words."""
    def make(prints, code=0):
        tools = tmp_path / "tools"
        tools.mkdir()
        if prints is not None:
            (tools / "ccache").write_text(f"#!/bin/sh\necho {prints}\nexit {code}\n")
            (tools / "ccache").chmod(0o755)
        return environment({"PATH": str(tools)})["MAKEFLAGS"].split()
    return make


def test_ccache_with_a_folder(flags, tmp_path):
    assert "OBJCACHE=ccache" in flags(tmp_path)


def test_ccache_makes_its_folder(flags, tmp_path):
    assert "OBJCACHE=ccache" in flags(tmp_path / "cache" / "ccache")


def test_ccache_cannot_store(flags, tmp_path):
    (tmp_path / "file").touch()
    assert "OBJCACHE=ccache" not in flags(tmp_path / "file" / "ccache")


def test_ccache_is_too_old_to_tell(flags, tmp_path):
    assert "OBJCACHE=ccache" not in flags(tmp_path, code=1)


def test_no_ccache(flags):
    assert not any("ccache" in flag for flag in flags(None))
