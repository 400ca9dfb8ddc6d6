"""Numba, set up once: compiled at first use, kept on disk, and said aloud while it takes time.

What is kept are pickles, and a pickle runs code when it is read.  So the folder has to be the
user's alone, and each file starts with a checksum: what is damaged is compiled anew.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import stat
import sys
import warnings
from collections.abc import Callable
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
    try:
        parent = os.environ.get("NUMBA_CACHE_DIR") or pooch.os_cache("tinyconv") / "kernels"
    except RuntimeError:  # a user without a home, as in containers
        return Path(digest.hexdigest()[:16])
    # Links are followed now, once: they may lead elsewhere later.
    return Path(os.path.realpath(parent)) / digest.hexdigest()[:16]


@functools.cache
def refusal() -> str | None:
    """Why no kernels are kept on disk; None where they are.  The folder is made if it is not there.

    Whoever can write into the folder, or rename one above it, can have a program of his run.
    """
    folder = cache_folder()
    if not folder.is_absolute():
        return "this user has no home folder"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        if hasattr(os, "geteuid"):
            return next(filter(None, map(_fault, (folder, *folder.parents))), None)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return None


def _fault(folder: Path) -> str | None:
    """What is wrong with a folder that holds the kernels, or that their folder is in."""
    status, inner = os.lstat(folder), folder == cache_folder()
    me = os.geteuid()
    if not stat.S_ISDIR(status.st_mode):
        return f"{folder} is no folder"
    if status.st_uid != me and (inner or status.st_uid != 0):
        return f"{folder} belongs to another user"
    own_group = status.st_gid == status.st_uid  # as where each user has a group of the same number
    others = 0o022 if inner or not own_group else 0o002
    kept_apart = status.st_mode & stat.S_ISVTX and not inner  # nobody renames what is not his
    if status.st_mode & others and not kept_apart:
        return f"other users may write into {folder}"
    return None


@functools.cache
def _say(reason: str) -> None:
    """Once."""
    warnings.warn(
        f"tinyconv: kernels are compiled anew in each process, which takes a while: {reason}. Set "
        "NUMBA_CACHE_DIR to a folder that is yours alone (mkdir -m 700), in folders into which "
        "nobody else may write",
        RuntimeWarning,
        stacklevel=2,
    )


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
        return cls(py_func.__code__.co_firstlineno)

    def ensure_cache_path(self) -> None:
        """`refusal` has seen to it."""


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Files(caching.IndexDataCacheFile):
    """An index and files with code.  What is not whole, or is somebody else's, is not there.

    With the code goes what it is for: two processes may have given one name to two of them.
    """

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (self._index_name, key, data))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return found[2] if found is not None and found[:2] == (self._index_name, key) else None

    def _load_index(self) -> dict[Any, str]:
        found = self._read(self._index_path)
        return found[2] if found and found[:2] == (self._index_name, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._index_name, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _write(self, path: str, content: Any) -> None:
        data = self._dump(content)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(data).digest() + data)

    def _read(self, path: str) -> Any:
        try:
            # A pipe must not keep us waiting.
            flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(path, os.O_RDONLY | flags)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                content = file.read() if stat.S_ISREG(status.st_mode) else b""
        except OSError:  # not there, a link, a folder
            return None
        checksum, data = content[:32], content[32:]
        foreign = hasattr(os, "geteuid") and status.st_uid != os.geteuid()
        if foreign or hashlib.sha256(data).digest() != checksum:
            return None
        return pickle.loads(data)


class _Cache(caching.FunctionCache):
    _impl_class = _CacheImpl

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        old = self._cache_file
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, old._source_stamp)

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:  # a full disk, say: the kernel is there, for this process
            _say(f"{error.filename or self._cache_path}: {error.strerror}")

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
    reason = refusal()
    if reason is None:
        dispatcher._cache = _Cache(function)
    else:
        _say(reason)
    return dispatcher
