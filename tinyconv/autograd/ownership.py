"""Who refers to an array's memory?  What nobody else sees may be kept, or written in place.

CPython counts the references to every object; an array to which only one name refers is nobody
else's (`sys.getrefcount`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from tinyconv.autograd.graph import Variable, wrap
from tinyconv.backend import Array, backend_of
from tinyconv.backend.memory import is_lent

if TYPE_CHECKING:
    from tinyconv.tensor import Tensor

FEW = 2**9  # numbers that are copied before it is known whose they are
MANY = 2**18  # numbers whose copy is worth recycled memory

_UNSHARED = np.empty(0)  # for comparison: one variable refers to it


def kept(g: Tensor) -> Tensor:
    """g with an array of its own: a VJP may return a view, or one array for two inputs.

    A copy of a large one is in recycled memory, one of a small one row-major, as parameters are.
    """
    if g.node is not None:
        return g.clone()
    few = g.array.size < FEW and type(g.array) is np.ndarray  # quicker than to find out; no GPU
    if not few and _alone(g):
        return g
    if g.array.size < MANY:
        return wrap(g.array.copy("C"))
    return wrap(backend_of(g.array).copy(g.array))


def _alone(g: Tensor) -> bool:
    """Does nothing but g refer to its row-major array?"""
    data = [g.array]
    return data[0].flags.c_contiguous and unshared(data)


def unshared(array: list[Array], more: int = 0) -> bool:
    """Does only one more than this list refer to the array in it, and only the array to its base?

    The base is the array of which an array is a reshaped view: it must have memory of its own.
    more: how many further references to the array are known.
    """
    base = [array[0].base]
    if base[0] is None:
        owns = array[0].flags.owndata
    else:
        same = type(base[0]) is type(array[0]) and base[0].size == array[0].size
        owns = same and ((base[0].base is None and base[0].flags.owndata) or is_lent(base[0]))
    if not (owns and getattr(array[0].flags, "writeable", True)):  # CuPy has no such flag
        return False
    unshared = [_UNSHARED]
    # counted alike: in a list each, and referred to once more
    counts = [sys.getrefcount(held[0]) for held in (unshared, array, base) if held[0] is not None]
    counts[1] -= more
    return max(counts) == counts[0]


def is_seen(x: Variable) -> bool:
    """May anything but x, and the node that computed it, refer to the memory of x?"""
    node = x.node
    more = 0 if node is None else sum(output is x.array for output in node.outputs)
    if sys.getrefcount(x.array) - more > _REFERRED_BY_ONE:
        return True
    return x.array.base is not None and not unshared([x.array], more)


_ONE = object.__new__(Variable)
_ONE.array = np.empty(0)
_REFERRED_BY_ONE = sys.getrefcount(_ONE.array)  # counted as in `is_seen`
