"""What the ranks do together: sums, broadcasts, and the sum that can be differentiated."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinyconv.autograd import is_grad_enabled, no_grad, op
from tinyconv.backend import Array, backend_of
from tinyconv.dist.world import DistError, world
from tinyconv.errors import GraphError
from tinyconv.nn.module import Module
from tinyconv.samples import sample
from tinyconv.tensor import Tensor

OPS = ("sum", "mean", "min", "max")


def get_rank() -> int:
    """This process's number, 0 to `get_world_size` - 1."""
    return world().rank


def get_world_size() -> int:
    """How many processes train together; 1 where no mpiexec started this one."""
    return world().size


def barrier() -> None:
    """Wait until all ranks are here."""
    world().barrier()


def shard() -> tuple[int, int]:
    """(rank, world size): this process's part of each batch, ``DataLoader(..., shard=shard())``."""
    return world().rank, world().size


def reduced(array: Array, op: str) -> Array:
    """A new array: the sum, min or max over the ranks."""
    result = array.copy(order="C")
    world().all_reduce(result, op)
    return result


@op(name="all_reduce")
def all_reduce_sum(x: Array) -> Array:
    """The sum of all ranks' x, on each rank."""
    return reduced(x, "sum")


# Each rank's output counts once in the sum of all ranks' losses, so every input's gradient is the
# sum of all the outputs' gradients: the operation is its own adjoint, and so are all its
# derivatives.
all_reduce_sum.defvjp(
    lambda g, _y, _x: all_reduce_sum(g), samples=[sample((3, 4)), sample((2, 3, 4)), sample(())]
)


def all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
    """Replace the tensor, in place, by the "sum", "mean", "min" or "max" over all ranks.

    As torch.distributed.all_reduce, it is not recorded; `dist.functional.all_reduce` is the sum
    that can be differentiated.  GraphError for a tensor that is part of a graph.
    """
    if op not in OPS:
        raise ValueError(f"all_reduce: op is {op!r}; it is one of {', '.join(OPS)}")
    if is_grad_enabled() and tensor.requires_grad:
        raise GraphError(
            "all_reduce",
            f"it writes {tensor.shape} in place and has no derivative. With one: "
            "y = dist.functional.all_reduce(x); without: dist.all_reduce(x.detach())",
        )
    result = reduced(tensor.array, "sum" if op == "mean" else op)
    tensor._write("all_reduce")[...] = result / world().size if op == "mean" else result
    return tensor


@no_grad()
def broadcast(tensor: Tensor, src: int = 0) -> Tensor:
    """Replace the tensor, in place, by that of rank ``src``."""
    if not 0 <= src < world().size:
        raise ValueError(f"broadcast: src is {src}, the ranks are 0..{world().size - 1}")
    if world().size > 1:
        array = tensor.array.copy(order="C")
        world().broadcast(array, src)
        tensor._write("broadcast")[...] = array
    return tensor


def broadcast_object(value: Any, src: int = 0) -> Any:
    """What rank ``src`` passed, whatever it is (it is pickled)."""
    return world().broadcast_object(value, src)


def broadcast_state(module: Module, src: int = 0) -> None:
    """Give every rank the parameters and buffers of rank ``src``: once, before training."""
    for _, tensor in _state(module):
        broadcast(tensor, src)


def total(*numbers: float) -> list[float]:
    """The sums of numbers over all ranks, in float64, in one message: for metrics."""
    sums = np.array(numbers, np.float64)
    world().all_reduce(sums)
    return sums.tolist()


def check_identical(module: Module) -> None:
    """DistError, on every rank, unless all ranks have the same parameters and buffers, bit for bit.

    Compares check sums: one small message.
    """
    if world().size == 1:
        return
    names, tensors = zip(*_state(module), strict=True)
    own = np.array([_checksum(tensor.array) for tensor in tensors])
    differs = np.flatnonzero(reduced(own, "min") != reduced(own, "max"))
    if len(differs):
        raise DistError(
            "check_identical",
            f"the ranks have drifted apart: {names[differs[0]]} (and {len(differs) - 1} more of "
            f"{len(names)} tensors) differs between them. What is done to the model must be done "
            "on all ranks: broadcast_state after making it, average_gradients before each step",
        )


def differs(numbers: Iterable[int]) -> bool:
    """Do the ranks pass different numbers?  Every rank gets the same answer."""
    if world().size == 1:
        return False
    own = np.array(list(numbers))
    least_and_most = np.concatenate([own, -own])
    world().all_reduce(least_and_most, "max")
    most, least = np.split(least_and_most, 2)
    return bool((most != -least).any())


def _state(module: Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _checksum(array: Array) -> int:
    return zlib.crc32(np.ascontiguousarray(backend_of(array).to_numpy(array)).tobytes())
