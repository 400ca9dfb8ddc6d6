"""An array of any layout as runs of memory, so that sums over any axes are sums of rows.

It is read in the order of its memory, as alternating groups of axes that are added up or kept.  The
innermost group goes first: neighbours are added up, or rows of numbers that are kept apart.  What
is left is far smaller, and goes through the same again.
"""

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from numpy.lib.array_utils import normalize_axis_tuple

from tinyconv.backend.array import Array, array_module

FEW = 16  # numbers that may be added one by one
Axes = int | tuple[int, ...] | None
# add(y of O*R*I numbers, R, I, divisor) to O*I, divided; by None where there is more to add up
Add = Callable[[Array, int, int, float | None], Array]


class Order(NamedTuple):
    """How to read an array, and how to turn what is left of it back; None where that is nothing."""

    plain: bool  # does NumPy add these up well, few or neighbours as they are?
    start: tuple[slice, ...] | None  # which part of it: without what is repeated, nothing backwards
    axes: tuple[int, ...] | None  # as they are in memory
    steps: tuple[tuple[int, int, bool], ...]  # R, I, and is it the last?  See `Add`
    times: int  # that every number stands there
    shape: tuple[int, ...]  # the result's, where repeated axes have length 1
    back: tuple[tuple[int, ...], tuple[int, ...]] | None  # its shape in memory, its axes in that
    turn: tuple[slice, ...] | None  # what was read backwards
    full: tuple[int, ...]  # the result's shape


@lru_cache(maxsize=4096)
def order_of(
    shape: tuple[int, ...], strides: tuple[int, ...], axis: Axes, keepdims: bool
) -> Order:
    """Errors as NumPy's for axes that are not there or are named twice."""
    ndim = len(shape)
    named = range(ndim) if axis is None else normalize_axis_tuple(axis, max(ndim, 1))
    axes = {a for a in named if ndim}
    repeated = {a for a in range(ndim) if strides[a] == 0 and shape[a] > 1}
    length = [1 if a in repeated else n for a, n in enumerate(shape)]
    start = [slice(0, 1) if a in repeated else slice(None, None, -1 if strides[a] < 0 else 1)
             for a in range(ndim)]  # fmt: skip
    straight = all(s == slice(None, None, 1) for s in start)
    order = sorted(range(ndim), key=lambda a: -abs(strides[a]))
    kept = [a for a in order if a not in axes]
    left = [a for a in range(ndim) if keepdims or a not in axes]
    back = [kept.index(a) for a in left if a not in axes]
    turn = tuple(slice(None, None, 1 if a in axes else start[a].step) for a in left)
    return Order(
        plain=_is_plain(shape, strides, axes, order),
        start=None if straight else tuple(start),
        axes=tuple(order) if order != sorted(order) else None,
        steps=_steps([(a in axes, length[a]) for a in order]),
        times=math.prod(shape[a] for a in repeated & axes),
        shape=tuple(1 if a in axes else length[a] for a in left),
        back=(tuple(length[a] for a in kept), tuple(back)) if back != sorted(back) else None,
        turn=None if straight else turn,
        full=tuple(1 if a in axes else shape[a] for a in left),
    )


def _steps(lengths: list[tuple[bool, int]]) -> tuple[tuple[int, int, bool], ...]:
    """Groups of axes, innermost last, as rows that are added up, each of so many numbers."""
    steps: list[tuple[int, int, bool]] = []
    inner, rows = 1, 1
    for is_added, n in [*lengths[::-1], (False, 2)]:
        if is_added:
            rows *= n
        elif n > 1:
            if rows > 1:
                steps.append((rows, inner, False))
            inner, rows = inner * n, 1
    return (*steps[:-1], *((rows, inner, True) for rows, inner, _ in steps[-1:]))


def _is_plain(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: set[int], order: list[int]
) -> bool:
    if 0 in shape or math.prod(shape[a] for a in axes) <= FEW:
        return True
    order = [a for a in order if shape[a] > 1]
    inner = order[-sum(a in axes for a in order) :]
    return {*inner} <= axes and strides[inner[-1]] > 0 and all(
        strides[a] == shape[b] * strides[b] for a, b in itertools.pairwise(inner)
    )  # fmt: skip


def reduced(x: Array, order: Order, divisor: float, add: Add) -> Array:
    """The sums of x, which is not empty, over a divisor."""
    if order.start is not None:
        x = x[order.start]
    if order.axes is not None:
        x = x.transpose(order.axes)
    y = array_module(x).ascontiguousarray(x)
    if order.times > 1:
        divisor = divisor / order.times
    if not order.steps:
        y = y / divisor
    for rows, inner, is_last in order.steps:
        y = add(y, rows, inner, divisor if is_last else None)
    if order.back is not None:
        shape, axes = order.back
        y = y.reshape(shape).transpose(axes)
    y = y.reshape(order.shape)
    if order.turn is not None:
        y = y[order.turn]
    return y if y.shape == order.full else array_module(x).broadcast_to(y, order.full).copy()
