"""The project's own rules: who may import whom, what is packaged, how long a file may be."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("hw", "gen", "sim", "fpga")
MAY_IMPORT = {
    "hw": {"hw"},
    "gen": {"hw", "gen", "sim"},
    "sim": {"hw", "gen", "sim"},
    "fpga": set(PARTS),
}
LONGEST = 450

SOURCES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
ALL = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]


def imports(path):
    """Absolute dotted names of all that the file imports, at its top and inside its functions."""
    package = ["tilewright", *path.relative_to(ROOT).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def forbidden(path):
    """The imports of ``path`` that the project's layers do not allow."""
    parts = path.relative_to(ROOT).parts
    wrong = []
    for name in imports(path):
        head, *rest = name.split(".")
        if head in PARTS:
            wrong.append(f"{name}: bare; it makes a second copy of each class, import tilewright.{name}")
        if parts[0] == "tests":
            continue
        if head == "tilewright" and rest and rest[0] not in MAY_IMPORT[parts[0]]:
            wrong.append(f"{name}: {parts[0]} does not import {rest[0]}")
        if parts[:2] == ("sim", "golden") and head != "numpy" and not name.startswith("tilewright.sim.golden") and \
                head not in {"collections", "dataclasses", "functools", "math", "typing"}:
            wrong.append(f"{name}: the golden model imports numpy and itself alone")
    return wrong


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path):
    assert forbidden(path) == []


def test_rules_catch_what_they_forbid(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    cases = {
        "hw/a.py": "from tilewright.gen import verilog", "hw/b.py": "import gen", "hw/fp/c.py": "from ... import sim",
        "gen/d.py": "def f():\n    from tilewright.fpga import boards", "tests/g.py": "from hw import config",
        "sim/golden/e.py": "from tilewright.hw import tables", "sim/golden/f.py": "import amaranth",
    }
    for name, text in cases.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        assert len(forbidden(path)) == 1, name


def test_packages_equal_the_tree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    found = {".".join(["tilewright", *path.parent.relative_to(ROOT).parts])
             for path in SOURCES if path.name == "__init__.py"}
    assert len(listed) == len(set(listed))
    assert set(listed) == found
    folders = {path.parent for path in SOURCES}
    assert all((folder / "__init__.py").exists() for folder in folders), "every folder with modules is a package"


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_length(path):
    assert len(path.read_text().splitlines()) <= LONGEST


def test_no_name_ends_in_underscore_and_digit():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "name", None) or getattr(node, "id", None) or getattr(node, "attr", None)
            if isinstance(name, str) and isinstance(getattr(node, "ctx", ast.Store()), ast.Store):
                assert not (name[-2:-1] == "_" and name[-1:].isdigit()), f"{path}: {name}"
