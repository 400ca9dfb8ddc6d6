"""Convolutions: PyTorch's arguments, turned into the geometry of `tinyconv.ops.conv`."""

from __future__ import annotations

import functools
from typing import Any

from tinyconv.backend.reference import output_size as output_size_of
from tinyconv.context import context
from tinyconv.errors import ShapeError
from tinyconv.nn.functional.checks import (
    alone,
    check_dtype,
    check_images,
    check_shape,
    in_autocast,
    or_one,
    whole,
)
from tinyconv.ops import conv as ops, move as moves
from tinyconv.ops.shape import reshape, squeeze, unsqueeze
from tinyconv.samples import function, sample

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def pair(value: Any, what: str) -> Pair:
    """k or (k,) -> (k, k); ``what`` is the argument's name."""
    given = value if isinstance(value, (tuple, list)) else (value,)
    if len(given) not in (1, 2):
        raise ShapeError("sizes", f"{what}={tuple(value)} must be one number, or (height, width)")
    return whole("sizes", what, given[0]), whole("sizes", what, given[-1])


def single(value: Any, what: str) -> int:
    """k or (k,) -> k"""
    given = value if isinstance(value, (tuple, list)) else (value,)
    if len(given) != 1:
        raise ShapeError("sizes", f"{what}={tuple(value)} must be one number")
    return whole("sizes", what, given[0])


def span(kernel: int, dilation: int) -> int:
    """How many rows a dilated kernel reaches over."""
    return dilation * (kernel - 1) + 1


def same_padding(kernel: int, dilation: int) -> Pair:
    """What keeps the size at stride 1; an odd row goes after, as in PyTorch."""
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2


def same_with_stride(name: str, stride: Any, kernel: Any, dilation: Any) -> ShapeError:
    """The error for ``same`` with a stride, and the padding that gives ceil(size / stride)."""
    pads = tuple(same_padding(k, d)[1] for k, d in zip(kernel, dilation, strict=True))
    shown = pads[0] if len(set(pads)) == 1 else pads
    return ShapeError(
        name,
        f"padding='same' keeps the size, stride={tuple(stride)} divides it: use padding={shown}",
    )


def _padding(name: str, padding: Any, stride: Pair, kernel: Pair, dilation: Pair) -> Padding:
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise same_with_stride(name, stride, kernel, dilation)
        return same_padding(kernel[0], dilation[0]), same_padding(kernel[1], dilation[1])
    if isinstance(padding, str):
        raise ShapeError(name, f"padding={padding!r} is neither 'same', 'valid' nor numbers")
    top, left = pair(padding, "padding")
    return (top, top), (left, left)


# --- errors


def _is_one(x: Any, ndim: int, channels: int) -> bool:
    """One sample without a batch axis: its first axis is what the weight wants for channels."""
    return x.ndim == ndim - 1 and x.shape[0] == channels


def _check_image(name: str, x: Any, weight: Any, channels: int, groups: int = 1) -> None:
    """Four axes and the channels and dtype that the weight wants, or an error with a fix."""
    shape = x.shape
    if len(shape) == 3:
        if channels == 1 != shape[0]:
            hint = f"If {shape[0]} is the batch: x[:, None]"
        elif shape[2] == channels != shape[0]:
            hint = f"Axis 2 is {channels}, so this looks like HWC: x.permute(2, 0, 1)[None]"
        else:
            hint = "A batch of one: x[None]"
        raise ShapeError(name, f"input {shape} is 3-D, need (N,C,H,W). {hint}")
    check_images(name, x, channels)
    _check_channels(name, x, weight, channels, groups)


def _check_signal(name: str, x: Any, weight: Any, channels: int, groups: int = 1) -> None:
    """Three axes and the channels and dtype that the weight wants, or an error with a fix."""
    if x.ndim != 3:
        hint = ". If the first axis is the batch: x[:, None]" if x.ndim == 2 else ""
        raise ShapeError(name, f"input {x.shape} is {x.ndim}-D, need (N,C,L){hint}")
    _check_channels(name, x, weight, channels, groups)


