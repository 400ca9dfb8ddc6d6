"""Elementwise operations: a table of derivatives.

Binary operations broadcast as NumPy's do; `unbroadcast` is broadcasting's adjoint.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from tinyconv.autograd import common_dtype, exact_number, op
from tinyconv.backend import Array, array_module, backend_named, backend_of, moved
from tinyconv.dtypes import bool_, float32, int64, uint8
from tinyconv.errors import DTypeError, ShapeError, not_taken
from tinyconv.ops.shape import clone as clone, unbroadcast
from tinyconv.samples import bools, floats, function, ints, positive, sample

F = TypeVar("F", bound=Callable[..., Any])


def module_of(a: Any, b: Any) -> Any:
    """The namespace of two operands, of which one may be a number."""
    return array_module(a if hasattr(a, "dtype") else b)


def floating(x: Any) -> Any:
    """Integers and booleans as float32, as PyTorch's functions take them."""
    if getattr(x, "dtype", None) is float32:  # the first look-up, for small operations
        return x
    return x.astype(np.float32) if hasattr(x, "dtype") and x.dtype.kind in "biu" else x


BINARY = [
    sample((3, 4), (3, 4)),
    sample((3, 4), (4,)),
    sample((2, 1, 3), (4, 1)),
    sample((3,), 2.5),
    sample(1.5, (3,)),
]

# --- arithmetic


@op(name="add")
def plus(a: Array, b: Array) -> Array:
    """a + b"""
    return a + b


plus.defvjp(
    lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
    lambda g, _y, _a, _b: unbroadcast(g, _b.shape),
    samples=BINARY,
)


@op(name="sub", takes="numbers")
def minus(a: Array, b: Array) -> Array:
    """a - b"""
    return a - b


minus.defvjp(
    lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
    lambda g, _y, _a, _b: unbroadcast(-g, _b.shape),
    samples=BINARY,
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
    samples=BINARY,
)


@op(takes="promoted")
def div(a: Array, b: Array) -> Array:
    """a / b; integers are divided as float32."""
    return floating(a) / floating(b)


div.defvjp(
    lambda g, _y, _a, b: unbroadcast(g / b, _a.shape),
    lambda g, y, _a, b: unbroadcast(-g * y / b, b.shape),
    samples=[positive(*s.args) for s in BINARY],
)


@op(takes="numbers")
def neg(x: Array) -> Array:
    """-x"""
    return -x


neg.defvjp(lambda g, _y, _x: -g, samples=[sample((3, 4))])


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
    samples=[
        positive((3, 4), 2),
        positive((3, 4), 0.5),
        positive((3, 4), (4,)),
        positive(2.0, (3,)),
        sample((3,), 3),
    ],
)

# --- functions of one variable


@op(takes="promoted")
def exp(x: Array) -> Array:
    """e^x"""
    return array_module(x).exp(floating(x))


exp.defvjp(lambda g, y, _x: g * y, samples=[sample((3, 4)), sample(())])


@op(takes="promoted")
def expm1(x: Array) -> Array:
    """e^x - 1, accurate for small x."""
    return array_module(x).expm1(floating(x))


expm1.defvjp(lambda g, y, _x: g * (y + 1), samples=[sample((3, 4))])


@op(takes="promoted")
def log(x: Array) -> Array:
    """Natural logarithm."""
    return array_module(x).log(floating(x))


log.defvjp(lambda g, _y, x: g / x, samples=[positive((3, 4))])


@op(takes="promoted")
def log1p(x: Array) -> Array:
    """log(1 + x), accurate for small x."""
    return array_module(x).log1p(floating(x))


log1p.defvjp(lambda g, _y, x: g / (1 + x), samples=[positive((3, 4))])


@op(takes="promoted")
def sqrt(x: Array) -> Array:
    """Square root."""
    return array_module(x).sqrt(floating(x))


sqrt.defvjp(lambda g, y, _x: g / (2 * y), samples=[positive((3, 4))])


