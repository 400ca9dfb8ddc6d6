"""Batch norm, alone and with the ReLU and the residual addition that follow it.

Memory is read as rows of W*C numbers, long enough to vectorise; a row of sums is folded to C
channels at the end.  Sums run in the arrays' precision over CHUNK rows, then in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.blocked import channel_rows, from_rows
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.compiled.team import Share, bind, lead, share_out
from tinyconv.backend.memory import empty

CHUNK = 16  # rows
FAR = 16.0  # variances
PIECES = 3  # for each thread


@kernel
def _cleared(sums, piece):
    sums[piece] = 0
    return sums[piece, 0], sums[piece, 1]


@kernel
def _moments(x, shift, sums, thread, piece, start, stop):
    """Sums (pieces, 2, L) in float64 of x - shift and (x - shift)^2 over the rows start:stop."""
    total, square = _cleared(sums, piece)
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
def _products(g, x, shift, sums, thread, piece, start, stop):
    """Sums (pieces, 2, L) in float64 of g and g * (x - shift) over the rows start:stop."""
    total, product = _cleared(sums, piece)
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
def _masked_products(g, y, x, shift, sums, masked, thread, piece, start, stop):
    """`_products` of g where the ReLU's output y is not 0, which is kept in `masked`."""
    total, product = _cleared(sums, piece)
    length, zero = x.shape[1], x.dtype.type(0)
    first, second = np.zeros_like(x[0]), np.zeros_like(x[0])
    for chunk in range(start, stop, CHUNK):
        first[:] = 0
        second[:] = 0
        for i in range(chunk, min(chunk + CHUNK, stop)):
            for k in range(length):
                passed = g[i, k] if not y[i, k] <= zero else zero
                masked[i, k] = passed
                first[k] += passed
                second[k] += passed * (x[i, k] - shift[k])
        for k in range(length):
            total[k] += first[k]
            product[k] += second[k]


@kernel
def _affine_products(g, x, affine, sums, thread, piece, start, stop):
    """The same with y computed once more from x, by the `rows` of `_affine_relu`, to the bit."""
    total, product = _cleared(sums, piece)
    center, scale, shift = affine[0], affine[1], affine[2]
    length, zero = x.shape[1], x.dtype.type(0)
    first, second = np.zeros_like(x[0]), np.zeros_like(x[0])
    for chunk in range(start, stop, CHUNK):
        first[:] = 0
        second[:] = 0
        for i in range(chunk, min(chunk + CHUNK, stop)):
            for k in range(length):
                d = x[i, k] - center[k]
                passed = g[i, k] if not d * scale[k] + shift[k] <= zero else zero
                first[k] += passed
                second[k] += passed * d
        for k in range(length):
            total[k] += first[k]
            product[k] += second[k]


@kernel
def _fold(sums, first, second):
    """Add the pieces' rows of sums (pieces, 2, L) up to channels, (C,) each."""
    channels = len(first)
    first[:] = 0
    second[:] = 0
    for piece in range(len(sums)):
        for pixel in range(0, sums.shape[2], channels):
            totals, others = sums[piece, 0, pixel:], sums[piece, 1, pixel:]
            for c in range(channels):
                first[c] += totals[c]
                second[c] += others[c]


@kernel
def _scale_and_shift(sums, near, pixels, eps, weight, bias, mean, var, rows):
    """The batch's mean and variance, and rows (3, L): what is subtracted, the scale, the shift.

    Was a `near` so far from its mean that the squares of the deviations lost digits?
    """
    channels, far = len(mean), False
    first, second = np.empty(channels), np.empty(channels)
    _fold(sums, first, second)
    for c in range(channels):
        d = first[c] / pixels
        exact = near[c] + d
        variance = max(second[c] / pixels - d * d, 0.0)
        far = far or d * d > FAR * variance
        scale = weight[c] / np.sqrt(variance + eps)
        mean[c] = exact
        var[c] = variance
        # What rounding takes from the mean that is subtracted goes to the shift.
        shift = bias[c] + (mean[c] - exact) * scale
        for k in range(c, rows.shape[1], channels):
            rows[0, k] = mean[c]
            rows[1, k] = scale
            rows[2, k] = shift
    return far


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
def _affine(x, rows, y, thread, piece, start, stop):
    center, scale, shift = rows[0], rows[1], rows[2]
    for i in range(start, stop):
        for k in range(x.shape[1]):
            y[i, k] = (x[i, k] - center[k]) * scale[k] + shift[k]


