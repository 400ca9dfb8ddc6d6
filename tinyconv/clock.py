"""The engine's clock: nodes are dated when they are made, memory when it is written in place.

A backward pass compares the two dates: values that were saved for it must not be younger than the
node that saved them.  Memory is known by the array that owns it, so that a write through any view
that NumPy or CuPy knows of counts, and so that a tensor that nobody writes to carries nothing for
this.  Which part of the memory was written is not known: all views are taken to be, as in PyTorch.
"""

import itertools
import weakref
from typing import Any

import numpy as np

from tinyconv.backend.array import Array

tick = itertools.count(1).__next__


class _Write(weakref.ref[Array]):
    """The array that owns written memory, which it does not keep alive, and the date."""

    __slots__ = ("date", "key")

    date: int
    key: int


_writes: dict[int, _Write] = {}  # by the owner's identity, as long as it lives
last_write = [0]  # the youngest of their dates, in any thread


def date_write(array: Array) -> None:
    """The memory of the array, and of all its views, is about to be written."""
    memory = owner(array)
    date = tick()
    write = _writes.get(id(memory))
    if write is None:
        write = _Write(memory, _forget)
        write.key, write.date = id(memory), date  # before another thread's backward can find it
        _writes[write.key] = write
    write.date = last_write[0] = date


def written(array: Any) -> int:
    """When the memory of the array was last written in place; 0 if never, and of a number."""
    write = _writes.get(id(owner(array)))
    return 0 if write is None else write.date


def _forget(write: _Write) -> None:
    _writes.pop(write.key, None)


def owner(array: Any) -> Any:
    """The array whose memory this one sees, the last array among its bases; perhaps itself."""
    found = base = array
    while (base := getattr(base, "base", None)) is not None:
        if isinstance(base, (np.ndarray, type(array))):  # not what NumPy puts between two arrays
            found = base
    return found
