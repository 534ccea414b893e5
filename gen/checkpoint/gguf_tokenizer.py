"""The tokenizer in a GGUF file's metadata."""

from tilewright.gen.errors import UserError
from tilewright.gen.piece_tokenizer import PieceTokenizer
from tilewright.gen.tokenizer import CONTROL, USER_DEFINED, byte_level_bpe

__all__ = ["tokenizer_from_gguf"]

_UNKNOWN = 2  # token type


def tokenizer_from_gguf(field, metadata, vocab):
    """The model's ``Tokenizer``; UserError for a missing key or a kind that is not known.

    Parameters
    ----------
    field : function      value of a metadata key; raises UserError where there is none
    metadata : mapping    scalar keys, for those that a file may leave out
    vocab : int           rows of the embedding
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise UserError("metadata tokenizer.ggml.model is missing; the file has no tokenizer")
    if kind not in ("gpt2", "llama"):
        raise UserError(f"tokenizer.ggml.model = {kind!r} is not supported; supported: gpt2, llama")
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    if not len(tokens) == len(types) == vocab or len(set(tokens)) != len(tokens):
        raise UserError(f"the vocabulary has {len(set(tokens))} distinct tokens and {len(types)} types, the model "
                        f"{vocab} embeddings")
    ends = {}
    for name in ("bos", "eos"):
        number = ends[name] = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and not 0 <= number < vocab:
            raise UserError(f"tokenizer.ggml.{name}_token_id = {number}: must be less than the vocabulary, {vocab}")
    if kind == "gpt2":
        pre = field("tokenizer.ggml.pre")
        begins = metadata.get("tokenizer.ggml.add_bos_token", pre == "llama-bpe")  # as llama.cpp takes it
        return byte_level_bpe(tokens=tokens, merges=field("tokenizer.ggml.merges"), types=types, pre=pre, limit=vocab,
                              **ends, begins=begins)
    scores = field("tokenizer.ggml.scores")
    if len(scores) != vocab:
        raise UserError(f"the vocabulary has {len(scores)} scores for {vocab} tokens")
    hidden = [i for i, token_type in enumerate(types) if token_type in (_UNKNOWN, CONTROL)]
    special = hidden + [i for i, token_type in enumerate(types) if token_type == USER_DEFINED]
    return PieceTokenizer([token.replace("\u2581", " ").encode() for token in tokens], scores, special=special,
                          hidden=hidden, **ends, space_prefix=metadata.get("tokenizer.ggml.add_space_prefix", True),
                          begins=metadata.get("tokenizer.ggml.add_bos_token", True))
