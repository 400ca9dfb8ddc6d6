"""The fake CuPy in the place of a real one for a whole process: what --backend names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import cuda_on_cpu
import fake_cublas
import fake_cudnn
import fake_cupy

from tinyconv.backend.cuda import cublas, ladder, own

RUNGS = {"fake": [], "own": ["own"], "cudnn": ["cudnn", "own"]}  # of the ladder, by the name
FEW = 16  # threads of a block: on a CPU each one costs


@contextmanager
def stand_in(backend: str) -> Iterator[None]:
    """RuntimeError where something is missing that it needs."""
    ladder.RUNGS[:] = RUNGS[backend]
    if "own" in ladder.RUNGS:
        if reason := cuda_on_cpu.missing():
            raise RuntimeError(f"--backend {backend}: {reason}")
        fake_cupy.RawModule.compiler, own.THREADS = cuda_on_cpu.compile_kernels, FEW
    library = fake_cublas.Cublas()
    cublas.library = lambda: library
    cudnn = fake_cudnn.installed() if "cudnn" in ladder.RUNGS else nullcontext()
    with fake_cupy.installed(), cudnn:
        yield
