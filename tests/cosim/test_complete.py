"""Whole models on the generated Verilog: ``tilewright complete``, and the simulator as a device."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tilewright.gen.driver import Driver, ProgramError, Region
from tilewright.hw.registers import ErrorCode
from tilewright.sim.cosim import SimulationError
from tilewright.sim.layer_run import golden_tables
from tilewright.sim.transport import SimulatorTransport

STORIES = Path(__file__).parents[3] / "shared/models/stories260K"


@pytest.fixture(scope="module")
def published():
    for name in ("stories260K.bin", "tok512.bin", "expected_greedy.txt"):
        if not (STORIES / name).is_file():
            pytest.fail(f"{STORIES / name} is missing: the tests take stories260K from shared/ beside the checkout")
    # A space behind the token that begins a sequence is not part of the text.
    return (STORIES / "expected_greedy.txt").read_text().removeprefix(" ")


@pytest.fixture
def command(command, monkeypatch, shared_build):
    """``command``, with builds that are kept from session to session."""
    monkeypatch.setattr("tilewright.gen.simulation.build", shared_build)
    return command


def completed(command, tokens, **options):
    """Text and figures of stories260K on both back ends; all must be equal."""
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    code, out, err = command("complete", STORIES / "stories260K.bin", "--tokens", tokens, "--check", "--json",
                             "run.json", *arguments)
    figures = json.loads(Path("run.json").read_text())
    print(err)
    assert (code, figures["equal"], figures["differences"]) == (0, True, [])
    assert out == figures["text"] + "\n" and len(figures["tokens"]) == tokens
    assert figures["words_compared"] > 512 * tokens + 1000
    assert len(figures["steps"]) == tokens and figures["cycles"] > 0
    return figures


@pytest.mark.parametrize("weights", ["int8", "fp16"])
def test_first_words(command, published, weights):
    figures = completed(command, 8, preset="micro", weights=weights, context=32, top=3)
    assert len(figures["text"]) > 15 and published.startswith(figures["text"])
    assert [candidates[0][0] for candidates in figures["candidates"]] == figures["tokens"]
    assert all(a[1] >= b[1] >= c[1] for a, b, c in figures["candidates"])


def test_package_and_prompt(command):
    """A prompt of several portions on a package from disk, to the context's end: as the golden model."""
    prompt = "Once upon a time, there was a dog"
    model = STORIES / "stories260K.bin"
    common = ("--prompt", prompt, "--tokens", 30, "--json")
    code, expected, _ = command("complete", model, "--preset", "micro", "--weights", "int8", "--context", 24, *common,
                                "golden.json")
    assert code == 0
    assert command("compile", model, "-o", "package", "--preset", "micro", "--weights", "int8", "--context", 24)[0] == 0
    code, out, err = command("complete", "package", *common, "sim.json", "--trace", "trace.json")
    assert (code, out) == (0, expected) and len(expected) > 10
    golden, sim = (json.loads(Path(f"{name}.json").read_text()) for name in ("golden", "sim"))
    assert sim["tokens"] == golden["tokens"] and sim["prompt_tokens"] == golden["prompt_tokens"]
    assert len(sim["prompt_tokens"]) + len(sim["tokens"]) == 24 + 1 < len(sim["prompt_tokens"]) + 30
    names = {event["name"] for event in json.loads(Path("trace.json").read_text())["traceEvents"]}
    assert {"embedding", "lm_head", "layer 0/attention", "layer 4/o_proj"} <= names
    assert command("report", "trace.json")[0] == 0
    assert "do not fit into the context of 24" in sim["end"] and "prefill at 2, tokens: 2" in err


def test_difference(command, monkeypatch):
    """A golden model with one table a little off: exit code 1, and what differs."""
    def wrong(tables):
        tables = golden_tables(tables)
        rsqrt = tables["rsqrt"]
        return tables | {"rsqrt": rsqrt._replace(c0=rsqrt.c0 ^ 1 << 20)}

    monkeypatch.setattr("tilewright.gen.cli.job.golden_tables", wrong)
    code, out, err = command("complete", STORIES / "stories260K.bin", "--preset", "micro", "--weights", "int8",
                             "--context", 8, "--tokens", 2, "--check", "--json", "run.json")
    figures = json.loads(Path("run.json").read_text())
    assert code == 1 and figures["equal"] is False
    assert "logits behind position 0: " in err and "KV cache: " in err


@pytest.mark.slow
@pytest.mark.parametrize("weights, same", [("fp16", 10_000), ("int8", 175)])
def test_whole_story(command, published, weights, same):
    """The published text, token for token: all of it in FP16, its first characters in INT8."""
    figures = completed(command, 256, preset="medium", weights=weights)
    assert figures["text"][:same] == published[:same]


