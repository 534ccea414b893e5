# amaranth: UnusedElaboratable=no
"""VectorUnit against the golden model: a command's whole effect on scratchpad and activation buffer, word by word."""

import itertools

import numpy as np
import pytest

from tilewright.hw.commands import Dest, Operand, Reduce
from tilewright.hw.registers import ErrorCode
from tilewright.hw.vector.unit import REPEATED_GROUPS, VectorUnit

SEED = 20240611
ACTIVATION_ROWS, FP16_ROWS, ACTIVATION_DEPTH, MAX_ROW = 8, 4, 1024, 64  # of the bench in conftest.py
BOTH = ("int8", "fp16")
NONE, STREAM, ROW, IMMEDIATE = Operand
SHAPES = [(1, 4), (4, 4), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((1, 2), (2, 2), (2, 4)))]
WIDE = pytest.param(8, 8, marks=pytest.mark.slow)
ONE_AND_A_HALF = 0x3FC00000


@pytest.mark.parametrize("lanes, group_words", SHAPES)
def test_operand_kinds(check, lanes, group_words):
    cases = [dict(n=n, rows=2, dest=Dest.FP32, b_kind=b, c_kind=c, d_kind=d, b_immediate=ONE_AND_A_HALF,
                  c_immediate=0xC0490FDB, d_immediate=0x3E800000)
             for n, (b, c, d) in zip([5, 31, 33, 8, 1, 16, 7, 32], [
                 (NONE, NONE, NONE), (STREAM, NONE, ROW), (ROW, STREAM, IMMEDIATE), (IMMEDIATE, ROW, STREAM),
                 (STREAM, STREAM, STREAM), (ROW, ROW, ROW), (NONE, IMMEDIATE, NONE), (IMMEDIATE, STREAM, STREAM),
             ], strict=True)]
    check(lanes, group_words, cases)


@pytest.mark.parametrize("lanes, group_words", SHAPES)
def test_modifiers_and_functions(check, lanes, group_words):
    cases = [
        dict(n=34, dest=Dest.FP32, square=1, b_kind=STREAM),
        dict(n=34, dest=Dest.FP32, square=1, swap=1, c_kind=STREAM, c_negate=1),
        dict(n=12, rows=3, dest=Dest.FP32, swap=1, b_kind=STREAM, d_kind=STREAM),
        dict(n=9, dest=Dest.FP32, c_kind=ROW, c_negate=1),
        dict(n=3, dest=Dest.FP32, c_negate=1),
        *(dict(n=21, rows=2, dest=Dest.FP32, function=f, c_kind=STREAM, d_kind=STREAM) for f in (1, 2, 3, 4)),
    ]
    check(lanes, group_words, cases, seed=SEED + 1)


@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_reductions(check, lanes, group_words):
    cases = [dict(n=n, rows=rows, reduce=reduce, dest=dest, square=square, function=function)
             for n, rows, reduce, dest, square, function in (
                 (1, 3, Reduce.SUM, Dest.NONE, 0, 0), (31, 2, Reduce.SUM, Dest.FP32, 1, 0),
                 (32, 2, Reduce.SUM, Dest.NONE, 1, 0), (33, 2, Reduce.SUM, Dest.ACTIVATION, 0, 1),
                 (172, 2, Reduce.SUM, Dest.PACKED, 0, 1), (1, 4, Reduce.MAX, Dest.FP32, 0, 0),
                 (33, 3, Reduce.MAX, Dest.NONE, 0, 0), (64, 2, Reduce.MAX, Dest.PACKED, 0, 0),
                 (1, 4, Reduce.ARGMAX, Dest.NONE, 0, 0), (45, 3, Reduce.ARGMAX, Dest.FP32, 1, 0))]
    cases += [dict(case, valid=20, valid_step=9) for case in cases if case["n"] > 20]
    check(lanes, group_words, cases, seed=SEED + 2)


