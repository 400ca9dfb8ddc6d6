"""Winograd's algorithm for 3x3 convolutions of stride 1: 36 multiplications where there were 144.

F(4x4, 3x3): a tile of 4x4 outputs reads 6x6 inputs d.  With the matrices below,

    y  = A^T [ (G w G^T) * (B^T d B) ] A         * is element by element, summed over channels
    dw = G^T [ (A g A^T) * (B^T d B) ] G         summed over tiles
    dx is y again, with flipped weights

so that for each of the 36 elements a matrix product over the channels remains: P tiles by C
channels by O.  A strip of tiles goes through all three steps before the next one is read.

The algorithm multiplies polynomials by their values at 0, infinity and four more points.  With
-+r and -+2r, r = 1/sqrt(2), rounding errors are at most twice those of the direct sum; with the
usual -+1 and -+2 they are five times as large and more (benchmarks/rounding.py).

    B^T = 1   0  -2.5   0  1  0      G = 1     0     0       A^T = 1  1   1    1   1   0
          0 -2r  -2     r  1  0          -2/3 -2r/3 -1/3           0  r  -r   2r -2r   0
          0  2r  -2    -r  1  0          -2/3  2r/3 -1/3           0 1/2 1/2   2   2   0
          0  -r  -1/2  2r  1  0           1/6   r/3  1/3           0 r/2 -r/2 4r -4r   1
          0   r  -1/2 -2r  1  0           1/6  -r/3  1/3
          0   1   0  -2.5  0  1           0     0    1

A tile mixes its pixels, so rounding, infinities and NaN would reach outputs that do not read them.
An output is therefore kept only where it is clear of that (`tile._clear`); otherwise the direct sum
takes its place, as it does altogether where a weight is zero or not finite.

References: Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016;
Barabasz et al., Error analysis and improving the accuracy of Winograd convolution, TOMS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.blocked import contiguous
from tinyconv.backend.compiled import tile
from tinyconv.backend.compiled.direct import (
    Image,
    clear_border,
    copy_image,
    images,
    next_images,
    next_pairs,
    pieces_of_sums,
    table,
)
from tinyconv.backend.compiled.host import How
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.compiled.team import bind, divide, lead, share_out
from tinyconv.backend.memory import LINE, empty
from tinyconv.backend.reference import Pair
from tinyconv.backend.threads import scratch

FEW_PIXELS = 180  # in all images, where the direct algorithm is as fast (measured)
MANY_WEIGHTS = 8192  # to a pixel: where transforming the weights takes longer than it saves
STRIP = 12  # tiles: enough to repay reading the weights, few enough to stay in cache
LONG_STRIP = 28  # of a weight gradient, which reads and writes all its sums for each strip
MATRICES = 2**19  # bytes of a long strip's inputs that stay in the second-level cache
MANY_PLACES = 8  # a direct sum of that part of a weight's gradient takes as long as all of it
OUT, IN, ELEMENTS = 4, 6, 36  # a tile's outputs and inputs along an axis; the matrices

Run = Callable[[Array, Array], Array]


class Tiles(NamedTuple):
    """The outputs in tiles of 4x4, and how many rows of tiles, of how many images, make a strip.

    Several images where one has few tiles: the transformed weights are read once for a strip.
    """

    height: int
    width: int
    rows: int
    columns: int
    strip: int
    images: int
    step_x: int  # bytes from one of a strip's 36 matrices of inputs to the next
    step_y: int  # the same of outputs


@kernel
def _transform_input(lanes, x, image, tiles, first, last, base, v):
    """B^T d B for the rows first:last of tiles, to the 36 matrices v (tiles, C)."""
    size = x.itemsize
    L = len(lanes)
    pixel = image.channels * size
    line = image.padded_width * pixel
    step = tiles.step_x
    for i in range(first, last):
        for j in range(tiles.columns):
            source = base + OUT * i * line + OUT * j * pixel
            target = v + ((i - first) * tiles.columns + j) * pixel
            for c in range(0, image.channels, L):
                at = c * size
                tile.winograd_input(lanes, x, source + at, line, pixel, target + at, step)


@kernel
def _transform_weights(lanes, w, step_o, step_c, flipped, outputs, u, thread, piece, start, stop):
    """G w G^T for the input channels start:stop, to u (36, blocks, C, V*L), zeros to fill."""
    _, blocks, C, VL = u.shape
    L, size = len(lanes), w.itemsize
    taps = np.empty((9, VL), w.dtype)
    step, line = blocks * C * VL * size, VL * size
    for block in range(blocks):
        count = min(VL, outputs - block * VL)
        for c in range(start, stop):
            for o in range(0, VL, L):
                first = tile.address(w) + ((block * VL + o) * step_o + c * step_c) * size
                source = tile.address(taps) + o * size
                for t in range(0, 9, L):
                    rows, columns = min(L, count - o), min(L, 9 - t)
                    target = source + (8 - t if flipped else t) * line
                    down = -line if flipped else line
                    at = first + t * size
                    tile.transpose(lanes, w, at, step_o * size, rows, columns, target, down, L)
                target = tile.address(u) + ((block * C + c) * VL + o) * size
                tile.winograd_weights(lanes, w, source, line, target, step)


@kernel
def _transform_gradient(lanes, sums, dw, unclear, thread, piece, start, stop):
    """dw (O,C,3,3): G^T t G of the sum t of sums (pieces, 36, blocks, C, V*L).

    unclear (C, vectors of output channels): which have to be added up directly.
    """
    pieces, _, blocks, C, VL = sums.shape
    L, size = len(lanes), dw.itemsize
    taps = np.empty((9, VL), dw.dtype)
    step, line = blocks * C * VL * size, VL * size
    for block in range(blocks):
        for c in range(start, stop):
            for other in range(1, pieces):
                for k in range(ELEMENTS):
                    total, more = sums[0, k, block, c], sums[other, k, block, c]
                    for o in range(VL):
                        total[o] += more[o]
            for o in range(0, VL, L):
                source = tile.address(sums) + ((block * C + c) * VL + o) * size
                target = tile.address(taps) + o * size
                clear = tile.winograd_weight_gradient(lanes, dw, source, step, target, line)
                if block * VL + o < len(dw):
                    unclear[c, (block * VL + o) // L] = not clear
            count = min(VL, len(dw) - block * VL)
            for o in range(0, count, L):
                first = tile.address(dw) + ((block * VL + o) * dw.shape[1] + c) * 9 * size
                for t in range(0, 9, L):
                    rows, columns = min(L, 9 - t), min(L, count - o)
                    source = tile.address(taps) + (t * VL + o) * size
                    target, down = first + t * size, dw.shape[1] * 9 * size
                    tile.transpose(lanes, dw, source, line, rows, columns, target, down, rows)


@kernel
def _is_blank(image, tiles, i, j, scratch):
    """Are the 6x6 pixels that the tile i, j reads all zero?"""
    row = IN * image.channels
    for line in range(OUT * i, OUT * i + IN):
        first = (line * image.padded_width + OUT * j) * image.channels
        for number in scratch[first : first + row]:
            if number != 0:
                return False
    return True


@kernel
def _arrange_weights(lanes, w, step_o, step_c, flipped, inputs, o, out):
    """The weights of L output channels, from o on, as the direct sum reads them: (9, C, L)."""
    L, size = len(lanes), w.itemsize
    for c in range(inputs):
        for t in range(0, 9, L):
            target = tile.address(out) + ((8 - t if flipped else t) * inputs + c) * L * size
            down = inputs * L * size
            tile.transpose(
                lanes,
                w,
                tile.address(w) + (o * step_o + c * step_c + t) * size,
                step_o * size,
                L,
                min(L, 9 - t),
                target,
                -down if flipped else down,
                L,
            )


@kernel
def _add_directly(lanes, x, image, tiles, i, j, unclear, weights, scratch, target, line, pixel):
    """Those rows of a tile, L channels each, that are `unclear`; target: the image's first pixel.

    Four pixels of a row: the last tile's may be its neighbour's too.
    """
    size, line_x = x.itemsize, image.padded_width * image.channels * x.itemsize
    column = min(OUT * j, tiles.width - OUT)
    taps = np.empty((3, 2), np.int64)
    for t in range(3):
        taps[t, 0] = t * line_x
    for row in range(OUT * i, OUT * i + OUT):
        if unclear >> (row - OUT * i) & 1:
            source = tile.address(scratch) + row * line_x + column * image.channels * size
            tile.window(
                ((0, 0, 0, 0), (0,), lanes, (0,)),
                x,
                source,
                image.channels * size,
                tile.address(taps),
                3,
                3 * image.channels,
                tile.address(weights),
                target + row * line + column * pixel,
                pixel,
                len(lanes),
                source,
                0,
            )


@kernel
def _correlate(
    shape,
    lanes,
    x,
    w,
    step_o,
    step_c,
    flipped,
    u,
    y,
    images_table,
    tiles_table,
    scratch,
    v,
    m,
    arranged,
    thread,
    piece,
    start,
    stop,
):
    """y (N,OH,OW,O) for the images start:stop; u: (36, blocks of O, C, V*L)."""
    size, image, tiles = x.itemsize, images_table[0], tiles_table[0]
    J, VL, L = len(shape[0]), len(shape[1]) * len(shape[2]), len(lanes)
    C, O = image.channels, y.shape[3]
    mine = scratch[thread]
    va: int = tile.address(v[thread])
    ma: int = tile.address(m[thread])
    taps = np.zeros((1, 2), np.int64)
    pixel = O * size
    line = tiles.width * pixel
    filled = -(-O // VL) * VL
    is_arranged = np.zeros(O // L, np.bool_)
    held = -1  # the image in the scratch memory
    clear_border(image, mine)  # it stays so
    for n0 in range(start, stop, tiles.images):
        images = min(tiles.images, stop - n0)
        ahead, pace = next_images(x, n0 + images, tiles.images, stop, image.turns)
        for first in range(0, tiles.rows, tiles.strip):
            last = min(first + tiles.strip, tiles.rows)
            count = (last - first) * tiles.columns
            rows = images * (min(OUT * last, tiles.height) - OUT * first)
            ahead_y = tile.address(y) + (n0 * tiles.height + OUT * first) * line
            lines = -(-rows * line // (LINE * ELEMENTS))
            for n in range(images):
                if first == 0:
                    copy_image(x, image, n0 + n, size, tile.address(mine))
                    held = n0 + n
                target = va + n * count * C * size
                _transform_input(lanes, x, image, tiles, first, last, tile.address(mine), target)
            for k in range(ELEMENTS):
                ahead_y = tile.prefetch_to_write(ahead_y, lines)
                for o in range(0, O, VL):
                    weights = tile.address(u) + (k * filled + o) * C * size
                    for p in range(0, images * count, J):  # the last ones may be no tiles
                        ahead = tile.window(
                            shape,
                            x,
                            va + k * tiles.step_x + p * C * size,
                            C * size,
                            tile.address(taps),
                            1,
                            C,
                            weights,
                            ma + k * tiles.step_y + (p * O + o) * size,
                            pixel,
                            O - o,
                            ahead,
                            pace,
                        )
            for n in range(images):
                base = tile.address(y) + (n0 + n) * tiles.height * line
                for i in range(first, last):
                    for j in range(tiles.columns):
                        at = n * count + (i - first) * tiles.columns + j
                        blank = -1  # not known
                        for o in range(0, O, L):
                            unclear = tile.winograd_output(
                                lanes,
                                x,
                                ma + at * pixel + o * size,
                                tiles.step_y,
                                base + OUT * (i * line + j * pixel) + o * size,
                                line,
                                pixel,
                                tiles.height - OUT * i,
                                tiles.width - OUT * j,
                            )
                            if not unclear:
                                continue
                            if held != n0 + n:
                                held = n0 + n
                                copy_image(x, image, held, size, tile.address(mine))
                            if blank < 0:
                                blank = int(_is_blank(image, tiles, i, j, mine))
                            if blank == 1:  # its outputs are zeros already
                                continue
                            weights = arranged[thread, o // L]
                            if not is_arranged[o // L]:
                                is_arranged[o // L] = True
                                _arrange_weights(
                                    lanes, w, step_o, step_c, flipped, C, o, weights
                                )
                            _add_directly(
                                lanes,
                                x,
                                image,
                                tiles,
                                i,
                                j,
                                unclear,
                                weights,
                                mine,
                                base + o * size,
                                line,
                                pixel,
                            )


@kernel
def _correlate_weight(
    shape, lanes, x, g, sums, images_table, tiles_table, scratch, v, m, thread, piece, start, stop
):
    """sums[piece] (36, blocks of O, C, V*L): over the images start:stop."""
    size, image, tiles = x.itemsize, images_table[0], tiles_table[0]
    J, VL, L = len(shape[0]), len(shape[1]) * len(shape[2]), len(lanes)
    C, O = image.channels, g.shape[3]
    mine = scratch[thread]
    va: int = tile.address(v[thread])
    ma: int = tile.address(m[thread])
    out = sums[piece]
    out[:] = 0
    pixel = O * size
    line = tiles.width * pixel
    filled = -(-O // VL) * VL
    clear_border(image, mine)  # it stays so
    for n0 in range(start, stop, tiles.images):
        images = min(tiles.images, stop - n0)
        ahead, pace = next_pairs(x, g, n0 + images, tiles.images, stop, image.turns)
        for first in range(0, tiles.rows, tiles.strip):
            last = min(first + tiles.strip, tiles.rows)
            count = (last - first) * tiles.columns
            for n in range(images):
                if first == 0:
                    copy_image(x, image, n0 + n, size, tile.address(mine))
                target = va + n * count * C * size
                _transform_input(lanes, x, image, tiles, first, last, tile.address(mine), target)
                base = tile.address(g) + (n0 + n) * tiles.height * line
                for i in range(first, last):
                    for j in range(tiles.columns):
                        at = n * count + (i - first) * tiles.columns + j
                        for o in range(0, O, L):
                            tile.winograd_gradient(
                                lanes,
                                x,
                                base + OUT * (i * line + j * pixel) + o * size,
                                line,
                                pixel,
                                tiles.height - OUT * i,
                                tiles.width - OUT * j,
                                ma + at * pixel + o * size,
                                tiles.step_y,
                            )
            for k in range(ELEMENTS):
                for o in range(0, O, VL):
                    for c in range(0, C, J):
                        ahead = tile.weight(
                            shape,
                            x,
                            va + k * tiles.step_x + c * size,
                            size,
                            0,
                            C * size,
                            ma + k * tiles.step_y + o * size,
                            0,
                            pixel,
                            1,
                            images * count,
                            tile.address(out) + ((k * filled + o) * C + c * VL) * size,
                            VL * size,
                            0,
                            ahead,
                            pace,
                        )


@kernel
def _is_ordinary(bits, large):
    """Is there no zero, nothing that is not finite, and nothing too large to be transformed?

    bits: the weights as unsigned integers, which without their sign are in the numbers' order, NaN
    last.  Less one a zero is the largest of all: one maximum finds everything, in one vector loop.
    """
    kind = bits.dtype.type
    magnitude, one, most = kind(np.iinfo(bits.dtype).max // 2), kind(1), kind(0)
    for i in range(len(bits)):
        most = max(most, kind((bits[i] & magnitude) - one))
    return most < kind(large)


@kernel
def _convolve(
    share,
    shape,
    x,
    w,
    step_o,
    step_c,
    flipped,
    bits,
    large,
    u,
    y,
    images_table,
    tiles_table,
    scratch,
    v,
    m,
    arranged,
):
    """`_transform_weights`, then `_correlate`; False where the weights are not `_is_ordinary`."""
    if not _is_ordinary(bits, large):
        return False
    lanes = shape[2]
    arguments = (lanes, w, step_o, step_c, flipped, y.shape[3], u)
    lead(divide(share, u.shape[2], u.size), bind(_transform_weights, arguments))
    what = (shape, lanes, x, w, step_o, step_c, flipped, u, y)
    memory = (images_table, tiles_table, scratch, v, m, arranged)
    lead(share, bind(_correlate, what + memory))
    return True


@kernel
def _add_products(lanes, x, g, image, dw, places, thread, piece, start, stop):
    """dw again, as a direct sum, for the places start:stop: (input channel, vector of outputs)."""
    size, L = x.itemsize, len(lanes)
    N, H, W, C = x.shape
    _, OH, OW, O = g.shape
    total = np.empty((9, L), dw.dtype)
    for place in range(start, stop):
        c, o = places[place, 0], places[place, 1] * L
        total[:] = 0
        for n in range(N):
            for t in range(9):
                down, right = t // 3 - image.top, t % 3 - image.left
                row, column = max(0, -down), max(0, -right)  # of g, whose tap is in the image
                at = ((n * H + row + down) * W + column + right) * C + c
                at_g = ((n * OH + row) * OW + column) * O + o
                tile.weight(
                    ((0,), (0,), lanes, (0,)),
                    x,
                    tile.address(x) + at * size,
                    size,
                    W * C * size,
                    C * size,
                    tile.address(g) + at_g * size,
                    OW * O * size,
                    O * size,
                    min(OH, H - down) - row,
                    min(OW, W - right) - column,
                    tile.address(total) + t * L * size,
                    0,
                    0,
                    (tile.address(x), tile.address(g)),
                    (0, 0),
                )
        for k in range(L):
            for t in range(9):
                dw[o + k, c, t // 3, t % 3] = total[t, k]


@kernel
def _sum_up(
    share, shape, x, g, sums, dw, images_table, tiles_table, scratch, v, m, unclear, places
):
    """`_correlate_weight`, `_transform_gradient`, and `_add_products` where that is not enough.

    False where that is so in so many places that the direct algorithm is faster altogether.
    """
    lanes = shape[2]
    arguments = (shape, lanes, x, g, sums, images_table, tiles_table, scratch, v, m)
    lead(share, bind(_correlate_weight, arguments))
    transformed = (lanes, sums, dw, unclear)
    lead(divide(share, sums.shape[3], sums.size), bind(_transform_gradient, transformed))
    count = 0
    for c in range(unclear.shape[0]):
        for o in range(unclear.shape[1]):
            if unclear[c, o]:
                if count == len(places):
                    return False
                places[count, 0], places[count, 1] = c, o
                count += 1
    if count:
        more = (lanes, x, g, images_table[0], dw, places)
        lead(divide(share, count, count * g.size), bind(_add_products, more))
    return True


def covers(
    weight: tuple[int, ...],
    stride: Pair,
    dilation: Pair,
    groups: int,
    images: int,
    out_size: Pair,
    how: How,
) -> bool:
    """3x3, stride 1, channels that fill whole vectors, and outputs enough to repay what it takes

    to transform the weights.
    """
    O, C, *kernel_size = weight
    lanes = how.host.lanes(how.dtype)
    pixels = images * out_size[0] * out_size[1]
    return (
        kernel_size == [3, 3]
        and not how.direct
        and stride == dilation == (1, 1)
        and groups == 1
        and O % lanes == C % lanes == 0
        and min(out_size) >= 4
        and pixels >= FEW_PIXELS
        and out_size[0] * out_size[1] * MANY_WEIGHTS >= C * O
    )


class Plan(NamedTuple):
    """All that shapes alone decide."""

    shape: Any  # of the tile
    flipped: bool  # the weight: in reverse
    steps: Pair  # from one output channel of the weight to the next, and one input channel
    images: Array  # the table of one `Image`
    tiles: Array  # the table of one `Tiles`
    matrices: tuple[int, ...]  # the shape of the transformed weights
    scratch: tuple[int, ...]  # numbers: the image, and its and the outputs' matrices
    out: tuple[int, ...]  # the shape of the result, of channels-last images or of weights
    direct_weights: Pair  # vectors of output channels, and numbers of each, for the direct sum
    large: int  # the bits of weights from which on transforms might overflow


def plan(
    shape: tuple[int, ...],
    outputs: int,
    out_size: Pair,
    padding: Pair,
    how: How,
) -> Plan:
    """Of images (N,C,H,W) to (N,O,*out_size), or of the gradient of the weight between them."""
    (N, C, H, W), O, (OH, OW), (top, left) = shape, outputs, out_size, padding
    rows, columns = -(-OH // OUT), -(-OW // OUT)
    L, size = how.host.lanes(how.dtype), how.dtype.itemsize
    most = STRIP
    if how.weight_gradient:
        most = max(STRIP, min(LONG_STRIP, MATRICES // (ELEMENTS * C * size)))
    strip = max(1, min(rows, most // columns))
    strip = -(-rows // -(-rows // strip))
    images = max(1, most // (rows * columns)) if strip == rows else 1
    count = images * strip * columns
    if how.weight_gradient:
        J, V = how.host.weight_tile(C, O, how.dtype)
        while C % J:
            J -= 1
    else:
        J, V = how.host.tile(count, O, how.dtype)
    blocks = -(-O // (V * L))
    count = -(-count // J) * J
    step_x, step_y = (_odd_lines(count * n * size) for n in (C, blocks * V * L))
    turns = count * -(-C // J) if how.weight_gradient else count // J * C  # of each matrix
    turns *= ELEMENTS * blocks * -(-rows // strip)
    height, width = max(top + H, OUT * rows + 2), max(left + W, OUT * columns + 2)
    return Plan(
        ((0,) * J, (0,) * V, (0,) * L, (0,)),
        how.backward,
        (9, 9 * O) if how.backward else (9 * C, 9),
        table([Image(H, W, C, top, left, height, width, 1, turns)]),
        table([Tiles(OH, OW, rows, columns, strip, images, step_x, step_y)]),
        (ELEMENTS, blocks, C, V * L),
        (height * width * C, *(ELEMENTS * step // size for step in (step_x, step_y))),
        (O, C, 3, 3) if how.weight_gradient else (N, OH, OW, O),
        (O // L, 9 * C * L),
        int(np.array(np.finfo(how.dtype).max / 16, how.dtype).view(f"u{size}")),
    )


def _odd_lines(size: int) -> int:
    """Bytes in an odd number of cache lines, at least `size`.

    With a power of two all matrices would compete for the same few places in the cache.
    """
    return (-(-size // LINE) | 1) * LINE


def _scratch(threads: int, plan: Plan, dtype: Any) -> list[Array]:
    names = ("image", "winograd_x", "winograd_y")
    return [scratch(name, (threads, n), dtype) for name, n in zip(names, plan.scratch, strict=True)]


def correlate(plan: Plan, direct: Run, x: Array, w: Array) -> Array:
    """x (N,C,H,W) with w (O,C,3,3), or in reverse with w (C,O,3,3): (N,O,OH,OW).

    `direct` computes the same where the weights ask for it.
    """
    y = empty(plan.out, x.dtype)
    share = share_out(len(x), y.size * 16)
    _, threads, _, _ = share
    w = contiguous(w)
    done = _convolve(
        share,
        plan.shape,
        images(x),
        w,
        *plan.steps,
        plan.flipped,
        w.reshape(-1).view(f"u{w.itemsize}"),
        plan.large,
        scratch("weights", plan.matrices, x.dtype),
        y,
        plan.images,
        plan.tiles,
        *_scratch(threads, plan, x.dtype),
        scratch("winograd_w", (threads, *plan.direct_weights), x.dtype),
    )
    return y.transpose(0, 3, 1, 2) if done else direct(x, w)


def correlate_weight(plan: Plan, direct: Run, x: Array, g: Array) -> Array:
    """The gradient (O,C,3,3) of w; `direct` computes the same."""
    share = share_out(len(x), g.size * 16, pieces_of_sums(math.prod(plan.matrices)))
    _, threads, _, pieces = share
    dw = empty(plan.out, x.dtype)
    O, C, _, _ = plan.out
    vectors = O // len(plan.shape[2])
    done = _sum_up(
        share,
        plan.shape,
        images(x),
        images(g),
        scratch("sums", (pieces, *plan.matrices), x.dtype),
        dw,
        plan.images,
        plan.tiles,
        *_scratch(threads, plan, x.dtype),
        scratch("unclear", (C, vectors), np.bool_),
        scratch("places", (max(1, C * vectors // MANY_PLACES), 2), np.int64),
    )
    return dw if done else direct(x, g)
