"""How far data-parallel training pays: measured here, modelled up to 1,000 ranks.

    python benchmarks/scaling.py [--ranks 2] [--batch 128] [--norm sync|local] [--json FILE]
    python benchmarks/scaling.py --read FILE --latency-us 20 --gbit 10    # on another network

Ranks started with mpiexec measure the time of an all-reduce by its size, the time of a train step
of ResNet-8 by its batch (all ranks computing at once, nothing sent), the messages of a step, and
the step with its messages.  The model of n ranks with b images each:

    step(n, b)       = compute(b) * (1 + waiting(n)) + sum of all_reduce(n, m) over the messages
    compute(b)       = start + b * per image
    all_reduce(n, m) = rounds(n) * latency + m * 2 (n - 1) / n * per byte,    rounds = ceil(log2 n)
    waiting(n)       = spread * (the largest of n standard normal numbers, on average)

The third line is the cost of the usual algorithms (Thakur, Rabenseifner and Gropp, Optimization of
collective communication operations in MPICH, 2005).  The fourth is there because at each message
all wait for the slowest: a step with messages takes longer than computing and sending do.  All is
fitted to the ranks that measured; the second table holds the model against them, and from there
on it extrapolates.  Not in it: machines of different speed, a network that others use.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from timing import format_time, machine

import tinyconv as tc
from tinyconv import dist, nn, optim
from tinyconv.dist.world import world
from tinyconv.nn import functional as F

SIZES = [8, 128, 2**10, 2**13, 2**16, 2**18, 2**20, 2**22, 2**24]  # bytes
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]  # per rank
RANKS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
SECONDS = 1.0  # for each of the times
GOOD = 0.8  # efficiency
WORTH = 0.5  # efficiency below which half of the machines would do nearly as well


# ------------------------------------------------------------------------------- on every rank


def median_time(work: Callable[[], object], seconds: float) -> float:
    """The median of the slowest rank; all ranks start together each time."""
    work()
    start = time.perf_counter()
    work()
    once = dist.total(time.perf_counter() - start)[0] / dist.get_world_size()
    times = []
    for _ in range(max(5, min(300, round(seconds / once)))):
        dist.barrier()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    slowest = tc.tensor(statistics.median(times), dtype=tc.float64)
    return dist.all_reduce(slowest, "max").item()


class Training:
    """A rank's part of a train step."""

    def __init__(self, norm: str) -> None:
        self.model = nn.resnet.resnet8(in_channels=1)
        if norm == "sync":
            dist.SyncBatchNorm.convert_sync_batchnorm(self.model)
        dist.broadcast_state(self.model)
        self.optimizer = optim.SGD(self.model.parameters(), 0.01, momentum=0.9, nesterov=True)
        rng = np.random.default_rng(dist.get_rank())
        images = rng.standard_normal((max(BATCHES), 1, 28, 28), dtype=np.float32)
        self.images, self.labels = tc.tensor(images), tc.tensor(rng.integers(0, 10, len(images)))

    def step(self, batch: int) -> None:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.images[:batch]), self.labels[:batch])
        loss.backward()
        dist.average_gradients(self.model.parameters())
        self.optimizer.step()
        dist.total(loss.item())


    def silent_step(self, batch: int) -> None:
        """The same without a message; the ranks' parameters drift apart."""
        with all_reduce_replaced(lambda array, op="sum": None):
            self.step(batch)


@contextmanager
def all_reduce_replaced(by: Callable[[Any, str], None]) -> Iterator[None]:
    world().all_reduce = by  # type: ignore[method-assign]
    try:
        yield
    finally:
        del world().all_reduce