@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_many_rows_of_sums(check, lanes, group_words):
    """Sums of several rows in work at once, each written between the rows' own words; other reductions before and
    behind."""
    dests = itertools.cycle((Dest.FP32, Dest.ACTIVATION, Dest.PACKED, Dest.NONE))
    cases = [dict(n=n, rows=rows, dest=next(dests), reduce=reduce)
             for n, rows, kinds in ((1, 9, 1), (5, 7, 2), (33, 5, 2), (70, 4, 1))
             for reduce in (Reduce.SUM, (Reduce.NONE, Reduce.MAX, Reduce.ARGMAX)[kinds])]
    cases += [dict(n=n, rows=6, dest=dest, reduce=Reduce.SUM)
              for n, dest in ((3, Dest.PACKED), (40, Dest.PACKED), (40, Dest.FP32), (8, Dest.FP32))]
    check(lanes, group_words, cases, seed=SEED + 8, groups=4096, stall=0.0)


@pytest.mark.parametrize("lanes, n, most", [(1, 64, 96), (4, 16, 21), (4, 64, 28), (4, 128, 41)])
def test_cycles_of_a_row_of_sums(check, lanes, n, most):
    """Cycles that a further row takes."""
    cases = [dict(n=n, rows=rows, dest=Dest.NONE, reduce=Reduce.SUM) for rows in (4, 10)]
    few, many = check(lanes, 4, cases, stall=0.0)
    assert many - few <= 6 * most


@pytest.mark.parametrize("lanes, group_words", SHAPES)
def test_row_groups(check, lanes, group_words):
    """Rows of a group share d, and a group's rows begin again at activation row 0."""
    cases = [dict(n=n, rows=rows, dest=dest, half=half, d_kind=d, group_rows=group_rows)
             for n, rows, group_rows, dest, half, d in (
                 (31, 6, 2, Dest.ACTIVATION, 0, STREAM), (40, 5, 1, Dest.ACTIVATION, 0, NONE),
                 (9, 7, 3, Dest.ACTIVATION, 1, STREAM), (33, 4, 4, Dest.ACTIVATION, 1, ROW),
                 (12, 8, 3, Dest.FP32, 0, STREAM), (5, 3, 3, Dest.FP32, 0, ROW), (64, 3, 1, Dest.PACKED, 0, STREAM))]
    check(lanes, group_words, cases, seed=SEED + 9, formats=BOTH)


@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_one_row_of_d_for_all_rows(check, lanes, group_words):
    """Rows of d that its buffer holds, one that it does not, and commands that use the buffer otherwise between."""
    most = REPEATED_GROUPS * group_words
    cases = [dict(n=n, rows=rows, dest=dest, d_kind=STREAM, d_stride=0, **fields)
             for n, rows, dest, fields in (
                 (1, 5, Dest.FP32, {}), (most, 3, Dest.FP32, {"b_kind": ROW}), (33, 4, Dest.ACTIVATION, {}),
                 (most + 1, 2, Dest.FP32, {}), (31, 6, Dest.PACKED, {"c_kind": STREAM}), (most - 1, 2, Dest.NONE, {}),
                 (2 * group_words, 9, Dest.FP32, {"square": 1}), (40, 1, Dest.FP32, {}))]
    others = [dict(n=9, rows=3, dest=Dest.FP32, d_kind=kind, d_immediate=ONE_AND_A_HALF)
              for kind in (STREAM, NONE, ROW, IMMEDIATE)]
    mixed = [case for pair in zip(cases, itertools.cycle(others), strict=False) for case in pair]
    for stall in (0.0, 0.6):
        check(lanes, group_words, mixed, seed=SEED + 10, groups=4096, stall=stall)


def test_cycles_where_rows_share_d(check):
    """A further row takes a cycle a group."""
    few, many = check(4, 4, [dict(n=128, rows=rows, dest=Dest.FP32, d_kind=STREAM, d_stride=0) for rows in (3, 11)],
                      groups=4096, stall=0.0)
    assert many - few <= 8 * 32


def ring_case(rng, n, rows):
    """A window of a ring of n positions, as a decoder's rows see it; it may go over the end, or begin before 0."""
    size, position = int(rng.integers(1, n + 1)), int(rng.integers(0, 3 * n))
    first = position - size + 1
    return dict(n=n, rows=rows, ring=n, valid=position % n + 1, first=(first % n if first > 0 else first) & 0xFFFF,
                valid_step=int(rng.random() < 0.8))


