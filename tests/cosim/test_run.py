"""``tilewright run`` as a user sees it: figures, exit codes, one line for each mistake, nothing half-written."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tilewright.gen import cli
from tilewright.gen.architecture import Architecture
from tilewright.gen.functions import function_tables
from tilewright.hw.accelerator import Accelerator
from tilewright.sim.golden.weights import quantise

SEED = 11
KEYS = {"equal", "words_compared", "words_different", "cycles", "prefill", "decode", "float64", "simulation",
        "generation", "configuration", "memory", "context", "differences"}
PHASE_KEYS = {"tokens", "runs", "cycles", "macs", "mac_utilisation", "bandwidth_share", "bytes_moved", "bytes_least",
              "counters"}


class TinyModel:
    """A model of random weights in the place of a file."""

    architecture = Architecture(layers=2, max_context=64, hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=44, vocab=50,
                                rotary_dim=16, rope_pairing="interleaved")

    def layer(self, index, weights_format):
        assert weights_format == "int8"
        rng, shape = np.random.default_rng(SEED + index), self.architecture.layer(index)
        matrices = {name: quantise(rng.normal(size=size) / 6) for name, size in shape.matrix_shapes.items()}
        return matrices | {name: rng.normal(1, 0.1, size).astype(np.float32)
                           for name, size in shape.vector_sizes.items()}

    def embedding(self, tokens):
        return np.random.default_rng(SEED).normal(size=(len(tokens), self.architecture.hidden)).astype(np.float32)


@pytest.fixture
def tiny(monkeypatch):
    """Runs take the tiny model and five tokens, whatever the arguments say."""
    print(f"seed {SEED}")
    monkeypatch.setattr(cli.run, "model_and_tokens", lambda *_: (TinyModel(), [3, 4, 5, 6, 7]))


def refused(result, code=2):
    """The one line of a refusal."""
    got, out, err = result
    assert (got, out) == (code, "")
    assert err.startswith("tilewright: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def log_of(line):
    """Text of the log that a line names."""
    return Path(line.rpartition("see ")[2].strip()).read_text()


def test_equal(tiny, command, monkeypatch, shared_build, tmp_path):
    monkeypatch.setattr("tilewright.gen.simulation.build", shared_build)
    code, out, err = command("run", "--preset", "micro", "--layers", 1, "--context", 8, "--new-tokens", 1,
                             "--json", tmp_path / "deep" / "run.json", "--trace", tmp_path / "deep" / "trace.json")
    assert (code, err) == (0, "")
    names = {event["name"] for event in json.loads((tmp_path / "deep" / "trace.json").read_text())["traceEvents"]}
    assert {"prefill at 0", "decode at 4", "attention", "down_proj"} <= names
    assert "equal" in out and "words differ" not in out and "layer 1, on micro" in out
    figures = json.loads((tmp_path / "deep" / "run.json").read_text())
    check_figures(figures, prefill=4, decode=1)
    assert figures["configuration"] == "micro" and figures["context"] == 8
    assert figures["memory"] == {"read_latency": 40, "write_latency": 20}


def check_figures(figures, *, prefill, decode):
    assert set(figures) == KEYS
    assert figures["equal"] is True
    assert figures["words_different"] == 0 and figures["differences"] == []
    for name, tokens in (("prefill", prefill), ("decode", decode)):
        phase = figures[name]
        assert set(phase) == PHASE_KEYS
        assert phase["tokens"] == tokens and len(phase["counters"]) == phase["runs"]
        assert 0 < phase["mac_utilisation"] <= 1 and 0 < phase["bandwidth_share"] <= 1
        assert phase["bytes_moved"] >= phase["bytes_least"] > 0
    assert figures["cycles"] == figures["prefill"]["cycles"] + figures["decode"]["cycles"]
    assert figures["float64"]["cosine"] > 0.99


def wrong_rsqrt(config):
    """The accelerator with one table's first coefficients off, by enough to show behind a rounding to 8 bits."""
    tables = function_tables(config.functions)
    return Accelerator(config, tuple(
        replace(table, c0=tuple(c ^ 1 << 20 for c in table.c0)) if table.name == "rsqrt" else table
        for table in tables))


@pytest.mark.icarus
def test_difference(tiny, command, monkeypatch, tmp_path):
    """Hardware that computes something else: exit code 1, and where it differs."""
    monkeypatch.setattr("tilewright.gen.simulation.build_top", wrong_rsqrt)
    code, out, err = command("run", "--preset", "micro", "--context", 8, "--new-tokens", 0, "--simulator", "icarus",
                             "--json", "run.json")
    assert (code, err) == (1, "")
    figures = json.loads((tmp_path / "run.json").read_text())
    assert set(figures) == KEYS and figures["equal"] is False
    assert figures["words_different"] > 0
    assert f"{figures['words_different']} words differ" in out
    assert ", token " in out or "KV cache: got 0x" in out


def check_waves(path):
    data = path.read_bytes()
    assert data[0] == 0 and int.from_bytes(data[1:9], "big") == 329, "the header block of FST"
    assert len(data) > 100_000


@pytest.mark.icarus
def test_waves_of_icarus(tiny, command, tmp_path):
    code, _, err = command("run", "--preset", "micro", "--context", 8, "--new-tokens", 1, "--simulator", "icarus",
                           "--waves", tmp_path / "deep" / "run.fst")
    assert (code, err) == (0, "")
    check_waves(tmp_path / "deep" / "run.fst")


