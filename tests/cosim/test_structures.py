"""The structures of the known models on one simulated build, without a rebuild between them."""

import pytest

from tilewright.gen.functions import function_tables
from tilewright.sim import structures
from tilewright.sim.layer_run import golden_tables

DIFFERENT = ("phi-1.5", "kosmos-2", "dolly-v2-3b", "mistral-7b", "gemma3-270m", "all-minilm-l6-v2")
"""One norm for both halves, sub-norms, two norms, a window, four norms with local and global layers, an encoder."""


def prove_all(config, folder, cases):
    tables = golden_tables(function_tables(config.functions))
    outcomes = [structures.prove(config, folder, tables, case) for case in cases]
    print(structures.matrix(outcomes))
    assert all(outcome.words > 20_000 for outcome in outcomes)
    assert [(o.case.model, o.case.layer, o.case.number_format, o.problems) for o in outcomes if o.problems] == []
    return outcomes


def test_different_structures_on_one_build(built):
    config, folder = built("micro", "verilator")
    outcomes = prove_all(config, folder, structures.cases(DIFFERENT, prefill=13, encoder_tokens=5))
    assert len(outcomes) == 14   # two formats; Gemma 3 has two kinds of layer


@pytest.mark.slow
def test_every_model(built):
    config, folder = built("medium", "verilator")
    outcomes = prove_all(config, folder, structures.cases(structures.REDUCED, prefill=37, encoder_tokens=21))
    assert {outcome.case.model for outcome in outcomes} == set(structures.REDUCED)


def test_matrix_shows_what_differs():
    case = next(structures.cases(["stories260k"], prefill=1, encoder_tokens=1))
    good, bad = (structures.Outcome(case=case, words=10, cycles=1, problems=problems) for problems in ((), ("x",)))
    assert "equal, 10 words" in structures.matrix([good]) and "differs" not in structures.matrix([good])
    assert "**differs**" in structures.matrix([good, bad])


def test_models_are_all_there():
    from tilewright.gen.model import known_models
    assert set(structures.REDUCED) == set(known_models())
