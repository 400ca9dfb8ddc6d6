"""Data: datasets, the loader that makes batches of them, MNIST, and image shifts."""

from tinyconv.data.augment import random_horizontal_flip, random_shift
from tinyconv.data.dataset import (
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
    take,
)
from tinyconv.data.fetch import DataNotFound, FileSet, locate
from tinyconv.data.idx import DataError, read_idx, write_idx
from tinyconv.data.loader import DataLoader
from tinyconv.data.mnist import MNIST, FashionMNIST
