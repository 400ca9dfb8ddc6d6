"""Batch norm, alone and with the ReLU and the residual addition that follow it.

Memory is read as rows of W*C numbers, long enough to vectorise; a row of sums is folded to C
channels at the end.  Sums run in the arrays' precision over CHUNK rows, then in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.blocked import channel_rows, from_rows
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.memory import empty_like
from tinyconv.backend.threads import cut, get_num_threads, in_spans

CHUNK = 16  # rows


@kernel
def _moments(x, shift, start, stop, total, square):
    """Add the rows' x - shift and (x - shift)^2 to total and square, both float64."""
    length = x.shape[1]
    first, second = np.zeros_like(x[0]), np.zeros_like(x[0])
    for chunk in range(start, stop, CHUNK):
        first[:] = 0
        second[:] = 0
        for i in range(chunk, min(chunk + CHUNK, stop)):
            for k in range(length):
                d = x[i, k] - shift[k]
                first[k] += d
                second[k] += d * d
        for k in range(length):
            total[k] += first[k]
            square[k] += second[k]


@kernel
def _products(g, x, shift, start, stop, total, product):
    """Add the rows' g and g * (x - shift) to total and product, both float64."""
    length = x.shape[1]
    first, second = np.zeros_like(x[0]), np.zeros_like(x[0])
    for chunk in range(start, stop, CHUNK):
        first[:] = 0
        second[:] = 0
        for i in range(chunk, min(chunk + CHUNK, stop)):
            for k in range(length):
                first[k] += g[i, k]
                second[k] += g[i, k] * (x[i, k] - shift[k])
        for k in range(length):
            total[k] += first[k]
            product[k] += second[k]


@kernel
def _products_relu(g, y, x, shift, start, stop, total, product):
    """`_products` of g where the ReLU's output y is not 0."""
    length = x.shape[1]
    first, second = np.zeros_like(x[0]), np.zeros_like(x[0])
    for chunk in range(start, stop, CHUNK):
        first[:] = 0
        second[:] = 0
        for i in range(chunk, min(chunk + CHUNK, stop)):
            for k in range(length):
                passed = g[i, k] if not y[i, k] <= 0 else g.dtype.type(0)
                first[k] += passed
                second[k] += passed * (x[i, k] - shift[k])
        for k in range(length):
            total[k] += first[k]
            product[k] += second[k]


@kernel
def _affine(x, center, scale, shift, y, start, stop):
    for i in range(start, stop):
        for k in range(x.shape[1]):
            y[i, k] = (x[i, k] - center[k]) * scale[k] + shift[k]


@kernel
def _affine_relu(x, center, scale, shift, y, start, stop):
    zero = x.dtype.type(0)
    for i in range(start, stop):
        for k in range(x.shape[1]):
            value = (x[i, k] - center[k]) * scale[k] + shift[k]
            y[i, k] = zero if value < zero else value  # NaN stays NaN


@kernel
def _affine_add_relu(x, center, scale, shift, residual, y, start, stop):
    zero = x.dtype.type(0)
    for i in range(start, stop):
        for k in range(x.shape[1]):
            value = (x[i, k] - center[k]) * scale[k] + shift[k] + residual[i, k]
            y[i, k] = zero if value < zero else value


@kernel
def _input(g, x, shift, scale, slope, offset, dx, start, stop):
    for i in range(start, stop):
        for k in range(x.shape[1]):
            dx[i, k] = scale[k] * g[i, k] + slope[k] * (x[i, k] - shift[k]) + offset[k]


@kernel
def _input_relu(g, y, x, shift, scale, slope, offset, dx, start, stop):
    zero = x.dtype.type(0)
    for i in range(start, stop):
        for k in range(x.shape[1]):
            passed = g[i, k] if not y[i, k] <= zero else zero
            dx[i, k] = scale[k] * passed + slope[k] * (x[i, k] - shift[k]) + offset[k]


@kernel
def _input_add_relu(g, y, x, shift, scale, slope, offset, dx, dr, start, stop):
    zero = x.dtype.type(0)
    for i in range(start, stop):
        for k in range(x.shape[1]):
            passed = g[i, k] if not y[i, k] <= zero else zero
            dr[i, k] = passed
            dx[i, k] = scale[k] * passed + slope[k] * (x[i, k] - shift[k]) + offset[k]


# --------------------------------------------------------------------------------- wrappers


def _covers(x: Array, *others: Array | None) -> bool:
    return all(a is None or (a.dtype == x.dtype and a.shape == x.shape) for a in others)


