"""Text to token numbers and back, by the vocabulary in the model's own files."""

import abc
import json

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as PackageModel

from tilewright.gen.errors import UserError

__all__ = ["Tokenizer", "TextStream", "PackageTokenizer", "byte_level_bpe", "tokenizer_from_folder", "CONTROL",
           "USER_DEFINED"]

CONTROL, USER_DEFINED = 3, 4
"""GGUF token types that are matched as a whole, before the text between them is cut up."""

_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
           r"\s*[\r\n]+|\s+(?!\S)|\s+")

_GPT2_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)  # with GPT-2's pattern
PRE_TOKENIZERS = {
    "gpt-2": _GPT2_BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2_BYTES]),
    "llama-bpe": pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
}
"""Values of tokenizer.ggml.pre that are understood: what cuts the text before BPE."""


class Tokenizer(abc.ABC):
    """Text to token numbers and back.

    Attributes
    ----------
    vocab : int           number of tokens
    bos, eos : int or None    the numbers that begin and end a sequence
    """

    bos = eos = None

    @property
    @abc.abstractmethod
    def vocab(self): ...

    @abc.abstractmethod
    def encode(self, text):
        """Token numbers of a text. Special tokens that it spells are recognised; none is added.

        UserError for a text that the vocabulary cannot express.
        """

    @abc.abstractmethod
    def prompt(self, text):
        """The same with what the model expects around a text, such as the token that begins a sequence."""

    @abc.abstractmethod
    def decode(self, tokens, special=True):
        """Text of token numbers, special tokens as the file spells them or left out. A character cut in two comes out
        as U+FFFD."""

    @abc.abstractmethod
    def token(self, number):
        """A token as the vocabulary writes it."""

    def stream(self, special=False):
        """A ``TextStream`` of tokens that come one at a time."""
        return TextStream(self, special)


class TextStream:
    """Text of tokens one at a time; what they give together is what ``decode`` gives for all.

    A character whose bytes are not all there yet waits for the rest.
    """

    def __init__(self, tokenizer, special):
        self._tokenizer, self._special, self._tokens, self._shown = tokenizer, special, [], 0

    def put(self, token):
        """Text that has become certain with this token, possibly none."""
        self._tokens.append(int(token))
        return self._beyond(self._text().rstrip("\ufffd"))

    def finish(self):
        """What still waits; a cut character as U+FFFD."""
        return self._beyond(self._text())

    def _text(self):
        return self._tokenizer.decode(self._tokens, self._special)

    def _beyond(self, text):
        new = text[self._shown:]
        self._shown = max(self._shown, len(text))
        return new


class PackageTokenizer(Tokenizer):
    """A tokenizer that the package ``tokenizers`` runs.

    Parameters
    ----------
    model : tokenizers.Tokenizer
    limit : int              rows of the model's embedding; a token beyond is refused
    bos, eos : int or None
    begins : bool            ``prompt`` puts bos first, unless the package's own template adds tokens
    exact : bool             every text must come back as it was: byte-level BPE
    """

    def __init__(self, model, *, limit, bos=None, eos=None, begins=False, exact=False):
        self._model, self._limit, self.bos, self.eos, self._begins, self._exact = model, limit, bos, eos, begins, exact
        self._unknown = getattr(model.model, "unk_token", None)

    @property
    def vocab(self):
        return self._model.get_vocab_size()

    def encode(self, text):
        return self._encoded(text, add_special_tokens=False)

    def prompt(self, text):
        tokens = self._encoded(text, add_special_tokens=True)
        return [self.bos, *tokens] if self._begins and self.bos is not None and tokens[:1] != [self.bos] else tokens

    def decode(self, tokens, special=True):
        return self._model.decode(list(tokens), skip_special_tokens=not special)

    def token(self, number):
        return self._model.id_to_token(number)

    def parameters(self):
        """What the constructor takes, by name, the model as its JSON text."""
        return {"model": self._model.to_str(), "limit": self._limit, "bos": self.bos, "eos": self.eos,
                "begins": self._begins, "exact": self._exact}

    def _encoded(self, text, add_special_tokens):
        encoding = self._model.encode(text, add_special_tokens=add_special_tokens)
        for token, piece, (first, last) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True):
            if piece == self._unknown and text[first:last] != piece:
                raise UserError(f"text {text[first:last]!r}: is not in the model's vocabulary; write it otherwise")
            if token >= self._limit:
                raise UserError(f"text {text[first:last]!r}: is token {token}, but the model's embedding has "
                                f"{self._limit} rows; write it otherwise")
        if self._exact:
            back = self.decode(encoding.ids)
            if back != text:
                at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), len(back))
                raise UserError(f"text {text[at:at + 1]!r}: is not in the model's vocabulary; write it otherwise")
        return encoding.ids


def byte_level_bpe(*, tokens, merges, types, pre, limit, bos, eos, begins):
    """A ``PackageTokenizer`` from a GGUF file's lists; UserError for a pre-tokenizer that is not known."""
    if pre not in PRE_TOKENIZERS:
        raise UserError(f"tokenizer.ggml.pre = {pre!r} is not supported; supported: {', '.join(PRE_TOKENIZERS)}")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    malformed = [pair for pair in pairs if len(pair) != 2]
    if malformed:
        raise UserError(f"tokenizer.ggml.merges is corrupt ({' '.join(malformed[0])!r} is no pair)")
    try:
        bpe = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs,
                         ignore_merges=pre == "llama-bpe")
    except Exception as error:  # the package raises Exception itself
        raise UserError(f"tokenizer.ggml.merges is corrupt ({error})") from None
    model = PackageModel(bpe)
    model.pre_tokenizer = PRE_TOKENIZERS[pre]
    model.decoder = decoders.ByteLevel()
    model.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False)
                      for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)])
    return PackageTokenizer(model, limit=limit, bos=bos, eos=eos, begins=begins, exact=True)


def tokenizer_from_folder(folder, *, limit):
    """The ``PackageTokenizer`` of a Hugging Face folder's tokenizer.json, whose template says what goes around a text.

    bos and eos are what tokenizer_config.json and config.json call so.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; the tokenizer is missing")
    try:
        model = PackageModel.from_file(str(path))
    except Exception as error:  # the package raises Exception itself
        raise UserError(f"{path}: no tokenizer ({str(error).splitlines()[0]})") from None
    model.no_padding()
    model.no_truncation()
    config, names = _json(folder / "config.json"), _json(folder / "tokenizer_config.json")
    return PackageTokenizer(model, limit=limit, **{
        name: _number(model, names.get(f"{name}_token"), config.get(f"{name}_token_id")) for name in ("bos", "eos")})


def _json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error})") from None


def _number(model, spelling, number):
    """A special token's number, from its spelling (a string or an object with ``content``), else as config.json says
    (the first, where there are several)."""
    if isinstance(spelling, dict):
        spelling = spelling.get("content")
    if isinstance(spelling, str):
        return model.token_to_id(spelling)
    return number[0] if isinstance(number, list) else number
