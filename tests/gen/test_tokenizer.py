import re

import pytest

from tilewright.gen.checkpoint.gguf_tokenizer import tokenizer_from_gguf
from tilewright.gen.errors import UserError

TEXTS = [
    "Hello world", "The year 2024, isn't it?  ok\n\n x", " leading", "trailing  ", "\t tabs\t\tand\r\nlines\n\n\n",
    "they'll we've I'd can't 'single' ''", "3.14159e-26 0x1F 007", "def f(x):\n    return x**2  # power\n", "a" * 300,
    "!?!?... --- ===>", "CamelCaseWord snake_case_word SHOUT", "5 apples and 12 pears", "",
]
UNICODE = ["naïve café", "日本語のテキスト", "🦜 emoji 👩‍👩‍👧", "Ελληνικά и русский",
           "zero\u200bwidth nbsp\u00a0x", "\x00\x7f"]


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return smollm2.tokenizer()


@pytest.mark.parametrize("text, tokens", [
    ("Hello world", [19556, 905]),
    ("<|im_start|>user\nhi<|im_end|>\n", [1, 4093, 198, 6004, 2, 198]),
    ("<|endoftext|>", [0]),
    ("2024", [34, 32, 34, 36]),
])
def test_known_tokens(tokenizer, text, tokens):
    assert tokenizer.encode(text) == tokens
    assert tokenizer.decode(tokens) == text


def test_special_tokens(tokenizer, smollm2):
    assert (tokenizer.bos, tokenizer.eos) == (1, 2)
    assert (tokenizer.token(1), tokenizer.token(2)) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.vocab == smollm2.architecture.vocab


def test_each_digit_is_a_token(tokenizer):
    for text in ("1234567890", "x12y", "99 100"):
        digits = [token for token in map(tokenizer.token, tokenizer.encode(text)) if re.search(r"\d", token)]
        assert digits == re.findall(r"\d", text)


@pytest.mark.parametrize("text", TEXTS + UNICODE, ids=ascii)
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_cut_character(tokenizer):
    tokens = tokenizer.encode("🦜")
    assert len(tokens) > 1 and tokenizer.decode(tokens[:-1]) == "\ufffd"


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_against_bpe_by_hand(tokenizer, smollm2, text):
    """ASCII texts split by llama.cpp's patterns for 'smollm', then merged pair by pair."""
    vocab = {token: i for i, token in enumerate(smollm2.field("tokenizer.ggml.tokens"))}
    ranks = {merge: i for i, merge in enumerate(smollm2.field("tokenizer.ggml.merges"))}
    words = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
    tokens = []
    for part in re.split(r"([0-9])", text):
        for word in words.findall(part):
            pieces = [chr(ord(c) + 0x100) if c.isspace() else c for c in word]  # GPT-2's stand-ins for white space
            while len(pieces) > 1:
                pairs = [ranks.get(f"{a} {b}", len(ranks)) for a, b in zip(pieces, pieces[1:], strict=False)]
                best = min(pairs)
                if best == len(ranks):
                    break
                i = pairs.index(best)
                pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]
            tokens += [vocab[piece] for piece in pieces]
    assert tokenizer.encode(text) == tokens


@pytest.mark.parametrize("changed, message", [
    ({"model": None}, "metadata tokenizer.ggml.model is missing; the file has no tokenizer"),
    ({"model": "bert"}, "tokenizer.ggml.model = 'bert' is not supported; supported: gpt2, llama"),
    ({"pre": "qwen2"}, "tokenizer.ggml.pre = 'qwen2' is not supported; supported: gpt-2, smollm, llama-bpe"),
    ({"tokens": ["a", "a"]}, "the vocabulary has 1 distinct tokens"),
    ({"merges": ["a b", "no-such-token x"]}, "tokenizer.ggml.merges is corrupt"),
    ({"merges": ["abc"]}, "tokenizer.ggml.merges is corrupt"),
    ({"eos_token_id": 49152}, "tokenizer.ggml.eos_token_id = 49152: must be less than the vocabulary, 49152"),
])
def test_refusals(smollm2, changed, message):
    changed = {f"tokenizer.ggml.{key}": value for key, value in changed.items()}
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        tokenizer_from_gguf(lambda key: changed.get(key) or smollm2.field(key), smollm2.metadata | changed,
                            smollm2.architecture.vocab)
    assert "\n" not in str(caught.value)
