"""Convolution layers.

Axes: N batch, C channels, L length, H x W image; (N, C, H, W) in, (N, O, OH, OW) out.
Constructors, attribute names and the first weights are PyTorch's.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.errors import ShapeError
from tinyconv.nn import functional as F, init
from tinyconv.nn.functional.checks import whole
from tinyconv.nn.functional.conv import same_with_stride
from tinyconv.nn.module import Layer, new_parameter
from tinyconv.tensor import Tensor

Size = int | Sequence[int]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def sizes(
    value: Any, dims: int, layer: str, name: str, least: int | None = None
) -> tuple[int, ...]:
    """One number per axis, none below ``least``: 3 means (3, 3)."""
    out = (value,) * dims if np.ndim(value) == 0 else tuple(value)
    if len(out) != dims:
        raise ShapeError(layer, f"{name}={value} has {len(out)} numbers, one or {dims} are needed")
    numbers = tuple(whole(layer, name, n) for n in out)
    if least is not None and min(numbers) < least:
        raise ShapeError(layer, f"{name}={value} must be at least {least}")
    return numbers


def short(value: Sequence[int]) -> str:
    """3 for (3, 3), 3x5 for (3, 5)."""
    return str(value[0]) if len(set(value)) == 1 else "x".join(map(str, value))


class _Conv(Layer):
    """What the four convolutions share; ``dims`` is the number of spatial axes."""

    dims: int
    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size,
        padding: str | Size, dilation: Size, output_padding: Size, groups: int, bias: bool,
        padding_mode: str, device: str | None, dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        in_channels = whole(name, "in_channels", in_channels)
        out_channels = whole(name, "out_channels", out_channels)
        groups = whole(name, "groups", groups)
        self._check(in_channels, out_channels, groups, padding, padding_mode)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = sizes(kernel_size, self.dims, name, "kernel_size", 1)
        self.stride = sizes(stride, self.dims, name, "stride", 1)
        self.padding: Any = padding
        if not isinstance(padding, str):
            self.padding = sizes(padding, self.dims, name, "padding", 0)
        self.dilation = sizes(dilation, self.dims, name, "dilation", 1)
        self.output_padding = sizes(output_padding, self.dims, name, "output_padding", 0)
        self.groups = groups
        self.padding_mode = padding_mode
        if padding == "same" and set(self.stride) != {1}:
            raise same_with_stride(name, self.stride, self.kernel_size, self.dilation)
        ends = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (ends[0], ends[1] // groups, *self.kernel_size)
        self.weight = new_parameter(shape, device, dtype)
        made = new_parameter((out_channels,), device, dtype) if bias else None
        self.register_parameter("bias", made)
        self.reset_parameters()

    def _check(
        self, in_channels: int, out_channels: int, groups: int, padding: Any, mode: str
    ) -> None:
        name = type(self).__name__
        if min(in_channels, out_channels, groups) < 1:
            raise ShapeError(name, f"in_channels={in_channels}, out_channels={out_channels} and "
                                   f"groups={groups} must all be at least 1")
        check_groups(name, groups, in_channels=in_channels, out_channels=out_channels)
        if isinstance(padding, str) and self.transposed:
            raise ShapeError(name, f"padding={padding!r} is for a convolution; what a transposed "
                                   "one cuts off is a number: padding=1")
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ShapeError(name, f"padding={padding!r} is no number, nor 'same' or 'valid'")
        if mode not in PADDING_MODES or (self.transposed and mode != "zeros"):
            known = "'zeros'" if self.transposed else ", ".join(map(repr, PADDING_MODES))
            raise ShapeError(name, f"padding_mode={mode!r}; there is {known}")

    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(fan_in), as PyTorch."""
        init.default_(self.weight, self.bias)

    def brief(self) -> str:
        parts = [f"{self.in_channels}->{self.out_channels}", f"k{short(self.kernel_size)}"]
        for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1)):
            value = getattr(self, name)
            if isinstance(value, str):
                parts.append(value)
            elif set(value) != {usual}:
                parts.append(name[0] + short(value))
        parts += [f"g{self.groups}"] if self.groups > 1 else []
        return f"{type(self).__name__}({', '.join(parts)})"

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}"
        text += f", kernel_size={self.kernel_size}, stride={self.stride}"
        for name, usual in (("padding", 0), ("dilation", 1), ("output_padding", 0)):
            value = getattr(self, name)
            text += f", {name}={value}" if value != (usual,) * self.dims else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += ", bias=False" if self.bias is None else ""
        text += f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else ""
        return text


