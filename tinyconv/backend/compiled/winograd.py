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

import functools
from typing import Any, NamedTuple

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.compiled import tile
from tinyconv.backend.compiled.direct import Image, copy_image, images, pieces_of_sums
from tinyconv.backend.compiled.host import Host, host
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.compiled.team import Share, parallel, share_out
from tinyconv.backend.memory import empty
from tinyconv.backend.reference import Pair
from tinyconv.backend.threads import scratch

FEW_PIXELS, FEW_PRODUCTS = 300, 5e5  # where the direct algorithm is as fast (measured)
MANY_WEIGHTS = 1024  # to a pixel: read again for every image, they do not stay in cache
STRIP = 48 * 1024  # bytes of a strip's transformed input


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
def _weight_row(a, b, c):
    """G (a, b, c) of F(2,3)."""
    half = (a + b + c) * type(a)(0.5)
    return a, half, half - b, c


@parallel
def _transform_weights(w, step_o, step_c, flipped, outputs, u, thread, piece, start, stop):
    """G w G^T for the input channels start:stop, to u (16, blocks, C, lanes), zeros to fill."""
    _, blocks, _, lanes = u.shape
    step = -1 if flipped else 1
    for block in range(blocks):
        for o in range(min(lanes, outputs - block * lanes)):
            for c in range(start, stop):
                at = (block * lanes + o) * step_o + c * step_c + (8 if flipped else 0)
                first = _weight_row(w[at], w[at + 3 * step], w[at + 6 * step])
                second = _weight_row(w[at + step], w[at + 4 * step], w[at + 7 * step])
                third = _weight_row(w[at + 2 * step], w[at + 5 * step], w[at + 8 * step])
                for i in range(4):
                    row = _weight_row(first[i], second[i], third[i])
                    for j in range(4):
                        u[4 * i + j, block, c, o] = row[j]
        for o in range(outputs - block * lanes, lanes):
            u[:, block, start:stop, o] = 0


@parallel
def _transform_gradient(sums, dw, thread, piece, start, stop):
    """dw (O,C,3,3): G^T t G of the sum t of sums (pieces, 16, blocks, C, lanes)."""
    pieces, _, blocks, _, lanes = sums.shape
    half = dw.dtype.type(0.5)
    columns = np.empty((4, 3, lanes), dw.dtype)
    for c in range(start, stop):
        for block in range(blocks):
            total = sums[0, :, block, c]
            for other in range(1, pieces):
                for k in range(16):
                    for o in range(lanes):
                        total[k, o] += sums[other, k, block, c, o]
            for i in range(4):
                for o in range(lanes):
                    inner = half * total[4 * i + 1, o], half * total[4 * i + 2, o]
                    columns[i, 0, o] = total[4 * i, o] + inner[0] + inner[1]
                    columns[i, 1, o] = inner[0] - inner[1]
                    columns[i, 2, o] = inner[0] + inner[1] + total[4 * i + 3, o]
            for o in range(min(lanes, len(dw) - block * lanes)):
                for j in range(3):
                    inner = half * columns[1, j, o], half * columns[2, j, o]
                    of_o = dw[block * lanes + o, c]
                    of_o[0, j] = columns[0, j, o] + inner[0] + inner[1]
                    of_o[1, j] = inner[0] - inner[1]
                    of_o[2, j] = inner[0] + inner[1] + columns[3, j, o]


@parallel
def _correlate(
    shape, lanes, x, u, y, channels, image, tiles, scratch, v, m, thread, piece, start, stop
):
    """y (N,OH,OW,O) for the images start:stop; u: (16, blocks of O, C, V*L)."""
    size = x.itemsize
    J, VL, L = len(shape[0]), len(shape[1]) * len(shape[2]), len(lanes)
    C, O = image.channels, channels
    step_x, step_y = _step(tiles, C, size), _step(tiles, O, size)
    mine, va, ma = scratch[thread], v[thread].ctypes.data, m[thread].ctypes.data
    taps = np.zeros((1, 2), np.int64)
    pixel = O * size
    line = tiles.width * pixel
    mine[:] = 0  # the border stays so
    for n in range(start, stop):
        copy_image(x, image, n, size, mine.ctypes.data)
        for first in range(0, tiles.rows, tiles.strip):
            last = min(first + tiles.strip, tiles.rows)
            count = (last - first) * tiles.columns
            _transform_input(lanes, x, image, tiles, first, last, mine.ctypes.data, va)
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


