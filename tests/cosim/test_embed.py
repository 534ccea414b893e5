"""``tilewright embed`` on the generated Verilog: a small encoder with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from tilewright.gen.architecture import Architecture
from tilewright.gen.checkpoint.base import Checkpoint
from tilewright.gen.package import whole_model
from tilewright.gen.tokenizer import byte_level_bpe
from tilewright.sim.golden import reference

SEED = 12
LETTERS = [*"abcdefgh", "\u0120"]
TOKENS = [1, 0, 3, 8, 5, 4, 4, 3]   # bad feed


class TinyEncoder(Checkpoint):
    """In the place of a file."""

    def __init__(self):
        super().__init__("tiny", Architecture(
            layers=2, max_context=12, hidden=32, heads=2, kv_heads=2, head_dim=16, ffn=44, vocab=len(LETTERS) + 1,
            norm="layer_norm", topology="post_norm", mlp="plain", activation="gelu_erf", causal=False,
            biases=("q", "k", "v", "o", "ffn"), positions="learned", embed_norm=True, final_norm=False, lm_head=False))

    def tokenizer(self):
        return byte_level_bpe(tokens=[*LETTERS, "<end>"], merges=[], types=[1] * len(LETTERS) + [3], pre="gpt-2",
                              limit=12, bos=None, eos=len(LETTERS), begins=False)

    def kind(self, name):
        return "F32"

    def _stored(self, name):
        return name

    def _values(self, name, rows=None):
        size = self.architecture.tensors()[name]
        values = np.random.default_rng([SEED, *name.encode()]).normal(size=size).astype(np.float32)
        values = values / 6 if len(size) == 2 and name.startswith("layers") else values
        return values if rows is None else values[rows]

    def _kept(self, name):
        return None


@pytest.fixture
def command(command, monkeypatch, shared_build):
    monkeypatch.setattr("tilewright.gen.simulation.build", shared_build)
    for place in ("checkpoint", "cli.job"):
        monkeypatch.setattr(f"tilewright.gen.{place}.open_checkpoint", lambda *_: TinyEncoder())
    return command


def test_both_back_ends_and_a_package(command):
    """RTL and golden model to the bit, near the textbook's in float64 too; the same from a package on disk."""
    code, out, err = command("embed", "bad feed", "--model", "tiny", "--preset", "micro", "--check", "--json", "a.json")
    figures = json.loads(Path("a.json").read_text())
    print(f"seed {SEED}\n{err}")
    assert (code, figures["equal"], figures["words_compared"]) == (0, True, 32)
    vector = json.loads(out)
    whole = whole_model(TinyEncoder(), "float32")
    total = reference.states(whole, [reference.ReferenceCache(shape) for shape in whole.shapes], TOKENS)[-1].sum(0)
    assert np.dot(vector, total) / np.linalg.norm(total) > 0.999
    assert vector == figures["embedding"] and figures["tokens"] == TOKENS
    assert command("compile", "tiny", "-o", "package", "--preset", "micro", "--weights", "int8", "--context", 8)[0] == 0
    code, out, _ = command("embed", "bad feed", "--model", "package")
    assert code == 0 and json.loads(out) == vector
    code, out, err = command("embed", "bad feeds", "--model", "package")
    assert (code, out) == (2, "") and err.count("\n") == 1


@pytest.mark.parametrize("text, told", [
    ("abc abc abc abc", "text = 15 tokens: must be from 1 to 12, the model's limit"),
    ("", "text = 0 tokens: must be from 1 to 12"),
])
def test_mistakes(command, text, told):
    code, out, err = command("embed", text, "--model", "tiny", "--preset", "micro")
    assert (code, out) == (2, "") and told in err and err.count("\n") == 1
