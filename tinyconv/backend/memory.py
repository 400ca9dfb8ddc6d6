"""Memory for the large arrays that kernels return."""

import math
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.backend.array import Array

LINE = 64  # bytes of a cache line
WASTE = 8  # how many times too large memory may be for what is put into it
LARGE = 2**17  # bytes from which on an array's memory is worth keeping for the next one


def aligned(size: int) -> Array:
    """Uninitialised bytes that start on a cache line's boundary: no vector straddles two lines."""
    return _from_line(np.empty(size + LINE, np.uint8), size)


def _from_line(memory: Array, size: int) -> Array:
    start = -memory.ctypes.data % LINE
    return memory[start : start + size]


class Memory:
    """Large uninitialised arrays, in the memory of ones that nobody refers to any more.

    The C library hands a large array back to the system when it dies, and the next one has to be
    faulted in page by page, which takes longer than most kernels. Never holds more than was in use
    at the same time.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.never_lent = np.empty(0, np.uint8)  # for comparison
        self.owners: dict[int, list[Array]] = {}  # by size; the least recently lent first

    def _idle(self, owners: list[Array]) -> list[int]:
        """Where the owners are to which nobody refers; every view of one does."""
        # A debugger's references count as well: so the unused one is counted along with the rest.
        unused, *counts = [sys.getrefcount(owner) for owner in [self.never_lent, *owners]]
        return [i for i, count in enumerate(counts) if count <= unused]

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < LARGE:
            return np.empty(shape, dtype)
        with self.lock:
            owner = self._reuse(size)
            if owner is None:
                owner = np.empty(size + LINE, np.uint8)
            self.owners.setdefault(owner.size - LINE, []).append(owner)
            return _from_line(owner, size).view(dtype).reshape(shape)

    def _reuse(self, size: int) -> Array | None:
        """Take out the smallest idle owner that is large enough; else drop others to make room.

        The one most recently lent, because more of it is still in the processor's cache.
        """
        for fit in sorted(fit for fit in self.owners if size <= fit <= WASTE * size):
            for i in reversed(self._idle(self.owners[fit])):
                return self.owners[fit].pop(i)
        dropped = 0
        for other, owners in list(self.owners.items()):
            for passed, i in enumerate(self._idle(owners)):
                if dropped < size:
                    del owners[i - passed]
                    dropped += other
            if not owners:
                del self.owners[other]
        return None


_memory = Memory()
empty = _memory.empty


def empty_like(x: Array) -> Array:
    """np.empty_like for an `x` without holes in memory, but without page faults."""
    order = memory_order(x)
    return empty([x.shape[axis] for axis in order], x.dtype).transpose(np.argsort(order))


def memory_order(x: Array) -> list[int]:
    """The axes of x, outermost in memory first."""
    return sorted(range(x.ndim), key=lambda axis: -x.strides[axis])


def _after_fork() -> None:
    """In the child: a thread that held the lock is gone, and nobody will release it."""
    _memory.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
