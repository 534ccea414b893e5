"""fpga/multipliers.py: which flip-flops go into a multiplier, and which stay. What it makes of designs is simulated in
test_netlist.py."""

import pytest

from tilewright.fpga.multipliers import use_registers

CLOCK, ENABLE, OPERANDS, HELD, PRODUCT, OUT = 2, 3, 10, 30, 50, 70     # first bits of nets


def flip_flop(source, target, **connections):
    connections = {"CLK": [CLOCK], "LSR": ["0"], "DI": [source], "Q": [target]} | connections
    return {"type": "TRELLIS_FF", "parameters": {"CLKMUX": "CLK", "REGSET": "RESET"}, "connections": connections,
            "port_directions": {port: "output" if port == "Q" else "input" for port in connections}}


def module():
    """Operands of two bits each, the second bit of B zero, and a product of four: all between flip-flops."""
    operands = {f"{name}{i}": [HELD + 2 * at + i] for at, name in enumerate("AB") for i in range(2)} | {"B1": ["0"]}
    product = {f"P{i}": [PRODUCT + i] for i in range(4)}
    cells = {f"operand{i}": flip_flop(OPERANDS + i, HELD + i) for i in range(3)}
    cells |= {f"product{i}": flip_flop(PRODUCT + i, OUT + i) for i in range(4)}
    cells["multiplier"] = {
        "type": "MULT18X18D", "parameters": {}, "connections": operands | product,
        "port_directions": {port: "input" for port in operands} | {port: "output" for port in product}}
    return {"cells": cells, "ports": {"o": {"bits": [OUT + i for i in range(4)]}}}


def used(netlist):
    return sorted(name for name in netlist["cells"]["multiplier"]["parameters"] if name.endswith("_CLK"))


def test_all_registers():
    netlist = module()
    use_registers(netlist)
    assert list(netlist["cells"]) == ["multiplier"]
    assert used(netlist) == ["REG_INPUTA_CLK", "REG_INPUTB_CLK", "REG_OUTPUT_CLK"]
    assert netlist["cells"]["multiplier"]["connections"] == {
        "A0": [OPERANDS], "A1": [OPERANDS + 1], "B0": [OPERANDS + 2], "B1": ["0"],
        **{f"P{i}": [OUT + i] for i in range(4)}, "CLK0": [CLOCK], "CE0": ["1"], "RST0": ["0"]}


def test_operand_with_another_reader():
    """Its flip-flop stays, beside the multiplier's own register."""
    netlist = module()
    netlist["ports"]["other"] = {"bits": [HELD]}
    use_registers(netlist)
    assert list(netlist["cells"]) == ["operand0", "multiplier"] and len(used(netlist)) == 3


@pytest.mark.parametrize(("name", "change", "stays"), [
    ("operand1", {"connections": {"CE": [ENABLE]}}, "REG_INPUTA_CLK"),
    ("operand2", {"connections": {"LSR": [ENABLE]}}, "REG_INPUTA_CLK"),
    ("operand0", {"parameters": {"CLKMUX": "INV"}}, "REG_INPUTB_CLK"),
    ("product3", {"parameters": {"REGSET": "SET"}}, "REG_OUTPUT_CLK"),
    ("product0", {"connections": {"CE": [ENABLE]}}, "REG_OUTPUT_CLK"),
    ("product2", {"connections": {"CLK": [ENABLE]}}, "REG_OUTPUT_CLK"),
])
def test_flip_flops_that_do_more(name, change, stays):
    netlist = module()
    for kind, values in change.items():
        netlist["cells"][name][kind] |= values
    netlist["cells"][name]["port_directions"] |= dict.fromkeys(change.get("connections", ()), "input")
    use_registers(netlist)
    assert stays not in used(netlist) and name in netlist["cells"] and used(netlist)


def test_product_with_another_reader():
    netlist = module()
    netlist["ports"]["other"] = {"bits": [PRODUCT + 1]}
    use_registers(netlist)
    assert used(netlist) == ["REG_INPUTA_CLK", "REG_INPUTB_CLK"] and "product0" in netlist["cells"]
