"""Threads over blocks of work, and scratch memory for each of them.

NumPy releases the interpreter's lock, so plain Python threads compute side by side (compiled
kernels have threads of their own, `compiled.team`).  Which blocks are summed together depends on
the thread count alone, and results come in order: bit-identical from run to run.

Signals. Python runs a signal handler on the main thread, between any two steps of its code, and
the handler may raise (Ctrl-C) or compute with tinyconv itself.  So what has to be undone is undone
in a `finally` of the function that did it, not in a context manager (the handler may raise when
`__exit__` begins); no lock is waited for that the interrupted code could hold; and what is counted
can be counted again.  `threading.Event` and `Thread.start` are not made for that: they are left
locked where a handler raises inside of them.
"""

import _thread
import ctypes
import functools
import itertools
import math
import operator
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
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


def most_threads() -> int:
    """More than this many threads only take memory: scratch, partial sums, stacks."""
    return max(32, 4 * len(usable_cores()))


def _default_threads() -> int:
    """What OMP_NUM_THREADS asks for, if it is a number (its list is for nested loops)."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    given = int(wanted) if wanted.isdecimal() else 0
    return min(given, most_threads()) if given else len(usable_cores())


_threads = _default_threads()


def get_num_threads() -> int:
    """The number of threads that a kernel uses: OMP_NUM_THREADS, else the usable cores.

    A kernel asks once and hands the number on: another thread may change it at any time.
    """
    return _threads


def set_num_threads(n: int) -> None:
    """Let kernels use `n` threads, or 4 times the usable cores (but at least 32) where n is more.

    A kernel that is under way goes on with the number that it began with.  Raises TypeError unless
    n is an integer, ValueError unless n >= 1.
    """
    global _threads
    try:
        if isinstance(n, bool):
            raise TypeError
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"set_num_threads: {n!r} is no number of threads; give an int") from None
    if count < 1:
        raise ValueError(f"set_num_threads: {n} threads cannot compute anything; give 1 or more")
    _threads = min(count, most_threads())


class _Placement:
    """While a kernel runs, the caller stays on its core and the workers stay off it.

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

    def usable(self) -> set[int]:
        """The cores to give back to the caller's thread afterwards; none: leave it where it is."""
        cores = set() if self.current_core is None else os.sched_getaffinity(0)
        return cores if len(cores) > 1 else set()  # one: a handler's kernel inside of another

    def spread(self, usable: set[int]) -> None:
        """Keep the caller on the core where it is, and the workers off it."""
        if not usable or self.current_core is None:
            return
        core = self.current_core()
        if core != self.core:
            self.core = core
            for thread in tuple(self.threads):
                with suppress(OSError):  # the thread has ended
                    os.sched_setaffinity(thread, usable - {core})
        os.sched_setaffinity(0, {core})


_placement = _Placement()


class _Worker:
    """A thread that does what it is handed."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        _thread.start_new_thread(self.run, ())

    def run(self) -> None:
        _placement.register()
        while True:
            self.inbox.get()()


_workers: list[_Worker] = []


class _SingleThreadedBlas:
    """Between `enter` and `leave`, a matrix product runs on the thread that asks for it.

    The setting is global to the process: the first to enter saves it, the last to leave restores.
    Where Ctrl-C kept a thread from that, its next product makes up for it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[int] = set()  # threads
        self.libraries: list[Any] | None = None
        self.before: list[int] = []  # what is to be restored, for each of the libraries

    def found(self) -> list[Any]:
        if self.libraries is None:
            found = ThreadpoolController().lib_controllers
            self.libraries = [library for library in found if library.user_api == "blas"]
        return self.libraries

    def enter(self, nested: bool) -> list[int]:
        """What `leave` is to be told; nested: a signal handler computes inside of a kernel.

        Its thread may be in the midst of either method, so it asks for no lock and puts back what
        it found.
        """
        if nested:
            now = [library.get_num_threads() for library in self.found()]
            self._set([1] * len(now))
            return now
        with self.lock:
            libraries = self.found()
            if not self.before:
                self.before = [library.get_num_threads() for library in libraries]
            if not self.inside - {threading.get_ident()}:
                self._set([1] * len(libraries))
            self.inside.add(threading.get_ident())
        return []

    def leave(self, nested: list[int]) -> None:
        if nested:
            self._set(nested)
            return
        with self.lock:
            self.inside.discard(threading.get_ident())
            if not self.inside:
                self._set(self.before)
                self.before = []

    def _set(self, counts: list[int]) -> None:
        for library, n in zip(self.libraries or (), counts, strict=False):
            library.set_num_threads(n)


_single_threaded_blas = _SingleThreadedBlas()


