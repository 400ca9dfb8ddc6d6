"""Operations that move numbers without changing them; their adjoints move gradients back."""

import builtins
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from tinyconv.autograd import check_operands, op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.errors import DimError, DTypeError, ShapeError, no_axis, no_integer, not_a_tensor
from tinyconv.samples import floats, function, sample

Shape = tuple[int, ...]


def unbroadcast(g: Any, shape: Shape) -> Any:
    """Sum a gradient back to the shape that was broadcast: broadcasting's adjoint."""
    return g if g.shape == shape else sum_to(g, shape=shape)


@op
def sum_to(x: Array, *, shape: Shape) -> Array:
    """Sum over the axes along which ``shape`` was broadcast to ``x.shape``."""
    lead = x.ndim - len(shape)
    stretched = tuple(i + lead for i, n in enumerate(shape) if n == 1 and x.shape[i + lead] != 1)
    return backend_of(x).sum(x, (*range(lead), *stretched), True, None).reshape(shape)


sum_to.defvjp(
    lambda g, _y, _x, *, shape: broadcast_to(g, shape=_x.shape),
    samples=[
        sample((2, 3, 4), shape=(3, 1)),
        sample((2, 3), shape=()),
        sample((2, 3), shape=(2, 3)),
    ],
)


@op
def broadcast_to(x: Array, *, shape: Shape) -> Array:
    """x repeated along new and length-1 axes, without a copy."""
    return array_module(x).broadcast_to(x, shape)


broadcast_to.defvjp(
    lambda g, _y, _x, *, shape: unbroadcast(g, _x.shape),
    samples=[
        sample((3, 1), shape=(2, 3, 4)),
        sample((), shape=(2, 2)),
        sample((2, 3), shape=(2, 3)),
    ],
)


@op
def reshape(x: Array, *, shape: Shape) -> Array:
    """The same numbers, in row-major order, in another shape; one entry may be -1."""
    try:
        y = x.reshape(shape)
    except ValueError:
        raise ShapeError("reshape", _misfit(x.shape, shape)) from None
    if y.shape != shape and min(shape) < -1:  # NumPy takes every negative number for -1
        raise ShapeError("reshape", f"{shape}: {min(shape)} is no size; only -1 is worked out")
    return y


reshape.defvjp(
    lambda g, _y, _x, *, shape: reshape(g, shape=_x.shape),
    samples=[
        sample((3, 4), shape=(2, 6)),
        sample((3, 4), shape=(-1,)),
        sample((2, 3, 4), shape=(2, -1)),
    ],
)


def _misfit(shape: Shape, wanted: Shape) -> str:
    """Why numbers of one shape do not fill another, and with which -1 they would."""
    have, known = math.prod(shape), math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) > 1:
        return f"{wanted} has more than one -1; only one entry can follow from the others"
    told = f"{shape} holds {_product(shape)}, {wanted} wants "
    if -1 in wanted:
        sizes = _product(n for n in wanted if n != -1)
        return f"{told}a multiple of {sizes}: {have} elements do not divide by {known}"
    told += _product(wanted)
    for i in reversed(range(len(wanted))):
        rest = known // wanted[i] if wanted[i] else 0
        if rest and have % rest == 0:
            fitting = ", ".join(map(str, (*wanted[:i], -1, *wanted[i + 1 :])))
            return f"{told}; x.reshape({fitting}) fits"
    return told


def _product(sizes: Iterable[int]) -> str:
    """``2*3 = 6``"""
    factors = list(sizes)
    total = str(math.prod(factors))
    return f"{'*'.join(map(str, factors))} = {total}" if len(factors) > 1 else total


@op
def permute(x: Array, *, dims: Shape) -> Array:
    """Axis i of the output is axis dims[i] of x."""
    try:
        return x.transpose(dims)
    except ValueError:
        if len(dims) != x.ndim:
            said = f"{len(dims)} axes given, the tensor {x.shape} has {x.ndim}"
            raise ShapeError("permute", said) from None
        if -x.ndim <= min(dims) <= max(dims) < x.ndim:
            said = f"{dims} names an axis of {x.shape} twice; each once: {_each_once(dims)}"
            raise ShapeError("permute", said) from None
        raise


def _each_once(dims: Shape) -> Shape:
    """The axes that are missing in the place of those that were there before."""
    axes = [d % len(dims) for d in dims]
    missing = [d for d in range(len(dims)) if d not in axes]
    return tuple(missing.pop(0) if d in axes[:i] else d for i, d in enumerate(axes))


permute.defvjp(
    lambda g, _y, _x, *, dims: permute(g, dims=inverse_permutation(dims)),
    samples=[sample((2, 3, 4), dims=(2, 0, 1)), sample((2, 3, 4), dims=(0, -1, 1))],
)


