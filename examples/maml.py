"""Learning to learn
=================

MAML (Finn et al., 2017): weights from which one gradient step on ten points of a sine curve is
enough.  The outer loss holds the inner gradient, so its own gradient is a second derivative.
"""

import numpy as np

import tinyconv as tc
from tinyconv import nn, optim

tc.manual_seed(0)
rng = np.random.default_rng(0)
model = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
weights = dict(model.named_parameters())
optimizer = optim.Adam(weights.values(), lr=0.003)


def loss(weights, x, y):
    return ((tc.func.functional_call(model, weights, (x,)) - y) ** 2).mean()


def task():  # a sine of its own height and phase: ten points to learn from, and ten others
    x = rng.uniform(-3, 3, (2, 10, 1))
    y = rng.uniform(0.5, 2) * np.sin(x + rng.uniform(0, 6.3))
    return [(tc.tensor(a).float(), tc.tensor(b).float()) for a, b in zip(x, y, strict=True)]


for step in range(1, 601):
    before, after = 0, 0
    for known, new in (task() for _ in range(4)):
        before += loss(weights, *new).item() / 4
        slope = tc.func.grad(loss)(weights, *known)
        after += loss({name: w - 0.1 * slope[name] for name, w in weights.items()}, *new) / 4
    optimizer.zero_grad()
    after.backward()
    optimizer.step()
    if step % 200 == 0:
        print(f"step {step}: error before the inner step {before:.2f}, after {after.item():.2f}")
