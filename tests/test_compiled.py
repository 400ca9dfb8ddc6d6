"""The compiled kernels: right for drawn shapes and every tile, and within their buffers."""

import importlib.util
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import tinyconv as tc
from tinyconv import nn
from tinyconv.backend import BACKENDS, blocked, compiled, fused, memory, reference

if importlib.util.find_spec("numba") is None:
    pytest.skip("Numba is not installed", allow_module_level=True)

from tinyconv.backend.compiled import (
    conv,
    direct,
    elementwise,
    host,
    loss,
    norm,
    optim as compiled_optim,
    pool,
    team,
    winograd,
)

FAST = BACKENDS["cpu"]
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
TILES = ["avx512", "avx2", "neon", "sse"]
GUARD = 64  # numbers on either side of a buffer


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled, "FEW", 0)
    monkeypatch.setattr(winograd, "FEW_PIXELS", 0)
    monkeypatch.setattr(winograd, "MANY_WEIGHTS", 10**6)
    plans = conv._forward, conv._backward, conv._weight_gradient
    for plan in plans:
        plan.cache_clear()  # made for other limits
    yield
    for plan in plans:
        plan.cache_clear()
    host.use(None)


class Guarded:
    """Buffers full of NaN, between guards that nobody may write to."""

    def __init__(self) -> None:
        self.made: list[tuple[np.ndarray, np.ndarray]] = []

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        shape, dtype = tuple(np.atleast_1d(shape)), np.dtype(dtype)
        size = int(np.prod(shape))
        start = GUARD * dtype.itemsize
        space = memory.aligned((size + 2 * GUARD) * dtype.itemsize)
        space[:] = 0xA5
        inside = space[start : start + size * dtype.itemsize].view(dtype)
        inside[:] = np.nan if dtype.kind == "f" else -1
        self.made.append((space[:start], space[start + size * dtype.itemsize :]))
        return inside.reshape(shape)

    def check(self) -> None:
        assert self.made
        for before, after in self.made:
            assert (before == 0xA5).all(), "written before a buffer"
            assert (after == 0xA5).all(), "written behind a buffer"

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (direct, winograd, pool, norm):
            monkeypatch.setattr(module, "empty", self.empty)
        monkeypatch.setattr(direct, "scratch_memory", lambda _, *how: self.empty(*how))
        monkeypatch.setattr(winograd, "scratch", lambda _, *how: self.empty(*how))


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Guarded:
    found = Guarded()
    found.install(monkeypatch)
    return found


def test_the_guards_see_a_write_outside(guarded: Guarded) -> None:
    x = guarded.empty((2, 3), np.float32)
    guarded.check()
    np.lib.stride_tricks.as_strided(x, (7,), (4,))[6] = 1
    with pytest.raises(AssertionError, match="behind"):
        guarded.check()


@contextmanager
def threads_set(n: int) -> Iterator[None]:
    before = tc.get_num_threads()
    tc.set_num_threads(n)
    try:
        yield
    finally:
        tc.set_num_threads(before)


def draw(*shape: int, dtype: Any = "float64", seed: int = 0) -> np.ndarray:
    """Channels-last, as the kernels hand arrays on."""
    last = (shape[0], *shape[2:], shape[1])
    x = np.random.default_rng([seed, *shape]).standard_normal(last).astype(dtype)
    return np.moveaxis(x, -1, 1)


def assert_close(actual: Any, expected: Any, dtype: str) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    error = np.abs(actual - expected).max() if expected.size else 0
    assert error <= TOLERANCE[dtype] * max(1, np.abs(expected).max(initial=0))


