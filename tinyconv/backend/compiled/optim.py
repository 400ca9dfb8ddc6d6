"""Optimizer steps: one loop over a parameter, where plain NumPy makes a pass per operation.

In the order of `tinyconv.backend.reference`, and so, but for Adam, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.threads import cut, get_num_threads, in_spans


@kernel
def _sgd(p, g, buf, start, stop, lr, momentum, share, weight_decay, moving, nesterov):
    for i in range(start, stop):
        d = g[i] + weight_decay * p[i] if weight_decay != 0 else g[i]
        if moving:
            buf[i] = momentum * buf[i] + share * d
            d = d + momentum * buf[i] if nesterov else buf[i]
        p[i] -= lr * d


@kernel
def _adam(
    p,
    g,
    m,
    v,
    start,
    stop,
    step_size,
    beta1,
    share1,
    beta2,
    share2,
    root,
    eps,
    weight_decay,
    shrink,
):
    for i in range(start, stop):
        if shrink != 1:
            p[i] *= shrink
        d = g[i] + weight_decay * p[i] if weight_decay != 0 else g[i]
        m[i] = beta1 * m[i] + share1 * d
        v[i] = beta2 * v[i] + share2 * (d * d)
        p[i] -= step_size * m[i] / (np.sqrt(v[i]) / root + eps)


def _covers(p: Array, *others: Array) -> bool:
    return p.flags.c_contiguous and all(
        a.dtype == p.dtype and a.shape == p.shape and a.flags.c_contiguous for a in others
    )


def _each_part(size: int, job: Callable[[int, int], None]) -> None:
    def span(parts: Sequence[slice]) -> None:
        for part in parts:
            job(part.start, part.stop)

    in_spans(span, cut(size, get_num_threads()), size, 1, blas=False)


def sgd(
    p: Array,
    g: Array,
    buf: Array | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """See `reference.sgd`."""
    moving = buf is not None
    velocity = buf if buf is not None else p
    if not _covers(p, g, velocity):
        return NotImplemented
    flat = p.reshape(-1), g.reshape(-1), velocity.reshape(-1)
    numbers = map(p.dtype.type, (lr, momentum, 1 - dampening, weight_decay))
    options = (*numbers, moving, nesterov)
    _each_part(p.size, lambda *part: _sgd(*flat, *part, *options))
    return None


def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step_size: float,
    beta1: float,
    beta2: float,
    root: float,
    eps: float,
    weight_decay: float,
    shrink: float,
) -> None:
    """See `reference.adam`."""
    if not _covers(p, g, m, v):
        return NotImplemented
    flat = p.reshape(-1), g.reshape(-1), m.reshape(-1), v.reshape(-1)
    options = [
        p.dtype.type(value)
        for value in (
            step_size,
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            root,
            eps,
            weight_decay,
            shrink,
        )
    ]
    _each_part(p.size, lambda *part: _adam(*flat, *part, *options))
    return None
