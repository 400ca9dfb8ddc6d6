"""kernels.cu, compiled for the CPU, against the reference, and under sanitizers.

The stand-in for CuPy here is as small as own.py allows: NumPy arrays with a `data.ptr`, memory that
is NaN before it is written and has guards around it, and a RawModule that g++ compiles.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import (
    RawModule,
    compile_kernels,
    kernel_names,
    missing,
    only,
    sanitizer_environment,
    synchronised,
)
from hypothesis import Phase, given, settings, strategies as st

from tinyconv.backend import fused, reference, register_array_type
from tinyconv.backend.cuda import own

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SANITIZE = os.environ.get("TINYCONV_SANITIZE") or None  # set in the processes of the last tests
SOURCE = own.SOURCE.read_text()
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 2e-2}
GUARD = 64  # bytes on either side of an array


def drawn(*strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """`given`, and the same once more as `.quick`, which stops at the first failure it finds."""

    def decorate(test: Callable[..., None]) -> Any:
        examples = settings(max_examples=4 if SANITIZE else 30, deadline=None, derandomize=True)
        decorated = examples(given(*strategies)(test))
        decorated.quick = settings(examples, phases=[Phase.generate])(given(*strategies)(test))
        return decorated

    return decorate


# ------------------------------------------------------------------------------ a small "CuPy"


class Array(np.ndarray):
    """A NumPy array that says where it lies as CuPy's do."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)


class Device:
    """The part of CuPy's namespace that own.py uses."""

    def __init__(self, source: str = SOURCE) -> None:
        self.source = source
        self.lent: list[np.ndarray] = []

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> RawModule:
        assert code == SOURCE
        return RawModule(code=self.source, options=options, sanitize=SANITIZE)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(size + 2 * GUARD, 0xFF, np.uint8)  # NaN, or -1
        memory[:GUARD] = memory[-GUARD:] = 0xA5
        self.lent.append(memory)
        return memory[GUARD : GUARD + size].view(dtype).reshape(shape).view(Array)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        x = self.empty(shape, dtype)
        x[...] = 0
        return x

    def ascontiguousarray(self, x: Array) -> Array:
        return np.ascontiguousarray(x).view(Array)

    def check_guards(self) -> None:
        for memory in self.lent:
            assert (memory[:GUARD] == 0xA5).all(), "written before an array"
            assert (memory[-GUARD:] == 0xA5).all(), "written behind an array"
        self.lent = []


DEVICE = Device()


