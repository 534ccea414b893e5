"""``tilewright models`` as a user sees it, and docs/models.md."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

from tilewright.gen import cli
from tilewright.gen.model import known_models
from tilewright.gen.model_report import model_document, tensor_bytes

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture
def command(command, monkeypatch):
    """Function arguments -> exit code, standard output, standard error of ``tilewright models``."""
    monkeypatch.setenv("COLUMNS", "300")
    return partial(command, "models")


def entry(command, name, *arguments):
    code, out, err = command("--json", *arguments)
    assert (code, err) == (0, "")
    return next(values for values in json.loads(out)["models"] if values["name"] == name)


def test_document_is_up_to_date():
    assert DOCUMENT.read_text() == model_document(), "run `make docs`"


def test_all_are_listed(command):
    code, out, err = command()
    assert (code, err) == (0, "")
    assert all(out.count(name) == 3 for name in known_models()), "sizes, structure and what is lacking"
    for words in ("134,515,008", "LayerNorm with sub-norms", "RoPE on 20 of 80", "window 512 on 15 of 18 layers",
                  "norm after each residual", "GLU, GELU (tanh)", "bidirectional", "lm_head", "What medium lacks"):
        assert words in out
    found = json.loads(command("--config", "micro", "--json")[1])
    assert found["configuration"] == "micro"
    sizes = [values["parameters"] for values in found["models"]]
    assert len(sizes) == 14 and sizes == sorted(sizes)


def test_what_a_preset_lacks(command):
    gemma = entry(command, "gemma-2b", "--config", "small")
    assert {(lack["field"], lack["needed"]) for lack in gemma["lacks"] if lack["blocking"]} >= {
        ("max_head_dim", 256), ("activation_depth", 32768)}
    assert {lack["field"] for lack in gemma["lacks"] if not lack["blocking"]} == {"formats", "max_context"}
    assert gemma["contexts"] == {}
    out = command("--config", "small")[1]
    assert "max_head_dim = 256" in out and "context INT8" in out and "context FP16" not in out
    assert "weights and KV cache in FP16 need 'fp16'; add it" in out


def test_a_context_that_the_buffers_hold(command):
    code, out, err = command("smollm2-135m", "--config", "small")
    assert (code, err) == (0, "")
    assert re.search(r"small holds a context of [1-9][\d,]* in INT8, no more because: small: .* with a context of 4096 "
                     r"needs (scratchpad_bytes|activation_depth) = ", out)
    stories = entry(command, "stories260k", "--config", "micro")
    assert stories["contexts"] == {name: {"longest": 512, "limit": None} for name in ("int8", "fp16")}


def test_a_configuration_of_ones_own(command, tmp_path):
    preset = Path(cli.__file__).parents[1] / "presets" / "micro.toml"
    lines = [line if not line.startswith("functions") else 'functions = ["exp", "silu", "rsqrt"]'
             for line in preset.read_text().splitlines()]
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(lines))
    lacks = entry(command, "stories260k", "--config", str(path))["lacks"]
    assert [(lack["field"], lack["needed"]) for lack in lacks] == [("functions", "recip")]


def test_one_model(command):
    code, out, err = command("gemma3-270m", "--config", "large")
    assert (code, err) == (0, "")
    for words in ("Gemma 3 270M", "268,098,176", "262144 x 640", "layers.*.post_ffn_norm", "layers.*.q_norm"):
        assert words in out
    assert "large restricts: max_context = 8192: a context of up to 8192 is possible, the model's own is 32768" in out
    values = json.loads(command("phi-1.5", "--json")[1])
    tensors = {tensor["name"]: tensor for tensor in values["tensors"]}
    assert tensors["layers.*.up_proj"] == {
        "name": "layers.*.up_proj", "count": 24, "shape": [8192, 2048],
        "bytes": {"int8": 8192 * (2048 + 64 * 2), "fp16": 2 * 8192 * 2048}}
    assert tensors["lm_head_bias"] == {"name": "lm_head_bias", "count": 1, "shape": [51200],
                                       "bytes": {"int8": 204800, "fp16": 204800}}
    for weights in ("int8", "fp16"):
        assert sum(t["count"] * t["bytes"][weights] for t in values["tensors"]) == values["bytes"][weights]


def test_bytes():
    assert tensor_bytes((64, 172), "int8") == 64 * (172 + 6 * 2)  # 172 inputs are five blocks and a shorter one
    assert tensor_bytes((64, 172), "fp16") == 64 * 172 * 2
    assert tensor_bytes((172,), "int8") == 172 * 4


@pytest.mark.parametrize("arguments, message", [
    (["gpt-5"], "unknown model 'gpt-5'; known: all-minilm-l6-v2, dolly-v2-3b"),
    (["--config", "tiny"], "tiny: cannot be read: No such file or directory; give a TOML file or one of nano, micro"),
    (["--config", "."], ".: cannot be read"),
    (["--wrong"], "No such option"),
])
def test_mistakes_are_one_line(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tilewright: ") and err.count("\n") == 1 and message in err
