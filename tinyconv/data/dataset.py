"""Datasets: things with a length and an index, as in torch.utils.data.

A dataset may also offer ``__getitems__(indices)``, the whole batch in one step: for an int64 array
of B indices a tuple of arrays with leading axis B.  TensorDataset and MNIST do, and a batch is then
one fancy-index take instead of a Python loop over B samples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tinyconv.backend import array_module
from tinyconv.errors import ShapeError
from tinyconv.random import generator
from tinyconv.tensor import Tensor

Indices = NDArray[np.int64]


@runtime_checkable
class Dataset(Protocol):
    """Anything with ``len(dataset)`` and ``dataset[i]``; a list is one already."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int, /) -> Any: ...


class TensorDataset(Dataset):
    """Sample i is the tuple of the tensors' i-th entries: ``TensorDataset(images, labels)``.

    tensors: any number, all of the same length; ShapeError otherwise.
    """

    def __init__(self, *tensors: Tensor) -> None:
        lengths = [len(t) for t in tensors]
        if len(set(lengths)) != 1:
            fault = f"the tensors have {lengths} entries; a sample is one of each, so the lengths"
            raise ShapeError("TensorDataset", f"{fault} must be equal")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __getitems__(self, indices: Indices) -> tuple[Any, ...]:
        return tuple(t.array[array_module(t.array).asarray(indices)] for t in self.tensors)


class Subset(Dataset):
    """The samples ``indices`` of another dataset, in that order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int] | Indices) -> None:
        self.dataset = dataset
        self.indices: Indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def __getitems__(self, indices: Indices) -> Any:
        return take(self.dataset, self.indices[indices])


def random_split(
    dataset: Dataset, lengths: Sequence[float], seed: int | None = None
) -> list[Subset]:
    """Disjoint random subsets: ``random_split(ds, [50000, 10000])``.

    lengths: sample counts whose sum is ``len(dataset)``, or fractions whose sum is 1; what the
             fractions leave over by rounding down goes to the first subsets, one sample each.
    seed:    makes the split repeatable; without it ``tc.manual_seed`` governs.
    """
    total = len(dataset)
    if np.isclose(sum(lengths), 1):
        counts = [int(total * fraction) for fraction in lengths]
        for i in range(total - sum(counts)):
            counts[i % len(counts)] += 1
    else:
        counts = [int(length) for length in lengths]
    if sum(counts) != total or min(counts) < 0:
        given = f"{' + '.join(map(str, lengths))} = {sum(lengths)}"
        raise ShapeError("random_split", f"{given}, but there are {total} samples; give counts "
                                         ">= 0 that add up to that, or fractions that add up to 1")
    rng = generator() if seed is None else np.random.default_rng(seed)
    parts = np.split(rng.permutation(total), np.cumsum(counts)[:-1])
    return [Subset(dataset, part) for part in parts]


def take(dataset: Dataset, indices: Indices) -> Any:
    """The samples ``indices`` as one batch of arrays."""
    take_many = getattr(dataset, "__getitems__", None)
    if take_many is None:
        return default_collate([dataset[int(i)] for i in indices])
    batch = take_many(indices)
    return default_collate(batch) if isinstance(batch, list) else batch  # a list is PyTorch's form


def transformed(name: str, images: Any, transform: Callable[..., Any], *args: Any) -> Any:
    """``transform(images, *args)``; ShapeError if that is no longer a batch of as many images."""
    out = transform(images, *args)
    before = getattr(images, "shape", ())
    if before and getattr(out, "shape", ())[:1] != before[:1]:
        found = getattr(out, "shape", type(out).__name__)
        raise ShapeError(name, f"the transform gets a whole batch {before} and returned {found}; "
                               f"its first axis must stay the batch's {before[0]} images")
    return out


def default_collate(samples: list[Any]) -> Any:
    """B samples to one batch: each field becomes an array with leading axis B.

    Tuples and dicts are collated field by field, strings stay a list.  Numbers follow tc.tensor:
    floats make float32, integers int64.
    """
    first = samples[0]
    if isinstance(first, dict):
        return {key: default_collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(default_collate(list(field)) for field in zip(*samples, strict=True))
    if isinstance(first, str):
        return samples
    if isinstance(first, Tensor):
        return array_module(first.array).stack([sample.array for sample in samples])
    batch = np.stack([np.asarray(sample) for sample in samples])
    return batch.astype(np.float32) if isinstance(first, float) else batch
