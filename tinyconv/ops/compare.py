"""Comparisons, logic and bits: booleans and integers, without gradients."""

from tinyconv.autograd import op
from tinyconv.backend import Array, array_module
from tinyconv.errors import DTypeError
from tinyconv.samples import bools, ints, sample

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
