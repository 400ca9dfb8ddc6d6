"""Pooling layers: (N, C, H, W) -> (N, C, OH, OW).  Constructors are PyTorch's."""

from collections.abc import Sequence
from typing import Any

from tinyconv.nn import functional as F
from tinyconv.nn.conv import Size, short, sizes
from tinyconv.nn.module import Layer
from tinyconv.tensor import Tensor


class _Windows(Layer):
    kernel_size: Any
    stride: Any

    def _set(self, **given: Any) -> None:
        """Sizes, kept as they were written because they are printed so; None: the default."""
        for name, value in given.items():
            if value is not None:
                sizes(value, 2, type(self).__name__, name, 0 if name == "padding" else 1)
            setattr(self, name, value)


class _Pool(_Windows):
    padding: Any = 0

    def brief(self) -> str:
        name = type(self).__name__
        kernel, stride = sizes(self.kernel_size, 2, name, ""), sizes(self.stride, 2, name, "")
        padding = sizes(self.padding, 2, name, "")
        end = f", p{short(padding)}" if any(padding) else ""
        return f"{name}(k{short(kernel)}, s{short(stride)}{end})"


class MaxPool2d(_Pool):
    """The greatest entry of each window.  See `F.max_pool2d`."""

    dilation: Any

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self._set(kernel_size=kernel_size, stride=kernel_size if stride is None else stride,
                  padding=padding, dilation=dilation)
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        return F.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation,
                            ceil_mode=self.ceil_mode, return_indices=self.return_indices)

    def extra_repr(self) -> str:
        return (f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
                f"dilation={self.dilation}, ceil_mode={self.ceil_mode}")


class MaxUnpool2d(_Pool):
    """Puts a max-pool's output back where the maxima were, zeros elsewhere."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = sizes(kernel_size, 2, name, "kernel_size")
        self.stride = self.kernel_size if stride is None else sizes(stride, 2, name, "stride")
        self.padding = sizes(padding, 2, name, "padding")

    def forward(
        self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding,
                              output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(_Pool):
    """The mean of each window.  See `F.avg_pool2d`."""

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
        ceil_mode: bool = False, count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self._set(kernel_size=kernel_size, stride=kernel_size if stride is None else stride,
                  padding=padding)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
                            self.count_include_pad, self.divisor_override)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class LPPool2d(_Windows):
    """The p-norm of each window: (sum of x^p)^(1/p).  See `F.lp_pool2d`."""

    def __init__(
        self, norm_type: float, kernel_size: Size, stride: Size | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self._set(kernel_size=kernel_size, stride=stride)
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return F.lp_pool2d(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return (f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, "
                f"stride={self.stride}, ceil_mode={self.ceil_mode}")


class AdaptiveAvgPool2d(Layer):
    """The mean of windows chosen so that the output has ``output_size``; None keeps an axis."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(Layer):
    """The greatest entry of windows chosen so that the output has ``output_size``."""

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