@op(takes="promoted")
def rsqrt(x: Array) -> Array:
    """1 / sqrt(x)"""
    return 1 / array_module(x).sqrt(floating(x))


rsqrt.defvjp(lambda g, y, _x: g * (-0.5 * y * y * y), samples=[positive((3, 4))])


@op(takes="promoted")
def sin(x: Array) -> Array:
    """Sine."""
    return array_module(x).sin(floating(x))


sin.defvjp(lambda g, _y, x: g * cos(x), samples=[sample((3, 4))])


@op(takes="promoted")
def cos(x: Array) -> Array:
    """Cosine."""
    return array_module(x).cos(floating(x))


cos.defvjp(lambda g, _y, x: -g * sin(x), samples=[sample((3, 4))])


@op(takes="promoted")
def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return array_module(x).tanh(floating(x))


tanh.defvjp(lambda g, y, _x: g * (1 - y * y), samples=[sample((3, 4))])


@op(takes="promoted")
def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow on either side."""
    xp = array_module(x)
    x = floating(x)
    e = xp.exp(-abs_(x))
    return xp.where(x >= 0, 1, e) / (1 + e)


sigmoid.defvjp(lambda g, y, _x: g * (y * (1 - y)), samples=[sample((3, 4))])


@op(takes="floats")
def softplus(x: Array, *, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + e^(beta x)) / beta; x itself where beta x > threshold, as in PyTorch."""
    xp = array_module(x)
    z = beta * x
    return xp.where(z > threshold, x, (xp.maximum(z, 0) + xp.log1p(xp.exp(-abs_(z)))) / beta)


softplus.defvjp(
    lambda g, _y, x, *, beta, threshold: g * where(beta * x > threshold, 1.0, sigmoid(beta * x)),
    samples=[sample((3, 4)), sample((3, 4), beta=2.0), sample((3, 4), beta=3.0, threshold=2.0)],
)


@op(takes="promoted")
def erf(x: Array) -> Array:
    """The error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x."""
    return backend_of(x).erf(floating(x))


erf.defvjp(lambda g, _y, x: g * (1.1283791670955126 * exp(-x * x)), samples=[sample((3, 4))])

# --- piecewise


@op(name="abs", takes="numbers")
def abs_(x: Array) -> Array:
    """|x|; the derivative at 0 is 0."""
    return array_module(x).abs(x)


abs_.defvjp(lambda g, _y, x: g * sign(x), samples=[sample((3, 4))])


@op
def sign(x: Array) -> Array:
    """-1, 0 or 1, of NaN 0, as in PyTorch; of booleans themselves."""
    if x.dtype.kind == "b":
        return x.copy()
    xp = array_module(x)
    y = xp.sign(x)
    return xp.where(x == x, y, 0) if x.dtype.kind == "f" else y  # NumPy's of NaN is NaN


sign.defvjp(lambda g, _y, _x: zeros_like(g), samples=[sample((3, 4))])


@op
def relu_backward(g: Array, y: Array) -> Array:
    """g where y > 0, else 0: linear in g, piecewise constant in y."""
    return backend_of(g).relu_backward(g, y)


relu_backward.defvjp(
    lambda h, _z, _g, y: relu_backward(h, y),
    lambda h, _z, _g, _y: zeros_like(h),
    samples=[sample((3, 4), (3, 4))],
)


@op(takes="numbers")
def relu(x: Array) -> Array:
    """max(x, 0); the derivative at 0 is 0."""
    return backend_of(x).relu(x)


relu.defvjp(relu_backward, samples=[sample((3, 4)), sample((2, 3, 4, 5))])


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
    samples=[sample((3, 4), min=-0.5, max=0.7), sample((3, 4), min=0.1), sample((3, 4), max=0.3)],
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
    samples=BINARY,
)


@op
def minimum(a: Array, b: Array) -> Array:
    """The smaller of a and b; a tie shares the gradient equally, a NaN gives it to both."""
    return module_of(a, b).minimum(a, b)


