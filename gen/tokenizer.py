"""The model's own tokenizer, built from its GGUF file: byte-level BPE."""

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as BpeTokenizer

from tilewright.gen.errors import UserError

__all__ = ["Tokenizer"]

_CONTROL, _USER_DEFINED = 3, 4  # GGUF token types that are matched as a whole, before BPE


class Tokenizer:
    """Text to token numbers and back.

    ``bos`` and ``eos`` are the numbers that begin and end a sequence. Raises UserError for a kind of vocabulary or
    pre-tokenizer other than SmolLM's.
    """

    def __init__(self, gguf_model):
        path = gguf_model.path
        for key, known in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
            value = gguf_model.field(key)
            if value != known:
                raise UserError(f"{path}: {key} = {value!r} is not supported, only {known!r}")
        tokens = gguf_model.field("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in gguf_model.field("tokenizer.ggml.merges")]
        types = gguf_model.field("tokenizer.ggml.token_type")
        self.bos = gguf_model.field("tokenizer.ggml.bos_token_id")
        self.eos = gguf_model.field("tokenizer.ggml.eos_token_id")
        if not len(tokens) == len(types) == gguf_model.architecture.vocab or len(set(tokens)) != len(tokens):
            raise UserError(f"{path}: the vocabulary has {len(set(tokens))} distinct tokens and {len(types)} types, "
                            f"the model {gguf_model.architecture.vocab} embeddings")
        malformed = [merge for merge in merges if len(merge) != 2]
        if malformed:
            raise UserError(f"{path}: tokenizer.ggml.merges is corrupt ({' '.join(malformed[0])!r} is no pair)")
        try:
            bpe = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
        except Exception as error:  # the package raises Exception itself
            raise UserError(f"{path}: tokenizer.ggml.merges is corrupt ({error})") from None
        self._bpe = BpeTokenizer(bpe)
        # Each digit stands alone; the rest is GPT-2's pattern.
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        self._bpe.decoder = decoders.ByteLevel()
        self._bpe.add_special_tokens([AddedToken(token, special=True, normalized=False)
                                      for token, kind in zip(tokens, types, strict=True)
                                      if kind in (_CONTROL, _USER_DEFINED)])

    @property
    def vocab(self):
        """Number of tokens."""
        return self._bpe.get_vocab_size()

    def encode(self, text):
        """Token numbers of a text. Special tokens such as <|im_start|> are recognised; none is added."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def decode(self, tokens):
        """Text of token numbers, special tokens included. A character cut in two comes out as U+FFFD."""
        return self._bpe.decode(list(tokens), skip_special_tokens=False)

    def token(self, number):
        """A token as the vocabulary writes it (a leading space is U+0120)."""
        return self._bpe.id_to_token(number)
