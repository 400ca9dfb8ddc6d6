"""Residual networks: small ones for 28x28 and 32x32 images, torchvision's for photographs.

Reference: He et al., Deep residual learning for image recognition, 2016; names and first weights
are torchvision's, so that its checkpoints load.
"""

from collections.abc import Sequence
from typing import Any

from tinyconv.nn import init
from tinyconv.nn.activation import ReLU
from tinyconv.nn.containers import Sequential
from tinyconv.nn.conv import Conv2d
from tinyconv.nn.linear import Identity, Linear
from tinyconv.nn.module import Module
from tinyconv.nn.norm import BatchNorm2d, norm_relu
from tinyconv.nn.pool import AdaptiveAvgPool2d, MaxPool2d
from tinyconv.nn.residual import BasicBlock, Bottleneck
from tinyconv.tensor import Tensor


class ResNet(Module):
    """Images (N, in_channels, H, W) -> logits (N, num_classes).

    layers: blocks per stage; a stage has twice the channels of the one before, and half its size.
    width: channels of the first stage.  small_images: a 3x3 stem that keeps the size, where the
    stem for photographs (7x7, stride 2, max-pool) divides it by four.
    zero_init_residual: every block starts as its shortcut (Goyal et al., 2017).
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], layers: Sequence[int],
        num_classes: int = 1000, zero_init_residual: bool = False, *,
        in_channels: int = 3, width: int = 64, small_images: bool = False,
    ) -> None:
        super().__init__()
        kernel_size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = Conv2d(in_channels, width, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.relu = ReLU(inplace=True)
        self.maxpool = Identity() if small_images else MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.n_stages = len(layers)
        channels = width
        for i, blocks in enumerate(layers):
            planes = width * 2**i
            stage = Sequential()
            for j in range(blocks):
                stage.append(block(channels, planes, stride=2 if i > 0 and j == 0 else 1))
                channels = planes * block.expansion
            self.register_module(f"layer{i + 1}", stage)
        self.avgpool = AdaptiveAvgPool2d((1, 1))
        self.fc = Linear(channels, num_classes)
        self._reset_convolutions(zero_init_residual)

    def _reset_convolutions(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(norm_relu(self.bn1, self.relu, self.conv1(x)))
        for i in range(self.n_stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def _small(
    layers: Sequence[int], num_classes: int, in_channels: int, options: dict[str, Any]
) -> ResNet:
    small: dict[str, Any] = {"in_channels": in_channels, "width": 16, "small_images": True}
    return ResNet(BasicBlock, layers, num_classes, **{**small, **options})


def resnet8(num_classes: int = 10, in_channels: int = 1, **options: Any) -> ResNet:
    """Three blocks of 16, 32 and 64 channels, for 28x28 or 32x32 images: MNIST in a minute."""
    return _small((1, 1, 1), num_classes, in_channels, options)


def resnet20(num_classes: int = 10, in_channels: int = 3, **options: Any) -> ResNet:
    """Nine blocks of 16, 32 and 64 channels: the paper's CIFAR-10 network, with projections."""
    return _small((3, 3, 3), num_classes, in_channels, options)


def resnet18(num_classes: int = 1000, **options: Any) -> ResNet:
    """Eight basic blocks, 64 to 512 channels; 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, **options)


def resnet34(num_classes: int = 1000, **options: Any) -> ResNet:
    """Sixteen basic blocks, 64 to 512 channels; 21,797,672 parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, **options)


def resnet50(num_classes: int = 1000, **options: Any) -> ResNet:
    """Sixteen bottlenecks, 256 to 2048 channels; 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, **options)
