"""An array of any layout as runs of memory, so that sums over any axes are sums of rows.

It is read in the order of its memory, as alternating groups of axes that are added up or kept.  The
innermost group goes first: neighbours are added up, or rows of numbers that are kept apart.  What
is left is far smaller, and goes through the same again.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from numpy.lib.array_utils import normalize_axis_tuple

from tinyconv.backend.array import Array, array_module

FEW = 16  # numbers that may be added one by one
Axes = int | tuple[int, ...] | None
# add(y (O*R*I,), R, I, divisor) to (O*I,), divided; by None where there is more to add up
Add = Callable[[Array, int, int, float | None], Array]


class Order(NamedTuple):
    """How to read an array, and how to turn what is left of it back."""

    start: tuple[slice, ...] | None  # which part of it: without what is repeated, nothing backwards
    axes: tuple[int, ...]  # as they are in memory
    groups: tuple[tuple[bool, int], ...]  # is it added up?  Its length
    times: int  # that every number stands there
    kept: tuple[int, ...]  # the result's shape as computed
    back: tuple[int, ...]  # its axes in the caller's order
    shape: tuple[int, ...]  # the result's, where repeated axes have length 1
    turn: tuple[slice, ...] | None  # what was read backwards
    full: tuple[int, ...]  # the result's shape
    plain: bool  # does NumPy add these up well, few or neighbours as they are?


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
    start = tuple(slice(0, 1) if a in repeated else slice(None, None, -1 if strides[a] < 0 else 1)
                  for a in range(ndim))  # fmt: skip
    order = sorted(range(ndim), key=lambda a: -abs(strides[a]))
    groups: list[tuple[bool, int]] = []
    for a in order:
        n, added = length[a], a in axes
        if n == 1:
            continue
        if groups and groups[-1][0] == added:
            n *= groups.pop()[1]
        groups.append((added, n))
    kept = [a for a in order if a not in axes]
    left = [a for a in range(ndim) if keepdims or a not in axes]
    straight = all(s == slice(None, None, 1) for s in start)
    return Order(
        None if straight else start,
        tuple(order),
        tuple(groups),
        math.prod(shape[a] for a in repeated & axes),
        tuple(length[a] for a in kept),
        tuple(kept.index(a) for a in left if a not in axes),
        tuple(1 if a in axes else length[a] for a in left),
        None if straight else tuple(
            slice(None, None, 1 if a in axes else start[a].step) for a in left),
        tuple(1 if a in axes else shape[a] for a in left),
        _is_plain(shape, strides, axes, order),
    )  # fmt: skip


def _is_plain(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: set[int], order: list[int]
) -> bool:
    if 0 in shape or math.prod(shape[a] for a in axes) <= FEW:
        return True
    order = [a for a in order if shape[a] > 1]
    inner = order[-sum(a in axes for a in order) :]
    return {*inner} <= axes and strides[inner[-1]] > 0 and all(
        strides[a] == shape[b] * strides[b] for a, b in zip(inner, inner[1:])
    )  # fmt: skip


def reduced(x: Array, order: Order, divisor: float, add: Add) -> Array:
    """The sums of x, which is not empty, over a divisor."""
    if order.start is not None:
        x = x[order.start]
    y = array_module(x).ascontiguousarray(x.transpose(order.axes)).reshape(-1)
    divisor = divisor / order.times
    groups, inner = list(order.groups), 1
    todo = [added for added, _ in groups].count(True)
    if todo == 0:
        y = y / divisor
    while todo:
        added, n = groups.pop()
        if added:
            todo -= 1
            y = add(y, n, inner, None if todo else divisor)
        else:
            inner *= n
    y = y.reshape(order.kept).transpose(order.back).reshape(order.shape)
    if order.turn is not None:
        y = y[order.turn]
    return y if y.shape == order.full else array_module(x).broadcast_to(y, order.full).copy()
