"""Tokenizers as files of a package, whatever kind of file they came from."""

import json
from pathlib import Path

from tokenizers import Tokenizer as PackageModel

from tilewright.gen.errors import UserError
from tilewright.gen.piece_tokenizer import PieceTokenizer
from tilewright.gen.tokenizer import PackageTokenizer

__all__ = ["write_tokenizer", "read_tokenizer"]

_KINDS = {"package": PackageTokenizer, "pieces": PieceTokenizer}


def write_tokenizer(tokenizer, path):
    """Write a ``PackageTokenizer`` or ``PieceTokenizer`` as JSON; equal tokenizers give equal bytes."""
    kind = next(name for name, each in _KINDS.items() if type(tokenizer) is each)
    values = tokenizer.parameters()
    if kind == "package":
        values["model"] = json.loads(values["model"])
    else:
        values["pieces"] = [piece.decode("latin-1") for piece in values["pieces"]]   # a character for each byte
        values["scores"] = [float(score) for score in values["scores"]]
    Path(path).write_text(json.dumps({"kind": kind} | values, ensure_ascii=True) + "\n", encoding="utf-8")


def read_tokenizer(path):
    """The tokenizer in such a file; UserError if there is none."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        kind = _KINDS[values.pop("kind")]
        if kind is PackageTokenizer:
            values["model"] = PackageModel.from_str(json.dumps(values["model"]))
        else:
            values["pieces"] = [piece.encode("latin-1") for piece in values["pieces"]]
        return kind(**values)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; compile the model again") from None
    except Exception as error:  # the package raises Exception itself
        raise UserError(f"{path}: no tokenizer ({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
                        "compile the model again") from None
