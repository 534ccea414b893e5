"""fpga/hdl/sdram_model.sv: commands at the shortest times that it allows, and that it catches each violation."""

import re
import subprocess
from pathlib import Path

import pytest

from tilewright.sim.cosim import locked
from tilewright.sim.verilator import environment

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "tests" / "sdram-script"
SOURCES = [HERE / "sdram_script.sv", ROOT / "fpga" / "hdl" / "sdram_model.sv"]
CODES = {"nop": 7, "active": 3, "read": 5, "write": 4, "precharge": 2, "refresh": 1, "mode": 0, "terminate": 6}
SIMULATORS = ["verilator", pytest.param("icarus", marks=pytest.mark.icarus)]

# Cycles of 10 ns, as sdram_script.sv has the times
RCD, RP, RAS, RC, RFC, RRD, WR, MRD = 3, 3, 5, 10, 7, 2, 2, 2
ALL = 1 << 10
BURST_OF_TWO, BURST_OF_EIGHT = 0x021, 0x023    # CAS latency 2


class Script(list):
    """Lines for sdram_script.sv; each command with the cycles until the next."""

    def __call__(self, name, cycles=1, *, ba=0, a=0, dqm=0, dq=0, enable=0, cke=1, cs_n=0, restart=0):
        self.append(f"{cycles} {cke:x} {cs_n:x} {CODES[name]:x} {ba:x} {a:x} {dqm:x} {dq:x} {enable:x} {restart}")
        return self


def initialised(*, mode=BURST_OF_TWO, refreshes=8, after=MRD):
    do = Script()("nop", 20, dqm=3)("precharge", RP, a=ALL, dqm=3)
    for _ in range(refreshes):
        do("refresh", RFC)
    return do("mode", after, a=mode)


def restarted(pause):
    return opened()("nop", 4, dqm=3, restart=1)("nop", pause, dqm=3)


def opened(**mode):
    return initialised(**mode)("active", RCD)


def refreshed(do, count, every):
    for _ in range(count):
        do("refresh", every)
    return do


def written(after, **mode):
    """A WRITE of two words or eight, tRAS being over, and then so many cycles."""
    return opened(**mode)("nop", RAS)("write", after, a=0, dq=1, enable=1)


