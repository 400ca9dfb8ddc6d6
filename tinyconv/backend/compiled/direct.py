"""Convolutions on register tiles.

One kernel, `_correlate`, serves the forward pass and the gradient of the input: both add up, over
the taps of a window, products of pixels and weights.  The second kernel, `_correlate_weight`, is
the gradient of the weight.  Grouped convolutions are loops over groups in both; where a group is
one channel (depthwise), vectors hold channels of different groups instead.

Memory is channels-last: x (N,H,W,C), y (N,OH,OW,O).  Then the KW*C numbers of one window row are
one run, and a window is `taps`: offsets of its KH runs from its first pixel.  Where pixels of a
window row are no neighbours (dilation, groups) there is a tap for each of the KH*KW pixels.

A thread copies one image at a time into scratch memory with a border of zeros that stays in cache;
only a depthwise weight's gradient, which does too little with a number to repay it, does not.
While it computes with one image it prefetches the next, a little with every number of a tile.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.blocked import contiguous, stride_phases
from tinyconv.backend.compiled import tile
from tinyconv.backend.compiled.host import How
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.compiled.team import bind, divide, lead, share_out
from tinyconv.backend.memory import LINE, empty
from tinyconv.backend.reference import Padding, Pair
from tinyconv.backend.threads import scratch as scratch_memory

MANY_SUMS = 2**16  # numbers
PIXELS = 2**8  # that a tile of the weight's gradient adds up one by one
CALLS = 2**6  # additions to a sum in memory until it goes to a wider one
WORTH_TRANSPOSING = 4  # numbers side by side
SHORT = 7  # pixels in a row, below which tiles hold a pixel of several images instead
MOST_IMAGES = 32  # more of them together bring nothing
TOGETHER = 2**18  # bytes of images that are computed together: they stay in L2


class Image(NamedTuple):
    """One image in memory, and the border that it gets in the scratch memory."""

    height: int
    width: int
    channels: int
    top: int
    left: int
    padded_height: int
    padded_width: int
    copied: int  # 0: there is no border; read the image where it is
    turns: int  # of the tiles' innermost loops until the next images' turn: time to prefetch them


class Phase(NamedTuple):
    """Output pixels that meet the same taps: all of them, or every stride-th of a gradient."""

    row: int  # the first output pixel, and the steps to the next ones
    row_step: int
    column: int
    column_step: int
    rows: int
    columns: int
    in_row: int  # the input pixel that the first tap's offset counts from, in the unpadded image
    in_row_step: int
    in_column: int
    in_column_step: int
    taps: int  # the first in the table of taps, and how many
    n_taps: int
    run: int
    next: int  # bytes from one number of a run to the next
    weights: int  # where its packed weights start


@kernel
def clear_border(image, scratch):
    """Zeros around the images (rows of numbers) that `copy_image` puts into the scratch memory."""
    line, row = image.padded_width * image.channels, image.width * image.channels
    step = image.padded_height * line
    before = image.top * line + image.left * image.channels
    inside = (image.height - 1) * line + row
    images = len(scratch) // step
    scratch[images * step :] = 0
    for start in range(0, images * step, step):
        scratch[start : start + before] = 0
        for i in range(1, image.height):
            end = start + before + i * line
            scratch[end - line + row : end] = 0
        scratch[start + before + inside : start + step] = 0


@kernel
def copy_image(x, image, n, size, scratch):
    row = image.width * image.channels * size
    source = tile.address(x) + n * image.height * row
    target = scratch + (image.top * image.padded_width + image.left) * image.channels * size
    for _ in range(image.height):
        tile.copy(target, source, row)
        source += row
        target += image.padded_width * image.channels * size


@kernel
def next_images(x, n, count, stop, turns):
    """Where to prefetch x (N,H,W,C) from, and how many bytes to move on at each of so many turns,

    to have passed the images n:n+count, those before `stop`; at none we stay where x starts.
    """
    _, H, W, C = x.shape
    whole, count = H * W * C * x.itemsize, min(count, stop - n)
    if count <= 0 or turns == 0:
        return tile.address(x), 0
    return tile.address(x) + n * whole, -(-count * whole // turns)


@kernel
def next_pairs(x, g, n, count, stop, turns):
    """`next_images` of x and of g."""
    x_ahead, x_pace = next_images(x, n, count, stop, turns)
    g_ahead, g_pace = next_images(g, n, count, stop, turns)
    return (x_ahead, g_ahead), (x_pace, g_pace)


@kernel
def _rows_inside(taps, first, count, row, height):
    """The taps, in order of rows, that do not fall on the border above or below the image."""
    start, stop = first, first + count
    while start < stop and row + taps[start, 1] < 0:
        start += 1
    while stop > start and row + taps[stop - 1, 1] >= height:
        stop -= 1
    return start, stop


@kernel
def _locate_images(x, image, n, count, size, scratch):
    """The address of image n and the distance to the next: in the scratch memory with a border,

    or where they are.
    """
    if image.copied:
        step = image.padded_height * image.padded_width * image.channels * size
        for k in range(count):
            copy_image(x, image, n + k, size, tile.address(scratch) + k * step)
        return tile.address(scratch), step
    step = image.height * image.width * image.channels * size
    return tile.address(x) + n * step, step


@kernel
def _correlate(
    shape,
    x,
    w,
    y,
    images,
    groups,
    phases,
    taps,
    parts,
    together,
    scratch,
    thread,
    piece,
    start,
    stop,
):
    """x (N,H,W,C), packed w to y (N,OH,OW,O); block b is the part b % parts of the rows of image

    b // parts.  A tile holds neighbours in a row, or one pixel of `together` images.
    """
    size, image = x.itemsize, images[0]
    J, VL = len(shape[0]), len(shape[1]) * len(shape[2])
    depthwise = len(shape[3]) == 2
    _, YH, YW, O = y.shape
    OG, CG = O // groups, image.channels // groups
    blocks = -(-OG // VL)
    pixel, pixel_y = image.channels * size, O * size
    line, line_y = image.padded_width * pixel, YW * pixel_y
    mine = scratch[thread]
    if image.copied:
        clear_border(image, mine)  # it stays so
    n, base, next_image, pace = -1, 0, 0, 0
    ahead: int = tile.address(x)
    for block in range(start, stop, together):
        block = min(block, stop - together)  # the last images are computed again
        if block // parts != n:
            n = block // parts
            base, next_image = _locate_images(x, image, n, together, size, mine)
            if image.copied:
                ahead, pace = next_images(x, n + together, together, stop // parts, image.turns)
        part = block % parts
        base_y = tile.address(y) + n * YH * line_y
        for p in phases:
            x_step, y_step = p.in_column_step * pixel, p.column_step * pixel_y
            tap = p.run * VL * size
            if together == 1:
                across, count, tile_step, tile_step_y = 1, p.columns, x_step, y_step
            else:
                across, count = p.columns, together
                tile_step, tile_step_y = next_image, YH * line_y
            # An image that is read where it is, by rows: not every pixel of it may be needed.
            by_rows = together == 1 and p.n_taps > 0 and not image.copied
            if by_rows:
                last_tap = taps[p.taps + p.n_taps - 1, 0]
                lines = -(-count * x_step // (LINE * -(-count // J) * p.n_taps * p.run))
                pace = lines * LINE
            for group in range(groups):
                for o in range(0, OG, VL):
                    weights = tile.address(w) + p.weights * size
                    weights += (group * blocks + o // VL) * p.n_taps * tap
                    channel = o if depthwise else group * CG
                    first = base + (p.in_column + image.left) * pixel + channel * size
                    first_y = base_y + p.column * pixel_y + (group * OG + o) * size
                    for i in range(p.rows * part // parts, p.rows * (part + 1) // parts):
                        row = p.in_row + i * p.in_row_step
                        above, below = _rows_inside(taps, p.taps, p.n_taps, row, image.height)
                        source = first + (row + image.top) * line
                        target = first_y + (p.row + i * p.row_step) * line_y
                        if by_rows:  # the last row of the next window
                            ahead = source + p.in_row_step * line + last_tap
                        for column in range(across):
                            j = 0
                            while j < count:
                                j = min(j, count - J)  # the last tile computes some pixels again
                                ahead = tile.window(
                                    shape,
                                    x,
                                    source + column * x_step + j * tile_step,
                                    tile_step,
                                    tile.address(taps) + above * 16,
                                    below - above,
                                    p.run,
                                    weights + (above - p.taps) * tap,
                                    target + column * y_step + j * tile_step_y,
                                    tile_step_y,
                                    OG - o,
                                    ahead,
                                    pace,
                                )
                                j += J


@kernel
def _each_block(share, shape, layouts, packed):
    """The share of one block of output channels each."""
    layout, VL = layouts[0], len(shape[1]) * len(shape[2])
    return divide(share, layout.groups * -(-layout.outputs // VL), packed.size)


@kernel
def _pack(shape, w, layouts, packed, thread, piece, start, stop):
    """w as (groups, blocks of V*L output channels, KH, KW, C, V*L), zeros to fill, for every

    `Layout`; start:stop counts the blocks of all groups.
    """
    lanes, L, size = shape[2], len(shape[2]), w.itemsize
    VL = len(shape[1]) * L
    for layout in layouts:
        blocks = -(-layout.outputs // VL)
        plane = layout.inputs * VL
        for block in range(start, stop):
            o0 = block % blocks * VL
            count = min(VL, layout.outputs - o0)
            source = layout.start + block // blocks * layout.group_step + o0 * layout.output_step
            target = layout.packed + block * layout.rows * layout.columns * plane
            if layout.direction == 0:
                _pack_each(w, layout, source, count, VL, packed, target)
                continue
            for c in range(layout.inputs):  # outermost, because w is read as it lies in memory
                first, at = source + c * layout.input_step, target + c * VL
                taps, step = layout.rows * layout.columns, layout.output_step * size
                across = layout.direction * plane * size
                if layout.direction < 0:  # the last number lies first in memory
                    first, at = first - (taps - 1), at + (taps - 1) * plane
                for o in range(0, VL, L):
                    for t in range(0, taps, L):
                        tile.transpose(
                            lanes,
                            w,
                            tile.address(w) + (first + o * layout.output_step + t) * size,
                            step,
                            min(L, count - o),
                            min(L, taps - t),
                            tile.address(packed) + (at + o) * size + t * across,
                            across,
                            L,
                        )


@kernel
def _pack_each(w, layout, first, count, VL, packed, target):
    """One block of output channels whose taps do not lie side by side."""
    plane = layout.inputs * VL
    for c in range(layout.inputs):
        for kh in range(layout.rows):
            for kw in range(layout.columns):
                source = first + c * layout.input_step
                source += kh * layout.row_step + kw * layout.column_step
                at = target + (kh * layout.columns + kw) * plane + c * VL
                # Slices, because an index that may be negative costs a branch each.
                column = w[source : source + count * layout.output_step : layout.output_step]
                row = packed[at : at + VL]
                for o in range(count):
                    row[o] = column[o]
                for o in range(count, VL):
                    row[o] = 0


@kernel
def _convolve(
    share,
    shape,
    x,
    w,
    layouts,
    packed,
    y,
    images,
    groups,
    phases,
    taps,
    parts,
    together,
    scratch,
):
    """`_pack`, then `_correlate`."""
    weights = (shape, w.reshape(-1), layouts, packed)
    lead(_each_block(share, shape, layouts, packed), bind(_pack, weights))
    arguments = (shape, x, packed, y, images, groups, phases, taps, parts, together, scratch)
    lead(share, bind(_correlate, arguments))


@kernel
def _unpack(shape, sums, layouts, w, thread, piece, start, stop):
    """The inverse of `_pack`, of the sum of the pieces' sums (pieces, size)."""
    layout = layouts[0]
    lanes, L, itemsize = shape[2], len(shape[2]), w.itemsize
    VL = len(shape[1]) * L
    blocks = -(-layout.outputs // VL)
    plane = layout.inputs * VL
    size = layout.rows * layout.columns * plane
    taps = layout.rows * layout.columns
    for block in range(start, stop):
        o0 = block % blocks * VL
        count = min(VL, layout.outputs - o0)
        total = sums[0, block * size : (block + 1) * size]
        for other in range(1, len(sums)):
            more = sums[other, block * size : (block + 1) * size]
            for k in range(size):
                total[k] += more[k]
        target = layout.start + block // blocks * layout.group_step + o0 * layout.output_step
        for c in range(layout.inputs):
            first = target + c * layout.input_step
            for o in range(0, count, L):
                for t in range(0, taps, L):
                    rows = min(L, taps - t)
                    tile.transpose(
                        lanes,
                        w,
                        tile.address(total) + (t * plane + c * VL + o) * itemsize,
                        plane * itemsize,
                        rows,
                        min(L, count - o),
                        tile.address(w) + (first + o * layout.output_step + t) * itemsize,
                        layout.output_step * itemsize,
                        rows,
                    )


@kernel
def _locate_gradients(g, groups, filled, n, count, size, scratch):
    """The address of g's image n and the distance to the next, with each group's channels filled

    up to whole vectors.
    """
    _, OH, OW, O = g.shape
    source, step = tile.address(g) + n * OH * OW * O * size, OH * OW * O * size
    if filled * groups == O:
        return source, step
    for i in range(count * OH * OW * groups):
        tile.copy(tile.address(scratch) + i * filled * size, source, O // groups * size)
        source += O // groups * size
    return tile.address(scratch), OH * OW * groups * filled * size


@kernel
def _inside(first, stop, row, step, height):
    """The part of first:stop whose row + i * step lies in the image."""
    while first < stop and row + first * step < 0:
        first += 1
    while stop > first and row + (stop - 1) * step >= height:
        stop -= 1
    return first, stop


@kernel
def _is_inside(p, image, pixel, column, r):
    """Is the pixel that output `column` reads for the tap r of a row one of the image's?"""
    at = p.in_column + column * p.in_column_step + r * (p.next // pixel)
    return 0 <= at < image.width


@kernel
def _whole_windows(p, image, pixel, columns):
    """From which output column to which a row of taps reads nothing but the image."""
    left, right = 0, columns
    while left < right and not _is_inside(p, image, pixel, left, 0):
        left += 1
    while right > left and not _is_inside(p, image, pixel, right - 1, p.run - 1):
        right -= 1
    return left, right


@kernel
def _add_products(shape, x, source, source_g, rows, columns, steps, run, target, ahead, pace):
    """`tile.weight` for all numbers of a run."""
    J, line = len(shape[0]), len(shape[1]) * len(shape[2]) * x.itemsize
    row_step, x_step, row_step_g, step_g, next_number = steps
    for r in range(0, run, J):
        r0 = min(r, run - J)  # the last tile computes some numbers again
        ahead = tile.weight(
            shape,
            x,
            source + r0 * next_number,
            next_number,
            row_step,
            x_step,
            source_g,
            row_step_g,
            step_g,
            rows,
            columns,
            target + r0 * line,
            line,
            r - r0,
            ahead,
            pace,
        )
    return ahead


@kernel
def _add_edges(shape, x, source, source_g, rows, edges, steps, p, image, pixel, target):
    """The columns before and behind the whole windows, for those taps that are in the image."""
    left, right, columns = edges
    _, x_step, _, step_g, _ = steps
    line = len(shape[1]) * len(shape[2]) * x.itemsize
    for column in range(columns):
        if left <= column < right:
            continue
        for r in range(p.run):
            if _is_inside(p, image, pixel, column, r):
                _add_products(
                    ((0,), shape[1], shape[2], shape[3]),
                    x,
                    source + column * x_step + r * p.next,
                    source_g + column * step_g,
                    rows,
                    1,
                    steps,
                    1,
                    target + r * line,
                    (source, source_g),
                    (0, 0),
                )


@kernel
def _correlate_weight(
    shape,
    x,
    g,
    sums,
    images,
    groups,
    phases,
    taps,
    together,
    scratch,
    scratch_g,
    wide,
    thread,
    piece,
    first_image,
    last_image,
):
    """The sums (pieces, size) over the piece's images, laid out as `_pack` does.

    A tile adds up the pixels of one image, or of some of its rows, or of a row of `together`
    images.  Of many tiles the sums go on in `wide`, (threads, size) float64.
    """
    size, image = x.itemsize, images[0]
    VL = len(shape[1]) * len(shape[2])
    depthwise = len(shape[3]) == 2
    _, OH, OW, O = g.shape
    p = phases[0]
    CG = image.channels // groups
    blocks = -(-(O // groups) // VL)
    pixel, pixel_g = image.channels * size, groups * blocks * VL * size
    line, line_g = image.padded_width * pixel, OW * pixel_g
    x_row, x_step = p.in_row_step * line, p.in_column_step * pixel
    out, mine, mine_g = sums[piece], scratch[thread], scratch_g[thread]
    out[:] = 0
    calls, folded = 0, False
    if image.copied:
        clear_border(image, mine)  # it stays so
    if groups * blocks * VL != O:
        mine_g[:] = 0
    left, right = 0, OW  # columns whose windows need no border
    if depthwise and not image.copied:
        left, right = _whole_windows(p, image, pixel, OW)
    for n in range(first_image, last_image, together):
        count = min(together, last_image - n)
        base, next_image = _locate_images(x, image, n, count, size, mine)
        base += (p.in_row + image.top) * line + (p.in_column + image.left) * pixel
        ahead, pace = next_pairs(x, g, n + count, together, last_image, image.turns)
        base_g, next_g = _locate_gradients(g, groups, blocks * VL, n, count, size, mine_g)
        at_once = -(-OH // -(-OH // max(1, PIXELS // OW))) if together == 1 else 1  # rows
        for first in range(0, OH, at_once):
            last = min(first + at_once, OH)
            calls += -(-OW // PIXELS)
            if calls > CALLS:
                _fold(out, wide[thread], folded)
                calls, folded = 0, True
            for block in range(groups * blocks):
                channel = block * VL if depthwise else block // blocks * CG
                for t in range(p.n_taps):
                    row = p.in_row + taps[t, 1]
                    start, stop = _inside(first, last, row, p.in_row_step, image.height)
                    if together == 1:
                        rows, row_step, row_step_g = stop - start, x_row, line_g
                    else:
                        rows, row_step, row_step_g = count * (stop - start), next_image, next_g
                    source = base + start * x_row + taps[t, 0] + channel * size
                    source_g = base_g + start * line_g + block * VL * size
                    target = tile.address(out) + (block * p.n_taps + t) * p.run * VL * size
                    steps = row_step, x_step, row_step_g, pixel_g, p.next
                    if right - left < OW:
                        edges = left, right, OW
                        what = shape, x, source, source_g, rows, edges, steps
                        _add_edges(*what, p, image, pixel, target)
                    for column in range(left, max(right, left + 1), PIXELS):
                        ahead = _add_products(
                            shape,
                            x,
                            source + column * x_step,
                            source_g + column * pixel_g,
                            rows,
                            min(right - column, PIXELS),
                            steps,
                            p.run,
                            target,
                            ahead,
                            pace,
                        )
    if folded:
        _fold(out, wide[thread], True)
        for k in range(len(out)):
            out[k] = wide[thread, k]


@kernel
def _fold(out, wide, more):
    """Move the sums to the wide ones, which are to be overwritten where there are not yet more."""
    if not more:
        wide[:] = 0
    for k in range(len(out)):
        wide[k] += out[k]
        out[k] = 0


@kernel
def _sum_up(
    share,
    shape,
    x,
    g,
    sums,
    layouts,
    dw,
    images,
    groups,
    phases,
    taps,
    together,
    scratch,
    scratch_g,
    wide,
):
    """`_correlate_weight`, then `_unpack`."""
    arguments = (
        shape, x, g, sums, images, groups, phases, taps, together, scratch, scratch_g, wide,
    )  # fmt: skip
    lead(share, bind(_correlate_weight, arguments))
    weights = (shape, sums, layouts, dw.reshape(-1))
    lead(_each_block(share, shape, layouts, sums), bind(_unpack, weights))


# ------------------------------------------------------------------------------------ plans


class Axis(NamedTuple):
    """Outputs along one axis that meet the same taps: output i reads, for every t < taps,

    input `origin + i * step + t * spread`, weighed by tap `first_tap + t * tap_step` of the kernel.
    """

    start: int  # the first output, and the distance to the next ones
    stride: int
    outputs: int
    taps: int
    first_tap: int
    tap_step: int
    spread: int
    origin: int
    step: int

    def reach(self) -> int:
        """One past the last input that is read."""
        return self.origin + (self.outputs - 1) * self.step + (self.taps - 1) * self.spread + 1


Axes = tuple[Axis, ...]
Shape = tuple[int, ...]


def _forward_axis(count: int, kernel: int, stride: int, pad: int, dilation: int) -> Axes:
    return (Axis(0, 1, count, kernel, 0, 1, dilation, -pad, stride),)


def _backward_axis(size: int, kernel: int, stride: int, pad: int, dilation: int) -> Axes:
    """The gradient of the input is again a correlation, one for each phase of the stride."""
    axes = []
    for outputs, taps, spread, origin in stride_phases(size, kernel, stride, pad, dilation):
        hit = range(kernel)[taps]
        last = hit[-1] if hit else 0
        axes.append(
            Axis(
                outputs.start,
                stride,
                len(range(size)[outputs]),
                len(hit),
                last,
                -taps.step,
                spread,
                origin if hit else 0,
                1,
            )
        )
    return tuple(axes)


class Layout(NamedTuple):
    """Weights of one phase in memory, and the distances between them: see `_pack`."""

    start: int
    groups: int
    group_step: int
    outputs: int
    output_step: int
    inputs: int
    input_step: int
    rows: int
    row_step: int
    columns: int
    column_step: int
    direction: int  # 1 or -1 where taps lie side by side, in order or in reverse, else 0
    packed: int  # where it starts in the packed weights


def table(rows: list[Any]) -> Array:
    """Named tuples of integers as an array of records, for the compiled side."""
    return np.array(rows, [(name, np.int64) for name in rows[0]._fields])


class Plan(NamedTuple):
    """All that shapes alone decide."""

    shape: Any  # of the tile, with 1 or 2 zeros at its end: groups of channels, or depthwise
    lanes: int  # output channels of a tile
    together: int  # images that are computed together, where their rows are too short for a tile
    threads: int  # at most, that compute it: each has at least `together` images
    parts: int  # of an image, where there are fewer images than threads
    images: Array  # the table of one `Image`
    groups: int
    phases: Array
    taps: Array
    layouts: Array
    blocks: int  # of output channels, in all groups
    packed: int  # numbers in all packed weights
    scratch: int  # numbers in the images with their borders, where they are copied
    out: tuple[int, ...]  # the shape of the result, of channels-last images or of weights


def _plan(
    x: Shape, weight: Shape, out: Pair, groups: int, rows: Axes, columns: Axes, how: How
) -> Plan:
    """x (N,C,H,W): what is read; weight (O,C/G,KH,KW); out: the images' size, of a result."""
    N, _, *size = x
    O, CG, _, KW = weight
    each = min(N // how.threads, MOST_IMAGES)  # images, at least, that one thread computes
    channels, outputs = (O, CG * groups) if how.backward else (CG * groups, O)
    depthwise = 1 < groups == channels == outputs
    G = 1 if depthwise else groups
    CG = 1 if depthwise else channels // groups
    lanes, itemsize = how.host.lanes(how.dtype), how.dtype.itemsize
    shortest = min(c.outputs for c in columns)
    short = each > shortest < SHORT
    if how.weight_gradient:
        in_one_run = depthwise or (groups == 1 and columns[0].spread == 1)
        run = columns[0].taps * CG if in_one_run else CG
        J, V = how.host.weight_tile(run, outputs // G, how.dtype)
    else:
        J, V = how.host.tile(each if short else shortest, outputs // G, how.dtype)
    # A depthwise weight's gradient sees to the border itself, but a vector must not pass the end.
    no_border = depthwise and how.weight_gradient and channels % (V * lanes) == 0
    top, left, height, width = (0, 0, *size) if no_border else _bordered(size, rows, columns)
    copied = not no_border and (depthwise or [height, width] != size)
    line = width * channels
    together = 1
    if short:
        fit = max(1, min(each, TOGETHER // (height * line * itemsize)))
        together = fit if how.weight_gradient else J
    per_tap = G * -(-outputs // G // (V * lanes)) * V * lanes * CG
    steps = _weight_steps(weight, G, depthwise, how.backward)
    taps: list[tuple[int, int]] = []
    phases: list[Phase] = []
    layouts: list[Layout] = []
    packed = 0
    for r, c in itertools.product(rows, columns):
        merged = groups == 1 and c.spread == 1
        # Of a depthwise weight, the taps of a row are summed at once: steps of whole pixels.
        strided = depthwise and how.weight_gradient
        found = [
            ((h * r.spread * line + w * c.spread * channels) * itemsize, h * r.spread)
            for h in range(r.taps)
            for w in range(min(1, c.taps) if merged or strided else c.taps)
        ]
        run = c.taps * CG if merged or strided else CG
        step = c.spread * channels * itemsize if strided else itemsize
        outer = (r.start, r.stride, c.start, c.stride, r.outputs, c.outputs)
        inner = (r.origin, r.step, c.origin, c.step)
        phases.append(Phase(*outer, *inner, len(taps), len(found), run, step, packed))
        layouts.append(_layout(KW, r, c, steps, packed))
        packed += r.taps * c.taps * per_tap
        taps += found
    blocks = G * -(-outputs // G // (V * lanes))
    turns = 0
    for p in phases:
        if how.weight_gradient:
            tiles = p.columns * -(-p.run // J) * together
        else:
            tiles = (p.columns if short else -(-p.columns // J)) * p.run
        turns += p.rows * tiles * p.n_taps * blocks
    return Plan(
        ((0,) * J, (0,) * V, (0,) * lanes, (0,) * (1 + depthwise)),
        V * lanes,
        together,
        how.threads,
        1 if how.threads <= N else how.threads,
        table([Image(*size, channels, top, left, height, width, int(copied), turns)]),
        G,
        table(phases),
        np.array(taps, np.int64).reshape(-1, 2),
        table(layouts),
        blocks,
        packed,
        # a thread's on a vector
        -(-(together * height * line + V * lanes) // lanes) * lanes if copied else 0,
        weight if how.weight_gradient else (N, *out, outputs),
    )


def _bordered(size: list[int], rows: Axes, columns: Axes) -> tuple[int, int, int, int]:
    """The border above and on the left that the taps reach into, and the height and width with it

    and the one on the other sides.
    """
    found = []
    for n, axes in zip(size, (rows, columns), strict=True):
        before = max(0, *(-a.origin for a in axes if a.taps), 0)
        found.append((before, before + max(0, *(a.reach() for a in axes if a.taps), n)))
    (top, height), (left, width) = found
    return top, left, height, width


def _layout(KW: int, r: Axis, c: Axis, steps: tuple[int, ...], packed: int) -> Layout:
    *outer, inputs, input_step = steps
    start = r.first_tap * KW + c.first_tap
    rows, row_step, columns, column_step = r.taps, r.tap_step * KW, c.taps, c.tap_step
    if rows == columns == input_step == 1:  # input channels lie side by side: call them taps
        columns, column_step, inputs, input_step = inputs, 1, 1, 0
    side_by_side = abs(column_step) == 1 and (rows == 1 or row_step == columns * column_step)
    direction = column_step if side_by_side and rows * columns >= WORTH_TRANSPOSING else 0
    taps = rows, row_step, columns, column_step
    return Layout(start, *outer, inputs, input_step, *taps, direction, packed)


def _weight_steps(
    weight: tuple[int, ...], groups: int, depthwise: bool, backward: bool
) -> tuple[int, ...]:
    """Numbers of, and distances between, groups, output and input channels of w."""
    O, CG, KH, KW = weight
    K, OG = KH * KW, O // groups
    if depthwise:
        return (1, 0, O, K, 1, 0)
    if backward:
        return (groups, OG * CG * K, CG, K, OG, CG * K)
    return (groups, OG * CG * K, OG, CG * K, CG, K)


def forward_plan(
    x: Shape,
    weight: Shape,
    out: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    how: How,
) -> Plan:
    """Of x (N,C,H,W) with weight (O,C/G,KH,KW) to (N,O,*out), or of the weight's gradient."""
    rows, columns = (
        _forward_axis(out[i], weight[2 + i], stride[i], padding[i][0], dilation[i]) for i in (0, 1)
    )
    return _plan(x, weight, out, groups, rows, columns, how)


def backward_plan(
    g: Shape,
    weight: Shape,
    input_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    how: How,
) -> Plan:
    """Of g (N,O,OH,OW) with weight (O,C/G,KH,KW) to (N,C,*input_size)."""
    rows, columns = (
        _backward_axis(input_size[i], weight[2 + i], stride[i], padding[i][0], dilation[i])
        for i in (0, 1)
    )
    return _plan(g, weight, input_size, groups, rows, columns, how)


# ------------------------------------------------------------------------------ convolutions


def images(x: Array) -> Array:
    """(N,C,H,W) as contiguous (N,H,W,C)."""
    return contiguous(x.transpose(0, 2, 3, 1))


def correlate(plan: Plan, x: Array, w: Array) -> Array:
    """What is planned, x (N,C,H,W) with w (O,C/G,KH,KW), forward or in reverse."""
    kind, y = x.dtype, empty(plan.out, x.dtype)
    work = max(y.size * len(plan.taps), plan.packed)
    share = share_out(len(x) * plan.parts, work, 4 if plan.together == 1 else 1, plan.threads)
    _, threads, blocks, pieces = share
    assert blocks // pieces >= plan.together, "a piece has fewer images than are computed together"
    _convolve(
        share,
        plan.shape,
        images(x),
        contiguous(w),
        plan.layouts,
        scratch_memory("weights", (plan.packed,), kind),
        y,
        plan.images,
        plan.groups,
        plan.phases,
        plan.taps,
        plan.parts,
        plan.together,
        scratch_memory("image", (threads, plan.scratch), kind),
    )
    return y.transpose(0, 3, 1, 2)


def correlate_weight(plan: Plan, x: Array, g: Array) -> Array:
    """The gradient (O,C/G,KH,KW) of the weight, from x (N,C,H,W) and g (N,O,OH,OW)."""
    kind, dw = x.dtype, empty(plan.out, x.dtype)
    share = share_out(len(x), g.size * len(plan.taps), pieces_of_sums(plan.packed), plan.threads)
    _, threads, _, pieces = share
    filled = plan.blocks * plan.lanes  # channels, up to whole vectors
    filled *= 0 if filled == g.shape[1] else plan.together * math.prod(g.shape[2:])
    _sum_up(
        share,
        plan.shape,
        images(x),
        images(g),
        scratch_memory("sums", (pieces, plan.packed), kind),
        plan.layouts,
        dw,
        plan.images,
        plan.groups,
        plan.phases,
        plan.taps,
        plan.together,
        scratch_memory("image", (threads, plan.scratch), kind),
        scratch_memory("gradient", (threads, filled), kind),
        scratch_memory("wide", (threads, plan.packed), np.float64),
    )
    return dw


def pieces_of_sums(size: int) -> int:
    """Pieces for each thread where each has `size` sums: more balance better, but take memory."""
    return 4 if size <= MANY_SUMS else 1
