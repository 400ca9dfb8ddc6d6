"""Element types and devices: conversions, whose gradients are converted back."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from tinyconv.autograd import op
from tinyconv.backend import Array, array_module, backend_named, moved
from tinyconv.dtypes import float32
from tinyconv.samples import sample

F = TypeVar("F", bound=Callable[..., Any])


def module_of(a: Any, b: Any) -> Any:
    """The namespace of two operands, of which one may be a number."""
    return array_module(a if hasattr(a, "dtype") else b)


def floating(x: Any) -> Any:
    """Integers and booleans as float32, as PyTorch's functions take them."""
    if getattr(x, "dtype", None) is float32:  # the first look-up, for small operations
        return x
    return x.astype(np.float32) if hasattr(x, "dtype") and x.dtype.kind in "biu" else x


@op(name="to_dtype")
def to_dtype(x: Array, *, dtype: Any) -> Array:
    """The same numbers in another element type; the gradient is cast back."""
    return x.astype(dtype)


to_dtype.defvjp(
    lambda g, _y, _x, *, dtype: to_dtype(g, dtype=_x.dtype),
    samples=[sample((3, 4), dtype=np.float64)],
)


def widened(x: Any) -> Any:
    """float16 as float32, whose squares and sums do not overflow; anything else as it is."""
    return to_dtype(x, dtype=np.dtype(np.float32)) if getattr(x, "dtype", 0) == "float16" else x


def as_dtype(x: Any, dtype: Any) -> Any:
    """x, converted where its dtype is another one."""
    return x if x.dtype == dtype else to_dtype(x, dtype=dtype)


def in_float32(function: F) -> F:
    """A function whose intermediate results float16 cannot hold: computed in float32 for it."""

    @functools.wraps(function)
    def call(input: Any, *args: Any, **options: Any) -> Any:
        if getattr(input, "dtype", None) != "float16":
            return function(input, *args, **options)
        return as_dtype(function(widened(input), *args, **options), input.dtype)

    return cast(F, call)


@op
def to_device(x: Array, *, device: str, source: str) -> Array:
    """The same numbers in the memory of ``device``; the gradient travels back to ``source``."""
    return moved(x, backend_named(device))


to_device.defvjp(
    lambda g, _y, _x, *, device, source: to_device(g, device=source, source=device),
    samples=[sample((3, 4), device="cpu", source="cpu")],
)


@op(differentiable=False, samples=[sample((3, 4))])
def zeros_like(x: Array) -> Array:
    """Zeros of the shape, dtype and device of x."""
    return array_module(x).zeros_like(x)


@op(differentiable=False, samples=[sample((3, 4))])
def ones_like(x: Array) -> Array:
    """Ones of the shape, dtype and device of x."""
    return array_module(x).ones_like(x)
