"""Compiled models on disk: what is read is what was written, the same bytes each time, and broken ones refused."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tilewright.gen.checkpoint import open_checkpoint
from tilewright.gen.compiler.model import CompiledModel
from tilewright.gen.configuration import load_preset
from tilewright.gen.errors import UserError
from tilewright.gen.package import compile_package, is_package, read_package, whole_model, write_package
from tilewright.gen.tokenizer import byte_level_bpe
from tilewright.gen.tokenizer_file import read_tokenizer, write_tokenizer

STORIES = Path(__file__).parents[3] / "shared/models/stories260K/stories260K.bin"
FILES = {"image.bin", "manifest.json", "tokenizer.json"}


@pytest.fixture(scope="module")
def checkpoint():
    if not STORIES.is_file():
        pytest.fail(f"{STORIES} is missing: the tests take stories260K from shared/ beside the checkout")
    return open_checkpoint(STORIES)


@pytest.fixture(scope="module")
def package(checkpoint):
    return compile_package(checkpoint, whole_model(checkpoint, "int8"), load_preset("micro"), name="stories",
                           weights="int8", kv="int8", context=40, with_errors=True)


@pytest.fixture
def folder(package, tmp_path):
    write_package(package, tmp_path / "deep" / "package")
    return tmp_path / "deep" / "package"


def test_what_is_read_is_what_was_written(package, folder):
    assert is_package(folder) and not is_package(folder.parent)
    found = read_package(folder, load_preset("micro"))
    for field in fields(CompiledModel):
        assert getattr(found.compiled, field.name) == getattr(package.compiled, field.name), field.name
    assert {label.text for label in found.compiled.labels.values()} >= {"embedding", "layer 4/attention", "lm_head"}
    for name in ("config", "architecture", "model", "weights", "kv", "tensors"):
        assert getattr(found, name) == getattr(package, name), name
    assert found.tokenizer.parameters() == package.tokenizer.parameters()
    assert found.tokenizer.prompt("Once upon") == package.tokenizer.prompt("Once upon")


def test_errors_of_rounding(package, checkpoint):
    """An entry for each matrix; INT8 in blocks of 32 is off by half a step of at most 1/127 of the block's largest."""
    by_name = {each["name"]: each for each in package.tensors}
    assert set(by_name) == {f"layers.{i}.{name}" for i in range(5) for name in checkpoint.architecture.layer(
        i).matrix_shapes} | {"embedding"}
    for name, each in by_name.items():
        assert (each["kind"], each["format"]) == ("F32", "int8")
        assert 0 < each["largest"] <= np.abs(checkpoint.tensor(name)).max() / 250 and 0 < each["relative"] < 0.02


@pytest.mark.parametrize("weights", ["int8", "fp16"])
def test_the_same_bytes_each_time(command, tmp_path, weights):
    for name in ("a", "b"):
        code, out, err = command("compile", STORIES, "-o", name, "--preset", "micro", "--weights", weights)
        assert (code, err) == (0, "") and "stories260K for micro" in out
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["weights"] == manifest["kv"] == weights and manifest["context"] == 512
    assert manifest["config_hash"] == load_preset("micro").sha256
    if weights == "fp16":
        assert max(each["relative"] for each in manifest["tensors"]) < 1e-3


def spoil(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def with_manifest(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("change, told", [
    (lambda f: spoil(f, "image.bin", lambda data: data[:-64]), "image.bin: has "),
    (lambda f: spoil(f, "image.bin", lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:]),
     "image.bin: SHA-256 is not the manifest's"),
    (lambda f: (f / "image.bin").unlink(), "image.bin: cannot be read: No such file"),
    (lambda f: (f / "manifest.json").unlink(), "manifest.json: cannot be read: No such file"),
    (lambda f: spoil(f, "manifest.json", lambda data: data[:-100]), "manifest.json: no manifest"),
    (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json: no manifest"),
    (lambda f: with_manifest(f, format=99), "format = 99: this version reads 2"),
    (lambda f: with_manifest(f, caches=[{}]), "manifest.json: corrupt manifest"),
    (lambda f: with_manifest(f, labels=[["x", 0]]), "manifest.json: corrupt manifest"),
    (lambda f: with_manifest(f, labels=[["x", 0, 1]]), "manifest.json: labels that are not the program's"),
    (lambda f: with_manifest(f, labels=[["x", 1 << 30, 1]]), "manifest.json: labels that are not the program's"),
    (lambda f: with_manifest(f, config_hash="0" * 64), "config_hash is not that of its configuration"),
    (lambda f: with_manifest(f, configuration={"name": "x"}), "manifest.json: corrupt manifest"),
    (lambda f: spoil(f, "tokenizer.json", lambda data: data[:-100]), "tokenizer.json: no tokenizer"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: cannot be read"),
])
def test_broken_packages_are_refused(folder, change, told):
    change(folder)
    with pytest.raises(UserError) as error:
        read_package(folder)
    assert told in str(error.value) and "compile the model again" in str(error.value) and "\n" not in str(error.value)


def test_another_configuration_is_refused(folder, command):
    with pytest.raises(UserError, match=r"compiled for configuration micro \([0-9a-f]{8}\), not for medium \("):
        read_package(folder, load_preset("medium"))
    code, out, err = command("complete", folder, "--preset", "medium")
    assert (code, out) == (2, "") and err.startswith("tilewright: ") and "not for medium" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments, told", [
    (["nowhere.bin"], "nowhere.bin: neither a known model nor a file"),
    ([STORIES, "--weights", "int3"], "--weights int3: no format of the machine; allowed are file, int8, fp16, int4\n"),
    ([STORIES, "--weights", "float32"], "--weights float32: no format of the machine; allowed are file, int8, fp16"),
    ([STORIES, "--kv", "int4"], "--kv int4: unknown; allowed are int8, fp16"),
    ([STORIES, "--context", "513"], "context = 513: is 1 more than the model's limit of 512"),
    ([STORIES, "--preset", "tiny"], "preset 'tiny': unknown"),
    ([STORIES, "--preset", "small", "--weights", "fp16"], "formats = ['int8'"),
    ([STORIES, "-o", "/proc/nowhere"], "/proc/nowhere: cannot be written"),
])
def test_mistakes_of_a_compile(command, tmp_path, arguments, told):
    code, out, err = command("compile", *arguments, *([] if "-o" in arguments else ["-o", "x"]))
    assert (code, out) == (2, "") and told in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_byte_level_tokenizer(tmp_path):
    characters = ["h", "e", "l", "o", "\u0120", "!"]
    tokenizer = byte_level_bpe(tokens=[*characters, "he", "<end>"], merges=["h e"], types=[1] * 7 + [3], pre="gpt-2",
                               limit=8, bos=None, eos=7, begins=False)
    write_tokenizer(tokenizer, tmp_path / "a.json")
    again = read_tokenizer(tmp_path / "a.json")
    write_tokenizer(again, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    text = "hello hello!<end>"
    assert again.encode(text) == tokenizer.encode(text) == [6, 2, 2, 3, 4, 6, 2, 2, 3, 5, 7]
    assert again.decode(again.encode(text)) == text and again.eos == 7
