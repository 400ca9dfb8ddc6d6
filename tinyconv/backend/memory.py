"""Memory for the large arrays that kernels return."""

import math
import mmap
import os
import threading
import weakref
from bisect import bisect
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from tinyconv.backend.array import Array

LINE = 64  # bytes of a cache line
STAGGER = 5  # lines between arrays, lest all of a size compete for the same places in the cache
LARGE = 2**17  # bytes from which on an array's memory is worth keeping for the next one
SLAB = 2**27  # bytes that are asked for at once; the system provides what is written to


def aligned(size: int) -> Array:
    """Uninitialised bytes that start on a cache line's boundary: no vector straddles two lines."""
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size]


class _Slab:
    """Memory from the system in one piece, lent in parts; what is not lent are the holes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.space = self._from_system(size)
        self.holes = [(0, size)]  # in order; no two touch

    @staticmethod
    def _from_system(size: int) -> Any:
        """In pages of 2 MB where Linux has them: fewer faults, and addresses found faster."""
        with suppress(AttributeError, OSError):  # not here, or not so much
            space = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            space.madvise(mmap.MADV_HUGEPAGE)
            return space
        return memoryview(aligned(size))

    def take(self, size: int) -> int | None:
        """From the first hole that is large enough, so that the last one stays large."""
        for i, (start, stop) in enumerate(self.holes):
            if stop - start >= size:
                self.holes[i : i + 1] = [(start + size, stop)] if stop - start > size else []
                return start
        return None

    def give_back(self, start: int, stop: int) -> None:
        """A hole again, one with those that it touches."""
        i = bisect(self.holes, (start, stop))
        if i < len(self.holes) and self.holes[i][0] == stop:
            stop = self.holes.pop(i)[1]
        if i > 0 and self.holes[i - 1][1] == start:
            i -= 1
            start = self.holes.pop(i)[0]
        self.holes.insert(i, (start, stop))

    def is_idle(self) -> bool:
        return self.holes == [(0, self.size)]


class _Loan(weakref.ref[Array]):
    """Part of a slab and the array that it was lent to, of which all others there are views."""

    __slots__ = ("slab", "start", "stop")

    slab: _Slab
    start: int
    stop: int


class Memory:
    """Large uninitialised arrays, in the memory of ones that nobody refers to any more.

    The C library hands a large array back to the system when it dies, and the next one has to be
    faulted in page by page, which takes longer than most kernels.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: dict[int, bool] = {}  # threads that are in `empty`
        self.torn = False  # did an exception from a signal handler leave it half way?
        self.slabs: list[_Slab] = []
        self.loans: dict[int, _Loan] = {}  # by their identity
        # Loans whose arrays are gone.  An array may die anywhere, also in the midst of `empty`.
        self.over: deque[_Loan] = deque()

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        dtype, count = np.dtype(dtype), math.prod(shape)
        if count * dtype.itemsize < LARGE:
            return np.empty(shape, dtype)
        size = (-(-count * dtype.itemsize // LINE) + STAGGER) * LINE
        me = threading.get_ident()
        if me in self.inside:  # a signal handler or a finalizer computes, in the midst of this
            return np.empty(shape, dtype)
        try:
            self.inside[me] = True
            with self.lock:
                owner = self._lend(size, dtype, count)
        finally:
            self.inside.pop(me, None)  # a child that a handler forked has none
        return owner.reshape(shape)  # a view: it and all views of it refer to the owner

    def _lend(self, size: int, dtype: Any, count: int) -> Array:
        """The loans say what is lent; the holes only say it faster."""
        if self.torn:
            self._find_holes()
        self.torn = True
        self._end_loans()
        slab, start = self._take(size)
        owner = np.frombuffer(slab.space, dtype, count, start)
        loan = _Loan(owner, self.over.append)
        loan.slab, loan.start, loan.stop = slab, start, start + size
        self.loans[id(loan)] = loan
        self.torn = False
        return owner

    def _end_loans(self) -> None:
        while self.over:
            loan = self.over.popleft()
            if self.loans.pop(id(loan), None) is not None:
                loan.slab.give_back(loan.start, loan.stop)

    def _find_holes(self) -> None:
        """Anew, from the loans whose arrays are alive."""
        alive = [(loan, loan()) for loan in self.loans.values()]  # and stay so until we are done
        self.loans = {id(loan): loan for loan, array in alive if array is not None}
        for slab in self.slabs:
            lent = sorted((a.start, a.stop) for a in self.loans.values() if a.slab is slab)
            edges = [0, *(edge for part in lent for edge in part), slab.size]
            slab.holes = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]

    def _take(self, size: int) -> tuple[_Slab, int]:
        for slab in self.slabs:
            start = slab.take(size)
            if start is not None:
                return slab, start
        self.slabs = [slab for slab in self.slabs if not slab.is_idle()]  # make room first
        self.slabs.append(_Slab(max(size, SLAB)))
        return self._take(size)


_memory = Memory()
empty = _memory.empty


def is_lent(x: Array) -> bool:
    """Is x the very array that memory was lent to, to which its views refer?"""
    return any(isinstance(loan, _Loan) for loan in weakref.getweakrefs(x))


def empty_like(x: Array) -> Array:
    """np.empty_like for an `x` without holes in memory, but without page faults."""
    order = memory_order(x)
    return empty([x.shape[axis] for axis in order], x.dtype).transpose(np.argsort(order))


def memory_order(x: Array) -> list[int]:
    """The axes of x, outermost in memory first."""
    return sorted(range(x.ndim), key=lambda axis: -x.strides[axis])


def _after_fork() -> None:
    """In the child: a thread that held the lock is gone, and may have left things half done."""
    _memory.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
