"""Checks that several functions share; each error shows the numbers and a fix."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

from tinyconv.backend import backend_of
from tinyconv.context import context
from tinyconv.errors import DTypeError, ShapeError

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
    if x is not None and x.shape != shape:
        raise ShapeError(name, f"{what} {x.shape} must be {shape}")


def check_images(name: str, x: Any) -> None:
    """Four axes."""
    if x.ndim != 4:
        hint = {3: ". A batch of one: x[None]", 2: ". One grey image: x[None, None]"}
        raise ShapeError(
            name, f"input {x.shape} is {x.ndim}-D, need (N,C,H,W){hint.get(x.ndim, '')}"
        )


def check_positions(name: str, what: str, x: Any, n: int, range_text: str, hint: str = "") -> None:
    """Integers 0 <= x < n, or an error that says which one is not.

    On a GPU the values are not looked at, since the program would have to wait for them.
    """
    if x.dtype.kind not in "iu":
        raise DTypeError(name, f"{what} is {x.dtype}, it must hold integers; {what}.long()")
    if backend_of(x.data).waits or not x.data.size or (x.data.min() >= 0 and x.data.max() < n):
        return
    at = tuple(int(i[0]) for i in ((x.data < 0) | (x.data >= n)).nonzero())
    place = f"[{', '.join(map(str, at))}]" if at else ""
    value = x.data[at]
    text = range_text.format(n=n, last=n - 1)
    if value in (-1, 255):  # what data sets mark the unknown with
        text += hint.format(value=value)
    raise ShapeError(name, f"{what}{place} is {value}, but {text}")
