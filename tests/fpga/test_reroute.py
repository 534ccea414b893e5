"""Late paths of a routed design, found in the delays that nextpnr writes."""

import pytest

from tilewright.fpga.reroute import late_drivers, unroute


def cell(name, *lines):
    return ['  (CELL (CELLTYPE "X")', f"    (INSTANCE {name})", "    (DELAY (ABSOLUTE", *lines, "    )))"]


def register(name):
    """400 ps to its output, 100 ps of setup."""
    return cell(name, "(IOPATH CLK Q (300:350:400) (300:350:390))",
                "(SETUPHOLD (posedge DI) (posedge CLK) (80:90:100) (-5:0:10))",
                "(SETUPHOLD (negedge DI) (posedge CLK) (80:90:100) (-5:0:10))")


def wire(driver, reader, delay):
    return f"(INTERCONNECT {driver} {reader} (0:{delay}:{delay}) (0:0:{delay}))"


SDF = [
    '(DELAYFILE (SDFVERSION "3.0")',
    *cell("", wire(r"clock\$net/O", "a/CLK", 9000), wire(r"clock\$net/O", "b/CLK", 9000),
          wire("a/Q", r"\$lut\[0\]/A", 1000), wire(r"\$lut\[0\]/F", "carry/C", 0), wire("carry/F", "b/DI", 2000),
          wire("a/Q", "c/DI", 3000), wire("b/Q", "c/CE", 7000), wire("constant/O", r"\$lut\[0\]/B", 9000),
          wire("b/Q", "pad/I", 9000)),
    *cell(r"\$lut\[0\]", "(IOPATH A F (100:150:200) (100:150:190))", "(IOPATH B F (100:150:200) (100:150:190))"),
    *cell("carry", "(IOPATH C F (50:60:70) (50:60:70))"),
    *register("a"), *register("b"), *register("c"),
    ")",
]
"""a -> lut -> carry -> b takes 400 + 1000 + 200 + 0 + 70 + 2000 + 100 = 3770 ps; a -> c 3500. No path are the clock's
wires, the constant's, and those to pins without a setup time."""


@pytest.mark.parametrize("limit, expected", [
    (3769, {("a", "Q"), ("carry", "F")}), (3770, set()), (3500, {("a", "Q"), ("carry", "F")}),
])
def test_late_drivers(limit, expected):
    assert late_drivers(SDF, limit) == expected


def test_each_wire_counts_by_its_own_path():
    """Of a net with a late and an early reader the driver is found once; with the late one gone it is not late."""
    early = [line.replace("2000", "200") for line in SDF]
    assert late_drivers(early, 3400) == {("a", "Q")} and late_drivers(early, 3500) == set()


def test_routes_taken_back():
    def net(bit, routing):
        return {"bits": [bit], "attributes": {"ROUTING": routing, "src": "x"}}

    module = {
        "settings": {"router": "router2"},
        "cells": {"a": {"connections": {"Q": [5], "DI": [6]}}, "b": {"connections": {"Q": [6]}}},
        "netnames": {"late": net(5, "X1/Y1/F0;;1"), "early": net(6, "X2/Y1/F0;;1"),
                     "clock": net(7, "X0/Y0/G_CLKO;X0/Y0/G_PIP;1"), "unrouted": {"bits": [8], "attributes": {}}},
    }
    unroute({"modules": {"top": module}}, {("a", "Q")}, router="router1")
    assert {name for name, each in module["netnames"].items() if "ROUTING" in each["attributes"]} == {"early"}
    assert module["settings"]["router"] == "router1" and module["netnames"]["late"]["attributes"] == {"src": "x"}
