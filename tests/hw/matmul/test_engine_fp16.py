# amaranth: UnusedElaboratable=no
"""The matmul engine in FP16, alone and beside INT8: every output word, stalls on all sides, throughput, errors."""

import numpy as np
import pytest

from tilewright.hw.matmul.engine import MatmulEngine
from tilewright.hw.registers import ErrorCode

BOTH = ("int8", "fp16")
TINY = {"formats": BOTH, "rows": 2, "fp16_rows": 2, "lanes": 4, "accumulate_lanes": 1, "group_words": 1,
        "vector_lanes": 1, "pe_dsps": 2}
WIDE = {"formats": BOTH, "rows": 4, "fp16_rows": 2, "lanes": 8, "accumulate_lanes": 8, "group_words": 2,
        "vector_lanes": 2, "pe_dsps": 16}
MEDIUM = {"formats": BOTH, "rows": 16, "fp16_rows": 2, "lanes": 16, "accumulate_lanes": 8, "group_words": 4,
          "vector_lanes": 4, "pe_dsps": 88}
ALONE = {"formats": ("fp16",), "rows": 4, "fp16_rows": 4, "lanes": 8, "accumulate_lanes": 2, "group_words": 2,
         "vector_lanes": 2, "pe_dsps": 0}
STALLS = {"free": {}, "stalls": {"pause": 0.3, "hold": 0.6}, "bus": {"bus": 0.1, "hold": 0.2},
          "late_scales": {"pause": 0.05, "late": 0.93}, "slow_drain": {"hold": 0.85}}


def fp16_jobs(Job):
    return [
        Job(fp16=True, k=33, n=9, rows=5), Job(fp16=True, k=8, n=13, rows=1), Job(fp16=True, k=1, n=7, rows=3),
        Job(fp16=True, k=2, n=5, rows=2, slack=2), Job(fp16=True, k=64, n=6, rows=4, special=True),
        Job(fp16=True, k=24, n=9, rows=3, cancel=True), Job(fp16=True, k=172, n=5, rows=2, extreme=True),
        Job(fp16=True, k=4, n=9, rows=2, special=True), Job(fp16=True, k=1, n=1, rows=1),
        Job(fp16=True, k=25, n=11, rows=2, cancel=True, special=True),
    ]


def mixed_jobs(Job):
    """All changes of format: long behind short, short behind long, one tile and many, groups that replay."""
    fp16, int8 = fp16_jobs(Job), [
        Job(k=33, n=9, rows=5), Job(k=1, n=3, rows=1), Job(k=8, n=13, rows=1, scaled=False), Job(k=64, n=5, rows=6),
        Job(k=1, n=9, rows=2), Job(k=40, n=17, rows=2, scaled=False), Job(k=8, n=4, rows=2), Job(k=2, n=8, rows=3),
        Job(k=65, n=6, rows=1), Job(k=9, n=9, rows=2)]
    order = [x for pair in zip(fp16, int8, strict=True) for x in pair]
    return [*order, Job(fp16=True, k=3, n=4, rows=1), Job(fp16=True, k=1, n=4, rows=1), Job(k=3, n=4, rows=1)]


@pytest.mark.parametrize("stalls", STALLS)
@pytest.mark.parametrize("sizes", [TINY, WIDE], ids=["2x4", "4x8wide"])
def test_mixed_formats_equal_golden(Job, Bench, sizes, stalls):
    Bench(jobs=mixed_jobs(Job), seed=50, **STALLS[stalls], **sizes).run()


@pytest.mark.parametrize("stalls", ["free", "stalls", "bus", "slow_drain"])
def test_fp16_alone_equals_golden(Job, Bench, stalls):
    Bench(jobs=fp16_jobs(Job), seed=51, **STALLS[stalls], **ALONE).run()


def test_medium_engine_equals_golden(Job, Bench):
    Bench(jobs=[Job(fp16=True, k=40, n=19, rows=3), Job(k=32, n=33, rows=3), Job(fp16=True, k=8, n=33, rows=2),
                Job(fp16=True, k=32, n=31, rows=1, special=True)], seed=52, hold=0.2, **MEDIUM).run()


