"""Data: datasets, the loader that makes batches of them, MNIST, and image shifts."""

from tinyconv.data.augment import (
    random_horizontal_flip as random_horizontal_flip,
    random_shift as random_shift,
)
from tinyconv.data.dataset import (
    Dataset as Dataset,
    Subset as Subset,
    TensorDataset as TensorDataset,
    default_collate as default_collate,
    random_split as random_split,
    take as take,
)
from tinyconv.data.fetch import DataNotFound as DataNotFound, FileSet as FileSet, locate as locate
from tinyconv.data.idx import DataError as DataError, read_idx as read_idx, write_idx as write_idx
from tinyconv.data.loader import DataLoader as DataLoader
from tinyconv.data.mnist import MNIST as MNIST, FashionMNIST as FashionMNIST
