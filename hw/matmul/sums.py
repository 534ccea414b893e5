"""What both PE arrays share: sums that are added up over beats, handed over, held, and read in steps."""

from amaranth.hdl import Signal

__all__ = ["delayed", "sum_control", "held_sum", "shown_sum", "step_sums", "any_of"]


def delayed(m, *, valid, last, product_delay):
    """``valid`` and ``last`` of a beat ``product_delay`` cycles later, ``last`` with ``valid`` only. Its products are
    there a cycle later, by the operand register: that cycle is ``sum_control``'s."""
    last = valid & last
    for stage in range(product_delay):
        next_valid, next_last = Signal(name=f"valid_{stage}"), Signal(name=f"last_{stage}")
        m.d.sync += [next_valid.eq(valid), next_last.eq(last)]
        valid, last = next_valid, next_last
    return valid, last


def sum_control(m, *, valid, last):
    """(add, last, clear) as ``held_sum`` takes them, a cycle after ``valid`` and ``last``: registers of each row, as
    every bit of its sums hangs on them."""
    add, hand_over, clear = Signal(), Signal(), Signal(init=1)  # init: reset clears the sums, a cycle later
    m.d.sync += [add.eq(valid), hand_over.eq(last), clear.eq(last)]
    return add, hand_over, clear


def held_sum(m, shape, *, add, last, clear, name):
    """A sum in work beside the one finished before it, which is held until the next is finished.

    add : the term present is added
    last : with ``add``; the sum is finished by it and handed over
    clear : the next term starts a sum; goes with ``last``, and after reset

    Returns (total, accumulator, held). The caller drives ``total``: the accumulator with the term present.
    """
    # The accumulator clears as it hands over: a reset of its register, no logic in the adder's path.
    total = Signal(shape, name=f"total_{name}")
    accumulator = Signal(shape, reset_less=True, name=f"accumulator_{name}")
    held = Signal(shape, reset_less=True, name=f"held_{name}")
    with m.If(clear):
        m.d.sync += accumulator.eq(0)
    with m.Elif(add):
        m.d.sync += accumulator.eq(total)
    with m.If(last):
        m.d.sync += held.eq(total)
    return total, accumulator, held


def shown_sum(m, held, *, select, name):
    """A register with ``held`` the cycle after its ``select``, else zero: rows and columns are joined by OR."""
    shown = Signal.like(held, reset_less=True, name=f"shown_{name}")
    with m.If(select):
        m.d.sync += shown.eq(held)
    with m.Else():
        m.d.sync += shown.eq(0)
    return shown


def step_sums(m, rows, sums, *, step, step_row, step_column, outputs, beside=()):
    """Drive ``sums``: three cycles after ``step`` those of lanes step_column * outputs + j of row ``step_row``.

    A row has ``select``, a bit a lane, which is driven here, and ``sums``, those of its lanes side by side. ``beside``
    are sums that are joined as well, the same for each j.
    """
    lanes = len(rows[0].select)
    width = len(rows[0].sums) // lanes
    parts = [[] for _ in range(outputs)]
    for i, row in enumerate(rows):
        for column in range(lanes // outputs):
            select = Signal(name=f"select_{i}_{column}", reset_less=True)
            m.d.sync += select.eq(step & (step_row == i) & (step_column == column))
            for j in range(outputs):
                lane = column * outputs + j
                m.d.comb += row.select[lane].eq(select)
                parts[j].append(row.sums.word_select(lane, width))
    for j, shown in enumerate(parts):
        joined = Signal(width, reset_less=True, name=f"joined_{j}")
        m.d.sync += joined.eq(any_of([*shown, *beside]))
        m.d.comb += sums.word_select(j, width).eq(joined)


def any_of(values):
    """OR of all values, as a balanced tree."""
    while len(values) > 1:
        values = [a | b for a, b in zip(values[::2], values[1::2], strict=False)] + values[len(values) & ~1:]
    return values[0]
