"""Pools, padding, resizing and windows against PyTorch on drawn geometries, with NaN and inf.

What moves numbers must not multiply them by zeros: a number that is not finite reaches the outputs,
and in the gradients the inputs, that it reaches in PyTorch, and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.errors import DTypeError, ShapeError
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
    # A window may hop over the image: PyTorch's gradient then goes to a place that it never saw.
    dilation = (1, 1) if any(padding) else pair(rng, 1, 3)
    return images(rng), (kernel, stride, padding, dilation, ceil), {}


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
    # A circle that is cut to less than is added reads what PyTorch has not written yet.
    low, high = (-1, 1) if mode == "circular" else (-3, 4)
    pads = [int(rng.integers(low, high + 1)) for _ in range(4)]
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


# --- single cases


def test_a_window_that_hops_over_the_image() -> None:
    x = tc.ones(1, 1, 7, 1, requires_grad=True)
    y = F.max_pool2d(x, 2, stride=(3, 5), padding=(0, 1), dilation=(1, 2))
    assert y.flatten().tolist() == [-np.inf, -np.inf]
    y.sum().backward()
    assert not x.grad.any()  # it saw nothing


@pytest.mark.parametrize("choice", ["fast", "numpy", "reference"])
@pytest.mark.parametrize("place", [-1, 16, -17, 10**9])
def test_places_outside_of_the_image(choice: str, place: int) -> None:
    at = tc.tensor(np.array([[[[0, 2], [5, place]]]]))
    with tc.kernels(choice), pytest.raises(ShapeError, match=f"an index is {place}"):
        F.max_unpool2d(tc.ones(1, 1, 2, 2), at, 2)


@pytest.mark.parametrize("size", [(2, 4), (4, 6), (20, 9), (4,), (1, 4, 4), (4.0, 4)])
def test_unpool_to_a_size_that_pooling_cannot_come_from(size: Any) -> None:
    at = tc.zeros(1, 1, 2, 2).long()
    with pytest.raises((ShapeError, TypeError)):
        F.max_unpool2d(tc.ones(1, 1, 2, 2), at, 2, output_size=size)
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        TF.max_unpool2d(
            torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).long(), 2, output_size=size
        )


def test_places_are_int64() -> None:
    with pytest.raises(DTypeError, match=r"indices\.long\(\)"):
        F.max_unpool2d(tc.ones(1, 1, 2, 2), tc.zeros(1, 1, 2, 2).int(), 2)


@pytest.mark.parametrize(("dtype", "value"), [
    ("int64", 0.5), ("int64", -2.7), ("uint8", 255), ("uint8", -1), ("uint8", 300), ("bool", 2),
    ("bool", 0), ("int64", float("nan")), ("int64", float("inf")), ("float16", 1e9),
    ("float16", float("inf")), ("float32", 1.5),
])  # fmt: skip
def test_padding_of_every_dtype(dtype: str, value: float) -> None:
    theirs, mine = torch.ones(2, dtype=getattr(torch, dtype)), tc.ones(2, dtype=dtype)
    try:
        expected = TF.pad(theirs, (1, 2), value=value)
    except RuntimeError:
        with pytest.raises(DTypeError, match="does not fit"):
            F.pad(mine, (1, 2), value=value)
        return
    found = F.pad(mine, (1, 2), value=value)
    assert found.dtype == dtype
    assert found.tolist() == expected.tolist()


REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "a value for a mirror": lambda m, f: f.pad(m.ones(1, 1, 4), (1, 1), "reflect", 1.0),
    "more cut off than there is": lambda m, f: f.pad(m.ones(1, 1, 4), (-3, -2)),
    "half a number of sizes": lambda m, f: f.pad(m.ones(1, 1, 4), (1, 1, 1)),
    "half a pixel": lambda m, f: f.interpolate(m.ones(1, 1, 2, 2), size=(3.5, 3.5)),
    "a factor too many": lambda m, f: f.interpolate(m.ones(1, 1, 2, 2), scale_factor=(2, 2, 2)),
    "nothing left": lambda m, f: f.interpolate(m.ones(1, 1, 2, 2), scale_factor=0.1),
    "nothing to resize": lambda m, f: f.interpolate(m.ones(1, 0, 2, 2), size=3),
    "no shuffle": lambda m, f: f.pixel_shuffle(m.ones(1, 4, 2, 2), 0),
    "no unshuffle": lambda m, f: f.pixel_unshuffle(m.ones(1, 4, 2, 2), -1),
    "no groups": lambda m, f: f.conv2d(m.ones(1, 1, 3, 3), m.ones(1, 1, 2, 2), groups=0),
    "no groups, 1-D": lambda m, f: f.conv1d(m.ones(1, 1, 3), m.ones(1, 1, 2), groups=0),
    "no groups back": lambda m, f: (
        f.conv_transpose2d(m.ones(1, 1, 3, 3), m.ones(1, 1, 2, 2), groups=0)
    ),
    "too much padding": lambda m, f: f.max_pool2d(m.ones(1, 2, 4, 4), 3, 1, 2),
    "no kernel": lambda m, f: f.avg_pool2d(m.ones(1, 2, 4, 4), 0, 1),
    "no channels": lambda m, f: f.max_pool2d(m.ones(1, 0, 4, 4), 2),
    "no channels in windows": lambda m, f: f.unfold(m.ones(1, 0, 4, 4), 2),
    "no rows": lambda m, f: f.adaptive_avg_pool2d(m.ones(1, 2, 0, 4), 2),
    "4-D columns": lambda m, f: f.fold(m.ones(1, 1, 4, 4), (3, 3), 2),
    "division by zero": lambda m, f: f.avg_pool2d(m.ones(1, 1, 2, 2), 2, divisor_override=0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_refuses_is_refused(name: str) -> None:
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        REFUSED[name](torch, TF)
    with pytest.raises((ShapeError, ValueError, TypeError)) as error:
        REFUSED[name](tc, F)
    assert not isinstance(error.value, ZeroDivisionError)


LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "Conv2d": (lambda m: m.Conv2d(3, 4, 3, padding=1), (3, 6, 5)),
    "Conv2d, reflect": (lambda m: m.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 6, 5)),
    "Conv2d, same": (lambda m: m.Conv2d(4, 4, 3, padding="same", groups=2), (4, 6, 5)),
    "Conv1d": (lambda m: m.Conv1d(3, 4, 3), (3, 7)),
    "ConvTranspose2d": (lambda m: m.ConvTranspose2d(3, 2, 3, stride=2), (3, 4, 5)),
    "ConvTranspose1d": (lambda m: m.ConvTranspose1d(3, 2, 3, stride=2), (3, 4)),
    "MaxPool2d": (lambda m: m.MaxPool2d(2), (3, 6, 5)),
    "AvgPool2d": (lambda m: m.AvgPool2d(2), (3, 6, 5)),
    "LPPool2d": (lambda m: m.LPPool2d(2, 2), (3, 6, 5)),
    "AdaptiveAvgPool2d": (lambda m: m.AdaptiveAvgPool2d(4), (3, 6, 5)),
    "AdaptiveMaxPool2d": (lambda m: m.AdaptiveMaxPool2d(4), (3, 6, 5)),
    "InstanceNorm2d": (lambda m: m.InstanceNorm2d(3, affine=True), (3, 6, 5)),
    "InstanceNorm1d": (lambda m: m.InstanceNorm1d(3), (3, 6)),
    "ReflectionPad2d": (lambda m: m.ReflectionPad2d(1), (3, 6, 5)),
    "ReplicationPad1d": (lambda m: m.ReplicationPad1d(1), (3, 6)),
    "ConstantPad2d": (lambda m: m.ConstantPad2d(1, 2.0), (3, 6, 5)),
    "Unfold": (lambda m: m.Unfold(2), (3, 6, 5)),
    "Fold": (lambda m: m.Fold((3, 3), 2), (8, 4)),
    "PixelShuffle": (lambda m: m.PixelShuffle(2), (4, 3, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_one_sample(name: str) -> None:
    make, shape = LAYERS[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    layer, other = make(nn), make(torch.nn)
    layer.load_state_dict({k: tc.tensor(v.numpy()) for k, v in other.state_dict().items()})
    found, expected = layer(tc.tensor(x)), other(torch.tensor(x))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_integers_are_picked_but_not_weighed(dtype: str) -> None:
    x = tc.ones(1, 1, 4, 4, dtype=dtype)
    for params in ({"size": 7}, {"scale_factor": 2}, {"size": 3}):
        y = F.interpolate(x, **params)
        assert y.dtype == dtype
        assert y.all()
    with pytest.raises(DTypeError):
        F.interpolate(x, size=7, mode="bilinear")
    with pytest.raises(DTypeError):
        F.adaptive_avg_pool2d(x, 3)


def test_dropout_of_one_sample_drops_its_channels() -> None:
    y = F.dropout2d(tc.ones(64, 3, 2), 0.5)
    assert set(y.flatten(1).var(1).tolist()) == {0.0}
    assert 0 < int((y[:, 0, 0] == 0).sum()) < 64


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", ["dropout", "dropout2d"])
def test_dropping_what_is_not_finite_gives_nan(name: str) -> None:
    """x times 0, as in PyTorch."""
    for m, f in ((tc, F), (torch, TF)):
        x = m.tensor(np.full((1, 64, 2, 2), np.inf, np.float32))
        y = np.asarray(getattr(f, name)(x, 0.5, True))
        assert (np.isnan(y) | np.isposinf(y)).all()
        assert np.isnan(y).any()


@pytest.mark.parametrize("choice", ["fast", "numpy", "reference"])
def test_one_infinity_stays_where_it_is(choice: str) -> None:
    x = np.ones((1, 1, 64, 64))
    x[0, 0, 20, 31] = np.inf
    with tc.kernels(choice):
        assert int((~F.unfold(tc.tensor(x), 3).isfinite()).sum()) == 9
        assert int((~F.adaptive_avg_pool2d(tc.tensor(x), 7).isfinite()).sum()) == 1
        assert int((~F.adaptive_avg_pool2d(tc.tensor(x), (1, 3)).isfinite()).sum()) == 1
        assert int((~F.interpolate(tc.tensor(x), size=97).isfinite()).sum()) <= 4
        for corners in (False, True):
            up = {"scale_factor": 2, "mode": "bilinear", "align_corners": corners}
            found = F.interpolate(tc.tensor(x), **up).isfinite().numpy()
            expected = TF.interpolate(torch.tensor(x), **up).isfinite().numpy()
            assert np.array_equal(found, expected)