VIOLATIONS = {
    "pause": (Script()("nop", 19, dqm=3)("precharge", 1, a=ALL, dqm=3), "command in the pause after power-up"),
    "dqm": (Script()("nop", 3, dqm=3)("nop", dqm=1), "DQM low before the first PRECHARGE"),
    "refresh_first": (Script()("nop", 20, dqm=3)("refresh", dqm=3), "REFRESH before PRECHARGE of all banks"),
    "mode_first": (Script()("nop", 20, dqm=3)("mode", a=BURST_OF_TWO, dqm=3), "mode register before PRECHARGE"),
    "one_refresh_less": (initialised(refreshes=7)("active"), "ACTIVE before the end of initialisation"),
    "no_mode": (Script(initialised()[:-1])("active"), "ACTIVE before the end of initialisation"),
    "mode_burst": (initialised(mode=0x027), "burst length not"),
    "mode_interleaved": (initialised(mode=0x029), "interleaved"),
    "mode_latency": (initialised(mode=0x011), "CAS latency not 2 or 3"),
    "mode_clock": (initialised(mode=0x031), "clock too fast for CAS latency 3"),
    "mode_reserved": (initialised(mode=0x221), "reserved bits, or single writes"),
    "mode_open": (opened()("nop", RAS)("mode", a=BURST_OF_TWO), "a bank is open"),
    "mrd": (initialised(after=MRD - 1)("active"), "tMRD"),
    "rfc": (initialised()("refresh", RFC - 1)("active"), "tRFC"),
    "rcd": (initialised()("active", RCD - 1)("read"), "tRCD"),
    "ras": (initialised()("active", RAS - 1)("precharge"), "tRAS"),
    "ras_all": (initialised()("active", RAS - 1)("precharge", a=ALL), "tRAS"),
    "ras_max": (initialised()("active", 302), "row open for longer"),
    "rp": (initialised()("active", RC)("precharge", RP - 1)("active"), "tRP"),
    "rp_refresh": (initialised()("active", RC)("precharge", RP - 1)("refresh"), "tRP"),
    "rp_first": (Script()("nop", 20, dqm=3)("precharge", RP - 1, a=ALL, dqm=3)("refresh"), "tRP"),
    "rc": (initialised()("active", RC - RP - 1)("precharge", RP)("active"), "tRC"),
    "rc_refresh": (initialised()("active", RC - RP - 1)("precharge", RP)("refresh"), "tRC before REFRESH"),
    "rrd": (initialised()("active", RRD - 1)("active", ba=1), "tRRD"),
    "wr": (written(1 + WR - 1)("precharge"), "tWR"),
    "wr_other_way": (written(1 + WR - 1)("precharge", a=ALL), "tWR"),
    "active_open": (opened()("nop", RC)("active"), "ACTIVE in an open bank"),
    "refresh_open": (opened()("nop", RC)("refresh"), "a bank is open"),
    "read_closed": (opened()("read", ba=1), "READ or WRITE in a closed bank"),
    "write_closed": (initialised()("write", enable=1), "READ or WRITE in a closed bank"),
    "read_in_read": (opened()("read")("read"), "READ or WRITE inside a burst"),
    "read_in_write": (written(1)("read"), "READ or WRITE inside a burst"),
    "precharge_in_write": (written(3, mode=BURST_OF_EIGHT)("precharge"), "tWR"),
    "precharge_in_read": (opened(mode=BURST_OF_EIGHT)("nop", RAS)("read", 6)("precharge"), "cuts a read burst short"),
    "auto_precharge": (opened()("read", a=ALL), "auto precharge"),
    "row": (initialised()("active", a=16), "row outside the part"),
    "column": (opened()("read", a=512), "column outside the part"),
    "terminate": (opened()("read", 2)("terminate"), "burst terminate"),
    "cke": (initialised()("nop", cke=0), "CKE low"),
    "late": (initialised()("nop", 460), "REFRESH is late"),
    "rows": (refreshed(initialised(), 8, 100), "not all rows refreshed"),
    "restart_pause": (restarted(19)("precharge", 1, a=ALL, dqm=3), "command in the pause"),
    "restart_dqm": (restarted(3)("nop", dqm=1), "DQM low before the first PRECHARGE"),
    "restart_active": (restarted(20)("precharge", RP, a=ALL, dqm=3)("active"), "before the end of initialisation"),
    "contention": (opened()("read", 2)("nop", 2, enable=1), "both sides drive DQ"),
    "contention_at_end": (opened()("read", 3)("write", 2, enable=1), "both sides drive DQ"),
    "not_driven": (opened()("write", 1, enable=1)("nop"), "write data is not driven"),
    "unknown": (Script(["1 x 0 7 0 0 3 0 0 0"]), "a pin is unknown"),
    "unknown_address": (Script(["20 1 0 7 0 0 3 0 0 0", "1 1 0 2 0 x 3 0 0 0"]), "an address pin is unknown"),
}
ONLY_ICARUS = {"unknown", "unknown_address"}    # Verilator has no X


