"""Single kernels beside PyTorch's: convolutions, batch norm, ReLU, pooling.

    python benchmarks/kernels.py [--threads N] [--rounds 11] [--json FILE]

float32.  Convolutions are (batch, H = W, C -> O, k, stride), forward, gradient of the input (dX)
and of the weight (dW); PyTorch's tensors are in its default layout (NCHW).  No goals are set for
these: the training step has one (resnet_step.py).
"""

import argparse
import math

import numpy as np
import torch
from timing import compare, report
from torch.nn import functional as TF
from torch.nn.grad import conv2d_input, conv2d_weight

import tinyconv as tc
from tinyconv.backend import CPU

CONVOLUTIONS = [
    (128, 28, 1, 16, 3, 1),
    (128, 28, 16, 16, 3, 1),
    (128, 28, 16, 32, 3, 2),
    (128, 14, 32, 32, 3, 1),
    (128, 7, 64, 64, 3, 1),
    (128, 28, 16, 32, 1, 2),
    (32, 56, 64, 64, 3, 1),
]


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same numbers in the memory layout that the kernels hand on."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def convolution(n: int, size: int, c: int, o: int, k: int, stride: int, rounds: int) -> list:
    rng = np.random.default_rng(0)
    p = k // 2
    geometry = {
        "stride": (stride, stride), "padding": ((p, p), (p, p)), "dilation": (1, 1), "groups": 1,
    }  # fmt: skip
    x = channels_last(rng.standard_normal((n, c, size, size), dtype=np.float32))
    w = rng.standard_normal((o, c, k, k), dtype=np.float32)
    g = channels_last(np.ones_like(CPU.conv2d(x, w, **geometry)))
    tx, tw, tg = (torch.from_numpy(np.ascontiguousarray(a)) for a in (x, w, g))
    label = f"conv {n}x{size}x{size} {c}->{o} k{k} s{stride}"
    sides = {
        "forward": (
            lambda: CPU.conv2d(x, w, **geometry),
            lambda: TF.conv2d(tx, tw, None, stride, p),
        ),
        "dX": (
            lambda: CPU.conv2d_input(g, w, input_size=(size, size), **geometry),
            lambda: conv2d_input(tx.shape, tw, tg, stride, p),
        ),
        "dW": (
            lambda: CPU.conv2d_weight(x, g, kernel_size=(k, k), **geometry),
            lambda: conv2d_weight(tx, tw.shape, tg, stride, p),
        ),
    }
    return [
        compare(f"{label} {name}", *pair, goal=math.inf, rounds=rounds)
        for name, pair in sides.items()
    ]


def others(rounds: int) -> list:
    x = channels_last(np.random.default_rng(0).standard_normal((128, 16, 28, 28), dtype=np.float32))
    one, zero = np.ones(16, np.float32), np.zeros(16, np.float32)
    tx, tone, tzero = (torch.from_numpy(np.ascontiguousarray(a)) for a in (x, one, zero))
    window = {
        "kernel_size": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1),
    }  # fmt: skip
    sides = {
        "batch norm": (
            lambda: CPU.batch_norm(x, one, zero, 1e-5),
            lambda: TF.batch_norm(tx, None, None, tone, tzero, training=True),
        ),
        "relu": (lambda: CPU.relu(x), lambda: TF.relu(tx)),
        "max pool 2x2": (lambda: CPU.max_pool2d(x, **window), lambda: TF.max_pool2d(tx, 2)),
    }
    return [
        compare(f"{name} 128x28x28x16 forward", *pair, goal=math.inf, rounds=rounds)
        for name, pair in sides.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Single kernels beside PyTorch's.")
    parser.add_argument("--threads", type=int, default=tc.get_num_threads())
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tc.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    rows = [row for case in CONVOLUTIONS for row in convolution(*case, options.rounds)]
    report([*rows, *others(options.rounds)], options.json)


if __name__ == "__main__":
    main()