@parallel
def _correlate_weight(
    shape, lanes, x, g, sums, channels, image, tiles, scratch, v, m, thread, piece, start, stop
):
    """sums[piece] (16, blocks of O, C, V*L): over the images start:stop."""
    size = x.itemsize
    J, VL, L = len(shape[0]), len(shape[1]) * len(shape[2]), len(lanes)
    C, O = image.channels, channels
    step_x, step_y = _step(tiles, C, size), _step(tiles, O, size)
    mine, va, ma = scratch[thread], v[thread].ctypes.data, m[thread].ctypes.data
    out = sums[piece]
    out[:] = 0
    pixel = O * size
    line = tiles.width * pixel
    mine[:] = 0  # the border stays so
    for n in range(start, stop):
        copy_image(x, image, n, size, mine.ctypes.data)
        for first in range(0, tiles.rows, tiles.strip):
            last = min(first + tiles.strip, tiles.rows)
            count = (last - first) * tiles.columns
            _transform_input(lanes, x, image, tiles, first, last, mine.ctypes.data, va)
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


class Plan(NamedTuple):
    """All that shapes alone decide."""

    shape: Any  # of the tile
    lanes: int  # output channels of a tile
    blocks: int
    image: Image
    tiles: Tiles
    scratch: tuple[int, int, int]  # numbers: the image, and its and the outputs' 16 matrices


@functools.lru_cache(maxsize=4096)
def _plan(
    size: Pair,
    out_size: Pair,
    channels: Pair,
    padding: Pair,
    weight_gradient: bool,
    dtype: Any,
    machine: Host,
) -> Plan:
    (H, W), (OH, OW), (top, left), (C, O) = size, out_size, padding, channels
    rows, columns = -(-OH // 2), -(-OW // 2)
    strip = max(1, min(rows, STRIP // (16 * columns * max(channels) * dtype.itemsize)))
    strip = -(-rows // -(-rows // strip))
    height, width = max(top + H, 2 * rows + 2), max(left + W, 2 * columns + 2)
    image, tiles = Image(H, W, C, top, left, height, width, 1), Tiles(OH, OW, rows, columns, strip)
    if weight_gradient:
        J, V = machine.weight_tile(C, O, dtype)
        while C % J:
            J -= 1
    else:
        J, V = machine.tile((rows % strip or strip) * columns, O, dtype)
    L = machine.lanes(dtype)
    blocks = -(-O // (V * L))
    matrices = [16 * (strip * columns * n + 128 // dtype.itemsize) for n in (C, blocks * V * L)]
    shape = ((0,) * J, (0,) * V, (0,) * L, (0,))
    return Plan(shape, V * L, blocks, image, tiles, (height * width * C, *matrices))


def _scratch(share: Share, plan: Plan, dtype: Any) -> list[Array]:
    names = ("image", "winograd_x", "winograd_y")
    return [
        scratch(name, (share.threads, n), dtype)
        for name, n in zip(names, plan.scratch, strict=True)
    ]


def correlate(x: Array, w: Array, out_size: Pair, padding: Pair, backward: bool) -> Array:
    """x (N,C,H,W) with w (O,C,3,3), or in reverse with w (C,O,3,3): (N,O,OH,OW)."""
    xs, N, C = images(x), len(x), x.shape[1]
    O = w.shape[1] if backward else w.shape[0]
    y = empty((N, *out_size, O), x.dtype)
    plan = _plan(x.shape[2:], tuple(out_size), (C, O), padding, False, x.dtype, host())
    u = scratch("weights", (16, plan.blocks, C, plan.lanes), x.dtype)
    steps = (9, 9 * O) if backward else (9 * C, 9)
    flat = np.ascontiguousarray(w).reshape(-1)
    _transform_weights(share_out(C, u.size, 1), flat, *steps, backward, O, u)
    share = share_out(N, y.size * 16)
    _correlate(
        share,
        plan.shape,
        plan.shape[2],
        xs.reshape(-1),
        u.reshape(-1),
        y.reshape(-1),
        O,
        plan.image,
        plan.tiles,
        *_scratch(share, plan, x.dtype),
    )
    return y.transpose(0, 3, 1, 2)


def correlate_weight(x: Array, g: Array, padding: Pair) -> Array:
    """The gradient (O,C,3,3) of w."""
    xs, gs = images(x), images(g)
    (N, C), O = x.shape[:2], g.shape[1]
    plan = _plan(x.shape[2:], g.shape[2:], (C, O), padding, True, x.dtype, host())
    share = share_out(N, g.size * 16, pieces_of_sums(16 * C * O))
    sums = scratch("sums", (share.pieces, 16, plan.blocks, C, plan.lanes), x.dtype)
    _correlate_weight(
        share,
        plan.shape,
        plan.shape[2],
        xs.reshape(-1),
        gs.reshape(-1),
        sums,
        O,
        plan.image,
        plan.tiles,
        *_scratch(share, plan, x.dtype),
    )
    dw = empty((O, C, 3, 3), x.dtype)
    _transform_gradient(share_out(C, sums.size, 1), sums, dw)
    return dw
