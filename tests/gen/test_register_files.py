"""Register map and command set as files: equal to the hardware's own description, and C compilers take them."""

import re
import subprocess

import pytest

from tilewright.gen.configuration import load_preset
from tilewright.gen.generate import register_map
from tilewright.gen.register_files import (
    command_header,
    compile_systemrdl,
    systemrdl_text,
    write_register_header,
    write_register_page,
)
from tilewright.hw import commands
from tilewright.hw.direct.registers import DIRECT_MAP
from tilewright.hw.registers import IDENTITY, REGISTER_MAP, VERSION, Access, ErrorCode

SOFTWARE = {Access.RO: (True, False), Access.RW: (True, True), Access.W1: (False, True), Access.CONST: (True, False),
            Access.WO: (False, True)}


@pytest.fixture(scope="module", params=["micro", "nano"])
def registers(request):
    return register_map(load_preset(request.param))


@pytest.fixture(scope="module")
def files(tmp_path_factory, registers):
    folder = tmp_path_factory.mktemp("registers")
    (folder / "tilewright.rdl").write_text(systemrdl_text(registers))
    root = compile_systemrdl(folder / "tilewright.rdl")
    write_register_header(root, folder / "tilewright_registers.h")
    write_register_page(root, folder / "page")
    (folder / "tilewright_commands.h").write_text(command_header())
    return folder, root


def test_each_build_has_its_map():
    assert register_map(load_preset("micro")) is REGISTER_MAP
    assert register_map(load_preset("nano")) is DIRECT_MAP


def test_systemrdl_equals_the_map(files, registers):
    nodes = {node.inst_name: node for node in files[1].top.registers()}
    assert list(nodes) == list(registers)
    for name, register in registers.items():
        node = nodes[name]
        assert node.address_offset == register.offset
        assert node.get_property("desc") == register.doc
        fields = {field.inst_name: field for field in node.fields()}
        assert set(fields) == {field.name for field in register.fields}
        for field in register.fields:
            rdl = fields[field.name]
            assert (rdl.low, rdl.width) == (field.lsb, field.width)
            assert (rdl.is_sw_readable, rdl.is_sw_writable) == SOFTWARE[field.access], (name, field.name)
            assert rdl.is_hw_writable == (field.access == Access.RO)
    codes = nodes["error_code"].fields()[0].get_property("encode")
    assert {member.name: member.value for member in codes} == {code.name: code.value for code in ErrorCode}


def check_header(folder, header, claims):
    """Compile ``claims`` as static assertions on ``header``; the compiler's messages, '' if all hold."""
    lines = [f'#include "{header}"', "#include <stddef.h>", *(f'_Static_assert({c}, "{c}");' for c in claims)]
    (folder / "check.c").write_text("\n".join(lines) + "\n")
    result = subprocess.run(["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "check.c"], cwd=folder,
                            capture_output=True, text=True)
    assert (result.returncode == 0) == (result.stderr == "")
    return result.stderr


def test_register_header(files, registers):
    claims = [f"TILEWRIGHT__IDENTITY__VALUE_reset == {IDENTITY}", f"TILEWRIGHT__VERSION__VALUE_reset == {VERSION}"]
    for name, register in registers.items():
        claims.append(f"offsetof(tilewright_t, {name}) == {register.offset}")
        for field in register.fields:
            stem = f"TILEWRIGHT__{name.upper()}__{field.name.upper()}"
            claims += [f"{stem}_bp == {field.lsb}", f"{stem}_bw == {field.width}",
                       f"{stem}_bm == {((1 << field.width) - 1) << field.lsb}u"]
    assert check_header(files[0], "tilewright_registers.h", claims) == ""


def test_command_header(files):
    claims = [f"TILEWRIGHT_COMMAND_WORDS == {commands.COMMAND_WORDS}"]
    claims += [f"TILEWRIGHT_OPCODE_{op.name} == {op.value}" for op in commands.Opcode]
    claims += [f"TILEWRIGHT_ERROR_{code.name} == {code.value}" for code in ErrorCode]
    for group, fields in [("HEADER", commands.HEADER), *((op.name, f) for op, f in commands.COMMANDS.items())]:
        for name, field in fields.items():
            stem = f"TILEWRIGHT_{group}_{name.upper()}"
            claims += [f"{stem}_WORD == {field.word}", f"{stem}_SHIFT == {field.lsb}",
                       f"({stem}_MASK >> {field.lsb}) == {(1 << field.width) - 1}u"]
    assert check_header(files[0], "tilewright_commands.h", claims) == ""


def test_command_made_with_the_header_decodes(files):
    """A command put together in C is the one that the Python side decodes."""
    (files[0] / "make.c").write_text("""
#include <stdint.h>
#include <stdio.h>
#include "tilewright_commands.h"
#define PUT(field, value) words[field##_WORD] |= ((uint32_t)(value) << field##_SHIFT) & field##_MASK
int main(void) {
    uint32_t words[TILEWRIGHT_COMMAND_WORDS] = {0};
    PUT(TILEWRIGHT_HEADER_OPCODE, TILEWRIGHT_OPCODE_MATMUL);
    PUT(TILEWRIGHT_HEADER_WAIT_VECTOR, 3);
    PUT(TILEWRIGHT_MATMUL_K, 576);
    PUT(TILEWRIGHT_MATMUL_N, 1536);
    PUT(TILEWRIGHT_MATMUL_GROUP_STRIDE, 1000);
    for (int i = 0; i < TILEWRIGHT_COMMAND_WORDS; i++) printf("%u ", words[i]);
    return 0;
}""")
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", "make", "make.c"], cwd=files[0], check=True)
    printed = subprocess.run(["./make"], cwd=files[0], check=True, capture_output=True, text=True).stdout
    opcode, fields = commands.decode([int(word) for word in printed.split()])
    assert opcode == commands.Opcode.MATMUL
    assert {name: value for name, value in fields.items() if value} == {
        "opcode": 5, "wait_vector": 3, "k": 576, "n": 1536, "group_stride": 1000}


def test_the_check_of_headers_can_fail(files):
    assert "static assertion failed" in check_header(files[0], "tilewright_commands.h",
                                                     ["TILEWRIGHT_MATMUL_K_WORD == 4"])


def test_page_works_without_a_network(files):
    index = (files[0] / "page" / "index.html").read_text()
    assert not re.search(r'(src|href)="https?:', index)
    assert "BUILD_TS = 0;" in index, "a page of equal content is equal"
    assert (files[0] / "page" / "content").is_dir()
