"""Functions of one number: exp, sin, relu, ...; each with its derivative in a line."""

from tinyconv.autograd import op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.ops.choose import where
from tinyconv.ops.dtype import floating, zeros_like
from tinyconv.samples import positive, sample


@op(takes="promoted")
def exp(x: Array) -> Array:
    """e^x"""
    return array_module(x).exp(floating(x))


exp.defvjp(lambda g, y, _x: g * y)


@op(takes="promoted")
def expm1(x: Array) -> Array:
    """e^x - 1, accurate for small x."""
    return array_module(x).expm1(floating(x))


expm1.defvjp(lambda g, y, _x: g * (y + 1))


@op(takes="promoted")
def log(x: Array) -> Array:
    """Natural logarithm."""
    return array_module(x).log(floating(x))


log.defvjp(lambda g, _y, x: g / x)


@op(takes="promoted")
def log1p(x: Array) -> Array:
    """log(1 + x), accurate for small x."""
    return array_module(x).log1p(floating(x))


log1p.defvjp(lambda g, _y, x: g / (1 + x))


@op(takes="promoted")
def sqrt(x: Array) -> Array:
    """Square root."""
    return array_module(x).sqrt(floating(x))


sqrt.defvjp(lambda g, y, _x: g / (2 * y))


@op(takes="promoted")
def rsqrt(x: Array) -> Array:
    """1 / sqrt(x)"""
    return 1 / array_module(x).sqrt(floating(x))


rsqrt.defvjp(lambda g, y, _x: g * (-0.5 * y * y * y))


@op(takes="promoted")
def sin(x: Array) -> Array:
    """Sine."""
    return array_module(x).sin(floating(x))


sin.defvjp(lambda g, _y, x: g * cos(x))


@op(takes="promoted")
def cos(x: Array) -> Array:
    """Cosine."""
    return array_module(x).cos(floating(x))


cos.defvjp(lambda g, _y, x: -g * sin(x))


@op(takes="promoted")
def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return array_module(x).tanh(floating(x))


tanh.defvjp(lambda g, y, _x: g * (1 - y * y))


@op(takes="promoted")
def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow on either side."""
    xp = array_module(x)
    x = floating(x)
    e = xp.exp(-abs_(x))
    return xp.where(x >= 0, 1, e) / (1 + e)


sigmoid.defvjp(lambda g, y, _x: g * (y * (1 - y)))


@op(takes="floats")
def softplus(x: Array, *, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + e^(beta x)) / beta; x itself where beta x > threshold, as in PyTorch."""
    xp = array_module(x)
    z = beta * x
    return xp.where(z > threshold, x, (xp.maximum(z, 0) + xp.log1p(xp.exp(-abs_(z)))) / beta)


softplus.defvjp(
    lambda g, _y, x, *, beta, threshold: g * where(beta * x > threshold, 1.0, sigmoid(beta * x)),
)


@op(takes="promoted")
def erf(x: Array) -> Array:
    """The error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x."""
    return backend_of(x).erf(floating(x))


erf.defvjp(lambda g, _y, x: g * (1.1283791670955126 * exp(-x * x)))


@op(name="abs", takes="numbers")
def abs_(x: Array) -> Array:
    """|x|; the derivative at 0 is 0."""
    return array_module(x).abs(x)


abs_.defvjp(lambda g, _y, x: g * sign(x))


@op
def sign(x: Array) -> Array:
    """-1, 0 or 1, of NaN 0, as in PyTorch; of booleans themselves."""
    if x.dtype.kind == "b":
        return x.copy()
    xp = array_module(x)
    y = xp.sign(x)
    return xp.where(x == x, y, 0) if x.dtype.kind == "f" else y  # NumPy's of NaN is NaN


sign.defvjp(lambda g, _y, _x: zeros_like(g))


@op
def relu_backward(g: Array, y: Array) -> Array:
    """g where y > 0, else 0: linear in g, piecewise constant in y."""
    return backend_of(g).relu_backward(g, y)


relu_backward.defvjp(
    lambda h, _z, _g, y: relu_backward(h, y),
    lambda h, _z, _g, _y: zeros_like(h),
)


@op(takes="numbers")
def relu(x: Array) -> Array:
    """max(x, 0); the derivative at 0 is 0."""
    return backend_of(x).relu(x)


relu.defvjp(relu_backward)


# --- what to test them with

exp.test_with(sample((3, 4)), sample(()))
expm1.test_with(sample((3, 4)))
log.test_with(positive((3, 4)))
log1p.test_with(positive((3, 4)))
sqrt.test_with(positive((3, 4)))
rsqrt.test_with(positive((3, 4)))
sin.test_with(sample((3, 4)))
cos.test_with(sample((3, 4)))
tanh.test_with(sample((3, 4)))
sigmoid.test_with(sample((3, 4)))
softplus.test_with(
    sample((3, 4)), sample((3, 4), beta=2.0), sample((3, 4), beta=3.0, threshold=2.0)
)
erf.test_with(sample((3, 4)))
abs_.test_with(sample((3, 4)))
sign.test_with(sample((3, 4)))
relu_backward.test_with(sample((3, 4), (3, 4)))
relu.test_with(sample((3, 4)), sample((2, 3, 4, 5)))
