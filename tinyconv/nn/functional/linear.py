"""Linear maps and look-up tables."""

from __future__ import annotations

import math
from typing import Any

from tinyconv.autograd import wrap
from tinyconv.backend import array_module
from tinyconv.errors import ShapeError
from tinyconv.nn.functional.checks import (
    check_dtype,
    check_positions,
    check_shape,
    in_autocast,
    larger,
)
from tinyconv.nn.functional.origin import before_flatten, padding_fix
from tinyconv.ops.elementwise import where
from tinyconv.ops.linalg import matmul
from tinyconv.ops.shape import permute, unsqueeze
from tinyconv.samples import function, ints, sample


@function(
    sample((3, 4), (2, 4), (2,)),
    sample((2, 3, 4), (5, 4)),
    sample((4,), (2, 4), (2,)),
    sample((2, 3, 4), (4,), ()),
)
@in_autocast
def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """x W^T + b: (..., in), (out, in), (out,) -> (..., out); (in,) and () -> (...)."""
    if weight.ndim not in (1, 2):
        raise ShapeError("linear", f"weight {weight.shape} must be (out, in) or (in,)")
    if input.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise _wrong_width(input, weight)
    check_dtype("linear", input, weight)
    check_shape("linear", "bias", bias, weight.shape[:-1])
    y = matmul(input, weight if weight.ndim == 1 else permute(weight, dims=(1, 0)))
    return y if bias is None else y + bias


def _wrong_width(x: Any, weight: Any) -> ShapeError:
    """Where the features came from: the flattened shape, if the graph still knows it."""
    out, expected = weight.shape if weight.ndim == 2 else (1, *weight.shape)
    got = x.shape[-1] if x.ndim else 1
    image = before_flatten(x)
    shown, fix = f" (from {x.shape})", f"Linear({got}, {out})"
    if image is not None:
        factors = "*".join(map(str, image.shape[x.ndim - 1 :]))
        shown = f" = {factors} (from {image.shape})"
        padding = padding_fix(image, expected)
        fix += f", or {padding}" if padding else ""
    elif x.scope:
        shown = f" (from {x.scope}, {x.shape})"
    if x.ndim == 1 and got > expected and got % expected == 0:
        fix = (f"{got} = {got // expected}*{expected}: was the batch flattened, too? Flatten(1), "
               f"or x.reshape(-1, {expected})")  # fmt: skip
    elif x.ndim == 0:
        shown, fix = " number without an axis", "One sample of one feature: x.reshape(1, 1)"
    elif x.ndim == 4 or (x.ndim > 2 and math.prod(x.shape[1:]) == expected):
        features = math.prod(x.shape[1:])
        fix = "Flatten first: x.flatten(1)"
        fix += "" if features == expected else f", and Linear({features}, {out})"
    return ShapeError("linear", f"got {got}{shown}, expects {expected}. {fix}")


@function(sample(ints(2, 3, high=4), (4, 5)), sample(ints(6, high=4), (4, 5), 1, smooth=False))
def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Rows of ``weight`` (V, D) at integer positions: (...) -> (..., D).

    The row ``padding_idx`` gets no gradient.
    """
    if weight.ndim != 2:
        raise ShapeError("embedding", f"weight {weight.shape} is {weight.ndim}-D, need (V,D)")
    check_positions(
        "embedding", "input", input, weight.shape[0], "the table has {n} rows (0..{last})",
        larger("num_embeddings"),
    )  # fmt: skip
    y = weight[input.long()]  # of uint8, too, which would be a mask
    if padding_idx is None:
        return y
    return where(unsqueeze(input == padding_idx % weight.shape[0], -1), y.detach(), y)


@function(sample(ints(2, 3, high=4), 5), sample(ints(4, high=3, low=2)))
def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """Integers (...) -> (..., num_classes) int64 with a 1 at each integer's place."""
    if num_classes == -1 and not tensor.array.size:
        raise ShapeError("one_hot", f"{tensor.shape} is empty; how many classes? num_classes=10")
    n = int(tensor.array.max()) + 1 if num_classes == -1 else num_classes
    check_positions("one_hot", "tensor", tensor, n, "num_classes is {n} (0..{last})",
                    larger("num_classes"))  # fmt: skip
    xp = array_module(tensor.array)
    return wrap((tensor.array[..., None] == xp.arange(n)).astype(xp.int64))
