"""Sums over any axes of large arrays: runs of memory on all threads, into wide totals.

An array is read in the order of its memory, as alternating groups of axes that are added up or
kept.  The innermost such group goes first: `_rows` adds up neighbours, `_columns` rows of numbers
that are kept apart.  What they leave is float64 and far smaller, and goes through the same two.

float32 is added in float64.  float64 is added in short sums, and those into a total that carries
what each addition rounds off (Neumaier, Rundungsfehleranalyse, 1974), so that the error does not
grow with the number of terms.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.compiled.jit import kernel, reassociating_kernel
from tinyconv.backend.compiled.team import parallel, share_out
from tinyconv.backend.memory import empty
from tinyconv.backend.sums import Axes, axes_of, total_dtype

PARTS = 16  # of a long sum; the same for any number of threads, and so are its bits
RUN = 2048  # numbers that are added up in vector registers
SHORT = 64  # numbers from which on a row is a run
LENGTH = 512  # numbers of a row of columns, at least
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
    if length < SHORT:
        for i in range(start, stop):
            total = 0.0
            for j in range(i * length, (i + 1) * length):
                total += x[np.uintp(j)]
            y[i] = total / divisor
    else:
        for i in range(start, stop):
            y[i] = _long(x, i * length, (i + 1) * length) / divisor


@parallel
def _parts(x, length, sums, thread, piece, start, stop):
    """x (K*R,) to sums (K*PARTS,)."""
    for i in range(start, stop):
        base, part = i // PARTS * length, i % PARTS
        first, last = length * part // PARTS, length * (part + 1) // PARTS
        sums[i] = _long(x, base + first, base + last)


@kernel
def _column(x, rows, stride, total, short, carry):
    """The sums of rows that start `stride` apart in the vector x; all others are one row each."""
    length = len(total)
    total[:] = 0
    if carry is not None:
        carry[:] = 0
    for first in range(0, rows, ROWS):
        short[:] = x[first * stride :][:length]
        for i in range(first + 1, min(first + ROWS, rows)):
            row = x[i * stride :][:length]
            for k in range(length):
                short[k] += row[k]
        _add_row(total, carry, short)


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


# ------------------------------------------------------------------------------------ wrappers


class _Order(NamedTuple):
    """How to read an array, and how to turn what is left of it back; see `_order`."""

    start: tuple[Any, ...] | None  # which part of it: without what is repeated, nothing backwards
    axes: tuple[int, ...]  # as they are in memory
    groups: tuple[tuple[bool, int], ...]  # is it added up?  Its length
    times: int  # that every number stands there
    kept: tuple[int, ...]  # the result's shape as computed
    back: tuple[int, ...]  # its axes in the caller's order
    shape: tuple[int, ...]  # the result's
    turn: tuple[slice, ...] | None  # what was read backwards


@lru_cache(maxsize=4096)
def _order(
    shape: tuple[int, ...], strides: tuple[int, ...], axis: Axes, keepdims: bool
) -> _Order | None:
    """None for an array whose kept axes are repeated: rare, and the next layer's."""
    axes, ndim = axes_of(axis, len(shape)), len(shape)
    repeated = {a for a in range(ndim) if strides[a] == 0 and shape[a] > 1}
    if repeated - {*axes}:
        return None
    start = tuple(slice(0, 1) if a in repeated else slice(None, None, -1 if strides[a] < 0 else 1)
                  for a in range(ndim))  # fmt: skip
    order = tuple(sorted(range(ndim), key=lambda a: -abs(strides[a])))
    groups: list[tuple[bool, int]] = []
    for a in order:
        n, added = (1 if a in repeated else shape[a]), a in axes
        if n == 1:
            continue
        if groups and groups[-1][0] == added:
            n *= groups.pop()[1]
        groups.append((added, n))
    kept = [a for a in order if a not in axes]
    left = [a for a in range(ndim) if a not in axes]
    plain = all(s == slice(None, None, 1) for s in start)
    turned = tuple(start[a] for a in (range(ndim) if keepdims else left))
    if keepdims:
        turned = tuple(slice(None) if a in axes else t for a, t in enumerate(turned))
    return _Order(
        None if plain else start,
        order,
        tuple(groups),
        math.prod(shape[a] for a in repeated),
        tuple(shape[a] for a in kept),
        tuple(kept.index(a) for a in left),
        tuple(1 if a in axes else shape[a] for a in range(ndim)) if keepdims
        else tuple(shape[a] for a in left),
        None if plain or all(t.step in (None, 1) for t in turned) else turned,
    )  # fmt: skip


def sum(x: Array, axis: Axes, keepdims: bool, dtype: Any) -> Array:
    """See `sums.sum`."""
    return _reduced(x, axis, keepdims, total_dtype(x) if dtype is None else np.dtype(dtype), 1)


def mean(x: Array, axis: Axes, keepdims: bool, dtype: Any) -> Array:
    """See `sums.mean`."""
    dtype = x.dtype if dtype is None else np.dtype(dtype)
    n = math.prod([x.shape[a] for a in axes_of(axis, x.ndim)])
    return _reduced(x, axis, keepdims, dtype, n)


def _reduced(x: Array, axis: Axes, keepdims: bool, dtype: Any, divisor: float) -> Array:
    order = _order(x.shape, x.strides, axis, keepdims)
    if order is None or dtype.char not in "fd" or x.size == 0:
        return NotImplemented
    if order.start is not None:
        x = x[order.start]
    y = np.ascontiguousarray(x.transpose(order.axes)).reshape(-1)
    groups, inner = list(order.groups), 1
    divisor = divisor / order.times
    todo = [added for added, _ in groups].count(True)
    while groups:
        added, n = groups.pop()
        if not added:
            inner *= n
            continue
        todo -= 1
        last = todo == 0
        y = _one(y, n, inner, dtype if last else np.float64, divisor if last else 1.0)
    if todo == 0 and not any(added for added, _ in order.groups):  # nothing was added up
        y = (y / divisor).astype(dtype)
    y = y.reshape(order.kept).transpose(order.back).reshape(order.shape)
    return y if order.turn is None else y[order.turn]


def _one(x: Array, rows: int, inner: int, dtype: Any, divisor: float) -> Array:
    """x (O*R*I,) to (O*I,) divided by `divisor`."""
    outer = x.size // (rows * inner)
    y = empty((outer * inner,), dtype)
    if inner == 1 and (outer >= PARTS or rows < WHOLE):
        _rows(share_out(outer, x.size), x, rows, float(divisor), y)
        return y
    if inner == 1:
        parts, totals = PARTS, np.empty(outer * PARTS)
        _parts(share_out(outer * PARTS, x.size), x, rows, totals)
    else:
        tile = min(inner, TILE)
        together = 1 if inner >= LENGTH else -(-LENGTH // inner)
        blocks = outer * -(-inner // tile)
        parts = max(1, min(-(-PARTS // blocks), rows // (4 * together)))
        totals = y if parts == 1 else np.empty(outer * parts * inner)
        grid = rows, inner, parts, tile, together
        exact = True if x.dtype == np.float64 else None
        share, part = share_out(blocks * parts, x.size), float(divisor if parts == 1 else 1)
        _columns(share, x, grid, part, totals, exact)
        if parts == 1:
            return y
    _fold(totals, parts, float(divisor), y.reshape(outer, inner))
    return y