def inverse_permutation(dims: Shape) -> Shape:
    """The permutation that undoes ``dims``."""
    positive = [d % len(dims) for d in dims]
    return tuple(positive.index(i) for i in range(len(dims)))


@op
def clone(x: Array, *, order: str = "K") -> Array:
    """A copy; order "K" keeps the memory layout, "C" makes it row-major."""
    return x.copy(order)


clone.defvjp(lambda g, _y, _x, *, order: g, samples=[sample((3, 4)), sample((3, 4), order="C")])


@op
def flip(x: Array, *, dims: Shape) -> Array:
    """Reversed along the given axes: what makes a convolution of a cross-correlation."""
    return array_module(x).flip(x, dims).copy()


flip.defvjp(
    lambda g, _y, _x, *, dims: flip(g, dims=dims),
    samples=[sample((2, 3, 4), dims=(1,)), sample((2, 3, 4), dims=(0, -1))],
)


@op
def roll(x: Array, *, shifts: int | Shape, dims: int | Shape | None = None) -> Array:
    """Moved cyclically; with dims=None, as one flat row."""
    if dims is not None and not x.ndim:
        raise no_axis("roll", x.shape, dims if isinstance(dims, int) else dims[0])
    if dims is not None or not isinstance(shifts, int):
        moves, axes = (len(v) if isinstance(v, (tuple, list)) else 1 for v in (shifts, dims))
        if moves != (1 if dims is None else axes) or not moves:
            raise ShapeError("roll", f"shifts {shifts}, dims {dims}: need one shift for each dim")
    return array_module(x).roll(x, shifts, dims)


roll.defvjp(
    lambda g, _y, _x, *, shifts, dims: roll(g, shifts=_negated(shifts), dims=dims),
    samples=[
        sample((3, 4), shifts=1, dims=1),
        sample((3, 4), shifts=(1, -2), dims=(0, 1)),
        sample((3, 4), shifts=5),
    ],
)


def _negated(shifts: int | Shape) -> int | Shape:
    return -shifts if isinstance(shifts, int) else tuple(-s for s in shifts)


@op
def tril(x: Array, *, diagonal: int = 0) -> Array:
    """The last two axes' lower triangle, up to the given diagonal; zeros above."""
    _check_matrix("tril", x)
    return array_module(x).tril(x, _integer("tril", diagonal, "diagonal"))


@op
def triu(x: Array, *, diagonal: int = 0) -> Array:
    """The last two axes' upper triangle, from the given diagonal on; zeros below."""
    _check_matrix("triu", x)
    return array_module(x).triu(x, _integer("triu", diagonal, "diagonal"))


def _check_matrix(name: str, x: Array) -> None:
    if x.ndim < 2:
        raise ShapeError(name, f"{x.shape} has {x.ndim} axes, a triangle needs two")


TRIANGLES = [sample((3, 4)), sample((2, 3, 3), diagonal=1), sample((4, 3), diagonal=-1)]
tril.defvjp(lambda g, _y, _x, *, diagonal: tril(g, diagonal=diagonal), samples=TRIANGLES)
triu.defvjp(lambda g, _y, _x, *, diagonal: triu(g, diagonal=diagonal), samples=TRIANGLES)


@op(name="cat")
def _cat(*xs: Array, dim: int) -> Array:
    """The tensors joined along one axis."""
    return array_module(xs[0]).concatenate(xs, dim)


def _piece(i: int, g: Any, xs: Sequence[Any], dim: int) -> Any:
    start = builtins.sum(x.shape[dim] for x in xs[:i])
    return narrow(g, dim, start, xs[i].shape[dim])


_cat.defvjp(
    lambda i, g, _y, *_xs, dim: _piece(i, g, _xs, dim),
    samples=[sample((2, 3), (2, 1), (2, 2), dim=1), sample((2, 3), (1, 3), dim=-2)],
)


@op
def pad_zeros(
    x: Array, *, padding: tuple[tuple[int, int], ...], value: float | None = None
) -> Array:
    """Zeros, or value, before and after, (before, after) for each axis; negative counts cut off."""
    xp = array_module(x)
    shape = tuple(n + a + b for n, (a, b) in zip(x.shape, padding, strict=True))
    out = xp.full(shape, value, x.dtype) if value else xp.zeros(shape, x.dtype)
    inner = tuple(
        slice(max(a, 0), n - max(b, 0)) for n, (a, b) in zip(out.shape, padding, strict=True)
    )
    outer = tuple(
        slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, padding, strict=True)
    )
    out[inner] = x[outer]
    return out


