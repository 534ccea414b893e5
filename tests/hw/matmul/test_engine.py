# amaranth: UnusedElaboratable=no
"""The matmul engine against golden.matmul: every output word, guard words, stalls on all sides, throughput, errors."""

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal

from tilewright.hw.matmul.engine import MatmulEngine
from tilewright.hw.registers import ErrorCode

TINY = {"rows": 2, "lanes": 4, "accumulate_lanes": 1, "group_words": 1, "vector_lanes": 1, "pe_dsps": 2}
SMALL = {"rows": 4, "lanes": 8, "accumulate_lanes": 1, "group_words": 2, "vector_lanes": 2, "pe_dsps": 12}
WIDE = {"rows": 4, "lanes": 8, "accumulate_lanes": 4, "group_words": 2, "vector_lanes": 2, "pe_dsps": 16}
MEDIUM = {"rows": 16, "lanes": 16, "accumulate_lanes": 8, "group_words": 4, "vector_lanes": 4, "pe_dsps": 104}


def jobs(Job):
    """Back to back, ragged, one to three row groups; short blocks follow each other."""
    return [
        Job(k=33, n=9, rows=5), Job(k=8, n=13, rows=1, scaled=False), Job(k=8, n=4, rows=2),
        Job(k=31, n=7, rows=3, slack=2),
        Job(k=32, n=8, rows=4, extreme=True), Job(k=64, n=5, rows=6, scaled=False), Job(k=1, n=3, rows=1),
        Job(k=65, n=6, rows=1, extreme=True), Job(k=172, n=10, rows=2), Job(k=9, n=26, rows=4), Job(k=40, n=17, rows=4),
        Job(k=34, n=17, rows=9), Job(k=32, n=9, rows=8), Job(k=65, n=17, rows=5),
    ]


@pytest.mark.parametrize("sizes", [TINY, SMALL, WIDE], ids=["2x4", "4x8", "4x8wide"])
@pytest.mark.parametrize("stalls", [
    {}, {"pause": 0.3, "hold": 0.6}, {"bus": 0.1, "hold": 0.2}, {"pause": 0.05, "late": 0.93}, {"hold": 0.85},
], ids=["free", "stalls", "bus", "late_scales", "slow_drain"])
def test_engine_equals_golden(Job, Bench, sizes, stalls):
    Bench(jobs=jobs(Job), seed=30, **stalls, **sizes).run()


def test_medium_engine_equals_golden(Job, Bench):
    Bench(jobs=[Job(k=40, n=19, rows=17), Job(k=32, n=33, rows=3, scaled=False)], seed=31, hold=0.2, **MEDIUM).run()


def test_replay_keeps_the_array_busy(Job, Bench):
    """No cycle between row groups, nor between the tiles that they replay."""
    for k in (32, 64, 107):
        bench = Bench(jobs=[Job(k=k, n=24, rows=16)], seed=32, **WIDE).run()
        assert bench.utilisation == 1, k
    bench = Bench(jobs=[Job(k=320, n=24, rows=16)], seed=32, **SMALL, words=8192).run()   # a step for each beat
    print(f"utilisation {bench.utilisation:.4f}")
    assert bench.utilisation >= 0.995


def test_groups_wait_for_their_scales(Job, Bench):
    """A scale of a group's last block that comes after all beats is still taken for this group."""
    Bench(jobs=[Job(k=34, n=24, rows=12), Job(k=64, n=16, rows=8)], seed=39, late=0.985, **WIDE).run()


def test_decode_eats_the_bus(Job, Bench):
    """One row, scales in the stream: the array takes 32 beats in 34 cycles of the bus."""
    bench = Bench(jobs=[Job(k=576, n=16, rows=1), Job(k=64, n=32, rows=1)], seed=33, bus=0.0, **SMALL).run()
    print(f"utilisation {bench.utilisation:.4f}")
    assert bench.utilisation >= 0.98 * 32 / 34


