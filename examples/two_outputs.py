"""An operation with two outputs
=============================

Polar coordinates: a point (x, y) to its radius and its angle.  Each output has a gradient of its
own, and the operation's rule gets both of them as g.
"""

import numpy as np

import tinyconv as tc


@tc.op(outputs=2)
def polar(x, y):
    return np.hypot(x, y), np.arctan2(y, x)


# One rule per input.  The angle is not read, which the underscore says.
polar.defvjp(
    lambda g, r, _angle, x, y: g[0] * x / r - g[1] * y / (r * r),
    lambda g, r, _angle, x, y: g[0] * y / r + g[1] * x / (r * r),
    samples=[tc.sample((3, 4), (3, 4))],
)

x = tc.tensor([3.0, 1.0], dtype=tc.float64, requires_grad=True)
y = tc.tensor([4.0, 1.0], dtype=tc.float64, requires_grad=True)
radius, angle = polar(x, y)
print("radius", radius.tolist(), "angle", [round(a, 4) for a in angle.tolist()])
print("d radius / dx", tc.grad(radius.sum(), x, retain_graph=True)[0].tolist())
print("d angle / dx ", tc.grad(angle.sum(), x)[0].tolist())

tc.gradcheck(polar, [x, y], order=2)
print("both outputs agree with numerical derivatives to second order")
