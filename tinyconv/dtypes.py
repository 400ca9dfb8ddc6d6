"""Element types: NumPy's dtype objects under PyTorch's names."""

from typing import Any

import numpy as np

from tinyconv.errors import DTypeError

float16, float32, float64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
int8, int16, int32, int64 = (
    np.dtype(np.int8),
    np.dtype(np.int16),
    np.dtype(np.int32),
    np.dtype(np.int64),
)
uint8, bool_ = np.dtype(np.uint8), np.dtype(np.bool_)
half, double, long = float16, float64, int64

ALL = (float16, float32, float64, int8, int16, int32, int64, uint8, bool_)


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """A dtype from what NumPy accepts; Python's ``float`` means float64, as in PyTorch.

    DTypeError for element types that tinyconv does not compute with (complex, object, ...).
    """
    found = np.dtype(dtype)
    if found not in ALL:
        names = ", ".join(str(d) for d in ALL)
        raise DTypeError("dtype", f"{dtype} is not an element type of tinyconv; there are {names}")
    return found
