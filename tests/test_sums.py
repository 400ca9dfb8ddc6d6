"""Sums of many numbers are off by a few times log2(n) roundings: every axis, layout and dtype."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import tinyconv as tc
from tinyconv.backend import CPU
from tinyconv.nn import functional as F

KERNELS = ["reference", "numpy", "fast"]
FEW = 4  # times log2(n) roundings
SHAPES = [(1,), (17,), (5000,), (3, 2000), (2000, 3), (70, 80), (6, 5, 700), (9, 8, 11, 10)]


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    with tc.kernels(request.param):
        yield request.param


def rounding(dtype: Any) -> float:
    return float(np.finfo(dtype).eps) / 2


def bound(n: int, dtype: Any) -> float:
    """The largest relative error of a sum of n numbers of one sign."""
    return FEW * max(1.0, math.log2(max(n, 1))) * rounding(dtype)


def exact_sum(x: np.ndarray, axes: Any, keepdims: bool = False) -> np.ndarray:
    """In extended precision, pairwise along the last axis; along others the totals are wide."""
    return x.sum(axis=axes, keepdims=keepdims, dtype=np.longdouble)


def check(found: Any, exact: Any, size: Any, n: int, dtype: Any) -> None:
    """Is the error below the bound, relative to `size`, the sum of the absolute values?"""
    found = np.asarray(found.numpy() if tc.is_tensor(found) else found)
    assert found.dtype == dtype
    error = np.abs(found.astype(np.longdouble) - exact)
    assert (error <= bound(n, dtype) * np.abs(size)).all(), float((error / np.abs(size)).max())


def layouts(x: np.ndarray) -> Iterator[np.ndarray]:
    """The same shape in other orders of memory, or broadcast."""
    yield x
    yield np.asfortranarray(x)
    yield x[::-1]
    yield np.repeat(x, 2, -1)[..., ::2]
    yield np.repeat(x, 3, 0)[::-3]
    if x.ndim > 2:
        yield np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    yield np.broadcast_to(x, (3, *x.shape))


def drawn(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) + 0.5).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_and_means_over_all_axes_of_all_layouts(
    shape: tuple[int, ...], dtype: str, kernels: str
) -> None:
    for x in layouts(drawn(shape, dtype)):
        every = [a for r in range(1, x.ndim + 1) for a in itertools.combinations(range(x.ndim), r)]
        for axes, keep in itertools.product(every, (False, True)):
            n = math.prod(x.shape[a] for a in axes)
            exact, size = (exact_sum(a, axes, keep) for a in (x, np.abs(x)))
            t = tc.tensor(0.0, dtype=tc.float64)
            t.array = x  # the layout as it is
            assert t.sum(axes, keep).shape == exact.shape
            check(t.sum(axes, keep), exact, size, n, dtype)
            check(t.mean(axes, keep), exact / n, size / n, n, dtype)


ROWS = [(2, 5, 3000), (40, 7, 4), (900, 20), (30, 40), (3, 40, 300), (20, 1100), (2, 9000, 2)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES + ROWS, ids=str)
def test_compiled_sums_of_arrays_of_any_size(shape: tuple[int, ...], dtype: str) -> None:
    """Which are asked for large ones only."""
    compiled = pytest.importorskip("tinyconv.backend.compiled.sums")
    for x in layouts(drawn(shape, dtype)):
        for r in range(1, x.ndim + 1):
            for axes in itertools.combinations(range(x.ndim), r):
                n = math.prod(x.shape[a] for a in axes)
                exact, size = (exact_sum(a, axes) for a in (x, np.abs(x)))
                check(compiled.sum(x, axes, False, None), exact, size, n, dtype)
                check(compiled.mean(x, axes, False, None), exact / n, size / n, n, dtype)


@pytest.mark.parametrize("shape", [(3, 4), (50, 60), (300, 300)])
def test_axes_that_are_not_there_or_twice(shape: tuple[int, ...], kernels: str) -> None:
    for name, dtype in itertools.product(("sum", "mean", "std"), (tc.float16, tc.float32)):
        x = tc.ones(*shape, dtype=dtype)
        for dim in (2, -3, (0, 2)):
            with pytest.raises(tc.DimError):
                getattr(x, name)(dim)
        with pytest.raises(tc.ShapeError):
            getattr(x, name)((0, -2))


def test_a_sum_in_float64_is_one_of_float64(kernels: str) -> None:
    for shape in ((2000, 3), (300_000, 2)):
        x = np.full(shape, 0.1, "float32")
        exact = len(x) * x[0].astype(np.longdouble)
        check(tc.tensor(x).sum(0, dtype=tc.float64), exact, exact, len(x), "float64")
        check(tc.tensor(x).mean(0, dtype=tc.float64), exact / len(x), exact / len(x), len(x), "f8")


LONG = 300_000
CONSTANTS = [0.1, 1000.1, -3.3]
WAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "first axis": lambda x: tc.tensor(x[:, None].repeat(2, 1)).sum(0)[0],
    "all": lambda x: tc.tensor(x).sum(),
    "last axis": lambda x: tc.tensor(x[None].repeat(2, 0)).sum(1)[0],
    "cumsum": lambda x: tc.tensor(x).cumsum(0)[-1],
    "broadcast": lambda x: _broadcast_gradient(x),
    "einsum": lambda x: tc.einsum("ij->j", tc.tensor(x[:, None].repeat(2, 1)))[0],
    "dot": lambda x: tc.tensor(x) @ tc.ones(len(x), dtype=tc.tensor(x).dtype),
}


def _broadcast_gradient(x: np.ndarray) -> Any:
    b = tc.zeros(2, dtype=tc.tensor(x).dtype, requires_grad=True)
    g = tc.tensor(x[:, None].repeat(2, 1))
    (tc.zeros_like(g) + b).backward(g)
    return b.grad[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_of_one_sign_the_worst_case(way: str, dtype: str, kernels: str) -> None:
    for value in CONSTANTS:
        x = np.full(LONG, value, dtype)
        exact = LONG * x[0].astype(np.longdouble)
        check(WAYS[way](x), exact, exact, LONG, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ten_million_numbers(dtype: str, kernels: str) -> None:
    x = tc.tensor(np.full((10_000_000, 2), 0.1, dtype))
    exact = len(x) * x.array[0].astype(np.longdouble)
    check(x.sum(0), exact, exact, len(x), dtype)
    check(x.cumsum(0)[-1], exact, exact, len(x), dtype)
    check(x.sum(), 2 * exact[0], 2 * exact[0], len(x), dtype)


def test_the_check_catches_numpys_own_sum() -> None:
    x = np.full((LONG, 3), 0.1, "float32")
    exact = exact_sum(x, 0)
    with pytest.raises(AssertionError):
        check(np.add.reduce(x, 0), exact, exact, LONG, "float32")


@pytest.mark.parametrize("rows", [3000, 100_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [0, 1])
def test_variances_of_numbers_far_from_zero(rows: int, dtype: str, dim: int, kernels: str) -> None:
    x = (1000.1 + 0.01 * np.random.default_rng(1).standard_normal((rows, 3))).astype(dtype)
    wide = x.astype(np.longdouble)
    mean = exact_sum(wide, 0) / rows
    var = exact_sum((wide - mean) ** 2, 0) / (rows - 1)
    t = tc.tensor(x if dim == 0 else np.ascontiguousarray(x.T))
    check(t.mean(dim), mean, mean, rows, dtype)
    check(t.var(dim), var, var, rows, dtype)
    check(t.std(dim), np.sqrt(var), np.sqrt(var), rows, dtype)


def test_batch_norm_beside_an_outlier(kernels: str) -> None:
    """The first pixel is no good guess at the mean."""
    x = (1000.1 + 0.01 * np.random.default_rng(1).standard_normal((4, 300, 40, 40))).astype("f")
    x[0, :, 0, 0] = 0
    wide, n = x.astype("d"), x.size // 300
    _, mean, var = CPU.batch_norm(x, None, None, 1e-5)
    check(mean, wide.mean((0, 2, 3)), 1000, n, "float32")
    check(var, wide.var((0, 2, 3)), wide.var((0, 2, 3)), n, "float32")


def test_the_gradients_of_biases(kernels: str) -> None:
    layer = tc.nn.Linear(2, 3)
    y = layer(tc.ones(LONG, 2))
    g = np.full(y.shape, 0.1, "float32")
    y.backward(tc.tensor(g))
    exact = LONG * np.longdouble(g[0, 0])
    check(layer.bias.grad, exact, exact, LONG, "float32")
    check(layer.weight.grad, exact, exact, LONG, "float32")
    conv = tc.nn.Conv2d(1, 2, 1)
    y = conv(tc.ones(20, 1, 128, 128))
    y.backward(tc.tensor(np.full(y.shape, 0.1, "float32")))
    exact = 20 * 128 * 128 * np.longdouble(np.float32(0.1))
    check(conv.bias.grad, exact, exact, 20 * 128 * 128, "float32")


def all_equal(found: Any, value: Any, n: int, dtype: str) -> None:
    """n numbers of `value`, as those of a one, added up to each of what was found."""
    exact = np.full(found.shape, n * np.dtype(dtype).type(value).astype(np.longdouble))
    check(found, exact, exact, n, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_numbers_into_one_place(dtype: str, kernels: str) -> None:
    if dtype == "float64" and np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:
        pytest.skip("NumPy has nothing wider than float64 here")
    table = tc.zeros(3, 2, dtype=dtype, requires_grad=True)
    table[tc.zeros(LONG, dtype=tc.int64)].backward(tc.tensor(np.full((LONG, 2), 0.1, dtype)))
    all_equal(table.grad[0], 0.1, LONG, dtype)
    places, values = tc.zeros(LONG, dtype=tc.int64), tc.tensor(np.full(LONG, 0.1, dtype))
    all_equal(tc.zeros(4, dtype=dtype).scatter_add(0, places, values)[0], 0.1, LONG, dtype)
    columns = tc.tensor(np.full((1, 32 * 32, 9 * 9), 0.1, dtype))
    all_equal(F.fold(columns, (40, 40), 32)[0, 0, 20, 20], 0.1, 9 * 9, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_windows_of_many_pixels(dtype: str, kernels: str) -> None:
    x = tc.zeros(1, 2, 80, 80, dtype=dtype, requires_grad=True)
    y = F.avg_pool2d(x, 40, 1, divisor_override=1)
    y.backward(tc.tensor(np.full(y.shape, 0.1, dtype)))
    all_equal(x.grad[0, :, 40, 40], 0.1, 1600, dtype)
    images = tc.tensor(np.full((1, 2, 300, 300), 0.1, dtype))
    all_equal(F.avg_pool2d(images, 300, divisor_override=1), 0.1, 90_000, dtype)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_weight_gradients_of_many_images(size: int, kernels: str) -> None:
    x, w = tc.ones(128, 4, 30, 30), tc.zeros(8, 4, size, size, requires_grad=True)
    y = F.conv2d(x, w)
    y.backward(tc.tensor(np.full(y.shape, 0.1, "float32")))
    all_equal(w.grad, 0.1, y.numel() // 8, "float32")


# ------------------------------------------------------------------------------------ float16


HALF: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda m, _: m.ones(4096, 8, dtype=m.float16).sum(0),
    "softmax": lambda m, _: m.zeros(1, 4096, 2, 2, dtype=m.float16).softmax(1).float().sum(1),
    "log_softmax": lambda m, _: m.zeros(1, 4096, 2, dtype=m.float16).log_softmax(1),
    "logsumexp": lambda m, _: m.logsumexp(m.zeros(4096, 3, dtype=m.float16), 0),
    "norm": lambda m, _: m.tensor([300.0, 400.0], dtype=m.float16).norm(),
    "norm 3": lambda m, _: m.tensor([300.0, 400.0], dtype=m.float16).norm(3.0),
    "var": lambda m, _: (m.ones(4096, 8, dtype=m.float16) * 3 - m.eye(4096, 8).half()).var(0),
    "mean": lambda m, _: m.full((4096, 8), 60.0, dtype=m.float16).mean(0),
    "matmul": lambda m, _: m.ones(2, 4096, dtype=m.float16) @ m.ones(4096, 2, dtype=m.float16),
    "avg_pool2d": lambda m, f: f.avg_pool2d(m.full((1, 1, 64, 64), 100.0, dtype=m.float16), 64),
    "cross_entropy": lambda m, f: f.cross_entropy(
        m.zeros(3, 4096, dtype=m.float16), m.tensor([0, 1, 2])
    ),
    "layer_norm": lambda m, f: f.layer_norm(m.linspace(-600, 600, 300).half()[None], (300,)),
    "linear": lambda m, f: f.linear(
        m.ones(2, 4096, dtype=m.float16), m.ones(2, 4096, dtype=m.float16)
    ),
}


@pytest.mark.parametrize("name", HALF)
def test_float16_as_pytorch_computes_it(name: str, kernels: str) -> None:
    ours, theirs = HALF[name](tc, F), HALF[name](torch, torch.nn.functional)
    assert str(theirs.dtype).endswith(str(ours.dtype))
    np.testing.assert_allclose(
        ours.numpy().astype("f8"), theirs.double().numpy(), rtol=2e-3, atol=2e-3
    )


def test_float16_gradients_of_indexing_and_of_norms(kernels: str) -> None:
    table = tc.zeros(3, 2, dtype=tc.float16, requires_grad=True)
    table[tc.zeros(4096, dtype=tc.int64)].sum().backward()
    assert table.grad.numpy().tolist() == [[4096, 4096], [0, 0], [0, 0]]
    x = np.linspace(-600, 600, 300).astype("float16")[None]
    grads = []
    for m, f in ((tc, F), (torch, torch.nn.functional)):
        t = m.tensor(x, requires_grad=True)
        weights = m.tensor(np.cos(np.arange(300)).astype("float16"))
        (f.layer_norm(t, (300,)) * weights).sum().backward()
        grads.append(t.grad.numpy().astype("f8"))
    np.testing.assert_allclose(*grads, rtol=2e-2, atol=1e-4)


# ------------------------------------------------------------------- infinities, nothing, integers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [10, 100_000])
def test_infinities_and_nan(dtype: str, n: int, kernels: str) -> None:
    for values, expected in (([np.inf], np.inf), ([-np.inf], -np.inf), ([np.nan], np.nan)):
        for shape in ((n,), (n, 3)):
            x = np.ones(shape, dtype)
            x[n // 2] = values[0]
            assert np.array_equal(tc.tensor(x).sum(0).numpy(), np.full(shape[1:], expected, dtype),
                                  equal_nan=True)  # fmt: skip
            assert np.array_equal(tc.tensor(x).sum().numpy(), np.array(expected, dtype),
                                  equal_nan=True)  # fmt: skip


def test_nothing_and_one_number(kernels: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (tc.float16, tc.float32, tc.float64):
            assert tc.zeros(0, 3, dtype=dtype).sum(0).tolist() == [0, 0, 0]
            assert math.isnan(tc.zeros(0, dtype=dtype).mean().item())
            assert tc.zeros(3, 0, dtype=dtype).cumsum(1).shape == (3, 0)
            assert tc.tensor(2.0, dtype=dtype).sum().item() == 2


def test_integers_stay_exact(kernels: str) -> None:
    x = np.random.default_rng(0).integers(0, 200, (5000, 3))
    for dtype in ("uint8", "int32", "int64"):
        total = tc.tensor(x.astype(dtype)).sum(0)
        assert total.dtype == "int64"
        assert (total.numpy() == x.sum(0)).all()
    assert tc.tensor(x > 100).sum().item() == (x > 100).sum()
