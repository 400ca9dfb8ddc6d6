"""Residual networks, one training step or one inference of each, in tinyconv and in its peers.

A 3x3 stem, BN, ReLU; stages of basic blocks, each stage with twice the channels and half the size
of the one before (1x1 conv and BN on the shortcut where the shape changes); global average pool;
linear.  ResNet-18 has torchvision's stem for photographs instead: 7x7, stride 2, max-pool.
SGD with Nesterov momentum and weight decay.  A step() trains on the same batch and returns the
loss.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4


@dataclass(frozen=True)
class Network:
    """blocks in each stage, channels of the first stage, channels and side of an image."""

    name: str
    layers: tuple[int, ...]
    width: int
    channels: int
    size: int
    small_images: bool = True

    def batch(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        shape = (n, self.channels, self.size, self.size)
        return rng.standard_normal(shape, dtype=np.float32), rng.integers(0, 10, n)

    def blocks(self) -> list[tuple[int, int, int]]:
        """(channels in, channels out, stride) of every basic block."""
        found, c_in = [], self.width
        for i, count in enumerate(self.layers):
            for j in range(count):
                found.append((c_in, self.width * 2**i, 2 if i > 0 and j == 0 else 1))
                c_in = self.width * 2**i
        return found


RESNET8 = Network("ResNet-8", (1, 1, 1), 16, 1, 28)
RESNET20 = Network("ResNet-20", (3, 3, 3), 16, 3, 32)
RESNET18 = Network("ResNet-18", (2, 2, 2, 2), 64, 3, 64, small_images=False)


def tinyconv_model(network: Network = RESNET8):
    import tinyconv as tc
    from tinyconv.nn import resnet

    tc.manual_seed(0)
    return resnet.ResNet(
        resnet.BasicBlock, network.layers, 10,
        in_channels=network.channels, width=network.width, small_images=network.small_images,
    )  # fmt: skip


def tinyconv_step(n: int, network: Network = RESNET8) -> Callable[[], float]:
    step = tinyconv_training(n, network)
    return lambda: step().item()


def tinyconv_training(
    n: int, network: Network = RESNET8, device: str = "cpu", model=None
) -> Callable:
    """A step that returns the loss as a tensor: nobody waits for it.

    model: on that device; by default a new one
    """
    import tinyconv as tc
    from tinyconv import optim
    from tinyconv.nn import functional as F

    model = model or tinyconv_model(network).to(device)
    optimizer = optim.SGD(
        model.parameters(), LR, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY
    )
    x, t = (tc.from_numpy(a).to(device) for a in network.batch(n))

    def step() -> tc.Tensor:
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def tinyconv_inference(n: int, network: Network = RESNET8) -> Callable[[], object]:
    import tinyconv as tc

    model = tinyconv_model(network).eval()
    x = tc.from_numpy(network.batch(n)[0])

    def infer() -> object:
        with tc.no_grad():
            return model(x)

    return infer


def torch_model(channels_last: bool = False, network: Network = RESNET8):
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
    blocks, width = network.blocks(), network.width
    k, stride = (3, 1) if network.small_images else (7, 2)
    model = nn.Sequential(
        nn.Conv2d(network.channels, width, k, stride, k // 2, bias=False),
        nn.BatchNorm2d(width), nn.ReLU(),
        nn.Identity() if network.small_images else nn.MaxPool2d(3, 2, 1),
        *(Block(*block) for block in blocks),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(blocks[-1][1], 10),
    )  # fmt: skip
    return model.to(memory_format=torch.channels_last) if channels_last else model


def torch_batch(n: int, channels_last: bool, network: Network):
    """Images and labels.  With one channel ``x.to(memory_format=...)`` leaves the strides of NCHW;
    copied into such a tensor the images are channels-last for every kernel."""
    import torch

    x, t = (torch.from_numpy(a) for a in network.batch(n))
    if channels_last:
        x = torch.empty(x.shape, memory_format=torch.channels_last).copy_(x)
    return x, t


def torch_step(
    n: int, channels_last: bool = False, network: Network = RESNET8, compiled: bool = False
) -> Callable[[], float]:
    """compiled: the model goes through torch.compile, which needs a C++ compiler."""
    step = torch_training(n, channels_last, network, compiled)
    return lambda: step().item()


def torch_training(
    n: int,
    channels_last: bool = False,
    network: Network = RESNET8,
    compiled: bool = False,
    device: str = "cpu",
) -> Callable:
    """A step that returns the loss as a tensor."""
    import torch
    from torch.nn import functional as F

    model = torch_model(channels_last, network).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), LR, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY
    )
    x, t = (a.to(device) for a in torch_batch(n, channels_last, network))
    if compiled:
        model = torch.compile(model)

    def step() -> torch.Tensor:
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def torch_inference(
    n: int, channels_last: bool = False, network: Network = RESNET8
) -> Callable[[], object]:
    import torch

    model = torch_model(channels_last, network).eval()
    x, _ = torch_batch(n, channels_last, network)

    def infer() -> object:
        with torch.no_grad():
            return model(x)

    return infer


def dezero_step(n: int) -> Callable[[], float]:
    """ResNet-8 in DeZero 0.0.13; its plain momentum SGD has no Nesterov and its decay is a hook."""
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
            self.block1, self.block2, self.block3 = (Block(*block) for block in RESNET8.blocks())
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
    x, t = RESNET8.batch(n)

    def step() -> float:
        loss = F.softmax_cross_entropy(model(x), t)
        model.cleargrads()
        loss.backward()
        optimizer.update()
        return float(loss.array)

    return step


def jax_step(n: int) -> Callable[[], float]:
    """ResNet-8 in JAX, the whole step compiled by XLA; images are NHWC, its faster layout."""
    import jax
    import jax.numpy as jnp

    def conv(x, w, stride=1):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def norm(x, scale_shift, running):
        """Output and the running mean and variance."""
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) * jax.lax.rsqrt(var + 1e-5) * scale_shift[0] + scale_shift[1]
        return y, 0.9 * running + 0.1 * jnp.stack([mean, var])

    rng = np.random.default_rng(0)

    def weight(*shape):
        deviation = (2 / (shape[0] * shape[1] * shape[-1])) ** 0.5
        return jnp.asarray(deviation * rng.standard_normal(shape), jnp.float32)

    shapes, strides = [(3, 3, 1, 16)], [1]
    for c_in, c_out, stride in RESNET8.blocks():
        shapes += [(3, 3, c_in, c_out), (3, 3, c_out, c_out)]
        strides += [stride, 1]
        if stride != 1:
            shapes.append((1, 1, c_in, c_out))
            strides.append(stride)
    ones = [jnp.stack([jnp.ones(s[-1]), jnp.zeros(s[-1])]) for s in shapes]
    parameters = {
        "conv": [weight(*s) for s in shapes], "norm": ones,
        "fc": (jnp.asarray(rng.standard_normal((64, 10)) / 8, jnp.float32), jnp.zeros(10)),
    }  # fmt: skip
    velocity = jax.tree.map(jnp.zeros_like, parameters)

    def loss_of(parameters, running, x, t):
        seen = []

        def layer(x):
            i = len(seen)
            y = conv(x, parameters["conv"][i], strides[i])
            y, moved = norm(y, parameters["norm"][i], running[i])
            seen.append(moved)
            return y

        x = jax.nn.relu(layer(x))
        for _, _, stride in RESNET8.blocks():
            y = layer(jax.nn.relu(layer(x)))
            x = jax.nn.relu(y + (x if stride == 1 else layer(x)))
        logits = x.mean((1, 2)) @ parameters["fc"][0] + parameters["fc"][1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), t[:, None], 1)
        return -picked.mean(), seen

    @jax.jit
    def update(parameters, velocity, running, x, t):
        (loss, running), grads = jax.value_and_grad(loss_of, has_aux=True)(
            parameters, running, x, t
        )
        grads = jax.tree.map(lambda g, p: g + DECAY * p, grads, parameters)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
        parameters = jax.tree.map(
            lambda p, g, v: p - LR * (g + MOMENTUM * v), parameters, grads, velocity
        )
        return loss, parameters, velocity, running

    x, t = (jnp.asarray(a) for a in RESNET8.batch(n))
    x, state = x.transpose(0, 2, 3, 1), (parameters, velocity, ones)

    def step() -> float:
        nonlocal state
        loss, *state = update(*state, x, t)
        return float(loss)

    return step


def tinygrad_step(n: int) -> Callable[[], float]:
    """ResNet-8 in tinygrad, the whole step compiled and replayed by its TinyJit; needs clang."""
    from tinygrad import Context, Tensor, TinyJit, nn

    if shutil.which("clang") is None:
        raise ModuleNotFoundError("tinygrad compiles with clang", name="clang")

    def layer(c_in, c_out, size, stride):
        conv = nn.Conv2d(c_in, c_out, size, stride, padding=size // 2, bias=False)
        return [conv, nn.BatchNorm(c_out)]

    stem = layer(1, RESNET8.width, 3, 1)
    blocks = [
        (
            [*layer(c_in, c_out, 3, stride), Tensor.relu, *layer(c_out, c_out, 3, 1)],
            [] if stride == 1 else layer(c_in, c_out, 1, stride),
        )
        for c_in, c_out, stride in RESNET8.blocks()
    ]
    fc = nn.Linear(RESNET8.blocks()[-1][1], 10)
    optimizer = nn.optim.SGD(
        nn.state.get_parameters([stem, blocks, fc]), LR,
        momentum=MOMENTUM, weight_decay=DECAY, nesterov=True,
    )  # fmt: skip
    x, t = (Tensor(array).realize() for array in RESNET8.batch(n))

    def logits():
        y = x.sequential(stem).relu()
        for body, shortcut in blocks:
            y = (y.sequential(body) + y.sequential(shortcut)).relu()
        return fc(y.mean((2, 3)))

    @TinyJit
    def update():
        optimizer.zero_grad()
        loss = logits().sparse_categorical_crossentropy(t).backward()
        return loss.realize(*optimizer.schedule_step())

    def step() -> float:
        with Context(TRAINING=1):
            return update().item()

    return step