pad_zeros.defvjp(
    lambda g, _y, _x, *, padding, value: pad_zeros(
        g, padding=tuple((-a, -b) for a, b in padding), value=None
    ),
    samples=[
        sample((3, 4), padding=((1, 2), (0, 3))),
        sample((3, 5), padding=((-1, 2), (2, -3)), value=1.5),
    ],
)


# --- made of the operations above


def axis_of(name: str, shape: Shape, dim: int) -> int:
    """``dim`` counted from the front; DimError where there is no such axis."""
    n, dim = len(shape), _integer(name, dim)
    if not -n <= dim < n:
        raise no_axis(name, shape, dim)
    return dim % n


def _integer(name: str, value: Any, key: str = "dim") -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise no_integer(name, key, value)
    return operator.index(value)


def reduced_axes(name: str, shape: Shape, dim: int | Iterable[int] | None) -> list[int]:
    """``dim``, one or several, counted from the front; of a number the axis 0 that it stands for.

    DimError where there is no such axis, ShapeError where one is named twice.
    """
    given = [] if dim is None else dim if isinstance(dim, (tuple, list)) else [dim]
    dims = [_integer(name, d) for d in given]
    n = builtins.max(len(shape), 1)
    for d in dims:
        if not -n <= d < n:
            raise no_axis(name, shape, d)
    axes = [d % n for d in dims]
    if len(set(axes)) < len(axes):
        raise ShapeError(name, f"dim {tuple(dims)} names an axis of {shape} twice; each once")
    return axes


def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    """``length`` entries along ``dim``, from ``start``."""
    index = [slice(None)] * x.ndim
    index[axis_of("narrow", x.shape, dim)] = slice(start, start + length)
    return x[tuple(index)]


def expand_shape(name: str, shape: Shape, sizes: Shape) -> Shape:
    """What ``x.expand(sizes)`` means: -1 keeps an axis."""
    lead = len(sizes) - len(shape)
    if lead < 0:
        raise ShapeError(
            name,
            f"{shape} has {len(shape)} axes and cannot be expanded to the {len(sizes)} of {sizes}",
        )
    if -1 in sizes[:lead]:
        raise ShapeError(name, f"{sizes}: -1 keeps an axis, and {shape} has none in that place")
    full = (1,) * lead + shape
    wanted = tuple(n if size == -1 else size for n, size in zip(full, sizes, strict=True))
    for axis, (n, size) in enumerate(zip(full, wanted, strict=True)):
        if n not in (1, size):
            raise ShapeError(
                name, f"axis {axis} of {shape} has {n} entries and cannot be expanded to {size}"
            )
    return wanted


def numel(x: Any) -> int:
    """How many elements there are."""
    return math.prod(x.shape)


@function(sample((2, 3), [2, 1, 3]), sample((2, 3), [4]), sample((), [2]))
def tile(x: Any, dims: Sequence[int]) -> Any:
    """x repeated dims[i] times along axis i; dims counts from the last axis."""
    counts = (1,) * (x.ndim - len(dims)) + tuple(dims)
    sizes = (1,) * (len(counts) - x.ndim) + x.shape
    pairs = tuple(zip(counts, sizes, strict=True))
    lone = reshape(x, shape=tuple(n for _, size in pairs for n in (1, size)))
    full = clone(broadcast_to(lone, shape=tuple(n for pair in pairs for n in pair)), order="C")
    return reshape(full, shape=tuple(count * size for count, size in pairs))


