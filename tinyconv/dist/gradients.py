"""The mean of all ranks' gradients, between backward() and step()."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

from tinyconv.autograd import no_grad
from tinyconv.backend import array_module
from tinyconv.dist.collectives import differs
from tinyconv.dist.world import DistError, world
from tinyconv.tensor import Tensor

BUCKET_MB = 4.0  # a message long enough that its latency does not count


@no_grad()
def average_gradients(parameters: Tensor | Iterable[Tensor], bucket_mb: float = BUCKET_MB) -> None:
    """Replace every gradient by its mean over all ranks, in place.

    The mean of the gradients of equal shards is the gradient of the whole batch's mean loss.  Every
    rank gets the same bits, so equal parameters stay equal, and clipping (`clip_grad_norm_`, after
    this) is the same everywhere.  The gradients travel in buckets of about ``bucket_mb`` MiB, in
    the order of the parameters.

    DistError, on every rank, if one has a gradient where another has none.

    Reference: Li et al., PyTorch distributed, VLDB 2020.
    """
    if world().size == 1:
        return
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    _check_same(listed)
    grads = [p.grad for p in listed if p.grad is not None]
    for bucket in _buckets(grads, bucket_mb * 2**20):
        _average(bucket)


def _buckets(grads: Sequence[Tensor], size: float) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, up to ``size`` bytes; a larger gradient goes alone."""
    bucket: list[Tensor] = []
    room = size
    for g in grads:
        if bucket and (g.array.nbytes > room or g.dtype != bucket[0].dtype):
            yield bucket
            bucket, room = [], size
        bucket.append(g)
        room -= g.array.nbytes
    if bucket:
        yield bucket


def _average(grads: list[Tensor]) -> None:
    flat = array_module(grads[0].array).concatenate([g.array.ravel() for g in grads])
    world().all_reduce(flat)
    flat /= world().size
    start = 0
    for g in grads:
        data = g._write("average_gradients")
        data[...] = flat[start : start + data.size].reshape(data.shape)
        start += data.size


def _check_same(parameters: Sequence[Tensor]) -> None:
    """Messages of different lengths would be added up as if they were the same."""
    layout = [None if p.grad is None else (p.shape, str(p.grad.dtype)) for p in parameters]
    if not differs([zlib.crc32(repr(layout).encode())]):
        return
    for i, found in enumerate(zip(*world().gather_objects(layout), strict=False)):
        if len(set(found)) > 1:
            said = "; ".join(f"rank {r}: {f or 'no gradient'}" for r, f in enumerate(found))
            raise DistError(
                "average_gradients",
                f"the gradients of parameter {i} differ between the ranks ({said}). Every rank "
                "must run the same model, use the same parameters, and call backward() first",
            )
    raise DistError("average_gradients", "the ranks pass different numbers of parameters")
