"""Find CuPy, the driver and a device; or say which of them is missing, and what to do."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from tinyconv.backend import Backend, band, fused, modes, naive, reference, special, sums
from tinyconv.backend.array import Array
from tinyconv.backend.cuda import ladder, xp as plain_xp
from tinyconv.errors import DeviceError

INSTALL = (
    "pip install 'cupy-cuda12x[ctk]', or cupy-cuda13x for a driver of CUDA 13 (see nvidia-smi)"
)


class Cuda(Backend):
    """The present GPU."""

    waits = True

    def __init__(self, cupy: Any) -> None:
        layers, reasons = ladder.climb(cupy)
        plain = [plain_xp, reference, fused, special, sums, band]
        fast = [*layers, *plain]
        choices = {"fast": fast, "numpy": plain, "reference": plain}
        super().__init__("cuda", cupy, {**choices, "naive": [naive, *plain]})
        self.reasons = reasons

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return self.xp.asnumpy(x)

    def synchronize(self) -> None:
        self.xp.cuda.runtime.deviceSynchronize()

    def use_precision(self, precision: str) -> None:
        """The switch of cuBLAS, the only one that CuPy has besides its environment variable."""
        linalg = self.xp._core._routines_linalg
        kinds = {"highest": linalg.COMPUTE_TYPE_DEFAULT, "tf32": linalg.COMPUTE_TYPE_TF32}
        linalg.set_compute_type("float32", kinds[precision])

    def check_index(self, index: int) -> None:
        present = self.xp.cuda.runtime.getDevice()
        if index != present:
            raise DeviceError(
                "device",
                f"'cuda:{index}' is not the present GPU, which is {present}; a process computes on "
                f"one: tc.cuda.set_device({index}) first, or CUDA_VISIBLE_DEVICES={index}",
            )


def obstacle() -> str | None:
    """What keeps us from a GPU, in a sentence with its remedy; None if nothing does."""
    try:
        found = find_spec("cupy") is not None
    except ValueError:  # a module without a spec stands in sys.modules
        found = True
    if not found:
        return f"the package cupy is not installed; {INSTALL}"
    try:
        cupy = import_module("cupy")
    except Exception as error:
        return f"import cupy failed ({_brief(error)}); reinstall it: {INSTALL}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        said = _brief(error)
        if "NoDevice" in said:
            return f"cupy {cupy.__version__} and a driver are there, but no device ({said})"
        return (f"cupy {cupy.__version__} is installed, but the driver does not answer ({said}); "
                "nvidia-smi should list a GPU, and its CUDA version must not be below cupy's")
    if not count:
        return (f"cupy {cupy.__version__} and a driver are there, but no device is visible; "
                "see nvidia-smi and CUDA_VISIBLE_DEVICES")
    return None


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def open_backend() -> Cuda:
    """The backend of the present GPU; DeviceError that says what was tried."""
    reason = obstacle()
    if reason is not None:
        raise DeviceError("device", f"no GPU for 'cuda': {reason}. device='cpu' works everywhere")
    made = Cuda(import_module("cupy"))
    made.use_precision(modes.get_float32_precision())
    return made