@kernel
def _affine_relu(x, rows, y, thread, piece, start, stop):
    center, scale, shift = rows[0], rows[1], rows[2]
    zero = x.dtype.type(0)
    for i in range(start, stop):
        for k in range(x.shape[1]):
            value = (x[i, k] - center[k]) * scale[k] + shift[k]
            y[i, k] = zero if value < zero else value  # NaN stays NaN


@kernel
def _affine_add_relu(x, rows, residual, y, thread, piece, start, stop):
    center, scale, shift = rows[0], rows[1], rows[2]
    zero = x.dtype.type(0)
    for i in range(start, stop):
        for k in range(x.shape[1]):
            value = (x[i, k] - center[k]) * scale[k] + shift[k] + residual[i, k]
            y[i, k] = zero if value < zero else value


@kernel
def _input(g, x, shift, rows, dx, thread, piece, start, stop):
    scale, slope, offset = rows[0], rows[1], rows[2]
    for i in range(start, stop):
        for k in range(x.shape[1]):
            dx[i, k] = scale[k] * g[i, k] + slope[k] * (x[i, k] - shift[k]) + offset[k]


@kernel
def _affine_input(g, x, affine, rows, dx, thread, piece, start, stop):
    """`_input` of the gradient that `_affine_products` masks."""
    center, forward, shift = affine[0], affine[1], affine[2]
    scale, slope, offset = rows[0], rows[1], rows[2]
    zero = x.dtype.type(0)
    for i in range(start, stop):
        for k in range(x.shape[1]):
            d = x[i, k] - center[k]
            passed = g[i, k] if not d * forward[k] + shift[k] <= zero else zero
            dx[i, k] = scale[k] * passed + slope[k] * d + offset[k]


# ------------------------------------------------------------------------- whole operations


@kernel
def _repeat(values, row):
    """(C,) over and over."""
    for pixel in range(0, len(row), len(values)):
        row[pixel : pixel + len(values)] = values


@kernel
def _apply(share, x, rows, residual, relu, y):
    """(x - center) * scale + shift, where the three are the `rows`, and what follows."""
    if residual is not None:
        lead(share, bind(_affine_add_relu, (x, rows, residual, y)))
    elif relu:
        lead(share, bind(_affine_relu, (x, rows, y)))
    else:
        lead(share, bind(_affine, (x, rows, y)))


@kernel
def _scale(share, x, scale, shift, residual, relu, y):
    """x * scale + shift, for scale and shift (C,)."""
    rows = np.zeros((3, x.shape[1]), x.dtype)
    _repeat(scale, rows[1])
    _repeat(shift, rows[2])
    _apply(share, x, rows, residual, relu, y)