minimum.defvjp(
    lambda g, _y, a, b: unbroadcast(where(a == b, g * 0.5, where(a > b, 0.0, g)), a.shape),
    lambda g, _y, a, b: unbroadcast(where(a == b, g * 0.5, where(a < b, 0.0, g)), b.shape),
    samples=BINARY,
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
    samples=[
        sample(bools(3, 4), (3, 4), (4,)),
        sample(bools(4), (3, 4), 2.0),
        sample(bools(2, 1), 0.0, (3,)),
    ],
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


# --- dtype and identity


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


# --- comparisons and logic: booleans, without gradients

COMPARED = [sample((3, 4), (3, 4)), sample((3, 4), (4,)), sample((3, 4), 0.25)]


@op(same=(0, 1), samples=COMPARED)
def eq(a: Array, b: Array) -> Array:
    """a == b"""
    return a == b


@op(same=(0, 1), samples=COMPARED)
def ne(a: Array, b: Array) -> Array:
    """a != b"""
    return a != b


@op(same=(0, 1), samples=COMPARED)
def lt(a: Array, b: Array) -> Array:
    """a < b"""
    return a < b


@op(same=(0, 1), samples=COMPARED)
def le(a: Array, b: Array) -> Array:
    """a <= b"""
    return a <= b


@op(same=(0, 1), samples=COMPARED)
def gt(a: Array, b: Array) -> Array:
    """a > b"""
    return a > b


@op(same=(0, 1), samples=COMPARED)
def ge(a: Array, b: Array) -> Array:
    """a >= b"""
    return a >= b


@op(samples=[sample(bools(3, 4), bools(4))])
def logical_and(a: Array, b: Array) -> Array:
    """a and b"""
    return array_module(a).logical_and(a, b)


@op(samples=[sample(bools(3, 4), bools(4))])
def logical_or(a: Array, b: Array) -> Array:
    """a or b"""
    return array_module(a).logical_or(a, b)


@op(samples=[sample(bools(3, 4))])
def logical_not(a: Array) -> Array:
    """not a"""
    return array_module(a).logical_not(a)


def _no_bits(name: str) -> DTypeError:
    return DTypeError(name, "floats have no bits; convert with x.long(), or compare: x > 0")


BITS = [sample(bools(3, 4), bools(4)), sample(ints(3, 4, low=-9, high=9), ints(4, high=9))]


@op(same=(0, 1), samples=BITS)
def bitwise_and(a: Array, b: Array) -> Array:
    """a & b: bit by bit for integers, logical for booleans."""
    try:
        return a & b
    except TypeError:
        raise _no_bits("bitwise_and") from None


@op(same=(0, 1), samples=BITS)
def bitwise_or(a: Array, b: Array) -> Array:
    """a | b: bit by bit for integers, logical for booleans."""
    try:
        return a | b
    except TypeError:
        raise _no_bits("bitwise_or") from None


@op(same=(0, 1), samples=BITS)
def bitwise_xor(a: Array, b: Array) -> Array:
    """a ^ b: bit by bit for integers, logical for booleans."""
    try:
        return a ^ b
    except TypeError:
        raise _no_bits("bitwise_xor") from None


@op(samples=[sample(bools(3, 4)), sample(ints(3, 4, low=-9, high=9))])
def bitwise_not(a: Array) -> Array:
    """~a: every bit of integers, not for booleans."""
    try:
        return ~a
    except TypeError:
        raise _no_bits("bitwise_not") from None


@op(samples=[sample((3, 4))])
def isnan(x: Array) -> Array:
    """Which elements are not a number?"""
    return array_module(x).isnan(x)


@op(samples=[sample((3, 4))])
def isfinite(x: Array) -> Array:
    """Which elements are neither infinite nor NaN?"""
    return array_module(x).isfinite(x)


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
    samples=[positive((3, 4), (4,)), sample((3, 4), 0.75)],
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


div_trunc.defvjp(*_FLAT, samples=[positive((3, 4), (4,)), sample((3, 4), 0.75)])


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
    samples=[positive((3, 4), (4,)), sample((3, 4), 0.75)],
)
