"""Table functions: the piecewise quadratics of docs/numerics.md, all of a build's tables in one unit."""

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..tables import C0_BITS, C1_BITS, C2_BITS, K_BITS, WINDOW, X_BITS, Y_BITS

__all__ = ["TableFunction", "check_table"]

U_BITS = 17
LEADING_BITS = 2   # places that the leading one of p0 may have (check_table): the normaliser needs no more
P0_BITS = C0_BITS - 1
BIAS = 127
FIELD_BITS = 10    # signed: exponent + y + 127, less one place of normalising, is from -258 to 509
QUIET_NAN = 0x7FC00000


def check_table(table):
    """Raise ValueError where a FunctionTable does not fit the format, or the hardware's limits on p0."""
    def refuse(problem):
        raise ValueError(f"table {table.name}: {problem}")

    segments = len(table.c0)
    for name, width in (("base", 0), ("log2_segments", 0), ("exponent", X_BITS), ("c0", C0_BITS), ("c1", C1_BITS),
                        ("c2", C2_BITS), ("y", Y_BITS)):
        values = getattr(table, name)
        entries = segments if name in ("c0", "c1", "c2", "y") else 2 * WINDOW
        if len(values) != entries:
            refuse(f"{name} has {len(values)} entries; must have {entries}")
        if width and not all(-(1 << width - 1) <= v < 1 << width - 1 for v in values):
            refuse(f"{name} must fit {width} bits, signed")
    if not 0 <= table.e_min <= 255:
        refuse(f"e_min = {table.e_min}; must be from 0 to 255")
    for base, k in zip(table.base, table.log2_segments, strict=True):
        if not (0 <= k < 1 << K_BITS and 0 <= base <= segments - (1 << k)):
            refuse(f"a descriptor asks for 2^{k} segments from {base} on; there are {segments}")
    for j, row in enumerate(zip(table.c0, table.c1, table.c2, strict=True)):
        if any(row) and not _in_range(*row):
            refuse(f"segment {j}: |p1| must be below 2^17, and p0 zero or of one sign with 2^25 <= |p0| < 2^27")


def _in_range(c0, c1, c2):
    """Whether p1 and p0 of a segment stay in range for every u."""
    last = (1 << U_BITS) - 1
    points = [0, last]
    if c2 and 0 < -c1 * 2**16 / c2 < last:
        points.append(-c1 * 2**16 / c2)  # vertex
    sign = 1 if c0 > 0 else -1
    exact = [sign * (c0 + (c1 + c2 * u / 2**17) * u / 2**7) for u in points]
    slack = 2**10 + 2 if c2 else 1  # shifts that round down: p1's, which u * 2^-7 enlarges, and p0's
    return (min(exact) - slack >= 1 << P0_BITS - LEADING_BITS and max(exact) + slack < 1 << P0_BITS
            and max(abs(c1), abs(c1 + (c2 * last >> U_BITS))) < 1 << C1_BITS - 1)


def _delayed(m, value, cycles=1, *, name):
    """``value`` (any shape) after ``cycles`` registers without reset."""
    for _ in range(cycles):
        register = Signal(Value.cast(value).shape(), name=name, reset_less=True)
        m.d.sync += register.eq(value)
        value = register
    return value


