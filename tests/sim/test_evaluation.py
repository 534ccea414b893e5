"""What ``tilewright evaluate`` tells: its figures by plain formulas, and those of a real model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen import cli
from tilewright.gen.functions import function_tables
from tilewright.sim import evaluation
from tilewright.sim.golden import layer, model, reference
from tilewright.sim.layer_run import golden_tables

SEED = 1813
VOCAB = 50
SHAPE = layer.LayerShape(hidden=40, heads=4, kv_heads=2, head_dim=10, ffn=70, norm_eps=1e-5, rope_theta=10000.0,
                         rope_pairing="half_split")


@pytest.fixture(scope="module")
def tables():
    return golden_tables(function_tables(("exp", "recip", "rsqrt", "silu")))


@pytest.fixture(scope="module")
def models():
    """A random model in FP16, and the same as float32."""
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    arrays = {key: rng.standard_normal(size) / np.sqrt(size[1]) for key, size in SHAPE.matrix_shapes.items()}
    arrays |= {key: rng.uniform(0.5, 1.5, size) for key, size in SHAPE.vector_sizes.items()}
    weights = layer.quantise_weights(SHAPE, arrays, "fp16")
    rows = (rng.standard_normal((VOCAB, SHAPE.hidden)) / 2).astype(np.float16)
    tensors = {"embedding": rows.astype(np.float32), "lm_head": rows,
               "final_norm": rng.uniform(0.5, 1.5, SHAPE.hidden).astype(np.float32)}
    made = model.TransformerModel(shapes=(SHAPE,), layers=(weights,), tensors=tensors)
    return made, replace(made, layers=(layer.dequantise_weights(weights),),
                         tensors=tensors | {"lm_head": rows.astype(np.float32)})


def tokens(count):
    return np.random.default_rng(SEED).integers(0, VOCAB, count)


def test_close_where_only_the_arithmetic_differs(models, tables):
    done = []
    found = evaluation.evaluate(*models, tokens(150), tables, kv_format="fp16", progress=done.append)
    assert done == [evaluation.CHUNK, 150]
    assert found.tokens == 150 and found.agreeing >= 148 and found.agreement == found.agreeing / 150
    assert 0 < found.kl <= found.kl_largest < 1e-4
    assert 1 - 1e-5 < found.cosine_least <= found.cosine <= 1
    assert found.perplexity == pytest.approx(found.reference_perplexity, rel=1e-3)
    coarser = evaluation.evaluate(*models, tokens(150), tables, kv_format="int8")
    assert coarser.kl > found.kl


def test_chunks_do_not_matter(models, tables, monkeypatch):
    whole = evaluation.evaluate(*models, tokens(20), tables, kv_format="int8").as_json()
    monkeypatch.setattr(evaluation, "CHUNK", 7)
    assert evaluation.evaluate(*models, tokens(20), tables, kv_format="int8").as_json() == pytest.approx(whole)


def test_figures_by_their_formulas(models, tables, monkeypatch):
    """Of logits that are given, token by token, by sums over the vocabulary."""
    rng = np.random.default_rng(SEED)
    numbers = tokens(9)
    got, expected = rng.standard_normal((2, 9, VOCAB)) * 3
    got[:4] = expected[:4] + 0.01
    got[4] = expected[4].max()  # all alike: the first counts
    got = got.astype(np.float32)
    monkeypatch.setattr(model, "logits", lambda *_: got)
    monkeypatch.setattr(reference, "logits", lambda *_: expected)
    found = evaluation.evaluate(*models, numbers, tables, kv_format="fp16")

    p, q = ([[float(np.exp(value)) / sum(np.exp(np.float64(row))) for value in np.float64(row)] for row in rows]
            for rows in (expected, got))
    kl = [sum(a * np.log(a / b) for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)]
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(got, expected, strict=True)]
    assert found.agreeing == sum(list(a).index(max(a)) == list(b).index(max(b)) for a, b in zip(got, expected,
                                                                                                strict=True))
    assert (found.kl, found.kl_largest) == pytest.approx((np.mean(kl), max(kl)))
    assert (found.cosine, found.cosine_least) == pytest.approx((np.mean(cosine), min(cosine)), rel=1e-6)
    for rows, perplexity in ((q, found.perplexity), (p, found.reference_perplexity)):
        chances = [row[token] for row, token in zip(rows, numbers[1:], strict=False)]
        assert perplexity == pytest.approx(np.prod(chances) ** (-1 / 8))


def test_one_token_has_no_perplexity(models, tables):
    found = evaluation.evaluate(*models, tokens(1), tables, kv_format="fp16")
    assert found.perplexity is None and found.reference_perplexity is None and found.tokens == 1


def test_bad_input_is_one_line(tmp_path, capsys):
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    for arguments, part in (
            (["smollm2-135m", "--weights", "float32"], "--weights float32: no format of the machine; allowed are"),
            (["smollm2-135m", "--kv", "int4"], "--kv int4: unknown"),
            (["smollm2-135m", "--text", "nowhere.txt"], "nowhere.txt: cannot be read: No such file or directory"),
            (["smollm2-135m", "--text", str(latin)], "is not UTF-8"),
            (["no-model"], "no-model: neither a known model nor a file")):
        with pytest.raises(SystemExit) as error:
            cli.main(["evaluate", *arguments])
        assert error.value.code == cli.USAGE_ERROR
        line = capsys.readouterr().err
        assert part in line and line.count("\n") == 1


@pytest.mark.slow
def test_a_real_model_is_good_enough(tmp_path):
    """SmolLM2-135M, its Q4_1 weights as they are, keys and values in INT8."""
    file = tmp_path / "evaluation.json"
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "smollm2-135m", "--tokens", "512", "--json", str(file)])
    assert end.value.code == 0
    found = json.loads(file.read_text())
    print(found)
    assert (found["weights"], found["kv"], found["tokens"]) == ("file", "int8", 512)
    assert found["agreement"] >= 0.94 and found["kl"] <= 0.010
    assert found["perplexity"] == pytest.approx(found["reference_perplexity"], rel=0.02)


@pytest.mark.slow
def test_too_few_tokens_are_refused(tmp_path, capsys):
    short = tmp_path / "short.txt"
    short.write_text("It is a truth")
    for arguments, part in ((["--text", str(short)], "--tokens 512: "), (["--tokens", "9000"], "limit of 8192")):
        with pytest.raises(SystemExit) as error:
            cli.main(["evaluate", "smollm2-135m", *arguments])
        assert error.value.code == cli.USAGE_ERROR and part in capsys.readouterr().err
