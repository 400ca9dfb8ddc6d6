"""Arithmetic of two numbers: a table of derivatives.

Binary operations broadcast as NumPy's do; `unbroadcast` is broadcasting's adjoint.
"""

from typing import Any

from tinyconv.autograd import exact_number, op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.dtypes import float32, int64
from tinyconv.errors import DTypeError, not_taken
from tinyconv.ops.choose import BINARY, where
from tinyconv.ops.compare import isfinite
from tinyconv.ops.dtype import floating, module_of, to_dtype, zeros_like
from tinyconv.ops.pointwise import log
from tinyconv.ops.shape import unbroadcast
from tinyconv.samples import function, positive, sample


@op(name="add")
def plus(a: Array, b: Array) -> Array:
    """a + b"""
    return a + b


plus.defvjp(
    lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
    lambda g, _y, _a, _b: unbroadcast(g, _b.shape),
)


@op(name="sub", takes="numbers")
def minus(a: Array, b: Array) -> Array:
    """a - b"""
    return a - b


minus.defvjp(
    lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
    lambda g, _y, _a, _b: unbroadcast(-g, _b.shape),
)


@function(sample((3, 4), (4,)), sample((3, 4), (3, 1), alpha=2.5))
def add(a: Any, b: Any, alpha: float = 1) -> Any:
    """a + alpha * b"""
    return plus(a, b if alpha == 1 else _times("add", a, b, alpha))


@function(sample((3, 4), (4,)), sample((3, 4), (3, 1), alpha=2.5))
def sub(a: Any, b: Any, alpha: float = 1) -> Any:
    """a - alpha * b"""
    return minus(a, b if alpha == 1 else _times("sub", a, b, alpha))


def _times(name: str, a: Any, b: Any, alpha: Any) -> Any:
    """alpha * b; DTypeError for a factor that would make floats of integers, as in PyTorch."""
    kinds = [x.dtype.kind for x in (a, b) if hasattr(x, "dtype")]
    if "f" not in kinds and (isinstance(alpha, float) or set(kinds) == {"b"}):
        said = f"alpha={alpha} would change their dtype: use x.float()"
        raise DTypeError(name, f"the operands hold no floats, and {said}")
    if kinds[-1] == "b":  # with an integer a: booleans times alpha would be int64
        b = to_dtype(b, dtype=a.dtype)
    return mul(b, alpha)


@op
def mul(a: Array, b: Array) -> Array:
    """a * b"""
    return a * b


mul.defvjp(
    lambda g, _y, _a, b: unbroadcast(g * b, _a.shape),
    lambda g, _y, a, _b: unbroadcast(g * a, _b.shape),
)


@op(takes="promoted")
def div(a: Array, b: Array) -> Array:
    """a / b; integers are divided as float32."""
    return floating(a) / floating(b)


div.defvjp(
    lambda g, _y, _a, b: unbroadcast(g / b, _a.shape),
    lambda g, y, _a, b: unbroadcast(-g * y / b, b.shape),
)


@op(takes="numbers")
def neg(x: Array) -> Array:
    """-x"""
    return -x


neg.defvjp(lambda g, _y, _x: -g)


@op
def pow(a: Array, b: Array) -> Array:
    """a ** b; booleans have no powers, and integers none by a negative number."""
    dtype = getattr(a, "dtype", None) or b.dtype
    if dtype is not float32 and dtype.kind != "f":
        return _integer_power(a, b)
    return a**b


def _integer_power(a: Any, b: Any) -> Array:
    """In the integers' own dtype; where an array b is negative, 1 / a^-b cut to an integer."""
    if "b" in (getattr(a, "dtype", int64).kind, getattr(b, "dtype", int64).kind):
        raise DTypeError("pow", "booleans have no powers; convert: x.long() ** y")
    if not hasattr(b, "dtype"):
        if b < 0:
            raise DTypeError("pow", f"integers have no power {b}: x.float() ** {b}")
        return a**b
    xp = array_module(b)
    a = xp.asarray(a, b.dtype)
    beyond = xp.where(a == 1, 1, xp.where(a == -1, 1 - 2 * (b % 2), 0))
    return xp.where(b >= 0, a ** xp.maximum(b, 0), beyond.astype(b.dtype))


def _of_power(name: str, value: Any, dtype: Any) -> Any:
    if dtype.kind == "u" and value < 0:
        raise DTypeError(name, f"{dtype} has no {value}: x.float() ** y")
    return exact_number(name, value, dtype)


pow.number = _of_power


