import json
import re

import pytest
from tokenizers import Tokenizer as PackageModel
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tilewright.gen.checkpoint.gguf_tokenizer import tokenizer_from_gguf
from tilewright.gen.errors import UserError
from tilewright.gen.tokenizer import byte_level_bpe, tokenizer_from_folder

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


@pytest.mark.parametrize("text", [*TEXTS, *UNICODE, "<|im_start|>user\nhi<|im_end|>\n"], ids=ascii)
def test_stream(tokenizer, text):
    """Token by token the text of all together; special tokens left out."""
    for special in (True, False):
        stream = tokenizer.stream(special)
        pieces = [stream.put(token) for token in tokenizer.prompt(text)]
        assert not any("\ufffd" in piece for piece in pieces)
        assert "".join([*pieces, stream.finish()]) == tokenizer.decode(tokenizer.encode(text), special)
    if special or "<|" not in text:
        assert tokenizer.decode(tokenizer.prompt(text), special=False) == text


def test_stream_waits_for_whole_characters(tokenizer):
    tokens = tokenizer.encode("a🦜")
    stream = tokenizer.stream()
    assert [stream.put(token) for token in tokens] == ["a", *[""] * (len(tokens) - 2), "🦜"]
    stream = tokenizer.stream()
    assert "".join(map(stream.put, tokens[:-1])) == "a" and stream.finish() == "\ufffd"


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


CUTS = {
    "gpt-2": ["It", "'s", " 12345", " days", "!", "\n\n", " x"],
    "smollm": ["It", "'s", " ", "1", "2", "3", "4", "5", " days", "!", "\n\n", " x"],
    "llama-bpe": ["It", "'s", " ", "123", "45", " days", "!\n\n", " x"],
}


@pytest.mark.parametrize("pre", CUTS)
def test_pre_tokenizers(pre):
    """Every word that any of them leaves whole is a token, so that tokens show where the text is cut."""
    vocab, merges = list(BYTES), []
    for word in sorted({word for words in CUTS.values() for word in words}):
        spelt = "".join(chr(ord(c) + 0x100) if c in " \n" else c for c in word)
        for end in range(2, len(spelt) + 1):
            if spelt[:end] not in vocab:
                vocab.append(spelt[:end])
                merges.append(f"{spelt[:end - 1]} {spelt[end - 1]}")
    tokenizer = byte_level_bpe(tokens=vocab, merges=merges, types=[1] * len(vocab), pre=pre, limit=len(vocab), bos=None,
                               eos=None, begins=False)
    assert [tokenizer.decode([token]) for token in tokenizer.encode("It's 12345 days!\n\n x")] == CUTS[pre]


def test_text_that_bytes_cannot_spell():
    vocab = [byte for byte in BYTES if byte != "z"]
    tokenizer = byte_level_bpe(tokens=vocab, merges=[], types=[1] * len(vocab), pre="gpt-2", limit=len(vocab), bos=None,
                               eos=None, begins=False)
    assert tokenizer.decode(tokenizer.encode("äb")) == "äb"
    with pytest.raises(UserError, match="^text 'z': is not in the model's vocabulary; write it otherwise$"):
        tokenizer.encode("abz")


@pytest.fixture
def word_pieces(tmp_path):
    """A folder with a tokenizer like BERT's."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "par", "##rot", "sings", "!"]
    model = PackageModel(models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    model.decoder = decoders.WordPiece()
    model.add_special_tokens(vocab[:4])
    model.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    model.enable_truncation(3)
    model.enable_padding(length=12)
    model.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_folder(word_pieces):
    (word_pieces / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "[CLS]"}}))
    (word_pieces / "config.json").write_text(json.dumps({"eos_token_id": [3, 7]}))
    tokenizer = tokenizer_from_folder(word_pieces, limit=9)
    assert tokenizer.encode("A parrot sings!") == [4, 5, 6, 7, 8]
    assert tokenizer.prompt("A parrot sings!") == [2, 4, 5, 6, 7, 8, 3]
    assert tokenizer.decode(tokenizer.prompt("A parrot sings!"), special=False) == "a parrot sings!"
    assert (tokenizer.bos, tokenizer.eos, tokenizer.vocab) == (2, 3, 9)
    stream = tokenizer.stream()
    assert [stream.put(token) for token in tokenizer.prompt("A parrot sings!")] == [
        "", "a", " par", "rot", " sings", "!", ""]
    assert tokenizer.encode("a [UNK]") == [4, 1]
    for text, wrong in (("a cat!", "cat"), ("a 🦜", "🦜")):
        with pytest.raises(UserError, match=f"^text '{wrong}': is not in the model's vocabulary"):
            tokenizer.prompt(text)
    with pytest.raises(UserError, match="text '!': is token 8, but the model's embedding has 8 rows"):
        tokenizer_from_folder(word_pieces, limit=8).encode("a!")


@pytest.mark.parametrize("name, content, message", [
    ("tokenizer.json", None, "tokenizer.json: no such file; the tokenizer is missing"),
    ("tokenizer.json", "{", "tokenizer.json: no tokenizer ("),
    ("tokenizer_config.json", "{", "tokenizer_config.json: is no JSON ("),
])
def test_folder_refusals(word_pieces, name, content, message):
    (word_pieces / name).unlink(missing_ok=True)
    if content is not None:
        (word_pieces / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        tokenizer_from_folder(word_pieces, limit=9)
    assert "\n" not in str(caught.value)