def test_tiles_follow_each_other(Job, Bench):
    """No cycle between the tiles of a command with one row group."""
    bench = Bench(jobs=[Job(k=64, n=40, rows=2)], seed=38, **SMALL).run()
    assert bench.utilisation == 1


def test_commands_follow_each_other(Job, Bench):
    """Three idle cycles between commands at most, though their results still drain."""
    bench = Bench(jobs=[Job(k=64, n=8, rows=2, scaled=False) for _ in range(6)], seed=34, **SMALL).run()
    assert bench.last - bench.first + 1 - bench.took <= 3 * 5


@pytest.mark.parametrize(("change", "code"), [
    ({"k": 0}, ErrorCode.BAD_FIELD), ({"n": 0}, ErrorCode.BAD_FIELD), ({"rows": 0}, ErrorCode.BAD_FIELD),
    ({"activation": 16}, ErrorCode.BAD_FIELD), ({"group_stride": 40}, ErrorCode.BAD_FIELD),
    ({"activation": 256 - 32, "rows": 4}, ErrorCode.ACTIVATION_RANGE),
    ({"group_stride": 65504}, ErrorCode.ACTIVATION_RANGE),
    ({"k": 257}, ErrorCode.ACTIVATION_RANGE),
    ({"dest": 2040}, ErrorCode.SCRATCHPAD_RANGE), ({"stride": 65535}, ErrorCode.SCRATCHPAD_RANGE),
    ({"dest": 65535, "stride": 1}, ErrorCode.SCRATCHPAD_RANGE),
])
def test_errors(Job, Bench, change, code):
    """The command before the faulty one is finished, and nothing is written outside."""
    bench = Bench(jobs=[Job(k=40, n=6, rows=3), Job(k=40, n=6, rows=5)], seed=35, depth=256, **SMALL)
    for name, value in change.items():
        setattr(bench.jobs[1], name, value)
    bench.right = bench.jobs[:1]
    bench.run()
    assert bench.error == code and bench.done == 1
    own = np.arange(bench.memory.size) >= bench.jobs[1].dest * SMALL["group_words"]
    assert np.array_equal(bench.memory[~own], bench.expected[~own])


def test_a_fitting_command_raises_no_error(Job, Bench):
    """The last index and the last group in range."""
    bench = Bench(jobs=[Job(k=32, n=8, rows=8)], seed=36, depth=256, **SMALL)
    job = bench.jobs[0]
    job.activation, job.dest = 192, 2048 - 8 * 4
    bench.run()


def test_reset_in_the_middle_leaves_nothing_behind(Job, Bench):
    """As the parent does on abort: after a reset in mid-block the next command's sums are right."""
    bench = Bench(jobs=[Job(k=64, n=8, rows=2)], seed=37, **SMALL)
    reset, commands = Signal(), bench.commands

    async def interrupted(ctx):
        await bench.write_activations(ctx)
        ctx.set(bench.dut.command.payload.as_value(), bench.jobs[0].command)
        ctx.set(bench.dut.command.valid, 1)
        await ctx.tick().until(bench.dut.command.ready)
        ctx.set(bench.dut.command.valid, 0)
        await ctx.tick().repeat(60)
        assert bench.took > 32
        ctx.set(reset, 1)
        await ctx.tick().repeat(2)
        ctx.set(reset, 0)
        for half in (bench.beats, bench.scales):
            half.at, half.base, half.valid = 0, 0, False
        bench.took = 0
        await commands(ctx)

    bench.commands, bench.top = interrupted, ResetInserter(reset)(bench.dut)
    bench.run()


@pytest.mark.parametrize(("change", "message"), [
    ({"accumulate_lanes": 1, "rows": 8}, "accumulate_lanes must be at least rows \\* lanes / 32 = 2, not 1"),
    ({"group_words": 16}, "group_words must be at most lanes = 8, not 16"),
    ({"pe_dsps": 17}, "pe_dsps must be from 0 to rows \\* lanes / 2 = 16, not 17"),
])
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        MatmulEngine(**SMALL | change, activation_depth=256)
