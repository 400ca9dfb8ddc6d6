"""Optimizer steps: all parameters in one call, where plain NumPy makes several for each.

In the order of `tinyconv.backend.reference`, and so, but for Adam, to the same bits.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyconv.backend.array import Array
from tinyconv.backend.compiled.team import parallel, share_out

PART = 2**14  # numbers of a parameter that one row of the table stands for, at most


@intrinsic
def _pointer(typing, address):
    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), generate


@parallel
def _sgd(table, lr, momentum, shares, weight_decay, moving, nesterov, thread, piece, first, last):
    kind = shares.dtype
    for row in range(first, last):
        size, share = table[row, 0], shares[table[row, 1]]
        p = carray(_pointer(table[row, 2]), size, kind)
        velocity = carray(_pointer(table[row, 3]), size, kind)
        g = carray(_pointer(table[row, 4]), size, kind)
        for i in range(size):
            d = g[i] + weight_decay * p[i] if weight_decay != 0 else g[i]
            if moving:
                velocity[i] = momentum * velocity[i] + share * d
                d = d + momentum * velocity[i] if nesterov else velocity[i]
            p[i] -= lr * d


@parallel
def _adam(
    table,
    step_sizes,
    roots,
    beta1,
    share1,
    beta2,
    share2,
    eps,
    weight_decay,
    shrink,
    thread,
    piece,
    first,
    last,
):
    kind = step_sizes.dtype
    for row in range(first, last):
        size, step_size, root = table[row, 0], step_sizes[table[row, 1]], roots[table[row, 1]]
        p = carray(_pointer(table[row, 2]), size, kind)
        m = carray(_pointer(table[row, 3]), size, kind)
        v = carray(_pointer(table[row, 4]), size, kind)
        g = carray(_pointer(table[row, 5]), size, kind)
        for i in range(size):
            if shrink != 1:
                p[i] *= shrink
            d = g[i] + weight_decay * p[i] if weight_decay != 0 else g[i]
            m[i] = beta1 * m[i] + share1 * d
            v[i] = beta2 * v[i] + share2 * (d * d)
            p[i] -= step_size * m[i] / (np.sqrt(v[i]) / root + eps)


def _covers(*lists: list[Array]) -> bool:
    """One dtype, one shape for all that belongs to a parameter, and no holes in what is written."""
    kind = lists[0][0].dtype
    return all(
        a.dtype == kind and a.shape == p.shape and a.flags.c_contiguous
        for arrays in lists
        for a, p in zip(arrays, lists[0], strict=True)
    )


class _Rows(NamedTuple):
    """A table without the addresses of the gradients, which are new in every step."""

    arrays: list[weakref.ref[Array]]  # that it was made for
    table: Array
    parameters: Array  # of each row
    offsets: Array  # of each row's first number, in bytes


_known: dict[int, _Rows] = {}  # by the identity of the first parameter
MANY_KNOWN = 64


def _table(gs: list[Array], *lists: list[Array]) -> Array | None:
    """Rows of at most PART numbers: how many, of which parameter, and the addresses, the

    gradient's last.  None where no kernel covers them.
    """
    arrays = [a for each in lists for a in each]
    rows = _known.get(id(arrays[0]))
    if (
        rows is None
        or len(rows.arrays) != len(arrays)
        or any(known() is not a for known, a in zip(rows.arrays, arrays, strict=True))
    ):
        if not _covers(*lists):
            return None
        if len(_known) >= MANY_KNOWN:
            _known.clear()
        rows = _known[id(arrays[0])] = _rows(arrays, *lists)
    kind = arrays[0].dtype
    if any(g.shape != p.shape or g.dtype != kind for g, p in zip(gs, lists[0], strict=True)):
        return None
    table = rows.table.copy()
    table[:, -1] = np.array([_address(g) for g in gs])[rows.parameters] + rows.offsets
    return table


def _rows(arrays: list[Array], *lists: list[Array]) -> _Rows:
    table, offsets = [], []
    for i, of_parameter in enumerate(zip(*lists, strict=True)):
        size, itemsize = of_parameter[0].size, of_parameter[0].itemsize
        addresses = [_address(a) for a in of_parameter]
        for start in range(0, size, PART):
            offset = start * itemsize
            table.append((min(PART, size - start), i, *[a + offset for a in addresses], 0))
            offsets.append(offset)
    numbers = np.array(table, np.int64).reshape(-1, 3 + len(lists))
    return _Rows([weakref.ref(a) for a in arrays], numbers, numbers[:, 1], np.array(offsets, int))


def _without_gaps(arrays: list[Array]) -> list[Array]:
    """In memory of their own, which a NumPy scalar (the negative of a 0-d array, say) has not."""
    return [
        a if type(a) is np.ndarray and a.flags.c_contiguous else np.array(a, order="C")
        for a in arrays
    ]


def _address(a: Array) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


def sgd(
    ps: list[Array],
    gs: list[Array],
    buffers: list[Array] | None,
    *,
    lr: float,
    momentum: float,
    shares: list[float],
    weight_decay: float,
    nesterov: bool,
) -> None:
    """See `reference.sgd`."""
    velocities = ps if buffers is None else buffers
    gs, kind = _without_gaps(gs), ps[0].dtype
    table = _table(gs, ps, velocities)
    if table is None:
        return NotImplemented
    _sgd(
        share_out(len(table), sum(p.size for p in ps), 2),
        table,
        kind.type(lr),
        kind.type(momentum),
        np.array(shares, kind),
        kind.type(weight_decay),
        buffers is not None,
        nesterov,
    )
    return None


def adam(
    ps: list[Array],
    gs: list[Array],
    ms: list[Array],
    vs: list[Array],
    largest: list[Array] | None,
    *,
    step_sizes: list[float],
    beta1: float,
    beta2: float,
    roots: list[float],
    eps: float,
    weight_decay: float,
    shrink: float,
) -> None:
    """See `reference.adam`."""
    if largest is not None:
        return NotImplemented
    gs, kind = _without_gaps(gs), ps[0].dtype
    table = _table(gs, ps, ms, vs)
    if table is None:
        return NotImplemented
    numbers = map(kind.type, (beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay, shrink))
    _adam(
        share_out(len(table), sum(p.size for p in ps), 2),
        table,
        np.array(step_sizes, kind),
        np.array(roots, kind),
        *numbers,
    )
    return None
