"""Matrices whose rows are runs, and their product with an array along one axis.

Interpolation and adaptive means are such products.  Only what is in a run is ever read, so that a
zero outside of it meets no infinity.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinyconv.backend.array import Array, array_module

Host: TypeAlias = np.ndarray[Any, Any]


class Band:
    """A matrix whose rows are runs: row i holds weights[i] from column starts[i] on.

    starts and ends must not decrease, so that its columns are runs, too.  weights: (rows, longest).
    Only what is in a run is ever read.
    """

    def __init__(self, columns: int, starts: Host, counts: Host, weights: Host) -> None:
        self.columns, self.starts, self.counts, self.weights = columns, starts, counts, weights
        self._transposed: Band | None = None
        self._tables: dict[Any, Host] = {}

    def table(self, dtype: Any) -> Host:
        """The weights in that dtype."""
        if dtype not in self._tables:
            self._tables[dtype] = np.ascontiguousarray(self.weights, dtype)
        return self._tables[dtype]

    @property
    def T(self) -> Band:
        if self._transposed is None:
            self._transposed = self._turned()
            self._transposed._transposed = self
        return self._transposed

    def _turned(self) -> Band:
        ends, column = self.starts + self.counts, np.arange(self.columns)
        first = np.searchsorted(ends, column, "right")  # the first row that ends behind it
        counts = np.searchsorted(self.starts, column, "right") - first
        rows = np.minimum(first[:, None] + np.arange(counts.max(initial=0)), len(self.starts) - 1)
        within = np.clip(column[:, None] - self.starts[rows], 0, self.weights.shape[1] - 1)
        return Band(len(self.starts), first, counts, self.weights[rows, within])

    def __repr__(self) -> str:
        return f"Band({len(self.starts)} x {self.columns})"


def band_product(x: Array, band: Band, dim: int) -> Array:
    """Row i of the result, along dim, is the weighed sum of a run of x."""
    few = len(band.starts) < band.counts.max(initial=0)
    return _row_by_row(x, band, dim) if few else _step_by_step(x, band, dim)


def _weights(x: Array, values: Host, dim: int) -> Array:
    """As an array to broadcast along dim."""
    return array_module(x).asarray(values, x.dtype).reshape((-1,) + (1,) * (x.ndim - 1 - dim))


def _row_by_row(x: Array, band: Band, dim: int) -> Array:
    """For few long runs."""
    xp, before = array_module(x), (slice(None),) * dim
    rows = []
    for i, (start, count) in enumerate(zip(band.starts, band.counts, strict=True)):
        run = x[(*before, slice(int(start), int(start + count)))]
        run = run * _weights(x, band.weights[i, :count], dim)
        rows.append(run.sum(dim, keepdims=True))
    return xp.concatenate(rows, dim)


def _step_by_step(x: Array, band: Band, dim: int) -> Array:
    """For many short runs: the first entries of all, then the second ones where there are any."""
    xp, before = array_module(x), (slice(None),) * dim
    y = None
    for step in range(int(band.counts.max(initial=1))):
        some = np.flatnonzero(band.counts > step)
        part = x.take(xp.asarray(band.starts[some] + step), dim)
        part *= _weights(x, band.weights[some, step], dim)
        if len(some) < len(band.starts):
            if y is None:
                y = xp.zeros((*x.shape[:dim], len(band.starts), *x.shape[dim + 1 :]), x.dtype)
            y[(*before, xp.asarray(some))] += part
        elif y is None:
            y = part
        else:
            y += part
    return y
