"""Picking entries by position, and its adjoint: adding at positions."""

import re
from typing import Any

import numpy as np

from tinyconv.autograd import op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.errors import DimError, DTypeError, ShapeError
from tinyconv.ops.shape import Shape, axis_of, reshape
from tinyconv.samples import function, ints, sample

# --- x[index]

INDEXES: list[Any] = [
    1,
    (slice(None), -1),
    (Ellipsis, None, slice(0, 3, 2)),
    (np.array([0, 2, 0]),),
    (np.array([[0], [1]]), slice(1, 3)),
    (np.array([True, False, True]),),
]


@op
def getitem(x: Array, *, index: Any) -> Array:
    """x[index]: integers, slices, None, Ellipsis, arrays of integers or booleans."""
    try:
        y = x[index]
    except IndexError as error:
        raise bad_index(x.shape, error) from None
    if isinstance(y, np.generic):  # an Ellipsis makes it a view, as every basic index is
        y = x[(*(index if isinstance(index, tuple) else (index,)), Ellipsis)]
    return y


def bad_index(shape: Shape, error: IndexError) -> DimError:
    """NumPy's complaint with the tensor's shape and the positions that there are."""
    said = re.sub(r"\baxis\b", "dim", str(error)).replace("array: array is", "tensor that is")
    found = re.search(r"with size (\d+)", said)
    size = int(found[1]) if found else 0
    return DimError("x[...]", f"{shape}: {said}" + f"; there are {-size}..{size - 1}" * (size > 0))


getitem.defvjp(
    lambda g, _y, _x, *, index: put_add(g, index=index, shape=_x.shape),
    samples=[sample((3, 4), index=index) for index in INDEXES],
)


@op
def put_add(g: Array, *, index: Any, shape: Shape) -> Array:
    """Zeros of ``shape`` with g added at [index]; positions named twice add up."""
    xp = array_module(g)
    out = xp.zeros(shape, g.dtype)
    if is_basic(index):
        out[index] = g
    else:
        backend_of(g).add_at(out, index, g)
    return out


put_add.defvjp(
    lambda h, _y, _g, *, index, shape: getitem(h, index=index),
    samples=[sample(np.empty((3, 4))[index].shape, index=index, shape=(3, 4)) for index in INDEXES],
)


def is_basic(index: Any) -> bool:
    """Integers, slices, None and Ellipsis: no position can be named twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None
        or part is Ellipsis
        or (isinstance(part, (int, slice)) and not isinstance(part, bool))
        for part in parts
    )


# --- gather and scatter along one axis


@op(name="gather")
def _gather(x: Array, index: Array, *, dim: int) -> Array:
    """out[i][j] = x[index[i][j]][j] for dim = 0."""
    return x[_grid(index, dim)]


@op(name="scatter_add")
def _scatter_add(x: Array, index: Array, src: Array, *, dim: int) -> Array:
    """x with src added: out[index[i][j]][j] += src[i][j] for dim = 0."""
    out = x.copy()
    added = src[tuple(slice(n) for n in index.shape)]
    backend_of(x).add_at(out, _grid(index, dim), added)
    return out


def _grid(index: Array, dim: int) -> tuple[Array, ...]:
    """The full index arrays of a gather: the given one along dim, counting elsewhere."""
    xp = array_module(index)
    grid = [
        xp.arange(n).reshape((n,) + (1,) * (index.ndim - 1 - i)) for i, n in enumerate(index.shape)
    ]
    grid[dim] = index
    return tuple(grid)


@op(name="scatter_into")
def _scatter_into(g: Array, index: Array, *, shape: Shape, dim: int) -> Array:
    """Zeros of ``shape`` with g added: gather's adjoint."""
    backend = backend_of(g)
    out = backend.xp.zeros(shape, g.dtype)
    backend.add_at(out, _grid(index, dim), g)
    return out


