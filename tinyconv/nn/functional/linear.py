"""Linear maps and look-up tables."""

from __future__ import annotations

import math
from typing import Any

from tinyconv.autograd import wrap
from tinyconv.backend import array_module
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.ops.elementwise import where
from tinyconv.ops.linalg import matmul
from tinyconv.ops.shape import transpose, unsqueeze
from tinyconv.samples import function, ints, sample


@function(sample((3, 4), (2, 4), (2,)), sample((2, 3, 4), (5, 4)), sample((4,), (2, 4), (2,)))
def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """x W^T + b: (..., in), (out, in), (out,) -> (..., out)."""
    if input.ndim == 0 or input.shape[-1] != weight.shape[1]:
        raise _wrong_width(input, weight)
    y = matmul(input, transpose(weight, 0, 1))
    return y if bias is None else y + bias


def _wrong_width(x: Any, weight: Any) -> ShapeError:
    """Where the features came from: the flattened shape, if the graph still knows it."""
    out, expected = weight.shape
    got = x.shape[-1] if x.ndim else 1
    origin = _before_flatten(x)
    shown = ""
    if origin is not None:
        factors = "*".join(map(str, origin[x.ndim - 1 :]))
        shown = f" = {factors} (from {origin})"
    elif x.scope:
        shown = f" (from {x.scope}, {x.shape})"
    fix = f"Linear({got}, {out})"
    if x.ndim > 2 and math.prod(x.shape[1:]) == expected:
        fix = "flatten first: x.flatten(1)"
    return ShapeError("linear", f"got {got}{shown}, expects {expected}. {fix}")


def _before_flatten(x: Any) -> tuple[int, ...] | None:
    if x.node is None or x.node.op.name != "reshape":
        return None
    edge = x.node.inputs[0]
    return None if edge is None or edge.ndim <= x.ndim else edge.shape


@function(sample(ints(2, 3, high=4), (4, 5)), sample(ints(6, high=4), (4, 5), 1, smooth=False))
def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Rows of ``weight`` (V, D) at integer positions: (...) -> (..., D).

    The row ``padding_idx`` gets no gradient.
    """
    check_positions(
        "embedding", "input", input, weight.shape[0], "the table has {n} rows (0..{last})"
    )
    y = weight[input]
    if padding_idx is None:
        return y
    return where(unsqueeze(input == padding_idx % weight.shape[0], -1), y.detach(), y)


@function(sample(ints(2, 3, high=4), 5), sample(ints(4, high=3, low=2)))
def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """Integers (...) -> (..., num_classes) int64 with a 1 at each integer's place."""
    n = int(tensor.data.max()) + 1 if num_classes == -1 else num_classes
    check_positions("one_hot", "tensor", tensor, n, "num_classes is {n} (0..{last})")
    xp = array_module(tensor.data)
    return wrap((tensor.data[..., None] == xp.arange(n)).astype(xp.int64))


def check_positions(name: str, what: str, x: Any, n: int, range_text: str) -> None:
    """Integers 0 <= x < n, or an error that says which one is not."""
    if x.dtype.kind not in "iu":
        raise DTypeError(name, f"{what} is {x.dtype}, it must hold integers; x.long()")
    bad = (x.data < 0) | (x.data >= n)
    if bad.any():
        at = [int(i[0]) for i in bad.nonzero()]
        place = "".join(f"[{i}]" for i in at) if len(at) < 2 else f"[{', '.join(map(str, at))}]"
        value = x.data[tuple(at)]
        raise ShapeError(
            name, f"{what}{place} is {value}, but {range_text.format(n=n, last=n - 1)}"
        )
