"""Convolution is trilinear.

The number <g, conv2d(x, w)> is linear in each of g, x and w.  So each of the three kernels below
is the gradient of the others, and six one-line VJPs close the set to every order, for every
stride, padding, dilation and group count:

                 conv2d(x, w)            -> y    what a layer computes
    adjoint in x conv2d_input(g, w)      -> dx   and what ConvTranspose2d computes
    adjoint in w conv2d_weight(x, g)     -> dw

Axes: N batch, C input channels, O output channels, H x W the input, OH x OW the output,
KH x KW the kernel.  padding = ((top, bottom), (left, right)); "convolution" is cross-correlation,
as in every neural-network library: the kernel is not flipped.

    y[n, o, i, j] = sum over c, p, q of
        x_padded[n, c, i * SH + p * DH, j * SW + q * DW] * w[o, c, p, q]

Reference: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016.
"""

from typing import Any

from tinyconv.autograd import op
from tinyconv.backend import Array, backend_of
from tinyconv.samples import Sample, sample

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


@op(takes="floats")
def conv2d(
    x: Array, w: Array, *, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Array:
    """x (N, C, H, W), w (O, C/groups, KH, KW) -> y (N, O, OH, OW)."""
    return backend_of(x).conv2d(
        x, w, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@op(takes="floats")
def conv2d_input(
    g: Array,
    w: Array,
    *,
    input_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """g (N, O, OH, OW), w (O, C/groups, KH, KW) -> (N, C, H, W): every g stamps its kernel."""
    return backend_of(g).conv2d_input(
        g,
        w,
        input_size=input_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@op(takes="floats")
def conv2d_weight(
    x: Array,
    g: Array,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """x (N, C, H, W), g (N, O, OH, OW) -> (O, C/groups, KH, KW): every g weighs its window."""
    return backend_of(x).conv2d_weight(
        x,
        g,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def _geometry(
    stride: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> dict[str, Any]:
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


# N, C, H, W, O, KH, KW and the geometry
_CASES: list[tuple[int, int, int, int, int, int, int, dict[str, Any]]] = [
    (2, 3, 5, 6, 4, 3, 3, _geometry(padding=((1, 1), (1, 1)))),
    (2, 2, 6, 7, 2, 3, 2, _geometry(stride=(2, 1), padding=((0, 1), (2, 0)))),
    (1, 4, 7, 6, 4, 3, 3, _geometry(stride=(2, 2), padding=((1, 1), (1, 1)), groups=2)),
    (2, 2, 7, 8, 3, 2, 3, _geometry(stride=(1, 2), padding=((1, 1), (1, 1)), dilation=(3, 2))),
    (2, 3, 4, 5, 6, 1, 1, _geometry(stride=(3, 2))),
    (1, 3, 5, 5, 3, 4, 4, _geometry(padding=((1, 2), (1, 2)), groups=3)),
]


def _output_size(h: int, w: int, kh: int, kw: int, geometry: dict[str, Any]) -> Pair:
    def one(n: int, k: int, axis: int) -> int:
        before, after = geometry["padding"][axis]
        span = geometry["dilation"][axis] * (k - 1) + 1
        return int((n + before + after - span) // geometry["stride"][axis] + 1)

    return one(h, kh, 0), one(w, kw, 1)


def _samples(kind: str) -> list[Sample]:
    out = []
    for n, c, h, w, o, kh, kw, geometry in _CASES:
        x, weight = (n, c, h, w), (o, c // geometry["groups"], kh, kw)
        y = (n, o, *_output_size(h, w, kh, kw, geometry))
        if kind == "conv2d":
            out.append(sample(x, weight, **geometry))
        elif kind == "conv2d_input":
            out.append(sample(y, weight, input_size=(h, w), **geometry))
        else:
            out.append(sample(x, y, kernel_size=(kh, kw), **geometry))
    return out


def _first(y: Any, shape: tuple[int, ...]) -> Any:
    """An output_padding of the stride or more leaves room for windows that g does not have."""
    return y if y.shape == shape else y[:, :, : shape[2], : shape[3]]


conv2d.defvjp(
    lambda g, _y, _x, w, **geometry: conv2d_input(g, w, input_size=_x.shape[2:], **geometry),
    lambda g, _y, x, _w, **geometry: conv2d_weight(x, g, kernel_size=_w.shape[2:], **geometry),
)
conv2d_input.defvjp(
    lambda h, _y, _g, w, *, input_size, **geometry: _first(conv2d(h, w, **geometry), _g.shape),
    lambda h, _y, g, _w, *, input_size, **geometry: conv2d_weight(
        h, g, kernel_size=_w.shape[2:], **geometry
    ),
)
conv2d_weight.defvjp(
    lambda h, _y, _x, g, *, kernel_size, **geometry: conv2d_input(
        g, h, input_size=_x.shape[2:], **geometry
    ),
    lambda h, _y, x, _g, *, kernel_size, **geometry: _first(conv2d(x, h, **geometry), _g.shape),
)


# --- what to test them with

conv2d.test_with(*_samples("conv2d"))
conv2d_input.test_with(*_samples("conv2d_input"))
conv2d_weight.test_with(*_samples("conv2d_weight"))