#            N  C   O   size      kernel  stride  padding            dilation groups
CASES = [
    (2, 16, 16, (9, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),  # winograd
    (2, 16, 32, (5, 4), (3, 3), (1, 1), ((0, 2), (2, 1)), (1, 1), 1),  # winograd, one-sided
    (3, 1, 16, (14, 14), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),  # a stem
    (2, 3, 20, (9, 13), (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),  # a wide stem
    (2, 16, 24, (8, 9), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    (2, 5, 7, (6, 7), (2, 4), (3, 1), ((0, 1), (2, 0)), (1, 1), 1),  # even, odd channels
    (2, 17, 33, (4, 5), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    (2, 16, 16, (7, 5), (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    (1, 8, 8, (9, 9), (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),  # dilated
    (2, 20, 20, (7, 9), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 20),  # depthwise
    (2, 34, 34, (8, 7), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 34),
    (3, 64, 64, (5, 9), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 64),  # whole vectors, no border
    (2, 32, 32, (3, 2), (3, 5), (1, 2), ((2, 1), (4, 3)), (2, 1), 32),  # windows past both edges
    (2, 64, 64, (4, 11), (2, 4), (2, 3), ((0, 1), (2, 4)), (1, 2), 64),
    (2, 6, 12, (6, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),  # groups
    (1, 16, 16, (1, 9), (1, 3), (1, 2), ((0, 0), (1, 1)), (1, 1), 1),  # conv1d
    (1, 4, 4, (3, 3), (3, 3), (1, 1), ((4, 4), (4, 4)), (1, 1), 1),  # windows in the padding only
    (23, 16, 17, (2, 3), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),  # several images together
    (16, 18, 18, (3, 2), (2, 2), (1, 1), ((1, 0), (0, 1)), (1, 1), 2),
    (19, 16, 16, (4, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),  # winograd, the same
]


def triad(kernels: Any, x: Any, w: Any, g: Any, geometry: dict[str, Any]) -> list[Any]:
    return [
        kernels.conv2d(x, w, **geometry),
        kernels.conv2d_input(g, w, input_size=x.shape[2:], **geometry),
        kernels.conv2d_weight(x, g, kernel_size=w.shape[2:], **geometry),
    ]


def check_conv(case: Any, dtype: str) -> None:
    n, c, o, size, kernel_size, stride, padding, dilation, groups = case
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x = draw(n, c, *size, dtype=dtype, seed=1)
    w = draw(o, c // groups, *kernel_size, dtype=dtype, seed=2)
    padded = tuple(s + sum(p) for s, p in zip(size, padding, strict=True))
    g = draw(
        n, o, *reference.output_size(padded, kernel_size, stride, dilation), dtype=dtype, seed=3
    )
    wide = triad(reference, *(a.astype("float64") for a in (x, w, g)), geometry)
    for actual, expected in zip(triad(conv, x, w, g, geometry), wide, strict=True):
        assert actual is not NotImplemented
        assert_close(actual, expected, dtype)


# Each kind of kernel once; the rest of the table, whose kernels take minutes to compile, is slow.
KINDS = [CASES[0], CASES[2], CASES[9]]


def rest(*fast: Any) -> Any:
    """The parameters of a slow test."""
    return pytest.param(*fast, marks=pytest.mark.slow, id="-".join(map(str, fast)))


IN_FLOAT64 = [
    (case, "float64") if case in KINDS else rest(case, "float64") for case in CASES
]
ON_OTHERS = [
    (case, tile) if case in KINDS or tile == "avx512" else rest(case, tile)
    for case in CASES[:7] + CASES[9:10] for tile in TILES
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "dtype"), [*((case, "float32") for case in CASES), *IN_FLOAT64], ids=str
)
def test_convolutions_stay_in_their_buffers(case: Any, dtype: str, guarded: Guarded) -> None:
    check_conv(case, dtype)
    guarded.check()


@pytest.mark.parametrize(("case", "tile"), ON_OTHERS, ids=str)
def test_every_tile_on_this_machine(case: Any, tile: str, guarded: Guarded) -> None:
    host.use(tile)
    check_conv(case, "float32")
    guarded.check()


@st.composite
def convolutions(pick: Callable[..., Any]) -> Any:
    """Any geometry; channels on both sides of a vector's length."""

    def pair(low: int, high: int) -> Any:
        return pick(st.tuples(st.integers(low, high), st.integers(low, high)))

    groups = pick(st.sampled_from([1, 1, 1, 2, 3]))
    c, o = (groups * pick(st.sampled_from([1, 3, 8, 16, 17])) for _ in range(2))
    if pick(st.booleans()) and pick(st.booleans()):
        groups = o = c = pick(st.sampled_from([4, 16, 35]))
    kernel_size, dilation = pair(1, 4), pair(1, 3)
    padding = (pair(0, 3), pair(0, 3))
    size = tuple(
        max(1, d * (k - 1) + 1 - sum(p) + e)
        for d, k, p, e in zip(dilation, kernel_size, padding, pair(0, 8), strict=True)
    )
    return pick(st.integers(1, 3)), c, o, size, kernel_size, pair(1, 3), padding, dilation, groups


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(convolutions())
def test_drawn_convolutions(case: Any) -> None:
    check_conv(case, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loops_over_numbers(dtype: str) -> None:
    x, y = (draw(3, 5, 60, 70, dtype=dtype, seed=i) for i in range(2))
    x[0, 0, 0, :2] = np.nan, -np.inf
    for threads in (1, 2):
        with threads_set(threads):
            for name, arguments in [("add", (x, y)), ("relu", (x,)), ("relu_backward", (y, x))]:
                actual = getattr(elementwise, name)(*arguments)
                assert actual.strides == x.strides
                np.testing.assert_array_equal(actual, getattr(reference, name)(*arguments))
            for layer in (elementwise, blocked):
                total = x.copy("K")
                assert layer.add_to(total, y) is total
                np.testing.assert_array_equal(total, reference.add(x, y))
    assert elementwise.add(x, np.ascontiguousarray(y)) is NotImplemented
    assert elementwise.add_to(x, np.ascontiguousarray(y)) is NotImplemented
    assert blocked.add_to(x, np.ascontiguousarray(y)) is NotImplemented
    assert elementwise.relu(x[:, :, ::2]) is NotImplemented


@pytest.mark.parametrize(("n", "images"), [(1, 1), (1, 2), (3, 2), (4, 1)])
@pytest.mark.parametrize("turns", [0, 1, 7, 1000])
def test_the_next_images_are_prefetched_to_their_end(n: int, images: int, turns: int) -> None:
    x = np.empty((4, 3, 5, 16), np.float32)
    ahead, pace = direct.next_images(x, n, images, 4, turns)
    size = min(images, 4 - n) * x[0].nbytes
    if size == 0 or turns == 0:
        assert (ahead, pace) == (x.ctypes.data, 0)
        return
    assert ahead == x.ctypes.data + n * x[0].nbytes
    assert (pace - 1) * turns < size <= pace * turns
    assert [type(ahead), type(pace)] == [int, int]  # sums with unsigned addresses are floats


@pytest.mark.parametrize(
    ("weight", "stride", "size"),
    [
        ((32, 16, 3, 3), 2, 28),
        ((16, 3, 5, 5), 1, 9),
        ((48, 16, 1, 1), 1, 14),
        ((64, 64, 3, 3), 1, 3),
        ((16, 1, 3, 3), 1, 11),
    ],
)
def test_plans_tell_how_long_an_image_takes(weight: Any, stride: int, size: int) -> None:
    """`Image.turns`: the numbers of all windows, or the pixels of all tiles of a weight's gradient,

    until the next images' turn.
    """
    O, CG, K, _ = weight
    groups = 16 if CG == 1 else 1
    x, out = (64, CG * groups, size, size), (-(-size // stride),) * 2
    geometry = (stride,) * 2, ((K // 2,) * 2,) * 2, (1, 1), groups
    for backward, of_weight in ((False, False), (True, False), (False, True)):
        how = host.how_for(np.dtype("f"), np.dtype("f"), 1, backward, of_weight)
        assert how is not None
        if backward:
            plan = direct.backward_plan((64, O, *out), weight, (size,) * 2, *geometry, how)
        else:
            plan = direct.forward_plan(x, weight, out, *geometry, how)
        J, turns = len(plan.shape[0]), 0
        for p in plan.phases:
            rows, columns = int(p["rows"]), int(p["columns"])
            if of_weight:
                for _ in range(0, int(p["run"]), J):
                    turns += rows * columns * plan.together * int(p["n_taps"]) * plan.blocks
                continue
            for _ in range(0, columns, 1 if plan.together > 1 else J):
                turns += rows * int(p["n_taps"]) * int(p["run"]) * plan.blocks
        assert turns > 0
        assert plan.images[0]["turns"] == turns


@pytest.mark.parametrize(("channels", "size"), [(16, 28), (48, 14), (64, 7), (16, 4)])
@pytest.mark.parametrize("of_weight", [False, True])
def test_winograd_plans_tell_it_too(channels: int, size: int, of_weight: bool) -> None:
    how = host.how_for(np.dtype("f"), np.dtype("f"), 1, False, of_weight)
    assert how is not None
    plan = winograd.plan((8, channels, size, size), 32, (size, size), (1, 1), how)
    tiles, J = plan.tiles[0], len(plan.shape[0])
    turns = 0
    for _ in range(0, int(tiles["rows"]), int(tiles["strip"])):
        pixels = int(tiles["images"] * tiles["strip"] * tiles["columns"])
        pixels = -(-pixels // J) * J  # the last ones may be no tiles
        for _ in range(36 * plan.matrices[1]):
            if of_weight:
                turns += pixels * len(range(0, channels, J))
            else:
                turns += channels * len(range(0, pixels, J))
    assert plan.images[0]["turns"] == turns


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (6, 20, 3, 3), (5, 16), (3, 40, 7)], ids=str)
def test_norms_stay_in_their_buffers(
    shape: Any, dtype: str, residual: bool, guarded: Guarded
) -> None:
    x, g, r = (draw(*shape, dtype=dtype, seed=i) for i in range(3))
    w, b = draw(2, shape[1], dtype=dtype)
    r = r if residual else None
    y, mean, var, *more = norm.batch_norm_relu(x, w, b, r, 1e-5)
    actual = [
        *(y, mean, var),
        *norm.batch_norm_relu_backward(g, y, x, w, mean, var, 1e-5, residual, *more),
        *norm.batch_norm(x, w, b, 1e-5),
        *norm.batch_norm_backward(g, x, w, mean, var, 1e-5),
        norm.affine(x, w, b),
        norm.affine_relu(x, w, b, r),
    ]
    x, g, w, b, y, mean, var = (a.astype("float64") for a in (x, g, w, b, y, mean, var))
    r = None if r is None else r.astype("float64")
    expected = [
        *reference.batch_norm_relu(x, w, b, r, 1e-5),
        *reference.batch_norm_relu_backward(g, y, x, w, mean, var, 1e-5, residual),
        *reference.batch_norm(x, w, b, 1e-5),
        *reference.batch_norm_backward(g, x, w, mean, var, 1e-5),
        reference.affine(x, w, b),
        reference.affine_relu(x, w, b, r),
    ]
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            assert_close(a, e, dtype)
    guarded.check()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 37, 3, 5), (4, 3), (1, 16, 28, 28)], ids=str)
def test_fixed_statistics(shape: Any, dtype: str, guarded: Guarded) -> None:
    x, r = (draw(*shape, dtype=dtype, seed=i) for i in range(2))
    mean, var, weight, bias = (draw(1, shape[1], dtype=dtype, seed=i)[0] for i in range(4))
    var = np.abs(var)
    for w, b in ((weight, bias), (None, bias), (weight, None)):
        for residual, relu in ((None, False), (None, True), (r, True)):
            found = norm.fixed_norm(x, mean, var, w, b, residual, 1e-3, relu)
            expected = reference.fixed_norm(x, mean, var, w, b, residual, 1e-3, relu)
            assert_close(found, expected, dtype)
    guarded.check()
    assert norm.fixed_norm(x, mean, var[1:], weight, bias, None, 1e-3, False) is NotImplemented
    assert norm.fixed_norm(x, mean, var, weight, bias, r[:1, :1], 1e-3, True) is NotImplemented
    other = mean.astype("float32" if dtype == "float64" else "float64")
    assert norm.fixed_norm(x, other, var, weight, bias, None, 1e-3, True) is NotImplemented
    how: Any = {"momentum": 0.1, "unbias": 1.0}
    assert norm.move_statistics(mean, var[1:], mean, var, None, **how) is NotImplemented


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_cross_entropy_with_ignored_rows_and_what_is_no_class(reduction: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    x, targets = 9 * rng.standard_normal((40, 7)).astype(dtype), rng.integers(0, 7, 40)
    targets[::5] = 255
    if reduction == "none":
        targets[[3, 8]] = -1, 7
    g = np.asarray(rng.standard_normal(40 if reduction == "none" else ()), dtype)
    found = loss.cross_entropy(x, targets, reduction=reduction, ignore_index=255)
    dx = loss.cross_entropy_backward(g, x, targets, *found[1:], ignore_index=255)
    x, g = x.astype("float64"), g.astype("float64")
    expected = fused.cross_entropy(x, targets, reduction=reduction, ignore_index=255)
    expected_dx = fused.cross_entropy_backward(g, x, targets, *expected[1:], ignore_index=255)
    for a, e in zip((*found, dx), (*expected, expected_dx), strict=True):
        assert (a is None) == (e is None)
        if e is not None:
            assert a.dtype == (dtype if e.dtype.kind == "f" else np.int64)
            np.testing.assert_allclose(a, e, atol=30 * TOLERANCE[dtype], rtol=0)


def test_nothing_to_average_is_nan_without_a_gradient() -> None:
    x, targets = np.zeros((3, 4), np.float32), np.full(3, -100)
    for kernels in (fused, loss):
        mean, *kept = kernels.cross_entropy(x, targets, reduction="mean", ignore_index=-100)
        assert np.isnan(mean)
        dx = kernels.cross_entropy_backward(np.ones((), "f"), x, targets, *kept, ignore_index=-100)
        assert not dx.any()


def test_many_classes_are_left_to_numpy() -> None:
    x, targets = np.zeros((3, loss.MANY), np.float32), np.zeros(3, np.int64)
    options = {"reduction": "mean", "ignore_index": -100}
    assert loss.cross_entropy(x, targets, **options) is NotImplemented
    assert loss.cross_entropy(x[:, 1:], targets, **options) is not NotImplemented
    assert loss.cross_entropy(x[:, 1:], targets.astype(np.int32), **options) is NotImplemented


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 8, 5, 6), (16, 40)], ids=str)
def test_a_gradient_passes_where_the_output_was_not_zero_to_the_bit(shape: Any, dtype: str) -> None:
    """The backward pass that computes the output again agrees with the one that reads it."""
    x, g = (draw(*shape, dtype=dtype, seed=i) for i in range(2))
    x[:, 0] += 1000  # the mean is rounded
    x[:, 1] = 0.3  # no variance: the output is the bias, up to rounding
    x[:, 2:4] = 0.3
    x[0, 4] = np.nan
    x[:, 5] = np.where(x[:, 5] < 0, -1, 1)
    w, b = draw(2, shape[1], dtype=dtype, seed=2)
    b[:3] = 0
    w[6] = b[6] = 0  # the output is exactly 0
    y, mean, var, affine = norm.batch_norm_relu(x, w, b, None, 1e-5)
    assert (y[:, 6] == 0).all()
    assert np.isnan(y[:, 4]).all()
    how = (g, y, x, w, mean, var, 1e-5, False)
    computed, read = (norm.batch_norm_relu_backward(*how, *more) for more in ([affine], []))
    for actual, expected in zip(computed, read, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert (computed[2][6], computed[3]) == (0, None)
    affine[2] += 0.5
    wrong = norm.batch_norm_relu_backward(*how, affine)
    assert (wrong[2] != read[2]).any()


def test_batch_norm_far_from_zero_keeps_its_digits() -> None:
    x = draw(16, 16, 14, 14, dtype="float32") + np.float32(1000)
    y, mean, var = norm.batch_norm(x, None, None, 1e-5)
    expected = reference.batch_norm(x.astype("float64"), None, None, 1e-5)
    for a, e in zip((y, mean, var), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 1), (1, 0))], ids=str)
@pytest.mark.parametrize("window", [((2, 2), (2, 2)), ((3, 2), (1, 2)), ((4, 4), (3, 3))], ids=str)
def test_pools_stay_in_their_buffers(window: Any, padding: Any, guarded: Guarded) -> None:
    kernel_size, stride = window
    x = draw(3, 5, 7, 6, dtype="float32")
    x[0, 0, :2] = np.nan
    x[1, 1] = -np.inf
    how = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    y, indices = pool.max_pool2d(x, dilation=(1, 1), **how)
    for a, e in zip((y, indices), reference.max_pool2d(x, dilation=(1, 1), **how), strict=True):
        np.testing.assert_array_equal(a, e)
    g = draw(*y.shape, dtype="float32", seed=1)
    np.testing.assert_array_equal(pool.pool_gather(x, indices), y)
    size = x.shape[2:]
    x = np.nan_to_num(x, neginf=0)
    for a, e in [
        (pool.pool_scatter(g, indices, input_size=size),
         reference.pool_scatter(g, indices, input_size=size)),
        (pool.window_sum(x, **how), reference.window_sum(x, **how)),
        (pool.window_sum_input(g, input_size=size, **how),
         reference.window_sum_input(g, input_size=size, **how)),
    ]:  # fmt: skip
        assert_close(a, e, "float32")
    guarded.check()


def test_an_index_outside_of_the_image_is_an_error() -> None:
    x = draw(1, 4, 4, 4, dtype="float32")
    for bad in (16, -1):
        with pytest.raises(IndexError, match="16 pixels"):
            pool.pool_gather(x, np.full((1, 4, 2, 2), bad))
        with pytest.raises(IndexError, match="16 pixels"):
            pool.pool_scatter(x[:, :, :2, :2], np.full((1, 4, 2, 2), bad), input_size=(4, 4))


def train(steps: int) -> list[np.ndarray]:
    tc.manual_seed(0)
    model = nn.resnet.resnet8(width=16)
    optimizer = tc.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, t = tc.randn(16, 1, 28, 28), tc.randint(0, 10, (16,))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), t).backward()
        optimizer.step()
    return [p.array for p in model.parameters()]


def test_a_train_step_is_compiled_bit_identical_and_like_the_reference() -> None:
    FAST.served.clear()
    first, second = train(2), train(2)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    layers = {layer for (kernel, layer) in FAST.served if kernel.startswith(("conv", "batch"))}
    assert layers == {"compiled"}
    with tc.kernels("reference"):
        for a, b in zip(first, train(2), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)


def test_show_config_tells_which_layer_served(capsys: pytest.CaptureFixture[str]) -> None:
    FAST.served.clear()
    FAST.conv2d(
        draw(1, 2, 4, 4, dtype="float16"), draw(2, 2, 3, 3, dtype="float16"), stride=(1, 1),
        padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1,
    )  # fmt: skip
    tc.show_config()
    printed = capsys.readouterr().out
    assert "conv2d: 1 by reference" in printed
    assert "threads: " in printed


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_tinyconv_imports_no_compiler() -> None:
    code = "import sys, tinyconv; print([m for m in ('numba', 'llvmlite') if m in sys.modules])"
    assert python(code).strip() == "[]"


COUNT = """
import numpy as np
import tinyconv as tc
from numba.core import event

class Count(event.Listener):
    compiled = 0
    def on_start(self, event): Count.compiled += 1
    def on_end(self, event): pass

event.register("numba:compile", Count())
x = tc.randn(4, 3, 8, 8, requires_grad=True)
tc.nn.functional.conv2d(x, tc.randn(16, 3, 3, 3), padding=1).sum().backward()
print(Count.compiled)
"""


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert int(python(COUNT, **cache)) > 0
    assert int(python(COUNT, **cache)) == 0


def test_the_choice_of_kernels_in_the_environment() -> None:
    code = "import tinyconv.backend as b; print(b.CPU.choice)"
    assert python(code, TINYCONV_KERNELS="numpy").strip() == "numpy"
    with pytest.raises(AssertionError, match="TINYCONV_KERNELS='fats' is none of fast"):
        python(code, TINYCONV_KERNELS="fats")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizer_steps_are_the_references_to_the_bit(dtype: str) -> None:
    sizes = [(7,), (16, 3, 3, 3), (300, 900), (0, 3), ()]

    def arrays() -> list[list[np.ndarray]]:
        rng = np.random.default_rng(0)
        return [[np.asarray(rng.random(n), dtype) for n in sizes] for _ in range(4)]

    def check(kernel: str, lists: int, exact: bool, **options: Any) -> None:
        results = []
        for layer in (compiled_optim, reference):
            found = arrays()
            rest = [None] * (3 - lists) if kernel == "sgd" else [None]
            assert getattr(layer, kernel)(*found[:lists], *rest, **options) is None
            results.append([a for arrays in found for a in arrays])
        for actual, expected in zip(*results, strict=True):
            tolerance = 0 if exact else 1e-6 if dtype == "float32" else 1e-14
            np.testing.assert_allclose(actual, expected, rtol=tolerance)

    common: Any = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    shares = [1.0, 0.7, 1.0, 0.5, 1.0]
    for options in [
        {"nesterov": True, "shares": [1.0] * 5},
        {"nesterov": False, "shares": shares},
    ]:
        for lists in (3, 2):
            check("sgd", lists, True, **common, **options)
    adam: Any = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    adam |= {"step_sizes": [0.1, 0.2, 0.3, 0.1, 0.2], "roots": [0.3, 0.4, 0.5, 0.6, 0.7]}
    for decay in ({"weight_decay": 0.01, "shrink": 1.0}, {"weight_decay": 0.0, "shrink": 0.9}):
        check("adam", 4, False, **adam, **decay)


@pytest.mark.parametrize("options", [{"maximize": True}, {"maximize": True, "momentum": 0.5}])
def test_a_number_as_a_parameter(options: dict[str, Any]) -> None:
    """NumPy's -g of a 0-d g is no array: it has an address for a moment only."""
    p = tc.tensor(1.0, requires_grad=True)
    for _ in range(20):
        p.grad = tc.tensor(0.0)
        tc.optim.SGD([p], 0.1, **options).step()
        p.grad = tc.tensor(0.5)
        before = p.item()
        tc.optim.SGD([p], 0.1, **options).step()
        assert p.item() == pytest.approx(before + 0.05)


@pytest.mark.parametrize("optimizer", [tc.optim.SGD, tc.optim.Adam])
def test_a_dtype_that_is_not_compiled_goes_to_the_next_layer(optimizer: Any) -> None:
    """Also where size does not matter, and Numba is loaded."""
    p = tc.ones(4, dtype=tc.float16).requires_grad_()
    p.grad = tc.ones(4, dtype=tc.float16)
    optimizer([p], 0.25).step()
    assert p.dtype == tc.float16
    np.testing.assert_array_equal(p.array, 0.75)


@pytest.mark.slow
def test_a_step_keeps_no_memory() -> None:
    """1,000 steps of a ResNet, after the first 100: a leak of 4 KB a step would show."""
    code = """
import numpy as np, tinyconv as tc
from tinyconv import nn
from tinyconv.nn import functional as F

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

model = nn.resnet.resnet8()
optimizer = tc.optim.SGD(model.parameters(), 0.01, momentum=0.9)
x, t = tc.randn(16, 1, 28, 28), tc.randint(0, 10, (16,))
for step in range(1100):
    if step == 100:
        before = resident()
    optimizer.zero_grad()
    F.cross_entropy(model(x), t).backward()
    optimizer.step()
print(resident() - before)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    assert int(python(code)) < 4_000_000


# ------------------------------------------------------------------------------- threads


def one_of_each() -> tuple[Callable[[], list[Any]], list[Any]]:
    """Kernels that sum in pieces, and what they should give; large enough for several threads."""
    x, g = (draw(16, 16, 20, 20, dtype="float32", seed=i) for i in range(2))
    w = draw(32, 16, 3, 3, dtype="float32", seed=2)[:16]
    how: Any = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}

    def run() -> list[Any]:
        return [*triad(conv, x, w, g, how), *norm.batch_norm_relu(x, None, None, g, 1e-5)]

    return run, run()


def test_several_threads_of_the_caller_at_once() -> None:
    with threads_set(4):
        run, expected = one_of_each()
        found: list[Any] = []

        def many() -> None:
            for _ in range(20):
                found.append(run())

        callers = [threading.Thread(target=many) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
        assert len(found) == 80
        for result in found:
            for actual, right in zip(result, expected, strict=True):
                np.testing.assert_array_equal(actual, right)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_bit_identical_from_run_to_run_also_with_more_threads_than_cores(threads: int) -> None:
    with threads_set(threads):
        run, expected = one_of_each()
        for _ in range(10):
            for actual, right in zip(run(), expected, strict=True):
                np.testing.assert_array_equal(actual, right)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_kernels_run_in_the_child_of_a_fork_amid_a_task() -> None:
    code = """
import os, threading, numpy as np, tinyconv as tc
from tinyconv.backend.compiled import elementwise, team
tc.set_num_threads(2)
x = np.ones((2000, 1000), np.float32)
stop = False
def busy():
    while not stop:
        elementwise.add(x, x)
thread = threading.Thread(target=busy)
elementwise.add(x, x)
thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if (elementwise.add(x, x) == 2).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
stop = True
thread.join()
print("done")
"""
    assert "done" in python(code, PYTHONWARNINGS="ignore")


def test_a_worker_that_slept_comes_back() -> None:
    with threads_set(2):
        run, _ = one_of_each()
        (worker, *_) = team._team.workers
        for _ in range(100):
            if worker.asleep:
                break
            time.sleep(0.01)
        assert worker.asleep
        for _ in range(100):
            run()
            if not worker.asleep:
                break
        assert not worker.asleep


def test_images_that_are_read_where_they_are_take_no_scratch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A satellite's image, in strides: a copy of it for each thread would take all memory."""
    taken: dict[str, int] = {}
    empty = direct.scratch_memory

    def look(name: str, shape: Any, dtype: Any) -> Any:
        taken[name] = taken.get(name, 0) + math.prod(shape)
        return empty(name, shape, dtype)

    monkeypatch.setattr(direct, "scratch_memory", look)
    x, w = draw(1, 16, 48, 60, dtype="float32"), draw(16, 16, 3, 3, dtype="float32")
    geometry = {"stride": (3, 3), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    y = conv.conv2d(x, w, **geometry)
    conv.conv2d_weight(x, y, kernel_size=(3, 3), **geometry)
    assert taken["weights"] > 0
    assert taken["image"] == taken["gradient"] == 0
