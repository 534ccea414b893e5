"""A generated part of a text file, between two lines that mark it."""

from tilewright.gen.errors import UserError

__all__ = ["marked"]


def marked(path, begin, end):
    """(text before the line ``begin``, text behind the line ``end``) of a file; None without a file.

    Raises UserError where the file does not have both.
    """
    if path is None:
        return None
    text = path.read_text() if path.exists() else ""
    if begin not in text or end not in text:
        raise UserError(f"{path}: has no lines {begin.strip()} and {end.strip()} to put the table between; add them")
    before, _, rest = text.partition(begin)
    return before, rest.partition(end)[2]
