"""Data-parallel training: every rank computes its part of a batch, and the gradients' mean.

    mpiexec -n 2 python train.py

starts the script twice.  Each process reads its shard of every batch and they average their
gradients; all else of a training script stays as it is.  See docs/scaling.md.
"""

from tinyconv.dist import functional as functional
from tinyconv.dist.collectives import (
    all_reduce as all_reduce,
    barrier as barrier,
    broadcast as broadcast,
    broadcast_object as broadcast_object,
    broadcast_state as broadcast_state,
    check_identical as check_identical,
    get_rank as get_rank,
    get_world_size as get_world_size,
    shard as shard,
    total as total,
)
from tinyconv.dist.gradients import average_gradients as average_gradients
from tinyconv.dist.norm import SyncBatchNorm as SyncBatchNorm
from tinyconv.dist.world import DistError as DistError, abort as abort
