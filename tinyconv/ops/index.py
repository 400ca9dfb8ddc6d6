"""Picking entries by position, and its adjoint: adding at positions."""

import operator
import re
from typing import Any

import numpy as np

from tinyconv.autograd import check_devices, op
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
    except (IndexError, TypeError) as error:
        raise bad_index(x.shape, error) from None
    if isinstance(y, np.generic):  # an Ellipsis makes it a view, as every basic index is
        y = x[(*(index if isinstance(index, tuple) else (index,)), Ellipsis)]
    return y


def split_index(index: Any, data: Array) -> tuple[Any, Any]:
    """An index into ``data`` as two of NumPy's, one after the other; either may be None.

    PyTorch applies integers, slices and None first, then all arrays together.  NumPy takes an
    integer beside arrays for one of them, which moves axes: x[0, :, [1, 2]].
    """
    parts = _parts(index)
    kinds = {type(part) for part in parts}
    if slice in kinds:
        parts = tuple(_forward(part) if type(part) is slice else part for part in parts)
    if kinds <= _BASIC:
        return parts, None
    parts = [part if type(part) in _BASIC else _index_part(part, data) for part in parts]
    used = sum(_axes(part) for part in parts)
    if used > data.ndim:
        raise DimError("x[...]", f"{data.shape} has {data.ndim} axes, the index names {used}")
    dots = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    rest = [p for p in parts[dots:] if p is not Ellipsis]
    parts = [*parts[:dots], *[slice(None)] * (data.ndim - used), *rest]
    if not any(hasattr(part, "dtype") or type(part) is bool for part in parts):
        return tuple(parts), None
    if not any(type(part) in (int, bool) for part in parts):
        whole = len(parts) == data.ndim == 1 or not isinstance(index, (tuple, list))
        return None, parts[0] if whole else tuple(parts)
    return _basic_step(parts), _array_step(parts, data)


_BASIC = {int, slice, type(None), type(Ellipsis)}


def _parts(index: Any) -> Any:
    """The index of each axis.  A list that holds more than numbers is a tuple, as in PyTorch."""
    if isinstance(index, tuple):
        return index
    several = isinstance(index, list) and len(index) < 32  # PyTorch's limit
    nested = (list, tuple, slice, type(None), type(Ellipsis))
    if several and any(isinstance(part, nested) or hasattr(part, "strides") for part in index):
        return tuple(index)
    if several and any(hasattr(part, "node") for part in index):
        return tuple(index)
    return (index,)


def _forward(part: slice) -> slice:
    """The slice; ValueError for one that runs backwards, of which a tensor has no view."""
    if part.step is not None and part.step <= 0:
        raise ValueError(f"x[...]: the step is {part.step}, it must be positive; use x.flip(0)")
    try:
        ends = (v if v is None else operator.index(v) for v in (part.start, part.stop, part.step))
        return slice(*ends)
    except TypeError:
        raise DimError("x[...]", f"{part} must be made of integers") from None


def _index_part(part: Any, data: Array) -> Any:
    """An int, a bool or an array, of int64, int32 or bool; DimError for what is no index."""
    if hasattr(part, "node"):
        part = part.array
    elif isinstance(part, (list, tuple, range)):
        numbers = _numbers(part)
        try:
            found = np.asarray(numbers, None if len(numbers) else np.int64)
        except ValueError as error:
            raise DimError("x[...]", f"the lists of an index differ in length: {error}") from None
        part = array_module(data).asarray(found)
    if isinstance(part, (bool, np.bool_)):
        return bool(part)
    if not hasattr(part, "strides") or isinstance(part, np.generic):
        try:
            return operator.index(part)
        except TypeError:
            raise DimError("x[...]", f"a {type(part).__name__} is no index: {part!r}") from None
    if type(part) is not type(data):
        check_devices("x[...]", (data, part))
    if part.dtype.kind not in "biu" or part.dtype in (np.int8, np.int16):
        raise DimError(
            "x[...]", f"the index is {part.dtype}; it must be int64, int32, bool or, as a mask, "
            "uint8: index.long()"
        )  # fmt: skip
    if part.dtype.kind == "b" or part.dtype == np.uint8:
        return part.astype(bool) if part.ndim else bool(part)
    return part if part.ndim else int(part)


def _numbers(part: Any) -> Any:
    """Nested lists of Python's numbers."""
    if isinstance(part, (list, tuple, range)):
        return [_numbers(item) for item in part]
    return part.tolist() if hasattr(part, "tolist") else part


