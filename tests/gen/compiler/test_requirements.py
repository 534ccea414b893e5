"""What a configuration lacks: each limit by itself, on a preset that has all else."""

from dataclasses import replace

import pytest

from tilewright.gen.compiler.requirements import functions_of, lacks, layer_lacks, least_activation_depth, power_of_two
from tilewright.gen.configuration import load_preset
from tilewright.gen.model import known_models, load_model
from tilewright.hw.config import FUNCTIONS

FULL = replace(load_preset("large"), bus_width=32, lanes=4, rows=4, fp16_rows=4, vector_lanes=1, accumulate_lanes=4,
               pe_dsps=0, functions=FUNCTIONS, activation_depth=32768, max_hidden=32768, max_context=32768)


def blocking(config, name):
    return [lack for lack in lacks(config, load_model(name).architecture) if lack.blocking]


def test_a_full_configuration_lacks_nothing():
    for name in known_models():
        assert blocking(FULL, name) == []


@pytest.mark.parametrize("name, change, field, needed, line", [
    ("gemma-2b", {"functions": ("exp", "silu", "rsqrt", "recip")}, "functions", "gelu_tanh",
     "functions = ['exp', 'silu', 'rsqrt', 'recip']: for its activation the layer needs 'gelu_tanh'; add it"),
    ("dolly-v2-3b", {"functions": ("exp", "gelu_tanh", "rsqrt", "recip")}, "functions", "gelu_erf",
     "for its activation the layer needs 'gelu_erf'; add it"),
    ("phi-1.5", {"functions": ("exp", "gelu_tanh", "recip")}, "functions", "rsqrt", "for its norm the layer needs"),
    ("mistral-7b", {"functions": ("silu", "rsqrt", "recip")}, "functions", "exp", "for its softmax the layer needs"),
    ("mistral-7b", {"functions": ("silu", "rsqrt", "exp")}, "functions", "recip", "for its softmax the layer needs"),
    ("orca-2-7b", {"max_hidden": 2048}, "max_hidden", 4096, "hidden = 4096: is 2048 more than max_hidden = 2048"),
    ("dolly-v2-3b", {"max_head_dim": 64}, "max_head_dim", 128, "head_dim = 80: is 16 more than max_head_dim = 64"),
    ("gemma3-270m", {"prefetch_beats": 128}, "prefetch_beats", 256, "head_dim = 256: is 128 more than prefetch_beats"),
    ("stories260k", {"bus_width": 512, "lanes": 64, "accumulate_lanes": 8}, "bus_width", None,
     "head_dim = 8: must be a multiple of the 16 words of a scratchpad group; take a narrower bus_width"),
    ("gemma-2b", {"activation_depth": 16384, "max_hidden": 8192, "max_context": 8192}, "activation_depth", 32768,
     "activation_depth = 16384: the layer's vectors need 18432 at least"),
])
def test_one_lack(name, change, field, needed, line):
    (lack,) = blocking(replace(FULL, **change), name)
    assert (lack.field, lack.needed) == (field, needed)
    assert line in lack.line and "\n" not in lack.line


def test_shorter_context_and_one_format_are_restrictions():
    config = replace(FULL, max_context=4096, formats=("int8",), fp16_rows=0)
    found = lacks(config, load_model("llama-3.2-1b").architecture)
    assert [(lack.field, lack.needed, lack.blocking) for lack in found] == [
        ("formats", "fp16", False), ("max_context", 131072, False)]
    assert found[0].line == "formats = ['int8']: weights and KV cache in FP16 need 'fp16'; add it"
    assert found[1].line == ("max_context = 4096: a context of up to 4096 is possible, the model's own is 131072")


def test_a_program_needs_its_formats_and_its_context():
    layer = load_model("smollm2-135m").architecture.layer(0)
    config = replace(FULL, max_context=4096, formats=("int8",), fp16_rows=0)
    assert list(layer_lacks(config, layer, 4096, formats=("int8", "int8"))) == []
    (lack,) = layer_lacks(config, layer, 4096, formats=("fp16", "fp16"))
    assert lack.line == "formats = ['int8']: the layer needs 'fp16'; add it"
    (lack,) = layer_lacks(config, layer, 4097, formats=("int8", "int8"))
    assert (lack.field, lack.line) == ("max_context", "context = 4097: is 1 more than max_context = 4096")


def test_what_a_layer_needs():
    minilm, kosmos = (load_model(name).architecture.layer(0) for name in ("all-minilm-l6-v2", "kosmos-2"))
    assert set(functions_of(minilm)) == {"exp", "recip", "rsqrt", "gelu_erf"}
    assert least_activation_depth(minilm) == 384 + 1536
    assert least_activation_depth(replace(kosmos, ffn=44, head_dim=80)) == 32 * 80 + 96
    assert [power_of_two(n) for n in (1, 2, 3, 4096, 4097)] == [1, 2, 4, 4096, 8192]