@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_masks(check, lanes, group_words):
    rng = np.random.default_rng(SEED + 5)
    cases = [dict(n=33, rows=3, valid=12, first=5, valid_step=7), dict(n=9, rows=2, valid=0),
             dict(n=9, rows=3, valid=1, first=0xFFFE, valid_step=1), dict(n=9, rows=3, valid=2, valid_step=0xFFFF),
             dict(n=7, rows=9, ring=7, valid=3, first=4, valid_step=1), dict(n=20, rows=2, ring=40, valid=3, first=30)]
    cases += [ring_case(rng, n, rows) for n, rows in (
        (1, 4), (5, 12), (8, 9), (33, 4), (40, 3), (9, 9), (7, 5), (13, 7), (4, 9))]
    kinds = ((Reduce.NONE, Dest.FP32), (Reduce.SUM, Dest.ACTIVATION), (Reduce.MAX, Dest.PACKED),
             (Reduce.ARGMAX, Dest.NONE))
    cases = [dict(case, reduce=reduce, dest=dest, d_kind=STREAM)
             for case, (reduce, dest) in zip(cases, itertools.cycle(kinds), strict=False)]
    check(lanes, group_words, cases, seed=SEED + 5, groups=4096)


@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_argmax_goes_on(check, lanes, group_words):
    parts = [dict(n=n, reduce=Reduce.ARGMAX, index=index & 0xFFFFFFFF, carry=carry, valid=valid)
             for index, n, carry, valid in (
        (-20, 33, 0, 33), (13, 50, 1, 50), (63, 9, 1, 0), (72, 1, 1, 1), (500, 40, 0, 40), (540, 3, 1, 2))]
    check(lanes, group_words, parts, seed=SEED + 6)


def test_argmax_takes_the_first_of_equal_ones(bench):
    """Two equal ones in a slot, in two slots, in two commands; and rows in which nothing is greater than -infinity."""
    for lanes in (1, 4):
        unit, memory = bench.make(lanes, 4, ("int8",)), bench.Memories(np.zeros((64, 4), np.uint32))
        memory.row(0, 12)[:] = [1, 5, 5, 1, 5, 5, 2, 2, 2, 2, 2, 2]
        memory.row(4, 8)[:] = -np.inf
        memory.row(8, 8)[:] = [-0.0, -1, 0, 0, 0, -0.0, -2, 0]
        common = dict(rows=1, valid=99, reduce=Reduce.ARGMAX, result_stride=1)
        commands = [dict(n=12, a=0, index=100, result=32), dict(n=12, a=0, index=112, result=33, carry=1),
                    dict(n=8, a=4, index=7, result=34), dict(n=8, a=4, index=15, result=35, carry=1),
                    dict(n=8, a=8, result=36), dict(n=8, rows=2, a=4, a_stride=4, index=3, result=37)]
        assert bench.Bench(unit, memory, rng=np.random.default_rng(SEED)).run([common | c for c in commands]) is None
        assert memory.words[32:39, 0].tolist() == [101, 101, 7, 7, 2, 3, 5]


@pytest.mark.parametrize("formats", [("fp16",), BOTH])
@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_half(check, lanes, group_words, formats):
    cases = [dict(n=n, rows=rows, dest=dest, half=1, b_kind=kind, **mask)
             for dest in (Dest.FP32, Dest.ACTIVATION)
             for n, rows, kind, mask in (
                 (1, 4, NONE, {}), (31, 2, STREAM, {}), (32, 1, NONE, {}), (34, 3, ROW, dict(valid=9, valid_step=13)))]
    cases += [dict(n=40, dest=Dest.FP32), dict(n=40, rows=2, reduce=Reduce.MAX, dest=Dest.FP32, half=1),
              dict(n=33, rows=2, reduce=Reduce.SUM, dest=Dest.ACTIVATION, half=1)]
    cases.insert(4, dict(n=40, target=512, target_stride=1))  # no element of it may become an activation of the next
    if formats == BOTH:
        cases[2:2] = [dict(n=33, rows=2, dest=Dest.ACTIVATION), dict(n=40, rows=2, dest=Dest.PACKED)]
    check(lanes, group_words, cases, seed=SEED + 7, formats=formats)


