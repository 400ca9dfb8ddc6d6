"""The Hessian's largest eigenvalue
================================

How curved is the loss?  The Hessian of a network with 300 parameters has 90,000 entries; its
product with a vector costs two backward passes, and power iteration needs nothing else.
"""

import numpy as np

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn import functional as F

tc.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                      nn.Linear(64, 4)).double()
x, t = tc.randn(32, 1, 8, 8, dtype=tc.float64), tc.randint(4, (32,))
own = {name: p.detach() for name, p in model.named_parameters()}


def loss(parameters):
    return F.cross_entropy(tc.func.functional_call(model, parameters, (x,)), t)


v = {name: tc.randn(*p.shape, dtype=tc.float64) for name, p in own.items()}
for step in range(60):
    length = sum((part * part).sum() for part in v.values()) ** 0.5
    v = {name: part / length for name, part in v.items()}
    _, (product,) = tc.func.hvp(loss, (own,), (v,))
    value = sum((product[name] * v[name]).sum() for name in v).item()
    if step % 20 == 19:
        print(f"step {step + 1}: largest eigenvalue {value:.8f}")
    v = product

h = 1e-4 / np.sqrt(sum((part * part).sum().item() for part in v.values()))
there = {name: own[name] + h * v[name] for name in v}
back = {name: own[name] - h * v[name] for name in v}
bend = (loss(there) + loss(back) - 2 * loss(own)).item() / 1e-8
print(f"the loss along that direction bends by {bend:.4f}")
