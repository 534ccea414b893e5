"""SdramTiming: cycles at a clock, and what it refuses."""

import pytest

from tilewright.fpga.memory.sdram import SdramController
from tilewright.fpga.memory.timing import PARTS, slowest


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("clock_hz", [25e6, 50e6, 80e6, 100e6, 120e6, 133e6])
def test_cycles(part, clock_hz):
    """Each time in cycles is as long as in ns, and refresh keeps the 64 ms with eight refreshes late."""
    timing, period = PARTS[part], 1e9 / clock_hz
    cycles = timing.cycles(clock_hz)
    for name in ("t_rcd", "t_rp", "t_ras", "t_rfc", "t_wr", "t_mrd", "power_up"):
        assert getattr(cycles, name) * period >= getattr(timing, name) - 1e-6, name
    assert cycles.t_rcd * period >= timing.t_rrd
    assert (cycles.t_ras + cycles.t_rp) * period >= timing.t_rc
    assert min(cycles.t_wr, cycles.t_mrd) >= 2
    assert (8192 + 8) * cycles.interval * period <= 64e6 < 8210 * (cycles.interval + 1) * period
    assert 9 * cycles.interval * period < timing.t_ras_max
    assert period >= (timing.t_ck_cl2 if cycles.cas_latency == 2 else timing.t_ck_cl3) - 1e-6


def test_at_100_mhz():
    """Worked by hand: 18 ns are 2 cycles, 42 are 5, 60 are 6."""
    cycles = PARTS["as4c16m16sa-6"].cycles(100e6)
    assert (cycles.cas_latency, cycles.t_rcd, cycles.t_rp, cycles.t_ras, cycles.t_rfc, cycles.t_wr, cycles.t_mrd) == \
        (2, 2, 2, 5, 6, 2, 2)
    assert cycles.interval == 780 and cycles.power_up == 20_000
    assert PARTS["as4c16m16sa-6"].cycles(133e6).cas_latency == 3
    assert PARTS["as4c16m16sa-7"].cycles(100e6).t_rcd == 3


def test_read_margins():
    """By hand: at 100 MHz, CAS latency 2 and 180 degrees the edge before the word is 15 ns after the command; data
    comes 6 + 4 ns later, goes 10 + 2.5 + 3 ns later, and is sampled at 30."""
    part = PARTS["as4c16m16sa-7"]
    assert part.read_margins(100e6, phase=180, capture_delay=1) == pytest.approx((5, 0.5))
    assert part.read_margins(80e6, phase=180, capture_delay=1)[1] < 0
    for clock_hz in (60e6, 80e6, 100e6):
        assert min(slowest(*PARTS).read_margins(clock_hz, phase=270, capture_delay=1)) > 1


def test_slowest():
    timing = slowest("as4c16m16sa-7", "w9825g6kh-6")
    assert (timing.t_rcd, timing.t_rc, timing.t_oh, timing.t_ck_cl2) == (21, 63, 2.5, 10)
    assert all(slowest(*PARTS).cycles(100e6).t_rfc >= part.cycles(100e6).t_rfc for part in PARTS.values())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"width": 16}, "width must be 32, 64 or 128, not 16"),
    ({"address_width": 25}, "address_width must be at least 26, not 25"),
    ({"capture_delay": 9}, "capture_delay must be from 0 to 8, not 9"),
    ({"clock_hz": 150e6}, "clock_hz must be at most 142857143 for this part, not 150000000.0"),
    ({"clock_hz": 15e6}, "clock_hz must be higher: a refresh is due each 117 cycles, at least 158 are needed"),
    ({"registers": "tin"}, "kind must be one of fabric, ecp5, not 'tin'"),
])
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SdramController(**{"width": 32, "clock_hz": 100e6} | arguments)
