"""An operation of your own
========================

Its forward, its vector-Jacobian product, and the proof that they agree.

::

    python examples/custom_op.py

The operation is mish(x) = x tanh(softplus(x)), Misra, 2019.
"""

import numpy as np

import tinyconv as tc
from tinyconv.ops.elementwise import softplus


@tc.op
def mish(x):
    """Arrays in, array out."""
    return x * np.tanh(np.logaddexp(0, x).astype(x.dtype))


def slope(x):
    """d mish / dx, written in tinyconv's operations: so it can be differentiated again."""
    t = tc.tanh(softplus(x))
    return t + x * tc.sigmoid(x) * (1 - t * t)


# One VJP per input.  g is the gradient of the output; the output itself is not read, which the
# underscore says, so it is not kept in memory for the backward pass.
mish.defvjp(lambda g, _y, x: g * slope(x), samples=[tc.sample((3, 4))])


@tc.op
def wrong(x):
    """The same, with a wrong derivative: the check must notice."""
    return mish(x)


wrong.defvjp(lambda g, _y, x: g * (slope(x) + 0.001), samples=[tc.sample((3, 4))])


def main() -> None:
    x = tc.linspace(-3, 3, 7, dtype=tc.float64, requires_grad=True)
    y = mish(x)
    (first,) = tc.grad(y.sum(), x, create_graph=True)
    (second,) = tc.grad(first.sum(), x)
    print("x     ", x.detach().numpy())
    print("mish  ", y.detach().numpy().round(4))
    print("mish' ", first.detach().numpy().round(4))
    print("mish''", second.numpy().round(4))

    tc.gradcheck(mish, [x], order=2)
    print("mish:  the derivatives agree with numerical ones to second order")
    try:
        tc.gradcheck(wrong, [x])
    except tc.GradcheckError as error:
        print(error)


if __name__ == "__main__":
    main()