@pytest.mark.slow
def test_long_reductions(Job, Bench):
    Bench(jobs=[Job(fp16=True, k=576, n=33, rows=3), Job(fp16=True, k=1024, n=31, rows=2, extreme=True),
                Job(k=576, n=31, rows=3), Job(fp16=True, k=576, n=33, rows=2, cancel=True)],
         seed=53, depth=8192, pause=0.1, hold=0.3, **WIDE).run()


@pytest.mark.parametrize("k", [16, 64, 172])
def test_tiles_follow_each_other(Job, Bench, k):
    """No cycle between the tiles of a command, with all rows in use and every result drained."""
    bench = Bench(jobs=[Job(fp16=True, k=k, n=24, rows=2)], seed=54, **WIDE).run()
    assert bench.utilisation == 1


@pytest.mark.parametrize("k", [1, 2, 8])
def test_short_reductions_wait_for_results(Job, Bench, k):
    """A tile takes its steps (8 here) and one cycle more, however few its beats."""
    bench = Bench(jobs=[Job(fp16=True, k=k, n=64, rows=2)], seed=57, **WIDE).run()
    print(f"{(bench.last - bench.first + 1) / 16:.2f} cycles a tile")
    assert bench.last - bench.first + 1 <= 16 * 9


def test_formats_follow_each_other(Job, Bench):
    """Three idle cycles between commands at most, though their results still drain and the format changes."""
    bench = Bench(jobs=[Job(fp16=i % 2 == 0, k=160, n=8, rows=2, scaled=False) for i in range(6)], seed=55,
                  **MEDIUM).run()
    assert bench.last - bench.first + 1 - bench.took <= 3 * 5


@pytest.mark.parametrize(("sizes", "change", "code"), [
    (WIDE, {"k": 0}, ErrorCode.BAD_FIELD), (WIDE, {"scaled": True}, ErrorCode.BAD_FIELD),
    (WIDE, {"group_stride": 40}, ErrorCode.BAD_FIELD), (WIDE, {"group_stride": 65504}, ErrorCode.ACTIVATION_RANGE),
    (WIDE, {"k": 257}, ErrorCode.ACTIVATION_RANGE), (WIDE, {"dest": 2040}, ErrorCode.SCRATCHPAD_RANGE),
    (ALONE, {"fp16": False}, ErrorCode.BAD_FIELD), (WIDE | {"formats": ("int8",), "fp16_rows": 0}, {"fp16": True},
                                                    ErrorCode.BAD_FIELD),
])
def test_errors(Job, Bench, sizes, change, code):
    """The command before the faulty one is finished, and nothing is written outside."""
    fp16 = "fp16" in sizes["formats"]
    bench = Bench(jobs=[Job(fp16=fp16, k=40, n=6, rows=3), Job(fp16=fp16, k=40, n=6, rows=4)], seed=56, depth=256,
                  **sizes)
    for name, value in change.items():
        setattr(bench.jobs[1], name, value)
    bench.right = bench.jobs[:1]
    bench.run()
    assert bench.error == code and bench.done == 1
    own = np.arange(bench.memory.size) >= bench.jobs[1].dest * sizes["group_words"]
    assert np.array_equal(bench.memory[~own], bench.expected[~own])


@pytest.mark.parametrize(("change", "message"), [
    ({"group_words": 8}, "group_words must be at most lanes / 2 = 4, not 8"),
    ({"fp16_rows": 0}, "fp16_rows must be above 0 with format fp16, else 0, not 0"),
    ({"formats": ("int8",)}, "fp16_rows must be above 0 with format fp16, else 0, not 2"),
    ({"formats": ("int2",)}, "formats must name at least one of int8, fp16, int4, and nothing else"),
])
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        MatmulEngine(**WIDE | change, activation_depth=256)
