"""docs/commands.md is what the hardware's description says today."""

from pathlib import Path

from tilewright.gen.command_document import command_document
from tilewright.hw.commands import COMMANDS, HEADER
from tilewright.hw.registers import REGISTER_MAP, ErrorCode

DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"


def test_document_is_up_to_date():
    assert DOCUMENT.read_text() == command_document(), "run `make docs`"


def test_document_names_everything():
    text = command_document()
    for fields in (HEADER, *COMMANDS.values()):
        assert all(f"`{name}`" in text for name in fields)
    assert all(f"`{name}`" in text for name in REGISTER_MAP)
    assert all(code.name in text for code in ErrorCode)
