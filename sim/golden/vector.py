"""Operations of the vector unit (docs/numerics.md): elementwise chain, masks, sum, maximum and its place."""

import numpy as np

from . import fp32, functions

__all__ = ["apply", "argmax_rows", "kept", "max_rows", "sum_rows", "window", "PARTIALS"]

PARTIALS = 32
"""Partial sums of a row."""


def apply(a, b=None, c=None, d=None, *, square=False, c_negate=False, swap=False, table=None, valid=None,
          first=None):
    """t3 = F(a * b + c) and t4 = t3 * d for rows of elements.

    Parameters
    ----------
    a : float32 [rows, n]
    b, c, d : float32, broadcastable to [rows, n], or None for 1.0, -0.0, 1.0
    square : bool      b is a itself (as swapped)
    c_negate : bool    c with its sign bit inverted
    swap : bool        elements of each pair (2i, 2i+1) of a exchanged; n must be even
    table : functions.Table or None
    valid, first : int [rows] or None    elements that are not ``kept`` become +0

    Returns
    -------
    t3, t4 : float32 [rows, n]
    """
    a = np.asarray(a, np.float32)
    if swap:
        if a.shape[-1] % 2:
            raise ValueError(f"swap with n = {a.shape[-1]}: n must be even")
        a = a.reshape(*a.shape[:-1], -1, 2)[..., ::-1].reshape(a.shape)
    b = a if square else _operand(b, 1.0, a.shape)
    c = _operand(c, -0.0, a.shape)
    if c_negate:
        c = (c.view(np.uint32) ^ np.uint32(1 << 31)).view(np.float32)
    t3 = fp32.add(fp32.mul(a, b), c)
    if table is not None:
        t3 = functions.evaluate(table, t3)
    t4 = fp32.mul(t3, _operand(d, 1.0, a.shape))
    if valid is not None or first is not None:
        keep = kept(valid, first, a.shape)
        t3, t4 = np.where(keep, t3, np.float32(0)), np.where(keep, t4, np.float32(0))
    return t3, t4


def sum_rows(t3):
    """Sum of each row in the order of the hardware: 32 partial sums by i mod 32, then a halving tree.

    float32 [rows, n] -> float32 [rows]
    """
    t3 = np.asarray(t3, np.float32)
    rows, n = t3.shape
    steps = -(-n // PARTIALS)
    padded = np.zeros((rows, steps * PARTIALS), np.float32)
    padded[:, :n] = t3
    partial = np.zeros((rows, PARTIALS), np.float32)
    for step in range(steps):
        partial = fp32.add(partial, padded[:, step * PARTIALS:(step + 1) * PARTIALS])
    half = PARTIALS // 2
    while half:
        partial = fp32.add(partial[:, :half], partial[:, half:2 * half])
        half //= 2
    return partial[:, 0]


def max_rows(t3, valid=None, first=None):
    """Maximum of each row by the total order of bit patterns, over the elements that are ``kept``; -inf for none.

    float32 [rows, n] -> float32 [rows]
    """
    t3 = np.asarray(t3, np.float32)
    return argmax_rows(t3, kept(valid, first, t3.shape))[1]


def argmax_rows(t3, keep=None, index=0, carry=None):
    """Number of the first greatest element of each row, in the order of ``max_rows``, and that element.

    Parameters
    ----------
    t3 : float32 [rows, n]
    keep : bool [rows, n] or None    elements that count (see ``kept``); None: all
    index : int                      number of element 0
    carry : (number, best) or None   what this function gave before, for as many rows, to go on from; only a greater
                                     element replaces it. None: start with ``index`` and -inf

    Returns
    -------
    number : uint32 [rows]
    best : float32 [rows]
    """
    bits = np.asarray(t3, np.float32).view(np.uint32)
    rows = bits.shape[0]
    lowest = np.full(rows, -np.inf, np.float32).view(np.uint32)
    number, best = (np.full(rows, index, np.int64), lowest) if carry is None else (
        np.asarray(carry[0]).astype(np.int64), np.asarray(carry[1], np.float32).view(np.uint32))
    if keep is not None:
        bits = np.where(keep, bits, lowest[:, None])
    place = _order(bits).argmax(axis=1)
    greatest = bits[np.arange(rows), place]
    greater = _order(greatest) > _order(best)
    return (np.where(greater, index + place, number).astype(np.uint32),
            np.where(greater, greatest, best).view(np.float32))


def window(first, valid, step, ring, rows):
    """Per row ``first`` and ``valid`` of a VECTOR command, for ``apply``, ``kept`` and ``max_rows``.

    Parameters
    ----------
    first : int    fields ``first`` (two's complement, 16 bits), ``valid``, ``valid_step``, ``ring``
    rows : int

    Returns
    -------
    first : int64 [rows]    negative: no element is too early. That is so in every row for first = ring = 0
    valid : int64 [rows]
    """
    if not ring:
        steps = step * np.arange(rows)
        lower = ((first + steps + 0x8000) & 0xFFFF) - 0x8000 if first else np.full(rows, -1)
        return lower, valid + steps & 0xFFFF
    first = ((first + 0x8000) & 0xFFFF) - 0x8000
    firsts, valids = [], []
    for _ in range(rows):
        firsts.append(first)
        valids.append(valid)
        if step:
            first = 0 if first == ring - 1 else first + 1
            valid = 1 if valid == ring else valid + 1
    return np.array(firsts), np.array(valids)


def kept(valid, first, shape):
    """Elements of rows that count: bool ``shape`` = [rows, n].

    valid, first : int [rows] or None (all). Between first and valid, or outside of them where a ring's window goes
    over its end: first >= valid.
    """
    i = np.arange(shape[-1])
    valid = np.full(shape[0], shape[-1]) if valid is None else np.asarray(valid, np.int64)
    first = np.full(shape[0], -1) if first is None else np.asarray(first, np.int64)
    late, early = i >= first[:, None], i < valid[:, None]
    return np.where((first < valid)[:, None], late & early, late | early)


def _order(bits):
    """Integers in the order of max (docs/numerics.md)."""
    signed = np.asarray(bits).view(np.int32)
    return np.where(signed < 0, np.int32(0x7FFFFFFF) ^ signed, signed)


def _operand(value, neutral, shape):
    value = np.float32(neutral) if value is None else np.asarray(value, np.float32)
    return np.ascontiguousarray(np.broadcast_to(value, shape))
