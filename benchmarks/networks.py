"""ResNet-8, one training step of it, in tinyconv and in its peers.

conv3x3 1->16, BN, ReLU; basic blocks 16->16 stride 1, 16->32 stride 2, 32->64 stride 2 (1x1 conv
and BN on the shortcut where the shape changes); global average pool; linear 64->10; SGD with
Nesterov momentum and weight decay.  Each function returns a step() that trains on the same batch
and returns the loss.
"""

from collections.abc import Callable

import numpy as np

LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
BLOCKS = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]


def batch(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, n)


def tinyconv_step(n: int) -> Callable[[], float]:
    import tinyconv as tc
    from tinyconv import nn, optim
    from tinyconv.nn import functional as F

    tc.manual_seed(0)
    model = nn.resnet.resnet8(in_channels=1)
    optimizer = optim.SGD(
        model.parameters(), LR, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY
    )
    x, t = (tc.from_numpy(a) for a in batch(n))

    def step() -> float:
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_model(channels_last: bool = False):
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(c_out)
            self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(c_out)
            self.downsample = None
            if stride != 1 or c_in != c_out:
                self.downsample = nn.Sequential(
                    nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
                )

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            return F.relu(y + (x if self.downsample is None else self.downsample(x)))

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        *(Block(*block) for block in BLOCKS),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    return model.to(memory_format=torch.channels_last) if channels_last else model


def torch_step(n: int, channels_last: bool = False) -> Callable[[], float]:
    import torch
    from torch.nn import functional as F

    model = torch_model(channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), LR, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY
    )
    x, t = (torch.from_numpy(a) for a in batch(n))
    if channels_last:
        x = x.to(memory_format=torch.channels_last)

    def step() -> float:
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def dezero_step(n: int) -> Callable[[], float]:
    """DeZero 0.0.13; its plain momentum SGD has no Nesterov and its decay is a hook."""
    np.int = int  # DeZero uses an alias that NumPy removed in 1.24
    import dezero
    import dezero.functions as F
    import dezero.layers as L
    from dezero import optimizers

    class Block(dezero.Model):
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = L.Conv2d(c_out, 3, stride, 1, nobias=True)
            self.bn1 = L.BatchNorm()
            self.conv2 = L.Conv2d(c_out, 3, 1, 1, nobias=True)
            self.bn2 = L.BatchNorm()
            self.project = stride != 1 or c_in != c_out
            if self.project:
                self.conv3 = L.Conv2d(c_out, 1, stride, 0, nobias=True)
                self.bn3 = L.BatchNorm()

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            return F.relu(y + (self.bn3(self.conv3(x)) if self.project else x))

    class Net(dezero.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = L.Conv2d(16, 3, 1, 1, nobias=True)
            self.bn = L.BatchNorm()
            self.block1, self.block2, self.block3 = (Block(*block) for block in BLOCKS)
            self.fc = L.Linear(10)

        def forward(self, x):
            y = F.relu(self.bn(self.conv(x)))
            y = self.block3(self.block2(self.block1(y)))
            y = F.average_pooling(y, 7)
            return self.fc(F.reshape(y, (len(y), -1)))

    np.random.seed(0)
    model = Net()
    optimizer = optimizers.MomentumSGD(LR, MOMENTUM).setup(model)
    optimizer.add_hook(optimizers.WeightDecay(DECAY))
    x, t = batch(n)

    def step() -> float:
        loss = F.softmax_cross_entropy(model(x), t)
        model.cleargrads()
        loss.backward()
        optimizer.update()
        return float(loss.data)

    return step
