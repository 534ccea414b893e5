"""FP16 multiply and add over all pairs of operands, FP32 to FP16 over all operands: Verilator and a loop in C++.

The units are the FP16 engine's own: an array of PEs, the rounding of its sums to FP32, and the conversion to FP16.
"""

import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilewright.gen.errors import ToolError
from tilewright.hw.fp.convert import Fp32ToFp16
from tilewright.hw.matmul.fp16_array import Fp16Array, exact_sum
from tilewright.hw.matmul.fp16_round import RoundSum

from .loop import build_loop

__all__ = ["OPERATIONS", "BLOCKS", "BLOCK", "Soak", "soak"]

BLOCK = 1 << 16
"""Operands or pairs that go together: all with the same a, or the same upper half."""

BLOCKS = 1 << 16
LANES = 8  # or more: Verilator gives ports of more than 64 bits as arrays
STOP = 8       # mismatches that are enough
FP16_ONE = 0x3C00
LOST = 0b111   # low bits of an FP32 number that the planted bug drops on the way to FP16: wrong next to a tie alone


class Convert(wiring.Component):
    """``LANES`` conversions FP32 to FP16, ``delay`` cycles; with a rounding bug if ``planted``, which is constant."""

    cycles, delay = 1, Fp32ToFp16.delay

    def __init__(self):
        super().__init__({"planted": In(1), "x": In(32 * LANES), "half": Out(16 * LANES)})

    def elaborate(self, platform):
        m = Module()
        for lane in range(LANES):
            m.submodules[f"convert_{lane}"] = convert = Fp32ToFp16()
            m.d.comb += [convert.i.eq(self.x.word_select(lane, 32) & ~Mux(self.planted, LOST, Const(0, 32))),
                         self.half.word_select(lane, 16).eq(convert.o)]
        return m


class Engine(wiring.Component):
    """The FP16 engine's arithmetic on sums of ``cycles`` products: a * b, or 1 * b + a * 1.

    ``a`` and ``b`` [LANES] stay for ``cycles`` cycles, the first pair from reset on; the results are there ``delay``
    cycles after the last of them, as FP32 in ``wide`` and converted to FP16 in ``half``.
    """

    delay = Fp16Array.delay - 1 + Fp16Array.step_delay + RoundSum.delay + Fp32ToFp16.delay

    def __init__(self, *, add):
        self._add = add
        self.cycles = 2 if add else 1
        super().__init__({"planted": In(1), "a": In(16), "b": In(16 * LANES), "wide": Out(32 * LANES),
                          "half": Out(16 * LANES)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = Fp16Array(rows=1, lanes=LANES, outputs=LANES, depth=self.cycles)
        m.submodules.convert = convert = Convert()
        m.d.comb += [convert.planted.eq(self.planted), array.valid.eq(1), array.step.eq(1)]
        ones = Const(sum(FP16_ONE << 16 * lane for lane in range(LANES)), 16 * LANES)
        if self._add:
            second = Signal()
            m.d.sync += second.eq(~second)
            m.d.comb += array.last.eq(second)
            with m.If(second):
                m.d.comb += [array.activations.eq(self.a), array.weights.eq(ones)]
            with m.Else():
                m.d.comb += [array.activations.eq(FP16_ONE), array.weights.eq(self.b)]
        else:
            m.d.comb += [array.last.eq(1), array.activations.eq(self.a), array.weights.eq(self.b)]

        size = exact_sum(self.cycles).size
        for lane in range(LANES):
            m.submodules[f"round_{lane}"] = rounding = RoundSum(depth=self.cycles)
            m.d.comb += [rounding.sum.eq(array.sums.word_select(lane, size)),
                         convert.x.word_select(lane, 32).eq(rounding.o)]
        wide = convert.x
        for _ in range(convert.delay):
            later = Signal.like(wide, name="wide", reset_less=True)
            m.d.sync += later.eq(wide)
            wide = later
        m.d.comb += [self.wide.eq(wide), self.half.eq(convert.half)]
        return m


OPERATIONS = {
    "multiply": (0, lambda: Engine(add=False)),
    "add": (1, lambda: Engine(add=True)),
    "convert": (2, Convert),
}
"""Operation -> (its number in soak.cpp, constructor of what is tested)."""


@dataclass(frozen=True, kw_only=True)
class Soak:
    """``checked``: operands or pairs compared, ``mismatches``: how many of them differed, told in ``lines``."""

    operation: str
    planted: bool
    checked: int
    mismatches: int
    seconds: float
    lines: tuple[str, ...]


def soak(operation, *, folder, blocks=BLOCKS, jobs=2, planted=False, progress=lambda done: None):
    """Test ``blocks`` blocks of operands, shared out to ``jobs`` processes; ``progress`` hears how many are done.

    Each process stops after a few mismatches; ``planted``: with a rounding bug that has to give some. Programs are
    built under ``folder``. Raises ToolError where one cannot be built or ends without a result.
    """
    number, make = OPERATIONS[operation]
    unit = make()
    defines = {"OPERATION": number, "LANES": LANES, "CYCLES": unit.cycles, "DELAY": unit.delay}
    program = build_loop(unit, Path(__file__).parent / "hdl" / "soak.cpp", folder=Path(folder) / operation,
                         defines=defines)
    borders = [blocks * i // jobs for i in range(jobs + 1)]
    begin = time.monotonic()
    done, lines, totals, threads, processes = [0] * jobs, [], [], [], []

    def listen(i, output):
        for line in output:
            words = line.split()
            if words[0] == "done":
                done[i] = int(words[1])
                progress(sum(done))
            elif words[0] == "mismatch":
                lines.append(line.strip())
            else:
                totals.append((int(words[1]), int(words[3])))

    for i in range(jobs):
        arguments = [borders[i], borders[i + 1], STOP, int(planted)]
        process = subprocess.Popen([str(program.resolve()), *map(str, arguments)],
                                   stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        threads.append(threading.Thread(target=listen, args=(i, process.stdout)))
        threads[-1].start()
        processes.append(process)
    try:
        for thread in threads:
            thread.join()
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    if len(totals) != jobs:
        raise ToolError(f"soak of {operation}: {program} ended without a result")
    progress(blocks)
    return Soak(operation=operation, planted=planted, checked=sum(checked for checked, _ in totals),
                mismatches=sum(wrong for _, wrong in totals), seconds=time.monotonic() - begin, lines=tuple(lines))
