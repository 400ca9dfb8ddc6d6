"""Convolutions by cuDNN: on a strict fake of its frontend, and with the real one where it is.

The real frontend finds plans without a GPU, when it is told of which GPU; nothing is computed then.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier
from typing import Any

import cuda_on_cpu
import fake_cudnn
import fake_cupy
import numpy as np
import pytest
from fake_cupy import Undefined, measured, no_synchronisation
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from test_cuda import Step, batch, resnet
from test_cuda_kernels import geometries, values
from test_ops import CASES, FIXED, Call, assert_all_close, ours

import tinyconv as tc
from tinyconv import doctor
from tinyconv.backend import backend_named, config, reference
from tinyconv.backend.cuda import cudnn as layer, ladder
from tinyconv.nn import functional as F
from tinyconv.ops import conv as ops

CONVOLUTIONS = [case for case in (*CASES, *FIXED) if "conv" in case.id]
KERNELS = ("conv2d", "conv2d_input", "conv2d_weight")
TOLERANCE = {"float32": 2e-6, "float16": 2e-3}
ONE = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}


def on_device(x: np.ndarray) -> Any:
    return fake_cupy.cupy.asarray(x)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """||found - expected|| / ||expected||"""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-3))


def worst(found: np.ndarray, expected: np.ndarray, magnitude: np.ndarray) -> float:
    """The largest error of a sum, as a part of the sum of its terms' absolute values."""
    assert found.shape == expected.shape
    return float((np.abs(found - expected) / np.maximum(magnitude, 1e-3)).max())


def served_by() -> set[tuple[str, str]]:
    """Which layer computed which kind of convolution."""
    return {(kernel, name) for kernel, name in backend_named("cuda").served if kernel in KERNELS}


# ----------------------------------------------------------------------------- against the CPU


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize("case", [case.values for case in CONVOLUTIONS], ids=[
    case.id for case in CONVOLUTIONS])  # fmt: skip
def test_samples_with_derivatives(case: tuple[Any, ...]) -> None:
    """Results, gradients and second gradients."""
    *_, function, sample = case
    call = Call(function, sample, "float32", "cuda")
    with no_synchronisation(), measured() as meter:
        found = ours(call)
    assert all(t is None or type(t.array) is fake_cupy.ndarray for t in found)
    assert_all_close(found, ours(Call(function, sample, "float32")), 1e-5)
    assert sum(meter.kernels[kind] for kind in ("conv_fprop", "conv_dgrad", "conv_wgrad")) > 0


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "packed": lambda x: x,
    "by pixel": lambda x: fake_cupy.cupy.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(
        0, 3, 1, 2
    ),
    "reversed": lambda x: fake_cupy.cupy.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "shifted": lambda x: fake_cupy.cupy.concatenate(
        [x.ravel()[:1], x.ravel()]
    )[1:].reshape(x.shape),
    "a part": lambda x: fake_cupy.cupy.concatenate([x, x], axis=1)[:, : x.shape[1]],
}  # fmt: skip


def convolutions(case: Any, groups: int, dtype: str, seed: int) -> list[tuple[Any, ...]]:
    """The three kernels on one geometry: name, inputs, keywords, and in double the result.

    At the end what the result is without signs: errors are a part of that.
    """
    case = {**case, "groups": groups}
    (N, C, *size), kernel_size = case.pop("images"), case.pop("kernel_size")
    padded = tuple(n + sum(p) for n, p in zip(size, case["padding"], strict=True))
    out = reference.output_size(padded, kernel_size, case["stride"], case["dilation"])
    x = values((N, C * groups, *size), seed, dtype)
    w = values((2 * groups, C, *kernel_size), seed + 1, dtype)
    g = values((N, 2 * groups, *out), seed + 2, dtype)
    calls = [
        ("conv2d", (x, w), case),
        ("conv2d_input", (g, w), {"input_size": tuple(size), **case}),
        ("conv2d_weight", (x, g), {"kernel_size": kernel_size, **case}),
    ]
    exact = [
        [
            getattr(reference, name)(*(change(a.astype("float64")) for a in inputs), **options)
            for change in (np.positive, np.abs)
        ]
        for name, inputs, options in calls
    ]
    return [(*call, *results) for call, results in zip(calls, exact, strict=True)]


def check_drawn(
    dtype: str, precision: str, case: Any, groups: int, layout: str, biased: bool, seed: int
) -> None:
    tc.set_float32_precision(precision)
    tolerance = 2e-3 if precision == "tf32" else TOLERANCE[dtype]
    for name, inputs, options, expected, magnitude in convolutions(case, groups, dtype, seed):
        if name == "conv2d" and biased:
            bias = values((2 * groups,), seed + 3, dtype)
            options = {**options, "bias": on_device(bias)}
            expected = expected + bias[:, None, None].astype("float64")
            magnitude = magnitude + np.abs(bias[:, None, None])
        found = getattr(layer, name)(*(LAYOUTS[layout](on_device(a)) for a in inputs), **options)
        assert found is not NotImplemented, name
        assert found.dtype == dtype
        assert worst(found.get(), expected, magnitude) < tolerance, name


