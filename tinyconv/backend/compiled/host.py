"""What the processor offers, and the tile that fits it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np


class Host(NamedTuple):
    """vector: bytes in a vector register; registers: how many there are."""

    name: str
    vector: int
    registers: int

    def lanes(self, dtype: Any) -> int:
        return self.vector // np.dtype(dtype).itemsize

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def tile(self, columns: int, channels: int, dtype: Any) -> tuple[int, int]:
        """J pixels and V vectors for rows of so many pixels with so many output channels."""
        lanes = self.lanes(dtype)
        best = (float("inf"), 1, 1)
        for v in (1, 2, 4):
            if v > 1 and (v // 2 * lanes >= channels or self.registers < 8 * v):
                continue
            for j in (14, 12, 8, 7, 6, 4, 3, 2, 1):
                if j > columns or j * v + v + 1 > self.registers:
                    continue
                tiles = -(-columns // j) * -(-channels // (v * lanes))
                # A register's sum waits four cycles or more for the one before it.
                work = max(j * v, 8) + 0.6 * j + 0.5 * v + 2
                best = min(best, (tiles * work, j, v))
        return best[1:]

    def weight_tile(self, numbers: int, channels: int, dtype: Any) -> tuple[int, int]:
        """J numbers of a window's run and V vectors of output channels."""
        lanes = self.lanes(dtype)
        v = 2 if channels > lanes else 1
        if numbers < 4 and channels > 2 * lanes and self.registers >= 32:
            v = 4  # or a sum would wait for the one before it
        fit = (self.registers - v - 1) // v
        best = min(fit, 16 // v if self.registers >= 32 else fit)
        return min(numbers, best), v


@dataclass(frozen=True, eq=False)  # found by its identity, which is quick
class How:
    """What a convolution is planned for, beside its shapes."""

    dtype: Any
    host: Host
    threads: int
    backward: bool
    weight_gradient: bool
    direct: bool  # by the definition's sum: see `modes.use_direct_convolutions`


HOSTS = [
    Host("avx512", 64, 32),
    Host("avx2", 32, 16),
    Host("neon", 16, 32),
    Host("sse", 16, 16),
]
SHAPES = {machine.name: machine for machine in HOSTS}


@functools.cache
def detect() -> Host:
    """This machine's widest vectors."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return SHAPES["avx512"]
    if features.get("avx2") and features.get("fma"):
        return SHAPES["avx2"]
    machine = llvm.get_process_triple().split("-")[0]
    return SHAPES["neon" if machine in ("aarch64", "arm64") else "sse"]


_host: Host | None = None


def host() -> Host:
    return _host or detect()


def use(name: str | None) -> None:
    """Compute with another processor's tile shape, "avx2" say; None: the detected one's."""
    global _host
    _host = None if name is None else SHAPES[name]
    how_for.cache_clear()


@functools.lru_cache(maxsize=256)
def how_for(
    x: Any, y: Any, threads: int, backward: bool, weight_gradient: bool, direct: bool = False
) -> How | None:
    """For arrays of these dtypes; None where nothing here computes with them."""
    if x.char not in "fd" or x != y:
        return None
    return How(x, host(), threads, backward, weight_gradient, direct)
