"""Timing of SDR SDRAM parts: 16 bits wide, 4 banks, 8192 rows of 512 columns (32 MB)."""

from dataclasses import dataclass, fields
from math import ceil, floor

__all__ = ["SdramTiming", "SdramCycles", "PARTS", "slowest"]

ROWS = 8192
POSTPONED = 8    # refreshes that may wait


@dataclass(frozen=True, kw_only=True)
class SdramTiming:
    """Times of a part in ns. ``t_wr`` and ``t_mrd`` are two cycles at least, whatever the clock.

    t_rcd : ACTIVE to READ or WRITE        t_rfc : REFRESH to any command
    t_rp  : PRECHARGE to ACTIVE, REFRESH   t_rrd : ACTIVE to ACTIVE of another bank
    t_ras : ACTIVE to PRECHARGE            t_wr  : last data written to PRECHARGE
    t_rc  : ACTIVE to ACTIVE, same bank    t_mrd : mode register set to any command
    t_ras_max : longest that a row may stay open
    t_ck_cl2, t_ck_cl3 : shortest clock cycle with CAS latency 2, 3
    t_ac_cl2, t_ac_cl3 : clock edge to data valid; t_oh : clock edge to data no longer valid
    power_up : pause before the first command. Simulations may shorten it by ``dataclasses.replace``.
    refresh : time in which each row is refreshed once
    """

    t_rcd: float
    t_rp: float
    t_ras: float
    t_rc: float
    t_rfc: float
    t_rrd: float
    t_wr: float
    t_mrd: float
    t_ck_cl2: float
    t_ck_cl3: float
    t_ac_cl2: float
    t_ac_cl3: float
    t_oh: float
    t_ras_max: float = 100_000
    power_up: float = 200_000
    refresh: float = 64_000_000

    def cas_latency(self, clock_hz):
        """The smaller CAS latency that the clock allows; ValueError if it is too fast for the part."""
        period = 1e9 / clock_hz
        for latency, shortest in ((2, self.t_ck_cl2), (3, self.t_ck_cl3)):
            if period >= shortest * (1 - 1e-9):
                return latency
        raise ValueError(f"clock_hz must be at most {1e9 / self.t_ck_cl3:.0f} for this part, not {clock_hz!r}")

    def cycles(self, clock_hz):
        """``SdramCycles`` at that clock."""
        def up(ns, least=1):
            return max(least, ceil(ns * clock_hz / 1e9 - 1e-6))

        t_rp = up(self.t_rp)
        # The last refresh of a round may come POSTPONED intervals late and the next round's first on time.
        interval = floor(self.refresh * clock_hz / 1e9 / (ROWS + POSTPONED + 1))
        return SdramCycles(
            cas_latency=self.cas_latency(clock_hz), t_rp=t_rp, t_rcd=max(up(self.t_rcd), up(self.t_rrd)),
            t_ras=max(up(self.t_ras), up(self.t_rc) - t_rp), t_rfc=up(self.t_rfc), t_wr=up(self.t_wr, 2),
            t_mrd=up(self.t_mrd, 2), power_up=up(self.power_up), interval=interval)

    def read_margins(self, clock_hz, *, phase, capture_delay, shortest_path=3.0, longest_path=4.0):
        """Margins in ns of the register that takes read data, (setup, hold), before what that register itself needs.

        ``phase`` is the SDRAM's clock behind the controller's in degrees, ``capture_delay`` the controller's. The paths
        are clock edge to pin and pin to register, together; the defaults are estimates for ECP5 I/O registers and a
        short board, not measured.
        """
        period = 1e9 / clock_hz
        latency = self.cas_latency(clock_hz)
        access = self.t_ac_cl2 if latency == 2 else self.t_ac_cl3
        edge = (latency - 1 + phase / 360) * period    # after which the first word comes
        sample = (latency + capture_delay) * period
        return sample - (edge + access + longest_path), edge + period + self.t_oh + shortest_path - sample

    def model_parameters(self, clock_hz):
        """Parameters of ``fpga/hdl/sdram_model.sv`` for this part at that clock."""
        def ps(ns):
            return round(ns * 1000)

        names = ("t_rcd", "t_rp", "t_ras", "t_ras_max", "t_rc", "t_rfc", "t_rrd", "t_wr", "t_mrd", "power_up")
        return {"CLOCK": round(1e12 / clock_hz), **{name.upper(): ps(getattr(self, name)) for name in names},
                "T_CK_CL2": ps(self.t_ck_cl2), "T_CK_CL3": ps(self.t_ck_cl3), "REFRESH_NS": round(self.refresh)}


