"""Large arrays, element by element: plain loops on all threads, in recycled memory.

A loop runs over a slice from its start: only then does the compiler know that no index is negative,
which in Python counts from the end, and vectorises it.
"""

from __future__ import annotations

from tinyconv.backend.array import Array
from tinyconv.backend.blocked import dense, flat
from tinyconv.backend.compiled.team import parallel, share_out
from tinyconv.backend.memory import empty_like


@parallel
def _add(x, y, total, thread, piece, start, stop):
    x, y, total = x[start:stop], y[start:stop], total[start:stop]
    for i in range(len(x)):
        total[i] = x[i] + y[i]


@parallel
def _add_to(x, y, thread, piece, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(len(x)):
        x[i] += y[i]


@parallel
def _relu(x, y, thread, piece, start, stop):
    x, y, zero = x[start:stop], y[start:stop], x.dtype.type(0)
    for i in range(len(x)):
        y[i] = zero if x[i] < zero else x[i]  # NaN stays NaN


@parallel
def _relu_backward(g, y, dx, thread, piece, start, stop):
    g, y, dx, zero = g[start:stop], y[start:stop], dx[start:stop], g.dtype.type(0)
    for i in range(len(g)):
        dx[i] = zero if y[i] <= zero else g[i]


def _alike(x: Array, y: Array) -> bool:
    """One layout without holes, one dtype."""
    return (x.strides, x.shape, x.dtype) == (y.strides, y.shape, y.dtype) and dense(x)


def add(x: Array, y: Array) -> Array:
    """See `reference.add`."""
    if not _alike(x, y):
        return NotImplemented
    total = empty_like(x)
    _add(share_out(x.size, x.size), flat(x), flat(y), flat(total))
    return total


def add_to(x: Array, y: Array) -> Array:
    """See `reference.add_to`."""
    if not _alike(x, y):
        return NotImplemented
    _add_to(share_out(x.size, x.size), flat(x), flat(y))
    return x


def relu(x: Array) -> Array:
    """See `reference.relu`."""
    if not dense(x):
        return NotImplemented
    y = empty_like(x)
    _relu(share_out(x.size, x.size), flat(x), flat(y))
    return y


def relu_backward(g: Array, y: Array) -> Array:
    """See `reference.relu_backward`."""
    if not _alike(g, y):
        return NotImplemented
    dx = empty_like(g)
    _relu_backward(share_out(g.size, g.size), flat(g), flat(y), flat(dx))
    return dx