HOW = [("float32", "highest"), ("float32", "tf32"), ("float16", "highest")]
DRAWN = {
    "case": geometries(),
    "groups": st.integers(1, 3),
    "layout": st.sampled_from([*LAYOUTS]),
    "biased": st.booleans(),
    "seed": st.integers(0, 2**16),
}
SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def draw_all(how: list[tuple[str, str]]) -> None:
    """Stops at the first failure, and does not look for a smaller one."""
    for dtype, precision in how:
        given_how = {"dtype": st.just(dtype), "precision": st.just(precision)}
        settings(SETTINGS, phases=[Phase.generate])(given(**given_how, **DRAWN)(check_drawn))()


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize(("dtype", "precision"), HOW)
@SETTINGS
@given(drawn=st.fixed_dictionaries(DRAWN))
def test_drawn_geometries(dtype: str, precision: str, drawn: Any) -> None:
    check_drawn(dtype, precision, **drawn)


@pytest.mark.parametrize(("dtype", "precision"), HOW)
@SETTINGS
@given(case=DRAWN["case"], groups=DRAWN["groups"], seed=DRAWN["seed"])
def test_drawn_geometries_on_any_device(
    device: str, dtype: str, precision: str, case: Any, groups: int, seed: int
) -> None:
    """The operations, by whatever computes there: on a GPU with --backend cupy, NVIDIA's cuDNN."""
    tc.set_float32_precision(precision)
    forward, to_x, to_w = convolutions(case, groups, dtype, seed)
    _, arrays, options, *_ = forward
    g = to_x[1][0]
    leaves = [tc.tensor(a, device=device).requires_grad_() for a in arrays]
    result = ops.conv2d(*leaves, **options)
    found = [result, *tc.grad(result, leaves, tc.tensor(g, device=device))]
    tolerance = 2e-3 if precision == "tf32" else {"float32": 1e-5, "float16": 1e-2}[dtype]
    for a, (*_, expected, magnitude) in zip(found, [forward, to_x, to_w], strict=True):
        assert a.dtype == dtype
        assert worst(a.detach().cpu().numpy(), expected, magnitude) < tolerance


# ----------------------------------------------------------------------------------- what a plan is


def plans() -> int:
    return len(layer._library(fake_cupy.cupy).plans)


def images(
    shape: tuple[int, ...] = (2, 4, 6, 6), dtype: str = "float32", layout: str = "packed"
) -> Any:
    return LAYOUTS[layout](on_device(values(shape, 0, dtype)))


CHANGES: dict[str, Callable[[], Any]] = {
    "kind": lambda: layer.conv2d_input(images(), weights(), input_size=(6, 6), **ONE),
    "another kind": lambda: layer.conv2d_weight(images(), images(), kernel_size=(3, 3), **ONE),
    "batch": lambda: layer.conv2d(images((3, 4, 6, 6)), weights(), **ONE),
    "image": lambda: layer.conv2d(images((2, 4, 6, 7)), weights(), **ONE),
    "kernel": lambda: layer.conv2d(images(), weights((4, 4, 3, 2)), **ONE),
    "strides": lambda: layer.conv2d(images(layout="by pixel"), weights(), **ONE),
    "alignment": lambda: layer.conv2d(images(layout="shifted"), weights(), **ONE),
    "dtype": lambda: layer.conv2d(images(dtype="float16"), weights(dtype="float16"), **ONE),
    "padding": lambda: layer.conv2d(images(), weights(), **{**ONE, "padding": ((1, 1), (1, 0))}),
    "stride": lambda: layer.conv2d(images(), weights(), **{**ONE, "stride": (2, 1)}),
    "dilation": lambda: layer.conv2d(images(), weights(), **{**ONE, "dilation": (1, 2)}),
    "groups": lambda: layer.conv2d(images(), weights((4, 2, 3, 3)), **{**ONE, "groups": 2}),
    "bias": lambda: layer.conv2d(images(), weights(), **ONE, bias=on_device(np.ones(4, "f"))),
}


def weights(shape: tuple[int, ...] = (4, 4, 3, 3), dtype: str = "float32") -> Any:
    return images(shape, dtype)


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_thing_that_matters_makes_a_plan_and_nothing_else(change: Callable[[], Any]) -> None:
    x, w = images(), weights()
    layer.conv2d(x, w, **ONE)
    layer.conv2d(x + 1, w + 1, **ONE)
    assert plans() == 1
    change()
    assert plans() == 2
    change()
    layer.conv2d(x, w, **ONE)
    assert plans() == len(fake_cudnn.built) == 2


