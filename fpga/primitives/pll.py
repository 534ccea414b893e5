"""Clock generation: the parts' phase-locked loops behind one class."""

from dataclasses import dataclass
from math import isclose

from amaranth.hdl import Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Pll", "PllError", "Ecp5Dividers", "GowinDividers", "Ice40Dividers", "PLLS"]

MHZ = 1e6


class PllError(ValueError):
    """A frequency that the part's loop cannot make; the message names the nearest ones."""


def _choose(candidates, frequency, part):
    """The dividers that make ``frequency`` exactly, those of the fastest comparison first; raises PllError."""
    exact = [c for c in candidates if isclose(c.frequency, frequency, rel_tol=1e-9)]
    if exact:
        return max(exact, key=lambda c: (c.comparison, c.oscillator))
    near = sorted({round(c.frequency) for c in candidates}, key=lambda f: abs(f - frequency))[:2]
    raise PllError(f"frequency = {frequency / MHZ:g} MHz: the PLL of {part} cannot make it; the nearest are "
                   f"{' and '.join(f'{f / MHZ:g}' for f in sorted(near))} MHz; change frequency")


@dataclass(frozen=True)
class Ecp5Dividers:
    """EHXPLLL with its feedback from CLKOP, which runs at the comparison frequency; the clock is CLKOS, and CLKOS2 the
    same three quarters of a period later.

    Source: Lattice FPGA-DS-02012 (sysCLOCK PLL timing): comparison 10 to 400 MHz, oscillator 400 to 800 MHz.
    """

    input: float
    reference: int
    feedback: int
    output: int

    @property
    def comparison(self):
        return self.input / self.reference

    @property
    def oscillator(self):
        return self.comparison * self.feedback

    @property
    def frequency(self):
        return self.oscillator / self.output

    @classmethod
    def choose(cls, input_frequency, frequency):
        """Dividers for ``frequency`` out of ``input_frequency``, both in Hz."""
        candidates = [
            cls(input_frequency, reference, feedback, output)
            for reference in range(1, int(input_frequency / (10 * MHZ)) + 1)
            for feedback in range(1, 129) if 400 * MHZ <= input_frequency / reference * feedback <= 800 * MHZ
            for output in range(1, 129)]
        return _choose(candidates, frequency, "ECP5")

    def instance(self, *, i, o, late, locked):
        feedback = Signal()
        cycles, eighths = divmod(6 * self.output, 8)     # of the oscillator, that CLKOS2 comes later
        return Instance(
            "EHXPLLL", a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            a_FREQUENCY_PIN_CLKI=f"{self.input / MHZ:g}", a_FREQUENCY_PIN_CLKOP=f"{self.comparison / MHZ:g}",
            a_FREQUENCY_PIN_CLKOS=f"{self.frequency / MHZ:g}", a_FREQUENCY_PIN_CLKOS2=f"{self.frequency / MHZ:g}",
            p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=self.reference, p_CLKFB_DIV=1, p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=self.feedback, p_CLKOP_CPHASE=self.feedback - 1, p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED", p_CLKOS_DIV=self.output, p_CLKOS_CPHASE=self.output - 1, p_CLKOS_FPHASE=0,
            p_CLKOS2_ENABLE="ENABLED", p_CLKOS2_DIV=self.output, p_CLKOS2_CPHASE=self.output - 1 + cycles,
            p_CLKOS2_FPHASE=eighths,
            i_RST=Const(0), i_STDBY=Const(0), i_CLKI=i, i_CLKFB=feedback, i_PHASESEL0=Const(0), i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1), i_PHASESTEP=Const(1), i_PHASELOADREG=Const(1), i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0), o_CLKOP=feedback, o_CLKOS=o, o_CLKOS2=late, o_LOCK=locked)


@dataclass(frozen=True)
class GowinDividers:
    """rPLL of GW2A; CLKOUTP is the clock three quarters of a period later.

    Source: Gowin UG286 and DS102 (PLL): comparison 3 to 500 MHz, oscillator 500 to 1250 MHz.
    """

    input: float
    reference: int
    feedback: int
    output: int

    @property
    def comparison(self):
        return self.input / self.reference

    @property
    def frequency(self):
        return self.comparison * self.feedback

    @property
    def oscillator(self):
        return self.frequency * self.output

    @classmethod
    def choose(cls, input_frequency, frequency):
        """Dividers for ``frequency`` out of ``input_frequency``, both in Hz."""
        candidates = [
            cls(input_frequency, reference, feedback, output)
            for reference in range(1, min(64, int(input_frequency / (3 * MHZ))) + 1)
            for feedback in range(1, 65)
            for output in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
            if 500 * MHZ <= input_frequency / reference * feedback * output <= 1250 * MHZ]
        return _choose(candidates, frequency, "GW2A")

    def instance(self, *, i, o, late, locked):
        return Instance(
            "rPLL", p_FCLKIN=f"{self.input / MHZ:g}", p_IDIV_SEL=self.reference - 1, p_FBDIV_SEL=self.feedback - 1,
            p_ODIV_SEL=self.output, p_DYN_IDIV_SEL="false", p_DYN_FBDIV_SEL="false", p_DYN_ODIV_SEL="false",
            p_PSDA_SEL="1100", p_DUTYDA_SEL="1000", p_DYN_DA_EN="false", p_CLKFB_SEL="internal",
            p_CLKOUT_BYPASS="false", p_CLKOUTP_BYPASS="false", p_CLKOUTD_BYPASS="false", p_DYN_SDIV_SEL=2,
            p_CLKOUTD_SRC="CLKOUT", p_CLKOUTD3_SRC="CLKOUT", p_DEVICE="GW2A-18",
            i_CLKIN=i, i_CLKFB=Const(0), i_RESET=Const(0), i_RESET_P=Const(0), i_FBDSEL=Const(0, 6),
            i_IDSEL=Const(0, 6), i_ODSEL=Const(0, 6), i_PSDA=Const(0, 4), i_DUTYDA=Const(0, 4), i_FDLY=Const(0, 4),
            o_CLKOUT=o, o_CLKOUTP=late, o_LOCK=locked)