@pytest.mark.parametrize("arguments, told", [
    (["--weights", "float32"], "--weights float32: no format of the machine; allowed are file, int8, fp16, int4"),
    (["--backend", "board"], "--backend board: unknown; allowed are golden, sim"),
    (["--prompt", "Tom \u2603\ufe0f" * 300], "do not fit into the context of 512"),
    (["--context", 600], "context = 600: is 88 more than the model's limit"),
    (["--tokens", 0], "--tokens"),
    (["--preset", "nano", "--backend", "sim"], "nano: vector_lanes = 0: a build without vector unit and sequencer"),
    (["--preset", "nano", "--weights", "int4"], "layers.0.q_proj: nano multiplies by matrices in INT8 alone; take --w"),
])
def test_mistakes(command, tmp_path, arguments, told):
    code, out, err = command("complete", STORIES / "stories260K.bin", *arguments)
    assert (code, out) == (2, "") and told in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_runs_the_model_has_all_its_functions(command):
    """nano's engine has none; the golden model of it is that of any other preset."""
    texts = [command("complete", STORIES / "stories260K.bin", "--preset", preset, "--weights", "int8", "--tokens", 4)
             for preset in ("nano", "micro")]
    assert texts[0][:2] == texts[1][:2] and texts[0][0] == 0 and len(texts[0][1]) > 4


def test_package_without_golden_model(command):
    assert command("compile", STORIES / "stories260K.bin", "-o", "package", "--preset", "micro")[0] == 0
    code, out, err = command("complete", "package", "--check")
    assert (code, out) == (2, "") and "a package has no weights for the golden model" in err


# The simulator as a device.


def test_memory(built):
    """Bytes at ragged places, small and in several pieces; what lies beside stays; zero at the start."""
    _, folder = built("micro", "verilator")
    data = bytes(range(256)) * 6000

    async def run(transport):
        await transport.load(0x1000, b"\xff" * 64)
        await transport.load(0x1006, b"abcde")
        assert await transport.fetch(0x1000, 16) == b"\xff" * 6 + b"abcde" + b"\xff" * 5
        assert await transport.fetch(0x1005, 7) == b"\xffabcde\xff"
        await transport.load(0x4003, data)
        assert await transport.fetch(0x4000, len(data) + 6) == bytes(3) + data + bytes(3)
        await transport.load((1 << 21) - 4, b"last")
        assert await transport.fetch((1 << 21) - 8, 8) == bytes(4) + b"last"

    with SimulatorTransport(folder) as transport:
        asyncio.run(run(transport))


def test_errors_of_a_program_and_idle_time(built, tmp_path):
    """A program that is none, twice; between the two the clock stands, as the counter of cycles would not."""
    config, folder = built("micro", "verilator")
    for entry in folder.iterdir():      # what other tests leave in the build for a while is not this one's
        if not entry.name.startswith("device-"):
            (tmp_path / entry.name).symlink_to(entry)
    folder = tmp_path
    waits, before = [], left_over(folder)

    async def run(transport):
        driver = Driver(transport)
        await driver.check(int(config.sha256[:8], 16))
        await driver.configure([Region(0, 4096)], watchdog=10_000)
        await transport.load(0, (250).to_bytes(64, "little"))
        for _ in range(2):
            with pytest.raises(ProgramError) as error:
                await driver.run(0)
            assert (error.value.code, error.value.address) == (ErrorCode.BAD_OPCODE, 0)
            used = processor_seconds(transport.pid)
            time.sleep(0.5)
            assert processor_seconds(transport.pid) - used < 0.1

    with SimulatorTransport(folder, waiting=waits.append) as transport:
        asyncio.run(run(transport))
    assert waits == [] and left_over(folder) == before


def processes(folder):
    """Numbers of the processes whose command line names the build folder."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def processor_seconds(leader):
    """Of all processes of the session that ``leader`` leads."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        try:
            values = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except OSError:
            continue
        if values and int(values[3]) == leader:
            ticks += int(values[11]) + int(values[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def left_over(folder):
    return set(Path(folder).glob("device-*"))


def gone(numbers, seconds=10):
    """Whether the processes end by themselves."""
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{number}").exists() for number in numbers) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(Path(f"/proc/{number}").exists() for number in numbers)


def test_simulator_that_dies(built):
    """One line that names the log."""
    _, folder = built("micro", "verilator")
    with pytest.raises(SimulationError) as error, SimulatorTransport(folder) as transport:
        os.killpg(transport.pid, signal.SIGKILL)
        asyncio.run(transport.read(0))
    line = str(error.value)
    assert line.startswith("the simulator ended early") and "\n" not in line
    assert Path(line.rpartition("see ")[2]).is_file()


def test_simulator_that_does_not_start(built, tmp_path):
    _, folder = built("micro", "verilator")
    (tmp_path / "build.json").write_text((folder / "build.json").read_text())
    with pytest.raises(SimulationError, match="the simulator did not start.*; see .*run.log"), \
            SimulatorTransport(tmp_path):
        pass


def test_host_that_dies(built):
    """The simulator notices that nobody asks any more."""
    _, folder = built("micro", "verilator")
    code = ("import sys, time; from tilewright.sim.transport import SimulatorTransport\n"
            "with SimulatorTransport(sys.argv[1]) as transport:\n"
            "    print(transport.pid, flush=True); time.sleep(60)")
    host = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    leader = int(host.stdout.readline())
    numbers = {number for number in processes(folder) if session_of(number) == leader}
    host.kill()
    host.communicate()
    assert leader in numbers and len(numbers) >= 2 and gone(numbers)


def session_of(number):
    try:
        return os.getsid(number)
    except ProcessLookupError:
        return None
