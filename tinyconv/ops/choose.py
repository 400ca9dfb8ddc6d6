"""Choosing between numbers: where, maximum, clamp.  What was not chosen has no gradient."""

from typing import Any

import numpy as np

from tinyconv.autograd import common_dtype, exact_number, op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.dtypes import bool_, float32, uint8
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.ops.dtype import module_of, to_dtype
from tinyconv.ops.shape import unbroadcast
from tinyconv.samples import bools, floats, function, sample

BINARY = [
    sample((3, 4), (3, 4)),
    sample((3, 4), (4,)),
    sample((2, 1, 3), (4, 1)),
    sample((3,), 2.5),
    sample(1.5, (3,)),
]


@op(name="clamp")
def _clamp(x: Array, *, min: float | None = None, max: float | None = None) -> Array:
    """x limited to [min, max], which are numbers; integers and a float limit give float32."""
    if min is None and max is None:
        raise ValueError("min and max are both None; give at least one")
    xp = array_module(x)
    if x.dtype is not float32 and x.dtype.kind != "f":
        x, min, max = _integer_limits(x, min, max)
    x = x if min is None else xp.maximum(x, min)
    return x if max is None else xp.minimum(x, max)


def _integer_limits(x: Array, *limits: Any) -> tuple[Any, ...]:
    """x in the dtype that it has together with the limits, and those in it."""
    target = common_dtype([x, *(limit for limit in limits if limit is not None)])
    if target.kind == "b":
        raise DTypeError("clamp", "booleans have no limits; convert: x.long()")
    fitting = (v if v is None else exact_number("clamp", v, target) for v in limits)
    return (x.astype(target, copy=False), *fitting)


def _within(x: Any, low: float | None, high: float | None) -> Any:
    if low is None or high is None:
        return x <= high if low is None else x >= low
    return (x >= low) & (x <= high)


_clamp.defvjp(
    lambda g, _y, x, *, min, max: where(_within(x, min, max), g, 0.0),
)


@function(
    sample((3, 4), -0.5, 0.7),
    sample((3, 4), max=0.3),
    sample((3, 4), (4,), max=floats(3, 1)),
    sample((3, 4), min=floats(3, 4)),
)
def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """x limited to [min, max]: numbers, tensors that broadcast, or None for no limit.

    At a limit the gradient is x's; beyond it the limit's.  Where min > max the result is max.
    """
    if not (hasattr(min, "shape") or hasattr(max, "shape")):
        return _clamp(x, min=min, max=max)
    if min is not None:
        x = where(x < min, min, where(x >= min, x, maximum(x.detach(), _fixed(min))))
    if max is not None:
        x = where(x > max, max, where(x <= max, x, minimum(x.detach(), _fixed(max))))
    return x


def _fixed(limit: Any) -> Any:
    """A limit of which no gradient is wanted: where it or x is NaN, none is passed."""
    return limit.detach() if hasattr(limit, "shape") else limit


@op
def maximum(a: Array, b: Array) -> Array:
    """The larger of a and b; a tie shares the gradient equally, a NaN gives it to both."""
    return module_of(a, b).maximum(a, b)


maximum.defvjp(
    lambda g, _y, a, b: unbroadcast(where(a == b, g * 0.5, where(a < b, 0.0, g)), a.shape),
    lambda g, _y, a, b: unbroadcast(where(a == b, g * 0.5, where(a > b, 0.0, g)), b.shape),
)


@op
def minimum(a: Array, b: Array) -> Array:
    """The smaller of a and b; a tie shares the gradient equally, a NaN gives it to both."""
    return module_of(a, b).minimum(a, b)


minimum.defvjp(
    lambda g, _y, a, b: unbroadcast(where(a == b, g * 0.5, where(a > b, 0.0, g)), a.shape),
    lambda g, _y, a, b: unbroadcast(where(a == b, g * 0.5, where(a < b, 0.0, g)), b.shape),
)


@op(name="where")
def where(condition: Array, a: Array, b: Array) -> Array:
    """a where the condition holds, else b; the condition is boolean, or uint8 as in PyTorch."""
    kind = getattr(condition, "dtype", bool_)
    if kind != bool_ and kind != uint8:
        raise DTypeError("where", f"the condition is {kind}, it must be boolean: x != 0")
    y = array_module(condition).where(condition, a, b)
    numbers = not (hasattr(a, "dtype") or hasattr(b, "dtype"))
    return y.astype(np.float32) if numbers and y.dtype == np.float64 else y


where.number = exact_number
where.defvjp(
    None,
    lambda g, _y, c, _a, _b: unbroadcast(where(c, g, 0.0), _a.shape),
    lambda g, _y, c, _a, _b: unbroadcast(where(c, 0.0, g), _b.shape),
)


@function(sample((3, 4), bools(4), 2.5), sample((4,), bools(3, 4), floats()))
def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """x with ``value`` where the mask is true."""
    if mask.dtype != bool:
        raise DTypeError("masked_fill", f"the mask is {mask.dtype}; use mask.bool()")
    if getattr(value, "shape", ()):
        raise ShapeError(
            "masked_fill",
            f"the value has shape {value.shape}, it must be one number: tc.where(mask, value, x)",
        )
    if x.dtype.kind != "f":
        value = written_number("masked_fill", value, x.dtype)
    return where(mask, value, x)


def written_number(name: str, value: Any, dtype: Any) -> Any:
    """A number as it is written into a tensor: integers cut fractions off, as in PyTorch.

    DTypeError where there is no room for it.
    """
    if hasattr(value, "node"):
        if backend_of(value.array).waits:
            return to_dtype(value, dtype=dtype)
        value = value.item()
    value = value.item() if isinstance(value, np.generic) else value
    if dtype.kind == "f":
        return value
    if dtype.kind == "b":
        return bool(value)
    if isinstance(value, float) and not ((value >= 0 or dtype.kind == "i") and abs(value) < 2**63):
        raise DTypeError(name, f"{value} does not fit into {dtype}; convert: x.float()")
    return exact_number(name, int(value), dtype)


# --- what to test them with

_clamp.test_with(
    sample((3, 4), min=-0.5, max=0.7), sample((3, 4), min=0.1), sample((3, 4), max=0.3)
)
maximum.test_with(*BINARY)
minimum.test_with(*BINARY)
where.test_with(
    sample(bools(3, 4), (3, 4), (4,)), sample(bools(4), (3, 4), 2.0), sample(bools(2, 1), 0.0, (3,))
)