@pytest.mark.slow
def test_waves_of_verilator(tiny, command, monkeypatch, shared_build, tmp_path):
    if subprocess.run(["c++", "-E", "-x", "c++", "-"], input="#include <lz4.h>\n#include <zlib.h>\n", text=True,
                      capture_output=True).returncode:
        pytest.skip("Verilator's FST writer needs liblz4-dev and zlib1g-dev")
    monkeypatch.setattr("tilewright.gen.simulation.build", shared_build)
    code, _, err = command("run", "--preset", "micro", "--context", 8, "--new-tokens", 1, "--waves", "run.fst")
    assert (code, err) == (0, "")
    check_waves(tmp_path / "run.fst")


def test_waves_without_their_libraries(tiny, command, monkeypatch, tmp_path):
    """A compiler that finds no headers: one line that names what to install, before anything is built."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "c++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    line = refused(command("run", "--preset", "micro", "--context", 8, "--new-tokens", 1, "--waves", "run.fst"))
    assert "apt-get install liblz4-dev zlib1g-dev" in line
    assert not (tmp_path / "run.fst").exists()


def test_simulator_that_cannot_build(tiny, command, monkeypatch, tmp_path):
    def garbage(top, *, name, path):
        path.write_text(f"module {name}(\n")
    monkeypatch.setattr("tilewright.gen.simulation.emit", garbage)
    monkeypatch.setattr("tilewright.gen.simulation.build_top", lambda config: None)
    line = refused(command("run", "--preset", "micro", "--context", 8, "--json", "run.json"), code=1)
    assert "verilator could not build the simulation" in line
    assert "syntax error" in log_of(line)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.icarus
def test_simulator_that_ends_early(tiny, command, monkeypatch, tmp_path):
    """The job's image does not fit the memory: the simulation stops itself."""
    monkeypatch.setattr("tilewright.sim.layer_job.LayerJob.memory_bytes", 4096)
    line = refused(command("run", "--preset", "micro", "--context", 8, "--simulator", "icarus", "--json", "run.json"),
                   code=1)
    assert "axi_memory: image larger than BYTES = 4096" in log_of(line)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("arguments, message", [
    (["--preset", "tiny"], "preset 'tiny': unknown; allowed are nano, micro, small, medium, large"),
    (["--preset", "micro", "--config", "own.toml"], "give either --preset (nano, micro, small, medium"),
    (["--config", "nowhere.toml"], "nowhere.toml: cannot be read: No such file or directory"),
    (["--model", "gpt"], "unknown model 'gpt'; known: all-minilm-l6-v2, dolly-v2-3b"),
    (["--simulator", "modelsim"], "--simulator modelsim: unknown; allowed are verilator, icarus"),
    (["--source", "nowhere.gguf"], "nowhere.gguf: no such file"),
    (["--latency", "1"], "Invalid value for '--latency'"),
    (["--new-tokens", "-1"], "Invalid value for '--new-tokens'"),
    (["--wrong"], "No such option"),
])
def test_mistakes(command, tmp_path, arguments, message):
    assert message in refused(command("run", "--json", "run.json", *arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments, message", [
    (["--context", "8"], "prompt = 26 tokens: 18 more than the context of 8; give a shorter --prompt or a larger"),
    (["--prompt", "a " * 9000, "--context", "10000"], "more than the context of 8192"),
    (["--prompt", "Hi"], "prompt = 1 tokens: 4 of them are to be decoded and at least 1 must come before"),
    (["--prompt", "", "--new-tokens", "0"], "prompt = 0 tokens"),
    (["--layers", "30"], "--layers 30: must be the number of one layer, 0 to 29"),
    (["--layers", "0-3"], "--layers 0-3: must be the number of one layer, 0 to 29"),
    (["--preset", "micro"], "activation_depth = 2112, 1088 more than 1024; reduce the context or change "
                            "activation_depth; preset small holds it"),
    (["--context", "5000"], "context = 5000: is 904 more than max_context = 4096; preset large holds it"),
    (["--output", "/proc/nowhere"], "/proc/nowhere: cannot be written: No such file or directory; choose another"),
    (["--json", "/proc/run.json"], "/proc/run.json: cannot be written"),
    (["--waves", "."], ".: cannot be written: Is a directory"),
    (["--trace", "."], ".: cannot be written: Is a directory"),
])
def test_mistakes_that_need_the_model(smollm2, command, tmp_path, arguments, message):
    assert message in refused(command("run", "--json", "run.json", *arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["truncated", "corrupt", "truncated wheel"])
def test_broken_model_file(command, monkeypatch, tmp_path, smollm2_model, kind):
    """The cache stays empty, and the user's file as it is."""
    file = tmp_path / "model"
    with file.open("wb") as out:
        out.write(b"PK\x03\x04" if kind == "truncated wheel" else b"GGUF\x03\x00\x00\x00")
        out.truncate(smollm2_model.source.bytes if kind == "corrupt" else 4000)
    before = file.stat()
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))
    line = refused(command("run", "--source", file, "--json", "run.json"))
    assert kind.split()[0] in line
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model"]


def test_config_file_with_a_mistake(command, tmp_path):
    (tmp_path / "own.toml").write_text('name = "own"\nrows = 3\n')
    assert "own.toml: formats is missing; add formats" in refused(command("run", "--config", "own.toml"))


def test_mistake_in_a_process_of_its_own(tmp_path):
    result = subprocess.run([sys.executable, "-c", "from tilewright.gen.cli import main; main()", "run", "--preset",
                             "tiny"], capture_output=True, text=True, cwd=tmp_path)
    refused((result.returncode, result.stdout, result.stderr))


@pytest.mark.slow
def test_layer_of_the_real_model(smollm2, command, tmp_path):
    """What `make run` does, with a shorter text."""
    code, out, err = command("run", "--prompt", "The cat sat on the mat", "--new-tokens", 2, "--json", "run.json")
    assert (code, err) == (0, "")
    figures = json.loads((tmp_path / "run.json").read_text())
    check_figures(figures, prefill=4, decode=2)
    assert figures["configuration"] == "medium"
