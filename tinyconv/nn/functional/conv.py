"""Convolutions: PyTorch's arguments, turned into the geometry of `tinyconv.ops.conv`."""

from __future__ import annotations

from typing import Any

from tinyconv.creation import eye
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.ops import conv as ops
from tinyconv.ops.shape import reshape, squeeze, unsqueeze
from tinyconv.samples import function, sample

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def pair(value: Any) -> Pair:
    """k -> (k, k)"""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def single(value: Any) -> int:
    return value if isinstance(value, int) else int(value[0])


def span(kernel: int, dilation: int) -> int:
    """How many rows a dilated kernel reaches over."""
    return dilation * (kernel - 1) + 1


def same_padding(kernel: int, dilation: int) -> Pair:
    """What keeps the size at stride 1; an odd row goes after, as in PyTorch."""
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2


def _padding(name: str, padding: Any, stride: Pair, kernel: Pair, dilation: Pair) -> Padding:
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise ShapeError(
                name,
                f"padding='same' keeps the size, stride {stride} divides it; "
                f"use padding={(kernel[0] // 2, kernel[1] // 2)}",
            )
        return same_padding(kernel[0], dilation[0]), same_padding(kernel[1], dilation[1])
    if isinstance(padding, str):
        raise ShapeError(name, f"padding={padding!r} is neither 'same', 'valid' nor numbers")
    top, left = pair(padding)
    return (top, top), (left, left)


# --- errors


def check_image(name: str, x: Any, channels: int) -> None:
    """Four axes, floats, and the channels that the weight wants, or an error with a fix."""
    shape = x.shape
    if len(shape) == 4 and shape[1] == channels and x.dtype.kind == "f":
        return
    if len(shape) == 3:
        is_batch = channels == 1 and shape[0] != 1
        hint = f"If {shape[0]} is the batch: x[:, None]" if is_batch else "A batch of one: x[None]"
        raise ShapeError(name, f"input {shape} is 3-D, need (N,C,H,W). {hint}")
    if len(shape) != 4:
        raise ShapeError(name, f"input {shape} is {len(shape)}-D, need (N,C,H,W)")
    if shape[1] != channels:
        message = f"input {shape}: axis 1 has {shape[1]} channels but the weight wants {channels}"
        if shape[3] == channels:
            message += f"; axis 3 is {channels}, so this looks like NHWC: x.permute(0, 3, 1, 2)"
        elif x.scope:
            message += f"; {x.scope} produced it"
        raise ShapeError(name, message)
    raise DTypeError(
        name,
        f"input is {x.dtype}, the weight holds floats; x.float() / 255 makes grey levels of bytes",
    )