@pytest.mark.parametrize("lanes, group_words", [*SHAPES, WIDE])
def test_quantised(check, lanes, group_words):
    cases = [dict(n=n, rows=rows, dest=dest, row_scale=row_scale, scale_fp32=fp32, b_kind=kind)
             for dest in (Dest.ACTIVATION, Dest.PACKED)
             for n, rows, row_scale, fp32, kind in (
                 (1, 6, 0, 0, NONE), (31, 2, 0, 1, STREAM), (32, 2, 0, 0, NONE), (33, 4, 0, 1, ROW),
                 (64, 3, 1, 1, NONE), (172, 2, 0, 0, NONE), (8, 5, 1, 0, NONE))]
    cases += [dict(case, valid=7, valid_step=13) for case in cases if case["rows"] > 2]
    check(lanes, group_words, cases, seed=SEED + 3)


@pytest.mark.parametrize("lanes, group_words, latency, stall", [
    (1, 4, 1, 0.0), (4, 4, 3, 0.0), (4, 4, 3, 0.7), (2, 4, 2, 0.5)])
def test_long_rows(check, lanes, group_words, latency, stall):
    cases = [dict(n=576, dest=Dest.ACTIVATION, b_kind=ROW, d_kind=STREAM), dict(n=576, reduce=Reduce.SUM, square=1),
             dict(n=172, rows=2, dest=Dest.FP32, function=2, d_kind=STREAM)]
    check(lanes, group_words, cases, seed=SEED + 4, latency=latency, stall=stall)


@pytest.mark.slow
@pytest.mark.parametrize("lanes, group_words", [(1, 2), (1, 4), (2, 4), (4, 4), (4, 8), (8, 16)])
def test_random_commands(check, lanes, group_words):
    rng = np.random.default_rng(SEED + lanes + group_words)

    def case():
        c = {name: int(rng.integers(0, high)) for name, high in (
            ("b_kind", 4), ("c_kind", 4), ("d_kind", 4), ("square", 2), ("c_negate", 2), ("function", 5), ("reduce", 4),
            ("dest", 4), ("scale_fp32", 2))}
        c["half"] = int(c["dest"] != Dest.PACKED and rng.random() < 0.3)
        c["index"] = int(rng.integers(0, 1 << 32))
        c |= {f"{x}_immediate": int(rng.standard_normal(1).astype(np.float32).view(np.uint32)[0]) for x in "bcd"}
        c["n"] = int(rng.choice([1, 2, 31, 32, 33, 64, 172, int(rng.integers(1, 100))]))
        c["rows"] = int(rng.integers(1, 5 if c["n"] < 40 else 3))
        c["swap"] = int(c["n"] % 2 == 0 and rng.random() < 0.3)
        c["row_scale"] = int(c["n"] <= MAX_ROW and rng.random() < 0.3)
        if rng.random() < 0.4:
            c |= {"valid": int(rng.integers(0, c["n"] + 2)), "valid_step": int(rng.choice([0, 1, 5, 0xFFFF]))}
        elif rng.random() < 0.5:
            c |= ring_case(rng, c["n"], c["rows"])
        return c

    for latency, stall in ((1, 0.0), (3, 0.0), (2, 0.3), (12, 0.8)):
        check(lanes, group_words, [case() for _ in range(40)], seed=SEED + latency, groups=4096, latency=latency,
              stall=stall, formats=BOTH)


def test_same_place_is_read_before_it_is_written(bench):
    rng = np.random.default_rng(SEED)
    c = bench.place(rng, 4, n=100, dest=Dest.FP32, b_kind=IMMEDIATE, b_immediate=ONE_AND_A_HALF) | {"target": 3, "a": 3}
    memory = bench.Memories(bench.random_words(rng, 64, 4))
    expected = memory.copy()
    unit = VectorUnit(lanes=2, group_words=4, tables=(), activation_rows=1, max_row=64)
    assert bench.Bench(unit, memory, rng=rng).run([bench.encodable(c), bench.encodable(c)]) is None
    bench.expect(expected, c)
    bench.expect(expected, c)
    assert np.array_equal(memory.words, expected.words)