class TableFunction(wiring.Component):
    """o = F(x), F one of the tables or nothing at all, chosen anew for each value.

    Latency: ``delay`` cycles. Throughput: one result a cycle. Flow control: none, free-running.

    Descriptors and coefficients lie in block RAM with registered outputs: 128 descriptors of about 23 bits a table, and
    2 x 36 bits a segment. c0 is kept as magnitude and sign, since p0 has c0's sign in the whole segment.

    Parameters
    ----------
    tables : tuple of FunctionTable   may be empty: then the unit is a register

    Members
    -------
    x : In(32)       FP32
    select : In(4)   0: o = x unchanged (NaN too); i: tables[i - 1]. Larger values: o is undefined
    o : Out(32)      FP32

    Raises ValueError for more than 15 tables, or a table outside its format (``check_table``).
    """

    def __init__(self, *, tables):
        if len(tables) > 15:
            raise ValueError(f"tables has {len(tables)} entries; at most 15 can be selected")
        for table in tables:
            check_table(table)
        self._tables = tuple(tables)
        super().__init__({"x": In(32), "select": In(4), "o": Out(32)})

    @property
    def tables(self):
        return self._tables

    @property
    def delay(self):
        """Cycles from ``x`` to ``o``."""
        return 13 if self._tables else 1

    def elaborate(self, platform):
        m = Module()
        if not self._tables:
            m.d.sync += self.o.eq(self.x)
            return m

        # Cycle 3: the top k bits of the fraction number the segment, the rest is u.
        descriptor, fraction = self._build_descriptor(m)
        shifted = fraction << descriptor.k
        segment = _delayed(m, shifted[23:], name="segment")
        base = _delayed(m, descriptor.base, name="base")
        u = _delayed(m, shifted[6:23], name="u")

        # Cycle 4: fetch the coefficients, c0 three cycles after the others.
        slope_address, slope = self._build_rom(m, "slope", {"c1": signed(C1_BITS), "c2": signed(C2_BITS)}, [
            {"c1": c1, "c2": c2} for t in self._tables for c1, c2 in zip(t.c1, t.c2, strict=True)])
        start_address, start = self._build_rom(m, "start", {"c0": P0_BITS, "sign": 1, "y": signed(Y_BITS)}, [
            {"c0": abs(c0), "sign": c0 < 0, "y": y} for t in self._tables for c0, y in zip(t.c0, t.y, strict=True)])
        m.d.comb += slope_address.eq(base + segment)
        m.d.comb += start_address.eq(_delayed(m, slope_address, 3, name="address"))
        u = _delayed(m, u, 2, name="u")

        # Cycle 6: c2 * u. Cycle 7: p1.
        curve = _delayed(m, (slope.c2 * u) >> U_BITS, name="curve")
        p1 = Signal(signed(C1_BITS), reset_less=True)
        m.d.sync += p1.eq(_delayed(m, slope.c1, name="c1") + curve)

        # Cycle 8: p1 * u. Cycle 9: |p0| = |c0| + or - the product, with the exponent it is counted in.
        tail = _delayed(m, ((p1 * _delayed(m, u, 2, name="u")) >> 7)[:P0_BITS], name="tail")
        magnitude = Signal(P0_BITS, reset_less=True)
        m.d.sync += magnitude.eq((Cat(C(1, 1), start.c0) + Cat(start.sign, tail ^ start.sign.replicate(P0_BITS)))[1:])
        exponent = _delayed(m, _delayed(m, descriptor.exponent, 6, name="exponent") + start.y, name="exponent")
        sign = _delayed(m, start.sign, 2, name="sign")

        self._build_result(m, magnitude, exponent, sign)
        return m

    def _build_rom(self, m, name, fields, rows):
        """Address of a block RAM, and its data two cycles later."""
        layout = data.StructLayout(fields)
        m.submodules[name] = rom = memory.Memory(shape=layout, depth=len(rows), init=rows)
        port = rom.read_port()
        row = Signal(layout, name=f"{name}_row", reset_less=True)
        m.d.sync += row.eq(port.data)
        return port.addr, row

    def _build_descriptor(self, m):
        """Descriptor of the operand's binade, and its fraction, in cycle 3 (the operand being there in cycle 0)."""
        tables = self._tables
        offsets = [sum(len(t.c0) for t in tables[:i]) for i in range(len(tables) + 1)]
        address, descriptor = self._build_rom(
            m, "descriptors", {"base": bits_for(offsets[-1] - 1), "k": K_BITS, "exponent": signed(X_BITS + 1)}, [
                {"base": offset + base, "k": k, "exponent": exponent + BIAS}
                for offset, t in zip(offsets, tables, strict=False)
                for base, k, exponent in zip(t.base, t.log2_segments, t.exponent, strict=True)])

        # Cycle 0: distance from the window's start.
        index = (self.select - 1)[:bits_for(len(tables) - 1)]
        distance = _delayed(m, self.x[23:31] - Array([C(t.e_min, 8) for t in tables])[index], name="distance")
        index, sign = _delayed(m, index, name="index"), _delayed(m, self.x[31], name="sign")
        fraction = _delayed(m, self.x[:23], name="fraction")

        # Cycle 1: an operand outside the window counts as the nearest one inside.
        below, above = distance < 0, distance >= WINDOW
        w = Mux(below, 0, Mux(above, WINDOW - 1, distance[:6]))
        m.d.comb += address.eq(Cat(w[:6], sign, index))
        fraction = Mux(below, 0, fraction | above.replicate(23))
        return descriptor, _delayed(m, fraction, 2, name="fraction")

    def _build_result(self, m, magnitude, exponent, sign):
        """Word from cycle 10 on: a magnitude that is zero or has its leading one in one of two places."""
        # Cycle 10: bring the leading one to the top.
        high = magnitude[-1]
        fraction = _delayed(m, Mux(high, magnitude, magnitude << 1)[P0_BITS - 24:P0_BITS - 1], name="fraction")
        field = Signal(signed(FIELD_BITS), reset_less=True)
        m.d.sync += field.eq(exponent - ~high)
        zero = _delayed(m, ~magnitude[-LEADING_BITS:].any(), name="zero")

        # Cycle 11: overflow, underflow, NaN.
        nan = _delayed(m, self.x[23:31].all() & self.x[:23].any(), 11, name="nan")
        small = zero | field[-1] | ~field.any()
        large = ~zero & ~field[-1] & (field[8] | field[:8].all())
        field = _delayed(m, field[:8] & ~small.replicate(8) | (large | nan).replicate(8), name="field")
        fraction = _delayed(m, fraction, name="fraction")
        keep, quiet = _delayed(m, ~(small | large | nan), name="keep"), _delayed(m, nan, name="quiet")
        sign = _delayed(m, sign & ~nan, name="sign")

        # Cycle 12: the result, or the operand as it was.
        fraction = fraction & keep.replicate(23) | Cat(C(0, 22), quiet)
        unchanged = _delayed(m, self.select == 0, 12, name="unchanged")
        m.d.sync += self.o.eq(Mux(unchanged, self._build_operand(m), Cat(fraction, field, sign)))

    def _build_operand(self, m):
        """The operand in cycle 12; it waits in a ring of LUT RAM, each entry read just before it is rewritten."""
        ring = self.delay - 2
        m.submodules.waiting = waiting = memory.Memory(shape=32, depth=ring, init=[])
        read, write = waiting.read_port(domain="comb"), waiting.write_port()
        position = Signal(range(ring))
        m.d.sync += position.eq(Mux(position == ring - 1, 0, position + 1))
        m.d.comb += [read.addr.eq(position), write.addr.eq(position), write.data.eq(self.x), write.en.eq(1)]
        return _delayed(m, read.data, name="operand")
