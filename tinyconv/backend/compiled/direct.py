"""Convolutions on register tiles.

One kernel, `_correlate`, serves the forward pass and the gradient of the input: both add up, over
the taps of a window, products of pixels and weights.  The second kernel, `_correlate_weight`, is
the gradient of the weight.  Grouped convolutions are loops over groups in both; where a group is
one channel (depthwise), vectors hold channels of different groups instead.

Memory is channels-last: x (N,H,W,C), y (N,OH,OW,O).  Then the KW*C numbers of one window row are
one run, and a window is `taps`: offsets of its KH runs from its first pixel.  Where pixels of a
window row are no neighbours (dilation, groups) there is a tap for each of the KH*KW pixels.

A thread copies one image at a time into scratch memory with a border of zeros that stays in cache.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.blocked import stride_phases
from tinyconv.backend.compiled import tile, watch as watch  # workers watch from here on
from tinyconv.backend.compiled.host import host
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.memory import aligned, empty
from tinyconv.backend.reference import Padding, Pair
from tinyconv.backend.threads import get_num_threads, in_spans, scratch as scratch_memory

MANY_SUMS = 2**16  # numbers
BAND = 24 * 1024  # bytes of pixels that a weight gradient walks again and again: they stay in L1


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
    weights: int  # where its packed weights start


@kernel
def copy_image(x, image, n, size, scratch):
    row = image.width * image.channels * size
    source = x.ctypes.data + n * image.height * row
    target = scratch + (image.top * image.padded_width + image.left) * image.channels * size
    for _ in range(image.height):
        tile.copy(target, source, row)
        source += row
        target += image.padded_width * image.channels * size


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
def _locate_image(x, image, n, size, scratch):
    """The address of image n: in the scratch memory with its border, or where it is."""
    if image.copied:
        copy_image(x, image, n, size, scratch.ctypes.data)
        return scratch.ctypes.data
    return x.ctypes.data + n * image.height * image.width * image.channels * size


@kernel
def _correlate(shape, x, w, y, size_y, image, groups, phases, taps, span, part, parts, scratch):
    """See `correlate`; images span[0]:span[1], and of their rows the `part`-th of `parts`."""
    size = x.itemsize
    J, VL = len(shape[0]), len(shape[1]) * len(shape[2])
    depthwise = len(shape[3]) == 2
    YH, YW, O = size_y
    OG, CG = O // groups, image.channels // groups
    blocks = -(-OG // VL)
    pixel, pixel_y = image.channels * size, O * size
    line, line_y = image.padded_width * pixel, YW * pixel_y
    if image.copied:
        scratch[:] = 0  # the border stays so
    for n in range(span[0], span[1]):
        base = _locate_image(x, image, n, size, scratch)
        base_y = y.ctypes.data + n * YH * line_y
        for p in phases:
            x_step, y_step = p.in_column_step * pixel, p.column_step * pixel_y
            tap = p.run * VL * size
            for group in range(groups):
                for o in range(0, OG, VL):
                    block = group * blocks + o // VL
                    weights = w.ctypes.data + p.weights * size + block * p.n_taps * tap
                    channel = o if depthwise else group * CG
                    first = base + (p.in_column + image.left) * pixel + channel * size
                    first_y = base_y + p.column * pixel_y + (group * OG + o) * size
                    for i in range(p.rows * part // parts, p.rows * (part + 1) // parts):
                        row = p.in_row + i * p.in_row_step
                        start, stop = _rows_inside(taps, p.taps, p.n_taps, row, image.height)
                        source = first + (row + image.top) * line
                        target = first_y + (p.row + i * p.row_step) * line_y
                        j = 0
                        while j < p.columns:
                            j = min(j, p.columns - J)  # the last tile computes some pixels again
                            tile.window(
                                shape,
                                x,
                                source + j * x_step,
                                x_step,
                                taps.ctypes.data + start * 16,
                                stop - start,
                                p.run,
                                weights + (start - p.taps) * tap,
                                target + j * y_step,
                                y_step,
                                OG - o,
                            )
                            j += J


@kernel
def pack(w, start, strides, sizes, lanes, packed, at):
    """w as (groups, blocks of `lanes` output channels, KH, KW, C, lanes), zeros to fill."""
    G, O, C, KH, KW = sizes
    sg, so, sc, sh, sw = strides
    for g in range(G):
        for block in range(0, O, lanes):
            for kh in range(KH):
                for kw in range(KW):
                    for c in range(C):
                        first = start + g * sg + block * so + c * sc + kh * sh + kw * sw
                        for o in range(min(lanes, O - block)):
                            packed[at + o] = w[first + o * so]
                        for o in range(O - block, lanes):
                            packed[at + o] = 0
                        at += lanes
    return at


@kernel
def unpack(packed, sizes, strides, lanes, w):
    """The inverse of `pack`."""
    G, O, C, KH, KW = sizes
    sg, so, sc, sh, sw = strides
    at = 0
    for g in range(G):
        for block in range(0, O, lanes):
            for kh in range(KH):
                for kw in range(KW):
                    for c in range(C):
                        first = g * sg + block * so + c * sc + kh * sh + kw * sw
                        for o in range(min(lanes, O - block)):
                            w[first + o * so] = packed[at + o]
                        at += lanes


@kernel
def _locate_gradient(g, size_g, groups, filled, n, size, scratch):
    """The address of g's image n, with each group's channels filled up to whole vectors."""
    OH, OW, O = size_g
    source = g.ctypes.data + n * OH * OW * O * size
    if filled * groups == O:
        return source
    for i in range(OH * OW * groups):
        tile.copy(scratch.ctypes.data + i * filled * size, source, O // groups * size)
        source += O // groups * size
    return scratch.ctypes.data


@kernel
def _inside(first, stop, row, step, height):
    """The part of first:stop whose row + i * step lies in the image."""
    while first < stop and row + first * step < 0:
        first += 1
    while stop > first and row + (stop - 1) * step >= height:
        stop -= 1
    return first, stop


@kernel
def _correlate_weight(
    shape, x, g, out, size_g, image, groups, phases, taps, span, scratch, scratch_g
):
    """See `correlate_weight`; adds the images span[0]:span[1] to out, laid out as `pack` does."""
    size = x.itemsize
    J, VL = len(shape[0]), len(shape[1]) * len(shape[2])
    depthwise = len(shape[3]) == 2
    OH, OW, O = size_g
    p = phases[0]
    CG = image.channels // groups
    blocks = -(-(O // groups) // VL)
    pixel, pixel_g = image.channels * size, groups * blocks * VL * size
    line, line_g = image.padded_width * pixel, OW * pixel_g
    x_row, x_step = p.in_row_step * line, p.in_column_step * pixel
    band = max(1, BAND // (p.in_row_step * image.width * pixel + line_g))
    if image.copied:
        scratch[:] = 0  # the border stays so
    if groups * blocks * VL != O:
        scratch_g[:] = 0
    for n in range(span[0], span[1]):
        base = _locate_image(x, image, n, size, scratch)
        base += (p.in_row + image.top) * line + (p.in_column + image.left) * pixel
        base_g = _locate_gradient(g, size_g, groups, blocks * VL, n, size, scratch_g)
        for first in range(0, OH, band):
            for block in range(groups * blocks):
                channel = block * VL if depthwise else block // blocks * CG
                for t in range(p.n_taps):
                    start, stop = _inside(
                        first,
                        min(first + band, OH),
                        p.in_row + taps[t, 1],
                        p.in_row_step,
                        image.height,
                    )
                    source = base + start * x_row + taps[t, 0] + channel * size
                    source_g = base_g + start * line_g + block * VL * size
                    target = out.ctypes.data + (block * p.n_taps + t) * p.run * VL * size
                    for r in range(0, p.run, J):
                        r0 = min(r, p.run - J)  # the last tile computes some numbers again
                        tile.weight(
                            shape,
                            x,
                            source + r0 * size,
                            x_row,
                            x_step,
                            source_g,
                            line_g,
                            pixel_g,
                            stop - start,
                            OW,
                            target + r0 * VL * size,
                            VL * size,
                            r - r0,
                        )


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


class Plan(NamedTuple):
    """All that shapes alone decide."""

    image: Image
    groups: int
    kind: tuple[int, ...]  # its length tells the kernels: 1, groups of channels; 2, depthwise
    phases: Any
    taps: Any
    scratch: int  # numbers in an image with its border


@functools.lru_cache(maxsize=4096)
def _plan(
    size: Pair,
    channels: int,
    out_channels: int,
    groups: int,
    rows: Axes,
    columns: Axes,
    itemsize: int,
) -> Plan:
    depthwise = 1 < groups == channels == out_channels
    CG = 1 if depthwise else channels // groups
    H, W = size
    top, left = (max(0, *(-a.origin for a in axes if a.taps), 0) for axes in (rows, columns))
    height, width = (
        n + max(0, *(a.reach() for a in axes if a.taps), m)
        for n, m, axes in ((top, H, rows), (left, W, columns))
    )
    copied = depthwise or (height, width) != size
    line = width * channels
    table: list[tuple[int, int]] = []
    phases: list[Phase] = []
    for r in rows:
        for c in columns:
            merged = groups == 1 and c.spread == 1
            taps = [
                ((h * r.spread * line + w * c.spread * channels) * itemsize, h * r.spread)
                for h in range(r.taps)
                for w in range(min(1, c.taps) if merged else c.taps)
            ]
            run = c.taps * CG if merged else CG
            phases.append(
                Phase(
                    r.start,
                    r.stride,
                    c.start,
                    c.stride,
                    r.outputs,
                    c.outputs,
                    r.origin,
                    r.step,
                    c.origin,
                    c.step,
                    len(table),
                    len(taps),
                    run,
                    0,
                )
            )
            table += taps
    return Plan(
        Image(H, W, channels, top, left, height, width, int(copied)),
        1 if depthwise else groups,
        (0,) * (1 + depthwise),
        phases,
        np.array(table, np.int64).reshape(-1, 2),
        height * line,
    )


PHASES = np.dtype([(name, np.int64) for name in Phase._fields])


class Packed(NamedTuple):
    """Weights in the order in which the tiles read them, and the phases that say where."""

    phases: Any
    weights: Array


def _pack_weights(
    w: Array, plan: Plan, rows: Axes, columns: Axes, lanes: int, backward: bool
) -> Packed:
    O, CG, KH, KW = w.shape
    K = KH * KW
    G = plan.groups
    OG = O // G
    if len(plan.kind) == 2:
        sizes, strides = (1, O, 1), (0, K, 0)
    elif backward:
        sizes, strides = (G, CG, OG), (OG * CG * K, K, CG * K)
    else:
        sizes, strides = (G, OG, CG), (OG * CG * K, CG * K, K)
    per_tap = sizes[0] * -(-sizes[1] // lanes) * lanes * sizes[2]
    packed = new(sum(r.taps * c.taps for r in rows for c in columns) * per_tap, w.dtype)
    flat = np.ascontiguousarray(w).reshape(-1)
    phases, at = [], 0
    for phase, (r, c) in zip(plan.phases, itertools.product(rows, columns), strict=True):
        phases.append(phase._replace(weights=at))
        at = pack(
            flat,
            r.first_tap * KW + c.first_tap,
            (*strides, r.tap_step * KW, c.tap_step),
            (*sizes, r.taps, c.taps),
            lanes,
            packed,
            at,
        )
    return Packed(np.array(phases, PHASES), packed)


# ------------------------------------------------------------------------------ convolutions


def new(size: int, dtype: Any) -> Array:
    """An uninitialised vector on a cache line's boundary."""
    return aligned(size * np.dtype(dtype).itemsize).view(dtype)


