"""Files that commands write: refused in one line before anything runs, nothing made by asking."""

import json

import pytest

from tilewright.gen.cli.output import check_writable, write_json, write_text
from tilewright.gen.errors import UserError


def test_asking_makes_nothing(tmp_path):
    (tmp_path / "kept").write_text("kept")
    for path in (tmp_path / "deep" / "file", tmp_path / "kept", None):
        check_writable(path)
    for path in (tmp_path / "deep", tmp_path):
        check_writable(path, is_folder=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept", "kept")]


def test_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for act in (check_writable, lambda path: write_text(path, "")):
        for path in (tmp_path, tmp_path / "file" / "below"):
            with pytest.raises(UserError, match=f"^{path}: cannot be written: .*; choose another$"):
                act(path)
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / "file", is_folder=True)


def test_folders_above_are_made(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"text": "caf\xe9"})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"text": "caf\xe9"}


@pytest.mark.parametrize("arguments", [
    ["evaluate", "stories260k", "--json", "/proc/out.json"], ["layers", "--json", "/proc/out.json"],
    ["embed", "text", "--json", "/proc/out.json"], ["complete", "stories260k", "--trace", "/proc/trace.json"],
    ["bench", "-o", "/proc/bench.json"],
])
def test_told_in_one_line_before_anything_runs(command, arguments):
    code, out, err = command(*arguments)
    assert (code, out, err) == (2, "", f"tilewright: {arguments[-1]}: cannot be written: No such file or directory; "
                                       "choose another\n")
