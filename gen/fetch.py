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

_CHECKOUT = Path(__file__).parents[1]
_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte from a server


def cache_folder():
    """$TILEWRIGHT_CACHE, or ~/.cache/tilewright."""
    return Path(os.environ.get("TILEWRIGHT_CACHE") or Path.home() / ".cache" / "tilewright")


def fetch(model, source=None, cache=None, progress=True):
    """Path of the model's verified file in the cache; a file already there and whole is used as it is.

    A model of several files has a folder of its own in the cache, where the others lie beside that one.

    Parameters
    ----------
    model : Model          description that pins each file's size and SHA-256
    source : str or path   the file, or a wheel, zip archive or folder that holds all files, as a path or, but for a
                           folder, an http(s) URL. None: the cache, and failing that the model's own place: wheels from
                           PyPI through pip, or a folder beside the checkout
    cache : path           folder of verified files. None: ``cache_folder()``
    progress : bool        show bars on standard error

    Raises UserError for a source that is missing, truncated, corrupt or out of reach. The cache never holds
    a half file: work happens in a temporary folder beside it, and the result is moved into place.
    """
    if model.source is None:
        raise UserError(f"{model.name}: no file of this model is known; models that have one: "
                        f"{', '.join(name for name in known_models() if load_model(name).source)}")
    cache = Path(cache) if cache is not None else cache_folder()
    target = cache / model.name if model.source.beside else cache
    with _bars(progress) as bars, _os_errors(cache):
        if source is None and all((target / file.file).is_file() and _problem(target / file.file, file, bars) is None
                                  for file in model.source.files):
            return target / model.source.file
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache, ignore_cleanup_errors=True) as folder:
            folder = Path(folder)
            ready = [_ready(model, source, file, found, folder, bars)
                     for file, found in _obtain(model, source, folder, bars)]
            target.mkdir(exist_ok=True)
            for file, found in ready:
                os.replace(found, target / file.file)
    return target / model.source.file


def _ready(model, given, file, found, folder, bars):
    """(file, path of it, verified, in the temporary folder)."""
    if problem := _problem(found, file, bars):
        raise UserError(f"{model.name}: {file.file} from {given or _requirement(model.source)} is {problem}")
    if folder not in found.parents:  # the user's own file stays where it is
        found = _copy(found, folder / f"copy-{file.file}", bars)
    return file, found


def _requirement(source):
    if source.folder:
        return source.folder
    return ", ".join(f"{package}=={source.version}" for package in source.parts or (source.package,))


def _obtain(model, given, folder, bars):
    """(file, path) of each of the model's files, as ``given`` or its own place has them."""
    source = model.source
    if given is None and source.parts:
        wheels = [_pip_download(f"{package}=={source.version}", folder / f"pip{number}", bars)
                  for number, package in enumerate(source.parts)]
        return [(source, _joined(wheels, source, folder / "joined", bars))]
    if given is None and source.folder:
        place = _CHECKOUT.parent / source.folder
        if not place.is_dir():
            raise UserError(f"{model.name}: has to be fetched by hand, as it is in no package; give the folder with "
                            f"{' and '.join(file.file for file in source.files)} as --source")
        return _in_folder(place, source.files)
    if given is None:
        return _unpack(_pip_download(_requirement(source), folder / "pip", bars), source, folder, bars)
    scheme = urllib.parse.urlsplit(str(given)).scheme
    if scheme in ("http", "https"):
        return _unpack(_download(str(given), folder / "download", bars), source, folder, bars)
    if scheme and "://" in str(given):
        raise UserError(f"{given}: only http and https URLs can be fetched")
    path = Path(given).expanduser()
    if path.is_dir():
        return _in_folder(path, source.files)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return _unpack(path, source, folder, bars)


def _in_folder(place, files):
    for file in files:
        if not (place / file.file).is_file():
            raise UserError(f"{place / file.file}: no such file")
    return [(file, place / file.file) for file in files]


def _pip_download(requirement, arriving, bars):
    """Download the wheel with pip; its own dependencies, which would have to be compiled, are left out."""
    log = arriving.with_suffix(".log")
    arriving.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
               "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(arriving), requirement]
    task = bars.add_task(f"pip download {requirement}", total=None)
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
        raise UserError(f"pip download {requirement} failed: {errors[-1].removeprefix('ERROR: ')}; "
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
    """(file, path) of each of the model's files out of an archive; a path that is no archive is the file itself, with
    the others beside it."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return [(source, path), *_in_folder(path.parent, source.beside)]
    with _archive(path) as archive:
        member = _member(archive, path, source.file, lambda name: name == source.file)
        place = member.filename.rpartition("/")[0]
        found = []
        for number, file in enumerate(source.files):
            wanted = f"{place}/{file.file}".removeprefix("/")
            if wanted not in archive.namelist():
                raise UserError(f"{path.name}: holds no {wanted}")
            found.append((file, _extract(archive, archive.getinfo(wanted), folder / f"unpacked{number}", bars)))
    return found


def _joined(wheels, source, target, bars):
    """The file that the wheels hold in pieces."""
    target.touch()
    for path in wheels:
        with _archive(path) as archive:
            piece = _member(archive, path, f"{source.file}.part", lambda name: name.startswith(f"{source.file}.part"))
            _extract(archive, piece, target, bars)
    return target


def _member(archive, path, what, wanted):
    members = [m for m in archive.infolist() if wanted(m.filename.rpartition("/")[2])]
    if len(members) != 1:
        raise UserError(f"{path.name}: holds no {what}")
    return members[0]


def _extract(archive, member, target, bars):
    """Append a member to a file."""
    with archive.open(member) as reader, target.open("ab") as file:
        _pump(reader, file, bars, f"unpack {member.filename.rpartition('/')[2]}", member.file_size)
    return target


@contextmanager
def _archive(path):
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path.name}: truncated or corrupt archive ({error})") from None


def _copy(path, target, bars):
    with path.open("rb") as reader, target.open("wb") as writer:
        _pump(reader, writer, bars, f"copy {path.name}", path.stat().st_size)
    return target


def _problem(path, expected, bars):
    """What is wrong with a file, or None."""
    size = path.stat().st_size
    if size < expected.bytes:
        return f"truncated: {size} of {expected.bytes} bytes"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        _pump(file, digest, bars, f"verify {expected.file}", size)
    if digest.hexdigest() != expected.sha256:
        return f"corrupt or another file: SHA-256 {digest.hexdigest()[:16]}... instead of {expected.sha256[:16]}..."
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
