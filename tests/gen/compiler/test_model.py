"""Whole models on the functional machine: tokens, logits and KV cache equal to the golden model's."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.compiler.model import compile_model
from tilewright.gen.configuration import load_preset
from tilewright.gen.errors import UserError
from tilewright.gen.functions import function_tables
from tilewright.sim.golden import model as golden
from tilewright.sim.golden import vector
from tilewright.sim.golden.functions import table_from
from tilewright.sim.golden.layer import LayerShape, quantise_weights
from tilewright.sim.machine import Machine

LLAMA = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 100, "norm_eps": 1e-5, "rope_theta": 1e4,
         "rope_pairing": "interleaved"}
GEMMA = LLAMA | {"topology": "sandwich", "qk_norm": True, "activation": "gelu_tanh", "rope_pairing": "half_split"}
PLAIN = LLAMA | {"norm": "layer_norm", "mlp": "plain", "activation": "gelu_erf", "rotary_dim": 0,
                 "biases": ("q", "k", "v", "o", "ffn")}
CONFIGS = {name: load_preset(name) for name in ("micro", "medium")}
CONFIGS["one row"] = replace(CONFIGS["micro"], rows=1, fp16_rows=1, pe_dsps=2)
VOCAB = 1037   # two pieces of lm_head and a ragged third


def random_model(shapes, *, weights="int8", seed, ends=("final_norm", "lm_head"), positions=0, scale=None):
    """A golden TransformerModel with random weights; with INT4 layers lm_head is INT8."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    layers = []
    for shape in shapes:
        arrays = {name: rng.normal(size=size) / np.sqrt(size[1]) for name, size in shape.matrix_shapes.items()}
        arrays |= {name: rng.normal(0 if name.endswith("bias") else 1, 0.1, size=size)
                   for name, size in shape.vector_sizes.items()}
        layers.append(quantise_weights(shape, arrays, weights))
    hidden, tensors = shapes[0].hidden, {}
    tensors["embedding"] = rng.normal(size=(VOCAB, hidden)).astype(np.float32)
    for name in ends:
        if name == "lm_head":
            size = (hidden, VOCAB // 2)
            once = rng.normal(size=size[::-1]) / 8
            tensors[name] = _rounded(np.concatenate([once, once, once[:1]]), weights)   # every greatest logit twice
        elif name == "lm_head_bias":
            tensors[name] = rng.normal(size=VOCAB).astype(np.float32)
        else:
            tensors[name] = rng.normal(1, 0.1, size=hidden).astype(np.float32)
            if shapes[0].norm == "layer_norm":
                tensors[f"{name}_bias"] = rng.normal(0, 0.1, size=hidden).astype(np.float32)
    if positions:
        tensors["positions"] = rng.normal(size=(positions, hidden)).astype(np.float32)
    return golden.TransformerModel(shapes=tuple(shapes), layers=tuple(layers), tensors=tensors, embed_scale=scale)


def _rounded(matrix, weights):
    from tilewright.sim.golden.weights import quantise
    return matrix.astype(np.float16) if weights == "fp16" else quantise(matrix)


class Bench:
    def __init__(self, config, model, *, context, kv_format, seed=1):
        tables = function_tables(config.functions)
        self.model, self.tables = model, {table.name: table_from(table) for table in tables}
        self.compiled = compile_model(config, model, context=context, kv_format=kv_format)
        self.machine, noise = Machine(config, tables), np.random.default_rng(seed)
        self.machine.regions[:3] = [bytearray(self.compiled.image), bytearray(noise.bytes(self.compiled.kv_bytes)),
                                    bytearray(noise.bytes(self.compiled.io_bytes))]
        self.caches = model.empty_caches(self.compiled.slots, kv_format)
        self.position = 0

    def io(self, offset, count, kind):
        return np.frombuffer(self.machine.regions[2], kind, count, offset)

    def run(self, tokens, *, decode=False, more=0):
        compiled = self.compiled
        self.io(compiled.tokens, len(tokens), "<u4")[:] = tokens
        self.machine.run(compiled.decode if decode else compiled.prefill, (self.position, len(tokens), more))

    def check(self, tokens, *, decode=False):
        """Run; token and logits equal to the bit. Returns the token."""
        self.run(tokens, decode=decode)
        x = golden.final_states(self.model, self.caches, tokens, self.position, self.tables)
        logits = golden.logits(self.model, x[-1:])
        number, _ = vector.argmax_rows(logits)
        self.position += len(tokens)
        np.testing.assert_array_equal(self.io(self.compiled.logits, self.compiled.vocab, "<u4"),
                                      logits[0].view(np.uint32))
        assert self.io(self.compiled.next_token, 1, "<u4")[0] == number[0]
        assert number[0] < VOCAB // 2 or "lm_head_bias" in self.model.tensors   # the first of two
        return number


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("weights, kv_format", [("int8", "int8"), ("fp16", "fp16"), ("int4", "int8")])
@pytest.mark.parametrize("shapes, options", [
    ((LLAMA, LLAMA), {}),
    ((GEMMA | {"window": 9, "rope_theta": 1e3}, GEMMA), {"scale": 8.0}),
    ((PLAIN, PLAIN), {"positions": 64, "scale": 2.5,
                      "ends": ("embed_norm", "final_norm", "lm_head", "lm_head_bias")}),
], ids=["llama", "gemma", "plain"])
def test_tokens_in_tokens_out(config, weights, kv_format, shapes, options):
    model = random_model([LayerShape(**shape) for shape in shapes], weights=weights, seed=21, **options)
    bench = Bench(config, model, context=48, kv_format=kv_format)
    prompt, most = np.random.default_rng(2).integers(0, VOCAB, 31), bench.compiled.prefill_tokens
    for first in range(0, len(prompt), most):
        token = bench.check(prompt[first:first + most])
    for _ in range(4):
        token = bench.check(token, decode=True)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("shapes, options", [
    ((LLAMA, LLAMA), {}), ((PLAIN | {"window": 9},), {"positions": 64, "ends": ("lm_head", "lm_head_bias")}),
], ids=["llama", "plain"])
def test_lm_head_behind_the_last_chunk_alone(config, shapes, options):
    """Chunks before it write nothing but their keys and values; what follows is what it is without chunks. An array of
    one row, which takes one token at a time, has one program for prompt and decode."""
    model = random_model([LayerShape(**shape) for shape in shapes], seed=24, **options)
    bench = Bench(config, model, context=48, kv_format="int8")
    most = bench.compiled.prefill_tokens
    assert (most == 1) == (bench.compiled.prefill == bench.compiled.decode) == (config.rows == 1)
    *before, last = np.split(np.random.default_rng(4).integers(0, VOCAB, 2 * most + 1), [most, 2 * most])
    for chunk in before:
        rest = slice(4 * len(chunk), None)
        outputs = bytes(bench.machine.regions[2][rest])
        bench.run(chunk, more=3)
        assert bytes(bench.machine.regions[2][rest]) == outputs
        golden.final_states(model, bench.caches, chunk, bench.position, bench.tables)
        bench.position += len(chunk)
    token = bench.check(last)
    for _ in range(2):
        token = bench.check(token, decode=True)


@pytest.mark.parametrize("preset, tokens", [("micro", 5), ("medium", 19)])
def test_encoder(preset, tokens):
    shape = LayerShape(**PLAIN | {"topology": "post_norm", "causal": False})
    model = random_model([shape, shape], seed=22, ends=("embed_norm",), positions=64)
    bench = Bench(load_preset(preset), model, context=tokens, kv_format="int8")
    for count in (tokens, 1, tokens - 2):
        sequence = np.random.default_rng(count).integers(0, VOCAB, count)
        bench.run(sequence)
        expected = golden.sentence_embedding(model, sequence, bench.tables)
        np.testing.assert_array_equal(bench.io(bench.compiled.embedding, shape.hidden, "<u4"), expected.view("<u4"))
        assert abs((expected.astype(float) ** 2).sum() - 1) < 1e-3


def test_refuses_a_context_beyond_the_positions():
    shape = LayerShape(**PLAIN)
    model = random_model([shape], seed=23, positions=10)
    with pytest.raises(UserError, match="context = 11: the model's table has 10 positions"):
        compile_model(load_preset("medium"), model, context=11)
