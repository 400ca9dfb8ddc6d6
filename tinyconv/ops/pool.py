"""Pooling: picking or adding up the entries of each window, and the adjoints.

Max pooling is two steps: where the maxima are (integers: constants to the derivative), and a
gather at those places.  Gather and scatter are linear and each other's adjoint, so max pooling is
right to every order.

Axes as in conv.py: (N, C, H, W) -> (N, C, OH, OW).
"""

from typing import Any

from tinyconv.autograd import op
from tinyconv.backend import Array, backend_of
from tinyconv.samples import ints, sample

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

_MAX = [
    sample(
        (2, 3, 6, 6), kernel_size=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1)
    ),
    sample(
        (1, 2, 7, 6), kernel_size=(3, 2), stride=(2, 1), padding=((1, 1), (1, 0)), dilation=(1, 2)
    ),
]


@op(samples=_MAX)
def max_pool2d_indices(
    x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Array:
    """Where each window's maximum is: flat positions h * W + w of the input, int64."""
    return backend_of(x).max_pool2d(
        x, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )[1]


@op
def pool_gather(x: Array, indices: Array, *, window: dict[str, Any] | None = None) -> Array:
    """The entries of each (H, W) plane at flat positions: (N, C, H, W) -> indices' shape.

    window: the geometry that the positions were picked with, for those who read the graph.
    """
    return backend_of(x).pool_gather(x, indices)


@op
def pool_scatter(
    g: Array, indices: Array, *, input_size: Pair, window: dict[str, Any] | None = None
) -> Array:
    """Planes of zeros with g added at flat positions: `pool_gather`'s adjoint.

    window: as there; a GPU's threads then know which positions can be theirs.
    """
    return backend_of(g).pool_scatter(g, indices, input_size=input_size, window=window)


pool_gather.defvjp(
    lambda g, _y, _x, indices, *, window: pool_scatter(
        g, indices, input_size=_x.shape[2:], window=window
    ),
    None,
    samples=[sample((2, 3, 4, 5), ints(2, 3, 2, 2, high=20))],
)
pool_scatter.defvjp(
    lambda h, _y, _g, indices, *, input_size, window: pool_gather(h, indices, window=window),
    None,
    samples=[sample((2, 3, 2, 2), ints(2, 3, 2, 2, high=20), input_size=(4, 5))],
)


@op(takes="floats")
def window_sum(x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding) -> Array:
    """The sum over each window, padding counted as zeros."""
    return backend_of(x).window_sum(x, kernel_size=kernel_size, stride=stride, padding=padding)


@op(takes="floats")
def window_sum_input(
    g: Array, *, input_size: Pair, kernel_size: Pair, stride: Pair, padding: Padding
) -> Array:
    """Every g is added to all entries of its window: `window_sum`'s adjoint."""
    return backend_of(g).window_sum_input(
        g, input_size=input_size, kernel_size=kernel_size, stride=stride, padding=padding
    )


_WINDOW: dict[str, Any] = {"kernel_size": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1))}
window_sum.defvjp(
    lambda g, _y, _x, **window: window_sum_input(g, input_size=_x.shape[2:], **window),
    samples=[sample((2, 3, 6, 5), **_WINDOW)],
)
window_sum_input.defvjp(
    lambda h, _y, _g, *, input_size, **window: window_sum(h, **window),
    samples=[sample((2, 3, 3, 5), input_size=(6, 5), **_WINDOW)],
)