@pytest.fixture(autouse=True)
def small_launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few threads and blocks, so that small arrays take several steps of every loop."""
    register_array_type(Array, DEVICE)
    monkeypatch.setattr(own, "THREADS", 4 if SANITIZE == "thread" else 16)
    monkeypatch.setattr(own, "BLOCKS", 3)
    monkeypatch.setattr(own, "PART", 16)
    yield
    DEVICE.lent = []


def values(shape: tuple[int, ...], seed: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "contiguous": lambda x: x.copy(),
    "transposed": lambda x: x.T.copy().T,
    "reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
}


def on_device(x: Any, layout: str = "contiguous") -> Any:
    """A copy of x, behind guards unless it is not contiguous."""
    if x is None:
        return None
    if isinstance(x, list):
        return [on_device(one, layout) for one in x]
    if layout != "contiguous" and x.ndim:
        return LAYOUTS[layout](x).view(Array)
    y = DEVICE.empty(x.shape, x.dtype)
    y[...] = x
    return y


def in_double(x: Any) -> Any:
    if isinstance(x, list):
        return [in_double(one) for one in x]
    return x.astype("float64") if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def assert_close(actual: Any, expected: Any, dtype: str) -> None:
    """Same shape, floats of the given dtype, NaN and infinities in the same places, small error."""
    if isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, dtype)
    elif expected is None:
        assert actual is None
    else:
        assert actual.shape == expected.shape
        assert actual.dtype == (dtype if expected.dtype.kind == "f" else expected.dtype)
        actual, finite = np.asarray(actual), np.isfinite(expected)
        np.testing.assert_array_equal(actual[~finite], expected[~finite])
        if finite.any():
            scale = max(1.0, float(np.abs(expected[finite]).max()))
            error = np.abs(actual[finite] - expected[finite]).max()
            assert error <= TOLERANCE[dtype] * scale


def compare(
    name: str,
    *args: Any,
    dtype: str,
    layout: str = "contiguous",
    module: Any = reference,
    **params: Any,
) -> Any:
    """own's kernel against the reference's, in double precision, on copies of the same numbers."""
    given_ = [on_device(a, layout) if isinstance(a, np.ndarray) else a for a in args]
    before = [a.copy() if isinstance(a, np.ndarray) else a for a in given_]
    actual = getattr(own, name)(*given_, **params)
    assert actual is not NotImplemented
    DEVICE.check_guards()
    for now, then in zip(given_, before, strict=True):
        if isinstance(now, np.ndarray):
            np.testing.assert_array_equal(now, then, "an input was changed")
    with np.errstate(invalid="ignore"):
        expected = getattr(module, name)(*map(in_double, args), **params)
    assert_close(actual, expected, dtype)
    return actual


DTYPES = st.sampled_from(["float32"] if SANITIZE else ["float32", "float64", "float16"])
SEEDS = st.integers(0, 2**16)


def pairs(low: int, high: int) -> Any:
    return st.tuples(st.integers(low, high), st.integers(low, high))


# --------------------------------------------------------------------------------- convolution


@st.composite
def geometries(draw: Any, dilations: int = 3, most_padding: int = 3) -> dict[str, Any]:
    """An image, a window that fits, and how many there are."""
    kernel_size, dilation = draw(pairs(1, 4)), draw(pairs(1, dilations))
    padding = tuple(
        draw(st.tuples(*[st.integers(0, min(most_padding, k // 2 if most_padding < 3 else 3))] * 2))
        for k in kernel_size
    )
    extra = draw(pairs(0, 5))
    size = tuple(
        max(1, d * (k - 1) + 1 - sum(p) + e)
        for d, k, p, e in zip(dilation, kernel_size, padding, extra, strict=True)
    )
    return {
        "images": (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *size),
        "kernel_size": kernel_size,
        "stride": draw(pairs(1, 4)),
        "padding": padding,
        "dilation": dilation,
    }


@drawn(
    geometries(),
    st.integers(1, 3),
    st.integers(1, 2),
    DTYPES,
    st.sampled_from([*LAYOUTS]),
    st.booleans(),
    st.sampled_from([2**28, 60]),
    SEEDS,
)
def test_drawn_convolutions(
    case: Any,
    groups: int,
    outputs: int,
    dtype: str,
    layout: str,
    biased: bool,
    columns: int,
    seed: int,
) -> None:
    (N, C, *size), kernel_size = case.pop("images"), case.pop("kernel_size")
    padded = tuple(n + sum(p) for n, p in zip(size, case["padding"], strict=True))
    out = reference.output_size(padded, kernel_size, case["stride"], case["dilation"])
    x = values((N, C * groups, *size), seed, dtype)
    w = values((outputs * groups, C, *kernel_size), seed, dtype)
    g = values((N, outputs * groups, *out), seed, dtype)
    how = {"dtype": dtype, "layout": layout, "groups": groups, **case}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "COLUMNS", columns)  # 60: the batch in pieces
        compare("conv2d", x, w, **how)
        compare("conv2d_input", g, w, input_size=tuple(size), **how)
        compare("conv2d_weight", x, g, kernel_size=kernel_size, **how)
        if biased:
            bias = values((outputs * groups,), seed, dtype)
            y = own.conv2d(*map(on_device, (x, w)), **case, groups=groups, bias=on_device(bias))
            expected = reference.conv2d(*map(in_double, (x, w)), **case, groups=groups)
            assert_close(y, expected + in_double(bias)[:, None, None], dtype)


# ------------------------------------------------------------------------------------- pooling

KINDS = ["normal", "ties", "nan", "-inf"]


def of_kind(kind: str, shape: tuple[int, ...], seed: int, dtype: str) -> np.ndarray:
    """Numbers with equal ones among them, NaN, or nothing but -inf in places."""
    x = values(shape, seed, dtype)
    if kind == "ties":
        return np.round(x)
    if kind in ("nan", "-inf"):
        x[values(shape, seed + 1) > (1.5 if kind == "nan" else -0.5)] = float(kind)
    return x


@drawn(
    geometries(dilations=2, most_padding=2),
    DTYPES,
    st.sampled_from([*LAYOUTS]),
    st.sampled_from(KINDS),
    SEEDS,
)
def test_drawn_max_pools(case: Any, dtype: str, layout: str, kind: str, seed: int) -> None:
    images = case.pop("images")
    x, how = of_kind(kind, images, seed, dtype), {"dtype": dtype, "layout": layout}
    y, places = compare("max_pool2d", x, **how, **case)
    exact = reference.max_pool2d(x, **case)
    np.testing.assert_array_equal(y, exact[0])
    np.testing.assert_array_equal(places, exact[1])
    places = np.where(places == images[2] * images[3], 0, places)  # of windows in the padding alone
    g = values(y.shape, seed, dtype)
    compare("pool_gather", x, places, **how)
    compare("pool_scatter", g, places, input_size=images[2:], **how)
    inside = np.asarray(exact[1]) < images[2] * images[3]
    if inside.all():
        window = {"kernel_size": case.pop("kernel_size"), **case}
        scattered = own.pool_scatter(
            on_device(g), on_device(places), input_size=images[2:], window=window
        )
        DEVICE.check_guards()
        expected = reference.pool_scatter(in_double(g), places, input_size=images[2:])
        assert_close(scattered, expected, dtype)


@drawn(geometries(dilations=1), DTYPES, st.sampled_from([*LAYOUTS]), SEEDS)
def test_drawn_window_sums(case: Any, dtype: str, layout: str, seed: int) -> None:
    images = case.pop("images")
    del case["dilation"]
    x, how = values(images, seed, dtype), {"dtype": dtype, "layout": layout}
    y = compare("window_sum", x, **how, **case)
    g = values(y.shape, seed, dtype)
    compare("window_sum_input", g, input_size=images[2:], **how, **case)


def test_places_outside_of_an_image_give_nan_not_another_images_number() -> None:
    x, places = values((2, 1, 2, 2), 0), np.array([3, 4, -1, 0], np.int64).reshape(2, 1, 1, 2)
    y = own.pool_gather(*map(on_device, (x, places)))
    assert np.isnan(y).ravel().tolist() == [False, True, True, False]
    dx = own.pool_scatter(on_device(np.ones_like(y)), on_device(places), input_size=(2, 2))
    assert np.isnan(dx).any((1, 2, 3)).all()


# ------------------------------------------------------------------------- batch norm and ReLU


@drawn(
    st.lists(st.integers(1, 7), min_size=2, max_size=4),
    DTYPES,
    st.sampled_from([*LAYOUTS]),
    st.booleans(),
    st.booleans(),
    SEEDS,
)
def test_drawn_batch_norms(
    shape: list[int], dtype: str, layout: str, affine: bool, residual: bool, seed: int
) -> None:
    shape, C = tuple(shape), shape[1]
    x, g = 2 * values(shape, seed, dtype) + 3, values(shape, seed + 1, dtype)
    added = values(shape, seed + 2, dtype) if residual else None
    weight, bias = (values((C,), seed + i, dtype) if affine else None for i in (3, 4))
    eps, how = 1e-2, {"dtype": dtype, "layout": layout}
    _, mean, var = compare("batch_norm", x, weight, bias, eps, **how)
    compare("batch_norm_backward", g, x, weight, np.asarray(mean), np.asarray(var), eps, **how)
    y, mean, var = map(np.asarray, compare("batch_norm_relu", x, weight, bias, added, eps, **how))
    compare("batch_norm_relu_backward", g, y, x, weight, mean, var, eps, residual, **how)
    scale, shift = values((C,), seed + 5, dtype), values((C,), seed + 6, dtype)
    compare("affine", x, scale, shift, **how)
    compare("affine_relu", x, scale, shift, added, **how)
    compare("relu_backward", g, y, **how)


def test_the_variance_survives_a_large_mean_and_a_nan_stays_in_its_channel() -> None:
    x = values((6, 3, 5, 5), 0) + np.float32(1e4)
    x[2, 1, 3, 3] = np.nan
    y, mean, var = own.batch_norm(on_device(x), None, None, 0.0)
    np.testing.assert_allclose(var[::2], x[:, ::2].var((0, 2, 3), dtype="float64"), rtol=1e-5)
    assert np.isnan([mean[1], var[1]]).all()
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, ::2]).all()
    assert np.isnan(own.batch_norm_relu(on_device(x), None, None, None, 0.0)[0][:, 1]).all()


@drawn(st.integers(1, 40), DTYPES, SEEDS)
def test_drawn_running_statistics(C: int, dtype: str, seed: int) -> None:
    numbers = [np.abs(values((C,), seed + i, dtype)) for i in range(4)]
    for seen, momentum in [(None, 0.1), (np.array([seed]), 0.1), (np.array([seed]), None)]:
        arrays = [*numbers, seen]
        compare_in_place("move_statistics", arrays, dtype, fused, momentum=momentum, unbias=1.25)


def compare_in_place(name: str, arrays: list[Any], dtype: str, module: Any, **params: Any) -> None:
    """For a kernel that changes some of its arguments, arrays or lists of them."""
    actual, expected = [on_device(a) for a in arrays], [in_double(a) for a in arrays]
    assert getattr(own, name)(*actual, **params) is None
    DEVICE.check_guards()
    getattr(module, name)(*expected, **params)
    assert_close(actual, expected, dtype)


# -------------------------------------------------------------------------------------- losses


@drawn(
    st.integers(1, 9),
    st.sampled_from([1, 2, 3, 10, 33, 150]),
    DTYPES,
    st.sampled_from([*LAYOUTS]),
    st.sampled_from([-100, 0, 1]),
    st.sampled_from(["none", "sum", "mean"]),
    SEEDS,
)
def test_drawn_cross_entropies(
    R: int, C: int, dtype: str, layout: str, ignore_index: int, reduction: str, seed: int
) -> None:
    x = 3 * values((R, C), seed, dtype)
    g = values((R,) if reduction == "none" else (), seed, dtype)
    targets = np.random.default_rng(seed).integers(0, C, R)
    targets[:: 1 + seed % 5] = ignore_index
    if seed % 3 == 0:
        targets[-1] = C + 1  # no class
    how = {"dtype": dtype, "layout": layout, "module": fused, "ignore_index": ignore_index}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "FEW", 64)  # above that it takes two launches
        _, *kept = compare("cross_entropy", x, targets, reduction=reduction, **how)
    kept = [None if a is None else np.asarray(a) for a in kept]
    compare("cross_entropy_backward", g, x, targets, *kept, **how)


def test_cross_entropy_of_large_logits() -> None:
    x = np.array([[1e4, -1e4, 0], [-1e30, -1e30, -1e30]], np.float32)
    x, targets = on_device(x), on_device(np.array([1, 2]))
    losses, *kept = own.cross_entropy(x, targets, reduction="none", ignore_index=-100)
    np.testing.assert_allclose(losses, [2e4, np.log(3)], rtol=1e-6)
    g = on_device(np.ones(2, np.float32))
    dx = own.cross_entropy_backward(g, x, targets, *kept, ignore_index=-100)
    np.testing.assert_allclose(dx, [[1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], rtol=1e-6)


def test_the_fused_references_are_what_nn_and_data_compute() -> None:
    import tinyconv as tc
    import tinyconv.nn.functional as F

    batch = values((5, 3, 2, 2), 2, "float64")
    mean, var = tc.zeros(3, dtype=tc.float64), tc.ones(3, dtype=tc.float64)
    F.batch_norm(tc.tensor(batch), mean, var, training=True, momentum=0.3)
    moved = np.zeros(3), np.ones(3)
    now = batch.mean((0, 2, 3)), batch.var((0, 2, 3))
    fused.move_statistics(*moved, *now, None, momentum=0.3, unbias=20 / 19)
    np.testing.assert_allclose(moved, [mean.numpy(), var.numpy()])

    digits = tc.data.MNIST(train=False, source="sample")
    at = np.array([3, 0, 1999])
    images = fused.gather_images(digits.images, at, mean=digits.mean, std=digits.std)
    np.testing.assert_array_equal(images, digits.__getitems__(at)[0])


# ---------------------------------------------------------------------------------- optimizers


def parameters(count: int, seed: int, dtype: str) -> list[np.ndarray]:
    sizes = np.random.default_rng(seed).integers(1, 60, count)
    return [values((int(n),), seed + i, dtype) for i, n in enumerate(sizes)]


@drawn(
    st.sampled_from([1, 3, 62]),
    DTYPES,
    st.sampled_from([None, 0.0, 0.1]),
    st.booleans(),
    st.booleans(),
    SEEDS,
)
def test_drawn_sgd_steps(
    count: int, dtype: str, dampening: float | None, decay: bool, nesterov: bool, seed: int
) -> None:
    """62 parameters are two launches."""
    ps, gs, buffers = (parameters(count, seed, dtype) for _ in range(3))
    for i, g in enumerate(gs):
        g[...] = values(g.shape, seed - i - 1 & 0xFFFF, dtype)
    shares = [1.0 if i % 2 else 1 - (dampening or 0.0) for i in range(count)]
    compare_in_place(
        "sgd",
        [ps, gs, None if dampening is None else buffers],
        dtype,
        reference,
        lr=0.1,
        momentum=0.0 if dampening is None else 0.9,
        shares=shares,
        weight_decay=0.05 * decay,
        nesterov=nesterov and dampening is not None,
    )


@drawn(
    st.sampled_from([1, 3, 62]),
    DTYPES.filter(lambda dtype: dtype != "float16"),  # whose smallest number is above eps
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([1.0, 0.99]),
    SEEDS,
)
def test_drawn_adam_steps(
    count: int, dtype: str, amsgrad: bool, decay: float, shrink: float, seed: int
) -> None:
    ps, gs, ms, vs, largest = (parameters(count, seed, dtype) for _ in range(5))
    for i, (g, v, most) in enumerate(zip(gs, vs, largest, strict=True)):
        g[...] = values(g.shape, seed + i + 1, dtype)
        v[...], most[...] = v * v, np.abs(values(v.shape, seed + i + 2, dtype)) / 100
    steps = [1 + i % 3 for i in range(count)]
    compare_in_place(
        "adam",
        [ps, gs, ms, vs, largest if amsgrad else None],
        dtype,
        reference,
        step_sizes=[0.01 / (1 - 0.9**t) for t in steps],
        beta1=0.9,
        beta2=0.99,
        roots=[(1 - 0.99**t) ** 0.5 for t in steps],
        eps=1e-6,
        weight_decay=decay,
        shrink=shrink,
    )


# ---------------------------------------------------------------------------------------- data


@drawn(st.integers(1, 9), pairs(1, 9), st.integers(1, 12), SEEDS)
def test_drawn_batches_of_images(count: int, size: Any, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *size), np.uint8)
    indices = rng.integers(0, count, batch)
    expected = fused.gather_images(images, indices, mean=0.1307, std=0.3081)
    if seed % 3 == 0:
        indices[0], expected[0] = count, np.nan
    if seed % 3 == 1:
        indices[-1], expected[-1] = -1, np.nan
    y = own.gather_images(on_device(images), on_device(indices), mean=0.1307, std=0.3081)
    DEVICE.check_guards()
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected)  # bit by bit: the same float32 steps


# ------------------------------------------------------------------- what the kernels leave out


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_other_dtypes_are_left_to_the_next_layer(dtype: str) -> None:
    x, w = (on_device(np.ones(shape, dtype)) for shape in ((1, 2, 4, 4), (3, 2, 3, 3)))
    geometry: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0))}
    window = {"kernel_size": (2, 2), **geometry}
    one = {"dilation": (1, 1), "groups": 1, **geometry}
    vector = on_device(np.ones(2, dtype))
    assert {
        type(result)
        for result in (
            own.conv2d(x, w, **one),
            own.conv2d_input(x, w.swapaxes(0, 1), input_size=(6, 6), **one),
            own.conv2d_weight(x, x, kernel_size=(1, 1), **one),
            own.max_pool2d(x, dilation=(1, 1), **window),
            own.window_sum(x, **window),
            own.window_sum_input(x, input_size=(5, 5), **window),
            own.pool_gather(x, on_device(np.zeros((1, 2, 1, 1), np.int64))),
            own.pool_scatter(x, on_device(np.zeros((1, 2, 4, 4), np.int64)), input_size=(2, 2)),
            own.batch_norm(x, vector, vector, 0.1),
            own.batch_norm_backward(x, x, vector, vector, vector, 0.1),
            own.affine(x, vector, vector),
            own.relu_backward(x, x),
            own.move_statistics(vector, vector, vector, vector, None, momentum=0.1, unbias=1.0),
            own.cross_entropy(
                vector[None], on_device(np.zeros(1, np.int64)), reduction="sum", ignore_index=-1
            ),
            own.sgd([x], [x], None, lr=0.1, momentum=0.0, shares=[1.0], weight_decay=0.0,
                    nesterov=False),
            own.gather_images(x, on_device(np.zeros(1, np.int64)), mean=0.0, std=1.0),
        )
    } == {type(NotImplemented)}  # fmt: skip


def test_empty_arrays_mixed_dtypes_and_sizes_beyond_int_are_left_to_the_next_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, empty = on_device(values((2, 3, 4, 4), 0)), on_device(values((0, 3, 4, 4), 0))
    vector = on_device(values((3,), 0))
    assert own.affine(empty, vector, vector) is NotImplemented
    assert own.affine(x, vector.astype("float64"), vector) is NotImplemented
    assert own.affine(x, vector, vector) is not NotImplemented
    monkeypatch.setattr(own, "LARGEST", 96)
    assert own.affine(x, vector, vector) is NotImplemented
    p = on_device(values((4, 6), 0)).T  # written in place, so a copy would not do
    options = {"lr": 0.1, "momentum": 0.0, "shares": [1.0], "weight_decay": 0.0, "nesterov": False}
    assert own.sgd([p], [p], None, **options) is NotImplemented


def test_how_many_launches_each_step_takes() -> None:
    """Besides one matrix product for each convolution; a launch costs the host microseconds."""
    x, w = on_device(values((2, 4, 6, 6), 0)), on_device(values((4, 4, 3, 3), 1))
    vector, ps = on_device(values((4,), 2)), [on_device(values((n,), 3)) for n in range(1, 61)]
    how: Any = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    launched = compile_kernels(SOURCE, ("-std=c++17", "-DREAL=float"), SANITIZE).launched

    def launches(name: str, *args: Any, **params: Any) -> list[str]:
        launched.clear()
        assert getattr(own, name)(*args, **params) is not NotImplemented
        return launched[:]

    forward = launches("conv2d", x, w, **how)
    to_x = launches("conv2d_input", x, w, input_size=(6, 6), **how)
    to_w = launches("conv2d_weight", x, x, kernel_size=(3, 3), **how)
    assert [forward, to_x, to_w] == [
        ["im2col", "rows_to_images"],
        ["swap_rows", "col2im"],
        ["im2col_and_rows"],
    ]
    norm = launches("batch_norm_relu", x, vector, vector, x, 0.1)
    assert norm == ["batch_statistics", "batch_norm"]
    back = launches("batch_norm_relu_backward", x, x, x, vector, vector, vector, 0.1, True)
    assert back == ["batch_norm_sums", "batch_norm_backward"]
    rows, classes = on_device(values((2, 3), 0)), on_device(np.array([0, 2]))
    loss = launches("cross_entropy", rows, classes, reduction="mean", ignore_index=-100)
    assert loss == ["cross_entropy_of_few"]
    rules = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": False}
    assert launches("sgd", ps, ps, ps, shares=[1.0] * 60, **rules) == ["sgd"]


def test_two_runs_give_the_same_bits() -> None:
    x, g = (on_device(values((9, 3, 11, 11), i)) for i in (0, 1))
    first, second = (own.batch_norm(x, None, None, 1e-5) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    backward = [own.batch_norm_backward(g, x, None, *first[1:], 1e-5) for _ in range(2)]
    for a, b in zip(*backward, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------- the checkers, with mistakes


CONVOLUTION = ["im2col", "rows_to_images", "col2im", "swap_rows", "im2col_and_rows"]
POOLS = ["max_pool2d", "max_pool2d_input", "pool_gather", "pool_scatter"]
NORMS = [
    "batch_statistics", "batch_norm", "batch_norm_sums", "batch_norm_backward", "affine",
    "relu_backward",
]  # fmt: skip
LOSSES = ["cross_entropy", "cross_entropy_of_few", "sum_losses", "cross_entropy_backward"]
MISTAKES = {  # what is right, what is wrong, the test that finds it and the kernels it runs
    "a window too far left": (
        "w = ow * s.SW + kw * s.DW - s.left;", "w = ow * s.SW + kw * s.DW;",
        "test_drawn_convolutions", CONVOLUTION,
    ),
    "a stride taken for the other axis": (
        "kh * s.DH, s.SH, s.OH)", "kh * s.DH, s.SW, s.OH)", "test_drawn_convolutions", CONVOLUTION,
    ),
    "the last of equal values wins": (
        "if (value > best ||", "if (value >= best ||", "test_drawn_max_pools", POOLS,
    ),
    "an element that is never written": (
        "EACH(i, N * C * S) {\n        int c", "EACH(i, N * C * S - 1) {\n        int c",
        "test_drawn_batch_norms", NORMS,
    ),
    "one element too many": (
        "EACH(i, size) dx[i] =", "EACH(i, size + 1) dx[i] =", "test_drawn_batch_norms", NORMS,
    ),
    "parts that are merged without their distance": (
        "squares[first + k] + d * d *", "squares[first + k] + 0 * d *", "test_drawn_batch_norms",
        NORMS,
    ),
    "ignored rows that count": (
        "counted += targets[r] != ignored;", "counted += targets[r] >= ignored;",
        "test_drawn_cross_entropies", LOSSES,
    ),
    "a bias that is not undone": (
        "sqrt(v) / root + eps", "sqrt(v) * root + eps", "test_drawn_adam_steps", ["adam"],
    ),
}  # fmt: skip


@pytest.mark.skipif(SANITIZE is not None, reason="without sanitizers")
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_caught(
    mistake: tuple[str, str, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong, test, kernels = mistake
    assert right in SOURCE
    device = Device(only(SOURCE, *kernels).replace(right, wrong, 1))
    monkeypatch.setattr(sys.modules[__name__], "DEVICE", device)
    register_array_type(Array, device)
    with pytest.raises(AssertionError):
        globals()[test].quick()


def test_the_launcher_refuses_what_a_gpu_would_misread() -> None:
    kernels = compile_kernels(SOURCE, ("-DREAL=float",), SANITIZE)
    x = np.zeros(4, np.float32)
    one, size = ((1,), (4,)), np.int32(4)
    kernels.launch("relu_backward", *one, (x, x, x, size))
    for args, message in [
        ((x, x, x, 4), "argument 3 of relu_backward is int64, the kernel takes int32"),
        ((x, x, x.astype("float64"), size), "array of float64"),
        ((x, x, np.zeros(8, np.float32)[::2], size), "strides"),
        ((x, x, x), "takes 4 arguments, got 3"),
        ((x, x, np.float32(0), size), "takes float32"),
    ]:
        with pytest.raises(TypeError, match=message):
            kernels.launch("relu_backward", *one, args)
    window = np.zeros((), [("one", "i4")])
    with pytest.raises(TypeError, match="argument 2 of im2col is 4, the kernel takes 56"):
        kernels.launch("im2col", *one, (x, x, window))
    with pytest.raises(TypeError, match="is float64, the kernel takes float32"):
        kernels.launch("sgd", *one, (np.zeros((), own.PARAMETERS), 0.1, *[np.float32(0)] * 2, size))
    with pytest.raises(AttributeError, match="no kernel 'im2row'"):
        kernels.launch("im2row", *one, ())
    with pytest.raises(ValueError, match="threads"):
        kernels.launch("relu_backward", (1,), (2048,), (x, x, x, size))


def test_which_kernels_need_threads_is_found_in_the_source() -> None:
    found = synchronised(SOURCE) & set(kernel_names(SOURCE))
    assert found == {
        "batch_statistics",
        "batch_norm",
        "batch_norm_sums",
        "batch_norm_backward",
        "move_statistics",
        "cross_entropy",
        "cross_entropy_of_few",
        "sum_losses",
    }
    assert synchronised("void f() {\n    // __syncthreads()\n}\n") == {"__syncthreads"}


def test_a_barrier_that_some_threads_pass_by_is_noticed() -> None:
    source = """typedef float real;
