"""Residual blocks: y = branch(x) + shortcut(x).

The sum needs equal shapes.  Where the branch changes the shape, the shortcut must change it the
same way: a projection, a 1x1 convolution with the branch's stride.

Reference: He et al., Deep residual learning for image recognition, 2016.
"""

from tinyconv.errors import ShapeError
from tinyconv.nn.activation import ReLU
from tinyconv.nn.containers import Sequential
from tinyconv.nn.conv import Conv2d
from tinyconv.nn.linear import Identity
from tinyconv.nn.module import Module
from tinyconv.nn.norm import BatchNorm2d, norm_relu
from tinyconv.tensor import Tensor


def check_shortcut(x: Tensor, branch: Tensor, shortcut: Tensor) -> None:
    """branch and shortcut are never broadcast, so that a wrong shortcut is found."""
    if branch.shape != shortcut.shape:
        name = f"branch {branch.shape}, shortcut {shortcut.shape}"
        raise ShapeError(name, _advice(x.shape, branch.shape))


def _advice(x: tuple[int, ...], y: tuple[int, ...]) -> str:
    """What turns the block's input shape into the branch's shape."""
    if len(x) == len(y) == 2 and x[0] == y[0]:
        return f"the shortcut needs Linear({x[1]}, {y[1]})"
    if len(x) != 4 or len(y) != 4 or x[0] != y[0]:
        return f"both must turn {x} into one shape"
    if x == y:
        return "the branch keeps its input's shape, so the identity fits: shortcut=None"
    strides = [_stride(n, m) for n, m in zip(x[2:], y[2:], strict=True)]
    if None in strides:
        return (f"no 1x1 convolution takes {x[2]}x{x[3]} to {y[2]}x{y[3]}. Pad the branch: "
                "a kernel of size k keeps the image's size with padding=k // 2")
    stride = strides[0] if strides[0] == strides[1] else tuple(strides)
    end = "" if stride == 1 else f", stride={stride}"
    return f"the shortcut needs Conv2d({x[1]}, {y[1]}, 1{end})"


def _stride(n: int, m: int) -> int | None:
    """The stride with which a 1x1 kernel takes n positions to m."""
    return next((s for s in range(1, n + 1) if (n - 1) // s + 1 == m), None)


class Residual(Module):
    """branch(x) + shortcut(x); without a shortcut, branch(x) + x.

    ShapeError says which shortcut is needed where the shapes differ, also where NumPy and PyTorch
    would broadcast one channel against many.
    """

    def __init__(self, branch: Module, shortcut: Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = Identity() if shortcut is None else shortcut

    def forward(self, input: Tensor) -> Tensor:
        branch, shortcut = self.branch(input), self.shortcut(input)
        check_shortcut(input, branch, shortcut)
        return branch + shortcut


class _Block(Module):
    expansion = 1  # channels out / planes

    def _add_downsample(
        self, inplanes: int, planes: int, stride: int, downsample: Module | None
    ) -> None:
        """The identity where it fits, else the given shortcut or a projection."""
        self.inplanes, self.planes, self.stride = inplanes, planes, stride
        outplanes = planes * self.expansion
        if downsample is None and (stride != 1 or inplanes != outplanes):
            downsample = Sequential(
                Conv2d(inplanes, outplanes, 1, stride=stride, bias=False), BatchNorm2d(outplanes)
            )
        self.downsample = downsample

    def _join(self, x: Tensor, branch: Tensor, norm: Module) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        check_shortcut(x, branch, shortcut)
        return norm_relu(norm, self.relu, branch, shortcut)

    def brief(self) -> str:
        stride = f", s{self.stride}" if self.stride != 1 else ""
        return f"{type(self).__name__}({self.inplanes}->{self.planes * self.expansion}{stride})"


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut; torchvision's names.

    (N, inplanes, H, W) -> (N, planes, H/stride, W/stride).  downsample: the shortcut; None is the
    identity where the shape stays, a 1x1 convolution with batch norm where it changes.
    """

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(planes)
        self.relu = ReLU(inplace=True)
        self.conv2 = Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(planes)
        self._add_downsample(inplanes, planes, stride, downsample)

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu(self.bn1, self.relu, self.conv1(x))
        return self._join(x, self.conv2(out), self.bn2)


class Bottleneck(_Block):
    """1x1, 3x3 (with the stride), 1x1 to 4 * planes channels, and a shortcut; torchvision's names.

    (N, inplanes, H, W) -> (N, 4*planes, H/stride, W/stride); downsample as in BasicBlock.
    """

    expansion = 4

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = BatchNorm2d(planes)
        self.conv2 = Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(planes)
        self.conv3 = Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = BatchNorm2d(planes * self.expansion)
        self.relu = ReLU(inplace=True)
        self._add_downsample(inplanes, planes, stride, downsample)

    def forward(self, x: Tensor) -> Tensor:
        out = norm_relu(self.bn1, self.relu, self.conv1(x))
        out = norm_relu(self.bn2, self.relu, self.conv2(out))
        return self._join(x, self.conv3(out), self.bn3)
