"""The five functions of libcublas that a captured step calls, for the fake CuPy.

Arguments are those of the C functions: addresses, and matrices that are counted down columns.
"""

from __future__ import annotations

import ctypes
from typing import Any

import fake_cupy
import numpy as np

DTYPES = {0: np.float32, 1: np.float64, 2: np.float16}  # cudaDataType_t
COMPUTE = {68: "float32", 70: "float64", 77: "tf32"}  # cublasComputeType_t
INVALID = 7  # CUBLAS_STATUS_INVALID_VALUE


class Cublas:
    """calls: the compute type of each product, by name."""

    def __init__(self) -> None:
        self.handles: dict[int, dict[str, Any]] = {}
        self.calls: list[str] = []

    def cublasCreate_v2(self, handle: Any) -> int:
        handle._obj.value = len(self.handles) + 1
        self.handles[handle._obj.value] = {"stream": None, "workspace": None}
        return 0

    def cublasDestroy_v2(self, handle: Any) -> int:
        return 0 if self.handles.pop(handle.value, None) else INVALID

    def cublasSetStream_v2(self, handle: Any, stream: int) -> int:
        self.handles[handle.value] = {"stream": stream, "workspace": None}
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, workspace: int, size: int) -> int:
        self.handles[handle.value]["workspace"] = (workspace, size)
        return 0 if workspace % 256 == 0 or size else INVALID

    def cublasGemmStridedBatchedEx(
        self, handle: Any, read_a: int, read_b: int, m: int, n: int, k: int,
        alpha: Any, a: int, a_kind: int, a_ld: int, a_step: int,
        b: int, b_kind: int, b_ld: int, b_step: int,
        beta: Any, c: int, c_kind: int, c_ld: int, c_step: int,
        count: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        state = self.handles[handle.value]
        if state["workspace"] is None:
            raise AssertionError("cuBLAS would allocate a workspace in the capture")
        if state["stream"] != fake_cupy.Stream.current[-1].ptr:
            raise fake_cupy.Undefined("a product on another stream")
        wide = ctypes.c_double if compute == 70 else ctypes.c_float
        assert type(alpha._obj) is type(beta._obj) is wide
        assert (alpha._obj.value, beta._obj.value, algorithm) == (1, 0, -1)
        self.calls.append(COMPUTE[compute])
        left = _matrices(a, a_kind, (m, k), a_ld, a_step, read_a, count)
        right = _matrices(b, b_kind, (k, n), b_ld, b_step, read_b, count)
        out = _matrices(c, c_kind, (m, n), c_ld, c_step, 0, count)
        if any(x is None for x in (left, right, out)):
            return INVALID

        def multiply() -> np.ndarray:
            for x, y, z in zip(left, right, out, strict=True):
                z.T[...] = y.T @ x.T  # row-major, as CuPy's product has it: to the same bits
            return out[0]

        fake_cupy._launch("cublasGemmStridedBatchedEx", multiply, into=out[0])
        return 0


def _matrices(
    address: int, kind: int, shape: tuple[int, int], ld: int, step: int, transposed: int, count: int
) -> list[np.ndarray] | None:
    """`count` matrices of a shape, as views of what lies at an address; None for a bad `ld`."""
    rows, columns = shape[::-1] if transposed else shape
    if ld < max(1, rows):
        return None
    dtype = np.dtype(DTYPES[kind])
    numbers = (count - 1) * step + (columns - 1) * ld + rows
    memory = (ctypes.c_char * (numbers * dtype.itemsize)).from_address(address)
    flat = np.frombuffer(memory, dtype)
    strides = (dtype.itemsize, ld * dtype.itemsize)
    views = [
        np.lib.stride_tricks.as_strided(flat[i * step :], (rows, columns), strides)
        for i in range(count)
    ]
    return [v.T if transposed else v for v in views]
