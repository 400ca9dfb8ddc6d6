"""Collective operations that can be differentiated, to every order."""

from tinyconv.dist.collectives import all_reduce_sum
from tinyconv.tensor import Tensor


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum of all ranks' tensors, new on each; as in torch.distributed.nn.functional.

    The gradient is that of the sum of all ranks' losses: its VJP is again an all-reduce, so every
    rank must call it, and walk back through it, in the same order.
    """
    return all_reduce_sum(tensor)
