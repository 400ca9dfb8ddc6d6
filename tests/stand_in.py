"""The fake CuPy in the place of a real one for a whole process: what --backend names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cuda_on_cpu
import fake_cupy

from tinyconv.backend.cuda import ladder, own

RUNGS = {"fake": [], "own": ["own"]}  # of the ladder, by the backend's name
FEW = 16  # threads of a block: on a CPU each one costs


@contextmanager
def stand_in(backend: str) -> Iterator[None]:
    """RuntimeError where something is missing that it needs."""
    ladder.RUNGS[:] = RUNGS[backend]
    if "own" in ladder.RUNGS:
        if reason := cuda_on_cpu.missing():
            raise RuntimeError(f"--backend {backend}: {reason}")
        fake_cupy.RawModule.compiler, own.THREADS = cuda_on_cpu.compile_kernels, FEW
    with fake_cupy.installed():
        yield
