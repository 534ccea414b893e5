"""READ in programs: its waits, within loops and out of them, held against the functional machine's hazard checks."""

from dataclasses import replace

import numpy as np
import pytest

from tilewright.gen.compiler.assembler import Program
from tilewright.gen.configuration import load_preset
from tilewright.gen.functions import function_tables
from tilewright.hw.commands import Element, Opcode
from tilewright.sim.machine import Machine

CONFIG = replace(load_preset("small"), rows=2, pe_dsps=0)  # 8 lanes, groups of 2 words


def store(p, offset, scratch, **options):
    return p.emit(Opcode.STORE, region=2, offset=offset, element=Element.WORD, count=1, rows=1, planes=1,
                  scratch=scratch, **options)


def load(p, offset, scratch, **options):
    return p.emit(Opcode.LOAD, region=2, offset=offset, count=8, rows=1, planes=1, scratch=scratch, **options)


def run(p, words):
    machine = Machine(CONFIG, function_tables(CONFIG.functions))
    machine.regions[0], machine.regions[2] = bytearray(p.assemble()), bytearray(np.array(words, "<u4").tobytes())
    machine.run()
    return machine


def test_read_waits_for_what_writes_its_name():
    p = Program(CONFIG)
    load(p, 0, 0)
    store(p, 8, 0, writes=("token",))
    store(p, 16, 4)
    register = p.read(p.register("token"), 2, 4, rs=p.set(p.register("four"), 4), reads=("token",))
    p.end()
    machine = run(p, [7, 8, 0, 0, 0, 0])
    assert machine.registers[register] == 7
    waits = [issued.waits for issued in machine.trace if issued.fields.get("region") == 2][-1]
    assert waits[-1] == 1, "the last STORE need not be waited for"


def test_read_waits_for_a_token():
    p = Program(CONFIG)
    load(p, 0, 0)
    p.read(p.register("token"), 2, 8, after=[store(p, 8, 0)])
    p.end()
    assert run(p, [7, 8, 0, 0]).registers[p.register("token")] == 7


def test_read_in_a_loop_waits_for_the_iteration_before():
    """The sum of a word that each iteration stores behind the READ: 0 + 3 + 3."""
    p = Program(CONFIG)
    load(p, 0, 0)
    count = p.set(p.register("count"), 3)
    with p.loop(count):
        token = p.read(p.register("token"), 2, 8, reads=("token",))
        p.scalar(0, p.register("sum"), p.register("sum"), rt=token)
        store(p, 8, 0, writes=("token",))
    p.end()
    assert run(p, [3, 0, 0, 0]).registers[p.register("sum")] == 6


def test_read_cannot_be_skipped():
    """Its waits count as done from there on."""
    p = Program(CONFIG)
    with pytest.raises(ValueError, match="may be skipped"), p.skip_if(1):
        p.read(2, 2, 0)