def _check_fit(name: str, shape: Any, kernel: Any, padding: Padding, dilation: Pair) -> None:
    for axis, letter in enumerate("HW"):
        n, k, d = shape[2 + axis], kernel[axis], dilation[axis]
        padded = n + padding[axis][0] + padding[axis][1]
        if span(k, d) > padded:
            need = -(-(span(k, d) - n) // 2)
            sizes = f"{letter} = {n}" + (
                f" + {padded - n} of padding = {padded}" if padded != n else ""
            )
            raise ShapeError(
                name,
                f"k{k} with dilation {d} spans {d}*({k}-1)+1 = {span(k, d)} > {padded} ({sizes}). "
                f"Smallest padding that fits: {need}",
            )


def _check_groups(name: str, c_in: int, c_out: int, groups: int) -> None:
    if c_out % groups:
        raise ShapeError(
            name, f"{c_out} output channels in {groups} groups: {c_out}/{groups} is not whole"
        )


# --- convolutions


@function(
    sample((2, 3, 5, 6), (4, 3, 3, 3), (4,), 1, 1),
    sample((2, 4, 7, 6), (4, 2, 3, 2), None, [2, 1], [0, 1], [2, 1], 2),
    sample((2, 2, 5, 6), (3, 2, 4, 2), (3,), padding="same"),
    sample((1, 2, 5, 6), (3, 2, 2, 2), padding="valid"),
)
def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation: (N, C, H, W), (O, C/groups, KH, KW) -> (N, O, OH, OW).

    padding: numbers, "valid" or "same" (stride 1; an even kernel's odd row goes after).
    OH = floor((H + 2 PH - DH (KH - 1) - 1) / SH) + 1.  ShapeError shows the arithmetic.
    """
    stride, dilation = pair(stride), pair(dilation)
    kernel = weight.shape[2:]
    check_image("conv2d", input, weight.shape[1] * groups)
    _check_groups("conv2d", input.shape[1], weight.shape[0], groups)
    pads = _padding("conv2d", padding, stride, kernel, dilation)
    _check_fit("conv2d", input.shape, kernel, pads, dilation)
    y = ops.conv2d(input, weight, stride=stride, padding=pads, dilation=dilation, groups=groups)
    return y if bias is None else y + reshape(bias, shape=(1, -1, 1, 1))


@function(
    sample((2, 3, 7), (4, 3, 3), (4,), 2, 1),
    sample((2, 4, 8), (6, 2, 2), None, 1, "same", 3, 2),
)
def conv1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """(N, C, L), (O, C/groups, K) -> (N, O, OL): `conv2d` of images one pixel high."""
    _check_signal("conv1d", input, weight.shape[1] * groups)
    if not isinstance(padding, str):
        padding = (0, single(padding))
    y = conv2d(
        unsqueeze(input, 2), unsqueeze(weight, 2), bias, (1, single(stride)), padding,
        (1, single(dilation)), groups,
    )  # fmt: skip
    return squeeze(y, 2)


def _check_signal(name: str, x: Any, channels: int) -> None:
    if x.ndim != 3:
        raise ShapeError(
            name,
            f"input {x.shape} is {x.ndim}-D, need (N,C,L). "
            + ("If the first axis is the batch: x[:, None]" if x.ndim == 2 else ""),
        )
    if x.shape[1] != channels:
        message = (
            f"input {x.shape}: axis 1 has {x.shape[1]} channels but the weight wants {channels}"
        )
        if x.shape[2] == channels:
            message += f"; axis 2 is {channels}, so this looks like NLC: x.transpose(1, 2)"
        raise ShapeError(name, message)


@function(
    sample((2, 3, 4, 3), (3, 2, 3, 3), (2,), 2, 1, 1),
    sample((1, 4, 3, 4), (4, 3, 2, 3), None, [1, 2], [0, 1], 0, 2, [2, 1]),
)
def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The adjoint of `conv2d`: (N, C, H, W), (C, O/groups, KH, KW) -> (N, O, OH, OW).

    OH = (H - 1) SH - 2 PH + DH (KH - 1) + output_padding + 1.  Several input sizes of a strided
    convolution give one output size; output_padding says which of them is meant.
    """
    stride, dilation, extra = pair(stride), pair(dilation), pair(output_padding)
    top, left = pair(padding)
    check_image("conv_transpose2d", input, weight.shape[0])
    _check_groups("conv_transpose2d", weight.shape[1] * groups, input.shape[1], groups)
    kernel = weight.shape[2:]
    for e, s, d in zip(extra, stride, dilation, strict=True):
        if e >= max(s, d):
            raise ShapeError(
                "conv_transpose2d",
                f"output_padding {e} picks among the {s} sizes that stride {s} merges; it must be "
                f"below stride or dilation: at most {max(s, d) - 1}",
            )
    height, width = (
        (n - 1) * s - 2 * p + span(k, d) + e
        for n, s, p, k, d, e in zip(
            input.shape[2:], stride, (top, left), kernel, dilation, extra, strict=True
        )
    )
    if height < 1 or width < 1:
        raise ShapeError(
            "conv_transpose2d", f"the output would be {height} x {width}; use less padding"
        )
    y = ops.conv2d_input(
        input, weight, input_size=(height, width), stride=stride,
        padding=((top, top), (left, left)), dilation=dilation, groups=groups,
    )  # fmt: skip
    return y if bias is None else y + reshape(bias, shape=(1, -1, 1, 1))


@function(sample((2, 3, 5), (3, 2, 3), (2,), 2, 1, 1))
def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The adjoint of `conv1d`: (N, C, L), (C, O/groups, K) -> (N, O, OL)."""
    _check_signal("conv_transpose1d", input, weight.shape[0])
    y = conv_transpose2d(
        unsqueeze(input, 2), unsqueeze(weight, 2), bias, (1, single(stride)), (0, single(padding)),
        (0, single(output_padding)), groups, (1, single(dilation)),
    )  # fmt: skip
    return squeeze(y, 2)


# --- windows as columns: a convolution with the identity, and its adjoint


def _identity_kernels(channels: int, kernel: Pair, x: Any) -> Any:
    """(C * KH * KW, 1, KH, KW): for each channel, kernels that pick one place each."""
    one = eye(kernel[0] * kernel[1], dtype=x.dtype, device=x.device)
    return reshape(one, shape=(-1, 1, *kernel))[[*range(kernel[0] * kernel[1])] * channels]


@function(sample((2, 3, 5, 6), [2, 3], 1, 1, [2, 1]), sample((2, 2, 5, 6), 3, 2))
def unfold(
    input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """The windows as columns: (N, C, H, W) -> (N, C KH KW, L), L windows in row-major order."""
    kernel, channels = pair(kernel_size), input.shape[1]
    y = conv2d(
        input, _identity_kernels(channels, kernel, input), None, stride, padding, dilation, channels
    )
    return reshape(y, shape=(*y.shape[:2], -1))


@function(sample((2, 18, 36), [5, 6], [2, 3], 1, [1, 1], 1), sample((2, 18, 4), [5, 6], 3, 1, 0, 2))
def fold(
    input: Any,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Any:
    """Columns added up to an image: `unfold`'s adjoint, (N, C KH KW, L) -> (N, C, H, W)."""
    kernel, size, dilation, stride = (
        pair(kernel_size),
        pair(output_size),
        pair(dilation),
        pair(stride),
    )
    top, left = pair(padding)
    channels, rest = divmod(input.shape[1], kernel[0] * kernel[1])
    rows, columns = (
        (n + 2 * p - span(k, d)) // s + 1
        for n, p, k, d, s in zip(size, (top, left), kernel, dilation, stride, strict=True)
    )
    if rest or rows * columns != input.shape[2]:
        raise ShapeError(
            "fold",
            f"input {input.shape}: need (N, C*{kernel[0]}*{kernel[1]}, L) with L = "
            f"{rows}*{columns} = {rows * columns} windows for an output of {size}",
        )
    y = reshape(input, shape=(*input.shape[:2], rows, columns))
    return ops.conv2d_input(
        y, _identity_kernels(channels, kernel, input), input_size=size, stride=stride,
        padding=((top, top), (left, left)), dilation=dilation, groups=channels,
    )  # fmt: skip