_gather.defvjp(
    lambda g, _y, _x, index, *, dim: _scatter_into(g, index, shape=_x.shape, dim=dim),
    None,
    samples=[sample((4, 3), ints(2, 3, high=4), dim=0), sample((3, 4), ints(3, 5, high=4), dim=-1)],
)
_scatter_into.defvjp(
    lambda h, _y, _g, index, *, shape, dim: _gather(h, index, dim=dim),
    None,
    samples=[sample((2, 3), ints(2, 3, high=4), shape=(4, 3), dim=0)],
)
_scatter_add.defvjp(
    lambda g, _y, _x, _index, _src, *, dim: g,
    None,
    lambda g, _y, _x, index, _src, *, dim: _like_source(_gather(g, index, dim=dim), _src.shape),
    samples=[
        sample((4, 3), ints(2, 3, high=4), (2, 3), dim=0),
        sample((2, 4), ints(2, 3, high=4), (2, 5), dim=1),
    ],
)


def _like_source(g: Any, shape: Shape) -> Any:
    """A source larger than the index is read only in part: zeros for the rest."""
    if g.shape == shape:
        return g
    return put_add(g, index=tuple(slice(n) for n in g.shape), shape=shape)


# --- as PyTorch spells them


@function(sample((4, 3), 0, ints(2, 3, high=4)), sample((3, 4), -1, ints(2, 5, high=4)))
def gather(x: Any, dim: int, index: Any) -> Any:
    """Entries of x along ``dim``: out[i][j] = x[index[i][j]][j] for dim = 0.

    index: integers of x's number of axes, each 0 <= i < x.shape[dim].
    """
    if not x.shape:
        return _of_number(gather, x, dim, index)
    _check_positions("gather", x, dim, index)
    return _gather(x, index, dim=dim)


@function(sample((4, 3), 0, ints(2, 3, high=4), (2, 3)))
def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with ``src`` added at ``index`` along ``dim``: `gather`'s counterpart."""
    if not x.shape:
        return reshape(_of_number(scatter_add, x, dim, index, src), shape=())
    _check_positions("scatter_add", x, dim, index)
    return _scatter_add(x, index, src, dim=dim)


@function(sample((3, 4), 1, ints(5, high=4)), sample((3, 4), -2, ints(2, high=3)))
def index_select(x: Any, dim: int, index: Any) -> Any:
    """The entries ``index`` (1-D) along ``dim``."""
    if not x.shape:
        return reshape(_of_number(index_select, x, dim, index), shape=())
    axis = axis_of("index_select", x.shape, dim)
    _check_range("index_select", index, x.shape[axis])
    return x[(slice(None),) * axis + (index,)]


def _of_number(function: Any, x: Any, dim: int, index: Any, *src: Any) -> Any:
    """``function`` of a row of one in the place of a number, in index's shape."""
    row, rows, *more = (reshape(a, shape=(-1,)) for a in (x, index, *src))
    y = function(row, dim, rows, *more)
    return reshape(y, shape=index.shape) if y.shape == rows.shape else y


def _check_positions(name: str, x: Any, dim: int, index: Any) -> None:
    axis = axis_of(name, x.shape, dim)
    fits = index.ndim == x.ndim and all(
        i == axis or n <= size for i, (n, size) in enumerate(zip(index.shape, x.shape, strict=True))
    )
    if not fits:
        raise ShapeError(
            name,
            f"index {index.shape} does not fit {x.shape}: "
            f"as many axes, and none longer but dim {dim}",
        )
    _check_range(name, index, x.shape[axis])


def _check_range(name: str, index: Any, size: int) -> None:
    values = index.array if hasattr(index, "node") else index
    if values.dtype.kind not in "iu":
        raise DTypeError(name, f"index is {values.dtype}; it must hold integers: index.long()")
    if backend_of(values).waits or not values.size:
        return
    if not (values.min() >= 0 and values.max() < size):
        raise ShapeError(
            name,
            f"index holds {values.min()}..{values.max()}, the axis has positions 0..{size - 1}",
        )
