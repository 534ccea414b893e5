"""Which nets of a routed design are on late paths, and their routes taken back, so that they can be routed again.

nextpnr's router2 finds ways for all nets where router1 does not, but without regard to delay: some take long detours.
Of what is left to router1 each net then has the fastest way that it can get.
"""

import re
from collections import defaultdict

__all__ = ["late_drivers", "unroute", "LATE"]

LATE = 0.975
"""Part of the clock's period from which on a path counts as late."""
_NUMBER = re.compile(r"\(([\d.:-]+)\)")
_CHECKED = re.compile(r"\(SETUPHOLD \((?:posedge|negedge) (\S+)\) \((?:posedge|negedge) (\S+)\) \(([-\d.:]+)\)")


def _longest(delays):
    return max(float(number) for group in delays for number in group.split(":"))


def _read(lines):
    """Delays of an SDF file in ps: from pin to pin with whether that is a wire, from the clock to a register's output
    pin, setup of an input pin."""
    arcs, clocks, setup, instance = defaultdict(list), set(), {}, ""
    for line in lines:
        line = line.strip().replace("\\", "")
        if line.startswith("(INSTANCE"):
            instance = line[len("(INSTANCE"):].rstrip(")").strip()
        elif line.startswith("(INTERCONNECT"):
            _, driver, reader, *_ = line.split()
            arcs[driver].append((reader, _longest(_NUMBER.findall(line)), True))
        elif line.startswith("(IOPATH"):
            _, source, target, *_ = line.split()
            arcs[f"{instance}/{source}"].append((f"{instance}/{target}", _longest(_NUMBER.findall(line)), False))
        elif match := _CHECKED.match(line):
            pin = f"{instance}/{match[1]}"
            setup[pin] = max(setup.get(pin, 0), _longest([match[3]]))
            clocks.add(f"{instance}/{match[2]}")
    launch = {}
    for clock in clocks & arcs.keys():
        for target, delay, _ in arcs.pop(clock):
            launch[target] = max(launch.get(target, 0), delay)
    return arcs, launch, setup


def late_drivers(lines, limit):
    """Output pins, as (cell, port), that drive a part of a path longer than ``limit`` ps from register to register.

    lines : the SDF file that nextpnr writes of a routed design
    """
    arcs, launch, setup = _read(lines)
    entering = defaultdict(int)
    for leaving in arcs.values():
        for target, _, _ in leaving:
            entering[target] += 1
    order = [pin for pin in arcs if not entering[pin]]
    for pin in order:           # grows while it is walked: each pin behind all that lead to it
        for target, _, _ in arcs.get(pin, ()):
            entering[target] -= 1
            if not entering[target]:
                order.append(target)
    arrival = dict(launch)      # of what no register drives there is none
    for pin in order:
        if pin in arrival:
            for target, delay, _ in arcs.get(pin, ()):
                arrival[target] = max(arrival.get(target, 0), arrival[pin] + delay)
    rest = dict(setup)
    for pin in reversed(order):
        for target, delay, _ in arcs.get(pin, ()):
            if target in rest:
                rest[pin] = max(rest.get(pin, 0), rest[target] + delay)
    return {tuple(pin.rsplit("/", 1)) for pin in arrival
            for target, delay, wire in arcs.get(pin, ())
            if wire and delay and target in rest and arrival[pin] + delay + rest[target] > limit}


def unroute(design, drivers, *, router):
    """Take back the routes of the nets that ``drivers`` (cell, port) drive, and of the clocks, which nextpnr routes
    first in every run; ``router`` is the one to route them with.

    design : what nextpnr wrote of a routed design, changed in place
    """
    module = next(iter(design["modules"].values()))
    late = {bit for cell, port in drivers for bit in module["cells"][cell]["connections"][port]}
    for net in module["netnames"].values():
        routing = net["attributes"].get("ROUTING", "")
        if late.intersection(net["bits"]) or "/G_" in routing:
            net["attributes"].pop("ROUTING", None)
    module["settings"]["router"] = router