def _check_channels(name: str, x: Any, weight: Any, channels: int, groups: int) -> None:
    """What images and signals share."""
    _check_some(name, groups)
    got, last = x.shape[1], x.ndim - 1
    if got == channels:
        check_dtype(name, x, weight)
        return
    wanted = f"{channels}"
    if groups > 1:
        wanted += f" = {channels // groups}*{groups} groups"
    if x.shape[last] == channels != x.shape[-2]:  # else those are height and width
        axes, fix = ("NHWC", "permute(0, 3, 1, 2)") if last == 3 else ("NLC", "transpose(1, 2)")
        hint = f"; axis {last} is {channels}, so this looks like {axes}: x.{fix}"
    else:
        hint = f"; {x.scope} produced it" if x.scope else ""
        hint += _channels_fix(name, got, weight.shape, groups)
    raise ShapeError(
        name, f"input {x.shape}: axis 1 has {got} channels but the weight wants {wanted}{hint}"
    )


def _channels_fix(name: str, got: int, weight: tuple[int, ...], groups: int) -> str:
    """Of a layer the argument that fits, of a function the weight's shape."""
    if context.module is not None and context.module.is_layer:
        return f". in_channels={got} fits"
    if "transpose" in name:
        return f". A weight {(got, *weight[1:])} fits"
    return f". A weight {(weight[0], got // groups, *weight[2:])} fits" if got % groups == 0 else ""


def _check_weight(name: str, weight: Any, axes: str) -> None:
    if weight.ndim != axes.count(",") + 1:
        raise ShapeError(name, f"weight {weight.shape} is {weight.ndim}-D, need {axes}")


def check_least(name: str, stride: Pair, padding: Padding, dilation: Pair) -> None:
    """Windows that move on and padding that adds, of convolutions and pools."""
    if min(stride) < 1 or min(dilation) < 1 or min(map(min, padding)) < 0:
        raise ShapeError(
            name,
            f"stride {stride} and dilation {dilation} must be at least 1, padding {padding} at "
            "least 0",
        )


