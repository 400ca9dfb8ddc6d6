"""Other libraries' arrays, without a copy: DLPack and the CUDA array interface.

References: DLPack, https://dmlc.github.io/dlpack; CUDA Array Interface 3, Numba's documentation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyconv.backend import backend_named
from tinyconv.backend.array import Array
from tinyconv.errors import DeviceError, DTypeError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType


def shared(x: Any) -> Array:
    """The memory of another library's array (NumPy's or CuPy's, too) as one of ours.

    DTypeError for what is no array, DeviceError for one on a device that tinyconv does not know.
    """
    if hasattr(x, "__dlpack__"):
        kind = int(x.__dlpack_device__()[0])
        if kind in (CPU, CUDA_HOST):
            return np.from_dlpack(x)
        if kind in (CUDA, CUDA_MANAGED):
            return backend_named("cuda").xp.from_dlpack(x)
        raise DeviceError("from_dlpack", f"DLPack's device type {kind} is neither CPU nor CUDA")
    if hasattr(x, "__cuda_array_interface__"):
        return backend_named("cuda").xp.asarray(x)
    raise DTypeError(
        "from_dlpack",
        f"a {type(x).__name__} has neither __dlpack__ nor __cuda_array_interface__; tc.tensor(x)",
    )
