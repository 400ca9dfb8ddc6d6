"""What one small operation costs, forward and backward: chains of 1,000 on 8 elements.

    python benchmarks/overhead.py [--json FILE]

One thread; PyTorch eager beside it; goal: at most its time.
"""

import argparse

import torch
from timing import compare, report

import tinyconv as tc

LENGTH = 1000


def chain(step, x):
    """x sent through LENGTH operations, and the gradient back."""

    def run():
        y = x
        for _ in range(LENGTH // step.length):
            y = step(y)
        y.sum().backward()
        x.grad = None

    return run


def steps(b, one):
    """The chains, for tensors of either library; each takes one or four operations a step."""

    def add(y):
        return y + b

    def mul(y):
        return y * one

    def relu(y):
        return y.relu()

    def tanh(y):
        return y.tanh()

    def mixed(y):
        return ((y + b) * one).relu().tanh()

    for step in (add, mul, relu, tanh):
        step.length = 1
    mixed.length = 4
    return add, mul, relu, tanh, mixed


def chains():
    """name -> the chain in tinyconv and the same one in PyTorch."""
    values, ones = [0.1 * i + 0.1 for i in range(8)], [1.0] * 8
    ours = steps(tc.tensor(values), tc.tensor(ones))
    peers = steps(torch.tensor(values), torch.tensor(ones))
    a = tc.tensor(values, requires_grad=True)
    b = torch.tensor(values, requires_grad=True)
    return {f.__name__: (chain(f, a), chain(g, b)) for f, g in zip(ours, peers, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        compare(f"{name}, per operation", *pair, goal=1.0, rounds=21, per=LENGTH)
        for name, pair in chains().items()
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
