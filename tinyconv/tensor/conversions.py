"""Other dtypes, devices and layouts of the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.autograd import Variable, is_tensor
from tinyconv.backend import backend_named, backend_of, device as device_type
from tinyconv.dtypes import as_dtype, bool_, float16, float32, float64, int32, int64
from tinyconv.ops import elementwise as e

if TYPE_CHECKING:
    from tinyconv.tensor.tensor import Tensor

Bool = bool  # in the class below, `bool` is a method


class Conversions(Variable):
    __slots__ = ()

    def to(
        self,
        *targets: Any,
        device: str | None = None,
        dtype: Any = None,
        non_blocking: Any = False,
        copy: Any = False,
    ) -> Tensor:
        """Another dtype or device, or both: ``x.to(tc.float64)``, ``x.to("cuda")``, ``x.to(y)``.

        The tensor itself if it is that already, unless copy.  non_blocking: PyTorch's, without
        effect; it and copy may follow by position.
        """
        flags = [target for target in targets if isinstance(target, Bool)]
        copy = copy or any(flags[1:])
        for target in targets[: len(targets) - len(flags)]:
            if is_tensor(target):
                device, dtype = target.device, target.dtype
            elif isinstance(target, str) and not hasattr(np, target):
                device = target
            else:
                dtype = target
        wanted = self.dtype if dtype is None else as_dtype(dtype)
        x: Any = self if wanted == self.dtype else e.to_dtype(self, dtype=wanted)
        if device is None or backend_named(device) is backend_of(x.array):
            return e.clone(x) if copy and x is self else x
        return e.to_device(x, device=device, source=x.device)

    def cpu(self) -> Tensor:
        """In the memory that NumPy sees."""
        return self.to("cpu")

    def cuda(self, device: Any = None, non_blocking: Any = False) -> Tensor:
        """On the GPU; DeviceError where there is none.  device: its number, the present one's."""
        return self.to(device_type("cuda", device) if isinstance(device, int) else device or "cuda")

    def float(self) -> Tensor:
        return self.to(float32)

    def double(self) -> Tensor:
        return self.to(float64)

    def half(self) -> Tensor:
        return self.to(float16)

    def long(self) -> Tensor:
        return self.to(int64)

    def bool(self) -> Tensor:
        return self.to(bool_)

    def clone(self) -> Tensor:
        """A copy that stays in the graph."""
        return e.clone(self)

    def contiguous(self) -> Tensor:
        """Row-major memory; the tensor itself if it has it."""
        x: Any = self
        return x if self.array.flags.c_contiguous else e.clone(x, order="C")

    def int(self) -> Tensor:  # the last: above it, `int` in an annotation is Python's
        return self.to(int32)
