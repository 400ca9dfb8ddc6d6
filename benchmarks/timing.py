"""Both sides in turn in one process: A B A B ..., medians, and the ratio round by round.

The machine may be shared and noisy; a ratio taken within a round holds where a time does not.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

REST = 0.05  # seconds


@dataclass(frozen=True)
class Comparison:
    """Median seconds of two sides, the median of their ratios and its quartiles.

    goal: what the ratio should not exceed; infinite where none is set.
    """

    what: str
    ours: float
    peer: float
    ratio: float
    low: float
    high: float
    goal: float
    peer_name: str = "PyTorch"

    def __str__(self) -> str:
        line = (
            f"{self.what}: tinyconv {format_time(self.ours)}, "
            f"{self.peer_name} {format_time(self.peer)}, "
            f"ratio {self.ratio:.2f} ({self.low:.2f}-{self.high:.2f})"
        )
        if math.isinf(self.goal):
            return line
        return f"{line}, goal <= {self.goal:g}: {'met' if self.ratio <= self.goal else 'NOT met'}"


def format_time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.2f} us"


def compare(
    what: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    goal: float,
    rounds: int = 11,
    warmup: int = 3,
    calls: int = 1,
    per: int = 1,
    peer_name: str = "PyTorch",
) -> Comparison:
    """Time ``calls`` calls of each side per round; times are divided by ``calls * per``."""
    for _ in range(warmup):
        ours()
        peer()
    scale = calls * per
    turns = [lambda work=work: _turn(work, calls) / scale for work in (ours, peer)]
    a, b = in_turn(turns, rounds)
    return Comparison(
        what, statistics.median(a), statistics.median(b), *ratio(a, b), goal, peer_name
    )


def in_turn(turns: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Seconds of each side, round by round: A B C A B C ...  A turn does its side's work."""
    taken = [[turn() for turn in turns] for _ in range(rounds)]
    return [list(side) for side in zip(*taken, strict=True)]


def ratio(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratios within the rounds."""
    ratios = sorted(a / b for a, b in zip(ours, peer, strict=True))
    return statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]


def _turn(work: Callable[[], object], calls: int) -> float:
    """Seconds of one side's turn, undisturbed by the other side's.

    A library's threads watch for more work before they sleep, those of GNU's OpenMP, which PyTorch
    uses, for GOMP_SPINCOUNT rounds; they would take a core from whoever comes next.  Then one call
    more, so that this side's threads are awake.
    """
    time.sleep(REST)
    work()
    return clock(work, calls)


def calls_lasting(seconds: float, work: Callable[[], object]) -> int:
    """How many calls take about so long, at least one; the work has been done once before."""
    work()
    return max(1, round(seconds / clock(work, 1)))


def clock(work: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - start


def machine() -> str:
    """The CPU's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if names:
            return f"{names[0].partition(': ')[2]} x {len(names)}"
    return platform.processor() or platform.machine()


def report(rows: list[Comparison], json_path: str | None = None) -> None:
    """Print the rows; write them as JSON too where a path is given."""
    print(f"machine: {machine()}")
    print(*rows, sep="\n")
    if json_path:
        found = [
            {**asdict(row), "goal": None if math.isinf(row.goal) else row.goal} for row in rows
        ]
        text = json.dumps({"machine": machine(), "rows": found}, indent=1)
        Path(json_path).write_text(text + "\n")