@pytest.mark.usefixtures("cudnn")
def test_modes_make_plans() -> None:
    def convolve(dtype: str) -> None:
        layer.conv2d(images(dtype=dtype), weights(dtype=dtype), **ONE)

    for expected, change in enumerate((
        lambda: None,
        lambda: tc.set_float32_precision("tf32"),
        lambda: tc.use_deterministic_algorithms(True),
        lambda: tc.set_float32_precision("highest"),
    ), 1):  # fmt: skip
        change()
        convolve("float32")
        assert plans() == expected
    tc.use_deterministic_algorithms(False)
    convolve("float32")
    assert plans() == 4
    convolve("float16")
    tc.set_float32_precision("tf32")
    convolve("float16")  # TF32 is a way to multiply float32
    assert plans() == 5


ENGINES = {  # the fake's engine by dtype, precision and deterministic mode
    ("float32", "highest", False): "atomics",
    ("float32", "highest", True): "plain",
    ("float32", "tf32", False): "tf32",
    ("float32", "tf32", True): "tf32",
    ("float16", "highest", False): "atomics",
    ("float16", "tf32", True): "tensor cores",
}


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize(("mode", "engine"), ENGINES.items(), ids=map(str, ENGINES))
@pytest.mark.parametrize("kernel", KERNELS)
def test_how_exact_and_how_repeatable(kernel: str, mode: Any, engine: str) -> None:
    """Each engine of the fake computes as inexactly as its notes say."""
    dtype, precision, deterministic = mode
    tc.set_float32_precision(precision)
    tc.use_deterministic_algorithms(deterministic)
    x, w = values((4, 8, 9, 9), 0, dtype), values((8, 8, 3, 3), 1, dtype)
    options = {
        "conv2d": {}, "conv2d_input": {"input_size": (9, 9)},
        "conv2d_weight": {"kernel_size": (3, 3)},
    }[kernel]  # fmt: skip
    arrays = (x, x[::-1].copy()) if kernel == "conv2d_weight" else (x, w)
    runs = [
        getattr(layer, kernel)(*map(on_device, arrays), **options, **ONE).get() for _ in range(5)
    ]
    assert fake_cudnn.built[-1].engine == engine
    assert deterministic <= all(np.array_equal(run, runs[0]) for run in runs)
    exact = getattr(reference, kernel)(*(a.astype("float64") for a in arrays), **options, **ONE)
    found = error(runs[0], exact)
    if engine == "tf32":
        assert 1e-5 < found < 2e-3
    else:
        assert found < TOLERANCE[dtype]


@pytest.mark.usefixtures("cudnn")
def test_on_another_stream_and_in_a_captured_graph() -> None:
    cupy = fake_cupy.cupy
    x, w = images(), weights()
    expected = layer.conv2d(x, w, **ONE).get()
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with stream:
        layer.conv2d(x, w, **ONE)
        with cupy.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            y = layer.conv2d(x, w, **ONE)
            graph = stream.end_capture()
    x *= 2
    graph.launch()
    np.testing.assert_allclose(y.get(), 2 * expected, atol=1e-4)
    assert plans() == 1


@pytest.mark.usefixtures("cudnn")
def test_each_thread_has_a_handle_on_its_own_stream() -> None:
    cupy = fake_cupy.cupy
    library, barrier = layer._library(cupy), Barrier(2)  # so that one thread cannot serve both
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: (barrier.wait(), library.handle())[1], range(2))
    assert len({first, second, library.handle()}) == 3
    with cupy.cuda.Stream() as stream:
        assert fake_cudnn.get_stream(library.handle()) == stream.ptr
    assert fake_cudnn.get_stream(library.handle()) == 0


# --------------------------------------------------------------------------------- the next layer


@pytest.mark.usefixtures("cudnn")
def test_a_geometry_without_a_plan_is_said_once_and_served_by_the_next_layer() -> None:
    fake_cudnn.refused.append(lambda graph: graph._given().stride == (2, 2))
    x = tc.randn(2, 4, 6, 6)
    w = tc.randn(4, 4, 3, 3)
    said = r"no plan for conv_fprop of float32 \(2, 4, 6, 6\).*No valid engine.*next slower layer"
    with pytest.warns(UserWarning, match=said) as told:
        y = F.conv2d(x.cuda(), w.cuda(), stride=2)
    assert len(told) == 1
    F.conv2d(x.cuda(), w.cuda(), stride=2)  # a warning is an error here
    assert backend_named("cuda").served["conv2d", "reference"] == 2
    np.testing.assert_allclose(y.cpu(), F.conv2d(x, w, stride=2), atol=1e-4)
    F.conv2d(x.cuda(), w.cuda())
    assert backend_named("cuda").served["conv2d", "cudnn"] == 1


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize("dtype", ["float64", "int64", "bool"])
def test_other_dtypes_are_left_to_the_next_layer(dtype: str) -> None:
    x = on_device(np.ones((2, 2, 3, 3), dtype))
    assert {
        type(result)
        for result in (
            layer.conv2d(x, x, **ONE),
            layer.conv2d_input(x, x, input_size=(3, 3), **ONE),
            layer.conv2d_weight(x, x, kernel_size=(3, 3), **ONE),
        )
    } == {type(NotImplemented)}