def measure(norm: str) -> dict[str, Any]:
    reductions = []
    for size in SIZES:
        array = np.zeros(size // 4, np.float32)
        reductions.append(median_time(lambda array=array: world().all_reduce(array), 0.3))
    training = Training(norm)
    messages: list[int] = []
    plain = world().all_reduce

    def noted(array: Any, op: str = "sum") -> None:
        messages.append(array.nbytes)
        plain(array, op)

    with all_reduce_replaced(noted):
        training.step(8)
    silent, together = [], []
    for batch in BATCHES:
        silent.append(median_time(lambda batch=batch: training.silent_step(batch), SECONDS))
        dist.broadcast_state(training.model)
        together.append(median_time(lambda batch=batch: training.step(batch), SECONDS))
    return {
        "ranks": dist.get_world_size(), "norm": norm, "all_reduce": reductions,
        "messages": messages, "silent_step": silent, "step": together,
        "threads": tc.get_num_threads(), "machine": machine(),
    }


# ----------------------------------------------------------------------------------- the model


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """(start, slope) of the straight line with the least relative errors; neither is negative."""
    rows, values = np.stack([np.ones(len(x)), np.array(x)], 1), np.array(y)
    start, slope = np.linalg.lstsq(rows / values[:, None], np.ones(len(x)), rcond=None)[0]
    return max(float(start), 0.0), max(float(slope), 0.0)


def rounds(n: int) -> int:
    return math.ceil(math.log2(n))


def largest(n: int) -> float:
    """Of n standard normal numbers, on average (Blom 1958)."""
    return statistics.NormalDist().inv_cdf((n - 0.375) / (n + 0.25))


@dataclass(frozen=True)
class Model:
    start: float  # seconds of a step without images
    per_image: float
    latency: float  # of one round
    per_byte: float
    messages: list[int]
    spread: float  # of the ranks' times between messages

    @classmethod
    def of(cls, found: dict[str, Any], latency: float | None, per_byte: float | None) -> Model:
        n = found["ranks"]
        start, per_image = line(BATCHES, found["silent_step"])
        whole, slope = line(SIZES, found["all_reduce"])
        latency_here, per_byte_here = whole / rounds(n), slope / (2 * (n - 1) / n)
        calm = cls(start, per_image, latency_here, per_byte_here, found["messages"], 0.0)
        waiting = statistics.median(
            (step - silent - calm.sending(n)) / silent
            for step, silent in zip(found["step"], found["silent_step"], strict=True)
        )
        return replace(
            calm,
            spread=max(waiting, 0.0) / largest(n),
            latency=latency_here if latency is None else latency,
            per_byte=per_byte_here if per_byte is None else per_byte,
        )

    def all_reduce(self, n: int, size: int) -> float:
        return rounds(n) * self.latency + 2 * (n - 1) / n * size * self.per_byte

    def sending(self, n: int) -> float:
        return sum(self.all_reduce(n, size) for size in self.messages) if n > 1 else 0.0

    def compute(self, batch: float) -> float:
        return self.start + batch * self.per_image

    def waiting(self, n: int, batch: float) -> float:
        return self.compute(batch) * self.spread * largest(n) if n > 1 else 0.0

    def step(self, n: int, batch: float) -> float:
        return self.compute(batch) + self.waiting(n, batch) + self.sending(n)

    def efficiency(self, n: int, batch: float, alone: float) -> float:
        """Images per second and rank, in relation to one rank with ``alone`` images a step."""
        return batch / self.step(n, batch) / (alone / self.step(1, alone))


def show(title: str, heads: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))


def show_measured(found: dict[str, Any], model: Model) -> None:
    n = found["ranks"]
    show(f"An all-reduce, {n} ranks", ["bytes", "measured", "line"], [
        [f"{size:,}", format_time(t), format_time(rounds(n) * model.latency
                                                 + 2 * (n - 1) / n * size * model.per_byte)]
        for size, t in zip(SIZES, found["all_reduce"], strict=True)
    ])
    show(f"A step, {n} ranks at once", ["images per rank", "nothing sent", "line",
                                       "with messages", "model"], [
        [str(b), format_time(silent), format_time(model.compute(b)),
         format_time(t), format_time(model.step(n, b))]
        for b, silent, t in zip(BATCHES, found["silent_step"], found["step"], strict=True)
    ])


