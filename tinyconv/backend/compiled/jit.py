"""Numba, set up once: compiled at first use, kept on disk, and said aloud while it takes time."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
import pooch
from numba.core import caching, event


@functools.cache
def cache_folder() -> Path:
    """Where compiled kernels are kept; NUMBA_CACHE_DIR, else the user's cache.

    The folder is named after the contents of all sources here, because Numba itself looks only at
    the file of the function: it would not notice that a tile which that function uses has changed.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    parent = os.environ.get("NUMBA_CACHE_DIR") or pooch.os_cache("tinyconv") / "kernels"
    return Path(parent) / digest.hexdigest()[:16]


class _Locator(caching._CacheLocator):
    def __init__(self, line: int) -> None:
        self.line = line

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return cache_folder().name

    def get_disambiguator(self) -> str:
        return str(self.line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator | None:
        self = cls(py_func.__code__.co_firstlineno)
        try:
            self.ensure_cache_path()
        except OSError:
            return None
        return self


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):
    _impl_class = _CacheImpl

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        """The folder's name tells the sources apart; functions in closures have no lasting name."""
        return sig, codegen.magic_tuple()


class _Notice(event.Listener):
    """Says on the terminal that a kernel is being compiled: it takes a second, once per machine."""

    def on_start(self, event: Any) -> None:
        name = event.data["dispatcher"].py_func.__name__.strip("_").replace("_", " ")
        self.say(f"tinyconv: compiling {name}, once on this machine ...")

    def on_end(self, event: Any) -> None:
        self.say("")

    def say(self, text: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()


event.register("numba:compile", _Notice())


def reassociating_kernel(function: Callable[..., Any]) -> Any:
    """A `kernel` whose sums may be taken in another order, so in several vectors side by side."""
    return kernel(function, fastmath={"reassoc"})


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function at its first call, for good; it runs without the interpreter's lock."""
    dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
    with suppress(RuntimeError):  # no folder can be written: compile in each process
        dispatcher._cache = _Cache(function)
    return dispatcher
