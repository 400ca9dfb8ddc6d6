"""Sums over any axes of large arrays: runs of memory (runs.py) on all threads, into wide totals.

`_rows` adds up neighbours, `_columns` rows of numbers that are kept apart: first a few in their own
precision, because a vector holds twice as many float32 as float64, and those into a float64 total.
That of float64 carries what each addition rounds off (Neumaier, Rundungsfehleranalyse, 1974), so
that the error does not grow with the number of terms.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.compiled.jit import kernel, reassociating_kernel
from tinyconv.backend.compiled.team import bind, lead, parallel, share_out
from tinyconv.backend.memory import empty
from tinyconv.backend.runs import FEW, Axes, order_of, reduced
from tinyconv.backend.sums import cast, count, total_dtype

PARTS = 16  # of a long sum; the same for any number of threads, and so are its bits
RUN = 2048  # numbers that are added up in vector registers
SHORT = 64  # numbers from which on there is one for each lane of those
LENGTH = 256  # numbers of a row of columns, at least
TILE = 1024  # at most
ROWS = 16  # that are added up in x's precision
WHOLE = 8 * RUN  # numbers from which on one sum is cut into parts


# ------------------------------------------------------------------------------------- totals


@reassociating_kernel
def _run(x, start, stop):
    """The sum of neighbours in their own precision, some sixty side by side."""
    total = x.dtype.type(0)
    for i in range(start, stop):
        total += x[np.uintp(i)]  # an index that cannot be negative, or it would not vectorise
    return total


@reassociating_kernel
def _wide_run(x, start, stop):
    """The same in float64, for runs so short that a compiler may leave them to one lane."""
    total = 0.0
    for i in range(start, stop):
        total += x[np.uintp(i)]
    return total


@kernel
def _add(total, carry, value):
    """total + value, and carry + what that rounds off (Knuth's TwoSum)."""
    after = total + value
    taken = after - total
    return after, carry + ((total - (after - taken)) + (value - taken))


@kernel
def _settled(total, carry):
    """The total and its carry; that of infinities is NaN and does not count."""
    return total + carry if abs(carry) < np.inf else total


@kernel
def _long(x, first, last):
    """The sum of any number of neighbours, first:last of a vector."""
    total, carry = 0.0, 0.0
    for start in range(first, last, RUN):
        total, carry = _add(total, carry, np.float64(_run(x, start, min(start + RUN, last))))
    return _settled(total, carry)


@parallel
def _rows(x, length, divisor, y, thread, piece, start, stop):
    """x (K*R,) to y (K,), divided."""
    if FEW < length < SHORT:
        for i in range(start, stop):
            y[i] = _wide_run(x, i * length, (i + 1) * length) / divisor
    elif length <= RUN:
        for i in range(start, stop):
            y[i] = _run(x, i * length, (i + 1) * length) / divisor
    else:
        for i in range(start, stop):
            y[i] = _long(x, i * length, (i + 1) * length) / divisor


@kernel
def _parts(x, length, sums, thread, piece, start, stop):
    """x (K*R,) to sums (K*PARTS,)."""
    for i in range(start, stop):
        base, part = i // PARTS * length, i % PARTS
        first, last = length * part // PARTS, length * (part + 1) // PARTS
        sums[i] = _long(x, base + first, base + last)


@kernel
def _column(x, rows, stride, total, short, carry):
    """The sums of rows that start `stride` apart in the vector x; all others are one row each."""
    total[:] = 0
    if carry is not None:
        carry[:] = 0
    for first in range(0, rows, ROWS):
        _add_rows(x[first * stride :], min(ROWS, rows - first), stride, short)
        _add_row(total, carry, short)


@kernel
def _add_rows(x, rows, stride, total):
    """The same one after another, in total's precision.

    Four rows in one go need not be written in between.  But neighbours are read in the order of
    memory, or the processor does not foresee what is next.
    """
    total[:] = 0
    length = len(total)
    whole = rows - rows % 4 if stride > length else 0
    for i in range(0, whole, 4):
        a = x[i * stride :]
        b, c, d = a[stride:], a[2 * stride :], a[3 * stride :]
        a, b, c, d = a[:length], b[:length], c[:length], d[:length]
        for k in range(length):
            total[k] += (a[k] + b[k]) + (c[k] + d[k])
    for i in range(whole, rows):
        _add_row(total, None, x[i * stride :][:length])


@kernel
def _add_row(total, carry, row):
    if carry is None:
        for k in range(len(total)):
            total[k] += row[k]
    else:
        for k in range(len(total)):
            total[k], carry[k] = _add(total[k], carry[k], np.float64(row[k]))


@kernel
def _together(total, carry, rest, size):
    """Add up the totals that belong together, `size` numbers apart, and what is left over."""
    sums = total[:size]
    if carry is None:
        for i in range(size, len(total), size):
            _add_row(sums, None, total[i : i + size])
        for i in range(0, len(rest) - size + 1, size):
            _add_row(sums, None, rest[i : i + size])
        return
    lost = carry[:size]
    for i in range(size, len(total), size):
        _add_row(sums, lost, total[i : i + size])
        _add_row(sums, lost, carry[i : i + size])
    for i in range(0, len(rest) - size + 1, size):
        _add_row(sums, lost, rest[i : i + size])
    for k in range(size):
        sums[k] = _settled(sums[k], lost[k])


@kernel
def _write(total, divisor, y):
    if divisor == 1:  # dividing takes longer than all additions where there are few
        for k in range(len(y)):
            y[k] = total[k]
    else:
        for k in range(len(y)):
            y[k] = total[k] / divisor


@parallel
def _few(x, rows, inner, tile, divisor, y, thread, piece, start, stop):
    """x (O*R*I,) to y (O*I,), divided: so few rows that y's precision is enough."""
    tiles = -(-inner // tile)
    for block in range(start, stop):
        outer, at = block // tiles, block % tiles * tile
        target = y[outer * inner + at :][: min(tile, inner - at)]
        _add_rows(x[outer * rows * inner + at :], rows, inner, target)
        if divisor != 1:
            _write(target, divisor, target)


@parallel
def _columns(x, grid, divisor, sums, exact, thread, piece, start, stop):
    """x (O*R*I,) to sums (O*parts*I,); grid: R, I, parts, tile and how many rows of I are one.

    exact: float64, which needs a carry; True or None.
    """
    rows, inner, parts, tile, together = grid
    tiles = -(-inner // tile)
    total, short = np.empty(tile * together), np.empty(tile * together, x.dtype)
    carry = None if exact is None else np.empty(tile * together)
    for block in range(start, stop):
        outer, part, at = block // (parts * tiles), block // tiles % parts, block % tiles * tile
        first, last = rows * part // parts, rows * (part + 1) // parts
        size = min(tile, inner - at)
        source = x[(outer * rows + first) * inner + at :]
        target = sums[(outer * parts + part) * inner + at :][:size]
        length, whole = size * together, (last - first) // together
        left = None if carry is None else carry[:length]
        _column(source, whole, inner * together, total[:length], short[:length], left)
        rest = source[whole * together * inner : (last - first) * inner]
        _together(total[:length], left, rest, size)
        _write(total, divisor, target)


@kernel
def _fold(sums, parts, divisor, y):
    """sums (O, parts, I) to y (O, I), divided."""
    inner = y.shape[1]
    for o in range(len(y)):
        for k in range(inner):
            total, carry = 0.0, 0.0
            for part in range(parts):
                total, carry = _add(total, carry, sums[(o * parts + part) * inner + k])
            y[o, k] = _settled(total, carry) / divisor


@kernel
def _in_parts(share, x, length, divisor, y):
    """x (K*R,) to y (K,), divided, where K is small."""
    sums = np.empty(len(y) * PARTS)
    lead(share, bind(_parts, (x, length, sums)))
    _fold(sums, PARTS, divisor, y.reshape((len(y), 1)))


# ------------------------------------------------------------------------------------ wrappers


def sum(x: Array, axis: Axes, keepdims: bool, dtype: Any) -> Array:
    """See `sums.sum`."""
    return _reduced(x, axis, keepdims, total_dtype(x) if dtype is None else np.dtype(dtype), 1)


def mean(x: Array, axis: Axes, keepdims: bool, dtype: Any) -> Array:
    """See `sums.mean`."""
    dtype = x.dtype if dtype is None else np.dtype(dtype)
    return _reduced(x, axis, keepdims, dtype, count(x.shape, axis))


def _reduced(x: Array, axis: Axes, keepdims: bool, dtype: Any, divisor: float) -> Array:
    if dtype.char not in "fd":
        return NotImplemented
    if dtype.char == "d":
        x = cast(x, dtype)
    order = order_of(x.shape, x.strides, axis, keepdims)
    return reduced(x, order, divisor, partial(_added, dtype))


def _added(dtype: Any, x: Array, rows: int, inner: int, divisor: float | None) -> Array:
    """See `runs.Add`: in `dtype`, or in float64 where there is more to add up."""
    x, outer = x.reshape(-1), x.size // (rows * inner)
    y = empty((outer * inner,), np.float64 if divisor is None else dtype)
    divisor = float(divisor or 1)
    if inner > 1 and rows <= FEW:
        tile = min(inner, TILE)
        share = share_out(outer * -(-inner // tile), x.size)
        _few(share, x, rows, inner, tile, divisor, y)
    elif inner > 1:
        _add_columns(x, rows, inner, divisor, y)
    elif outer >= PARTS or rows < WHOLE:
        _rows(share_out(outer, x.size), x, rows, divisor, y)
    else:
        _in_parts(share_out(outer * PARTS, x.size), x, rows, divisor, y)
    return y


def _add_columns(x: Array, rows: int, inner: int, divisor: float, y: Array) -> None:
    """Rows in parts where there are not enough blocks for all threads."""
    outer, tile = len(y) // inner, min(inner, TILE)
    together = max(1, min(-(-LENGTH // inner), rows // 4))
    blocks = outer * -(-inner // tile)
    parts = max(1, min(-(-PARTS // blocks), rows // (ROWS * together)))
    totals = y if parts == 1 else np.empty(outer * parts * inner)
    exact = True if x.dtype == np.float64 else None
    share, part = share_out(blocks * parts, x.size), divisor if parts == 1 else 1.0
    _columns(share, x, (rows, inner, parts, tile, together), part, totals, exact)
    if parts > 1:
        _fold(totals, parts, divisor, y.reshape(outer, inner))