def show_scaling(model: Model, batch: int) -> None:
    one = model.step(1, batch)
    show(f"Weak scaling: {batch} images per rank", ["ranks", "step", "sending", "waiting",
                                                   "efficiency", "images/s"], [
        [f"{n:,}", format_time(model.step(n, batch)), format_time(model.sending(n)),
         format_time(model.waiting(n, batch)),
         f"{100 * model.efficiency(n, batch, batch):.1f} %",
         f"{n * batch / model.step(n, batch):,.0f}"]
        for n in RANKS
    ])
    show(f"Strong scaling: {batch} images in all", ["ranks", "images per rank", "step", "sending",
                                                   "waiting", "speed-up", "efficiency"], [
        [f"{n:,}", str(batch // n), format_time(model.step(n, batch / n)),
         format_time(model.sending(n)), format_time(model.waiting(n, batch / n)),
         f"{one / model.step(n, batch / n):.2f}",
         f"{100 * model.efficiency(n, batch / n, batch):.1f} %"]
        for n in RANKS if n <= batch
    ])
    paying = [n for n in range(1, batch + 1)
              if batch % n == 0 and model.efficiency(n, batch / n, batch) >= WORTH]
    fastest = min((n for n in range(1, batch + 1) if batch % n == 0),
                  key=lambda n: model.step(n, batch / n))
    gain = one / model.step(fastest, batch / fastest)
    print(f"\n{batch} images in all: efficiency stays at {WORTH:.0%} or more up to {paying[-1]} "
          f"ranks; the fastest is {fastest} ranks, {gain:.1f} times one.")
    for n in (2, 8, 64, 1000):
        enough = next((b for b in range(1, 1025) if model.efficiency(n, b, b) >= GOOD), None)
        print(f"{n:,} ranks reach {GOOD:.0%} of {n:,} times one rank's images/s "
              f"{'with no batch up to 1,024' if enough is None else f'from {enough} images'} "
              "per rank.")


# ------------------------------------------------------------------------------------ the script


def started(options: argparse.Namespace) -> dict[str, Any]:
    """What the ranks measure, each with its share of the cores."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    done = subprocess.run(
        [str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", str(options.ranks),
         sys.executable, __file__, "--norm", options.norm, "--measure"],
        capture_output=True, text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="How far data-parallel training pays.")
    parser.add_argument("--ranks", type=int, default=2, help="how many measure (default: 2)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--norm", choices=("sync", "local"), default="sync")
    parser.add_argument("--latency-us", type=float, help="assume a network, instead of measuring")
    parser.add_argument("--gbit", type=float, help="its gigabits per second")
    parser.add_argument("--json")
    parser.add_argument("--read", help="what --json wrote, instead of measuring")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        found = measure(options.norm)
        if dist.get_rank() == 0:
            print(json.dumps(found))
        return
    found = json.loads(Path(options.read).read_text()) if options.read else started(options)
    measured = Model.of(found, None, None)
    sizes = measured.messages
    print(f"machine: {found['machine']}; {found['ranks']} ranks with {found['threads']} thread(s), "
          f"batch norm over {'all ranks' if found['norm'] == 'sync' else 'each rank alone'}")
    share = 100 * measured.spread * largest(found["ranks"])
    print(f"a step: {format_time(measured.start)} + {format_time(measured.per_image)} per image; "
          f"{len(sizes)} messages, {sum(sizes) / 1e6:.2f} MB; "
          f"{found['ranks']} ranks wait for each other {share:.1f} % of the time that they compute")
    show_measured(found, measured)
    model = measured
    if options.latency_us is not None or options.gbit is not None:
        model = Model.of(
            found,
            None if options.latency_us is None else options.latency_us * 1e-6,
            None if options.gbit is None else 8 / (options.gbit * 1e9),
        )
    how = "as measured" if model == measured else "ASSUMED, not measured"
    print(f"\nnetwork, {how}: {format_time(model.latency)} per round, "
          f"{8e-9 / model.per_byte:.1f} Gbit/s")
    show_scaling(model, options.batch)
    if options.json:
        text = json.dumps({**found, "model": asdict(measured)})
        Path(options.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
