"""Threads over blocks of work, and scratch memory for each of them.

NumPy releases the interpreter's lock, so plain Python threads compute side by side (compiled
kernels have threads of their own, `compiled.team`).  Which blocks are summed together depends on
the thread count alone, and results come in order: bit-identical from run to run.
"""

import ctypes
import functools
import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from tinyconv.backend.array import Array
from tinyconv.backend.memory import aligned

T = TypeVar("T")
R = TypeVar("R")

WORTH_THREADS = 2**19  # numbers below which waking another thread costs more than it saves


def usable_cores() -> set[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _default_threads() -> int:
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else len(usable_cores())


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


class _Placement:
    """While entered, the caller stays on its core and the workers stay off it.

    Left alone, the system may wake a thread on the very core where another one is busy while a
    third idles, and not notice for milliseconds: on virtual machines a core that was halted
    counts as taken. Two threads then took as long as one. Linux only; elsewhere nothing is done.
    """

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.core = -1  # the one that the workers are kept off
        self.current_core = None
        if hasattr(os, "sched_setaffinity"):
            self.current_core = getattr(ctypes.CDLL(None), "sched_getcpu", None)

    def register(self) -> None:
        """By each worker, when it starts."""
        self.threads.add(threading.get_native_id())
        self.core = -1

    @contextmanager
    def spread(self) -> Iterator[None]:
        if self.current_core is None:
            yield
            return
        usable, core = os.sched_getaffinity(0), self.current_core()
        if len(usable) == 1:
            yield
            return
        if core != self.core:
            self.core = core
            for thread in self.threads:
                with suppress(OSError):  # the thread has ended
                    os.sched_setaffinity(thread, usable - {core})
        os.sched_setaffinity(0, {core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, usable)


_placement = _Placement()


class _Worker:
    """A thread that does what it is handed."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self.run, name="tinyconv", daemon=True).start()

    def run(self) -> None:
        _placement.register()
        while True:
            self.inbox.get()()


_workers: list[_Worker] = []


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
    if threads == 1:
        with _single_threaded_blas if blas else nullcontext():
            return [job(blocks)] if len(blocks) else []
    spans = [blocks[piece] for piece in cut(len(blocks), per_thread * threads)]
    results: dict[int, R] = {}
    queue = deque(enumerate(spans))

    def take_spans() -> None:
        while queue:
            try:
                i, span = queue.popleft()
            except IndexError:  # another thread was faster
                return
            results[i] = job(span)

    with _single_threaded_blas if blas else nullcontext(), _placement.spread():
        team = _Team(take_spans, threads - 1)
        try:
            take_spans()
        finally:  # after an error or Ctrl-C, too, nobody goes on behind the caller's back
            queue.clear()
            team.dismiss()
    return [results[i] for i in range(len(spans))]


class _Team:
    """Workers that join in a task; one that does not come in time is not waited for."""

    def __init__(self, task: Callable[[], None], size: int) -> None:
        self.size = size
        self.places = deque(range(size))
        self.errors: SimpleQueue[BaseException | None] = SimpleQueue()
        with suppress(RuntimeError):  # Python is shutting down, no thread starts any more
            while len(_workers) < size:
                _workers.append(_Worker())
        for worker in _workers[:size]:
            context = copy_context()  # carries np.errstate
            worker.inbox.put(functools.partial(self.join, context.run, task))

    def join(self, run: Callable[..., None], task: Callable[[], None]) -> None:
        try:
            self.places.pop()
        except IndexError:  # the task is done
            return
        error = None
        try:
            run(task)
        except BaseException as found:
            error = found
        self.errors.put(error)

    def dismiss(self) -> None:
        """Wait for those who came; raise what one of them raised."""
        absent = 0
        while self.places:
            with suppress(IndexError):
                self.places.pop()
                absent += 1
        for error in [self.errors.get() for _ in range(self.size - absent)]:
            if error is not None:
                raise error


def evenly(blocks: int) -> int:
    """At least so many blocks, but as many for each thread."""
    return -(-blocks // _threads) * _threads


def cut(n: int, pieces: int) -> list[slice]:
    """range(n) in so many slices, as equal as can be, none empty."""
    pieces = min(n, max(1, pieces))
    cuts = [n * i // pieces for i in range(pieces + 1)] if n else []
    return [slice(i, j) for i, j in itertools.pairwise(cuts)]


class _Scratch(threading.local):
    """One thread's buffers by their names, and the arrays in them that were asked for."""

    def __init__(self) -> None:
        self.buffers: dict[str, Array] = {}
        self.arrays: dict[tuple[str, tuple[int, ...], Any], Array] = {}


_scratch = _Scratch()
MOST_ARRAYS = 1024  # of a thread; programs whose shapes never come again should not collect them


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array on a cache line's boundary; this thread's next call by the same name

    overwrites it.
    """
    found = _scratch.arrays.get((name, shape, dtype))
    return _arranged(name, shape, dtype) if found is None else found


def _arranged(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    buffers, arrays = _scratch.buffers, _scratch.arrays
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if name not in buffers or buffers[name].size < size:
        buffers[name] = aligned(size)
        for key in [key for key in arrays if key[0] == name]:
            del arrays[key]  # they are in the old one
    elif len(arrays) >= MOST_ARRAYS:
        arrays.clear()
    array = np.ndarray(shape, dtype, buffers[name])
    arrays[name, shape, dtype] = array
    return array


def _after_fork() -> None:
    """In the child: other threads do not survive a fork, and what they held, nobody gives back."""
    _workers.clear()
    _placement.threads.clear()
    _single_threaded_blas.lock = threading.Lock()
    _single_threaded_blas.inside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
