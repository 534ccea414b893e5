"""How a memory unit reports what went wrong."""

from amaranth.hdl import Signal

__all__ = ["report_first"]


def report_first(m, status, *causes):
    """Drive ``status.error`` and ``status.code`` with the first of ``causes``, pairs of condition and ErrorCode.

    Of causes in the same cycle the one named first counts. Returns a signal that is high from the next cycle on until
    reset: the unit has failed and does nothing more.
    """
    failed = Signal()
    m.d.sync += status.error.eq(0)
    for condition, code in reversed(causes):
        with m.If(condition & ~failed):
            m.d.sync += [status.error.eq(1), status.code.eq(code), failed.eq(1)]
    return failed
