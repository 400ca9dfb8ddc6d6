"""Every goal of tinyconv on a CPU, one table: each row a ratio to a peer measured in turn with it.

    python benchmarks/table.py [--rounds 11] [--threads N] [--only TEXT] [--json FILE] [--list]

Training steps and inference of residual networks, single convolutions (against PyTorch with
channels_last tensors), what a small operation costs, and, without goals, how a step's time grows.
A row whose peer is absent or fails says so and the others go on.

A virtual machine's cores may be threads of one real core, at times.  So before each row of more
threads than one a convolution is timed with one and with all; the last line says how much faster
it was with all of them.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from kernels import Convolution, Sides
from networks import (
    RESNET8,
    RESNET18,
    RESNET20,
    Network,
    dezero_step,
    jax_step,
    tinyconv_inference,
    tinyconv_step,
    tinygrad_step,
    torch_inference,
    torch_step,
)
from overhead import LENGTH, chains
from timing import Comparison, calls_lasting, clock, compare, format_time, machine

import tinyconv as tc

EAGER, LAST, COMPILED = "eager NCHW", "eager channels_last", "torch.compile channels_last"
BATCHES, WIDTHS, SIZES = (8, 32, 128, 512), (8, 16, 32, 64), (14, 28, 56)

SINGLE = [
    Convolution(128, 28, 16, 16),
    Convolution(128, 14, 32, 32),
    Convolution(128, 7, 64, 64),
    Convolution(128, 28, 16, 32, stride=2),
    Convolution(128, 28, 1, 16),
    Convolution(128, 28, 64, 64),
]
OTHERS = [
    Convolution(128, 14, 64, 64, k=1),
    Convolution(128, 28, 16, 32, k=5, stride=2),
    Convolution(128, 28, 64, 64, groups=64),
    Convolution(128, 14, 32, 32, dilation=2),
    Convolution(128, 14, 32, 16, k=4, stride=2, padding=1, transposed=True),
]


@dataclass(frozen=True)
class Row:
    """What is measured against whom, and make() which returns the two sides.

    threads: 0 for those of --threads.  per: operations in one call.
    """

    what: str
    peer: str
    goal: float
    make: Callable[[], Sides]
    threads: int = 0
    per: int = 1


def step(
    network: Network, n: int, peer: str, goal: float, what: str = "", threads: int = 0
) -> Row:
    def make() -> Sides:
        theirs = torch_step(n, peer != EAGER, network, peer == COMPILED)
        return tinyconv_step(n, network), theirs

    return Row(what or f"{network.name} train step, batch {n}", peer, goal, make, threads)


def training() -> Iterator[Row]:
    for peer, goal in ((EAGER, 0.45), (LAST, 0.60), (COMPILED, 0.85)):
        yield step(RESNET8, 128, peer, goal)
    for peer, goal in ((EAGER, 0.45), (LAST, 0.60)):
        yield step(RESNET8, 128, peer, goal, "ResNet-8 train step, batch 128, one thread", 1)
    for network, n, goal in (
        (RESNET8, 16, 0.6), (RESNET8, 512, 0.5), (RESNET20, 128, 0.6), (RESNET18, 32, 0.9),
    ):  # fmt: skip
        yield step(network, n, EAGER, goal)
    for name, make in (
        ("DeZero", dezero_step), ("JAX", jax_step), ("tinygrad", tinygrad_step),
    ):  # fmt: skip
        yield Row(
            "ResNet-8 train step, batch 128", name, math.inf,
            lambda make=make: (tinyconv_step(128), make(128)),
        )  # fmt: skip


def inference() -> Iterator[Row]:
    for n, note, threads in ((128, "", 0), (1, "", 0), (1, ", one thread", 1)):
        for peer in (EAGER, LAST):
            yield Row(
                f"ResNet-8 inference, batch {n}{note}", peer, 1.0,
                lambda n=n, peer=peer: (tinyconv_inference(n), torch_inference(n, peer == LAST)),
                threads,
            )  # fmt: skip


def single(cases: list[Convolution], goal: float) -> list[Row]:
    return [
        Row(f"{case} {name}", LAST, goal, lambda case=case, name=name: case.sides(last=True)[name])
        for case in cases
        for name in ("forward", "dX", "dW")
    ]


def operations() -> Iterator[Row]:
    for name, pair in chains().items():
        yield Row(f"chain of {LENGTH}: {name}, per operation", "eager", 1.0, lambda pair=pair: pair,
                  threads=1, per=LENGTH)  # fmt: skip


def growth() -> Iterator[Row]:
    for n in BATCHES:
        yield step(RESNET8, n, EAGER, math.inf, f"growth, ResNet-8 step, batch {n}")
    for field, values in (("width", WIDTHS), ("size", SIZES)):
        for value in values:
            what = f"growth, ResNet-8 step, batch 128, {field} {value}"
            yield step(replace(RESNET8, **{field: value}), 128, EAGER, math.inf, what)


def worth_of_threads(threads: int) -> float:
    """How many times as fast as one thread they do what is hardly more than multiply-adds."""
    call, _ = Convolution(32, 28, 64, 64).sides(last=True)["forward"]
    shortest = []
    for n in (1, threads):
        tc.set_num_threads(n)
        call()
        shortest.append(min(clock(call, 1) for _ in range(5)))
    return shortest[0] / shortest[1]


def measure(row: Row, rounds: int, threads: int) -> Comparison:
    tc.set_num_threads(row.threads or threads)
    torch.set_num_threads(row.threads or threads)
    ours, peer = row.make()
    calls = calls_lasting(0.1, ours)
    return compare(row.what, ours, peer, goal=row.goal, rounds=rounds, warmup=2, calls=calls,
                   per=row.per, peer_name=row.peer)  # fmt: skip


def reason(error: Exception) -> str:
    """Why a row has no figures, short enough for the table."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}".replace("|", "/")


