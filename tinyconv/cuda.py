"""What can be asked of the GPU, and told; names as in torch.cuda.

CuPy is imported when one of these is called, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyconv.backend import backend_named
from tinyconv.backend.cuda import connection
from tinyconv.capture import Captured
from tinyconv.tensor import Tensor


def is_available() -> bool:
    """Is there a GPU, with a driver and CuPy?  `why_not` says what is missing."""
    return connection.obstacle() is None


def why_not() -> str | None:
    """What keeps tinyconv from a GPU, with its remedy; None if nothing does."""
    return connection.obstacle()


def device_count() -> int:
    """How many GPUs this process sees; 0 without CuPy or a driver."""
    return int(_runtime().getDeviceCount()) if is_available() else 0


def current_device() -> int:
    """The number of the GPU that "cuda" means."""
    return int(_runtime().getDevice())


def set_device(index: int) -> None:
    """Let "cuda" mean another GPU; call it before the first tensor is there, once in a process."""
    _cupy().cuda.Device(int(index)).use()


def get_device_name() -> str:
    """The present GPU's name."""
    name = _runtime().getDeviceProperties(current_device())["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def synchronize() -> None:
    """Wait until the GPU has done all that it was given: before a clock is read, above all."""
    backend_named("cuda").synchronize()


def memory_allocated() -> int:
    """Bytes that arrays hold."""
    return int(_cupy().get_default_memory_pool().used_bytes())


def memory_reserved() -> int:
    """Bytes that CuPy keeps for arrays, held or free."""
    return int(_cupy().get_default_memory_pool().total_bytes())


def empty_cache() -> None:
    """Give the free memory back to the driver."""
    _cupy().get_default_memory_pool().free_all_blocks()


def graph(step: Callable[..., Any], inputs: Sequence[Tensor]) -> Captured:
    """The train step ``step(*inputs)`` as CUDA graphs: one launch instead of a hundred.

        def step(images, labels):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            return loss

        captured = tc.cuda.graph(step, (images, labels))
        for images, labels in loader:
            loss = captured(images, labels)

    Each call is one step and gives what the step would give.  The first runs it as it is, the
    second captures it; from then on Python runs the step no more, so what it decides (train or
    eval, an if, a precision) stays as it was.  optimizer.step(), a schedule's step() and dropout
    go on as ever: the host does their part between the launches.

    inputs: examples, on the GPU.  ShapeError, DTypeError or DeviceError for later ones that differ.
    Returns what the step returns, Tensors in tuples, lists or dicts, detached.

    DeviceError where a step cannot be captured, with the line that looks at a value or moves data;
    GraphError if it adds to gradients from before it: begin it with ``zero_grad()``.
    """
    return Captured(step, inputs)


def _cupy() -> Any:
    return backend_named("cuda").xp


def _runtime() -> Any:
    return _cupy().cuda.runtime
