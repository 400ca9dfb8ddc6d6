"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 grey pixels.

MNIST: Y. LeCun, C. Cortes, C. J. C. Burges, http://yann.lecun.com/exdb/mnist/ (CC BY-SA 3.0).
Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf, https://arxiv.org/abs/1708.07747 (MIT licence).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tinyconv.autograd import wrap
from tinyconv.backend import backend_named, backend_of, moved
from tinyconv.data.dataset import Dataset, Indices, transformed
from tinyconv.data.fetch import DataNotFound, FileSet, locate, read_verified
from tinyconv.data.idx import DataError, read_idx
from tinyconv.tensor import Tensor

SAMPLE = Path(__file__).parent / "mnist_sample"  # made by scripts/make_mnist_sample.py
SPLITS = {
    True: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    False: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# of the uncompressed files
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# of the contents of the .gz files whose MD5 the authors publish (README of
# zalandoresearch/fashion-mnist; torchvision/datasets/mnist.py has the same four)
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class MNIST(Dataset):
    """Handwritten digits.

    root:      folder to look in and to download to; None: ``$TINYCONV_DATA``, then the user's cache
    train:     the training or the test images
    source:    "full": the 70,000 images; found, downloaded, or an error that says where it looked
               "sample": the 10,000 training and 2,000 test images that the package carries
               "auto": the full set if it can be had, else the sample, with a warning
    transform: a fixed step on the normalised images, (B, 1, 28, 28) float32 -> (B, ...);
               random steps belong to the DataLoader, which has the random stream
    download:  may the mirrors be asked?

    images:    (N, 28, 28) uint8, 0 is the black background, 255 the white stroke
    labels:    (N,) int64, 0..9
    folder:    where the files are; ``ds.source`` says "full" or "sample"
    source:    "full" or "sample": which of them it is
    black:     the background after normalisation, the ``fill`` of `random_shift`

    ``ds[i]`` is an image, Tensor (1, 28, 28) float32, normalised to mean 0 and deviation 1, and its
    label, an int.  A file whose contents are not the published ones raises DataError.
    """

    # of the 60,000 training images / 255, to four digits: 0.13066 and 0.30811 (a test computes
    # them); the figures of PyTorch's own example, pytorch/examples/mnist/main.py
    mean: ClassVar[float] = 0.1307
    std: ClassVar[float] = 0.3081
    classes: ClassVar[list[str]] = [str(digit) for digit in range(10)]
    sample: ClassVar[Path | None] = SAMPLE
    files: ClassVar[FileSet] = FileSet(
        name="MNIST",
        subfolders=("", "MNIST/raw", "mnist"),  # the second is torchvision's
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256=MNIST_SHA256,
    )

    def __init__(
        self,
        root: str | Path | None = None,
        train: bool = True,
        source: str = "auto",
        transform: Callable[[NDArray[np.float32]], NDArray[Any]] | None = None,
        download: bool = True,
    ) -> None:
        self.train = train
        self.transform = transform
        self.folder = self._folder(root, source, download)
        self.source = "sample" if self.folder == self.sample else "full"
        images, labels = (self._read(file) for file in SPLITS[train])
        self.images: NDArray[np.uint8] = images
        self.labels: NDArray[np.int64] = labels.astype(np.int64)
        # ToTensor and Normalize for each of the 256 grey levels, in float32 as torchvision computes
        grey = np.arange(256, dtype=np.float32) / 255
        self._normalised: NDArray[Any] = (grey - self.mean) / self.std
        self.black = float(self._normalised[0])

    def to(self, device: str) -> Self:
        """The same set with its images, as uint8, and its labels in that device's memory.

        A batch is gathered and normalised there; only its indices travel.
        """
        backend = backend_named(device)
        if backend is backend_of(self.images):
            return self
        twin = copy(self)
        for name in ("images", "labels"):
            setattr(twin, name, moved(getattr(self, name), backend))
        return twin

    def _folder(self, root: str | Path | None, source: str, download: bool) -> Path:
        if source not in ("auto", "full", "sample"):
            raise ValueError(f"source is {source!r}; use 'auto', 'full' or 'sample'")
        if source == "sample":
            if self.sample is None:
                raise DataError(self.files.name, "there is no embedded sample; use source='full'")
            return self.sample
        try:
            return locate(self.files, root, download)
        except DataNotFound:
            if source == "full" or self.sample is None:
                raise
        warnings.warn(
            f"{self.files.name}: the full set is not here and cannot be downloaded; using the "
            "embedded sample of 10,000 training and 2,000 test images. source='full' says which "
            "places were tried, source='sample' silences this.",
            stacklevel=3,
        )
        return self.sample

    def _read(self, file: str) -> NDArray[Any]:
        if self.source == "sample":
            return read_idx(self.folder / f"{file}.xz")
        return read_verified(self.files, self.folder, file)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, labels = self.__getitems__(np.array([range(len(self))[index]]))
        return wrap(images[0]), int(labels[0])

    def __getitems__(self, indices: Indices) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A batch: images (B, 1, 28, 28) float32, normalised, and labels (B,) int64."""
        backend = backend_of(self.images)
        indices = backend.xp.asarray(indices)
        if backend.waits:  # in one launch; a CPU is quicker with a table
            images = backend.gather_images(self.images, indices, mean=self.mean, std=self.std)
        else:
            images = self._normalised.take(self.images[indices])[:, np.newaxis]
        if self.transform is not None:
            images = transformed(self.files.name, images, self.transform)
        return images, self.labels[indices]


class FashionMNIST(MNIST):
    """Zalando's article images, in MNIST's format; the same arguments, but no embedded sample."""

    # of the training images, as above; the figures in common use
    mean = 0.2860
    std = 0.3530
    classes: ClassVar[list[str]] = [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ]
    sample = None
    files = FileSet(
        name="Fashion-MNIST",
        # not $TINYCONV_DATA itself: the files are called like MNIST's, which may lie there
        subfolders=("FashionMNIST/raw", "fashion_mnist"),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        sha256=FASHION_SHA256,
    )
