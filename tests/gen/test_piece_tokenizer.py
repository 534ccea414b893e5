"""Vocabularies with scores: llama2.c's and GGUF's kind 'llama'."""

import struct
from pathlib import Path

import pytest
from tokenizers import Tokenizer as PackageModel
from tokenizers import models

from tilewright.gen.checkpoint.gguf_tokenizer import tokenizer_from_gguf
from tilewright.gen.errors import UserError
from tilewright.gen.piece_tokenizer import PieceTokenizer, read_llama2c_tokenizer

STORIES = Path(__file__).parents[3] / "shared/models/stories260K"
TEXTS = ["Once upon a time", "Hello, world!",
         "She said, \"I can't find it.\"\nThen they played.", "x", "  two  spaces ", "aaaaaaaa",
         "The quick brown fox jumps over 13 lazy dogs.", "naïve café 🦜 日本", "\ttab\r\n", "", "\x00\x7f"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


@pytest.fixture(scope="module")
def stories():
    path = STORIES / "tok512.bin"
    if not path.is_file():
        pytest.fail(f"{path} is missing: the tests take stories260K from shared/ beside the checkout")
    return read_llama2c_tokenizer(path, 512)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_round_trip(stories, text):
    tokens = stories.prompt(text)
    assert tokens[0] == stories.bos and stories.prompt("") == [stories.bos, *stories.encode("")]
    assert stories.decode(tokens, special=False) == text
    stream = stories.stream()
    assert "".join([*(stream.put(token) for token in tokens), stream.finish()]) == text


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_against_the_package(stories, text):
    """Byte-pair encoding of the package ``tokenizers``, its merges ranked by the scores of what they give."""
    data, at, pieces, scores = (STORIES / "tok512.bin").read_bytes(), 4, [], []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        scores.append(score)
        pieces.append(data[at + 8:at + 8 + length].decode())
        at += 8 + length
    vocab = {piece: number for number, piece in enumerate(pieces)}
    merges = [(pieces[number][:cut], pieces[number][cut:]) for number in sorted(range(512), key=lambda n: -scores[n])
              for cut in range(1, len(pieces[number])) if number > 258
              and pieces[number][:cut] in vocab and pieces[number][cut:] in vocab]
    package = PackageModel(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    assert stories.encode(text) == package.encode(" " + text).ids


def test_merges_go_by_score():
    pieces = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b" "]
    for scores, expected in (([0, 0, 0, -1, -2, -9, 0], [3, 2]), ([0, 0, 0, -2, -1, -9, 0], [0, 4]),
                             ([0, 0, 0, -1, -1, -9, 0], [3, 2])):
        tokenizer = PieceTokenizer(pieces[:5] + pieces[6:], scores[:5] + scores[6:], bos=None, eos=None,
                                   space_prefix=False)
        assert tokenizer.encode("abc") == expected
    assert PieceTokenizer(pieces, [0, 0, 0, -1, -2, -9, 0], bos=None, eos=None, space_prefix=False).encode(
        "abcab") == [5, 3]


def test_a_character_that_is_no_piece(stories):
    tokenizer = PieceTokenizer([b" ", b"a", b"<0xC3>"], [0.0] * 3, bos=None, eos=None)
    assert tokenizer.prompt("a") == [0, 1]
    with pytest.raises(UserError, match="text 'ä': is not in the model's vocabulary; write it otherwise"):
        tokenizer.encode("aä")
    parrot = stories.encode("🦜")
    assert len(parrot) == 5 and stories.decode(parrot[:-1]) == " \ufffd"


def test_stream_waits_for_whole_characters(stories):
    stream, tokens = stories.stream(), stories.prompt("a🦜")
    assert [stream.put(token) for token in tokens] == ["", "a", "", "", "", "🦜"]
    cut = stories.stream()
    assert [cut.put(token) for token in tokens[:-1]] == ["", "a", "", "", ""]
    assert cut.finish() == "\ufffd" and cut.finish() == ""
    spoilt = stories.stream()  # three bytes that no fourth follows
    assert "".join([*map(spoilt.put, [*tokens[:-1], *stories.encode("b")[1:]]), spoilt.finish()]) == stories.decode(
        [*tokens[:-1], *stories.encode("b")[1:]], special=False)


def field_of(changes):
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "h", "i", "hi", "▁hi", "<turn>", "\n\n"]
    types = [UNKNOWN, CONTROL, CONTROL, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED]
    values = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
              "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))], "tokenizer.ggml.bos_token_id": 1,
              "tokenizer.ggml.eos_token_id": 2} | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return values.__getitem__, values, len(tokens)


@pytest.mark.parametrize("changes, prompt", [
    ({}, [1, 8, 9, 8, 10, 8]), ({"add_bos_token": False}, [8, 9, 8, 10, 8]),
    ({"add_space_prefix": False}, [1, 7, 9, 7, 10, 7]),
])
def test_gguf(changes, prompt):
    tokenizer = tokenizer_from_gguf(*field_of(changes))
    assert tokenizer.prompt("hi<turn>hi\n\nhi") == prompt
    assert (tokenizer.vocab, tokenizer.bos, tokenizer.eos, tokenizer.token(8)) == (11, 1, 2, " hi")
    assert tokenizer.encode("\n")[-1] == 3
    text = tokenizer.decode([7, 9, 10, 7, 2], special=False)
    assert text == "hi\n\nhi"  # what a user defined is text, what controls is none
    assert tokenizer.decode([7, 9, 2]) == "hi<turn></s>"


@pytest.mark.parametrize("changes, message", [
    ({"scores": [0.0]}, "the vocabulary has 1 scores for 11 tokens"),
    ({"token_type": [1]}, "the vocabulary has 11 distinct tokens and 1 types, the model 11 embeddings"),
    ({"bos_token_id": 11}, "tokenizer.ggml.bos_token_id = 11: must be less than the vocabulary, 11"),
])
def test_gguf_refusals(changes, message):
    with pytest.raises(UserError, match=message):
        tokenizer_from_gguf(*field_of(changes))