class _Rows:
    """Arrays of one shape (N,C,...) as rows of whole pixels, and vectors (C,) as one row."""

    def __init__(self, x: Array) -> None:
        self.like, self.x = x, channel_rows(x)
        self.channels = x.shape[1]
        self.pixels = x.size // self.channels
        self.blocks = cut(len(self.x), get_num_threads())

    def rows(self, other: Array) -> Array:
        return channel_rows(other)

    def row(self, v: Array) -> Array:
        repeats = self.x.shape[1] // self.channels
        return np.broadcast_to(v.astype(self.x.dtype), (repeats, self.channels)).ravel()

    def empty(self) -> Array:
        return empty_like(self.x)

    def each(self, job: Any) -> None:
        """job(start, stop) for every thread's rows."""

        def spans(blocks: Sequence[slice]) -> None:
            for block in blocks:
                job(block.start, block.stop)

        in_spans(spans, self.blocks, self.x.size, 1, blas=False)

    def sums(self, job: Any) -> tuple[Array, Array]:
        """job(start, stop, total, square) for every thread's rows, added up per channel."""

        def spans(blocks: Sequence[slice]) -> Array:
            found = np.zeros((2, self.x.shape[1]))
            for block in blocks:
                job(block.start, block.stop, found[0], found[1])
            return found

        found = np.sum(in_spans(spans, self.blocks, self.x.size, 1, blas=False), 0)
        first, second = found.reshape(2, -1, self.channels).sum(1)
        return first, second


def _statistics(rows: _Rows) -> tuple[Array, Array]:
    """Mean and biased variance per channel, float64, in one pass.

    Deviations from the mean of the first row, which is near enough to the mean for their squares
    to keep their digits.
    """
    near = rows.x[0].reshape(-1, rows.channels).mean(0)
    shift = rows.row(near)
    first, second = rows.sums(lambda *span: _moments(rows.x, shift, *span))
    first /= rows.pixels
    return near + first, np.maximum(second / rows.pixels - first**2, 0)


def batch_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm`."""
    if not _covers(x):
        return NotImplemented
    return _normalise(x, weight, bias, None, eps, False)


def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, residual: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm_relu`."""
    if not _covers(x, residual):
        return NotImplemented
    return _normalise(x, weight, bias, residual, eps, True)


def _normalise(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    relu: bool,
) -> tuple[Array, Array, Array]:
    rows = _Rows(x)
    mean, var = _statistics(rows)
    scale = 1 / np.sqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    # What rounding takes from the mean that is subtracted goes to the shift.
    center = mean.astype(x.dtype)
    shift = (center - mean) * scale
    y = _apply(rows, center, scale, shift if bias is None else shift + bias, residual, relu)
    return y, center, var.astype(x.dtype)


def _apply(
    rows: _Rows, center: Array, scale: Array, shift: Array, residual: Array | None, relu: bool
) -> Array:
    x, y = rows.x, rows.empty()
    vectors = rows.row(center), rows.row(scale), rows.row(shift)
    if residual is not None:
        r = rows.rows(residual)
        rows.each(lambda *span: _affine_add_relu(x, *vectors, r, y, *span))
    elif relu:
        rows.each(lambda *span: _affine_relu(x, *vectors, y, *span))
    else:
        rows.each(lambda *span: _affine(x, *vectors, y, *span))
    return from_rows(y, rows.like)


def affine(x: Array, scale: Array, shift: Array) -> Array:
    """See `reference.affine`."""
    if x.ndim < 2:
        return NotImplemented
    return _apply(_Rows(x), np.zeros_like(scale), scale, shift, None, False)


def affine_relu(x: Array, scale: Array, shift: Array, residual: Array | None) -> Array:
    """See `reference.affine_relu`."""
    if not _covers(x, residual):
        return NotImplemented
    return _apply(_Rows(x), np.zeros_like(scale), scale, shift, residual, True)


def batch_norm_backward(
    g: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm_backward`."""
    if not _covers(x, g):
        return NotImplemented
    return _gradients(g, None, x, weight, mean, var, eps, False)[:3]


def batch_norm_relu_backward(
    g: Array,
    y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    residual: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """See `reference.batch_norm_relu_backward`."""
    if not _covers(x, g, y):
        return NotImplemented
    return _gradients(g, y, x, weight, mean, var, eps, residual)


def _gradients(
    g: Array,
    y: Array | None,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    residual: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """dx = scale * (g - <g> - n <g n>), with n = (x - mean) / std, folded to
    scale * g + slope * (x - mean) + offset."""
    rows = _Rows(x)
    xs, gs = rows.x, rows.rows(g)
    ys = None if y is None else rows.rows(y)
    shift = rows.row(mean)
    if ys is None:
        sum_g, sum_gd = rows.sums(lambda *span: _products(gs, xs, shift, *span))
    else:
        sum_g, sum_gd = rows.sums(lambda *span: _products_relu(gs, ys, xs, shift, *span))
    inverse = 1 / np.sqrt(var.astype(np.float64) + eps)
    scale = inverse if weight is None else inverse * weight
    slope = -scale * inverse**2 * sum_gd / rows.pixels
    offset = -scale * sum_g / rows.pixels
    scales, slopes, offsets = rows.row(scale), rows.row(slope), rows.row(offset)
    dx, dr = rows.empty(), rows.empty() if residual else None
    if ys is None:
        rows.each(lambda *span: _input(gs, xs, shift, scales, slopes, offsets, dx, *span))
    elif dr is None:
        rows.each(lambda *span: _input_relu(gs, ys, xs, shift, scales, slopes, offsets, dx, *span))
    else:
        rows.each(
            lambda *span: _input_add_relu(gs, ys, xs, shift, scales, slopes, offsets, dx, dr, *span)
        )
    return (
        from_rows(dx, x),
        (inverse * sum_gd).astype(x.dtype),
        sum_g.astype(x.dtype),
        None if dr is None else from_rows(dr, x),
    )
