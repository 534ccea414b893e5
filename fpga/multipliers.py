"""Registers of ECP5's multipliers, which Yosys leaves in the fabric."""

from collections import defaultdict

__all__ = ["use_registers"]

WIDTH = 18


def use_registers(module):
    """Let each MULT18X18D of ``module``, of Yosys' JSON after ``synth_ecp5``, register its operands and its product.

    Operands: where all bits of both come from flip-flops, or are zero, they are what these take (of one operand alone
    nextpnr has no timing). A product: where each bit that is used goes to one flip-flop and nowhere else. All the
    flip-flops of operands or of a product have one clock, no enable and no reset, and are zero at first as the cell's
    registers are; so nothing changes in any cycle. Those that nothing reads any more are removed.
    """
    cells = module["cells"]
    drivers, readers = {}, defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            for bit in bits:
                if cell["port_directions"][port] == "output":
                    drivers[bit] = name, port
                else:
                    readers[bit].append((name, port))
    for port in module["ports"].values():
        for bit in port["bits"]:
            readers[bit].append((None, None))
    for name, cell in list(cells.items()):
        if cell["type"] == "MULT18X18D":
            _take_operands(cells, name, drivers, readers)
            _take_product(cells, name, drivers, readers)


def _take_operands(cells, name, drivers, readers):
    cell = cells[name]
    before = {}     # port -> name of its flip-flop
    for port in (f"{operand}{i}" for operand in "AB" for i in range(WIDTH)):
        bit, = cell["connections"].get(port, ["0"])
        if bit == "0":
            continue
        source, at = drivers.get(bit, (None, None))
        if at != "Q" or not _is_plain(cells[source]):
            return
        before[port] = source
    if not _use(cells, cell, ("INPUTA", "INPUTB"), before.values()):
        return
    for port, source in before.items():
        (held,), taken = cell["connections"][port], cells[source]["connections"]["DI"]
        cell["connections"][port] = taken
        readers[held].remove((name, port))
        readers[taken[0]].append((name, port))
        if not readers[held]:
            readers[taken[0]].remove((source, "DI"))
            del cells[source]


def _take_product(cells, name, drivers, readers):
    cell = cells[name]
    behind = {}
    for port in (f"P{i}" for i in range(2 * WIDTH)):
        for bit in cell["connections"].get(port, ()):
            if not readers[bit]:
                continue
            (target, at), *others = readers[bit]
            if others or at != "DI" or not _is_plain(cells[target]):
                return
            behind[port] = target
    if _use(cells, cell, ("OUTPUT",), behind.values()):
        for port, target in behind.items():
            cell["connections"][port] = held = cells.pop(target)["connections"]["Q"]
            drivers[held[0]] = name, port


def _use(cells, cell, registers, names):
    """Switch registers of ``cell`` on in the place of flip-flops; False where they do not have one clock."""
    clocks = {cells[name]["connections"]["CLK"][0] for name in names} | set(cell["connections"].get("CLK0", ()))
    if not names or len(clocks) != 1:
        return False
    for register in registers:
        cell["parameters"] |= {f"REG_{register}_CLK": "CLK0", f"REG_{register}_CE": "CE0",
                               f"REG_{register}_RST": "RST0"}
    for port, value in (("CLK0", clocks.pop()), ("CE0", "1"), ("RST0", "0")):
        cell["connections"][port], cell["port_directions"][port] = [value], "input"
    return True


def _is_plain(cell):
    """A flip-flop that takes its input with each rising edge, and nothing else, and is zero at first."""
    connections, parameters = cell["connections"], cell["parameters"]
    return (cell["type"] == "TRELLIS_FF" and "CE" not in connections and connections.get("LSR", ["0"]) == ["0"]
            and parameters.get("CLKMUX", "CLK") == "CLK" and parameters.get("REGSET", "RESET") == "RESET")