def show(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def show_comparison(found: Comparison) -> None:
    goal = ("", "")
    if not math.isinf(found.goal):
        goal = (f"{found.goal:g}", "met" if found.ratio <= found.goal else "NOT met")
    ratio = f"{found.ratio:.2f} ({found.low:.2f}-{found.high:.2f})"
    times = (format_time(found.ours), format_time(found.peer))
    show(found.what, found.peer_name, *times, ratio, *goal)


def mean_row(found: list[Comparison]) -> Comparison:
    """The geometric mean of rows: of times, ratios and quartiles.  The goal is that of all."""
    means = {
        field: statistics.geometric_mean(getattr(row, field) for row in found)
        for field in ("ours", "peer", "ratio", "low", "high")
    }
    goal = 1.0 if len(found) == 3 * len(SINGLE) else math.inf
    what = f"geometric mean of {len(found)} of {3 * len(SINGLE)} single 3x3 rows"
    return Comparison(what, **means, goal=goal, peer_name=LAST)


class Table:
    """Rows printed as they come and, where a path is given, kept as JSON after each of them."""

    def __init__(self, rounds: int, threads: int, path: str | None) -> None:
        self.rounds, self.threads, self.path = rounds, threads, path
        self.rows: list[dict[str, object]] = []
        self.worth: list[float] = []  # of the threads, before each row
        print(f"machine: {machine()}; PyTorch {torch.__version__}; {threads} threads\n")
        show("what", "against", "tinyconv", "peer", "ratio (quartiles)", "goal", "")
        show(*["---"] * 7)

    def add(self, rows: list[Row]) -> list[Comparison]:
        """Measure the rows; returned are those that did not fail."""
        found = []
        for row in rows:
            if (row.threads or self.threads) > 1:
                self.worth.append(worth_of_threads(self.threads))
            try:
                comparison = measure(row, self.rounds, self.threads)
            except Exception as error:
                self.failed(row, reason(error))
            else:
                self.measured(comparison, row.threads or self.threads)
                found.append(comparison)
        return found

    def measured(self, comparison: Comparison, threads: int) -> None:
        show_comparison(comparison)
        goal = None if math.isinf(comparison.goal) else comparison.goal
        met = None if goal is None else comparison.ratio <= goal
        self._keep({**asdict(comparison), "goal": goal, "met": met, "threads": threads,
                    "worth_of_threads": self.worth[-1] if threads > 1 else 1.0})  # fmt: skip

    def failed(self, row: Row, why: str) -> None:
        goal = None if math.isinf(row.goal) else row.goal
        show(row.what, row.peer, "", "", why, "" if goal is None else f"{goal:g}", "")
        self._keep({"what": row.what, "peer_name": row.peer, "goal": goal, "error": why})

    def finish(self) -> None:
        """The last line."""
        if self.worth:
            low, middle, high = min(self.worth), statistics.median(self.worth), max(self.worth)
            print(f"\n{self.threads} threads were {middle:.2f} times as fast as one "
                  f"({low:.2f} to {high:.2f}, row by row)")  # fmt: skip

    def _keep(self, row: dict[str, object]) -> None:
        self.rows.append(row)
        if self.path:
            text = json.dumps(
                {"machine": machine(), "torch": torch.__version__, "rows": self.rows}, indent=1
            )
            Path(self.path).write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Every goal of tinyconv on a CPU, one table.")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=tc.get_num_threads())
    parser.add_argument("--only", default="", help="rows with this text in what or against whom")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--json")
    options = parser.parse_args()

    def chosen(rows: Iterator[Row] | list[Row]) -> list[Row]:
        return [row for row in rows if options.only.lower() in f"{row.what} {row.peer}".lower()]

    singles = chosen(single(SINGLE, 1.15))
    before, after = (
        chosen(training()),
        chosen([*single(OTHERS, 1.3), *inference(), *operations(), *growth()]),
    )
    if options.list:
        print(*(f"{row.what}, against {row.peer}" for row in [*before, *singles, *after]), sep="\n")
        return
    table = Table(options.rounds, options.threads, options.json)
    table.add(before)
    if found := table.add(singles):
        table.measured(mean_row(found), options.threads)
    table.add(after)
    table.finish()


if __name__ == "__main__":
    main()
