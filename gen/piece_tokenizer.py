"""Tokenizers whose vocabulary has a score for each piece: GGUF's kind 'llama' (SentencePiece) and llama2.c's."""

import re
import struct
from pathlib import Path

from tilewright.gen.errors import UserError
from tilewright.gen.tokenizer import Tokenizer

__all__ = ["PieceTokenizer", "read_llama2c_tokenizer"]

_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")
_LLAMA2C_BOS, _LLAMA2C_EOS = 1, 2


class PieceTokenizer(Tokenizer):
    """Characters merged pair by pair: of all neighbours whose union is a piece, those with the best score first, the
    leftmost where scores are equal (llama2.c, ``encode``; llama.cpp, ``llm_tokenizer_spm``). A character that is no
    piece becomes its UTF-8 bytes.

    Parameters
    ----------
    pieces : list of bytes     with plain spaces; <0x0A> and the like are bytes
    scores : list of float
    special : collection of int    tokens that are matched as a whole where the text spells them, and are no merge's
                                   result
    hidden : collection of int     those of them that are no text; bos and eos are none either
    bos, eos : int or None
    space_prefix : bool        a text, and what follows a special token, gets a space in front
    begins : bool              ``prompt`` puts bos first
    """

    def __init__(self, pieces, scores, *, special=(), hidden=(), bos, eos, space_prefix=True, begins=True):
        self._pieces, self._scores, self.bos, self.eos = pieces, scores, bos, eos
        self._special, self._hidden = frozenset(special), frozenset(hidden) | {bos, eos}
        self._space_prefix, self._begins = space_prefix, begins
        untouched = self._special | self._hidden
        self._bytes = {}
        self._numbers = {}
        for number, piece in enumerate(pieces):
            if match := _BYTE.fullmatch(piece):
                self._bytes[int(match[1], 16)] = number
            elif number not in untouched:
                self._numbers.setdefault(piece, number)
        self._spellings = {pieces[number].decode("utf-8", "replace"): number for number in sorted(self._special)}
        spellings = sorted(filter(None, self._spellings), key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, spellings)) + ")") if spellings else None

    @property
    def vocab(self):
        return len(self._pieces)

    def encode(self, text):
        tokens = []
        for part in self._pattern.split(text) if self._pattern else [text]:
            if self._pattern and part in self._spellings:
                tokens.append(self._spellings[part])
            elif part:
                tokens += self._merged(self._characters(" " * self._space_prefix + part))
        return tokens

    def prompt(self, text):
        return [*([self.bos] if self._begins and self.bos is not None else []), *self.encode(text)]

    def decode(self, tokens, special=True):
        """As ``Tokenizer.decode``; the space in front of a text goes where it follows the token that begins."""
        parts, previous = [], None
        for token in tokens:
            piece = self._pieces[token]
            byte = _BYTE.fullmatch(piece)
            if byte:
                parts.append(bytes([int(byte[1], 16)]))
            elif special or token not in self._hidden:
                after_bos = self._space_prefix and previous == self.bos is not None
                parts.append(piece.removeprefix(b" ") if after_bos else piece)
            previous = token
        return b"".join(parts).decode("utf-8", errors="replace")

    def token(self, number):
        return self._pieces[number].decode("utf-8", "replace")

    def parameters(self):
        """What the constructor takes, by name."""
        return {"pieces": self._pieces, "scores": self._scores, "special": sorted(self._special),
                "hidden": sorted(self._hidden - {None}), "bos": self.bos, "eos": self.eos,
                "space_prefix": self._space_prefix, "begins": self._begins}

    def _characters(self, text):
        tokens = []
        for character in text:
            data = character.encode("utf-8", "surrogatepass")
            if data in self._numbers:
                tokens.append(self._numbers[data])
            elif all(byte in self._bytes for byte in data):
                tokens += [self._bytes[byte] for byte in data]
            else:
                raise UserError(f"text {character!r}: is not in the model's vocabulary; write it otherwise")
        return tokens

    def _merged(self, tokens):
        while True:
            best = None
            for at, (left, right) in enumerate(zip(tokens, tokens[1:], strict=False)):
                union = self._numbers.get(self._pieces[left] + self._pieces[right])
                if union is not None and (best is None or self._scores[union] > best[0]):
                    best = self._scores[union], at, union
            if best is None:
                return tokens
            _, at, union = best
            tokens[at:at + 2] = [union]


def read_llama2c_tokenizer(path, vocab):
    """The ``PieceTokenizer`` in a tokenizer.bin of llama2.c with ``vocab`` tokens, the model's number: the file does
    not say. UserError if the file is missing, cut off, or has another number of tokens."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; the tokenizer is missing")
    data, at, pieces, scores = path.read_bytes(), 4, [], []  # behind the longest piece's length
    for number in range(vocab):
        score, length = struct.unpack_from("<fi", data, at) if at + 8 <= len(data) else (0.0, -1)
        at += 8
        if length < 0 or at + length > len(data):
            raise UserError(f"{path}: ends within token {number} of the model's {vocab}")
        pieces.append(data[at:at + length])
        scores.append(score)
        at += length
    if at != len(data):
        raise UserError(f"{path}: goes on behind token {vocab - 1}, the last of the model's {vocab}")
    return PieceTokenizer(pieces, scores, bos=_LLAMA2C_BOS, eos=_LLAMA2C_EOS)