@dataclass(frozen=True, kw_only=True)
class SdramCycles:
    """A part's times in cycles of one clock. ``t_rcd`` covers t_rrd, ``t_ras`` with ``t_rp`` covers t_rc; a REFRESH is
    due each ``interval``."""

    cas_latency: int
    t_rcd: int
    t_rp: int
    t_ras: int
    t_rfc: int
    t_wr: int
    t_mrd: int
    power_up: int
    interval: int


PARTS = {
    # Alliance AS4C16M16SA-C&I, rev. 3.0 (March 2015), table 16
    "as4c16m16sa-6": SdramTiming(
        t_rcd=18, t_rp=18, t_ras=42, t_rc=60, t_rfc=60, t_rrd=12, t_wr=12, t_mrd=12, t_ck_cl2=10, t_ck_cl3=6,
        t_ac_cl2=6, t_ac_cl3=5, t_oh=2.5),
    "as4c16m16sa-7": SdramTiming(
        t_rcd=21, t_rp=21, t_ras=42, t_rc=63, t_rfc=63, t_rrd=14, t_wr=14, t_mrd=14, t_ck_cl2=10, t_ck_cl3=7,
        t_ac_cl2=6, t_ac_cl3=5.4, t_oh=2.5),
    # Winbond W9825G6JH, rev. A04 (November 2011), section 9.5, grade -6; t_rrd and t_mrd are 2 cycles there, 6 ns each.
    # Its successor W9825G6KH is taken to be as fast: LiteDRAM's table has the same figures for that part.
    "w9825g6kh-6": SdramTiming(
        t_rcd=15, t_rp=15, t_ras=42, t_rc=60, t_rfc=60, t_rrd=12, t_wr=12, t_mrd=12, t_ck_cl2=7.5, t_ck_cl3=6,
        t_ac_cl2=6, t_ac_cl3=5, t_oh=3),
    # Micron MT48LC16M16A2-75 and ISSI IS42S16160: t_rcd, t_rp, t_wr and t_rfc (and Micron's t_ras and t_rrd) as in
    # LiteDRAM 2024.12, modules.py; the others are the usual ones of the grade, not compared with a data sheet.
    "mt48lc16m16a2-75": SdramTiming(
        t_rcd=20, t_rp=20, t_ras=44, t_rc=66, t_rfc=66, t_rrd=15, t_wr=15, t_mrd=15, t_ck_cl2=10, t_ck_cl3=7.5,
        t_ac_cl2=6, t_ac_cl3=5.4, t_oh=2.7),
    "is42s16160g-7": SdramTiming(
        t_rcd=20, t_rp=20, t_ras=44, t_rc=66, t_rfc=70, t_rrd=15, t_wr=20, t_mrd=15, t_ck_cl2=10, t_ck_cl3=7,
        t_ac_cl2=6, t_ac_cl3=5.4, t_oh=2.5),
}


def slowest(*parts):
    """A timing that all ``parts`` (names of ``PARTS``) meet: for boards that came with one or another of them."""
    longest_is_safe = {field.name: max for field in fields(SdramTiming)} | {
        name: min for name in ("t_oh", "t_ras_max", "refresh")}
    return SdramTiming(**{name: safe(getattr(PARTS[part], name) for part in parts)
                          for name, safe in longest_is_safe.items()})
