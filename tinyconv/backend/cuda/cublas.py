"""Matrix products by cuBLAS itself: CuPy refuses its own while a CUDA graph is captured.

A handle with a workspace that is ours: cuBLAS would otherwise allocate one in the capture, for each
graph anew.  Reference: NVIDIA, cuBLAS Library, "CUDA Graphs Support" and cublasSetWorkspace.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from tinyconv.backend import modes
from tinyconv.backend.array import Array

WORKSPACE = 32 * 2**20  # bytes: what NVIDIA recommends for Hopper, and enough for older GPUs
KIND = {"e": 2, "f": 0, "d": 1}  # cudaDataType_t
COMPUTE = {"e": 68, "f": 68, "d": 70}  # cublasComputeType_t: halves are added up in float32
TF32 = 77
ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
LARGEST = 2**31 - 1  # sizes are ints

_int, _long, _pointer = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_MATRIX = [_pointer, _int, _int, _long]  # where, what type, leading dimension, distance to the next
SIGNATURES: dict[str, list[Any]] = {
    "cublasCreate_v2": [ctypes.POINTER(_pointer)],
    "cublasDestroy_v2": [_pointer],
    "cublasSetStream_v2": [_pointer, _pointer],
    "cublasSetWorkspace_v2": [_pointer, _pointer, ctypes.c_size_t],
    "cublasGemmStridedBatchedEx": [
        *[_pointer, _int, _int, _int, _int, _int],  # handle, how b and a are read, N, M, K
        *[_pointer, *_MATRIX, *_MATRIX],  # alpha, b, a
        *[_pointer, *_MATRIX],  # beta, y
        *[_int, _int, _int],  # how many, compute type, algorithm
    ],
}


@cache
def library() -> Any:
    """libcublas, the one that CuPy loads; ImportError or OSError where it cannot be had."""
    pathfinder = import_module("cuda.pathfinder")
    loaded = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    for name, types in SIGNATURES.items():
        getattr(loaded, name).argtypes = types
    return loaded


class Blas:
    """A handle for one stream; its workspace has to live as long as what was captured with it."""

    def __init__(self, cupy: Any, stream: Any) -> None:
        self.xp, self.library = cupy, library()
        self.handle = _pointer()
        self._call("cublasCreate_v2", ctypes.byref(self.handle))
        self._call("cublasSetStream_v2", self.handle, stream.ptr)  # forgets the workspace
        self.workspace = cupy.empty(WORKSPACE, np.uint8)
        self._call("cublasSetWorkspace_v2", self.handle, self.workspace.data.ptr, WORKSPACE)

    def close(self) -> None:
        """What was captured needs the handle no more."""
        self._call("cublasDestroy_v2", self.handle)

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self.library, name)(*args)
        if status:
            raise RuntimeError(f"{name} failed with status {status}")

    def matmul(self, a: Array, b: Array) -> Array:
        """a @ b of (...,M,K) and (...,K,N), of one dtype; the leading axes broadcast.

        cuBLAS counts down columns.  Rows read as columns are the transposed matrix, so it computes
        y^T = b^T a^T.
        """
        kind, batch = a.dtype.char, np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        (M, K), N, count = a.shape[-2:], b.shape[-1], math.prod(batch)
        if kind not in KIND or b.dtype != a.dtype or max(M, K, N, count) > LARGEST:
            raise TypeError(f"a captured product of {a.shape} {a.dtype} and {b.shape} {b.dtype}")
        y = self.xp.empty((*batch, M, N), a.dtype)
        if not y.size or not K:
            y.fill(0)
            return y
        a, read_a, *where_a = self._matrix(a, batch)
        b, read_b, *where_b = self._matrix(b, batch)
        scalar = ctypes.c_double if kind == "d" else ctypes.c_float
        fast = kind == "f" and modes.get_float32_precision() == "tf32"
        self._call(
            "cublasGemmStridedBatchedEx",
            *(self.handle, read_b, read_a, N, M, K),
            *(ctypes.byref(scalar(1)), b.data.ptr, KIND[kind], *where_b),
            *(a.data.ptr, KIND[kind], *where_a),
            *(ctypes.byref(scalar(0)), y.data.ptr, KIND[kind], N, M * N),
            *(count, TF32 if fast else COMPUTE[kind], ALGORITHM),
        )
        return y

    def _matrix(self, x: Array, batch: tuple[int, ...]) -> tuple[Any, ...]:
        """x as cuBLAS takes it: the array, 1 if its columns are contiguous (else 0), its leading

        dimension, and how far it is to the next of the batch.
        """
        rows, columns = x.shape[-2:]
        if not batch and x.flags.f_contiguous and not x.flags.c_contiguous:
            return x, 1, rows, 0
        if batch:
            x = self.xp.broadcast_to(x, (*batch, rows, columns))
        return self.xp.ascontiguousarray(x), 0, columns, rows * columns
