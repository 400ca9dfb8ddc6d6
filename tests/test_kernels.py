"""The heavy kernels: naive, reference and fast agree, with PyTorch where it is installed."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tinyconv.backend import (
    BACKENDS,
    Backend,
    compiled,
    memory as memory_module,
    reference,
    threads,
)

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

CHOICES = list(BACKENDS["cpu"].choices)  # fast, numpy, reference, naive
KERNELS = [choice for choice in CHOICES if choice != "naive"]
TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2}


def chosen(choice: str) -> Backend:
    """The kernels as ``tc.kernels(choice)`` finds them."""
    backend = Backend("cpu", np, BACKENDS["cpu"].choices)
    backend.use(choice)
    return backend


blocked, loops = chosen("numpy"), chosen("naive")


@pytest.fixture(autouse=True)
def compile_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled kernels leave small arrays to NumPy, but samples are small."""
    monkeypatch.setattr(compiled, "FEW", 0)


def draw(*shape: int, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def assert_close(actual: np.ndarray, expected: np.ndarray, dtype: Any) -> None:
    """Same shape, the given dtype, and small error relative to the largest value."""
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    if expected.size:
        scale = max(1.0, float(np.abs(expected).max()))
        assert np.abs(actual - expected).max() <= TOLERANCE[str(np.dtype(dtype))] * scale


LAYOUTS = {
    "channels_first": np.ascontiguousarray,
    "channels_last": lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "reversed": lambda a: np.ascontiguousarray(a[::-1, :, ::-1])[::-1, :, ::-1],
    "every other": lambda a: np.repeat(a, 2, axis=3)[..., ::2],
}


# --------------------------------------------------------------------------- convolution

#            N  C  O  size     kernel  stride  padding           dilation groups
GEOMETRIES = [
    (2, 3, 4, (5, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (2, 3, 4, (7, 6), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    (2, 2, 3, (8, 7), (3, 2), (2, 3), ((1, 0), (0, 2)), (1, 1), 1),  # rectangular, one-sided
    (1, 2, 2, (6, 6), (4, 4), (1, 1), ((1, 2), (1, 2)), (1, 1), 1),  # "same", even kernel
    (2, 3, 2, (9, 9), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    (2, 2, 2, (9, 8), (3, 3), (2, 3), ((2, 2), (3, 1)), (2, 3), 1),  # strided and dilated
    (1, 2, 2, (9, 9), (2, 3), (4, 2), ((0, 0), (1, 1)), (2, 4), 1),  # stride, dilation not coprime
    (2, 4, 6, (5, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    (2, 4, 4, (5, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),  # depthwise
    (1, 3, 6, (6, 5), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 3),  # depthwise, two each
    (2, 3, 4, (6, 7), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    (2, 3, 4, (6, 7), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    (2, 2, 3, (9, 9), (2, 2), (4, 4), ((0, 0), (0, 0)), (1, 1), 1),  # unread rows and columns
    (1, 2, 2, (8, 8), (1, 2), (3, 3), ((1, 1), (0, 0)), (1, 1), 1),
    (1, 1, 2, (3, 3), (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),  # one window
    (1, 2, 2, (2, 2), (3, 3), (1, 1), ((4, 4), (4, 4)), (1, 1), 1),  # windows in the padding only
    (1, 2, 3, (1, 1), (5, 5), (2, 2), ((2, 2), (2, 2)), (1, 1), 1),
    (0, 2, 3, (4, 4), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),  # an empty batch
]


def conv_case(
    N: int,
    C: int,
    O: int,
    size: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    dtype: str = "float64",
) -> tuple[Any, ...]:
    x = draw(N, C, *size, dtype=dtype, seed=1)
    w = draw(O, C // groups, *kernel_size, dtype=dtype, seed=2)
    padded = tuple(n + sum(p) for n, p in zip(size, padding, strict=True))
    out = reference.output_size(padded, kernel_size, stride, dilation)
    g = draw(N, O, *out, dtype=dtype, seed=3)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return x, w, g, geometry


def run_conv(module: Backend, x: Any, w: Any, g: Any, geometry: Any) -> list[np.ndarray]:
    return [
        module.conv2d(x, w, **geometry),
        module.conv2d_input(g, w, input_size=x.shape[2:], **geometry),
        module.conv2d_weight(x, g, kernel_size=w.shape[2:], **geometry),
    ]


def expected_conv(x: Any, w: Any, g: Any, geometry: Any) -> list[np.ndarray]:
    """By PyTorch, else by the naive loops."""
    x, w, g = (np.ascontiguousarray(a, dtype=np.float64) for a in (x, w, g))
    if torch is None:
        return run_conv(chosen("naive"), x, w, g, geometry)
    xt, wt = (torch.tensor(a, requires_grad=True) for a in (x, w))
    (top, bottom), (left, right) = geometry["padding"]
    y = F.conv2d(
        F.pad(xt, (left, right, top, bottom)),
        wt,
        stride=geometry["stride"],
        dilation=geometry["dilation"],
        groups=geometry["groups"],
    )
    grads = torch.autograd.grad(y, (xt, wt), torch.tensor(g))
    return [t.detach().numpy() for t in (y, *grads)]


@pytest.mark.parametrize("module", [*map(chosen, CHOICES)], ids=CHOICES)
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_conv2d_triad(case: Any, module: Backend) -> None:
    x, w, g, geometry = conv_case(*case)
    for actual, expected in zip(
        run_conv(module, x, w, g, geometry), expected_conv(x, w, g, geometry), strict=True
    ):
        assert_close(actual, expected, "float64")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
@pytest.mark.parametrize("case", [GEOMETRIES[0], GEOMETRIES[5], GEOMETRIES[7], GEOMETRIES[10]])
def test_conv2d_takes_any_strides_and_leaves_its_inputs_alone(
    case: Any, module: Backend, layout: Any
) -> None:
    x, w, g, geometry = conv_case(*case, dtype="float32")
    expected = expected_conv(x, w, g, geometry)
    arrays = [layout(a) for a in (x, w, g)]
    actual = run_conv(module, *arrays, geometry)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, "float32")
    for array, original in zip(arrays, (x, w, g), strict=True):
        np.testing.assert_array_equal(array, original)


@pytest.mark.parametrize("dtype", ["float16", "int64"])
@pytest.mark.parametrize("module", [*map(chosen, CHOICES)], ids=CHOICES)
def test_conv2d_in_other_dtypes(module: Backend, dtype: str) -> None:
    x, w, g, geometry = conv_case(*GEOMETRIES[1])
    if dtype == "int64":
        x, w, g = (np.round(4 * a) for a in (x, w, g))
    else:
        x, w, g = (a.astype(dtype).astype("float64") for a in (x, w, g))
    actual = run_conv(module, *(a.astype(dtype) for a in (x, w, g)), geometry)
    for a, e in zip(actual, expected_conv(x, w, g, geometry), strict=True):
        if dtype == "int64":
            assert a.dtype == dtype
            np.testing.assert_array_equal(a, e)
        else:
            assert_close(a, e, dtype)


def sizes(low: int, high: int) -> Any:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def geometries(draw_: Any) -> tuple[Any, ...]:
    groups = draw_(st.integers(1, 3))
    kernel_size, dilation = draw_(sizes(1, 4)), draw_(sizes(1, 3))
    padding = (draw_(sizes(0, 3)), draw_(sizes(0, 3)))
    extra = draw_(sizes(0, 5))
    size = tuple(
        max(1, d * (k - 1) + 1 - sum(p) + e)
        for d, k, p, e in zip(dilation, kernel_size, padding, extra, strict=True)
    )
    C, O = groups * draw_(st.integers(1, 2)), groups * draw_(st.integers(1, 2))
    N = draw_(st.integers(1, 3))
    return N, C, O, size, kernel_size, draw_(sizes(1, 4)), padding, dilation, groups


@settings(max_examples=60, deadline=None)
@given(geometries(), st.sampled_from(["float32", "float64"]))
def test_conv2d_for_drawn_geometries(case: Any, dtype: str) -> None:
    x, w, g, geometry = conv_case(*case, dtype=dtype)
    expected = expected_conv(x, w, g, geometry)
    for module in map(chosen, KERNELS):
        for a, e in zip(run_conv(module, x, w, g, geometry), expected, strict=True):
            assert_close(a, e, dtype)


LARGE = [  # many blocks, bands of rows, both layouts of the patch matrix, all threads
    (40, 16, 16, (28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (40, 16, 32, (28, 28), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    (40, 32, 64, (14, 14), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    (40, 1, 16, (28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (1, 32, 32, (90, 77), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (4, 3, 64, (112, 110), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    (8, 64, 64, (28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 64),
    (8, 24, 48, (15, 15), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 24),
]


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_fast_conv2d_at_full_size(case: Any) -> None:
    x, w, g, geometry = conv_case(*case, dtype="float32")
    expected = (
        run_conv(chosen("reference"), x.astype("f8"), w.astype("f8"), g.astype("f8"), geometry)
        if torch is None
        else expected_conv(x, w, g, geometry)
    )
    first = run_conv(blocked, x, w, g, geometry)
    for actual, e in zip(first, expected, strict=True):
        assert_close(actual, e, "float32")
    for a, b in zip(first, run_conv(blocked, x, w, g, geometry), strict=True):
        np.testing.assert_array_equal(a, b, "not the same bits in a second run")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_stays_in_its_group(value: float) -> None:
    x, w, g, geometry = conv_case(2, 8, 16, (5, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4)
    x[0, 3, 2, 2] = g[1, 9, 2, 2] = value
    for actual, expected in zip(
        run_conv(blocked, x, w, g, geometry),
        run_conv(chosen("reference"), x, w, g, geometry),
        strict=True,
    ):
        finite = np.isfinite(expected)
        assert not finite.all()
        np.testing.assert_array_equal(np.isfinite(actual), finite)
        assert_close(actual[finite], expected[finite], "float64")


def test_naive_is_trilinear() -> None:
    """<g, conv(x, w)> = <conv_input(g, w), x> = <conv_weight(x, g), w>."""
    x, w, g, geometry = conv_case(*GEOMETRIES[5])
    y, dx, dw = run_conv(chosen("naive"), x, w, g, geometry)
    np.testing.assert_allclose([(dx * x).sum(), (dw * w).sum()], (g * y).sum())


# ------------------------------------------------------------------- batch norm and ReLU


NORM_SHAPES = [
    (6, 5),
    (4, 3, 7),
    (3, 4, 5, 6),
    (2, 3, 2, 3, 4),
    (2000, 20),
    (30, 3, 20, 25),
    (7, 5, 6, 10, 11),
    (70, 64, 7, 7),
    (64, 16, 28, 28),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", NORM_SHAPES, ids=str)
@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
def test_batch_norm(module: Backend, shape: Any, affine: bool, dtype: str) -> None:
    eps = 1e-5
    x, g = 2 * draw(*shape, seed=1) + 3, draw(*shape, seed=2)
    weight = draw(shape[1], seed=3) if affine else None
    bias = draw(shape[1], seed=4) if affine else None

    def cast(a: Any) -> Any:
        return None if a is None else a.astype(dtype)

    y, mean, var = module.batch_norm(cast(x), cast(weight), cast(bias), eps)
    dx, dweight, dbias = module.batch_norm_backward(cast(g), cast(x), cast(weight), mean, var, eps)

    axes, channel = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
    m, v = x.mean(axes), x.var(axes)
    n = (x - m.reshape(channel)) / np.sqrt(v + eps).reshape(channel)
    w, b = (np.ones(shape[1]), np.zeros(shape[1])) if weight is None else (weight, bias)
    assert_close(mean, m, dtype)
    assert_close(var, v, dtype)
    assert_close(y, n * w.reshape(channel) + b.reshape(channel), dtype)
    assert_close(dweight, (g * n).sum(axes), dtype)
    assert_close(dbias, g.sum(axes), dtype)
    center = g - g.mean(axes, keepdims=True) - n * (g * n).mean(axes, keepdims=True)
    assert_close(dx, center * (w / np.sqrt(v + eps)).reshape(channel), dtype)


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
def test_batch_norm_is_pytorchs(module: Backend) -> None:
    x, g, weight, bias = draw(4, 3, 5, 6), draw(4, 3, 5, 6, seed=1), draw(3), draw(3, seed=1)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    expected = F.batch_norm(tensors[0], None, None, *tensors[1:], training=True, eps=1e-3)
    grads = torch.autograd.grad(expected, tensors, torch.tensor(g))
    y, mean, var = module.batch_norm(x, weight, bias, 1e-3)
    actual = module.batch_norm_backward(g, x, weight, mean, var, 1e-3)
    assert_close(y, expected.detach().numpy(), "float64")
    for a, e in zip(actual, grads, strict=True):
        assert_close(a, e.numpy(), "float64")


@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
def test_batch_norm_variance_survives_a_large_mean(module: Backend) -> None:
    x = (draw(64, 8, 28, 28) + 1000).astype("float32")
    y, mean, var = module.batch_norm(x, None, None, 1e-5)
    exact, mean64, var64 = reference.batch_norm(x.astype("float64"), None, None, 1e-5)
    np.testing.assert_allclose(var, var64, rtol=1e-5)
    np.testing.assert_allclose(y, exact, atol=2e-3)
    g = draw(*x.shape, seed=1)
    actual = module.batch_norm_backward(g.astype("float32"), x, None, mean, var, 1e-5)
    expected = reference.batch_norm_backward(g, x.astype("float64"), None, mean64, var64, 1e-5)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, atol=5e-4 * np.abs(e).max())


@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
def test_batch_norm_in_half_precision(module: Backend) -> None:
    x, g = draw(4, 3, 5, 6, dtype="float16"), draw(4, 3, 5, 6, dtype="float16", seed=1)
    expected = module.batch_norm(x.astype("f8"), None, None, 1e-3)
    actual = module.batch_norm(x, None, None, 1e-3)
    assert_close(actual[0], expected[0], "float16")
    for a, e in zip(actual[1:], expected[1:], strict=True):
        assert_close(a, e, "float32")  # float16 has no room for the variance of large numbers
    for a, e in zip(
        module.batch_norm_backward(g, x, None, *actual[1:], 1e-3),
        module.batch_norm_backward(g.astype("f8"), x.astype("f8"), None, *expected[1:], 1e-3),
        strict=True,
    ):
        assert_close(a, e, "float16")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (40, 16, 28, 28)], ids=str)
def test_norm_and_relu_take_any_strides(shape: Any, layout: Any) -> None:
    x, g = draw(*shape, dtype="float32"), draw(*shape, dtype="float32", seed=1)
    weight, bias = draw(shape[1], dtype="float32"), draw(shape[1], dtype="float32", seed=1)
    a, b = layout(x), layout(g)
    y, mean, var = blocked.batch_norm(a, weight, bias, 1e-5)
    expected = [
        *reference.batch_norm(x, weight, bias, 1e-5),
        *reference.batch_norm_backward(g, x, weight, mean, var, 1e-5),
        reference.relu(x),
        reference.relu_backward(g, reference.relu(x)),
    ]
    actual = [
        *(y, mean, var),
        *blocked.batch_norm_backward(b, a, weight, mean, var, 1e-5),
        blocked.relu(a),
        blocked.relu_backward(b, blocked.relu(a)),
    ]
    for u, v in zip(actual, expected, strict=True):
        assert_close(u, v, "float32")
    y = reference.relu(x)
    assert_close(blocked.relu_backward(g, layout(y)), reference.relu_backward(g, y), "float32")
    np.testing.assert_array_equal(a, x)
    np.testing.assert_array_equal(b, g)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
def test_mean(module: Backend, layout: Any, dtype: str) -> None:
    x = draw(3, 5, 6, 4, dtype=dtype)
    before = x.copy()
    for axis in ((2, 3), (-2, -1), (0, 2, 3), 1, (3, 2), None):
        for keepdims in (False, True):
            expected = x.astype("float64").mean(axis, keepdims=keepdims)
            y = np.asarray(module.mean(layout(x), axis, keepdims, None))
            assert_close(y, expected, dtype)
    assert module.mean(layout(x), (2, 3), False, np.dtype("float64")).dtype == "float64"
    assert (module.mean(layout(np.ones((2, 5, 7, 7), dtype)), (2, 3), True, None) == 1).all()
    x[1, 2, 3, 3] = np.nan
    found = np.isnan(module.mean(layout(x), (2, 3), False, None))
    assert found.sum() == 1
    assert found[1, 2]
    assert module.mean(layout(x[:0]), (2, 3), False, None).shape == (0, 5)
    tenths = module.mean(layout(np.full((1, 1, 300, 300), 0.1, dtype)), (2, 3), False, None)
    assert_close(tenths, np.full((1, 1), 0.1), dtype)
    x[1, 2, 3, 3] = before[1, 2, 3, 3]
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64"])
@pytest.mark.parametrize("n", [7, 20_000, 600_000])
@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
def test_relu(module: Backend, n: int, dtype: str) -> None:
    x, g = (4 * draw(n)).astype(dtype), (4 * draw(n, seed=1)).astype(dtype)
    if dtype != "int64":
        x[:4] = np.nan, np.inf, -np.inf, -0.0
        g[2:4] = np.inf, -np.inf
    y = module.relu(x)
    dx = module.relu_backward(g, y)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(y, np.where(x <= 0, 0, x))
    np.testing.assert_array_equal(dx, np.where(x <= 0, 0, g))  # with NaN as in PyTorch


def test_relu_backward_of_a_broadcast_gradient() -> None:
    y = blocked.relu(LAYOUTS["channels_last"](draw(4, 8, 5, 5, dtype="float32")))
    g = np.broadcast_to(draw(4, 8, 1, 1, dtype="float32"), y.shape)
    np.testing.assert_array_equal(blocked.relu_backward(g, y), np.where(y > 0, g, 0))


# ------------------------------------------------------------------------------- pooling

#        size    kernel  stride  padding           dilation
POOLS = [
    ((6, 6), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((7, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ((7, 8), (3, 2), (1, 3), ((1, 1), (1, 1)), (1, 1)),
    ((9, 9), (3, 3), (2, 1), ((1, 1), (1, 1)), (2, 3)),
    ((5, 5), (2, 2), (3, 3), ((0, 0), (0, 0)), (1, 1)),
    ((4, 4), (4, 4), (4, 4), ((0, 0), (0, 0)), (1, 1)),
]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
def test_max_pool2d(module: Backend, case: Any, layout: Any) -> None:
    size, kernel_size, stride, padding, dilation = case
    x = draw(2, 3, *size)
    x[0, 0, 1:3, 2] = -np.inf
    x[0, 1] = np.round(x[0, 1])  # ties
    x[1, 2, 3, 3] = np.nan
    x[1, 1] = -np.inf
    y, indices = module.max_pool2d(
        layout(x), kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(module.pool_gather(layout(x), indices), y)
    g = draw(*y.shape)
    dx = module.pool_scatter(layout(g), indices, input_size=size)
    values = draw(2, 3, *size, seed=1)
    gathered = module.pool_gather(values, indices)
    np.testing.assert_allclose((dx * values).sum(), (g * gathered).sum())
    if torch is not None:
        xt = torch.tensor(x, requires_grad=True)
        pads = tuple(p[0] for p in padding)
        yt, places = F.max_pool2d(xt, kernel_size, stride, pads, dilation, return_indices=True)
        np.testing.assert_array_equal(y, yt.detach())
        np.testing.assert_array_equal(indices, places)
        (expected,) = torch.autograd.grad(yt, xt, torch.tensor(g))
        assert_close(dx, expected.numpy(), "float64")


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
def test_max_pool2d_keeps_the_dtype(dtype: str) -> None:
    x = np.round(4 * draw(2, 3, 5, 5)).astype(dtype) - 9
    geometry: Any = {"kernel_size": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))}
    y, _ = reference.max_pool2d(x, dilation=(1, 1), **geometry)
    total = reference.window_sum(x, **geometry)
    back = reference.window_sum_input(total, input_size=(5, 5), **geometry)
    assert y.dtype == total.dtype == back.dtype == x.dtype
    assert y.max() == x.max()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("case", [p for p in POOLS if p[4] == (1, 1)], ids=str)
@pytest.mark.parametrize("module", [*map(chosen, KERNELS)], ids=KERNELS)
def test_window_sum(module: Backend, case: Any, layout: Any) -> None:
    """A window sum is a depthwise convolution with a kernel of ones."""
    size, kernel_size, stride, padding, _ = case
    x, ones = draw(2, 3, *size), np.ones((3, 1, *kernel_size))
    geometry: Any = {"stride": stride, "padding": padding, "dilation": (1, 1), "groups": 3}
    y = module.window_sum(layout(x), kernel_size=kernel_size, stride=stride, padding=padding)
    assert_close(y, loops.conv2d(x, ones, **geometry), "float64")
    g = draw(*y.shape)
    dx = module.window_sum_input(
        layout(g), input_size=size, kernel_size=kernel_size, stride=stride, padding=padding
    )
    assert_close(dx, loops.conv2d_input(g, ones, input_size=size, **geometry), "float64")


def test_max_pool2d_of_a_window_of_more_than_65535_pixels() -> None:
    x = np.zeros((1, 1, 257, 257), np.float32)
    x[0, 0, 256, 200] = 1
    geometry = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    y, indices = blocked.max_pool2d(x, kernel_size=(257, 257), **geometry)
    assert (y.item(), indices.item()) == (1, 256 * 257 + 200)


# ------------------------------------------------------------------------------- threads


def test_thread_count_changes_no_more_than_rounding() -> None:
    x, w, g, geometry = conv_case(*LARGE[0], dtype="float32")
    before = threads.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            threads.set_num_threads(n)
            assert threads.get_num_threads() == n
            norm = blocked.batch_norm(x, None, None, 1e-5)
            results.append([*run_conv(blocked, x, w, g, geometry), *norm])
        with pytest.raises(ValueError, match="0 threads"):
            threads.set_num_threads(0)
    finally:
        threads.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_close(a, b, "float32")


def test_kernels_may_run_on_several_threads_of_the_caller_at_once() -> None:
    from threadpoolctl import threadpool_info

    def blas_threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info()]

    x, w, g, geometry = conv_case(*LARGE[0], dtype="float32")
    before, expected = blas_threads(), run_conv(blocked, x, w, g, geometry)
    results: list[list[np.ndarray]] = []
    callers = [
        threading.Thread(target=lambda: results.append(run_conv(blocked, x, w, g, geometry)))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 3
    for result in results:
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert blas_threads() == before


def test_scratch_memory() -> None:
    """By a name there is one buffer of a thread, of any shape, and it grows when it has to."""
    a = threads.scratch("test", (2, 3), np.float32)
    a[:] = 1
    assert a.ctypes.data % memory_module.LINE == 0
    assert threads.scratch("test", (2, 3), np.float32) is a
    assert threads.scratch("test 2", (2, 3), np.float32).ctypes.data != a.ctypes.data
    assert (threads.scratch("test", (3,), np.float64).view(np.float32) == 1).all()
    large = threads.scratch("test", (300, 5), np.float32)
    assert threads.scratch("test", (2, 3), np.float32).base is large.base is not a.base
    found = []
    other = threading.Thread(target=lambda: found.append(threads.scratch("test", (4,), np.int8)))
    other.start()
    other.join()
    assert found[0].base is not large.base


def test_scratch_memory_forgets_shapes_that_never_come_again() -> None:
    first = threads.scratch("test", (2**13,), np.int8)
    for size in range(1, 3 * threads.MOST_ARRAYS):
        array = threads.scratch("test", (size,), np.int8)
        assert array.shape == (size,)
        assert array.ctypes.data == first.ctypes.data
    assert len(threads._scratch.arrays) <= threads.MOST_ARRAYS


def test_memory_is_lent_again_only_when_nobody_refers_to_it() -> None:
    memory = memory_module.Memory()
    a = memory.empty((512, 1024), np.float32)
    part = a[3, 5:9]
    b = memory.empty((1024, 512), np.float32)
    assert not np.shares_memory(a, b)
    address = a.ctypes.data
    del a
    c = memory.empty((512, 1024), np.float32)
    assert not np.shares_memory(c, part)
    del part
    d = memory.empty((1024, 1024), np.int16)
    assert d.ctypes.data == address
    del b, c, d
    memory.empty((1024, 1024), np.float64)  # in what three arrays left
    assert len(memory.slabs) == 1


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "LARGE", 0)
    monkeypatch.setattr(memory_module, "SLAB", 4096)


def follow(memory: memory_module.Memory, steps: Sequence[tuple[int, int, int]]) -> None:
    """Lend arrays of so many numbers, keep a part or all of each, and drop one now and then.

    What is kept never changes, though every new array is written to from end to end.
    """
    kept: list[tuple[np.ndarray, int]] = []
    for number, (length, part, drop) in enumerate(steps):
        x = memory.empty((length, 4), np.int32)
        assert (x.shape, x.dtype, x.ctypes.data % memory_module.LINE) == ((length, 4), np.int32, 0)
        x[:] = number
        kept.append(([x, x[1:3].T, x.reshape(-1)[::2].view("u4"), x[length:]][part], number))
        del x
        if drop < len(kept):
            del kept[drop]
        for view, content in kept:
            assert (view == content).all(), "lent to two at once"


STEPS = st.lists(
    st.tuples(st.integers(1, 500), st.integers(0, 3), st.integers(0, 12)), max_size=60
)
FROM_FIXTURE = [HealthCheck.function_scoped_fixture]


@settings(max_examples=150, deadline=None, suppress_health_check=FROM_FIXTURE)
@given(STEPS)
def test_memory_is_never_lent_to_two_at_once(
    small_slabs: None, steps: list[tuple[int, int, int]]
) -> None:
    memory = memory_module.Memory()
    follow(memory, steps)
    memory._end_loans()
    assert memory.loans == {}
    for slab in memory.slabs:
        assert slab.is_idle(), slab.holes


def test_a_memory_that_watches_a_view_is_caught(small_slabs: None) -> None:
    class Wrong(memory_module.Memory):
        def empty(self, shape: Any, dtype: Any) -> np.ndarray:
            right = super().empty(shape, dtype)
            loan = self.loans.popitem()[1]
            wrong = memory_module._Loan(right, self.over.append)
            wrong.slab, wrong.start, wrong.stop = loan.slab, loan.start, loan.stop
            self.loans[id(wrong)] = wrong
            return right

    with pytest.raises(AssertionError, match="two at once"):
        follow(Wrong(), [(100, 1, 99)] * 3)


def test_slabs_in_which_nothing_is_lent_make_room_for_a_new_one(small_slabs: None) -> None:
    memory = memory_module.Memory()
    kept = memory.empty((900,), np.float32)
    dropped = [memory.empty((900,), np.float32) for _ in range(2)]
    assert [slab.size for slab in memory.slabs] == [4096] * 3
    del dropped
    large = memory.empty((5000,), np.float32)
    assert [slab.size for slab in memory.slabs] == [4096, 20_352]
    assert memory_module.is_lent(large.base)
    for other in (kept, large, np.zeros(3), np.zeros(3)[1:].base):
        assert not memory_module.is_lent(other)


def test_memory_where_the_system_has_no_large_pages(
    small_slabs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(memory_module.mmap, "MADV_HUGEPAGE", raising=False)
    memory = memory_module.Memory()
    follow(memory, [(100, 0, 3)] * 50)
    assert isinstance(memory.slabs[0].space, memoryview)


def test_memory_that_the_system_does_not_have_is_a_memory_error() -> None:
    memory = memory_module.Memory()
    with pytest.raises(MemoryError):
        memory.empty((2**50,), np.uint8)
    assert memory.empty((2**20,), np.uint8).size == 2**20


def test_memory_is_lent_to_several_threads(small_slabs: None) -> None:
    memory, failed = memory_module.Memory(), []

    def work(seed: int) -> None:
        steps = np.random.default_rng(seed).integers([1, 0, 0], [300, 4, 12], (500, 3))
        try:
            follow(memory, [tuple(map(int, step)) for step in steps])
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []


def test_errors_in_a_worker_reach_the_caller() -> None:
    def job(span: Any) -> None:
        if 3 in span:
            raise RuntimeError("block 3")

    with pytest.raises(RuntimeError, match="block 3"):
        threads.in_spans(job, range(4), threads.WORTH_THREADS)


def test_after_an_error_no_other_thread_goes_on() -> None:
    done = []

    def job(span: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.02)
        done.append(span)

    before = threads.get_num_threads()
    threads.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.in_spans(job, range(8), threads.WORTH_THREADS)
    finally:
        threads.set_num_threads(before)
    so_far = len(done)
    time.sleep(0.1)
    assert len(done) == so_far


@pytest.mark.parametrize("ctrl_c_at", [1, 4], ids=["entering", "leaving"])
def test_ctrl_c_does_not_take_the_blas_its_threads(ctrl_c_at: int) -> None:
    class Library:
        def __init__(self, ctrl_c_at: int) -> None:
            self.threads, self.ctrl_c_at = 4, ctrl_c_at

        def get_num_threads(self) -> int:
            return self.threads

        def set_num_threads(self, n: int) -> None:
            if n == self.ctrl_c_at:
                self.ctrl_c_at = 0
                raise KeyboardInterrupt
            self.threads = n

    libraries, blas = [Library(0), Library(ctrl_c_at)], threads._SingleThreadedBlas()
    blas.libraries = libraries
    with pytest.raises(KeyboardInterrupt):
        blas.leave(blas.enter(nested=False))
    inside = blas.enter(nested=False)
    assert [library.threads for library in libraries] == [1, 1]
    blas.leave(inside)
    assert [library.threads for library in libraries] == [4, 4]


def test_memory_is_not_lent_twice_when_it_was_made_under_a_debugger() -> None:
    def look(frame: Any, event: str, arg: Any) -> Any:
        frame.f_trace_opcodes = True
        assert frame.f_locals is not None  # a debugger's look at the variables keeps them alive
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        memory = memory_module.Memory()
    finally:
        sys.settrace(before)
    a = memory.empty((1024, 1024), np.uint8)
    assert not np.shares_memory(a, memory.empty((1024, 1024), np.uint8))


LARGE_CONV = """
import os, signal, sys, threading
import numpy as np
from threadpoolctl import threadpool_info
from tinyconv.backend import blocked, memory, threads

threads.set_num_threads(2)

def blas_threads():
    return [library["num_threads"] for library in threadpool_info()]

def convolve():
    x, w = np.ones((32, 16, 28, 28), np.float32), np.ones((16, 16, 3, 3), np.float32)
    y = blocked.conv2d(
        x, w, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1
    )
    assert (y == 144).all()
"""


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_kernels_run_while_python_shuts_down() -> None:
    code = """
def late():
    threading.main_thread().join()
    convolve()
    print("done")

threading.Thread(target=late).start()
"""
    assert run_python(LARGE_CONV + code) == "done\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_kernels_run_in_the_child_of_a_fork_amid_another_threads_kernel() -> None:
    code = """
before = blas_threads()
inside, leave = threading.Event(), threading.Event()

def amid_a_kernel():
    blas = threads._single_threaded_blas
    blas.enter(nested=False)
    with memory._memory.lock, blas.lock:
        inside.set()
        leave.wait()
    blas.leave([])

threading.Thread(target=amid_a_kernel).start()
inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)
    convolve()
    os._exit(0 if blas_threads() == before else 1)
leave.set()
print(os.waitpid(child, 0)[1])
"""
    assert run_python(LARGE_CONV + code).startswith("0\n")
