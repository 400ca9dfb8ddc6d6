"""Random augmentation of a batch of images, vectorised; the last two axes are (H, W).

The DataLoader hands its transform the batch's images and the batch's own random stream:

    def augment(images, rng):
        return random_shift(images, 2, rng, fill=train.black)

    loader = DataLoader(train, batch_size=128, shuffle=True, transform=augment)

What is random is drawn on the host; images on a GPU are moved there, and only the draws travel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv.backend import array_module


def random_shift(
    images: NDArray[Any], max_shift: int, rng: np.random.Generator, fill: float
) -> NDArray[Any]:
    """Move each image by its own whole number of pixels, -max_shift..max_shift down and right.

    images: (B, ..., H, W), any dtype, which is kept
    fill:   what moves in at the border; nothing wraps around. ``MNIST.black`` for normalised MNIST

    As loops:  out[b, ..., y, x] = images[b, ..., y - down[b], x - right[b]], or fill outside.
    """
    xp, m = array_module(images), max_shift
    top, left = xp.asarray(m - rng.integers(-m, m + 1, size=(2, len(images))))
    *lead, height, width = images.shape
    padded = xp.full((*lead, height + 2 * m, width + 2 * m), fill, dtype=images.dtype)
    padded[..., m : m + height, m : m + width] = images
    windows = xp.lib.stride_tricks.as_strided(
        padded, (*lead, 2 * m + 1, 2 * m + 1, height, width), padded.strides + padded.strides[-2:]
    )
    return windows[xp.arange(len(images)), ..., top, left, :, :]


def random_horizontal_flip(
    images: NDArray[Any], rng: np.random.Generator, p: float = 0.5
) -> NDArray[Any]:
    """Mirror each image left to right with probability p.  (B, ..., H, W), dtype kept."""
    xp = array_module(images)
    flip = xp.asarray(rng.random(len(images)) < p)
    return xp.where(flip.reshape(-1, *[1] * (images.ndim - 1)), images[..., ::-1], images)
