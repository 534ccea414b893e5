"""A trained model from end to end in the accelerator's arithmetic: stories260K and its published greedy text."""

from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from tilewright.gen.checkpoint import open_checkpoint
from tilewright.gen.functions import function_tables
from tilewright.sim.golden import functions, model, reference, shape
from tilewright.sim.golden.weights import BLOCK, QuantisedMatrix, quantise

FOLDER = Path(__file__).parents[4] / "shared/models/stories260K"
TOKENS = 256
AGREEING = {"int8": 248, "int4": 88}
"""Characters before the first that differs from the published text, as README.md states them."""


@pytest.fixture(scope="module")
def folder():
    for name in ("stories260K.bin", "tok512.bin", "expected_greedy.txt"):
        if not (FOLDER / name).is_file():
            pytest.fail(f"{FOLDER / name} is missing: the tests take stories260K from shared/ beside the checkout")
    return FOLDER


@pytest.fixture(scope="module")
def stories(folder):
    return open_checkpoint(folder / "stories260K.bin")


@pytest.fixture(scope="module")
def tokenizer(folder, stories):
    return stories.tokenizer()


@pytest.fixture(scope="module")
def published(folder):
    return (folder / "expected_greedy.txt").read_text()


@pytest.fixture(scope="module")
def tables():
    return {table.name: functions.table_from(table) for table in function_tables(("exp", "silu", "rsqrt", "recip"))}


def q4_0(w):
    """The matrix in 4 bits as GGUF's Q4_0 rounds it: blocks of 32 with an FP16 scale, values -8 to 7."""
    blocks = np.zeros((len(w), -(-w.shape[1] // BLOCK), BLOCK), np.float32)
    blocks.reshape(len(w), -1)[:, :w.shape[1]] = w
    place = np.abs(blocks).argmax(-1)[..., None]
    d = np.take_along_axis(blocks, place, -1) / np.float32(-8)
    q = np.divide(blocks, d, out=np.zeros_like(blocks), where=d != 0)
    q = np.minimum(np.floor(q + np.float32(8.5)), 15) - 8
    return QuantisedMatrix(q.astype(np.int8).reshape(len(w), -1)[:, :w.shape[1]], d[..., 0].astype(np.float16))


def whole(stories, matrix):
    """The model with every matrix rounded by ``matrix``."""
    indices = range(stories.architecture.layers)
    embedding = matrix(stories.tensor("embedding"))
    return model.TransformerModel(
        shapes=[stories.architecture.layer(i) for i in indices],
        layers=[{name: matrix(w) if w.ndim == 2 else w for name, w in stories.layer(i, "float32").items()}
                for i in indices],
        tensors={"embedding": shape.dequantise_weights({"": embedding})[""],
                 "final_norm": stories.tensor("final_norm"), "lm_head": embedding})


def fp16(w):
    return w.astype(np.float16)


def tell(small, tokenizer, tables, kv_format, count=TOKENS):
    """Greedy text from the token that begins a sequence, and its tokens."""
    tokens = model.greedy(small, small.empty_caches(count, kv_format), [tokenizer.bos], count, tables)
    return tokenizer.decode(tokens), tokens


def agreeing(text, published):
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, published, strict=False)))


def test_first_words(stories, tokenizer, published, tables):
    for small, kv_format in ((whole(stories, fp16), "fp16"), (whole(stories, quantise), "int8")):
        text, _ = tell(small, tokenizer, tables, kv_format, 16)
        assert len(text) > 30 and published.startswith(text)


def test_float64_tells_the_published_text(stories, tokenizer, published):
    """The reference chooses the same tokens, and tells how near a choice another one comes."""
    small = whole(stories, lambda w: w)
    caches, tokens, chosen, margins = [reference.ReferenceCache(s) for s in small.shapes], [tokenizer.bos], [], []
    for _ in range(TOKENS):
        y = reference.logits(small, reference.states(small, caches, np.array(tokens))[-1])[-1]
        tokens = [int(y.argmax())]
        margins.append(np.diff(np.sort(y)[-2:])[0])
        chosen += tokens
    print(f"smallest margin between the best two logits: {min(margins):.4f}")
    assert tokenizer.decode(chosen) == published


def test_portions_do_not_matter(stories, tokenizer, tables):
    """A prompt at once and token by token give the same logits to the bit."""
    tokens = np.random.default_rng(5).integers(3, stories.architecture.vocab, 11)
    for matrix, kv_format in ((fp16, "fp16"), (quantise, "int8")):
        small = whole(stories, matrix)
        at_once = model.logits(small, model.final_states(small, small.empty_caches(16, kv_format), tokens, 0, tables))
        caches = small.empty_caches(16, kv_format)
        singly = [model.logits(small, model.final_states(small, caches, tokens[i:i + 1], i, tables))
                  for i in range(len(tokens))]
        np.testing.assert_array_equal(at_once.view(np.uint32), np.concatenate(singly).view(np.uint32))


@pytest.mark.slow
def test_fp16_tells_the_published_text(stories, tokenizer, published, tables):
    """FP16 weights, activations and KV cache: all 256 tokens."""
    text, tokens = tell(whole(stories, fp16), tokenizer, tables, "fp16")
    assert len(tokens) == TOKENS and text == published


@pytest.mark.slow
@pytest.mark.parametrize("name, matrix", [("int8", quantise), ("int4", q4_0)])
def test_quantised_text(name, matrix, stories, tokenizer, published, tables):
    """8-bit activations and KV cache; how much of the text stays."""
    text, tokens = tell(whole(stories, matrix), tokenizer, tables, "int8")
    same = agreeing(text, published)
    print(f"stories260K in {name.upper()}: the first {same} of {len(published)} characters agree, then "
          f"{text[same:][:60]!r}")
    assert len(tokens) == TOKENS and same == AGREEING[name]
