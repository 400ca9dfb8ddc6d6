"""All operations, by topic: a forward, one VJP per input, samples to test it with."""

from tinyconv.ops import (
    conv,
    elementwise,
    index,
    linalg,
    loss,
    move,
    norm,
    pool,
    reduce,
    shape,
    sort,
)

__all__ = [
    "conv",
    "elementwise",
    "index",
    "linalg",
    "loss",
    "move",
    "norm",
    "pool",
    "reduce",
    "shape",
    "sort",
]