extern "C" __global__ void halves(float* x) {
    if (threadIdx.x < 2) __syncthreads();
    x[threadIdx.x] = 1;
}
"""
    kernels = compile_kernels(source, (), SANITIZE)
    with pytest.raises(RuntimeError, match="only some threads"):
        kernels.launch("halves", (1,), (4,), (np.zeros(4, np.float32),))


# ----------------------------------------------------------------------------------- sanitizers


def in_sanitized_process(
    sanitize: str, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Python with a sanitizer's library loaded first, which its kernels need."""
    environment = {
        **os.environ, **sanitizer_environment(sanitize), "TINYCONV_SANITIZE": sanitize,
        "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment, input=stdin, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@cache
def works(sanitize: str) -> bool:
    """Can Python run with this sanitizer here?  Not everywhere does it find room in memory."""
    return in_sanitized_process(sanitize, "-c", "import numpy").returncode == 0


@pytest.mark.skipif(SANITIZE is not None, reason="runs the other tests under sanitizers")
@pytest.mark.slow  # it compiles the kernels anew
@pytest.mark.parametrize("sanitize", ["address,undefined", "thread"])
def test_the_kernels_run_clean_under(sanitize: str) -> None:
    """No index outside of an array, no undefined arithmetic; no two threads at one place."""
    if not works(sanitize):
        pytest.skip(f"Python does not run with -fsanitize={sanitize} here")
    done = in_sanitized_process(
        sanitize, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "drawn", __file__
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout


RUN_TWO = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
from cuda_on_cpu import compile_kernels
kernels = compile_kernels(sys.stdin.read(), ("-DREAL=float",), {sanitize!r})
x = np.ones((2, 1, 40), np.float32)
means, squares = np.ones((2, 2), np.float32)
sizes = (np.int32(2), np.int32(1), np.int32(40))
kernels.launch("batch_statistics", (2, 1), (8,), (x, means, squares, *sizes))
kernels.launch("relu_backward", (2,), (8,), (x, x, np.empty_like(x), np.int32(80)))
print("ran through")
"""
TWO = only(SOURCE, "batch_statistics", "relu_backward")


def run_two_kernels(sanitize: str, source: str) -> Any:
    program = RUN_TWO.format(tests=str(Path(__file__).parent), sanitize=sanitize)
    return in_sanitized_process(sanitize, "-c", program, stdin=source)


BARRIER = "__syncthreads();"


@pytest.mark.skipif(SANITIZE is not None, reason="starts a process under a sanitizer")
@pytest.mark.parametrize("n", range(TWO.count(BARRIER)))
def test_a_barrier_removed_is_caught(n: int) -> None:
    """Each in turn; with all of them, the test before this one runs clean."""
    if not works("thread"):
        pytest.skip("Python does not run with ThreadSanitizer here")
    before, after = TWO.split(BARRIER)[: n + 1], TWO.split(BARRIER)[n + 1 :]
    done = run_two_kernels("thread", BARRIER.join(before) + ";" + BARRIER.join(after))
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr


SLIPS = {
    "one place for all threads": (
        "thread", "EACH(i, size) dx[i] =", "EACH(i, size) dx[0] =", "ThreadSanitizer: data race"),
    "a read behind the end": (
        "address", "through_relu(g, y, i);\n}", "through_relu(g, y, i + 1);\n}",
        "AddressSanitizer: heap-buffer-overflow"),
    "an int that overflows": (
        "undefined", "EACH(i, size) dx[i] =", "EACH(i, size) dx[i * (1 << 30) * 4 % 2] =",
        "signed integer overflow"),
}  # fmt: skip


@pytest.mark.skipif(SANITIZE is not None, reason="starts a process under a sanitizer")
@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_slips_are_caught_by_the_sanitizers(slip: tuple[str, str, str, str]) -> None:
    sanitize, right, wrong, message = slip
    if not works(sanitize):
        pytest.skip(f"Python does not run with -fsanitize={sanitize} here")
    assert right in TWO
    done = run_two_kernels(sanitize, TWO.replace(right, wrong))
    assert done.returncode != 0
    assert message in done.stderr


# --------------------------------------------------------------------------------- NVIDIA's own


def nvrtc() -> Any:
    """NVIDIA's run-time compiler, from the wheel nvidia-cuda-nvrtc, which needs no driver; or None.

    CuPy compiles with it.
    """
    for folder in sys.path:
        for library in sorted(Path(folder or ".").glob("nvidia/*/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(library))
    return None


@pytest.mark.skipif(nvrtc() is None, reason="needs NVRTC: pip install nvidia-cuda-nvrtc")
@pytest.mark.parametrize("kind", own.OPTIONS)
def test_nvrtc_compiles_the_kernels_without_a_warning(kind: str) -> None:
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    create = partial(library.nvrtcCreateProgram, ctypes.byref(program))
    assert create(SOURCE.encode(), b"kernels.cu", 0, None, None) == 0
    options = [b"-arch=sm_90", b"-std=c++17", own.OPTIONS[kind].encode()]
    result = library.nvrtcCompileProgram(program, 3, (ctypes.c_char_p * 3)(*options))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert (result, log.value.decode().strip()) == (0, "")
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 10_000
