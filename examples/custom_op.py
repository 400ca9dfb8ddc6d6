"""An operation of your own
========================

mish(x) = x tanh(softplus(x)) (Misra, 2019): its forward on arrays, its derivative in operations of
tinyconv, and the numerical check that tells a right derivative from a wrong one.
"""

import numpy as np

import tinyconv as tc
from tinyconv.nn.functional import softplus


@tc.op
def mish(x):
    return x * np.tanh(np.logaddexp(0, x).astype(x.dtype))


def slope(x):
    t = tc.tanh(softplus(x))
    return t + x * tc.sigmoid(x) * (1 - t * t)


# g is the gradient of the output.  The output itself is not read, which the underscore says, so it
# is not kept in memory for the backward pass.
mish.defvjp(lambda g, _y, x: g * slope(x), samples=[tc.sample((3, 4))])

wrong = tc.op(name="wrong")(mish.forward)  # the same, with a wrong derivative
wrong.defvjp(lambda g, _y, x: g * (slope(x) + 0.001))

x = tc.linspace(-3, 3, 7, dtype=tc.float64, requires_grad=True)
tc.gradcheck(mish, [x], order=2)
print("mish:  the derivatives agree with numerical ones to second order")
try:
    tc.gradcheck(wrong, [x])
except tc.GradcheckError as error:
    print(error)
