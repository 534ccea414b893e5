"""Files that commands write: whether they can be, told before a long run, and writing them."""

import json
from tempfile import TemporaryDirectory

from tilewright.gen.errors import UserError

__all__ = ["check_writable", "write_text", "write_json"]


def check_writable(path, *, is_folder=False):
    """Raise UserError unless the file, or files in the folder, can be written; what is not there yet is not made.

    A path of None stands for an option that is not given.
    """
    if path is None:
        return
    try:
        place = next(place for place in (path, *path.absolute().parents) if place.exists())
        if place == path and not is_folder:
            with open(path, "a"):
                pass
        else:
            with TemporaryDirectory(dir=place):
                pass
    except OSError as error:
        raise _refusal(path, error) from None


def write_text(path, text):
    """Write a file, and the folders above it where they are missing; UserError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refusal(path, error) from None


def write_json(path, values):
    """The values as a JSON file, written as by ``write_text``."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def _refusal(path, error):
    return UserError(f"{path}: cannot be written: {error.strerror}; choose another")
