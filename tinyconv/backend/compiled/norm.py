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
def _fold(sums, first, second):
    """Add the threads' rows of sums (threads, 2, L) up to channels, (C,) each."""
    channels = len(first)
    first[:] = 0
    second[:] = 0
    for thread in range(len(sums)):
        for k in range(sums.shape[2]):
            first[k % channels] += sums[thread, 0, k]
            second[k % channels] += sums[thread, 1, k]


@kernel
def _scale_and_shift(sums, near, pixels, eps, weight, bias, mean, var, rows):
    """The batch's mean and variance, and rows (3, L): what is subtracted, the scale, the shift."""
    channels = len(mean)
    first, second = np.empty(channels), np.empty(channels)
    _fold(sums, first, second)
    for c in range(channels):
        d = first[c] / pixels
        exact = near[c] + d
        variance = max(second[c] / pixels - d * d, 0.0)
        scale = weight[c] / np.sqrt(variance + eps)
        mean[c] = exact
        var[c] = variance
        # What rounding takes from the mean that is subtracted goes to the shift.
        shift = bias[c] + (mean[c] - exact) * scale
        for k in range(c, rows.shape[1], channels):
            rows[0, k] = mean[c]
            rows[1, k] = scale
            rows[2, k] = shift


@kernel
def _slope_and_offset(sums, pixels, eps, weight, mean, var, dweight, dbias, rows):
    """Gradients of weight and bias, and rows (3, L): the scale, the slope and the offset of dx."""
    channels = len(mean)
    sum_g, sum_gd = np.empty(channels), np.empty(channels)
    _fold(sums, sum_g, sum_gd)
    for c in range(channels):
        inverse = 1 / np.sqrt(np.float64(var[c]) + eps)
        dweight[c] = inverse * sum_gd[c]
        dbias[c] = sum_g[c]
        scale = weight[c] * inverse
        for k in range(c, rows.shape[1], channels):
            rows[0, k] = scale
            rows[1, k] = -scale * inverse * inverse * sum_gd[c] / pixels
            rows[2, k] = -scale * sum_g[c] / pixels


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
        self.blocks = cut(len(self.x), 3 * get_num_threads())

    def rows(self, other: Array) -> Array:
        return channel_rows(other)

    def row(self, v: Array) -> Array:
        repeats = self.x.shape[1] // self.channels
        return np.concatenate((v.astype(self.x.dtype, copy=False),) * repeats)

    def empty(self) -> Array:
        return empty_like(self.x)

    def each(self, job: Any) -> None:
        """job(start, stop) for every thread's rows."""

        def spans(blocks: Sequence[slice]) -> None:
            for block in blocks:
                job(block.start, block.stop)

        in_spans(spans, self.blocks, self.x.size, 3, blas=False)

    def sums(self, job: Any) -> Array:
        """job(start, stop, first, second) for every thread's rows: (threads, 2, L)."""

        def spans(blocks: Sequence[slice]) -> Array:
            found = np.zeros((2, self.x.shape[1]))
            for block in blocks:
                job(block.start, block.stop, found[0], found[1])
            return found

        return np.array(in_spans(spans, self.blocks, self.x.size, 3, blas=False))

    def vectors(self, scale: Array, shift: Array) -> Array:
        """Nothing to subtract, the scale and the shift, as rows."""
        return np.stack([self.row(v) for v in (np.zeros_like(scale), scale, shift)])

    def vector(self, v: Array | None, value: float) -> Array:
        """v, or a vector (C,) of `value`."""
        return np.full(self.channels, value, self.x.dtype) if v is None else v


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
    # Deviations from the mean of the first row, which is near enough to the mean for their squares
    # to keep their digits: one pass is enough.
    near = rows.x[0].reshape(-1, rows.channels).mean(0)
    shift = rows.row(near)
    sums = rows.sums(lambda *span: _moments(rows.x, shift, *span))
    mean, var = np.empty_like(near), np.empty_like(near)
    vectors = np.empty((3, rows.x.shape[1]), x.dtype)
    weight, bias = rows.vector(weight, 1), rows.vector(bias, 0)
    _scale_and_shift(sums, near, rows.pixels, eps, weight, bias, mean, var, vectors)
    return _apply(rows, vectors, residual, relu), mean, var


def _apply(rows: _Rows, vectors: Array, residual: Array | None, relu: bool) -> Array:
    """(x - center) * scale + shift, where the three are the rows of `vectors`, and what follows."""
    x, y = rows.x, rows.empty()
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
    rows = _Rows(x)
    return _apply(rows, rows.vectors(scale, shift), None, False)


def affine_relu(x: Array, scale: Array, shift: Array, residual: Array | None) -> Array:
    """See `reference.affine_relu`."""
    if not _covers(x, residual):
        return NotImplemented
    rows = _Rows(x)
    return _apply(rows, rows.vectors(scale, shift), residual, True)


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
        sums = rows.sums(lambda *span: _products(gs, xs, shift, *span))
    else:
        sums = rows.sums(lambda *span: _products_relu(gs, ys, xs, shift, *span))
    dweight, dbias = np.empty_like(mean), np.empty_like(mean)
    vectors = np.empty((3, xs.shape[1]), x.dtype)
    weight = rows.vector(weight, 1)
    _slope_and_offset(sums, rows.pixels, eps, weight, mean, var, dweight, dbias, vectors)
    dx, dr = rows.empty(), rows.empty() if residual else None
    if ys is None:
        rows.each(lambda *span: _input(gs, xs, shift, *vectors, dx, *span))
    elif dr is None:
        rows.each(lambda *span: _input_relu(gs, ys, xs, shift, *vectors, dx, *span))
    else:
        rows.each(lambda *span: _input_add_relu(gs, ys, xs, shift, *vectors, dx, dr, *span))
    return from_rows(dx, x), dweight, dbias, None if dr is None else from_rows(dr, x)
