"""Layers that move, repeat or add entries: flatten, pad, upsample, shuffle."""

import math
from collections.abc import Sequence
from typing import Any

from tinyconv.errors import ShapeError
from tinyconv.nn import functional as F
from tinyconv.nn.conv import Size, sizes
from tinyconv.nn.module import Layer
from tinyconv.ops.shape import axis_of
from tinyconv.tensor import Tensor


class Flatten(Layer):
    """(N, C, H, W) -> (N, C*H*W): the axes from start_dim to end_dim as one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Layer):
    """One axis as several, one of them perhaps -1: Unflatten(1, (8, 7, 7)) undoes Flatten()."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim = dim
        self.unflattened_size = unflattened_size

    def forward(self, input: Tensor) -> Tensor:
        axis = axis_of("Unflatten", input.shape, self.dim)
        new = tuple(self.unflattened_size)
        n, known = input.shape[axis], math.prod(size for size in new if size != -1)
        if n % (known or 1) or (n != known and -1 not in new):
            product = "*".join(str(size) for size in new if size != -1)
            relation = "a multiple of " if -1 in new else ""
            raise ShapeError("Unflatten", f"axis {self.dim} of {input.shape} is {n}, which is not "
                                          f"{relation}{product} = {known}")
        return input.reshape(input.shape[:axis] + new + input.shape[axis + 1 :])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Upsample(Layer):
    """(N, C, H, W) to a size or by a factor, mode "nearest" or "bilinear".  See `F.interpolate`."""

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        if isinstance(scale_factor, (tuple, list)):
            self.scale_factor: Any = tuple(float(factor) for factor in scale_factor)
        else:
            self.scale_factor = float(scale_factor) if scale_factor else None
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, input: Tensor) -> Tensor:
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        name = "size" if self.scale_factor is None else "scale_factor"
        return f"{name}={getattr(self, name)!r}, mode={self.mode!r}"


class PixelShuffle(Layer):
    """(N, C*r*r, H, W) -> (N, C, H*r, W*r): channels become pixels.  See `F.pixel_shuffle`."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class _Pad(Layer):
    """padding: one number, or (left, right) / (left, right, top, bottom).  See `F.pad`."""

    dims = 1
    mode = "constant"
    value: float | None = None

    def __init__(self, padding: Size) -> None:
        super().__init__()
        self.padding = sizes(padding, 2 * self.dims, type(self).__name__, "padding")

    def forward(self, input: Tensor) -> Tensor:
        if self.mode != "constant" and input.ndim not in (self.dims + 1, self.dims + 2):
            axes = "(C,L) or (N,C,L)" if self.dims == 1 else "(C,H,W) or (N,C,H,W)"
            raise ShapeError(
                type(self).__name__, f"input {input.shape} is {input.ndim}-D, need {axes}"
            )
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return str(self.padding)


class ConstantPad1d(_Pad):
    """One value before and after the last axis."""

    def __init__(self, padding: Size, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad2d(ConstantPad1d):
    """One value around the image."""

    dims = 2


class ZeroPad1d(_Pad):
    """Zeros before and after the last axis."""


class ZeroPad2d(ZeroPad1d):
    """Zeros around the image."""

    dims = 2


class ReflectionPad1d(_Pad):
    """The signal mirrored at its ends: cb|abc|ba."""

    mode = "reflect"


class ReflectionPad2d(ReflectionPad1d):
    """The image mirrored at its edges, which are not repeated."""

    dims = 2


class ReplicationPad1d(_Pad):
    """The end entries repeated: aa|abc|cc."""

    mode = "replicate"


class ReplicationPad2d(ReplicationPad1d):
    """The edge pixels repeated."""

    dims = 2


class CircularPad1d(_Pad):
    """The signal repeated: bc|abc|ab."""

    mode = "circular"


class CircularPad2d(CircularPad1d):
    """The image repeated, as on a torus."""

    dims = 2
