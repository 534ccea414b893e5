"""Which kind of file a name or path is."""

from pathlib import Path

import pytest

from tilewright.gen.checkpoint import open_checkpoint
from tilewright.gen.checkpoint.gguf_file import GgufCheckpoint
from tilewright.gen.checkpoint.llama2c_file import Llama2cCheckpoint
from tilewright.gen.errors import UserError
from tilewright.gen.model import load_model

STORIES = Path(__file__).parents[4] / "shared/models/stories260K"


def refusal(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        open_checkpoint(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def stories(tmp_path, monkeypatch):
    if not (STORIES / "stories260K.bin").is_file():
        pytest.fail(f"{STORIES} is missing: the tests take stories260K from shared/ beside the checkout")
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))
    return STORIES


def test_known_names(smollm2, stories):
    opened = open_checkpoint("stories260k", progress=False)
    assert isinstance(opened, Llama2cCheckpoint)
    assert opened.architecture == load_model("stories260k").architecture
    assert opened.tokenizer().vocab == 512
    again = open_checkpoint("stories260K", stories, progress=False)
    assert again.path == opened.path


def test_paths(smollm2, stories, tmp_path):
    assert isinstance(open_checkpoint(smollm2.path), GgufCheckpoint)
    (tmp_path / "alone.bin").write_bytes((stories / "stories260K.bin").read_bytes())
    alone = open_checkpoint(str(tmp_path / "alone.bin"))
    with pytest.raises(UserError, match="the tokenizer is missing; put tok512.bin or tokenizer.bin beside it"):
        alone.tokenizer()
    given = open_checkpoint(tmp_path / "alone.bin", tokenizer=stories / "tok512.bin")
    assert given.tokenizer().prompt("Once upon a time") == [1, 403, 407, 261, 378]
    (tmp_path / "tokenizer.bin").write_bytes((stories / "tok512.bin").read_bytes())
    assert alone.tokenizer().vocab == 512


def test_refusals(tmp_path, stories):
    text = refusal("gpt-5")
    assert text.startswith("gpt-5: neither a known model nor a file or folder; known models: all-minilm-l6-v2, ")
    (tmp_path / "model.pt").write_bytes(b"PK")
    assert refusal(tmp_path / "model.pt") == (
        f"{tmp_path / 'model.pt'}: unknown kind of file; known are .gguf, .safetensors and .bin (llama2.c)")
    assert "goes with a known model's name" in refusal(tmp_path / "model.pt", "x")
    assert refusal(tmp_path) == f"{tmp_path / 'config.json'}: no such file"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert refusal(tmp_path / "model.safetensors") == f"{tmp_path / 'config.json'}: no such file"
    assert "no file of this model is known" in refusal("gemma-2b")
    assert refusal("stories260k", tmp_path, progress=False) == f"{tmp_path / 'stories260K.bin'}: no such file"
