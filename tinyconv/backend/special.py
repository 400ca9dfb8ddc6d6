"""Special functions that NumPy does not have."""

from tinyconv.backend.array import Array, array_module

# W. J. Cody, Rational Chebyshev approximations for the error function, Math. Comp. 23, 1969:
# numerator and denominator for |x| <= 0.46875, 0.46875..4 and > 4, highest power first.
# fmt: off
_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
     2.84423683343917062e3),
)
_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
     1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3,
     1.23033935480374942e3),
)
_LARGE = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3),
)
# fmt: on
_RSQRT_PI = 0.56418958354775628695


def erf(x: Array) -> Array:
    """The error function, to double precision, in x's dtype.  x: any shape."""
    xp = array_module(x)
    if x.dtype == xp.float16:  # the coefficients overflow half precision
        return erf(x.astype(xp.float32)).astype(x.dtype)
    a = xp.abs(x)
    small = xp.minimum(a, 0.46875) ** 2
    near = x * _ratio(small, _SMALL)
    middle = xp.clip(a, 0.46875, 4.0)
    tail = xp.exp(-middle * middle) * _ratio(middle, _MIDDLE)
    large = xp.clip(a, 4.0, 6.0)  # erfc(6) is below the spacing of doubles at 1
    z = 1.0 / (large * large)
    far = xp.exp(-large * large) / large * (_RSQRT_PI - z * _ratio(z, _LARGE))
    return xp.where(a <= 0.46875, near, xp.sign(x) * (1.0 - xp.where(a <= 4.0, tail, far)))


def _ratio(x: Array, polynomials: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    """Numerator over denominator, each by Horner's rule."""
    numerator, denominator = (_horner(x, coefficients) for coefficients in polynomials)
    return numerator / denominator


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    y = x * 0 + coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y