@pytest.mark.parametrize("change, code, formats", [(*case, BOTH) for case in [
    (dict(n=0), ErrorCode.BAD_FIELD),
    (dict(rows=0), ErrorCode.BAD_FIELD),
    (dict(function=5), ErrorCode.BAD_FIELD),
    (dict(dest=Dest.ACTIVATION, row_scale=1, n=65), ErrorCode.BAD_FIELD),
    (dict(dest=Dest.ACTIVATION, target=16), ErrorCode.BAD_FIELD),
    (dict(dest=Dest.ACTIVATION, group_stride=16), ErrorCode.BAD_FIELD),
    (dict(dest=Dest.ACTIVATION, target_stride=ACTIVATION_ROWS), ErrorCode.ACTIVATION_RANGE),
    (dict(dest=Dest.ACTIVATION, target_stride=ACTIVATION_ROWS - 1, rows=2, group_stride=ACTIVATION_DEPTH),
     ErrorCode.ACTIVATION_RANGE),
    (dict(dest=Dest.ACTIVATION, target_stride=ACTIVATION_ROWS - 1, rows=4 * ACTIVATION_ROWS, group_stride=0xFFE0),
     ErrorCode.ACTIVATION_RANGE),
    (dict(dest=Dest.ACTIVATION, target=ACTIVATION_DEPTH - 32, n=64), ErrorCode.ACTIVATION_RANGE),
    (dict(dest=Dest.ACTIVATION, rows=2 * ACTIVATION_ROWS, group_rows=ACTIVATION_ROWS + 1), ErrorCode.ACTIVATION_RANGE),
    (dict(a=64), ErrorCode.SCRATCHPAD_RANGE),
    (dict(target=60, n=40), ErrorCode.SCRATCHPAD_RANGE),
    (dict(dest=Dest.PACKED, half=1), ErrorCode.BAD_FIELD),
    (dict(dest=Dest.ACTIVATION, half=1, target_stride=FP16_ROWS), ErrorCode.ACTIVATION_RANGE),
    (dict(ring=9, valid=8, valid_step=2), ErrorCode.BAD_FIELD),
    (dict(ring=9, valid=10), ErrorCode.BAD_FIELD),
]] + [
    (dict(half=1), ErrorCode.BAD_FIELD, ("int8",)),
    (dict(dest=Dest.PACKED), ErrorCode.BAD_FIELD, ("fp16",)),
    (dict(dest=Dest.ACTIVATION), ErrorCode.BAD_FIELD, ("fp16",)),
])
def test_errors(bench, change, code, formats):
    rng = np.random.default_rng(SEED)
    unit = bench.make(2, 4, formats)
    good = dict(n=8, rows=1, valid=0xFFFF, dest=Dest.FP32, target=32)
    commands = bench.Bench(unit, bench.Memories(bench.random_words(rng, 64, 4)), rng=rng)
    assert commands.run([good, good | change]) == code
    assert len(commands.cycles) == 1


def test_swap_needs_pairs_in_a_group(bench):
    unit = VectorUnit(lanes=1, group_words=1, tables=(), activation_rows=1, max_row=32)
    rng = np.random.default_rng(SEED)
    commands = bench.Bench(unit, bench.Memories(bench.random_words(rng, 64, 1)), rng=rng)
    assert commands.run([dict(n=8, rows=1, swap=1)]) == ErrorCode.BAD_FIELD


@pytest.mark.parametrize("change, match", [
    (dict(lanes=3), "lanes = 3: must be a power of two"), (dict(lanes=16), "lanes = 16"),
    (dict(group_words=1), "group_words = 1: must be a power of two from 2"), (dict(max_row=48), "multiple of 32"),
    (dict(activation_rows=0), "activation_rows = 0"), (dict(multiply_dsps=5), "dsps"),
    (dict(formats=()), "formats = "), (dict(formats=("int2",)), "int8, fp16, int4"),
    (dict(fp16_rows=2), "fp16_rows = 2"),
    (dict(formats=("fp16",)), "fp16_rows = 0: must be above 0"),
])
def test_refusals(change, match):
    good = dict(lanes=2, group_words=4, tables=(), activation_rows=4, max_row=64)
    with pytest.raises(ValueError, match=match):
        VectorUnit(**good | change)