def in_spans(
    job: Callable[[Sequence[T]], R],
    blocks: Sequence[T],
    work: int,
    per_thread: int = 4,
    blas: bool = True,
    threads: int | None = None,
) -> list[R]:
    """job(span) for contiguous spans of `blocks`; results in order, `work` in numbers touched.

    A thread that is done takes the next span, so a core that is slow or busy holds nobody up.
    blas: the job multiplies matrices.  threads: how many the blocks were cut for.
    """
    threads = _threads if threads is None else threads
    threads = max(1, min(threads, len(blocks))) if work >= WORTH_THREADS else 1
    many = threads > 1
    mine, depth, outer = _scratch, _scratch.depth, (_scratch.buffers, _scratch.arrays)
    usable = _placement.usable() if many else set()
    inside: list[int] = []
    try:
        mine.depth = depth + 1
        if depth > 0:  # a signal handler computes; the kernel that it interrupted wants its own
            mine.renew()
        if blas:
            inside = _single_threaded_blas.enter(depth > 0)
        if not many:
            return [job(blocks)] if len(blocks) else []
        _placement.spread(usable)
        spans = [blocks[piece] for piece in cut(len(blocks), per_thread * threads)]
        return _together(job, spans, threads)
    finally:
        try:
            if usable:
                os.sched_setaffinity(0, usable)
            if blas:
                _single_threaded_blas.leave(inside)
        finally:  # last: until then a handler's kernel has to know that it is inside of another
            mine.depth, (mine.buffers, mine.arrays) = depth, outer


def _together(job: Callable[[Sequence[T]], R], spans: list[Sequence[T]], threads: int) -> list[R]:
    results: dict[int, R] = {}
    queue = deque(enumerate(spans))

    def take_spans() -> None:
        while queue:
            try:
                i, span = queue.popleft()
            except IndexError:  # another thread was faster
                return
            results[i] = job(span)

    team = _Team(take_spans, threads - 1)
    late: BaseException | None = None
    try:
        _teams.append(team)
        team.summon()
        take_spans()
    finally:  # after an error or Ctrl-C, too, nobody goes on behind the caller's back
        while not team.dismissed:
            try:
                queue.clear()
                team.dismiss()
            except BaseException as error:  # Ctrl-C now: when everybody is done
                late = error
        _teams.remove(team)
        if late is not None:
            raise late
    team.raise_errors()
    if len(results) < len(spans):
        raise RuntimeError("a signal handler forked in the midst of a kernel, whose threads the "
                           "child has not; end the child in the handler, or start it elsewhere")
    return [results[i] for i in range(len(spans))]


class _Team:
    """Workers that join in a task; one that does not come in time is not waited for."""

    def __init__(self, task: Callable[[], None], size: int) -> None:
        self.task, self.size = task, size
        self.dismissed = False
        self.lost = False  # this is the child of a fork, and the workers are its parent's
        self.places: dict[int, str] = {}  # who has it: the worker, or the caller, who is done
        self.ended: dict[int, BaseException | None] = {}  # by place, of workers who came
        self.news: SimpleQueue[None] = SimpleQueue()  # one of them has ended

    def summon(self) -> None:
        with suppress(RuntimeError):  # Python is shutting down, no thread starts any more
            while len(_workers) < self.size:
                _workers.append(_Worker())
        for place, worker in enumerate(_workers[: self.size]):
            context = copy_context()  # carries np.errstate
            worker.inbox.put(functools.partial(self.join, place, context.run))

    def join(self, place: int, run: Callable[..., None]) -> None:
        if self.places.setdefault(place, "worker") != "worker":  # the task is done
            return
        error = None
        try:
            run(self.task)
        except BaseException as found:
            error = found
        self.ended[place] = error
        self.news.put(None)

    def dismiss(self) -> None:
        """Wait for those who came.  Where a signal handler raises in here, call it again."""
        for place in range(self.size):
            if self.places.setdefault(place, "caller") == "worker":
                while place not in self.ended and not self.lost:
                    self.news.get()
        self.dismissed = True

    def lose(self) -> None:
        self.lost = True
        self.news.put(None)

    def raise_errors(self) -> None:
        """What one of them raised."""
        for error in self.ended.values():
            if error is not None:
                raise error


_teams: list[_Team] = []  # at work


def evenly(blocks: int, threads: int) -> int:
    """At least so many blocks, but as many for each thread."""
    return -(-blocks // threads) * threads


def cut(n: int, pieces: int) -> list[slice]:
    """range(n) in so many slices, as equal as can be, none empty."""
    pieces = min(n, max(1, pieces))
    cuts = [n * i // pieces for i in range(pieces + 1)] if n else []
    return [slice(i, j) for i, j in itertools.pairwise(cuts)]


class _Scratch(threading.local):
    """One thread's buffers by their names, and the arrays in them that were asked for."""

    def __init__(self) -> None:
        self.depth = 0  # kernels of plain NumPy that are under way: a handler's inside of another
        self.renew()

    def renew(self) -> None:
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
            arrays.pop(key, None)  # they are in the old one; a signal handler may have been here
    elif len(arrays) >= MOST_ARRAYS:
        arrays.clear()
    array = np.ndarray(shape, dtype, buffers[name])
    arrays[name, shape, dtype] = array
    return array


def _after_fork() -> None:
    """In the child: other threads do not survive a fork, and what they held, nobody gives back."""
    _workers.clear()
    for team in _teams:
        team.lose()
    _placement.threads.clear()
    _single_threaded_blas.lock = threading.Lock()
    _single_threaded_blas.inside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