@pytest.fixture(scope="module")
def play():
    """Function (simulator, script, folder, plusargs) -> (exit code, output)."""
    BUILD.mkdir(parents=True, exist_ok=True)
    commands = {"verilator": [BUILD / "verilator" / "script"], "icarus": ["vvp", "-n", BUILD / "script.vvp"]}
    builds = {
        "verilator": ["verilator", "--binary", "--timing", "-Wno-fatal", "-Wno-WIDTH", "--Mdir", BUILD / "verilator",
                      "-o", "script", "--top-module", "sdram_script", *SOURCES],
        "icarus": ["iverilog", "-g2012", "-o", BUILD / "script.vvp", *SOURCES],
    }
    built = set()

    def run(simulator, script, folder, *plusargs):
        with locked(BUILD / f"{simulator}.lock"):
            if simulator not in built:
                env = environment()
                env["MAKEFLAGS"] = env["MAKEFLAGS"].replace("-O2", "-O0")    # runs are short, compiling is not
                done = subprocess.run([str(word) for word in builds[simulator]], env=env, text=True,
                                      capture_output=True)
                assert done.returncode == 0, done.stderr[-3000:]
                built.add(simulator)
        (folder / "script.txt").write_text("".join(f"{line}\n" for line in script))
        words = [*map(str, commands[simulator]), f"+script={folder / 'script.txt'}", *plusargs]
        done = subprocess.run(words, text=True, capture_output=True)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize(("simulator", "case"), [
    *(("verilator", case) for case in VIOLATIONS if case not in ONLY_ICARUS),
    *(pytest.param("icarus", case, marks=pytest.mark.icarus) for case in VIOLATIONS),
])
def test_violation(play, simulator, case, tmp_path):
    script, text = VIOLATIONS[case]
    code, output = play(simulator, script, tmp_path)
    lines = [line for line in output.splitlines() if line.startswith("SDRAM VIOLATION in cycle")]
    assert code != 0 and text in lines[0] and "end of script" not in output, output
    # At the script's last command, not before: all that leads to it is allowed.
    last = sum(int(line.split()[0]) for line in script[:-1])
    assert int(re.search(r"cycle (\d+):", lines[0])[1]) >= last


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_shortest_times(play, simulator, tmp_path):
    """Each time at its shortest, data and masks: no violation, and the words that were written."""
    do = initialised()("active", RRD, ba=0, a=5)("active", RCD, ba=1, a=9)
    do("write", 1, ba=0, a=7, dq=0x1111, enable=1)("nop", 1, dq=0x2222, enable=1)    # wraps: columns 7 and 6
    do("write", 1, ba=1, a=8, dq=0x3333, enable=1)("nop", WR, dqm=1, dq=0x4444, enable=1)
    do("write", 1, ba=1, a=8, dqm=2, dq=0x5555, enable=1)("nop", 1, dqm=3, dq=0x6666, enable=1)
    do("read", 2, ba=0, a=6)("read", 1, ba=1, a=8)("nop", 4, dqm=0)
    start = sum(int(line.split()[0]) for line in do) - 7
    do("read", 1, ba=1, a=8, dqm=3)("nop", 5)    # masks the first word, as it comes two cycles later
    do("precharge", RP, ba=1)("active", RC, ba=1, a=9)("precharge", RP, a=ALL)("refresh", RFC)
    code, output = play(simulator, do, tmp_path)
    assert code == 0 and "end of script" in output, output
    words = {int(cycle): word for cycle, word in re.findall(r"read (\d+) (\w+)", output)}
    # On the pins half a cycle after the clock edge before the CAS latency: from two cycles after the command on
    # 0x1111 went to column 7, 0x2222 to column 6; byte 0 of the fourth word and all of the sixth were masked.
    assert [words[start + 2 + k] for k in range(3)] == ["2222", "1111", "3355"]
    assert words[start + 5].startswith("44")
    assert words[start + 9] != "3355" and words[start + 10].startswith("44") and len(words) == 6


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_restart(play, simulator, tmp_path):
    """In the middle of a write, with a row open: the initialisation anew, and then the row may be opened; what was
    written is lost."""
    do = opened()("write", 2, a=2, dq=0x1111, enable=1)("write", 1, a=4, dq=0x2222, enable=1)
    do("nop", 4, dqm=3, restart=1).extend(initialised())
    do("active", RCD)("read", 8, a=2)
    code, output = play(simulator, do, tmp_path)
    assert code == 0 and "end of script" in output, output
    words = re.findall(r"read \d+ (\w+)", output)
    assert len(words) == 2 and words[0] != "1111"


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_decay(play, simulator, tmp_path):
    """Late refreshes cost the contents, where the model is told so, and nothing after them."""
    do = opened()("write", 2, a=2, dq=0x1111, enable=1)("nop", RAS)("precharge", 500, a=ALL)("refresh", RFC)
    do("active", RCD)("read", 6, a=2)("write", 2, a=2, dq=0x1111, enable=1)("read", 6, a=2)
    code, output = play(simulator, do, tmp_path, "+sdram_decays")
    assert code == 0 and "SDRAM DECAY in cycle" in output and "VIOLATION" not in output, output
    words = re.findall(r"read \d+ (\w+)", output)
    assert len(words) == 4 and words[0] != "1111" and words[2] == "1111"
