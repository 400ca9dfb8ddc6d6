"""All of it on one page
=====================

A convolutional network and its training on NumPy alone: the gradient, the convolution, the
digits.  Each function names its twin in the library, which does the same in earnest.
"""

import lzma
from importlib.util import find_spec
from pathlib import Path

import numpy as np


class Tensor:
    """An array, what it was computed from, and how to send its gradient there.  Twin: tensor/."""

    def __init__(self, data, inputs=(), vjp=None):
        self.data = np.asarray(data, np.float32)
        self.inputs, self.vjp, self.grad = inputs, vjp, None

    def backward(self):
        """Send gradients to all that this was computed from.  Twin: autograd/walk.py."""
        order, seen = [], set()

        def visit(tensor):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                for x in tensor.inputs:
                    visit(x)
                order.append(tensor)  # after everything that it needs

        visit(self)
        self.grad = np.ones_like(self.data)
        for tensor in reversed(order):  # before everything that it needs
            if tensor.vjp is not None:
                for x, g in zip(tensor.inputs, tensor.vjp(tensor.grad), strict=True):
                    x.grad = g if x.grad is None else x.grad + g  # used twice: the sum


def windows(x, k):
    """All k x k windows of x[n,c,h,w], as [n,c,i,j,p,q] and without a copy."""
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))


def conv2d(x, w, b):
    """y[n,o,i,j] = b[o] + sum over c, p, q of x[n,c,i+p,j+q] w[o,c,p,q].  Twin: ops/conv.py."""
    k = w.data.shape[-1]
    seen = windows(x.data, k)
    y = np.einsum("ncijpq,ocpq->noij", seen, w.data, optimize=True) + b.data[:, None, None]

    def vjp(g):
        dw = np.einsum("noij,ncijpq->ocpq", g, seen, optimize=True)
        around = np.pad(g, ((0, 0), (0, 0), (k - 1, k - 1), (k - 1, k - 1)))
        turned = w.data[:, :, ::-1, ::-1]  # x[i+p] went to y[i], so y[i-p] comes back to x[i]
        dx = np.einsum("noijpq,ocpq->ncij", windows(around, k), turned, optimize=True)
        return dx, dw, g.sum((0, 2, 3))

    return Tensor(y, (x, w, b), vjp)


def max_pool2d(x, k=2):
    """The largest number of each k x k block; it alone gets the gradient.  Twin: ops/pool.py."""
    n, c, h, w = x.data.shape
    blocks = x.data.reshape(n, c, h // k, k, w // k, k).swapaxes(3, 4)  # n, c, i, j, p, q
    flat = blocks.reshape(n, c, h // k, w // k, k * k)
    place = flat.argmax(-1)[..., None]

    def vjp(g):
        d = np.zeros_like(flat)
        np.put_along_axis(d, place, g[..., None], -1)
        return (d.reshape(blocks.shape).swapaxes(3, 4).reshape(x.data.shape),)

    return Tensor(np.take_along_axis(flat, place, -1)[..., 0], (x,), vjp)


def relu(x):
    """max(x, 0).  Twin: ops/elementwise.py."""
    return Tensor(np.maximum(x.data, 0), (x,), lambda g: (g * (x.data > 0),))


def flatten(x):
    """(N, C, H, W) to (N, C*H*W).  Twin: ops/shape.py."""
    return Tensor(x.data.reshape(len(x.data), -1), (x,), lambda g: (g.reshape(x.data.shape),))


def linear(x, w, b):
    """x w^T + b.  Twin: nn/functional/linear.py."""
    y = x.data @ w.data.T + b.data
    return Tensor(y, (x, w, b), lambda g: (g @ w.data, g.T @ x.data, g.sum(0)))


def cross_entropy(x, target):
    """The mean of -log softmax(x)[target].  Twin: ops/loss.py."""
    shifted = x.data - x.data.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    hit = np.eye(x.data.shape[1], dtype=np.float32)[target]
    slope = (np.exp(log_p) - hit) / len(hit)
    return Tensor(-(hit * log_p).sum() / len(hit), (x,), lambda g: (g * slope,))


def parameters(rng):
    """Weights with variance 2 / inputs, so that numbers keep their size.  Twin: nn/init.py."""
    made = []
    for shape in (8, 1, 5, 5), (16, 8, 5, 5), (10, 256):
        scale = np.sqrt(2 / np.prod(shape[1:]))
        made += [Tensor(rng.normal(0, scale, shape)), Tensor(np.zeros(shape[0]))]
    return made


def network(x, weights):
    """28 -> 24 -> 12 -> 8 -> 4 pixels, then ten scores.  Twin: nn/."""
    x = max_pool2d(relu(conv2d(x, *weights[:2])))
    x = max_pool2d(relu(conv2d(x, *weights[2:4])))
    return linear(flatten(x), *weights[4:])


def sgd(weights, speeds, rate=0.05, momentum=0.9):
    """Roll downhill.  Twin: optim/sgd.py."""
    for w, v in zip(weights, speeds, strict=True):
        v[...] = momentum * v + w.grad
        w.data, w.grad = w.data - rate * v, None


def read(name):
    """One file of the MNIST sample that tinyconv carries.  Twin: data/idx.py."""
    folder = Path(find_spec("tinyconv").submodule_search_locations[0]) / "data" / "mnist_sample"
    data = lzma.decompress((folder / f"{name}.xz").read_bytes())
    shape = np.frombuffer(data, ">i4", data[3], 4)  # byte 3: how many axes
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def main():
    rng = np.random.default_rng(0)
    x, t = read("train-images-idx3-ubyte")[:, None] / 255, read("train-labels-idx1-ubyte")
    weights = parameters(rng)
    speeds = [np.zeros_like(w.data) for w in weights]
    for epoch in range(3):
        for rows in rng.permutation(len(x)).reshape(-1, 50):
            loss = cross_entropy(network(Tensor(x[rows]), weights), t[rows])
            loss.backward()
            sgd(weights, speeds)
        print(f"epoch {epoch + 1}: loss of the last batch {loss.data:.3f}")
    x, t = read("t10k-images-idx3-ubyte")[:, None] / 255, read("t10k-labels-idx1-ubyte")
    hits = network(Tensor(x), weights).data.argmax(1) == t
    print(f"{100 * hits.mean():.2f} % of {len(t)} test digits")


if __name__ == "__main__":
    main()
