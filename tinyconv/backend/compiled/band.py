"""Weighed sums over runs along one axis, in the memory order of the array."""

from __future__ import annotations

import math

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.band import Band
from tinyconv.backend.compiled.team import parallel, share_out
from tinyconv.backend.memory import empty, memory_order


@parallel
def _along(x, y, starts, counts, weights, thread, piece, first, last):
    """x (outer, n, inner) to y (outer, rows, inner)."""
    for outer in range(first, last):
        for i in range(len(starts)):
            total = y[outer, i]
            for k in range(counts[i]):
                values, weight = x[outer, starts[i] + k], weights[i, k]
                if k == 0:
                    for j in range(len(total)):
                        total[j] = weight * values[j]
                else:
                    for j in range(len(total)):
                        total[j] += weight * values[j]
            if counts[i] == 0:
                total[:] = 0


@parallel
def _along_last(x, y, starts, counts, weights, thread, piece, first, last):
    """x (outer, n) to y (outer, rows)."""
    for outer in range(first, last):
        values, sums = x[outer], y[outer]
        for i in range(len(starts)):
            total = x.dtype.type(0)
            for k in range(counts[i]):
                total += weights[i, k] * values[starts[i] + k]
            sums[i] = total


def band_product(x: Array, band: Band, dim: int) -> Array:
    """See `band.band_product`."""
    order = memory_order(x)
    at = order.index(dim % x.ndim)
    packed = np.ascontiguousarray(x.transpose(order))
    before, after = packed.shape[:at], packed.shape[at + 1 :]
    shape = (*before, len(band.starts), *after)
    y = empty(shape, x.dtype)
    outer, inner = math.prod(before), math.prod(after)
    share = share_out(outer, max(x.size, y.size) * 2)
    table = band.starts, band.counts, band.table(x.dtype)
    if inner == 1:
        _along_last(share, packed.reshape(outer, -1), y.reshape(outer, -1), *table)
    else:
        split = (outer, -1, inner)
        _along(share, packed.reshape(split), y.reshape(split), *table)
    return y.transpose(np.argsort(order))
