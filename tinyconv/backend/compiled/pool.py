"""Pooling and its adjoints: plain loops over (N,H,W,C) that vectorise over the channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.compiled.direct import images
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.compiled.team import Share, parallel, share_out
from tinyconv.backend.memory import empty
from tinyconv.backend.reference import Padding, Pair, output_size, terms_of

FEW_TERMS = 32  # that may be added up one by one in the precision of x


@kernel
def _inside(first, count, spread, size):
    """The taps t < count for which first + t * spread lies in range(size)."""
    start = 0
    while start < count and first + start * spread < 0:
        start += 1
    stop = count
    while stop > start and first + (stop - 1) * spread >= size:
        stop -= 1
    return start, stop


@parallel
def _max_pool(x, y, places, kernel_size, stride, dilation, top, left, thread, piece, first, last):
    _, H, W, C = x.shape
    (KH, KW), (sh, sw), (dh, dw) = kernel_size, stride, dilation
    lowest = x.dtype.type(-np.inf)
    for n in range(first, last):
        for i in range(y.shape[1]):
            h = i * sh - top
            start_h, stop_h = _inside(h, KH, dh, H)
            for j in range(y.shape[2]):
                w = j * sw - left
                start_w, stop_w = _inside(w, KW, dw, W)
                best, where = y[n, i, j], places[n, i, j]
                # A window of -inf alone still points into the image: at its first element.
                best[:] = lowest
                where[:] = (h + start_h * dh) * W + w + start_w * dw
                for kh in range(start_h, stop_h):
                    for kw in range(start_w, stop_w):
                        row, column = h + kh * dh, w + kw * dw
                        values, place = x[n, row, column], row * W + column
                        for c in range(C):
                            value = values[c]
                            better = (value > best[c]) | (value != value)
                            best[c] = value if better else best[c]
                            where[c] = place if better else where[c]


@parallel
def _gather(x, places, y, found, thread, piece, first, last):
    """found[piece]: whether all places lie in the image."""
    found[piece] = False
    _, pixels, C = x.shape
    for n in range(first, last):
        for p in range(places.shape[1]):
            for c in range(C):
                place = places[n, p, c]
                if not 0 <= place < pixels:
                    return
                y[n, p, c] = x[n, place, c]
    found[piece] = True


@parallel
def _scatter(g, places, x, found, thread, piece, first, last):
    """found[piece]: whether all places lie in the image."""
    found[piece] = False
    _, pixels, C = x.shape
    x[first:last] = 0
    for n in range(first, last):
        for p in range(places.shape[1]):
            for c in range(C):
                place = places[n, p, c]
                if not 0 <= place < pixels:
                    return
                x[n, place, c] += g[n, p, c]
    found[piece] = True


@parallel
def _window_sum(x, y, kernel_size, stride, top, left, thread, piece, first, last):
    _, H, W, C = x.shape
    for n in range(first, last):
        for i in range(y.shape[1]):
            h = i * stride[0] - top
            start_h, stop_h = _inside(h, kernel_size[0], 1, H)
            for j in range(y.shape[2]):
                w = j * stride[1] - left
                start_w, stop_w = _inside(w, kernel_size[1], 1, W)
                total = y[n, i, j]
                total[:] = 0
                for row in range(h + start_h, h + stop_h):
                    for column in range(w + start_w, w + stop_w):
                        values = x[n, row, column]
                        for c in range(C):
                            total[c] += values[c]


@parallel
def _large_window_sum(x, y, kernel_size, stride, top, left, thread, piece, first, last):
    """`_window_sum` of many pixels each, in float64."""
    _, H, W, C = x.shape
    total = np.empty(C)
    for n in range(first, last):
        for i in range(y.shape[1]):
            h = i * stride[0] - top
            start_h, stop_h = _inside(h, kernel_size[0], 1, H)
            for j in range(y.shape[2]):
                w = j * stride[1] - left
                start_w, stop_w = _inside(w, kernel_size[1], 1, W)
                total[:] = 0
                for row in range(h + start_h, h + stop_h):
                    for column in range(w + start_w, w + stop_w):
                        values = x[n, row, column]
                        for c in range(C):
                            total[c] += values[c]
                y[n, i, j] = total


@kernel
def _add_windows(g, x, kernel_size, stride, top, left):
    """Every g of an image (OH,OW,C) added to its whole window in x (H,W,C)."""
    H, W, C = x.shape
    for i in range(g.shape[0]):
        h = i * stride[0] - top
        start_h, stop_h = _inside(h, kernel_size[0], 1, H)
        for j in range(g.shape[1]):
            w = j * stride[1] - left
            start_w, stop_w = _inside(w, kernel_size[1], 1, W)
            values = g[i, j]
            for row in range(h + start_h, h + stop_h):
                for column in range(w + start_w, w + stop_w):
                    total = x[row, column]
                    for c in range(C):
                        total[c] += values[c]


@parallel
def _window_sum_input(g, x, kernel_size, stride, top, left, thread, piece, first, last):
    x[first:last] = 0
    for n in range(first, last):
        _add_windows(g[n], x[n], kernel_size, stride, top, left)


@parallel
def _large_window_sum_input(g, x, kernel_size, stride, top, left, thread, piece, first, last):
    """`_window_sum_input` where a pixel is in many windows, in float64."""
    total = np.empty(x.shape[1:])
    for n in range(first, last):
        total[:] = 0
        _add_windows(g[n], total, kernel_size, stride, top, left)
        x[n] = total


# --------------------------------------------------------------------------------- wrappers


def _share(count: int, work: int) -> Share:
    return share_out(count, work, 1)


def _logical(x: Array) -> Array:
    return x.transpose(0, 3, 1, 2)


def max_pool2d(
    x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> tuple[Array, Array]:
    """See `reference.max_pool2d`."""
    (top, _), (left, _) = padding
    N, C = x.shape[:2]
    size = output_size(x.shape[2:], kernel_size, stride, dilation, padding)
    y, places = empty((N, *size, C), x.dtype), empty((N, *size, C), np.int64)
    share = _share(N, y.size * kernel_size[0] * kernel_size[1])
    _max_pool(share, images(x), y, places, kernel_size, stride, dilation, top, left)
    return _logical(y), _logical(places)


def _pixels(x: Array) -> Array:
    """(N,C,H,W) as contiguous (N,H*W,C)."""
    last = images(x)
    return last.reshape(len(last), -1, last.shape[3])


def _check(found: Array, size: int) -> None:
    if not found.all():
        raise IndexError(f"an index lies outside of the image's {size} pixels")


def pool_gather(x: Array, indices: Array) -> Array:
    """See `reference.pool_gather`."""
    if indices.ndim != 4 or indices.dtype != np.int64:
        return NotImplemented
    N, C, OH, OW = indices.shape
    xs, places = _pixels(x), _pixels(indices)
    y = empty(places.shape, x.dtype)
    share = _share(N, y.size * 4)
    _, _, _, pieces = share
    found = np.empty(pieces, np.bool_)
    _gather(share, xs, places, y, found)
    _check(found, xs.shape[1])
    return _logical(y.reshape(N, OH, OW, C))


def pool_scatter(
    g: Array, indices: Array, *, input_size: Pair, window: dict[str, Any] | None = None
) -> Array:
    """See `reference.pool_scatter`."""
    if indices.ndim != 4 or indices.dtype != np.int64:
        return NotImplemented
    N, C = g.shape[:2]
    H, W = input_size
    gs, places = _pixels(g), _pixels(indices)
    x = empty((N, H * W, C), g.dtype)
    share = _share(N, x.size * 4)
    _, _, _, pieces = share
    found = np.empty(pieces, np.bool_)
    _scatter(share, gs, places, x, found)
    _check(found, H * W)
    return _logical(x.reshape(N, H, W, C))


def window_sum(x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding) -> Array:
    """See `reference.window_sum`."""
    terms = kernel_size[0] * kernel_size[1]
    if terms > FEW_TERMS and x.dtype == np.float64:  # this needs a total that is wider
        return NotImplemented
    (top, _), (left, _) = padding
    N, C = x.shape[:2]
    size = output_size(x.shape[2:], kernel_size, stride, (1, 1), padding)
    y, xs = empty((N, *size, C), x.dtype), images(x)
    add = _window_sum if terms <= FEW_TERMS else _large_window_sum
    add(_share(N, y.size * terms), xs, y, kernel_size, stride, top, left)
    return _logical(y)


def window_sum_input(
    g: Array, *, input_size: Pair, kernel_size: Pair, stride: Pair, padding: Padding
) -> Array:
    """See `reference.window_sum_input`."""
    many = terms_of(kernel_size, stride) > FEW_TERMS
    if many and g.dtype == np.float64:  # this needs a total that is wider
        return NotImplemented
    top, left = padding[0][0], padding[1][0]
    N, C = g.shape[:2]
    x, gs = empty((N, *input_size, C), g.dtype), images(g)
    work = g.size * kernel_size[0] * kernel_size[1]
    add = _large_window_sum_input if many else _window_sum_input
    add(_share(N, work), gs, x, kernel_size, stride, top, left)
    return _logical(x)
