"""Products: matmul and einsum."""

import builtins
import math
import string
from collections.abc import Sequence
from typing import Any

from tinyconv.autograd import check_operands, op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.backend.sums import cast, wide
from tinyconv.dtypes import int64
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.ops.shape import broadcast_to, permute, reshape, unbroadcast
from tinyconv.samples import function, sample


@op(name="matmul", takes="alike")
def _matmul(a: Array, b: Array) -> Array:
    """Matrix product of the last two axes; the others broadcast."""
    return backend_of(a).matmul(a, b)


def _t(x: Any) -> Any:
    """The last two axes exchanged."""
    return permute(x, dims=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


_matmul.defvjp(
    lambda g, _y, _a, b: unbroadcast(_matmul(g, _t(b)), _a.shape),
    lambda g, _y, a, _b: unbroadcast(_matmul(_t(a), g), _b.shape),
    samples=[sample((3, 4), (4, 2)), sample((2, 3, 4), (4, 2)), sample((2, 1, 3, 4), (5, 4, 2))],
)


@function(
    sample((3, 4), (4, 2)),
    sample((4,), (4,)),
    sample((4,), (2, 4, 3)),
    sample((2, 3, 4), (4,)),
    sample((2, 1, 3, 4), (5, 4, 2)),
)
def matmul(a: Any, b: Any) -> Any:
    """a @ b; a 1-D operand is a row on the left, a column on the right, as in PyTorch."""
    check_operands("matmul", (a, b))
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(
            "matmul", f"operands {a.shape} and {b.shape}: both need at least one axis; use a * b"
        )
    left, right = a.shape[-1], b.shape[-2 if b.ndim > 1 else -1]
    if left != right:
        raise ShapeError(
            "matmul",
            f"{a.shape} @ {b.shape}: {left} columns on the left meet {right} rows on the right"
            + _transpose_hint(a, b),
        )
    row, column = a.ndim == 1, b.ndim == 1
    a = reshape(a, shape=(1, *a.shape)) if row else a
    b = reshape(b, shape=(*b.shape, 1)) if column else b
    y = _matmul(a, b)
    if not (row or column):
        return y
    shape = y.shape[:-2] + y.shape[-2:-1] * (not row) + y.shape[-1:] * (not column)
    return reshape(y, shape=shape)


@function(sample((3, 4), (4, 2)))
def mm(a: Any, b: Any) -> Any:
    """The product of two matrices; nothing broadcasts."""
    return _product("mm", a, b, 2)


@function(sample((2, 3, 4), (2, 4, 2)))
def bmm(a: Any, b: Any) -> Any:
    """Matrix by matrix of two batches, (N, n, k) and (N, k, m)."""
    return _product("bmm", a, b, 3)


def _product(name: str, a: Any, b: Any, ndim: int) -> Any:
    check_operands(name, (a, b))
    if a.ndim != ndim or b.ndim != ndim or a.shape[:-2] != b.shape[:-2]:
        raise ShapeError(
            name,
            f"operands {a.shape} and {b.shape}: both need {ndim} axes"
            + " and batches of one size" * (ndim > 2)
            + "; a @ b broadcasts",
        )
    return matmul(a, b)


def _transpose_hint(a: Any, b: Any) -> str:
    if b.ndim > 1 and a.shape[-1] == b.shape[-1]:
        return "; did you mean a @ b.transpose(-1, -2)?"
    if a.ndim > 1 and a.shape[-2] == b.shape[-2 if b.ndim > 1 else -1]:
        return "; did you mean a.transpose(-1, -2) @ b?"
    return ""


@op(name="einsum", takes="alike")
def _einsum(*xs: Array, subscripts: str) -> Array:
    """Einstein's summation, explicit form, no label twice in one operand."""
    inputs, output = subscripts.split("->")
    if not builtins.all(x.dtype.kind == "f" for x in xs):
        return _of_integers(xs, subscripts)
    terms = [(label, wide(x)) for label, x in zip(inputs.split(","), xs, strict=True)]
    while len(terms) > 1:
        (a, x), (b, y), *others = terms
        needed = output + "".join(label for label, _ in others)
        terms = [_contracted(a, x, b, y, needed), *others]
    label, x = _summed(*terms[0], output)
    y = cast(x.transpose([label.index(c) for c in output]), xs[0].dtype)
    return y if getattr(y.flags, "writeable", True) else y.copy()  # a broadcast operand itself


def _of_integers(xs: tuple[Array, ...], subscripts: str) -> Array:
    if xs[0].dtype != int64:
        xs = _summable(xs, subscripts)
    y = array_module(xs[0]).einsum(subscripts, *xs, optimize=True)
    return y if getattr(y.flags, "writeable", True) else y.copy()  # NumPy's view may be read-only


def _summed(label: str, x: Array, needed: str) -> tuple[str, Array]:
    """Sum over the labels that nobody needs any more."""
    axes = tuple(i for i, c in enumerate(label) if c not in needed)
    if not axes:
        return label, x
    return "".join(c for c in label if c in needed), backend_of(x).sum(x, axes, False, None)


def _contracted(a: str, x: Array, b: str, y: Array, needed: str) -> tuple[str, Array]:
    """The product of two operands, summed over what only they have: one (batched) matmul."""
    a, x = _summed(a, x, needed + b)
    b, y = _summed(b, y, needed + a)
    batch = [c for c in a if c in b and c in needed]
    inner = [c for c in a if c in b and c not in needed]
    left, right = ([c for c in label if c not in other] for label, other in ((a, b), (b, a)))
    size = dict(zip(a + b, x.shape + y.shape, strict=True))

    def matrix(label: str, x: Array, *groups: list[str]) -> Array:
        ordered = x.transpose([label.index(c) for group in groups for c in group])
        flat = [math.prod(size[c] for c in group) for group in groups[1:]]
        return ordered.reshape([*(size[c] for c in batch), *flat])

    rows, columns = matrix(a, x, batch, left, inner), matrix(b, y, batch, inner, right)
    z = backend_of(rows).matmul(rows, columns) if inner else rows * columns
    labels = [*batch, *left, *right]
    return "".join(labels), z.reshape([size[c] for c in labels])


def _summable(xs: tuple[Array, ...], subscripts: str) -> tuple[Array, ...]:
    """Integers that are only added up, as int64; their products keep the dtype, as in PyTorch."""
    inputs, output = subscripts.split("->")
    labels = inputs.split(",")
    for i, label in enumerate(labels):
        read = output.join(labels[:i] + labels[i + 1 :]) + output
        if builtins.all(c in read for c in label):
            continue
        if len(xs) == 1:
            return (xs[0].astype(int64),)
        said = f"{subscripts!r} adds up one operand and multiplies it, all {xs[0].dtype}"
        raise DTypeError("einsum", f"{said}: that may overflow; convert them: x.long()")
    return xs


def _einsum_vjp(i: int, g: Any, xs: Any, subscripts: str) -> Any:
    """The others times g, summed onto the labels of operand i; a label only it had is repeated."""
    inputs, output = subscripts.split("->")
    labels = inputs.split(",")
    mine, others = labels[i], labels[:i] + labels[i + 1 :]
    reachable = [c for c in mine if c in output or builtins.any(c in other for other in others)]
    rest = [x for k, x in enumerate(xs) if k != i]
    y = _einsum(g, *rest, subscripts=f"{','.join([output, *others])}->{''.join(reachable)}")
    y = reshape(
        y, shape=tuple(n if c in reachable else 1 for c, n in zip(mine, xs[i].shape, strict=True))
    )
    return broadcast_to(y, shape=xs[i].shape)


_einsum.defvjp(
    lambda i, g, _y, *xs, subscripts: _einsum_vjp(i, g, xs, subscripts),
    samples=[
        sample((2, 3), (3, 4), subscripts="ij,jk->ik"),
        sample((2, 3), subscripts="ij->j"),
        sample((2, 3, 4), (2, 4, 3), subscripts="bij,bji->b"),
        sample((2, 3), (3,), (3, 4), subscripts="ij,j,jk->k"),
    ],
)


@function(
    sample("ij,jk", (2, 3), (3, 4)),
    sample("...ij,...jk->...ik", (2, 2, 3), (3, 2)),
    sample("ii->i", (3, 3)),
    sample("ij->", (2, 3)),
    sample("bhwc,oc->bohw", (2, 3, 2, 4), (5, 4)),
)
def einsum(equation: str, *operands: Any) -> Any:
    """Einstein's summation convention: ``einsum("bij,bjk->bik", a, b)``.

    The operands may come as one list.  Implicit output, ``...`` and a label twice in one operand
    (the diagonal) work as in PyTorch.
    """
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    equation = equation.replace(" ", "")
    labels, output = _labels(equation, operands)
    named = [_diagonals(label, x) for label, x in zip(labels, operands, strict=True)]
    sizes = _sizes(equation, named)
    shapes = [tuple(sizes[c] for c in label) for label, _ in named]
    ready = [
        x if x.shape == shape else broadcast_to(x, shape=shape)
        for shape, (_, x) in zip(shapes, named, strict=True)
    ]
    return _einsum(*ready, subscripts=f"{','.join(label for label, _ in named)}->{output}")


def _labels(equation: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    """The labels of each operand and of the result, with letters in the place of ``...``."""
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        raise ShapeError(
            "einsum", f"{equation!r} names {len(inputs)} operands, {len(operands)} were given"
        )
    if not arrow:  # the labels that stand once, in alphabetical order
        flat = left.replace(",", "").replace("...", "")
        once = sorted(c for c in set(flat) if flat.count(c) == 1)
        output = "..." * ("..." in left) + "".join(once)
    free = "".join(c for c in string.ascii_letters if c not in equation)
    labels, longest = [], 0
    for label, x in zip(inputs, operands, strict=True):
        if label.count(".") > 3 or label.replace("...", "").count("."):
            raise ShapeError("einsum", f"{label!r} in {equation!r}: one '...' for an operand")
        dots = x.ndim - len(label.replace("...", ""))
        if dots < 0 or (dots and "..." not in label):
            raise ShapeError(
                "einsum", f"{label!r} in {equation!r} does not fit an operand of shape {x.shape}"
            )
        labels.append(label.replace("...", free[:dots][::-1]))  # the last axes are aligned
        longest = max(longest, dots)
    return labels, output.replace("...", free[:longest][::-1])


def _sizes(equation: str, named: Sequence[tuple[str, Any]]) -> dict[str, int]:
    """How many entries each label stands for; 1 is broadcast."""
    sizes: dict[str, int] = {}
    for label, x in named:
        for c, n in zip(label, x.shape, strict=True):
            if sizes.setdefault(c, n) != n and n != 1 and sizes[c] != 1:
                raise ShapeError(
                    "einsum",
                    f"label {c!r} of {equation!r} is {sizes[c]} in one operand and {n} in another",
                )
            sizes[c] = max(sizes[c], n)
    return sizes


def _diagonals(label: str, x: Any) -> tuple[str, Any]:
    """Take the diagonal where a label stands twice: "iij" becomes "ij"."""
    for c in label:
        while label.count(c) > 1:
            i, j = label.index(c), label.rindex(c)
            if x.shape[i] != x.shape[j]:
                raise ShapeError(
                    "einsum",
                    f"label {c!r} stands for {x.shape[i]} and {x.shape[j]} entries of {x.shape}",
                )
            rest = [k for k in range(x.ndim) if k not in (i, j)]
            x = permute(x, dims=(i, j, *rest))
            xp = array_module(x.array if hasattr(x, "node") else x)
            along = xp.arange(x.shape[0])
            x = x[along, along]
            label = c + "".join(label[k] for k in rest)
    return label, x


@function(sample((3,), (4,)))
def outer(a: Any, b: Any) -> Any:
    """out[i, j] = a[i] b[j] of two vectors."""
    return reshape(a, shape=(-1, 1)) * reshape(b, shape=(1, -1))
