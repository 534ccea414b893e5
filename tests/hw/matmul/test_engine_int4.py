# amaranth: UnusedElaboratable=no
"""The matmul engine with INT4 weights, beside INT8 and FP16, against golden.matmul: every output word, throughput,
errors."""

import numpy as np
import pytest

from tilewright.hw.matmul.engine import MatmulEngine
from tilewright.hw.registers import ErrorCode

BOTH = {"formats": ("int8", "int4")}
ALL = {"formats": ("int8", "int4", "fp16")}
TINY = {"rows": 2, "fp16_rows": 2, "lanes": 4, "accumulate_lanes": 1, "group_words": 1, "vector_lanes": 1,
        "pe_dsps": 2, **ALL}
SMALL = {"rows": 4, "lanes": 8, "accumulate_lanes": 1, "group_words": 2, "vector_lanes": 2, "pe_dsps": 12, **BOTH}
WIDE = {"rows": 4, "fp16_rows": 2, "lanes": 8, "accumulate_lanes": 4, "group_words": 2, "vector_lanes": 2,
        "pe_dsps": 16, **ALL}
STALLS = {"free": {}, "stalls": {"pause": 0.3, "hold": 0.6}, "bus": {"bus": 0.1, "hold": 0.2},
          "late_scales": {"pause": 0.05, "late": 0.93}, "slow_drain": {"hold": 0.85}}
QUICK = [name if name in ("stalls", "late_scales") else pytest.param(name, marks=pytest.mark.slow) for name in STALLS]
"""The quick tests stall everywhere, or starve of scales."""


def q4_0(Job, **fields):
    return Job(int4=True, **fields)


def q4_1(Job, **fields):
    return Job(int4=True, minimum=True, **fields)


def jobs(Job):
    """Both kinds in turn with INT8 between them; ragged, odd, one to three row groups, short blocks."""
    return [
        q4_1(Job, k=33, n=9, rows=5), q4_0(Job, k=33, n=9, rows=5), Job(k=33, n=9, rows=1),
        q4_0(Job, k=7, n=13, rows=1), q4_1(Job, k=7, n=13, rows=1), Job(k=8, n=4, rows=2, scaled=False),
        q4_1(Job, k=32, n=8, rows=4, extreme=True), q4_0(Job, k=32, n=8, rows=4, extreme=True),
        q4_1(Job, k=1, n=9, rows=3, slack=2), q4_0(Job, k=1, n=9, rows=1), q4_1(Job, k=172, n=10, rows=2),
        q4_1(Job, k=9, n=17, rows=4), q4_0(Job, k=67, n=10, rows=6), q4_1(Job, k=64, n=17, rows=4),
    ]


def mixed_jobs(Job):
    """The same with FP16 between them, one with two row groups."""
    return [job for i, job in enumerate(jobs(Job)) for job in (
        [job, Job(fp16=True, **({"k": 37, "rows": 3} if i == 3 else {"k": 5, "rows": 2}), n=6)] if i % 2 else [job])]


@pytest.mark.parametrize("stalls", QUICK)
def test_engine_equals_golden(Job, Bench, stalls):
    Bench(jobs=jobs(Job), seed=60, **STALLS[stalls], **SMALL).run()


@pytest.mark.parametrize("stalls", QUICK)
@pytest.mark.parametrize("sizes", [pytest.param(TINY, marks=pytest.mark.slow), WIDE], ids=["2x4", "4x8wide"])
def test_all_formats_equal_golden(Job, Bench, sizes, stalls):
    Bench(jobs=mixed_jobs(Job), seed=61, **STALLS[stalls], **sizes).run()


@pytest.mark.parametrize("stalls", QUICK)
def test_twice_the_lanes(Job, Bench, stalls):
    """Twice as many lanes as a beat has bytes: INT8 and FP16 take two beats for a reduction index."""
    Bench(jobs=mixed_jobs(Job), seed=65, **STALLS[stalls], **WIDE | {"width": 32}).run()


@pytest.mark.parametrize(("minimum", "least"), [(False, 32 / 36), (True, 32 / 40)])
def test_twice_the_lanes_eat_the_bus(Job, Bench, minimum, least):
    """One row: 32 beats of weights are eaten in 32 cycles, 4 of scales and 4 of minima beside."""
    bench = Bench(jobs=[Job(int4=True, minimum=minimum, k=576, n=24, rows=1)], seed=66, bus=0.0,
                  **SMALL | {"width": 32}).run()
    assert bench.utilisation >= 0.98 * least


@pytest.mark.parametrize(("minimum", "rows", "outputs", "least", "most"), [
    (False, 1, 1, 0.99, 1), (True, 1, 1, 0.99, 1),      # decode
    (False, 4, 1, 0.99, 1), (True, 4, 2, 0.99, 1),      # all rows; a minimum needs twice the steps
    (True, 4, 1, 0.49, 0.52),
])
def test_rate(Job, Bench, minimum, rows, outputs, least, most):
    """Array beats a cycle, from a bus that delivers a beat a cycle."""
    sizes = SMALL | {"accumulate_lanes": outputs}
    bench = Bench(jobs=[Job(int4=True, minimum=minimum, k=320, n=24, rows=rows)], seed=62, bus=0.0, **sizes).run()
    print(f"utilisation {bench.utilisation:.4f}")
    assert least <= bench.utilisation <= most


def test_replay_keeps_the_array_busy(Job, Bench):
    bench = Bench(jobs=[q4_0(Job, k=320, n=16, rows=12)], seed=63, **SMALL, words=8192).run()
    assert bench.utilisation >= 0.98


@pytest.mark.parametrize(("sizes", "change"), [
    (SMALL, {"scaled": False}), (SMALL, {"int4": False}), (SMALL | {"formats": ("int8",)}, {}),
])
def test_errors(Job, Bench, sizes, change):
    bench = Bench(jobs=[Job(k=40, n=6, rows=3), q4_1(Job, k=40, n=6, rows=4)], seed=64, depth=256, **sizes)
    for name, value in change.items():
        setattr(bench.jobs[1], name, value)
    bench.right = bench.jobs[:1]
    bench.run()
    assert bench.error == ErrorCode.BAD_FIELD and bench.done == 1
    own = np.arange(bench.memory.size) >= bench.jobs[1].dest * sizes["group_words"]
    assert np.array_equal(bench.memory[~own], bench.expected[~own])


def test_refusal():
    with pytest.raises(ValueError, match="formats must have int8 beside int4"):
        MatmulEngine(**TINY | {"formats": ("int4", "fp16")}, activation_depth=256)
