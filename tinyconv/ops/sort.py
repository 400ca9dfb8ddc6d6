"""Sorting: the order is an operation without gradient, the values are gathered by it."""

from typing import Any, NamedTuple

from tinyconv.autograd import op
from tinyconv.backend import Array, array_module
from tinyconv.errors import ShapeError
from tinyconv.ops.index import gather
from tinyconv.ops.shape import axis_of, narrow
from tinyconv.samples import function, sample


class Sorted(NamedTuple):
    """Values and where they were found."""

    values: Any
    indices: Any


@op(samples=[sample((3, 4)), sample((3, 4), dim=0), sample((3, 4), dim=1, descending=True)])
def argsort(x: Array, *, dim: int = -1, descending: bool = False, stable: bool = False) -> Array:
    """The positions that sort along ``dim``; equal entries stay in order; NaN is the largest."""
    xp = array_module(x)
    if not x.ndim:
        axis_of("argsort", (1,), dim)
        return xp.zeros((), xp.int64)
    if not descending:
        return xp.argsort(x, axis=dim, kind="stable")
    # backwards and back again: so the first of equal entries comes first here, too
    found = xp.argsort(xp.flip(x, dim), axis=dim, kind="stable")
    return xp.flip(x.shape[dim] - 1 - found, dim)


@function(sample((3, 4)), sample((3, 4), 0), sample((3, 4), dim=1, descending=True))
def sort(x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Sorted:
    """The entries in order along ``dim``, and where they were."""
    indices = argsort(x, dim=dim, descending=descending, stable=stable)
    return Sorted(gather(x, dim, indices), indices)


@function(sample((3, 4), 2), sample((3, 4), 3, 0, False))
def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Sorted:
    """The k largest entries (or smallest) along ``dim``, in order, and where they were."""
    shape = x.shape or (1,)
    n = shape[axis_of("topk", shape, dim)]
    if not 0 <= k <= n:
        raise ShapeError("topk", f"k is {k}, dim {dim} of {x.shape} has {n} entries")
    indices = argsort(x, dim=dim, descending=largest)
    indices = narrow(indices, dim, 0, k) if x.ndim else indices
    return Sorted(gather(x, dim, indices), indices)