@dataclass(frozen=True)
class Ice40Dividers:
    """SB_PLL40_PAD with simple feedback, whose input is a pin: ``i`` is the port there. It has no second output with a
    free phase, so ``late`` stays low: no board of this family has SDRAM.

    Source: Lattice FPGA-TN-02052 (sysCLOCK PLL): input 10 to 133 MHz, comparison 10 to 133 MHz, oscillator 533 to
    1066 MHz, output 16 to 275 MHz.
    """

    input: float
    reference: int
    feedback: int
    output: int

    @property
    def comparison(self):
        return self.input / self.reference

    @property
    def oscillator(self):
        return self.comparison * self.feedback

    @property
    def frequency(self):
        return self.oscillator / self.output

    @classmethod
    def choose(cls, input_frequency, frequency):
        """Dividers for ``frequency`` out of ``input_frequency``, both in Hz."""
        candidates = [
            cls(input_frequency, reference, feedback, 1 << log)
            for reference in range(1, min(16, int(input_frequency / (10 * MHZ))) + 1)
            for feedback in range(1, 129) if 533 * MHZ <= input_frequency / reference * feedback <= 1066 * MHZ
            for log in range(1, 7)
            if 16 * MHZ <= input_frequency / reference * feedback / (1 << log) <= 275 * MHZ]
        return _choose(candidates, frequency, "iCE40")

    def instance(self, *, i, o, late, locked):
        return Instance(
            "SB_PLL40_PAD", p_FEEDBACK_PATH="SIMPLE", p_PLLOUT_SELECT="GENCLK", p_DIVR=Const(self.reference - 1, 4),
            p_DIVF=Const(self.feedback - 1, 7), p_DIVQ=Const(self.output.bit_length() - 1, 3),
            p_FILTER_RANGE=Const(self._filter_range(), 3),
            io_PACKAGEPIN=i, i_RESETB=Const(1), i_BYPASS=Const(0), o_PLLOUTGLOBAL=o, o_LOCK=locked)

    def _filter_range(self):
        """The loop's filter, by the comparison frequency."""
        return 1 + sum(self.comparison >= limit * MHZ for limit in (17, 26, 44, 66, 101))


PLLS = {"ecp5": Ecp5Dividers, "gowin": GowinDividers, "ice40": Ice40Dividers}


class Pll(wiring.Component):
    """A clock of ``frequency`` out of one of ``input_frequency``, both in Hz.

    Parameters
    ----------
    family : str or None                       None: the twin for simulation
    input_frequency, frequency : int or float
    pad : IOPort or None                       the clock's pin, where the loop of the family takes no signal (ice40)

    Members
    -------
    i : In(1)         clock of the board; unused with a ``pad``
    o : Out(1)        clock made of it; the twin for simulation (``family`` None) hands ``i`` on
    late : Out(1)     ``o`` three quarters of a period later; the twin hands ``i`` inverted on
    locked : Out(1)   the clocks are stable

    Raises PllError where the loop of ``family`` (``ecp5``, ``gowin``, ``ice40``) cannot make the frequency.
    """

    def __init__(self, *, family, input_frequency, frequency, pad=None):
        if family is not None and family not in PLLS:
            raise ValueError(f"family = {family!r}: must be None or one of {', '.join(PLLS)}")
        self.dividers = PLLS[family].choose(input_frequency, frequency) if family else None
        self._pad = pad
        super().__init__({"i": In(1), "o": Out(1), "late": Out(1), "locked": Out(1)})

    def elaborate(self, platform):
        m = Module()
        if self.dividers is None:
            m.d.comb += [self.o.eq(self.i), self.late.eq(~self.i), self.locked.eq(1)]
        else:
            m.submodules.pll = self.dividers.instance(
                i=self.i if self._pad is None else self._pad, o=self.o, late=self.late, locked=self.locked)
        return m
