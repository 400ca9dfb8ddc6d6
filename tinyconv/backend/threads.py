"""Threads over blocks of work, and scratch memory for each of them.

NumPy and compiled kernels release the interpreter's lock, so plain Python threads compute side by
side. Which blocks are summed together depends on the thread count alone, and results come in
order: bit-identical from run to run.
"""

import functools
import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from contextvars import copy_context
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from tinyconv.backend.array import Array
from tinyconv.backend.memory import aligned

T = TypeVar("T")
R = TypeVar("R")

WORTH_THREADS = 2**19  # numbers below which waking another thread costs more than it saves


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _default_threads() -> int:
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else _usable_cores()


_threads = _default_threads()


def get_num_threads() -> int:
    """The number of threads that a kernel uses: OMP_NUM_THREADS, else the usable cores."""
    return _threads


def set_num_threads(n: int) -> None:
    """Let kernels use `n` threads. Raises ValueError unless n >= 1."""
    global _threads
    if n < 1:
        raise ValueError(f"set_num_threads: {n} threads cannot compute anything; give 1 or more")
    _threads = int(n)


@functools.cache
def _workers(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "tinyconv")


class _SingleThreadedBlas:
    """While entered, a matrix product runs on the thread that asks for it.

    The setting is global to the process: the first to enter saves it, the last to leave restores.
    Where Ctrl-C kept a thread from that, its next product makes up for it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[int] = set()  # threads
        self.libraries: list[Any] | None = None
        self.before: list[int] = []  # what is to be restored, for each of the libraries

    def __enter__(self) -> None:
        with self.lock:
            if self.libraries is None:
                found = ThreadpoolController().lib_controllers
                self.libraries = [library for library in found if library.user_api == "blas"]
            if not self.before:
                self.before = [library.get_num_threads() for library in self.libraries]
            if not self.inside - {threading.get_ident()}:
                for library in self.libraries:
                    library.set_num_threads(1)
            self.inside.add(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside.discard(threading.get_ident())
            if not self.inside:
                for library, n in zip(self.libraries or (), self.before, strict=True):
                    library.set_num_threads(n)
                self.before = []


_single_threaded_blas = _SingleThreadedBlas()


def in_spans(
    job: Callable[[Sequence[T]], R],
    blocks: Sequence[T],
    work: int,
    per_thread: int = 4,
    blas: bool = True,
) -> list[R]:
    """job(span) for contiguous spans of `blocks`; results in order, `work` in numbers touched.

    A thread that is done takes the next span, so a core that is slow or busy holds nobody up.
    blas: the job multiplies matrices.
    """
    threads = max(1, min(_threads, len(blocks))) if work >= WORTH_THREADS else 1
    spans = [blocks[cut] for cut in cut(len(blocks), per_thread * threads if threads > 1 else 1)]
    results: dict[int, R] = {}
    queue = deque(enumerate(spans))

    def take_spans() -> None:
        while queue:
            try:
                i, span = queue.popleft()
            except IndexError:  # another thread was faster
                return
            results[i] = job(span)

    others: list[Future[None]] = []
    with _single_threaded_blas if blas else nullcontext():
        try:
            with suppress(RuntimeError):  # Python is shutting down: this thread does it all
                for _ in range(threads - 1):  # the context carries np.errstate
                    others.append(_workers(threads - 1).submit(copy_context().run, take_spans))
            take_spans()
        finally:  # after an error or Ctrl-C, too, nobody goes on behind the caller's back
            queue.clear()
            for other in others:
                other.result()
    return [results[i] for i in range(len(spans))]


def evenly(blocks: int) -> int:
    """At least so many blocks, but as many for each thread."""
    return -(-blocks // _threads) * _threads


def cut(n: int, pieces: int) -> list[slice]:
    """range(n) in so many slices, as equal as can be, none empty."""
    pieces = min(n, max(1, pieces))
    cuts = [n * i // pieces for i in range(pieces + 1)] if n else []
    return [slice(i, j) for i, j in itertools.pairwise(cuts)]


_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array on a cache line's boundary; this thread's next call by the same name

    overwrites it.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    buffer = getattr(_local, name, None)
    if buffer is None or buffer.size < size:
        buffer = aligned(size)
        setattr(_local, name, buffer)
    return buffer[:size].view(dtype).reshape(shape)


def _after_fork() -> None:
    """In the child: other threads do not survive a fork, and what they held, nobody gives back."""
    _workers.cache_clear()
    _single_threaded_blas.lock = threading.Lock()
    _single_threaded_blas.inside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