def _check_fit(name: str, shape: Any, kernel: Any, padding: Padding, dilation: Pair) -> None:
    missing = [
        span(k, d) - n - sum(p)
        for n, k, p, d in zip(shape[2:], kernel, padding, dilation, strict=True)
    ]
    if max(missing) <= 0:
        return
    axis = 0 if missing[0] > 0 else 1
    n, k, d, around = shape[2 + axis], kernel[axis], dilation[axis], sum(padding[axis])
    reach = f"k{k} spans {k}"
    if d > 1:
        reach = f"k{k} with dilation {d} spans {d}*({k}-1)+1 = {span(k, d)}"
    letter = "L" if name.endswith("1d") else "HW"[axis]
    sizes = f"{letter} = {n}" + (f" + {around} of padding" if around else "")
    need = max(
        -(-(span(k, d) - n) // 2) for n, k, d in zip(shape[2:], kernel, dilation, strict=True)
    )
    raise ShapeError(name, f"{reach} > {n + around} ({sizes}). Smallest padding that fits: {need}")


def _check_some(name: str, groups: int) -> None:
    if groups < 1:
        raise ShapeError(name, f"groups is {groups}, it must be at least 1")


def _check_groups(name: str, c_in: int, c_out: int, groups: int) -> None:
    _check_some(name, groups)
    for what, n in (("input", c_in), ("output", c_out)):
        if n % groups:
            fits = [g for g in range(1, max(groups, 2)) if c_in % g == 0 == c_out % g]
            raise ShapeError(
                name,
                f"{n} {what} channels in {groups} groups: {n}/{groups} is not whole. "
                f"groups={fits[-1]} fits",
            )


# --- convolutions


@function(
    sample((2, 3, 5, 6), (4, 3, 3, 3), (4,), 1, 1),
    sample((2, 4, 7, 6), (4, 2, 3, 2), None, [2, 1], [0, 1], [2, 1], 2),
    sample((2, 2, 5, 6), (3, 2, 4, 2), (3,), padding="same"),
    sample((1, 2, 5, 6), (3, 2, 2, 2), padding="valid"),
    sample((2, 5, 4), (3, 2, 3, 2), (3,), 1, 1),
    takes="floats",
)
@in_autocast
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
    shape, kernels = input.shape, weight.shape
    fits = len(shape) == len(kernels) == 4 and shape[1] == kernels[1] * groups
    if not fits or input.dtype != weight.dtype:  # asked first, because these say what is wrong
        _check_weight("conv2d", weight, "(O, C/groups, KH, KW)")
        if _is_one(input, 4, weight.shape[1] * groups):
            return alone(conv2d, (input,), weight, bias, stride, padding, dilation, groups)
        _check_image("conv2d", input, weight, weight.shape[1] * groups, groups)
    return _convolved("conv2d", input, weight, bias, stride, padding, dilation, groups)


def _convolved(
    name: str, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """What conv1d, conv2d and unfold share, once the input's axes are known to be right."""
    shapes, how = (x.shape, weight.shape), (stride, padding, dilation, groups)
    check_shape(name, "bias", bias, shapes[1][:1])
    try:
        geometry = _geometry(name, *shapes, *how)
    except TypeError:  # a list, which has no hash
        geometry = _geometry(name, *shapes, *(tuple(v) if type(v) is list else v for v in how))
    y = ops.conv2d(x, weight, **geometry)
    return y if bias is None else y + reshape(bias, shape=(1, -1, 1, 1))


@functools.lru_cache(maxsize=4096)  # the same layer meets the same shape at every step
def _geometry(
    name: str, x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> dict[str, Any]:
    """Given two shapes and PyTorch's arguments, the checked keywords of `ops.conv2d`."""
    stride, dilation, kernel = pair(stride, "stride"), pair(dilation, "dilation"), weight[2:]
    _check_groups(name, x[1], weight[0], groups)
    pads = _padding(name, padding, stride, kernel, dilation)
    check_least(name, stride, pads, dilation)
    _check_fit(name, x, kernel, pads, dilation)
    return {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}


@function(
    sample((2, 3, 7), (4, 3, 3), (4,), 2, 1),
    sample((2, 4, 8), (6, 2, 2), None, 1, "same", 3, 2),
    sample((2, 7), (3, 2, 3), (3,), 2, 1),
    takes="floats",
)
@in_autocast
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
    _check_weight("conv1d", weight, "(O, C/groups, K)")
    if _is_one(input, 3, weight.shape[1] * groups):
        return alone(conv1d, (input,), weight, bias, stride, padding, dilation, groups)
    _check_signal("conv1d", input, weight, weight.shape[1] * groups, groups)
    if not isinstance(padding, str):
        padding = (0, single(padding, "padding"))
    stride, dilation = single(stride, "stride"), single(dilation, "dilation")
    y = _convolved(
        "conv1d", unsqueeze(input, 2), unsqueeze(weight, 2), bias, (1, stride), padding,
        (1, dilation), groups,
    )  # fmt: skip
    return squeeze(y, 2)


@function(
    sample((2, 3, 4, 3), (3, 2, 3, 3), (2,), 2, 1, 1),
    sample((1, 4, 3, 4), (4, 3, 2, 3), None, [1, 2], [0, 1], 0, 2, [2, 1]),
    sample((1, 2, 2, 3), (2, 3, 2, 3), (3,), 1, [1, 0], [2, 1], 1, [3, 2]),
    sample((2, 3, 2), (2, 3, 2, 2), (3,), 2),
    takes="floats",
)
@in_autocast
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
    _check_weight("conv_transpose2d", weight, "(C, O/groups, KH, KW)")
    if _is_one(input, 4, weight.shape[0]):
        how = stride, padding, output_padding, groups, dilation
        return alone(conv_transpose2d, (input,), weight, bias, *how)
    _check_image("conv_transpose2d", input, weight, weight.shape[0])
    return _transposed(
        "conv_transpose2d", input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def _transposed(
    name: str, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, output_padding: Any,
    groups: int, dilation: Any,
) -> Any:  # fmt: skip
    """What both transposed convolutions share, once the input's axes are known to be right."""
    stride, dilation, kernel = pair(stride, "stride"), pair(dilation, "dilation"), weight.shape[2:]
    (top, left), extra = pair(padding, "padding"), pair(output_padding, "output_padding")
    _check_groups(name, weight.shape[1] * groups, x.shape[1], groups)
    check_shape(name, "bias", bias, (weight.shape[1] * groups,))
    pads = ((top, top), (left, left))
    check_least(name, stride, pads, dilation)
    for e, s, d in zip(extra, stride, dilation, strict=True):
        if not 0 <= e < max(s, d):
            raise ShapeError(
                name,
                f"output_padding {e} picks among the {s} sizes that stride {s} merges; it must be "
                f"below stride or dilation, 0..{max(s, d) - 1}: output_padding={max(s, d) - 1}",
            )
    height, width = size = tuple(
        (n - 1) * s - 2 * p + span(k, d) + e
        for n, s, p, k, d, e in zip(
            x.shape[2:], stride, (top, left), kernel, dilation, extra, strict=True
        )
    )
    if min(size) < 1:
        axis = 0 if height < 1 else 1
        n, s, p, e = x.shape[2 + axis], stride[axis], (top, left)[axis], extra[axis]
        reach = span(kernel[axis], dilation[axis])
        raise ShapeError(
            name,
            f"({n}-1)*{s} - 2*{p} + {reach} + {e} = {size[axis]} {('rows', 'columns')[axis]} of "
            f"output. Largest padding that leaves one: {((n - 1) * s + reach + e - 1) // 2}",
        )
    y = ops.conv2d_input(
        x, weight, input_size=(height, width), stride=stride, padding=pads, dilation=dilation,
        groups=groups,
    )  # fmt: skip
    return y if bias is None else y + reshape(bias, shape=(1, -1, 1, 1))


@function(
    sample((2, 3, 5), (3, 2, 3), (2,), 2, 1, 1),
    sample((3, 5), (3, 2, 3), (2,), 2),
    takes="floats",
)
@in_autocast
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
    _check_weight("conv_transpose1d", weight, "(C, O/groups, K)")
    if _is_one(input, 3, weight.shape[0]):
        how = stride, padding, output_padding, groups, dilation
        return alone(conv_transpose1d, (input,), weight, bias, *how)
    _check_signal("conv_transpose1d", input, weight, weight.shape[0])
    stride, dilation = single(stride, "stride"), single(dilation, "dilation")
    padding, extra = single(padding, "padding"), single(output_padding, "output_padding")
    y = _transposed(
        "conv_transpose1d", unsqueeze(input, 2), unsqueeze(weight, 2), bias, (1, stride),
        (0, padding), (0, extra), groups, (1, dilation),
    )  # fmt: skip
    return squeeze(y, 2)


# --- windows as columns, and the adjoint


@function(
    sample((2, 3, 5, 6), [2, 3], 1, 1, [2, 1]),
    sample((2, 2, 5, 6), 3, 2),
    sample((2, 4, 3), 2),
    takes="floats",
)
@or_one(4)
def unfold(
    input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """The windows as columns: (N, C, H, W) -> (N, C KH KW, L), L windows in row-major order."""
    check_images("unfold", input)
    kernel = pair(kernel_size, "kernel_size")
    if 0 in input.shape[1:]:
        said = f"input {input.shape} has no pixels; only the batch may be empty"
        raise ShapeError("unfold", said)
    window = _window("unfold", kernel, stride, padding, dilation)
    _check_fit("unfold", input.shape, kernel, window["padding"], window["dilation"])
    return moves.unfold(input, **window)


def _window(name: str, kernel: Pair, stride: Any, padding: Any, dilation: Any) -> dict[str, Any]:
    """The checked keywords of `moves.unfold` and `moves.fold`."""
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    top, left = pair(padding, "padding")
    pads = ((top, top), (left, left))
    if min(kernel) < 1:
        raise ShapeError(name, f"kernel_size {kernel} must be at least 1")
    check_least(name, stride, pads, dilation)
    return {"kernel_size": kernel, "stride": stride, "padding": pads, "dilation": dilation}


@function(
    sample((2, 18, 36), [5, 6], [2, 3], 1, [1, 1], 1),
    sample((2, 18, 4), [5, 6], 3, 1, 0, 2),
    sample((8, 4), 3, 2),
    takes="floats",
)
@or_one(3)
def fold(
    input: Any,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Any:
    """Columns added up to an image: `unfold`'s adjoint, (N, C KH KW, L) -> (N, C, H, W)."""
    kernel, size = pair(kernel_size, "kernel_size"), pair(output_size, "output_size")
    window = _window("fold", kernel, stride, padding, dilation)
    rows, columns = output_size_of(size, **window)
    if input.ndim != 3:
        said = f"input {input.shape} is {input.ndim}-D, need (N, C*KH*KW, L) or (C*KH*KW, L)"
        raise ShapeError("fold", said)
    if min(rows, columns) < 1:
        raise ShapeError("fold", f"no window of {kernel} fits into an output of {size}")
    if input.shape[1] % (kernel[0] * kernel[1]) or rows * columns != input.shape[2]:
        raise ShapeError(
            "fold",
            f"input {input.shape}: need (N, C*{kernel[0]}*{kernel[1]}, L) with L = "
            f"{rows}*{columns} = {rows * columns} windows for an output of {size}",
        )
    return moves.fold(input, input_size=size, **window)
