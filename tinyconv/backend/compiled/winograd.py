"""Winograd's algorithm for 3x3 convolutions of stride 1: 16 multiplications where there were 36.

F(2x2, 3x3): a tile of 2x2 outputs reads 4x4 inputs d.  With the matrices below,

    y  = A^T [ (G w G^T) * (B^T d B) ] A         * is element by element, summed over channels
    dw = G^T [ (A g A^T) * (B^T d B) ] G         summed over tiles
    dx is y again, with flipped weights

so that for each of the 16 elements a matrix product over the channels remains: P tiles by C
channels by O.  A strip of tiles goes through all three steps before the next one is read.

Reference: Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.compiled import tile
from tinyconv.backend.compiled.direct import (
    Image,
    add_up,
    copy_image,
    images,
    new,
    pack,
    spans_of_sums,
)
from tinyconv.backend.compiled.host import host
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.memory import empty
from tinyconv.backend.reference import Pair
from tinyconv.backend.threads import in_spans, scratch

FEW_PIXELS, FEW_PRODUCTS = 300, 5e5  # where the direct algorithm is as fast (measured)
MANY_WEIGHTS = 1024  # to a pixel: read again for every image, they do not stay in cache
STRIP = 48 * 1024  # bytes of a strip's transformed input

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
WEIGHTS = np.kron(G, G)  # (16, 9): the 16 elements of G w G^T from the 9 of w


class Tiles(NamedTuple):
    """The outputs in tiles of 2x2, and how many rows of tiles make a strip."""

    height: int
    width: int
    rows: int
    columns: int
    strip: int


@kernel
def _step(tiles, channels, size):
    """Bytes from one of a strip's 16 matrices to the next: an odd number of cache lines.

    With a power of two all 16 would compete for the same few places in the cache.
    """
    return ((tiles.strip * tiles.columns * channels * size // 64 + 1) | 1) * 64


@kernel
def _transform_input(lanes, x, image, tiles, first, last, base, v):
    """B^T d B for the rows first:last of tiles, to the 16 matrices v (tiles, C)."""
    size = x.itemsize
    L = len(lanes)
    pixel = image.channels * size
    line = image.padded_width * pixel
    step = _step(tiles, image.channels, size)
    for i in range(first, last):
        for j in range(tiles.columns):
            source = base + 2 * i * line + 2 * j * pixel
            target = v + ((i - first) * tiles.columns + j) * pixel
            for c in range(0, image.channels, L):
                at = c * size
                tile.winograd_input(lanes, x, source + at, line, pixel, target + at, step)


@kernel
def _correlate(shape, lanes, x, u, y, channels, image, tiles, start, stop, scratch, v, m):
    """y (N,OH,OW,O) for the images start:stop; u: (16, blocks of O, C, V*L)."""
    size = x.itemsize
    J, VL, L = len(shape[0]), len(shape[1]) * len(shape[2]), len(lanes)
    C, O = image.channels, channels
    step_x, step_y = _step(tiles, C, size), _step(tiles, O, size)
    va, ma = v.ctypes.data, m.ctypes.data
    taps = np.zeros((1, 2), np.int64)
    pixel = O * size
    line = tiles.width * pixel
    scratch[:] = 0  # the border stays so
    for n in range(start, stop):
        copy_image(x, image, n, size, scratch.ctypes.data)
        for first in range(0, tiles.rows, tiles.strip):
            last = min(first + tiles.strip, tiles.rows)
            count = (last - first) * tiles.columns
            _transform_input(lanes, x, image, tiles, first, last, scratch.ctypes.data, va)
            for k in range(16):
                for o in range(0, O, VL):
                    weights = u.ctypes.data + (k * (-(-O // VL) * VL) + o) * C * size
                    p = 0
                    while p < count:
                        p = min(p, count - J)
                        tile.window(
                            shape,
                            x,
                            va + k * step_x + p * C * size,
                            C * size,
                            taps.ctypes.data,
                            1,
                            C,
                            weights,
                            ma + k * step_y + (p * O + o) * size,
                            pixel,
                            O - o,
                        )
                        p += J
            for i in range(first, last):
                for j in range(tiles.columns):
                    source = ma + ((i - first) * tiles.columns + j) * pixel
                    target = y.ctypes.data + n * tiles.height * line + 2 * i * line + 2 * j * pixel
                    for o in range(0, O, L):
                        tile.winograd_output(
                            lanes,
                            x,
                            source + o * size,
                            step_y,
                            target + o * size,
                            line,
                            pixel,
                            tiles.height - 2 * i,
                            tiles.width - 2 * j,
                        )


@kernel
def _correlate_weight(shape, lanes, x, g, out, channels, image, tiles, start, stop, scratch, v, m):
    """Add the images start:stop to out (16, blocks of O, C, V*L)."""
    size = x.itemsize
    J, VL, L = len(shape[0]), len(shape[1]) * len(shape[2]), len(lanes)
    C, O = image.channels, channels
    step_x, step_y = _step(tiles, C, size), _step(tiles, O, size)
    va, ma = v.ctypes.data, m.ctypes.data
    pixel = O * size
    line = tiles.width * pixel
    scratch[:] = 0  # the border stays so
    for n in range(start, stop):
        copy_image(x, image, n, size, scratch.ctypes.data)
        for first in range(0, tiles.rows, tiles.strip):
            last = min(first + tiles.strip, tiles.rows)
            count = (last - first) * tiles.columns
            _transform_input(lanes, x, image, tiles, first, last, scratch.ctypes.data, va)
            for i in range(first, last):
                for j in range(tiles.columns):
                    source = g.ctypes.data + n * tiles.height * line + 2 * i * line + 2 * j * pixel
                    target = ma + ((i - first) * tiles.columns + j) * pixel
                    for o in range(0, O, L):
                        tile.winograd_gradient(
                            lanes,
                            x,
                            source + o * size,
                            line,
                            pixel,
                            tiles.height - 2 * i,
                            tiles.width - 2 * j,
                            target + o * size,
                            step_y,
                        )
            for k in range(16):
                for o in range(0, O, VL):
                    for c in range(0, C, J):
                        tile.weight(
                            shape,
                            x,
                            va + k * step_x + c * size,
                            0,
                            C * size,
                            ma + k * step_y + o * size,
                            0,
                            pixel,
                            1,
                            count,
                            out.ctypes.data + ((k * (-(-O // VL) * VL) + o) * C + c * VL) * size,
                            VL * size,
                            0,
                        )


def covers(
    weight: tuple[int, ...],
    stride: Pair,
    dilation: Pair,
    groups: int,
    images: int,
    out_size: Pair,
    dtype: Any,
) -> bool:
    """3x3, stride 1, channels that fill whole vectors, and outputs enough to repay what it takes

    to transform the weights.
    """
    O, C, *kernel_size = weight
    lanes = host().lanes(dtype)
    pixels = images * out_size[0] * out_size[1]
    return (
        kernel_size == [3, 3]
        and stride == dilation == (1, 1)
        and groups == 1
        and O % lanes == C % lanes == 0
        and min(out_size) >= 4
        and pixels >= FEW_PIXELS + FEW_PRODUCTS / (C * O)
        and out_size[0] * out_size[1] * MANY_WEIGHTS >= C * O
    )


def _layout(size: Pair, out_size: Pair, channels: Pair, padding: Pair, itemsize: int) -> Any:
    """The image with its border, the tiles, and scratch for both."""
    (H, W), (OH, OW), (top, left) = size, out_size, padding
    rows, columns = -(-OH // 2), -(-OW // 2)
    strip = max(1, min(rows, STRIP // (16 * columns * max(channels) * itemsize)))
    strip = -(-rows // -(-rows // strip))
    height, width = max(top + H, 2 * rows + 2), max(left + W, 2 * columns + 2)
    image = Image(H, W, channels[0], top, left, height, width, 1)
    return image, Tiles(OH, OW, rows, columns, strip)


def _scratch(image: Image, tiles: Tiles, channels: int, dtype: Any) -> tuple[Array, Array, Array]:
    x_size, y_size = (
        16 * (tiles.strip * tiles.columns * n + 128 // dtype.itemsize)
        for n in (image.channels, channels)
    )
    padded = scratch("image", (image.padded_height * image.padded_width * image.channels,), dtype)
    return padded, scratch("winograd_x", (x_size,), dtype), scratch("winograd_y", (y_size,), dtype)


def correlate(x: Array, w: Array, out_size: Pair, padding: Pair, backward: bool) -> Array:
    """x (N,C,H,W) with w (O,C,3,3), or in reverse with w (C,O,3,3): (N,O,OH,OW)."""
    xs = images(x)
    N, H, W, C = xs.shape
    O = w.shape[1] if backward else w.shape[0]
    y = empty((N, *out_size, O), x.dtype)
    image, tiles = _layout((H, W), out_size, (C, O), padding, x.itemsize)
    machine = host()
    lanes = machine.lanes(x.dtype)
    least = (tiles.rows % tiles.strip or tiles.strip) * tiles.columns
    J, V = machine.tile(least, O, x.dtype)
    matrix = (WEIGHTS[:, ::-1] if backward else WEIGHTS).astype(x.dtype)
    u = matrix @ w.reshape(-1, 9).T  # (16, O*C)
    strides = (u.shape[1], 1, O) if backward else (u.shape[1], C, 1)
    packed = new(16 * -(-O // (V * lanes)) * V * lanes * C, x.dtype)
    pack(u.reshape(-1), 0, (*strides, 0, 0), (16, O, C, 1, 1), V * lanes, packed, 0)
    shape = ((0,) * J, (0,) * V, (0,) * lanes, (0,))
    flat_x, flat_y = xs.reshape(-1), y.reshape(-1)

    def job(span: Sequence[int]) -> None:
        memory = _scratch(image, tiles, O, x.dtype)
        _correlate(
            shape, shape[2], flat_x, packed, flat_y, O, image, tiles, span[0], span[-1] + 1, *memory
        )

    in_spans(job, range(N), y.size * 16, blas=False)
    return y.transpose(0, 3, 1, 2)


def correlate_weight(x: Array, g: Array, padding: Pair) -> Array:
    """The gradient (O,C,3,3) of w."""
    xs, gs = images(x), images(g)
    (N, H, W, C), (_, OH, OW, O) = xs.shape, gs.shape
    image, tiles = _layout((H, W), (OH, OW), (C, O), padding, x.itemsize)
    machine = host()
    lanes = machine.lanes(x.dtype)
    J, V = machine.weight_tile(C, O, x.dtype)
    while C % J:
        J -= 1
    blocks = -(-O // (V * lanes))
    shape = ((0,) * J, (0,) * V, (0,) * lanes, (0,))
    flat_x, flat_g = xs.reshape(-1), gs.reshape(-1)

    def job(span: Sequence[int]) -> Array:
        memory = _scratch(image, tiles, blocks * V * lanes, x.dtype)
        out = new(16 * blocks * C * V * lanes, x.dtype)
        out[:] = 0
        _correlate_weight(
            shape, shape[2], flat_x, flat_g, out, O, image, tiles, span[0], span[-1] + 1, *memory
        )
        return out

    per_thread = spans_of_sums(16 * C * O)
    total = add_up(in_spans(job, range(N), g.size * 16, per_thread, blas=False))
    dw = WEIGHTS.T.astype(x.dtype) @ total.reshape(16, -1)
    dw = dw.reshape(9, blocks, C, V * lanes).transpose(1, 3, 2, 0).reshape(-1, C, 3, 3)
    return np.ascontiguousarray(dw[:O])
