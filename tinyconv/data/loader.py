"""DataLoader: batches of a dataset, in a shuffled order, loaded one step ahead by a thread."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from tinyconv.autograd import wrap
from tinyconv.creation import from_numpy
from tinyconv.data.dataset import Dataset, Indices, take, transformed
from tinyconv.random import generator

Transform = Callable[[Any, np.random.Generator], Any]
ORDER = 0  # the random stream of an epoch's order; batch i has stream 1 + i


class DataLoader:
    """Iterate over a dataset in batches of Tensors.

    batch_size:  samples per batch; the last one may be smaller.  Over all shards
    shuffle:     a new random order each epoch
    drop_last:   leave out a smaller last batch
    seed:        of the order and of the transform; None draws one from tc.manual_seed's stream
    prefetch:    batches loaded ahead by a background thread; 0 loads in the caller's thread
    transform:   ``transform(images, rng) -> images`` on the batch's first array (on the batch, if
                 it is no tuple), for augmentation; rng is the batch's own random stream
    collate_fn:  list of samples -> batch, instead of `default_collate`; reads samples one by one
    shard:       (r, n): this loader reads part r of n of each batch, for processes that train
                 together (`dist.shard`); all need the same seed.  ValueError if a batch is uneven
    num_workers, pin_memory: PyTorch's, without effect: prefetching takes one thread and no process

    Batches are where the dataset is: in the CPU's memory, or on a GPU if it was moved there,
    ``MNIST().to("cuda")``; then ``prefetch=0`` is best, since there is nothing to load ahead.

    Each ``for`` over the loader reads the next epoch.  The order depends on (seed, epoch) alone and
    the augmentation of batch i on (seed, epoch, i), so a resumed run continues bit for bit, also in
    the middle of an epoch: `state_dict`, `load_state_dict`, `set_epoch`, `batches`.

    An exception in the dataset, the transform or collate_fn arrives in the caller's loop with its
    traceback.  The thread ends with the loop, however the loop ends.  What runs in it should
    compute on arrays; tinyconv's operations belong to the caller's thread (``prefetch=0``).
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        seed: int | None = None,
        prefetch: int = 2,
        transform: Transform | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"DataLoader: batch_size is {batch_size}, it must be at least 1")
        if prefetch < 0:
            raise ValueError(f"DataLoader: prefetch is {prefetch}; 0 turns the thread off")
        if num_workers < 0:
            raise ValueError(f"DataLoader: num_workers is {num_workers}, it must be 0 or more")
        self.shard = shard
        _check_shard(shard, len(dataset), batch_size, drop_last, shuffle and seed is None)
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = int(generator().integers(2**32)) if seed is None else seed
        self.prefetch = prefetch
        self.transform = transform
        self.collate_fn = collate_fn
        self._next_epoch = self._resume_at = 0
        self._position = (0, 0)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        start, self._resume_at = self._resume_at, 0
        return self.batches(start)

    def batches(self, start: int = 0) -> Iterator[Any]:
        """The next epoch from batch ``start`` on; the skipped batches are not loaded."""
        if not 0 <= start <= len(self):
            raise ValueError(f"DataLoader: start is {start}, the epoch has {len(self)} batches")
        epoch = self._next_epoch
        self._next_epoch += 1
        return self._read(epoch, start)

    def set_epoch(self, epoch: int) -> None:
        """The next ``for`` reads this epoch, from its beginning."""
        self._next_epoch, self._resume_at, self._position = epoch, 0, (epoch, 0)

    def state_dict(self) -> dict[str, int]:
        """Where reading stands: ``batch`` batches of ``epoch`` have been handed out."""
        epoch, batch = self._position
        return {"seed": self.seed, "epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next ``for`` continues where `state_dict` was taken."""
        self.seed = state["seed"]
        self.set_epoch(state["epoch"])
        self._resume_at = state["batch"]
        self._position = state["epoch"], state["batch"]

    # --- how it works

    def _read(self, epoch: int, start: int) -> Iterator[Any]:
        self._position = epoch, start
        order, size = self._order(epoch), self.batch_size
        jobs = (
            partial(self._load, epoch, i, self._part(order[i * size : (i + 1) * size]))
            for i in range(start, len(self))
        )
        for handed_out, batch in enumerate(_ahead(jobs, self.prefetch), start + 1):
            self._position = epoch, handed_out
            yield to_tensors(batch)
        self._position = epoch + 1, 0

    def _order(self, epoch: int) -> Indices:
        count = len(self.dataset)
        return self._rng(epoch, ORDER).permutation(count) if self.shuffle else np.arange(count)

    def _part(self, batch: Indices) -> Indices:
        rank, parts = self.shard
        size = len(batch) // parts
        return batch[rank * size : (rank + 1) * size]

    def _rng(self, epoch: int, stream: int, *shard: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, stream, *shard))

    def _load(self, epoch: int, i: int, indices: Indices) -> Any:
        """Batch i as arrays; runs in the background thread."""
        if self.collate_fn is None:
            batch = take(self.dataset, indices)
        else:
            batch = self.collate_fn([self.dataset[int(j)] for j in indices])
        if self.transform is None:
            return batch
        rank = self.shard[0]
        rng = self._rng(epoch, 1 + i, *([rank] if rank else []))
        if isinstance(batch, (tuple, list)):
            return (transformed("DataLoader", batch[0], self.transform, rng), *batch[1:])
        return transformed("DataLoader", batch, self.transform, rng)


