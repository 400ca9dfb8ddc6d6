"""Normalisation layers.  Axes: N batch, C channels, ... the rest; constructors are PyTorch's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.autograd import no_grad
from tinyconv.creation import ones, tensor, zeros
from tinyconv.dtypes import int64
from tinyconv.errors import ShapeError
from tinyconv.nn import functional as F, init
from tinyconv.nn.activation import ReLU
from tinyconv.nn.conv import check_groups
from tinyconv.nn.functional.checks import after_flatten, alone, whole
from tinyconv.nn.functional.norm import tracked_batch_norm
from tinyconv.nn.module import Layer, Module, new_parameter
from tinyconv.tensor import Tensor


class _Affine(Layer):
    """A learned scale and shift, or none."""

    def _add_affine(
        self, shape: tuple[int, ...], affine: bool, bias: bool, device: str | None, dtype: Any
    ) -> None:
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            made = new_parameter(shape, device, dtype) if wanted else None
            self.register_parameter(name, made)

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _RunningNorm(_Affine):
    """What batch and instance norm share: channels on axis 1, and running statistics."""

    ndims: tuple[int, ...]  # how many axes the input may have
    axes: str

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool,
        track_running_stats: bool, device: str | None, dtype: Any, bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = num_features = whole(type(self).__name__, "num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._add_affine((num_features,), affine, bias, device, dtype)
        on, kind = track_running_stats, {"device": device, "dtype": dtype}
        self.register_buffer("running_mean", zeros(num_features, **kind) if on else None)
        self.register_buffer("running_var", ones(num_features, **kind) if on else None)
        self.register_buffer("num_batches_tracked", tensor(0, int64, device) if on else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, and running statistics as if no batch was seen."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check(self, input: Tensor) -> None:
        name = type(self).__name__
        if input.ndim not in self.ndims:
            hint = after_flatten(input) if 4 in self.ndims else self._for_images(input)
            raise ShapeError(name, f"input {input.shape} is {input.ndim}-D, need {self.axes}{hint}")
        channels = input.shape[1]
        if channels != self.num_features:
            origin = f"; {input.scope} produced it" if input.scope else ""
            raise ShapeError(name, f"input has {channels} channels on axis 1 of {input.shape}, "
                                   f"{self.brief()} expects {self.num_features}{origin}. "
                                   f"{self._fix(input.shape)}")

    def _for_images(self, input: Tensor) -> str:
        name = type(self).__name__.replace("1d", "2d")
        return f". For images: {name}({self.num_features})" if input.ndim == 4 else ""

    def _fix(self, shape: tuple[int, ...]) -> str:
        if len(shape) == 4 and shape[3] == self.num_features:
            return f"Axis 3 is {shape[3]}, so this looks like NHWC: x.permute(0, 3, 1, 2)"
        return f"{type(self).__name__}({shape[1]}) fits"

    def brief(self) -> str:
        return f"{type(self).__name__}({self.num_features})"

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                f"affine={self.affine}, bias={self.bias is not None}, "
                f"track_running_stats={self.track_running_stats}")


class BatchNorm(_RunningNorm):
    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1,
        affine: bool = True, track_running_stats: bool = True, device: str | None = None,
        dtype: Any = None, *, bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        )

    def forward(
        self, input: Tensor, *, residual: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """relu: relu(norm + residual), in one pass (`norm_relu`)."""
        self._check(input)
        tracking = self.training and self.track_running_stats
        if F.batch_norm is not _BATCH_NORM:
            return self._replaced(input, tracking)
        use = tracking or not self.training
        mean, var = (self.running_mean, self.running_var) if use else (None, None)
        training = self.training or self.running_mean is None
        return tracked_batch_norm(
            input, mean, var, self.num_batches_tracked if tracking else None, self.weight,
            self.bias, training, self.momentum, self.eps, relu=relu, residual=residual,
        )


    def _replaced(self, input: Tensor, tracking: bool) -> Tensor:
        """By what somebody put in the place of F.batch_norm, called as PyTorch calls it."""
        momentum = 0.0 if self.momentum is None else self.momentum
        if tracking and self.num_batches_tracked is not None:
            with no_grad():
                self.num_batches_tracked += 1
            if self.momentum is None:
                momentum = 1.0 / self.num_batches_tracked.item()
        use = tracking or not self.training
        mean, var = (self.running_mean, self.running_var) if use else (None, None)
        training = self.training or self.running_mean is None
        return F.batch_norm(
            input, mean, var, self.weight, self.bias, training, momentum, self.eps
        )


class BatchNorm1d(BatchNorm):
    """Each channel of (N, C) or (N, C, L) to mean 0 and variance 1 over the batch.

    Training uses the batch's statistics and updates the running ones (momentum None: their mean
    over all batches); evaluation uses the running ones.  See `F.batch_norm`.
    """

    ndims = (2, 3)
    axes = "(N,C) or (N,C,L)"


class BatchNorm2d(BatchNorm):
    """Each channel of (N, C, H, W) to mean 0 and variance 1 over batch and image.

    Training uses the batch's statistics and updates the running ones (momentum None: their mean
    over all batches); evaluation uses the running ones.  See `F.batch_norm`.
    """

    ndims = (4,)
    axes = "(N,C,H,W)"


# Norms whose forward can end in a ReLU, and what a call of one and of the ReLU after it runs
# through: the classes, with their forward and __call__.
_TAKE_RELU: dict[type[Module], list[tuple[type[Module], Any, Any]]] = {}
_RELU, _BATCH_NORM = F.relu, F.batch_norm


def take_relu(norm: type[Module]) -> None:
    """Declare that ``norm.forward`` takes ``residual`` and ``relu`` as `BatchNorm.forward`."""
    bases: list[Any] = [c for c in norm.__mro__ if "forward" in vars(c) and c is not Module]
    _TAKE_RELU[norm] = [(cls, cls.forward, cls.__call__) for cls in {norm, *bases, ReLU}]


take_relu(BatchNorm1d)
take_relu(BatchNorm2d)


def norm_relu(norm: Module, relu: Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """relu(norm(x) + residual): in one operation where a plain batch norm meets a plain ReLU.

    Anything else, and modules that somebody changed, are called one after the other.
    """
    if fuses(norm, relu):
        return norm(x, residual=residual, relu=True)
    y = norm(x)
    if residual is not None:
        y += residual
    return relu(y)


def fuses(norm: Module, relu: Module) -> bool:
    """Are these a batch norm and a ReLU whose every effect `norm_relu` reproduces?

    Not if somebody put a forward on one of them, on its class or a base, replaced ``__call__``,
    F.relu or F.batch_norm, or registered a hook.
    """
    through = _TAKE_RELU.get(type(norm))
    if through is None or type(relu) is not ReLU:
        return False
    own, other = norm.__dict__, relu.__dict__
    if "forward" in own or "forward" in other or norm._hooks or relu._hooks:
        return False
    for cls, forward, call in through:
        if cls.forward is not forward or cls.__call__ is not call:
            return False
    return F.relu is _RELU and F.batch_norm is _BATCH_NORM


class _InstanceNorm(_RunningNorm):
    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: str | None = None, dtype: Any = None, *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        )

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim + 1 in self.ndims and input.shape[0] == self.num_features:
            return alone(self.forward, (input,))
        self._check(input)
        return F.instance_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, self.momentum or 0.0, self.eps,
        )


class InstanceNorm1d(_InstanceNorm):
    """Each channel of each sample of (N, C, L) to mean 0 and variance 1.  See `F.instance_norm`."""

    ndims = (3,)
    axes = "(N,C,L)"


class InstanceNorm2d(_InstanceNorm):
    """Each channel of each sample of (N, C, H, W) to mean 0, variance 1.  See `F.instance_norm`."""

    ndims = (4,)
    axes = "(N,C,H,W)"


class LayerNorm(_Affine):
    """Mean 0 and variance 1 over the last axes, whose shape is ``normalized_shape``."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5,
        elementwise_affine: bool = True, bias: bool = True, device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        given: Any = [normalized_shape] if np.ndim(normalized_shape) == 0 else normalized_shape
        self.normalized_shape = shape = tuple(
            whole("LayerNorm", "normalized_shape", n) for n in given
        )
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._add_affine(shape, elementwise_affine, bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (f"{self.normalized_shape}, eps={self.eps}, "
                f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}")


class GroupNorm(_Affine):
    """Mean 0 and variance 1 over each of ``num_groups`` groups of channels of each sample."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True,
        device: str | None = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:
        super().__init__()
        num_groups = whole("GroupNorm", "num_groups", num_groups)
        num_channels = whole("GroupNorm", "num_channels", num_channels)
        check_groups("GroupNorm", num_groups, num_channels=num_channels)
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._add_affine((num_channels,), affine, bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            raise ShapeError("GroupNorm", f"input {input.shape} must have {self.num_channels} "
                                          "channels on axis 1" + self._fix(input.shape))
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def _fix(self, shape: tuple[int, ...]) -> str:
        if len(shape) < 2 or shape[1] % self.num_groups:
            return ""
        return f". GroupNorm({self.num_groups}, {shape[1]}) fits"

    def brief(self) -> str:
        return f"GroupNorm({self.num_groups}, {self.num_channels})"

    def extra_repr(self) -> str:
        return (f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
                f"bias={self.bias is not None}")