def check_groups(layer: str, groups: int, **channels: int) -> None:
    """ShapeError with the arithmetic unless ``groups`` divides every channel count."""
    if groups < 1:
        raise ShapeError(layer, f"groups={groups} must be at least 1")
    for name, count in channels.items():
        if count % groups:
            common = math.gcd(*channels.values())
            fits = ", ".join(str(g) for g in range(1, common + 1) if common % g == 0)
            raise ShapeError(
                layer, f"{groups} groups do not divide {name}={count}: {count} = {groups}*"
                       f"{count // groups} + {count % groups}. What fits: {fits}"
            )


class _PlainConv(_Conv):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
        padding: str | Size = 0, dilation: Size = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", device: str | None = None, dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, 0,
                         groups, bias, padding_mode, device, dtype)

    def _padded(self, input: Tensor) -> tuple[Tensor, Any]:
        """The input and the padding that is left for the convolution itself."""
        if self.padding_mode == "zeros":
            return input, self.padding
        around: list[int] = []  # last axis first, as F.pad wants it
        for axis in reversed(range(self.dims)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                around += [total // 2, total - total // 2]
            else:
                around += [0 if self.padding == "valid" else self.padding[axis]] * 2
        return F.pad(input, tuple(around), self.padding_mode), 0


class Conv1d(_PlainConv):
    """(N, C, L) -> (N, O, OL); weight (O, C/groups, K), bias (O,).  See `F.conv1d`."""

    dims = 1

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        return F.conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation,
                        self.groups)


class Conv2d(_PlainConv):
    """(N, C, H, W) -> (N, O, OH, OW); weight (O, C/groups, KH, KW), bias (O,).  See `F.conv2d`.

    padding: numbers, "valid" (none) or "same" (stride 1; an even kernel pads one more at the end).
    padding_mode: what stands there: "zeros", "reflect", "replicate" or "circular".
    """

    dims = 2

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation,
                        self.groups)


class _ConvTranspose(_Conv):
    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
        padding: Size = 0, output_padding: Size = 0, groups: int = 1, bias: bool = True,
        dilation: Size = 1, padding_mode: str = "zeros", device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation,
                         output_padding, groups, bias, padding_mode, device, dtype)

    def _output_padding(self, input: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """The output_padding that gives the output size asked for."""
        if output_size is None:
            return self.output_padding
        wanted = tuple(output_size)[-self.dims :]
        geometry = zip(input.shape[-self.dims :], self.stride, self.padding, self.dilation,
                       self.kernel_size, strict=True)
        least = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in geometry)
        extra = tuple(n - low for n, low in zip(wanted, least, strict=False))
        most = tuple(low + s - 1 for low, s in zip(least, self.stride, strict=True))
        if len(extra) != self.dims or any(
            not 0 <= n < s for n, s in zip(extra, self.stride, strict=True)
        ):
            raise ShapeError(
                type(self).__name__,
                f"output_size={tuple(output_size)} cannot come from the input {input.shape}: "
                f"(n - 1)*stride - 2*padding + dilation*(kernel_size - 1) + 1 = {least}, and the "
                f"stride {self.stride} leaves room up to {most}",
            )
        return extra


class ConvTranspose1d(_ConvTranspose):
    """(N, C, L) -> (N, O, OL), the adjoint of a Conv1d; weight (C, O/groups, K)."""

    dims = 1

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self._output_padding(input, output_size)
        return F.conv_transpose1d(input, self.weight, self.bias, self.stride, self.padding, extra,
                                  self.groups, self.dilation)


class ConvTranspose2d(_ConvTranspose):
    """(N, C, H, W) -> (N, O, OH, OW), the adjoint of a Conv2d; weight (C, O/groups, KH, KW).

    Several input sizes of a strided convolution give one output size; output_padding, or the
    argument output_size of the call, says which of them to go back to.
    """

    dims = 2

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self._output_padding(input, output_size)
        return F.conv_transpose2d(input, self.weight, self.bias, self.stride, self.padding, extra,
                                  self.groups, self.dilation)


class Unfold(Layer):
    """(N, C, H, W) -> (N, C*KH*KW, windows): every window as a column."""

    def __init__(
        self, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (f"kernel_size={self.kernel_size}, dilation={self.dilation}, "
                f"padding={self.padding}, stride={self.stride}")


class Fold(Unfold):
    """(N, C*KH*KW, windows) -> (N, C, H, W): windows added up where they overlap."""

    def __init__(
        self, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0,
        stride: Size = 1,
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding,
                      self.stride)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, {super().extra_repr()}"