@kernel
def _normalise(share, x, weight, bias, residual, eps, relu, mean, var, rows, y):
    """y, mean and var of the batch, and the rows (3, L) of `_apply`."""
    channels, length = len(mean), x.shape[1]
    pixels = len(x) * (length // channels)
    # Deviations from the mean of the first row, which is near enough to the mean for their squares
    # to keep their digits: one pass is enough.
    near = np.zeros(channels, x.dtype)
    share_of_mean = x.dtype.type(channels / length)
    for pixel in range(0, length, channels):
        for c in range(channels):
            near[c] += x[0, pixel + c] * share_of_mean
    shift = np.empty(length, x.dtype)
    _repeat(near, shift)
    _, _, _, pieces = share
    sums = np.empty((pieces, 2, length))
    lead(share, bind(_moments, (x, shift, sums)))
    far = _scale_and_shift(sums, near, pixels, eps, weight, bias, mean, var, rows)
    if far:  # that row was an outlier: once more, from the mean
        near[:] = mean
        _repeat(near, shift)
        lead(share, bind(_moments, (x, shift, sums)))
        _scale_and_shift(sums, near, pixels, eps, weight, bias, mean, var, rows)
    _apply(share, x, rows, residual, relu, y)


@kernel
def _gradients(share, g, y, x, weight, mean, var, eps, affine, masked, dweight, dbias, dx):
    """dx = scale * (g - <g> - n <g n>), with n = (x - mean) / std, folded to

    scale * g + slope * (x - mean) + offset.  Where a ReLU follows, g counts where its output is
    not 0: that is computed from x by `affine` if given, else it is y and g goes to `masked`.
    """
    length = x.shape[1]
    pixels = len(x) * (length // len(mean))
    shift = np.empty(length, x.dtype)
    _repeat(mean, shift)
    _, _, _, pieces = share
    sums = np.empty((pieces, 2, length))
    if affine is not None:
        lead(share, bind(_affine_products, (g, x, affine, sums)))
    elif masked is not None:
        lead(share, bind(_masked_products, (g, y, x, shift, sums, masked)))
    else:
        lead(share, bind(_products, (g, x, shift, sums)))
    rows = np.empty((3, length), x.dtype)
    _slope_and_offset(sums, pixels, eps, weight, mean, var, dweight, dbias, rows)
    if affine is not None:
        lead(share, bind(_affine_input, (g, x, affine, rows, dx)))
    elif masked is not None:
        lead(share, bind(_input, (masked, x, shift, rows, dx)))
    else:
        lead(share, bind(_input, (g, x, shift, rows, dx)))


@kernel
def _fixed(share, x, mean, var, weight, bias, eps, residual, relu, y):
    """Batch norm by given statistics (C,), as `reference.scale_and_shift` rounds."""
    eps = x.dtype.type(eps)
    scale, shift = np.empty_like(mean), np.empty_like(mean)
    for c in range(len(mean)):
        scale[c] = weight[c] / np.sqrt(var[c] + eps)
        shift[c] = bias[c] - mean[c] * scale[c]
    _scale(share, x, scale, shift, residual, relu, y)


@kernel
def _move(running_mean, running_var, mean, var, seen, kept, share, unbias):
    kind = mean.dtype.type
    kept, share, unbias = kind(kept), kind(share), kind(unbias)
    if seen is not None:
        seen[()] += 1
    for c in range(len(mean)):
        running_mean[c] = running_mean[c] * kept + share * mean[c]
        running_var[c] = running_var[c] * kept + share * (var[c] * unbias)


# --------------------------------------------------------------------------------- wrappers


def _covers(x: Array, *others: Array | None) -> bool:
    return _are(x.dtype, x.shape, others)


def _are(dtype: Any, shape: tuple[int, ...], arrays: Iterable[Array | None]) -> bool:
    """Is each, where it is given, of this dtype and shape?"""
    for a in arrays:  # noqa: SIM110 - all(...) takes twice as long
        if a is not None and (a.dtype != dtype or a.shape != shape):
            return False
    return True


def _rows(x: Array | None) -> Array | None:
    """(N,C,...) as rows of whole pixels."""
    return None if x is None else channel_rows(x)


def _share(rows: Array) -> Share:
    return share_out(len(rows), rows.size, PIECES)


def _vector(v: Array | None, value: float, like: Array) -> Array:
    """v in the precision of `like` (N,C,...), or a vector (C,) of `value`."""
    if v is None:
        return np.full(like.shape[1], value, like.dtype)
    return v if v.dtype == like.dtype else v.astype(like.dtype)


def batch_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm`."""
    return _forward(x, weight, bias, None, eps, False)[:3]


def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, residual: Array | None, eps: float
) -> tuple[Array, ...]:
    """See `reference.batch_norm_relu`; without a residual, also what y can be computed from."""
    if not _covers(x, residual):
        return NotImplemented
    found = _forward(x, weight, bias, residual, eps, True)
    return found if residual is None else found[:3]


def _forward(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    relu: bool,
) -> tuple[Array, Array, Array, Array]:
    xs, mean, var = channel_rows(x), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    y, rows = empty(xs.shape, xs.dtype), np.empty((3, xs.shape[1]), xs.dtype)
    weight, bias = _vector(weight, 1, x), _vector(bias, 0, x)
    others = _rows(residual), float(eps), relu
    _normalise(_share(xs), xs, weight, bias, *others, mean, var, rows, y)
    return from_rows(y, x), mean, var, rows


def affine(x: Array, scale: Array, shift: Array) -> Array:
    """See `reference.affine`."""
    return _affinely(x, scale, shift, None, False)


def affine_relu(x: Array, scale: Array, shift: Array, residual: Array | None) -> Array:
    """See `reference.affine_relu`."""
    if residual is not None and not _covers(x, residual):
        return NotImplemented
    return _affinely(x, scale, shift, residual, True)


def _affinely(x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool) -> Array:
    if x.ndim < 2:
        return NotImplemented
    rows = channel_rows(x)
    y = empty(rows.shape, rows.dtype)
    if scale.dtype != x.dtype or shift.dtype != x.dtype:
        scale, shift = scale.astype(x.dtype), shift.astype(x.dtype)
    _scale(_share(rows), rows, scale, shift, _rows(residual), relu, y)
    return from_rows(y, x)


def batch_norm_backward(
    g: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm_backward`."""
    if not _covers(x, g):
        return NotImplemented
    return _backward(g, None, x, weight, mean, var, eps, None, None)[:3]


def batch_norm_relu_backward(
    g: Array,
    y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    residual: bool,
    affine: Array | None = None,
) -> tuple[Array, Array, Array, Array | None]:
    """See `reference.batch_norm_relu_backward`; affine: what this layer's forward returned last.

    Then y need not be read, which saves two of seven passes over memory.
    """
    if not _covers(x, g, y):
        return NotImplemented
    masked = empty(channel_rows(x).shape, x.dtype) if affine is None else None
    *found, dr = _backward(g, y, x, weight, mean, var, eps, affine, masked)
    return *found, dr if residual else None


def _backward(
    g: Array,
    y: Array | None,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    affine: Array | None,
    masked: Array | None,
) -> tuple[Array, Array, Array, Array | None]:
    rows = channel_rows(x)
    weight, eps = _vector(weight, 1, x), float(eps)
    dweight, dbias = np.empty_like(mean), np.empty_like(mean)
    dx = empty(rows.shape, rows.dtype)
    share, gs, ys = _share(rows), channel_rows(g), _rows(y)
    _gradients(share, gs, ys, rows, weight, mean, var, eps, affine, masked, dweight, dbias, dx)
    return from_rows(dx, x), dweight, dbias, None if masked is None else from_rows(masked, x)


def fixed_norm(
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    relu: bool,
) -> Array:
    """See `reference.fixed_norm`."""
    vectors = mean, var, _vector(weight, 1, x), _vector(bias, 0, x)
    if not (_are(x.dtype, x.shape[1:2], vectors) and _covers(x, residual)):
        return NotImplemented
    rows = channel_rows(x)
    y = empty(rows.shape, rows.dtype)
    _fixed(_share(rows), rows, *vectors, float(eps), _rows(residual), relu, y)
    return from_rows(y, x)


def move_statistics(
    running_mean: Array,
    running_var: Array,
    mean: Array,
    var: Array,
    seen: Array | None,
    *,
    momentum: float | None,
    unbias: float,
) -> None:
    """See `fused.move_statistics`; to the same bits."""
    arrays = running_mean, running_var, mean, var
    if momentum is None or not _are(mean.dtype, mean.shape, arrays):
        return NotImplemented
    _move(*arrays, seen, 1.0 - momentum, float(momentum), float(unbias))
    return None
