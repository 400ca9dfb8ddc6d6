"""Checks that several functions share; each error shows the numbers and a fix."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from tinyconv.backend import backend_of
from tinyconv.context import context
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.nn.functional.origin import before_flatten
from tinyconv.ops.shape import squeeze, unsqueeze

F = TypeVar("F", bound=Callable[..., Any])
CASTS = {"float16": "half", "float32": "float", "float64": "double"}


def in_autocast(product: F) -> F:
    """Inside `tc.amp.autocast`, float32 operands are multiplied in float16, to float32."""

    @functools.wraps(product)
    def call(input: Any, weight: Any, bias: Any = None, *args: Any, **options: Any) -> Any:
        kind = context.autocast
        if kind is None or getattr(input, "dtype", None) != "float32":
            return product(input, weight, bias, *args, **options)
        given = (input, weight, bias)
        low = [x if x is None or x.dtype != "float32" else x.to(kind) for x in given]
        return product(*low, *args, **options).to(input.dtype)

    return cast(F, call)


def alone(
    function: Callable[..., Any], tensors: Sequence[Any], /, *args: Any, **options: Any
) -> Any:
    """A function of a batch, called on one sample: the axis is added, and taken off again.

    tensors: those with a batch axis, the first arguments.
    """
    batches = [unsqueeze(x, 0) for x in tensors]
    results = function(*batches, *args, **options)
    if isinstance(results, tuple):
        return tuple(squeeze(y, 0) for y in results)
    return squeeze(results, 0)


def or_one(ndim: int, tensors: int = 1) -> Callable[[F], F]:
    """The function takes batches, of ``ndim`` axes; so decorated it takes one sample, too.

    tensors: how many of the first arguments have the batch axis.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(input: Any, *args: Any, **options: Any) -> Any:
            if input.ndim != ndim - 1:
                return function(input, *args, **options)
            if tensors == 1:
                return alone(function, (input,), *args, **options)
            others = dict(zip(names[1:], args, strict=False)) | options
            samples = [input, *(others.pop(name) for name in names[1:tensors])]
            if any(x.shape != input.shape for x in samples):
                return function(input, *args, **options)  # which says so
            return alone(function, samples, **others)

        names = list(inspect.signature(function).parameters)
        return cast(F, call)

    return decorate


def whole(layer: str, name: str, value: Any) -> int:
    """A size as an integer; TypeError for others, with what to write instead of ``8/2``."""
    try:
        return operator.index(value)
    except TypeError:
        fits = isinstance(value, float) and value.is_integer()
        fix = f"; use {int(value)}, and // instead of /" if fits else ""
        raise TypeError(f"{layer}: {name} is {value!r}, it must be an integer{fix}") from None


def check_dtype(name: str, x: Any, weight: Any, what: str = "weight") -> None:
    """Floats of the weight's dtype."""
    if x.dtype == weight.dtype:
        return
    if weight.dtype.kind != "f":
        raise DTypeError(name, f"the {what} is {weight.dtype}, it must hold floats: {what}.float()")
    cast = CASTS[str(weight.dtype)]
    hint = f"x.{cast}()"
    if x.dtype == "uint8":
        hint += f"; grey levels 0..255 become 0..1 with x.{cast}() / 255"
    raise DTypeError(name, f"input is {x.dtype}, the {what} {weight.dtype}: {hint}")


def check_shape(name: str, what: str, x: Any, shape: tuple[int, ...]) -> None:
    """This shape exactly, for what may be left out: another would be broadcast."""
    if x is None:
        return
    given = x if isinstance(x, (int, float)) else x.shape
    if given != shape:
        raise ShapeError(name, f"{what} {given} must be {shape}")


def check_images(name: str, x: Any, channels: int | None = None) -> None:
    """Four axes; ``channels``: how many of them are expected, if that is known."""
    if x.ndim != 4:
        hint = ". A batch of one: x[None]" if x.ndim == 3 else ""
        if x.ndim == 2:
            hint = after_flatten(x) or _rows_as_images(x.shape, channels)
        raise ShapeError(name, f"input {x.shape} is {x.ndim}-D, need (N,C,H,W){hint}")


def after_flatten(x: Any) -> str:
    """The shape before it was flattened, if the graph still knows it, and what to do."""
    image = before_flatten(x)
    if image is None:
        return ""
    return (f". It was {image.shape}: flatten after this layer, or "
            f"Unflatten(1, {image.shape[1:]}) before it")


def _rows_as_images(shape: tuple[int, ...], channels: int | None) -> str:
    """(64, 784) is 64 flattened images, (28, 28) is one."""
    side = math.isqrt(shape[1] // (channels or 1))
    if shape[0] != shape[1] and shape[1] == (channels or 1) * side * side > 0:
        return f". Flattened images: x.reshape(-1, {channels or 1}, {side}, {side})"
    return ". One grey image: x[None, None]" if channels in (None, 1) else ""


def check_positions(
    name: str, what: str, x: Any, n: int, range_text: str, fix: Callable[[Any, int], str]
) -> None:
    """Integers 0 <= x < n, or an error that says which one is not.

    range_text: with {n} and {last}.  fix: given x's array and the value, what to do.
    On a GPU the values are not looked at, since the program would have to wait for them.
    """
    if x.dtype.kind not in "iu":
        raise DTypeError(name, f"{what} is {x.dtype}, it must hold integers; {what}.long()")
    if backend_of(x.array).waits or not x.array.size or (x.array.min() >= 0 and x.array.max() < n):
        return
    at = tuple(int(i[0]) for i in ((x.array < 0) | (x.array >= n)).nonzero())
    place = f"[{', '.join(map(str, at))}]" if at else ""
    value = int(x.array[at])
    text = range_text.format(n=n, last=n - 1)
    raise ShapeError(name, f"{what}{place} is {value}, but {text}{fix(x.array, value)}")


def larger(name: str) -> Callable[[Any, int], str]:
    """A fix for `check_positions`: the argument that says how many there are."""
    return lambda data, value: f". {name}={int(data.max()) + 1} fits" if value > 0 else ""
