"""Sums over the first, the last and all axes beside PyTorch's, and what is made of sums.

    python benchmarks/sums.py [--threads N] [--rounds 21] [--json FILE]

float32, some four million numbers, row-major but where it says channels-last.  A goal is set for
sums and means; the others are for information.
"""

import argparse
import math

import numpy as np
import torch
from kernels import channels_last
from timing import Comparison, compare, report

import tinyconv as tc

Axes = int | tuple[int, ...] | None
CASES: list[tuple[tuple[int, ...], Axes, bool]] = [
    *(((2000, 2000), dim, False) for dim in (0, 1, None)),
    *(((1_000_000, 4), dim, False) for dim in (0, 1, None)),
    *(((4, 1_000_000), dim, False) for dim in (0, 1, None)),
    ((128, 40, 28, 28), (0, 2, 3), False),
    ((128, 40, 28, 28), (0, 2, 3), True),
    ((128, 40, 28, 28), (2, 3), False),
    ((128, 40, 28, 28), (2, 3), True),
]


def arrays(shape: tuple[int, ...], last: bool) -> tuple[tc.Tensor, torch.Tensor]:
    """The same numbers on both sides."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    theirs = torch.from_numpy(x.copy())
    if not last:
        return tc.tensor(x), theirs
    return tc.tensor(channels_last(x)), theirs.to(memory_format=torch.channels_last)


def row(
    name: str, shape: tuple[int, ...], dim: Axes, last: bool, goal: float, rounds: int
) -> Comparison:
    """One function of both libraries over these axes."""
    ours, theirs = arrays(shape, last)
    what = f"{name} {shape}{' channels-last' * last} over {'all' if dim is None else dim}"
    return compare(
        what,
        lambda: getattr(ours, name)(dim),
        lambda: getattr(theirs, name)(dim),
        goal=goal, rounds=rounds, calls=5,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=tc.get_num_threads())
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json")
    options = parser.parse_args()
    tc.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    rows = [row("sum", *case, 1.0, options.rounds) for case in CASES]
    sums = [r for r in rows if r.ratio > 0]
    middle = math.exp(sum(math.log(r.ratio) for r in sums) / len(sums))
    others = [
        row(name, *case, goal, options.rounds)
        for name, goal in (("mean", 1.0), ("std", math.inf))
        for case in (CASES[0], CASES[1], CASES[3], CASES[9], CASES[10])
    ] + [row("softmax", (2000, 2000), dim, False, math.inf, options.rounds) for dim in (0, 1)]
    report([*rows, *others], options.json)
    print(f"threads: {options.threads}; geometric mean of the sums' ratios: {middle:.2f}")


if __name__ == "__main__":
    main()