def _axes(part: Any) -> int:
    """How many axes a part of an index stands for."""
    if part is None or part is Ellipsis or type(part) is bool:
        return 0
    return part.ndim if hasattr(part, "dtype") and part.dtype.kind == "b" else 1


def _basic_step(parts: Any) -> tuple[Any, ...]:
    """Integers, slices and None of an index; the axes of its arrays whole, new ones for bools."""
    step: list[Any] = []
    for part in parts:
        if type(part) in _BASIC:
            step.append(part)
        else:
            step += [None] if type(part) is bool else [slice(None)] * _axes(part)
    return tuple(step)


def _array_step(parts: Any, data: Array) -> tuple[Any, ...]:
    """The arrays of an index, for what its `_basic_step` leaves of the axes."""
    step: list[Any] = []
    for part in parts:
        if type(part) is bool:
            step.append(array_module(data).zeros(int(part), np.int64))
        elif type(part) is not int:
            step.append(slice(None) if type(part) in _BASIC else part)
    return tuple(step)


def bad_index(shape: Shape, error: Exception) -> DimError:
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
def take_along(x: Array, index: Array, *, dim: int) -> Array:
    """out[i][j] = x[index[i][j]][j] for dim = 0."""
    return x[_grid(index, dim)]


@op(name="scatter_add", takes="alike")
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


take_along.defvjp(
    lambda g, _y, _x, index, *, dim: _scatter_into(g, index, shape=_x.shape, dim=dim),
    None,
    samples=[sample((4, 3), ints(2, 3, high=4), dim=0), sample((3, 4), ints(3, 5, high=4), dim=-1)],
)
_scatter_into.defvjp(
    lambda h, _y, _g, index, *, shape, dim: take_along(h, index, dim=dim),
    None,
    samples=[sample((2, 3), ints(2, 3, high=4), shape=(4, 3), dim=0)],
)
_scatter_add.defvjp(
    lambda g, _y, _x, _index, _src, *, dim: g,
    None,
    lambda g, _y, _x, index, _src, *, dim: _like_source(take_along(g, index, dim=dim), _src.shape),
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


# --- as PyTorch spells them; a number without axes counts as a row of one


def row(x: Any) -> Any:
    """x, or a number without axes as a row of one."""
    return x if x.ndim else reshape(x, shape=(1,))


@function(sample((4, 3), 0, ints(2, 3, high=4)), sample((3, 4), -1, ints(2, 5, high=4)))
def gather(x: Any, dim: int, index: Any) -> Any:
    """Entries of x along ``dim``: out[i][j] = x[index[i][j]][j] for dim = 0.

    index: integers of x's number of axes, each 0 <= i < x.shape[dim].
    """
    if not (x.ndim and index.ndim):
        return reshape(gather(row(x), dim, row(index)), shape=index.shape)
    _check_positions("gather", x, dim, index)
    return take_along(x, index, dim=dim)


@function(sample((4, 3), 0, ints(2, 3, high=4), (2, 3)))
def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with ``src`` added at ``index`` along ``dim``: `gather`'s counterpart."""
    if not (x.ndim and index.ndim and src.ndim):
        return reshape(scatter_add(row(x), dim, row(index), row(src)), shape=x.shape)
    _check_positions("scatter_add", x, dim, index)
    if src.ndim != x.ndim or any(n > m for n, m in zip(index.shape, src.shape, strict=True)):
        raise ShapeError("scatter_add", f"index {index.shape} is no part of src {src.shape}")
    return _scatter_add(x, index, src, dim=dim)


@function(sample((3, 4), 1, ints(5, high=4)), sample((3, 4), -2, ints(2, high=3)))
def index_select(x: Any, dim: int, index: Any) -> Any:
    """The entries ``index`` (1-D) along ``dim``."""
    if index.ndim > 1:
        raise ShapeError("index_select", f"index {index.shape} is {index.ndim}-D, need a row")
    if not x.ndim and index.shape not in ((), (1,)):
        raise ShapeError("index_select", f"x has one number, index {index.shape} wants more")
    rows = row(x)
    axis = axis_of("index_select", rows.shape, dim)
    _check_range("index_select", index, rows.shape[axis])
    y = rows[(slice(None),) * axis + (row(index),)]
    return y if x.ndim else reshape(y, shape=())


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
    if values.dtype != np.int64 and values.dtype != np.int32:
        raise DTypeError(name, f"index is {values.dtype}; it must be int64 or int32: index.long()")
    if backend_of(values).waits or not values.size:
        return
    if not (values.min() >= 0 and values.max() < size):
        raise ShapeError(
            name,
            f"index holds {values.min()}..{values.max()}, the axis has positions 0..{size - 1}",
        )