def _power_rule(g: Any, a: Any, b: Any) -> Any:
    """b a^(b-1), which is 0 for b = 0 also where a is 0 or NaN: a^0 is 1 there, too."""
    if not hasattr(b, "shape"):
        return g * (b * a ** (b - 1)) if b != 0 else g * zeros_like(a)
    hole = (b == 0) & ((a == 0) | (a != a))  # elsewhere the derivative goes on: 1/a in b at b = 0
    return g * where(hole, 0.0, b * where(hole, 1.0, a) ** (b - 1))


def _exponential_rule(g: Any, y: Any, a: Any) -> Any:
    """y log a, whose limit is 0 where a = 0 and y is finite."""
    base = a if hasattr(a, "shape") else zeros_like(y) + a
    return g * y * log(where((base == 0) & isfinite(y), 1.0, base))


pow.defvjp(
    lambda g, _y, a, b: unbroadcast(_power_rule(g, a, b), a.shape),
    lambda g, y, a, _b: unbroadcast(_exponential_rule(g, y, a), _b.shape),
)


# --- divisions that round


@op(same=(0, 1))
def floor_divide(a: Array, b: Array) -> Array:
    """floor(a / b), whose derivative is 0 wherever there is one.

    DTypeError for integers divided by 0, as in PyTorch.
    """
    _check_divisor("floor_divide", a, b)
    return a // b


_FLAT = (
    lambda g, _y, _a, _b: unbroadcast(zeros_like(g), _a.shape),
    lambda g, _y, _a, _b: unbroadcast(zeros_like(g), _b.shape),
)

floor_divide.defvjp(
    *_FLAT,
)


def _check_divisor(name: str, a: Any, b: Any) -> None:
    """Integers have no infinity, and NumPy's result is 0; booleans are not divided."""
    dtype = getattr(a, "dtype", None) or b.dtype
    if dtype is float32 or dtype.kind == "f":
        return
    if dtype.kind == "b":
        raise not_taken(name, 0, dtype)
    if hasattr(b, "dtype") and (not b.size or backend_of(b).waits):
        return
    if not (b.all() if hasattr(b, "dtype") else b):
        raise DTypeError(name, "integers cannot be divided by 0; x.float() gives inf or nan")


@op(same=(0, 1))
def div_trunc(a: Array, b: Array) -> Array:
    """a / b without its decimals, in the operands' dtype; DTypeError for integers by 0."""
    _check_divisor("div", a, b)
    down = a // b
    if down.dtype.kind == "f":
        return module_of(a, b).trunc(a / b)
    return down + ((down < 0) & (down * b != a))


div_trunc.defvjp(*_FLAT)


for _op in (mul, div, floor_divide, div_trunc):
    _op.float32_number = True


@function(
    positive((3, 4), (4,)),
    positive((3, 4), (4,), rounding_mode="floor"),
    positive((3, 4), 0.75, rounding_mode="trunc"),
    name="div",
)
def divide(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b, integers as float32; rounding_mode "floor" (down) and "trunc" (towards 0) keep dtypes.

    A rounded quotient is constant from step to step: its gradient is 0.
    """
    if rounding_mode is None:
        return div(a, b)
    if rounding_mode not in ("floor", "trunc"):
        raise ValueError(f"div: rounding_mode={rounding_mode!r} is none of None, 'floor', 'trunc'")
    return floor_divide(a, b) if rounding_mode == "floor" else div_trunc(a, b)


@op(same=(0, 1))
def remainder(a: Array, b: Array) -> Array:
    """a - floor(a / b) b: the sign is the divisor's; DTypeError for integers and 0."""
    _check_divisor("remainder", a, b)
    return a % b


remainder.defvjp(
    lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
    lambda g, _y, a, b: unbroadcast(-g * (a // b), b.shape),
)


# --- what to test them with

plus.test_with(*BINARY)
minus.test_with(*BINARY)
mul.test_with(*BINARY)
div.test_with(*[positive(*s.args) for s in BINARY])
neg.test_with(sample((3, 4)))
pow.test_with(
    positive((3, 4), 2),
    positive((3, 4), 0.5),
    positive((3, 4), (4,)),
    positive(2.0, (3,)),
    sample((3,), 3),
)
floor_divide.test_with(positive((3, 4), (4,)), sample((3, 4), 0.75))
div_trunc.test_with(positive((3, 4), (4,)), sample((3, 4), 0.75))
remainder.test_with(positive((3, 4), (4,)), sample((3, 4), 0.75))
