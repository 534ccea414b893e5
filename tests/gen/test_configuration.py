"""Presets and TOML files: what is read, and one clear line for each thing that is refused."""

import dataclasses

import pytest

from tilewright.gen.configuration import PRESETS, load_preset, parse_configuration, read_configuration
from tilewright.gen.errors import UserError
from tilewright.hw.config import AcceleratorConfig, ConfigError

VALID = """
name = "mine"
formats = ["int8", "fp16"]
rows = 2
fp16_rows = 1
lanes = 4
bus_width = 32
address_width = 32
scratchpad_bytes = 4096
activation_depth = 256
prefetch_beats = 64
program_commands = 8
vector_lanes = 1
accumulate_lanes = 1
pe_dsps = 4
functions = ["exp", "rsqrt"]
max_head_dim = 64
max_hidden = 256
max_context = 200
"""


def test_a_file_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(VALID)
    config = read_configuration(path)
    assert config == AcceleratorConfig(
        name="mine", formats=("int8", "fp16"), rows=2, fp16_rows=1, lanes=4, bus_width=32, address_width=32,
        scratchpad_bytes=4096, activation_depth=256, prefetch_beats=64, program_commands=8,
        vector_lanes=1, accumulate_lanes=1, pe_dsps=4,
        functions=("exp", "rsqrt"), max_head_dim=64, max_hidden=256, max_context=200)


def test_what_a_file_leaves_out_comes_from_the_preset_it_names():
    config = parse_configuration('preset = "small"\nname = "mine"\nprogram_commands = 64\n', source="mine.toml")
    assert config == dataclasses.replace(load_preset("small"), name="mine", program_commands=64)


@pytest.mark.parametrize(("old", "new", "words"), [
    ("program_commands = 8", "program_commands = 12", ("program_commands = 12", "multiple of 8 from 8 to 4096")),
    ("\nrows = 2", "\nrows = 3", ("rows = 3", "power of two from 1 to 32", "change rows")),
    ("\nrows = 2", "\nrows = 64", ("rows = 64", "power of two from 1 to 32")),
    ("\nrows = 2", '\nrows = "2"', ("rows = '2'", "must be int", "change rows")),
    ("\nrows = 2", "\nrows = 2.0", ("rows = 2.0", "must be int")),
    ("\nrows = 2", "\nrows = true", ("rows = True", "must be int")),
    ("\nrows = 2", "\n", ("rows is missing", "add rows")),
    ("\nrows = 2", '\npreset = "tiny"', ("preset = 'tiny': unknown; allowed are nano, micro", "change preset")),
    ('name = "mine"', 'preset = "small"', ("name is missing", "add name")),
    ("\nrows = 2", "\nrows = 2\ncolumns = 3", ("columns = 3", "unknown", "allowed are name, formats")),
    ("lanes = 4", "lanes = 16", ("lanes = 16", "bus_width / 8 = 4 or bus_width / 4 = 8", "change lanes or bus_width")),
    ("address_width = 32", "address_width = 64", ("address_width = 64", "from 32 to 40")),
    ("vector_lanes = 1", "vector_lanes = 2", ("vector_lanes = 2", "bus_width / 32 = 1")),
    ("accumulate_lanes = 1", "accumulate_lanes = 8", ("accumulate_lanes = 8", "at most lanes = 4")),
    ("\nrows = 2", "\nrows = 32", ("accumulate_lanes = 1", "at least", "= 4", "change accumulate_lanes")),
    ("pe_dsps = 4", "pe_dsps = 5", ("pe_dsps = 5", "from 0 to rows * lanes / 2 = 4")),
    ('"rsqrt"', '"sin"', ("functions = 'sin'", "allowed are exp, silu, rsqrt, recip")),
    ('"fp16"', '"fp8"', ("formats = 'fp8'", "allowed are int8, fp16")),
    ('formats = ["int8", "fp16"]', "formats = []", ("formats = []", "at least one of int8, fp16")),
    ('formats = ["int8", "fp16"]', 'formats = ["fp16"]', ("pe_dsps = 4", "must be 0 without int8")),
    ("fp16_rows = 1", "fp16_rows = 4", ("fp16_rows = 4", "power of two from 1 to rows = 2")),
    ('"rsqrt"', '"exp"', ("functions", "each may stand once")),
    ('functions = ["exp", "rsqrt"]', 'functions = "exp"', ("functions = 'exp'", "must be tuple")),
    ("max_hidden = 256", "max_hidden = 257", ("max_hidden = 257", "activation_depth = 256")),
    ("max_context = 200", "max_context = 0", ("max_context = 0", "from 1 to activation_depth = 256")),
    ('name = "mine"', 'name = "my chip"', ("name = 'my chip'", "letters, digits and _", "change name")),
    ('name = "mine"', "name = 7", ("name = 7", "must be str")),
    ("\nrows = 2", "\nrows = ", ("not TOML",)),
])
def test_refusals(old, new, words):
    assert old in VALID
    with pytest.raises(ConfigError) as caught:
        parse_configuration(VALID.replace(old, new), source="mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="nowhere.toml: cannot be read"):
        read_configuration(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_configuration(tmp_path / "binary.toml")


def test_presets():
    assert PRESETS == ("nano", "micro", "small", "medium", "large")
    for name in PRESETS:
        config = load_preset(name)
        assert config.name == name
        assert config.rows * config.lanes <= 32 * config.accumulate_lanes
    with pytest.raises(UserError, match="'tiny': unknown; allowed are nano, micro, small, medium, large"):
        load_preset("tiny")


@pytest.mark.parametrize(("field", "value", "needed"), [
    ("formats", ("int8", "int4"), r"\['int8'\]"), ("functions", ("exp",), r"\[\]"), ("lanes", 8, "4"), ("rows", 2, "1"),
    ("accumulate_lanes", 2, "1"), ("pe_dsps", 2, "0"),
    ("scratchpad_bytes", 1 << 17, "from 4096 to 65536"), ("activation_depth", 4096, "from 256 to 2048")])
def test_what_a_build_without_vector_unit_cannot_have(field, value, needed):
    with pytest.raises(ConfigError, match=f"{field} = .*: must be {needed} with vector_lanes = 0; change {field}"):
        dataclasses.replace(load_preset("nano"), **{field: value})


def test_hash_is_of_the_content_alone():
    config = parse_configuration(VALID, source="a")
    shuffled = parse_configuration("\n".join(reversed(VALID.splitlines())), source="b")
    assert config.sha256 == shuffled.sha256
    assert len(config.sha256) == 64
    others = [dataclasses.replace(config, name="other"), dataclasses.replace(config, pe_dsps=3),
              dataclasses.replace(config, functions=("rsqrt", "exp"))]
    assert len({c.sha256 for c in [config, *others]}) == 4
