"""Feedback alignment
==================

A network learns although its errors come back through fixed random kernels, not through its own
(Lillicrap et al., 2016): the convolution's gradient is replaced.
"""

import tinyconv as tc
from tinyconv import nn, optim
from tinyconv.nn import functional as F


class Aligned(tc.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, feedback):
        ctx.save_for_backward(x, feedback)
        return F.conv2d(x, weight)

    @staticmethod
    def backward(ctx, g):
        x, feedback = ctx.saved_tensors
        back = F.conv_transpose2d(g, feedback)  # the true gradient has the weight here
        dweight = F.conv2d(x.transpose(0, 1), g.transpose(0, 1)).transpose(0, 1)
        return back, dweight, None


tc.manual_seed(0)
first, second, head = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 16, 5), nn.Linear(16, 2)
feedback = tc.randn(16, 8, 5, 5) / 14
before = first.weight.detach().clone()
optimizer = optim.Adam([first.weight, second.weight, head.weight, head.bias], lr=0.01)
for _ in range(60):
    x, t = tc.randn(64, 1, 12, 12), tc.randint(2, (64,))
    x = x + 2 * t[:, None, None, None] * (tc.arange(12) % 2)  # the second class has stripes
    y = F.relu(Aligned.apply(F.relu(first(x)), second.weight, feedback))
    loss = F.cross_entropy(head(y.mean((2, 3))), t)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.4f}, first layer moved by {(first.weight - before).norm().item():.2f}")