@pytest.mark.usefixtures("cudnn")
def test_what_no_plan_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = images(), weights()
    cases = [
        lambda: layer.conv2d(x, w.astype("float16"), **ONE),
        lambda: layer.conv2d(x, w, **ONE, bias=on_device(np.ones(4))),
        lambda: layer.conv2d(x[:0], w, **ONE),
        lambda: layer.conv2d(x, weights((4, 4, 9, 9)), **ONE),
        lambda: layer.conv2d_input(x[:, :, 1:], w, input_size=(6, 6), **ONE),
        lambda: layer.conv2d_weight(x, x[:, :, 1:], kernel_size=(3, 3), **ONE),
    ]
    assert all(case() is NotImplemented for case in cases)
    assert plans() == 0
    monkeypatch.setattr(layer, "LARGEST", x.size)
    assert layer.conv2d(x, w, **ONE) is NotImplemented


@pytest.mark.usefixtures("cudnn")
def test_an_output_padding_beyond_the_stride_is_right_without_a_warning() -> None:
    x, w = tc.randn(1, 2, 3, 3), tc.randn(2, 2, 3, 3)
    how: Any = {"stride": 2, "dilation": 3, "output_padding": 2}
    y = F.conv_transpose2d(x.cuda(), w.cuda(), **how)
    np.testing.assert_allclose(y.cpu(), F.conv_transpose2d(x, w, **how), atol=1e-5)
    assert served_by() == {("conv2d_input", "reference")}


# ---------------------------------------------------------------------------------- the ladder


def config_text() -> str:
    return "\n".join(config.config_lines())


def findings() -> str:
    return "\n".join(str(finding) for finding in doctor.examine() if finding.topic == "cuda")


@pytest.mark.usefixtures("cudnn")
def test_the_live_path_is_said() -> None:
    F.conv2d(tc.randn(1, 2, 4, 4, device="cuda"), tc.randn(2, 2, 3, 3, device="cuda"))
    for said in (config_text(), findings()):
        assert "convolutions by cudnn (cuDNN 9.19.0, frontend 1.25.0)" in said.replace(
            ": by", " by"
        )
    assert "conv2d: 1 by cudnn" in config_text()


@pytest.mark.usefixtures("gpu")
def test_a_package_that_was_not_installed_is_named_and_nobody_is_warned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ladder, "RUNGS", ["cudnn"])
    monkeypatch.setattr(layer, "find_spec", lambda name: None)
    tc.zeros(1, device="cuda")  # a warning is an error here
    assert "not cudnn: nvidia-cudnn-frontend is not installed; pip install" in config_text()
    assert "convolutions: by reference" in config_text()
    assert "not the faster cudnn: nvidia-cudnn-frontend is not installed" in findings()
    assert "to get it: pip install 'nvidia-cudnn-frontend>=1.23,<1.27' nvidia-cudnn" in findings()


BROKEN: dict[str, tuple[str, Any, str]] = {
    "no library": ("backend_version", RuntimeError("cudnnGetVersion"), "finds no cuDNN.*pip inst"),
    "no driver": ("create_handle", RuntimeError("cudnnHandle Create failed"), "Create failed"),
    "no graphs": ("pygraph", AttributeError("another frontend"), "another frontend"),
}


