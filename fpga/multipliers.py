"""Output registers of ECP5's multipliers, which Yosys leaves in the fabric."""

from collections import defaultdict

__all__ = ["use_output_registers"]

OUTPUTS = [f"P{i}" for i in range(36)]


def use_output_registers(module):
    """Move the flip-flops behind each MULT18X18D of ``module``, of Yosys' JSON after ``synth_ecp5``, into the cell.

    Done where each bit of the product that is used goes to one flip-flop and nowhere else, all of them with one clock,
    with no enable and no reset: then nothing changes but what is stored before the first edge. Returns how many
    flip-flops went.
    """
    cells = module["cells"]
    readers = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for bit in bits:
                    readers[bit].append((name, port))
    for port in module["ports"].values():
        for bit in port["bits"]:
            readers[bit].append((None, None))

    taken = 0
    for cell in [cell for cell in cells.values() if cell["type"] == "MULT18X18D"]:
        behind = {}     # port -> flip-flop
        for port in OUTPUTS:
            for bit in cell["connections"].get(port, ()):
                for name, at in readers[bit]:
                    behind[port] = name if len(readers[bit]) == 1 and at == "DI" and _is_plain(cells[name]) else None
        clocks = {cells[name]["connections"]["CLK"][0] for name in behind.values() if name}
        if None in behind.values() or len(clocks) != 1:
            continue
        cell["parameters"] |= {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0", "REG_OUTPUT_RST": "RST0"}
        for port, value in (("CLK0", clocks.pop()), ("CE0", "1"), ("RST0", "0")):
            cell["connections"][port], cell["port_directions"][port] = [value], "input"
        for port, name in behind.items():
            cell["connections"][port] = cells.pop(name)["connections"]["Q"]
        taken += len(behind)
    return taken


def _is_plain(cell):
    """A flip-flop that takes its input with each rising edge, and nothing else, and is zero at first."""
    connections, parameters = cell["connections"], cell["parameters"]
    return (cell["type"] == "TRELLIS_FF" and connections.get("CE", ["1"]) == ["1"]
            and connections.get("LSR", ["0"]) == ["0"] and parameters.get("LSRMUX", "LSR") == "LSR"
            and parameters.get("CLKMUX", "CLK") == "CLK" and parameters.get("REGSET", "RESET") == "RESET")
