"""What the parts share: the paths of kernels, the clock, precisions, poisoned memory."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from timing import in_turn, ratio

import tinyconv as tc
from gpucheck import peers
from gpucheck.parts import Missing, Row, reason
from tinyconv.backend import backend_named

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))  # drawn samples, and what stands in for a GPU
PRECISIONS = {"fp32": "float32", "tf32": "float32", "fp16": "float16"}  # the arrays' dtype
ALL_BITS = 255  # in every byte: NaN in each floating type, -1 in each signed one


def stand_in(backend: str) -> AbstractContextManager[None]:
    """The real CuPy, or what `pytest --backend` has in its place."""
    if backend == "cupy":
        return nullcontext()
    from stand_in import stand_in as install  # tests/stand_in.py

    return install(backend)


def gpu() -> Any:
    """The backend."""
    return backend_named("cuda")


def cupy() -> Any:
    return gpu().xp


# --------------------------------------------------------------------------------------- paths


def paths() -> dict[str, list[ModuleType]]:
    """The layers of each path that works here: "xp" alone, then one rung of the ladder more."""
    plain, fast = gpu().choices["reference"], gpu().choices["fast"]
    rungs = [layer for layer in fast if layer not in plain]
    found = {"xp": plain}
    for i in reversed(range(len(rungs))):
        found[rungs[i].__name__.rpartition(".")[2]] = [*rungs[i:], *plain]
    return found


def use(path: str) -> None:
    """Compute with the layers of a path from now on."""
    backend = gpu()
    backend.choices[path] = paths()[path]
    backend.use(path)


@contextmanager
def using(path: str) -> Iterator[None]:
    before = gpu().choice
    use(path)
    try:
        yield
    finally:
        gpu().use(before)


# ------------------------------------------------------------------------------ how it computes


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Products of float32 in full or as TF32, here and in PyTorch."""
    before = tc.get_float32_precision()
    tc.set_float32_precision("tf32" if name == "tf32" else "highest")
    peers.use_tf32(name == "tf32")
    try:
        yield
    finally:
        tc.set_float32_precision(before)
        peers.use_tf32(before == "tf32")


class Poison:
    """A memory pool that hands out what is full of NaN."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def malloc(self, size: int) -> Any:
        memory = self.pool.malloc(size)
        memory.memset_async(ALL_BITS, size)
        return memory


def poisoned() -> AbstractContextManager[None]:
    """New memory is full of NaN: what a kernel does not write cannot pass for a result."""
    return cupy().cuda.using_allocator(Poison(cupy().get_default_memory_pool()).malloc)


# ------------------------------------------------------------------------------------ the clock


@dataclass(frozen=True)
class Side:
    """What is timed.  before: is called ahead of each turn, on nobody's time."""

    work: Callable[[], object]
    before: Callable[[], object] = lambda: None


Makers = dict[str, Callable[[], Side]]


def elapsed(work: Callable[[], object], calls: int = 1) -> float:
    """Seconds of a call on the device, between two events; one call more goes ahead of them.

    Both libraries work in the default stream, in which the events are.
    """
    cuda = cupy().cuda
    start, end = cuda.Event(), cuda.Event()
    work()
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return cuda.get_elapsed_time(start, end) / 1e3 / calls


def waited_for(work: Callable[[], object], calls: int) -> float:
    """Seconds of a call by the host's clock, the device idle before and after."""
    tc.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    tc.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def race(ours: Makers, theirs: Makers, rounds: int, seconds: float) -> Row:
    """Time all sides in turn: seconds by side, and the ratios of ours to theirs, with quartiles.

    seconds:    of a side's turn, about
    host_clock: the same seconds by another clock; a side that worked in a stream which the events
                do not see would be slower there
    missing:    the sides that could not be made or run, each with its reason
    """
    sides, calls, missing = {}, {}, {}
    for name, make in {**ours, **theirs}.items():
        try:
            side = make()
            calls[name] = _calls(side, seconds)
            sides[name] = side
        except Missing as error:
            missing[name] = str(error)
        except Exception as error:
            missing[name] = reason(error)

    def turn(name: str, clock: Callable[[Callable[[], object], int], float] = elapsed) -> float:
        sides[name].before()
        return clock(sides[name].work, calls[name])

    turns = [lambda name=name: turn(name) for name in sides]
    taken = dict(zip(sides, in_turn(turns, rounds), strict=True)) if sides else {}
    return {
        "seconds": {name: statistics.median(times) for name, times in taken.items()},
        "host_clock": {name: turn(name, waited_for) for name in sides},
        "ratios": {
            name: {peer: ratio(taken[name], taken[peer]) for peer in theirs if peer in taken}
            for name in ours
            if name in taken
        },
        "missing": missing,
    }


def _calls(side: Side, seconds: float) -> int:
    """How many calls last about so long; it has been done a few times then."""
    side.before()
    for _ in range(3):
        side.work()
    return max(1, min(1000, round(seconds / max(elapsed(side.work), 1e-7))))
