"""Convolutions: which algorithm for which case, decided once for the shapes that come again.

winograd    3x3 of stride 1, channels that fill whole vectors
direct      everything else
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from tinyconv.backend import modes
from tinyconv.backend.array import Array
from tinyconv.backend.blocked import met_border
from tinyconv.backend.compiled import direct, winograd
from tinyconv.backend.compiled.host import How, how_for
from tinyconv.backend.reference import Padding, Pair, output_size
from tinyconv.backend.threads import get_num_threads

Shape = tuple[int, ...]
Run = Callable[[Array, Array], Array]


def conv2d(
    x: Array, w: Array, *, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Array:
    """See `reference.conv2d`."""
    how = how_for(x.dtype, w.dtype, get_num_threads(), False, False, modes.direct())
    run = _forward(x.shape, w.shape, stride, padding, dilation, groups, how)
    return NotImplemented if run is None else run(x, w)


@functools.lru_cache(maxsize=4096)
def _forward(
    x: Shape,
    w: Shape,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    how: How | None,
) -> Run | None:
    if how is None or 0 in x or 0 in w:
        return None
    size = output_size((x[2], x[3]), (w[2], w[3]), stride, dilation, padding)
    if 0 in size:
        return None
    plan = direct.forward_plan(x, w, size, stride, padding, dilation, groups, how)
    run = functools.partial(direct.correlate, plan)
    if winograd.covers(w, stride, dilation, groups, x[0], size, how):
        before = padding[0][0], padding[1][0]
        faster = winograd.plan(x, w[0], size, before, how)
        return functools.partial(winograd.correlate, faster, run)
    return run


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
    how = how_for(g.dtype, w.dtype, get_num_threads(), True, False, modes.direct())
    geometry = tuple(input_size), stride, padding, dilation, groups
    run = _backward(g.shape, w.shape, *geometry, how)
    if run is None:
        return NotImplemented
    dx = run(g, w)
    return NotImplemented if met_border(dx, w) else dx


@functools.lru_cache(maxsize=4096)
def _backward(
    g: Shape,
    w: Shape,
    size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    how: How | None,
) -> Run | None:
    if how is None or 0 in g or 0 in w or 0 in size:
        return None
    top, left = padding[0][0], padding[1][0]
    plan = direct.backward_plan(g, w, size, stride, padding, dilation, groups, how)
    run = functools.partial(direct.correlate, plan)
    if max(top, left) <= 2 and winograd.covers(w, stride, dilation, groups, g[0], size, how):
        faster = winograd.plan(g, w[1], size, (2 - top, 2 - left), how)
        return functools.partial(winograd.correlate, faster, run)
    return run


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
    how = how_for(x.dtype, g.dtype, get_num_threads(), False, True, modes.direct())
    geometry = tuple(kernel_size), stride, padding, dilation, groups
    run = _weight_gradient(x.shape, g.shape, *geometry, how)
    return NotImplemented if run is None else run(x, g)


@functools.lru_cache(maxsize=4096)
def _weight_gradient(
    x: Shape,
    g: Shape,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    how: How | None,
) -> Run | None:
    if how is None or 0 in x or 0 in g:
        return None
    w, size = (g[1], x[1] // groups, *kernel_size), (g[2], g[3])
    plan = direct.forward_plan(x, w, size, stride, padding, dilation, groups, how)
    run = functools.partial(direct.correlate_weight, plan)
    if winograd.covers(w, stride, dilation, groups, x[0], size, how):
        before = padding[0][0], padding[1][0]
        faster = winograd.plan(x, g[1], size, before, how)
        return functools.partial(winograd.correlate_weight, faster, run)
    return run