def _check_shard(
    shard: tuple[int, int], samples: int, batch_size: int, drop_last: bool, unseeded: bool
) -> None:
    """Parts of equal size: else the mean of the parts' gradients is not the batch's."""
    rank, parts = shard
    if not 0 <= rank < parts:
        raise ValueError(f"DataLoader: shard is {shard}; of n parts the first is (0, n)")
    if parts > 1 and unseeded:
        raise ValueError(
            "DataLoader: shards of one order need one seed; pass the same seed= to every part"
        )
    whole, rest = divmod(batch_size, parts)
    if rest:
        near = " or ".join(str(n * parts) for n in (whole, whole + 1) if n)
        raise ValueError(
            f"DataLoader: a batch of {batch_size} cannot be dealt out evenly to {parts} processes: "
            f"{batch_size} = {parts} * {whole} + {rest}; use batch_size={near}"
        )
    last = samples % batch_size
    if last % parts and not drop_last:
        raise ValueError(
            f"DataLoader: the last batch of {last} ({samples} = {samples // batch_size} * "
            f"{batch_size} + {last}) cannot be dealt out evenly to {parts} processes; pass "
            "drop_last=True"
        )


def _ahead(jobs: Iterator[Callable[[], Any]], depth: int) -> Iterator[Any]:
    """What the jobs return, in their order, ``depth`` of them computed ahead by one thread."""
    if depth == 0:
        yield from (job() for job in jobs)
        return
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tinyconv-loader")
    process = os.getpid()

    def begin(job: Callable[[], Any]) -> Callable[[], Any]:
        if os.getpid() != process:
            return job
        try:
            result = thread.submit(job).result  # raises what the job raised
        except RuntimeError:  # Python is shutting down: the caller's thread does the job
            return job
        # In the child of a fork there is no thread, and nobody would finish what it had begun.
        return lambda: result() if os.getpid() == process else job()

    try:
        pending = deque(map(begin, islice(jobs, depth)))
        while pending:
            result = pending.popleft()()
            pending.extend(map(begin, islice(jobs, 1)))
            yield result
    finally:  # the end, an exception, or the consumer left its loop: then Python closes us here
        if os.getpid() == process:
            thread.shutdown(cancel_futures=True)


def to_tensors(batch: Any) -> Any:
    """Arrays become Tensors without a copy; tuples, lists and dicts are walked, the rest stays."""
    if isinstance(batch, np.ndarray):
        return from_numpy(batch)
    if hasattr(batch, "strides"):  # already on a device
        return wrap(batch)
    if isinstance(batch, dict):
        return {key: to_tensors(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(to_tensors(value) for value in batch)
    return batch