@function(sample((2, 3, 4)), sample((2, 3, 4), 1), sample((2, 3, 4), 0, -2), sample(()))
def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Axes start_dim..end_dim as one, in row-major order."""
    start, end = (axis_of("flatten", x.shape or (1,), d) for d in (start_dim, end_dim))
    if start > end:
        raise ShapeError(
            "flatten", f"start_dim {start_dim} comes after end_dim {end_dim} for {x.shape}"
        )
    return reshape(
        x, shape=(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])
    )


@function(
    sample((2, 1, 3, 1)),
    sample((2, 1, 3, 1), -1),
    sample((2, 1, 3), 0),
    sample((1, 2, 1), dim=(0, 2)),
)
def squeeze(x: Any, dim: int | Shape | None = None) -> Any:
    """Without the axes of length 1; with ``dim``, only those."""
    chosen = range(x.ndim) if dim is None else reduced_axes("squeeze", x.shape, dim)
    return reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if n != 1 or i not in chosen))


@function(sample((2, 3), 0), sample((2, 3), -1), sample((2, 3), 1))
def unsqueeze(x: Any, dim: int) -> Any:
    """A new axis of length 1 at position ``dim``."""
    dim = _integer("unsqueeze", dim)
    at = dim + x.ndim + 1 if dim < 0 else dim
    if not 0 <= at <= x.ndim:
        raise DimError("unsqueeze", f"dim {dim} is outside -{x.ndim + 1}..{x.ndim} for {x.shape}")
    return reshape(x, shape=(*x.shape[:at], 1, *x.shape[at:]))


@function(sample((2, 3, 4), 0, -1), sample((2, 3), 0, 1))
def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """Two axes exchanged."""
    dims = list(range(x.ndim))
    i, j = (axis_of("transpose", x.shape or (1,), d) for d in (dim0, dim1))
    if dims:
        dims[i], dims[j] = j, i
    return permute(x, dims=tuple(dims))


def _check_row(name: str, tensors: Any) -> None:
    """At least one Tensor, in a list or tuple."""
    if not isinstance(tensors, (list, tuple)):
        kind = type(tensors).__name__
        raise DTypeError(name, f"the first argument is a {kind}, need a list: tc.{name}([a, b])")
    if not tensors:
        raise ShapeError(name, "no tensors to join")
    check_operands(name, tensors)
    for i, t in enumerate(tensors):
        if not hasattr(t, "ndim"):
            raise DTypeError(name, not_a_tensor(f"tensor {i}", t, f"tensors[{i}]"))


@function(sample((floats(2, 3), floats(1, 3))), sample((floats(2, 3), floats(2, 1)), dim=-1))
def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors joined along one axis; the other axes must agree."""
    _check_row("cat", tensors)
    first = next((t for t in tensors if t.shape != (0,)), tensors[0])
    axis = axis_of("cat", first.shape, dim)
    # the empty list that others are added to, tc.tensor([]), may lack their axes, as in PyTorch
    none = (*first.shape[:axis], 0, *first.shape[axis + 1 :])
    tensors = [reshape(t, shape=none) if t.shape == (0,) else t for t in tensors]
    for i, t in enumerate(tensors):
        same = t.ndim == first.ndim and all(
            a == b for k, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if k != axis
        )
        if not same:
            raise ShapeError(
                "cat",
                f"tensor 0 is {first.shape} and tensor {i} is {t.shape}: "
                f"they must agree on every axis but dim {dim}",
            )
    return _cat(*tensors, dim=dim)


@function(sample((floats(2, 3), floats(2, 3))), sample((floats(2, 3), floats(2, 3)), dim=-1))
def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors, all of one shape, along a new axis."""
    _check_row("stack", tensors)
    for i, t in enumerate(tensors):
        if t.shape != tensors[0].shape:
            raise ShapeError(
                "stack",
                f"tensor 0 is {tensors[0].shape} and tensor {i} is {t.shape}: all must be equal",
            )
    return cat([unsqueeze(t, dim) for t in tensors], dim)


@function(sample((5, 2), 2), sample((2, 5), [1, 4], dim=1))
def split(x: Any, size: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """Pieces of ``size`` entries along ``dim``, the last one smaller; or of the sizes listed."""
    n = x.shape[axis_of("split", x.shape, dim)]
    if isinstance(size, int) and size < (n > 0):
        raise ShapeError("split", f"pieces of {size} entries; a piece needs at least 1")
    if isinstance(size, int):  # of an empty axis one piece, which is empty, too
        sizes = [min(size, n - i) for i in range(0, n, size)] if n else [0]
    else:
        sizes = list(size)
    if builtins.sum(sizes) != n or any(length < 0 for length in sizes):
        raise ShapeError(
            "split",
            f"sizes {sizes} add up to {builtins.sum(sizes)}, axis {dim} of {x.shape} has {n}; "
            "none may be negative",
        )
    starts = [builtins.sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(narrow(x, dim, start, length) for start, length in zip(starts, sizes, strict=True))


@function(sample((5, 2), 3), sample((2, 5), 4, dim=-1))
def chunk(x: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most ``chunks`` pieces of equal size, the last one smaller."""
    if chunks < 1:
        raise ShapeError("chunk", f"{chunks} pieces; there must be at least 1")
    n = x.shape[axis_of("chunk", x.shape, dim)]
    return split(x, max(1, -(-n // chunks)) if n else [0] * chunks, dim)


@function(sample((3, 2)), sample((3, 2), dim=-1))
def unbind(x: Any, dim: int = 0) -> tuple[Any, ...]:
    """The slices along ``dim``, without that axis."""
    axis = axis_of("unbind", x.shape, dim)
    before = (slice(None),) * axis
    return tuple(x[(*before, i)] for i in range(x.shape[axis]))
