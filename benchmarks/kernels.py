"""Single kernels beside PyTorch's: convolutions, batch norm, ReLU, pooling.

    python benchmarks/kernels.py [--threads N] [--rounds 11] [--json FILE]

float32.  Convolutions are (batch, H = W, C -> O, k, stride), forward, gradient of the input (dX)
and of the weight (dW); PyTorch's tensors are in its default layout (NCHW).  No goals are set for
these: table.py has those against channels_last.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch
from geometry import Geometry
from timing import compare, report
from torch.nn import functional as TF

import tinyconv as tc
from tinyconv.backend import CPU

Sides = tuple[Callable[[], object], Callable[[], object]]


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same numbers in the memory layout that the kernels hand on."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class Convolution(Geometry):
    """Both sides of it, on the CPU."""

    def sides(self, last: bool = False) -> dict[str, Sides]:
        """forward, dX, dW: tinyconv's call and PyTorch's; last: its tensors are channels_last."""
        x, w = self.arrays()
        layout = torch.channels_last if last else torch.contiguous_format
        tx, tw = (torch.empty(a.shape, memory_format=layout) for a in (x, w))
        for tensor, array in ((tx, x), (tw, w)):  # .to() would ignore the layout of one channel
            tensor.copy_(torch.from_numpy(array))
        common = self.theirs()
        tg = torch.ones_like(torch.convolution(tx, tw, None, *common))
        x, g = (channels_last(a) for a in (x, tg.numpy()))

        def backward(dx: bool, dw: bool) -> Callable[[], object]:
            mask = [dx, dw, False]
            return lambda: torch.ops.aten.convolution_backward(tg, tx, tw, None, *common, mask)

        theirs = {
            "forward": lambda: torch.convolution(tx, tw, None, *common),
            "dX": backward(True, False),
            "dW": backward(False, True),
        }
        return {name: (call, theirs[name]) for name, call in self.calls(CPU, x, w, g).items()}


CONVOLUTIONS = [
    Convolution(128, 28, 1, 16),
    Convolution(128, 28, 16, 16),
    Convolution(128, 28, 16, 32, stride=2),
    Convolution(128, 14, 32, 32),
    Convolution(128, 7, 64, 64),
    Convolution(128, 28, 16, 32, k=1, stride=2),
    Convolution(32, 56, 64, 64),
]


def convolutions(rounds: int) -> list:
    return [
        compare(f"{case} {name}", *pair, goal=math.inf, rounds=rounds)
        for case in CONVOLUTIONS
        for name, pair in case.sides().items()
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
    report([*convolutions(options.rounds), *others(options.rounds)], options.json)


if __name__ == "__main__":
    main()