@pytest.mark.parametrize(("name", "problem", "said"), BROKEN.values(), ids=BROKEN)
def test_a_cudnn_that_does_not_work_is_one_step_down(
    cudnn: Any, monkeypatch: pytest.MonkeyPatch, name: str, problem: Exception, said: str
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise problem

    monkeypatch.setattr(cudnn, name, fails)
    with pytest.warns(UserWarning, match=f"without the layer 'cudnn'.*{said}") as told:
        tc.zeros(1, device="cuda")
    assert len(told) == 1
    assert re.search(f"not cudnn: .*{said}", config_text())
    assert "convolutions: by reference" in config_text()


# --------------------------------------------------------------------------------- a train step

LAUNCHES = 87  # of a step of ResNet-8 with kernels.cu and cuDNN; 100 were the goal


@pytest.mark.usefixtures("own_kernels", "cudnn")
def test_launches_of_a_train_step() -> None:
    step = Step("cuda")
    step()
    with measured() as meter, no_synchronisation():
        step()
    print(f"ResNet-8, forward, backward and SGD: {meter}")
    assert meter.launches <= LAUNCHES
    convolutions = {kind: n for kind, n in meter.kernels.items() if kind.startswith("conv_")}
    assert convolutions == {"conv_fprop": 9, "conv_dgrad": 8, "conv_wgrad": 9}
    assert not {"im2col", "col2im", "im2col_and_rows", "swap_rows"} & set(meter.kernels)


@pytest.mark.usefixtures("own_kernels", "cudnn")
def test_train_steps() -> None:
    """Losses, parameters and running statistics after two steps are those of the CPU."""
    step, same = Step("cuda"), Step("cpu")
    for _ in range(2):
        assert step().item() == pytest.approx(same().item(), rel=1e-4)
    assert {name for _, name in served_by()} == {"cudnn"}
    expected = same.model.state_dict()
    for key, value in step.model.state_dict().items():
        scale = max(float(abs(expected[key]).max()), 1)
        found = value.cpu().numpy()
        np.testing.assert_allclose(found, expected[key].numpy(), atol=1e-4 * scale, err_msg=key)


@pytest.mark.usefixtures("own_kernels", "cudnn")
def test_deterministic_train_steps_give_the_same_bits() -> None:
    tc.use_deterministic_algorithms(True)

    def parameters() -> list[bytes]:
        step = Step("cuda")
        for _ in range(2):
            step()
        return [p.detach().cpu().numpy().tobytes() for p in step.model.parameters()]

    assert parameters() == parameters()
    assert {graph.engine for graph in fake_cudnn.built if graph.io == "FLOAT"} >= {"plain"}


@pytest.mark.usefixtures("cudnn")
def test_double_backward_of_the_network() -> None:
    def second(device: str) -> list[Any]:
        model, (inputs, labels) = resnet(device), batch(device)
        parameters = list(model.parameters())
        loss = F.cross_entropy(model(inputs), labels)
        first = tc.grad(loss, parameters, create_graph=True)
        norm = sum((g * g).sum() for g in first)
        return list(tc.grad(norm, parameters, allow_unused=True))

    with no_synchronisation():
        found = second("cuda")
    for g, expected in zip(found, second("cpu"), strict=True):
        scale = float(expected.abs().max())
        np.testing.assert_allclose(g.cpu().numpy(), expected.numpy(), atol=2e-3 * scale)
    assert {name for _, name in served_by()} == {"cudnn"}


@pytest.mark.usefixtures("cudnn")
def test_autocast_multiplies_in_half_on_tensor_cores() -> None:
    x, w = tc.randn(2, 4, 6, 6), tc.randn(4, 4, 3, 3)
    with tc.amp.autocast():
        y = F.conv2d(x.cuda(), w.cuda())
    assert fake_cudnn.built[-1].io == "HALF"
    np.testing.assert_allclose(y.cpu(), F.conv2d(x, w), atol=3e-2)


# --------------------------------------------------------------------- the tests, with mistakes


EXCHANGED = {"conv_fprop": "conv_fprop", "conv_dgrad": "conv_wgrad", "conv_wgrad": "conv_dgrad"}


def describe(change: Callable[[Any], dict[str, Any]]) -> Callable[[pytest.MonkeyPatch], None]:
    """The graph is made with something else in the problem."""

    def patch_(patch: pytest.MonkeyPatch) -> None:
        right = layer._describe
        patch.setattr(layer, "_describe", lambda graph, p: right(graph, p._replace(**change(p))))

    return patch_


def forget_dilation(patch: pytest.MonkeyPatch) -> None:
    right = fake_cudnn.Convolution.compute

    def compute(self: Any, *args: Any) -> Any:
        kept, self.dilation = self.dilation, (1, 1)
        try:
            return right(self, *args)
        finally:
            self.dilation = kept

    patch.setattr(fake_cudnn.Convolution, "compute", compute)


def forget_the_order_of_plans(patch: pytest.MonkeyPatch) -> None:
    right = fake_cudnn.pygraph.validate

    def validate(self: Any) -> None:
        self.deselect_numeric_notes([])
        right(self)

    patch.setattr(fake_cudnn.pygraph, "validate", validate)


class Exchanged(layer.Plan):
    def __new__(cls, graph: Any, names: Any, workspace: int) -> Any:
        return super().__new__(cls, graph, (names[1], names[0], *names[2:]), workspace)


def lie_of_alignment(patch: pytest.MonkeyPatch) -> None:
    right = layer._operand
    patch.setattr(layer, "_operand", lambda x: right(x)._replace(alignment=16))


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the two gradients exchanged": describe(lambda p: {"kind": EXCHANGED[p.kind]}),
    "dilation ignored by the plan": describe(lambda p: {"dilation": (1, 1)}),
    "dilation ignored by the library": forget_dilation,
    "stride ignored": describe(lambda p: {"stride": (1, 1)}),
    "padding before for padding after": describe(
        lambda p: {"padding": tuple(pad[::-1] for pad in p.padding)}
    ),
    "operands exchanged": lambda patch: patch.setattr(layer, "Plan", Exchanged),
    "strides of another layout": lambda patch: patch.setattr(layer, "_packed", lambda x: x),
    "alignment promised that is not there": lie_of_alignment,
    "TF32 not refused": lambda patch: patch.setattr(layer, "_refused", lambda *_: []),
    "notes refused before there are plans": forget_the_order_of_plans,
    "no workspace": lambda patch: patch.setattr(
        fake_cudnn.pygraph, "get_workspace_size", lambda self: 0
    ),
}


