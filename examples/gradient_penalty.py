"""Double backward in use
======================

A critic with a gradient penalty.

::

    python examples/gradient_penalty.py [--steps 200]

A critic f learns to tell two clouds of images apart.  The penalty ``(|df/dx| - 1)^2`` keeps its
slope near 1 (Gulrajani et al., Improved Training of Wasserstein GANs, 2017).  The penalty contains
a gradient, so its own gradient with respect to the weights is a second derivative, here through
convolutions: create_graph=True is all it takes.
"""

import argparse

import tinyconv as tc
from tinyconv import nn, optim


def penalty(critic: nn.Module, x: tc.Tensor) -> tc.Tensor:
    """Mean of (|df/dx| - 1)^2 over the batch."""
    x = x.detach().requires_grad_()
    (slope,) = tc.grad(critic(x).sum(), x, create_graph=True)
    return ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()


def bars(n: int, horizontal: bool) -> tc.Tensor:
    """n noisy 8x8 images, each with one bright row or column."""
    images = tc.randn(n, 1, 8, 8) * 0.1
    for i, at in enumerate(tc.randint(0, 8, (n,)).tolist()):
        images[(i, 0, at) if horizontal else (i, 0, slice(None), at)] = 1.0
    return images


def main() -> None:
    options = argparse.ArgumentParser(description="A critic with a gradient penalty.")
    options.add_argument("--steps", type=int, default=200)
    steps = options.parse_args().steps

    tc.manual_seed(0)
    critic = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.SiLU(),
        nn.Flatten(), nn.Linear(8 * 2 * 2, 1),
    )  # fmt: skip
    optimizer = optim.Adam(critic.parameters(), lr=0.02)
    for step in range(1, steps + 1):
        rows, columns = bars(32, horizontal=True), bars(32, horizontal=False)
        mix = tc.rand(32, 1, 1, 1)
        slope = penalty(critic, mix * rows + (1 - mix) * columns)
        gap = critic(rows).mean() - critic(columns).mean()
        loss = 10 * slope - gap
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step % 50 == 0:
            print(f"step {step:3d}  gap {gap.item():6.3f}  penalty {slope.item():.4f}")


if __name__ == "__main__":
    main()
