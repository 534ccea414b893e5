"""The soak of the FP16 units: a slice of all operands, and bugs that it has to find."""

import json
from functools import partial

import numpy as np
import pytest

from tilewright.sim import soak as module
from tilewright.sim.soak import BLOCK, OPERATIONS, STOP, soak

BLOCKS = 64  # 2^22 pairs


@pytest.fixture
def command(command):
    """Function arguments -> exit code, standard output, standard error of ``tilewright soak``."""
    return partial(command, "soak")


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_slice_is_equal_and_a_planted_bug_is_found(operation, tmp_path):
    heard = []
    found = soak(operation, folder=tmp_path, blocks=BLOCKS, planted=True)
    assert 0 < found.mismatches <= 2 * STOP and len(found.lines) == found.mismatches and found.checked < BLOCKS * BLOCK
    result = soak(operation, folder=tmp_path, blocks=BLOCKS, progress=heard.append)
    assert (result.checked, result.mismatches, result.lines) == (BLOCKS * BLOCK, 0, ())
    assert heard[-1] == BLOCKS


@pytest.mark.slow
def test_told_operands_are_those_that_differ(tmp_path):
    """A mismatch of the planted conversion, checked with NumPy."""
    for line in soak("convert", folder=tmp_path, blocks=2, jobs=1, planted=True).lines:
        high, low = line.split(":")[0].split()[-2:]
        got, expected = (int(word, 16) for word in line.split("FP16 ")[1].split(", expected "))
        x = np.array([int(high + low, 16)], np.uint32)
        with np.errstate(over="ignore"):
            assert x.view(np.float32).astype(np.float16).view(np.uint16)[0] == expected
            assert (x & ~np.uint32(7)).view(np.float32).astype(np.float16).view(np.uint16)[0] == got != expected


@pytest.mark.slow
def test_command(command, tmp_path, monkeypatch):
    """Exit code 0 and a summary; exit code 1 where the planted bug is none."""
    code, out, _ = command("convert", "--blocks", "4", "--json", "-o", "soak.json")
    summary = json.loads(out)
    assert code == 0 and summary == json.loads((tmp_path / "soak.json").read_text()) and summary["failures"] == []
    assert [(r["planted"], bool(r["mismatches"])) for r in summary["results"]] == [(True, True), (False, False)]
    monkeypatch.setattr(module, "LOST", 0)
    code, out, err = command("convert", "--blocks", "4", "-o", "soak.json")
    assert code == 1 and "NOT FOUND" in out and "convert: the planted bug was not found" in err


@pytest.mark.parametrize("arguments, message", [
    (["divide"], "operation 'divide': unknown; allowed are multiply, add, convert"),
    (["--blocks", "0"], "--blocks 0: must be from 1 to 65536"),
    (["--blocks", "4", "--jobs", "5"], "--jobs 5: must be from 1 to the number of blocks, 4"),
    (["-o", "/proc/soak.json"], "cannot be written"),
])
def test_mistakes_are_told_in_one_line(command, arguments, message):
    code, _, err = command(*arguments)
    assert code == 2 and message in err and err.count("\n") == 1
