"""Fixtures that need a real model: its file comes the way a user gets it, and stays in the cache."""

import pytest

from tilewright.gen.fetch import fetch
from tilewright.gen.gguf_model import GgufModel
from tilewright.gen.model import load_model


@pytest.fixture(scope="session")
def smollm2_model():
    """Description of SmolLM2-135M-Instruct."""
    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def smollm2(smollm2_model):
    """Its GGUF file, open."""
    return GgufModel(fetch(smollm2_model, progress=False), smollm2_model)
