"""A small model with random weights, in INT8, for what runs whole models."""

import numpy as np
import pytest

from tilewright.sim.golden.layer import LayerShape, quantise_weights
from tilewright.sim.golden.model import TransformerModel
from tilewright.sim.golden.weights import quantise

SHAPE = {"hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 44, "norm_eps": 1e-5, "rotary_dim": 16,
         "rope_theta": 1e4, "rope_pairing": "interleaved"}


@pytest.fixture(scope="session")
def make_model():
    """Function (seed, vocab, changed fields of the shape) -> TransformerModel of two layers."""
    def make(seed, vocab, **changed):
        print(f"seed {seed}")
        rng, shape = np.random.default_rng(seed), LayerShape(**SHAPE | changed)
        layers = [quantise_weights(shape, {name: rng.normal(size=size) / np.sqrt(size[1])
                                           for name, size in shape.matrix_shapes.items()}
                                   | {name: rng.normal(1, 0.1, size=size)
                                      for name, size in shape.vector_sizes.items()}, "int8") for _ in range(2)]
        tensors = {"embedding": rng.normal(size=(vocab, shape.hidden)).astype(np.float32),
                   "final_norm": rng.normal(1, 0.1, size=shape.hidden).astype(np.float32),
                   "lm_head": quantise(rng.normal(size=(vocab, shape.hidden)))}
        return TransformerModel(shapes=(shape, shape), layers=tuple(layers), tensors=tensors)
    return make
