"""Pools, padding, resizing and windows against PyTorch on drawn geometries, with NaN and infinities.

What moves numbers must not multiply them by zeros: a number that is not finite reaches the outputs,
and in the gradients the inputs, that it reaches in PyTorch, and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv.errors import ShapeError
from tinyconv.nn import functional as F

torch = pytest.importorskip("torch")
TF = torch.nn.functional

Case = tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]  # shape, arguments, keywords


# --- what is drawn


def pair(rng: Any, low: int, high: int) -> tuple[int, int]:
    return int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))


def images(rng: Any, least: int = 1, most: int = 9) -> tuple[int, ...]:
    """(N, C, H, W) or, one in four, (C, H, W)."""
    lead = (int(rng.integers(0, 3)), int(rng.integers(1, 4)))
    return (*lead[1 if rng.random() < 0.25 else 0 :], *pair(rng, least, most))


def max_pool2d(rng: Any) -> Case:
    kernel = pair(rng, 1, 4)
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    stride = pair(rng, 1, 4) if rng.random() < 0.7 else None
    ceil = bool(rng.random() < 0.6)
    return images(rng), (kernel, stride, padding, pair(rng, 1, 3), ceil), {}


def avg_pool2d(rng: Any) -> Case:
    kernel = pair(rng, 1, 5)
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    stride = pair(rng, 1, 5) if rng.random() < 0.7 else None
    divisor = int(rng.integers(1, 9)) if rng.random() < 0.3 else None
    ceil, include = rng.random(2) < 0.6
    return images(rng), (kernel, stride, padding, bool(ceil), bool(include), divisor), {}


def lp_pool2d(rng: Any) -> Case:
    return images(rng, 2), (2.0, pair(rng, 1, 4), pair(rng, 1, 3), bool(rng.random() < 0.5)), {}


def adaptive(rng: Any) -> Case:
    return images(rng), (pair(rng, 1, 9),), {}


def pad(rng: Any) -> Case:
    shape = images(rng, 2)
    mode = ["constant", "reflect", "replicate", "circular"][rng.integers(4)]
    pads = [int(rng.integers(-3, 5)) for _ in range(4)]
    value = {"value": float(rng.normal())} if mode == "constant" and rng.random() < 0.5 else {}
    return shape, (pads, mode), value


def interpolate(rng: Any) -> Case:
    signal = rng.random() < 0.3
    n = 1 if signal else 2
    shape = (int(rng.integers(1, 3)), 2, *(int(rng.integers(1, 9)) for _ in range(n)))
    mode = ["nearest", "linear" if signal else "bilinear"][rng.integers(2)]
    params: dict[str, Any] = {"mode": mode}
    if mode != "nearest":
        params["align_corners"] = bool(rng.random() < 0.5)
    if rng.random() < 0.5:
        params["size"] = [int(rng.integers(1, 14)) for _ in range(n)]
    else:
        params["scale_factor"] = [float(rng.choice([0.5, 1, 1.2, 2, 2.7, 3])) for _ in range(n)]
    return shape, (), params


def unfold(rng: Any) -> Case:
    return images(rng, 2), (pair(rng, 1, 3), pair(rng, 1, 2), pair(rng, 0, 2), pair(rng, 1, 3)), {}


def fold(rng: Any) -> Case:
    (oh, ow), kernel = pair(rng, 2, 8), pair(rng, 1, 3)
    dilation, padding, stride = pair(rng, 1, 2), pair(rng, 0, 2), pair(rng, 1, 3)
    sizes = zip((oh, ow), kernel, dilation, padding, stride, strict=True)
    rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sizes)
    n = max(rows, 0) * max(columns, 0)
    lead = () if rng.random() < 0.3 else (int(rng.integers(0, 3)),)
    shape = (*lead, 2 * kernel[0] * kernel[1], n)
    return shape, ((oh, ow), kernel, dilation, padding, stride), {}


def shuffle(rng: Any) -> Case:
    r = int(rng.integers(1, 4))
    lead = tuple(int(n) for n in rng.integers(1, 3, rng.integers(0, 3)))
    return (*lead, 2 * r * r, *pair(rng, 1, 3)), (r,), {}


DRAWN: dict[str, Callable[[Any], Case]] = {
    "max_pool2d": max_pool2d, "avg_pool2d": avg_pool2d, "lp_pool2d": lp_pool2d,
    "adaptive_avg_pool2d": adaptive, "adaptive_max_pool2d": adaptive, "pad": pad,
    "interpolate": interpolate, "unfold": unfold, "fold": fold, "pixel_shuffle": shuffle,
}  # fmt: skip


# --- and how it is compared


def numbers(rng: Any, shape: Any, special: bool) -> Any:
    """No two alike; a few of them infinite or NaN."""
    n = int(np.prod(shape))
    x = (rng.permutation(n) + 1.0).reshape(shape) / max(n, 1)
    if special and n:
        at = rng.integers(0, n, 2)
        x.reshape(-1)[at] = rng.choice([np.inf, -np.inf, np.nan], 2)
    return x


def both_orders(module: Any, f: Any, x: Any, g: Any, h: Any, grad: Any) -> list[Any]:
    """The output, the gradient, and what goes back through the gradient."""
    x, g = module.tensor(x).requires_grad_(), module.tensor(g).requires_grad_()
    y = f(x)
    (first,) = grad(y, x, g, create_graph=True)
    second = grad(first, [x, g], module.tensor(h), allow_unused=True)
    return [y, first, second[1]]


def agree(found: Any, expected: Any) -> None:
    a, b = found.detach().numpy(), expected.detach().numpy()
    assert a.shape == b.shape
    assert np.array_equal(np.isfinite(a), np.isfinite(b))
    finite = np.isfinite(b)
    np.testing.assert_allclose(a[finite], b[finite], rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("special", [False, True], ids=["finite", "not finite"])
@pytest.mark.parametrize("name", DRAWN)
def test_on_drawn_geometries(name: str, special: bool) -> None:
    """What PyTorch computes we compute, to the second order; what it refuses we refuse."""
    rng = np.random.default_rng([len(name), special])
    ran = 0
    for _ in range(20):
        shape, args, params = DRAWN[name](rng)
        x = numbers(rng, shape, special)
        said = f"{name}({shape}, {args}, {params})"
        try:
            y = getattr(TF, name)(torch.tensor(x), *args, **params)
        except (RuntimeError, ValueError):
            if not x.size:  # what would be refused of a larger batch may pass, or not
                continue
            with pytest.raises((ShapeError, ValueError)):
                getattr(F, name)(tc.tensor(x), *args, **params)
            continue
        if not x.size or not y.numel():
            if "circular" not in args:  # what overlaps is refused of a larger batch alone
                assert getattr(F, name)(tc.tensor(x), *args, **params).shape == y.shape, said
            continue
        g = numbers(rng, tuple(y.shape), special)
        h = numbers(rng, shape, special and name != "max_pool2d")
        ran += 1
        ours, theirs = (
            both_orders(m, lambda x, f=f: getattr(f, name)(x, *args, **params), x, g, h, grad)  # noqa: B023
            for m, f, grad in ((tc, F, tc.grad), (torch, TF, torch.autograd.grad))
        )
        try:
            for a, b in zip(ours, theirs, strict=True):
                agree(a, b)
        except AssertionError as error:
            raise AssertionError(f"{said}: {error}") from None
    assert ran >= 5