@pytest.mark.usefixtures("cudnn")
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_caught(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tc.zeros(1, device="cuda")
    mistake(monkeypatch)
    # A graph that does not fit has no plan: there is a warning, and check_drawn fails.
    monkeypatch.setattr(layer.warnings, "warn", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        draw_all(HOW)


# ------------------------------------------------------------------------- the fake is strict


def graph_of(frontend: Any, handle: int, **changes: Any) -> tuple[Any, list[Any]]:
    """A described convolution of (1, 2, 4, 4) with (2, 2, 3, 3), not validated."""
    graph = frontend.pygraph(
        io_data_type=frontend.data_type.FLOAT, compute_data_type=frontend.data_type.FLOAT,
        handle=handle, sm_version=90,
    )  # fmt: skip
    x = graph.tensor(dim=(1, 2, 4, 4), stride=changes.get("stride", (32, 16, 4, 1)))
    w = graph.tensor(dim=changes.get("weight", (2, 2, 3, 3)), stride=(18, 9, 3, 1))
    one = dict.fromkeys(("pre_padding", "post_padding", "stride", "dilation"), (1, 1))
    y = graph.conv_fprop(x, w, **one)
    y.set_output(True).set_dim(changes.get("out", (1, 2, 4, 4))).set_stride((32, 16, 4, 1))
    return graph, [x, w, y]


def planned(graph: Any, frontend: Any) -> None:
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([frontend.heur_mode.A])
    graph.check_support()
    graph.build_plans()


def refuse_execution(frontend: Any, change: Callable[[Any, list[Any], Any], Any]) -> None:
    handle = frontend.create_handle()
    graph, tensors = graph_of(frontend, handle)
    planned(graph, frontend)
    held = [images((1, 2, 4, 4)), images((2, 2, 3, 3)), images((1, 2, 4, 4))]
    scratch = fake_cupy.cupy.empty((graph.get_workspace_size(),), np.uint8)
    pack: dict[Any, Any] = {t: a.data.ptr for t, a in zip(tensors, held, strict=True)}
    graph.execute(pack, scratch.data.ptr, handle=handle)  # nothing is wrong yet
    options = {"workspace": scratch.data.ptr, "handle": handle}
    change(pack, tensors, options)
    graph.execute(pack, **options)


HOST = np.ones((2, 4, 4), np.float32)
MISUSE: dict[str, tuple[type[Exception], str, Callable[[Any], Any]]] = {
    "an unknown keyword": (TypeError, "groups", lambda c: graph_of(c, c.create_handle())[0]
        .conv_fprop(None, None, groups=1)),
    "a float for a size": (TypeError, "dim", lambda c: c.pygraph().tensor(dim=(1.5,), stride=(1,))),
    "no number for a handle": (TypeError, "handle", lambda c: c.pygraph(handle="cuda")),
    "an array for a tensor": (TypeError, "image", lambda c: c.pygraph().conv_fprop(HOST, HOST)),
    "no geometry": (ValueError, "Pre padding not set", lambda c: (
        g := c.pygraph(), g.conv_fprop(*[g.tensor((1, 1, 1, 1), (1, 1, 1, 1))] * 2), g.validate())),
    "a weight's gradient without sizes": (Undefined, "the process dies", lambda c: (
        g := c.pygraph(), t := g.tensor((1, 1, 1, 1), (1, 1, 1, 1)),
        g.conv_wgrad(t, t, (0, 0), (0, 0), (1, 1), (1, 1)), g.validate())),
    "an input's gradient without sizes": (ValueError, "dgrad node", lambda c: (
        g := c.pygraph(), t := g.tensor((1, 1, 1, 1), (1, 1, 1, 1)),
        g.conv_dgrad(t, t, (0, 0), (0, 0), (1, 1), (1, 1)), g.validate())),
    "sizes that do not fit": (RuntimeError, "finalize", lambda c: planned(
        graph_of(c, c.create_handle(), out=(1, 2, 3, 4))[0], c)),
    "channels that do not fit": (RuntimeError, "finalize", lambda c: planned(
        graph_of(c, c.create_handle(), weight=(2, 3, 3, 3))[0], c)),
    "a negative stride": (RuntimeError, "Finalize", lambda c: planned(
        graph_of(c, c.create_handle(), stride=(32, 16, 4, -1))[0], c)),
    "a stride of 0": (fake_cudnn.cudnnGraphNotSupportedError, "No valid", lambda c: planned(
        graph_of(c, c.create_handle(), stride=(0, 16, 4, 1))[0], c)),
    "strides too few": (ValueError, "dimensionality", lambda c: planned(
        graph_of(c, c.create_handle(), stride=(16, 4, 1))[0], c)),
    "plans before the graph": (fake_cudnn.cudnnGraphNotSupportedError, "Empty operation",
        lambda c: graph_of(c, c.create_handle())[0].create_execution_plans([c.heur_mode.A])),
    "support before plans": (fake_cudnn.cudnnGraphNotSupportedError, "No execution plans",
        lambda c: graph_of(c, c.create_handle())[0].check_support()),
    "notes before plans": (Undefined, "deselect_numeric_notes before plans",
        lambda c: graph_of(c, c.create_handle())[0].deselect_numeric_notes([])),
    "a workspace before plans": (RuntimeError, "Plan index -1",
        lambda c: graph_of(c, c.create_handle())[0].get_workspace_size()),
    "execution before plans": (RuntimeError, "Plan index -1",
        lambda c: graph_of(c, c.create_handle())[0].execute({}, 0)),
    "a tensor without memory": (ValueError, "not found in variant pack",
        lambda c: refuse_execution(c, lambda pack, t, o: pack.pop(t[0]))),
    "memory of the host": (Undefined, "not the address",
        lambda c: refuse_execution(c, lambda pack, t, o: pack.update({t[0]: HOST.ctypes.data}))),
    "memory that was given back": (Undefined, "not the address",
        lambda c: refuse_execution(c, lambda pack, t, o: pack.update({t[0]: images().data.ptr}))),
    "memory that is too short": (Undefined, "not the address", lambda c: refuse_execution(
        c, lambda pack, t, o: o.update(workspace=pack[t[0]]))),
    "no workspace": (Undefined, "not the address",
        lambda c: refuse_execution(c, lambda pack, t, o: o.update(workspace=0))),
    "an array for an address": (Undefined, "by their addresses",
        lambda c: refuse_execution(c, lambda pack, t, o: pack.update({t[0]: images()}))),
    "a float for an address": (ValueError, "__dlpack__",
        lambda c: refuse_execution(c, lambda pack, t, o: pack.update({t[0]: 64.0}))),
    "a result over an operand": (Undefined, "where an operand lies",
        lambda c: refuse_execution(c, lambda pack, t, o: pack.update({t[2]: pack[t[0]]}))),
    "another stream": (Undefined, "another stream",
        lambda c: refuse_execution(c, lambda pack, t, o: c.set_stream(o["handle"], 5))),
    "an unknown handle": (Undefined, "is no handle", lambda c: c.set_stream(handle=7, stream=0)),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "said", "misuse"), MISUSE.values(), ids=MISUSE)
def test_the_fake_refuses(
    cudnn: Any, kind: type[Exception], said: str, misuse: Callable[[Any], Any]
) -> None:
    with pytest.raises(kind, match=said):
        misuse(cudnn)


def test_the_fake_is_found_and_gone_again() -> None:
    before = find_spec("cudnn")
    with fake_cudnn.installed() as frontend:
        assert find_spec("cudnn") is not None
        with pytest.raises(AttributeError):
            frontend.conv2d  # noqa: B018
    assert find_spec("cudnn") == before


# --------------------------------------------------------------------------------- NVIDIA's own

needs_frontend = pytest.mark.skipif(
    find_spec("cudnn") is None, reason="needs the frontend: pip install nvidia-cudnn-frontend"
)


def documented(function: Any) -> list[str]:
    """Parameters of a function of pybind11, from its docstring; of its last overload."""
    if inspect.isfunction(function):
        return [*inspect.signature(function).parameters]
    signature = re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> ", function.__doc__, re.MULTILINE)[-1]
    return re.findall(r"(?:^|, )(\w+): ", signature)


@needs_frontend
def test_the_fake_has_the_real_signatures() -> None:
    import cudnn as real

    def compare(ours_: Any, theirs: Any, name: str) -> None:
        parameters = [*inspect.signature(getattr(ours_, name)).parameters]
        found = documented(getattr(theirs, name))
        assert parameters == found[: len(parameters)], name  # 1.24 and 1.25 added some at the end

    for name in ("create_handle", "destroy_handle", "set_stream", "get_stream"):
        compare(fake_cudnn, real, name)
    for kind in ("tensor", "pygraph"):
        ours_, theirs = getattr(fake_cudnn, kind), getattr(real, kind)
        names = [n for n, member in vars(ours_).items() if inspect.isfunction(member)]
        public = [n for n in names if not n.startswith("_")]
        assert len(public) > 5
        for name in (*public, *(["__init__"] if kind == "pygraph" else [])):
            compare(ours_, theirs, name)
    for name in ("data_type", "heur_mode", "numerical_note", "build_plan_policy",
                 "tensor_reordering"):  # fmt: skip
        members = {member.name for member in getattr(fake_cudnn, name)}
        assert members == set(getattr(real, name).__members__), name


DEVICE = {  # an H200, as cuDNN writes one down
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
    "regsPerBlock": 65536, "multiProcessorCount": 132, "smCountOrigin": 0, "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024, "oversizedSharedMemoryPerBlock": 0,
    "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1,
    "totalGlobalMem": 150000000000, "smClockRateKHz": 1980000, "memClockRateKHz": 3201000,
    "memoryBusWidth": 6144, "l2CacheSize": 62914560, "cudaDeviceId": 0, "deviceVer": 900,
    "driverVer": 12080, "deviceName": "NVIDIA H200",
}  # fmt: skip
DRIVER = "".join(  # what cuDNN's libraries are linked with, and do not call without a GPU
    f"int {name}() {{ return 100; }}\n"
    for name in ("cuGetErrorString", "cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload",
                 "cuTensorMapEncodeIm2col", "cuTensorMapEncodeTiled")
)  # fmt: skip
PROGRAM = """
import json, sys
import cudnn
from tinyconv.backend.cuda.cudnn import Operand, Problem, find_plan
device, problems = json.load(sys.stdin)
options = {"device_property": cudnn.create_device_properties(json.dumps(device)), "sm_version": 90}
def tuples(x):
    return tuple(map(tuples, x)) if isinstance(x, list) else x
found = []
for operands, *rest in map(tuples, problems):
    problem = Problem(rest[0], tuple(Operand(*o) for o in operands), *rest[1:])
    try:
        plan, refused = find_plan(cudnn, problem, **options), 0
    except (cudnn.cudnnGraphNotSupportedError, RuntimeError) as error:
        found.append(f"{problem}: {error}")
        continue
    for i in range(plan.graph.get_execution_plan_count()):
        try:
            plan.graph.build_plan_at_index(i)
        except (cudnn.cudnnGraphNotSupportedError, RuntimeError) as error:
            refused += "Deselecting" in str(error)
    found.append((plan.workspace, refused))
print(json.dumps(found))
"""


def has_library() -> bool:
    """Is cuDNN installed from NVIDIA's wheel?"""
    return any([*Path(folder or ".").glob("nvidia/cudnn/lib/libcudnn.so.*")] for folder in sys.path)


def found_without_a_gpu(problems: list[Any], folder: Path) -> list[Any]:
    """For each problem the workspace of the plan that the real cuDNN finds, or why it has none.

    And how many of the plans that it knows were refused for being inexact.
    """
    driver = folder / "libcuda.so.1"
    source = folder / "driver.c"
    source.write_text(DRIVER)
    subprocess.run(
        ["g++", "-xc", "-shared", "-fPIC", f"-Wl,-soname,{driver.name}", "-o", driver, source],
        check=True,
    )  # fmt: skip
    paths = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **paths}, text=True, capture_output=True,
        input=json.dumps([DEVICE, [[p.operands, p.kind, *p[2:]] for p in problems]]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def problems_of(run: Callable[[], Any]) -> list[Any]:
    """What cuDNN is asked for while something runs on the fake."""
    run()
    return [*layer._library(fake_cupy.cupy).plans]


needs_library = pytest.mark.skipif(
    find_spec("cudnn") is None or cuda_on_cpu.missing() is not None or not has_library(),
    reason="needs g++ and cuDNN: pip install nvidia-cudnn-frontend nvidia-cudnn-cu12",
)


@needs_library
@pytest.mark.parametrize("mode", ENGINES, ids=map(str, ENGINES))
def test_the_real_cudnn_has_plans_for_all_of_this(
    cudnn: Any, mode: tuple[str, str, bool], tmp_path: Path
) -> None:
    """A train step of ResNet-8, the samples of the registry and drawn geometries."""
    dtype, precision, deterministic = mode
    tc.set_float32_precision(precision)
    tc.use_deterministic_algorithms(deterministic)

    def run() -> None:
        with tc.amp.autocast() if dtype == "float16" else nullcontext():
            Step("cuda")()
        for case in CONVOLUTIONS:
            *_, function, sample = case.values
            ours(Call(function, sample, dtype, "cuda"))
        draw_all([(dtype, precision)])

    problems = problems_of(run)
    assert len(problems) > 100
    found = found_without_a_gpu(problems, tmp_path)
    assert [why for why in found if isinstance(why, str)] == []
    assert max(workspace for workspace, _ in found) <= layer.WORKSPACE


@needs_library
def test_the_real_cudnn_drops_plans_that_are_not_exact(cudnn: Any, tmp_path: Path) -> None:
    def run() -> None:
        x, w, g = images((64, 16, 28, 28)), images((32, 16, 3, 3)), images((64, 32, 14, 14))
        how: Any = {**ONE, "stride": (2, 2)}
        layer.conv2d(x, w, **how)
        layer.conv2d_input(g, w, input_size=(28, 28), **how)
        layer.conv2d_weight(x, g, kernel_size=(3, 3), **how)

    def in_every_mode() -> None:
        for precision in ("tf32", "highest"):
            for deterministic in (False, True):
                tc.set_float32_precision(precision)
                tc.use_deterministic_algorithms(deterministic)
                run()

    problems = problems_of(in_every_mode)
    found = found_without_a_gpu(problems, tmp_path)
    refused = {
        (p.kind, p.tf32, p.deterministic): count
        for p, (_, count) in zip(problems, found, strict=True)
    }
    for kind in ("conv_fprop", "conv_dgrad", "conv_wgrad"):
        assert refused[kind, False, False] > refused[kind, True, False] == 0
    for tf32 in (False, True):
        assert refused["conv_wgrad", tf32, True] > refused["conv_wgrad", tf32, False]
