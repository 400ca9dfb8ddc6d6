"""Optimizer steps: all parameters in one call, where plain NumPy makes several for each.

In the order of `tinyconv.backend.reference`, and so, but for Adam, to the same bits.
"""

from __future__ import annotations

import math

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
        g = carray(_pointer(table[row, 3]), size, kind)
        velocity = carray(_pointer(table[row, 4]), size, kind)
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
        g = carray(_pointer(table[row, 3]), size, kind)
        m = carray(_pointer(table[row, 4]), size, kind)
        v = carray(_pointer(table[row, 5]), size, kind)
        for i in range(size):
            if shrink != 1:
                p[i] *= shrink
            d = g[i] + weight_decay * p[i] if weight_decay != 0 else g[i]
            m[i] = beta1 * m[i] + share1 * d
            v[i] = beta2 * v[i] + share2 * (d * d)
            p[i] -= step_size * m[i] / (np.sqrt(v[i]) / root + eps)


def _covers(gs: list[Array], *lists: list[Array]) -> bool:
    """One dtype, one shape for all that belongs to a parameter, and no holes in what is written."""
    kind = lists[0][0].dtype
    return all(
        a.dtype == kind and a.shape == p.shape and (a.flags.c_contiguous or arrays is gs)
        for arrays in (gs, *lists)
        for a, p in zip(arrays, lists[0], strict=True)
    )


def _table(*lists: list[Array]) -> Array:
    """Rows of at most PART numbers: how many, of which parameter, and the addresses."""
    rows = []
    step = PART * lists[0][0].itemsize
    for i, arrays in enumerate(zip(*lists, strict=True)):
        size = arrays[0].size
        addresses = [a.__array_interface__["data"][0] for a in arrays]
        for part in range(math.ceil(size / PART)):
            rows.append((min(PART, size - part * PART), i, *[a + part * step for a in addresses]))
    return np.array(rows, np.int64).reshape(-1, 2 + len(lists))


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
    if not _covers(gs, ps, velocities):
        return NotImplemented
    gs = [np.ascontiguousarray(g) for g in gs]
    table, kind = _table(ps, gs, velocities), ps[0].dtype
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
    if largest is not None or not _covers(gs, ps, ms, vs):
        return NotImplemented
    gs = [np.ascontiguousarray(g) for g in gs]
    table, kind = _table(ps, gs, ms, vs), ps[0].dtype
    numbers = map(kind.type, (beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay, shrink))
    _adam(
        share_out(len(table), sum(p.size for p in ps), 2),
        table,
        np.array(step_sizes, kind),
        np.array(roots, kind),
        *numbers,
    )
    return None
