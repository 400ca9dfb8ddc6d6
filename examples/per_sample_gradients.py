"""The gradient of each sample
===========================

Differential privacy and the study of single samples want not the batch's gradient but one for each
sample.  Two ways: one sample after the other, and all at once, with a copy of the weights for each
sample, which is a convolution in groups.
"""

import numpy as np

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn import functional as F

tc.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3))
x, t = tc.randn(8, 1, 8, 8), tc.randint(3, (8,))
names = [name for name, _ in model.named_parameters()]


def loss(parameters, x, t):
    return F.cross_entropy(tc.func.functional_call(model, parameters, (x,)), t)


own = {name: p.detach() for name, p in model.named_parameters()}
one_by_one = [tc.func.grad(loss)(own, x[i : i + 1], t[i : i + 1]) for i in range(8)]

# All at once: sample i sees the i-th copy, so the sum of the losses has each one's gradient.
copies = {name: p.expand(8, *p.shape).clone().requires_grad_() for name, p in own.items()}
kernel, bias, weight, offset = (copies[name] for name in names)
y = F.conv2d(x.transpose(0, 1), kernel.reshape(32, 1, 3, 3), bias.reshape(32), groups=8)
y = tc.einsum("nf,nkf->nk", y.tanh().reshape(8, 4 * 36), weight) + offset
at_once = tc.grad(F.cross_entropy(y, t, reduction="sum"), list(copies.values()))
for name, g in zip(names, at_once, strict=True):
    expected = np.stack([found[name].numpy() for found in one_by_one])
    print(f"{name}: {g.shape}, largest difference {abs(g.numpy() - expected).max():.1e}")
