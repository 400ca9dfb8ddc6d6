"""A ResNet learns MNIST
=====================

The training loop in the open.

::

    python examples/mnist_resnet.py [--data full|sample|auto] [--epochs 3] [--batches N]

``tinyconv train mnist`` is the same with checkpoints, a run folder and a progress bar.
"""

import argparse

import tinyconv as tc
from tinyconv import data, nn, optim
from tinyconv.nn import functional as F


class Net(nn.Module):
    """ResNet-8: a 3x3 stem, three residual blocks, the mean over the image, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.blocks = nn.Sequential(block(16, 16, 1), block(16, 32, 2), block(32, 64, 2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x: tc.Tensor) -> tc.Tensor:
        return self.head(self.blocks(self.stem(x)))


def block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """relu(branch(x) + shortcut(x)); the shortcut changes shape where the branch does."""
    branch = nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
    )
    shortcut = None
    if stride != 1 or c_in != c_out:
        shortcut = nn.Sequential(
            nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out)
        )
    return nn.Sequential(nn.Residual(branch, shortcut), nn.ReLU())


@tc.no_grad()
def accuracy(model: nn.Module, loader: data.DataLoader) -> float:
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    model.train()
    return 100 * right / len(loader.dataset)


def main() -> None:
    options = argparse.ArgumentParser(description="A ResNet learns MNIST.")
    options.add_argument("--data", default="auto", choices=("full", "sample", "auto"))
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--batches", type=int, help="stop each epoch after so many batches")
    options = options.parse_args()

    tc.manual_seed(0)
    train_set = data.MNIST(train=True, source=options.data)
    test_set = data.MNIST(train=False, source=train_set.source)
    loader = data.DataLoader(
        train_set, 128, shuffle=True, drop_last=True, seed=0,
        transform=lambda images, rng: data.random_shift(images, 2, rng, fill=train_set.black),
    )  # fmt: skip
    batches = min(len(loader), options.batches or len(loader))

    model = Net()
    optimizer = optim.SGD(model.parameters(), 0.3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = optim.OneCycleLR(
        optimizer, 0.3, total_steps=options.epochs * batches, pct_start=0.2, cycle_momentum=False
    )
    for epoch in range(options.epochs):
        loader.set_epoch(epoch)
        for i, (images, labels) in zip(range(batches), loader, strict=False):
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if i % 50 == 0:
                print(f"epoch {epoch + 1}  batch {i:3d}/{batches}  loss {loss.item():.3f}")
        right = accuracy(model, data.DataLoader(test_set, 500))
        print(f"epoch {epoch + 1}  test accuracy {right:.2f} %")


if __name__ == "__main__":
    main()