def images(x: Array) -> Array:
    """(N,C,H,W) as contiguous (N,H,W,C)."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _run_correlation(
    x: Array, w: Array, y: Array, groups: int, rows: Axes, columns: Axes, backward: bool
) -> None:
    """x (N,H,W,C) and w to y (N,OH,OW,O)."""
    N, H, W, C = x.shape
    plan = _plan((H, W), C, y.shape[3], groups, rows, columns, x.itemsize)
    machine = host()
    lanes = machine.lanes(x.dtype)
    J, V = machine.tile(min(c.outputs for c in columns), y.shape[3] // plan.groups, x.dtype)
    shape = ((0,) * J, (0,) * V, (0,) * lanes, plan.kind)
    phases, packed = _pack_weights(w, plan, rows, columns, V * lanes, backward)
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)

    def compute(start: int, stop: int, part: int, parts: int) -> None:
        scratch = scratch_memory("image", (plan.scratch + V * lanes,), x.dtype)
        _correlate(
            shape,
            flat_x,
            packed,
            flat_y,
            y.shape[1:],
            plan.image,
            plan.groups,
            phases,
            plan.taps,
            (start, stop),
            part,
            parts,
            scratch,
        )

    work, threads = y.size * len(plan.taps), get_num_threads()
    if threads > N:  # too few images: bands of their rows

        def bands(span: Sequence[int]) -> None:
            for part in span:
                compute(0, N, part, threads)

        in_spans(bands, range(threads), work, 1, blas=False)
    else:
        in_spans(lambda span: compute(span[0], span[-1] + 1, 0, 1), range(N), work, 4, blas=False)


def conv2d(
    x: Array,
    w: Array,
    out_size: Pair,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """x (N,C,H,W), w (O,C/G,KH,KW) to y (N,O,*out_size)."""
    y = empty((len(x), *out_size, len(w)), x.dtype)
    rows, columns = (
        _forward_axis(out_size[i], w.shape[2 + i], stride[i], padding[i][0], dilation[i])
        for i in (0, 1)
    )
    _run_correlation(images(x), w, y, groups, rows, columns, False)
    return y.transpose(0, 3, 1, 2)


def conv2d_input(
    g: Array,
    w: Array,
    *,
    input_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """See `reference.conv2d_input`."""
    dx = empty((len(g), *input_size, w.shape[1] * groups), g.dtype)
    rows, columns = (
        _backward_axis(input_size[i], w.shape[2 + i], stride[i], padding[i][0], dilation[i])
        for i in (0, 1)
    )
    _run_correlation(images(g), w, dx, groups, rows, columns, True)
    return dx.transpose(0, 3, 1, 2)


def conv2d_weight(
    x: Array,
    g: Array,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """See `reference.conv2d_weight`."""
    (N, C, H, W), (_, O, OH, OW) = x.shape, g.shape
    rows, columns = (
        _forward_axis(g.shape[2 + i], kernel_size[i], stride[i], padding[i][0], dilation[i])
        for i in (0, 1)
    )
    xs, gs = images(x), images(g)
    plan = _plan((H, W), C, O, groups, rows, columns, x.itemsize)
    machine = host()
    lanes = machine.lanes(x.dtype)
    (phase,) = plan.phases
    OG = O // plan.groups
    J, V = machine.weight_tile(phase.run, OG, x.dtype)
    shape = ((0,) * J, (0,) * V, (0,) * lanes, plan.kind)
    blocks = -(-OG // (V * lanes))
    phases = np.array(plan.phases, PHASES)
    flat_x, flat_g = xs.reshape(-1), gs.reshape(-1)
    size = plan.groups * blocks * phase.n_taps * phase.run * V * lanes

    def job(span: Sequence[int]) -> Array:
        scratch = scratch_memory("image", (plan.scratch + V * lanes,), x.dtype)
        filled = scratch_memory("gradient", (OH * OW * plan.groups * blocks * V * lanes,), x.dtype)
        out = new(size, x.dtype)
        out[:] = 0
        _correlate_weight(
            shape,
            flat_x,
            flat_g,
            out,
            gs.shape[1:],
            plan.image,
            plan.groups,
            phases,
            plan.taps,
            (span[0], span[-1] + 1),
            scratch,
            filled,
        )
        return out

    work, per_thread = g.size * len(plan.taps), spans_of_sums(size)
    total = add_up(in_spans(job, range(N), work, per_thread, blas=False))
    dw = empty((O, C // groups, *kernel_size), x.dtype)
    K = kernel_size[0] * kernel_size[1]
    if len(plan.kind) == 2:
        sizes, strides = (1, O, 1), (0, K, 0)
    else:
        CG = C // groups
        sizes, strides = (groups, OG, CG), (OG * CG * K, CG * K, K)
    unpack(
        total,
        (*sizes, *kernel_size),
        (*strides, kernel_size[1], 1),
        V * lanes,
        dw.reshape(-1),
    )
    return dw


def spans_of_sums(size: int) -> int:
    """Spans for each thread where each has `size` sums: more balance better, but take memory."""
    return 4 if size <= MANY_SUMS else 1


def add_up(totals: list[Array]) -> Array:
    """The sum, in the memory of the first."""
    for other in totals[1:]:
        totals[0] += other
    return totals[0]
