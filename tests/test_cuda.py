"""The same code on a GPU, proven without one: everything runs on the strict fake of CuPy."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fake_cupy
import numpy as np
import pytest
from calls import Call, ours
from fake_cupy import measured, no_synchronisation
from hypothesis import HealthCheck, given, settings, strategies as st
from test_ops import CASES, FIXED, assert_all_close

import tinyconv as tc
from tinyconv import cli, doctor, nn, optim, train
from tinyconv.autograd import Op
from tinyconv.backend import array_module, backend_named, backend_of, config, reference
from tinyconv.backend.cuda import connection, ladder
from tinyconv.nn import functional as F
from tinyconv.samples import Sample, sample

pytestmark = pytest.mark.usefixtures("gpu")


def waits(name: str, sample: Sample) -> bool:
    """Does a shape depend on values, for which the host has to wait?

    So do a boolean index, and `one_hot` that is to find out the number of classes.
    """
    index = sample.params.get("index", ())
    parts = index if isinstance(index, tuple) else (index,)
    masks = any(getattr(part, "dtype", None) == "bool" for part in parts)
    return masks or (name == "one_hot" and len(sample.args) == 1)


def on_both(name: str, function: Any, sample: Sample, dtype: str = "float64") -> None:
    """Outputs, gradients and second gradients on the fake, and on the CPU."""
    call = Call(function, sample, dtype, "cuda")
    with nullcontext() if waits(name, sample) else no_synchronisation():
        found = ours(call)
    assert all(t is None or type(t.array) is fake_cupy.ndarray for t in found)
    assert_all_close(found, ours(Call(function, sample, dtype)), 1e-12)


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_operation(op: Op, sample: Sample) -> None:
    on_both(op.name, op, sample)


@pytest.mark.parametrize(("name", "function", "sample"), FIXED)
def test_function(name: str, function: Any, sample: Sample) -> None:
    on_both(name, function, sample)


# --------------------------------------------------------------------------------- a train step

BATCH = 4


def resnet(device: str) -> nn.Module:
    tc.manual_seed(1)
    return nn.resnet.resnet8(in_channels=1).to(device)


def batch(device: str) -> tuple[tc.Tensor, tc.Tensor]:
    rng = np.random.default_rng(2)
    images = rng.standard_normal((BATCH, 1, 28, 28)).astype(np.float32)
    return tc.tensor(images, device=device), tc.tensor(rng.integers(0, 10, BATCH), device=device)


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "Adam": lambda p: optim.Adam(p, 1e-3, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, 1e-3),
    "RMSprop": lambda p: optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
}


class Step:
    """A train step of ResNet-8 as people write it."""

    def __init__(self, device: str, name: str = "SGD") -> None:
        self.model = resnet(device)
        self.optimizer = OPTIMIZERS[name](self.model.parameters())
        self.schedule = optim.CosineAnnealingLR(self.optimizer, 10)
        self.images, self.labels = batch(device)

    def __call__(self) -> tc.Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_train_step_waits_for_nothing_and_moves_nothing(name: str) -> None:
    step = Step("cuda", name)
    step()
    with measured() as meter, no_synchronisation():
        loss = step()
    assert meter.host_to_device == meter.device_to_host == 0
    assert type(loss.array) is fake_cupy.ndarray
    for entry in step.optimizer.state.values():
        held = [v for v in entry.values() if isinstance(v, tc.Tensor)]
        assert all(type(v.array) is fake_cupy.ndarray for v in held)
    same = Step("cpu", name)
    same()
    assert loss.item() == pytest.approx(same().item(), rel=1e-4)


LAUNCHES = {"plain": 764, "own": 130}  # with cuDNN: test_cudnn.py


def launches_of_a_train_step() -> int:
    step = Step("cuda")
    step()
    with measured() as meter:
        step()
    print(f"ResNet-8, forward, backward and SGD: {meter}")
    return meter.launches


def test_launches_of_a_train_step() -> None:
    assert launches_of_a_train_step() <= LAUNCHES["plain"]


def test_clipping_waits_for_nothing() -> None:
    model, (images, labels) = resnet("cuda"), batch("cuda")
    F.cross_entropy(model(images), labels).backward()
    with measured() as meter, no_synchronisation():
        norm = optim.clip_grad_norm_(model.parameters(), 1e-3)
        optim.clip_grad_value_(model.parameters(), 1e-4)
    assert meter.host_to_device == 0
    assert norm.device == "cuda"
    assert max(float(p.grad.abs().max()) for p in model.parameters()) <= 1e-4


def test_double_backward_of_the_network() -> None:
    def second(device: str) -> list[Any]:
        model, (images, labels) = resnet(device), batch(device)
        parameters = list(model.parameters())
        loss = F.cross_entropy(model(images), labels)
        first = tc.grad(loss, parameters, create_graph=True)
        norm = sum((g * g).sum() for g in first)
        return list(tc.grad(norm, parameters, allow_unused=True))

    with no_synchronisation():
        found = second("cuda")
    for g, expected in zip(found, second("cpu"), strict=True):
        assert type(g.array) is fake_cupy.ndarray
        scale = float(expected.abs().max())
        np.testing.assert_allclose(g.cpu().numpy(), expected.numpy(), atol=2e-3 * scale)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1), (2, 2, 7)),
    "Conv2d, groups": (lambda: nn.Conv2d(4, 4, 3, stride=2, groups=2), (2, 4, 7, 7)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2), (2, 3, 4, 4)),
    "Linear": (lambda: nn.Linear(6, 3), (2, 6)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (2, 3, 4, 4)),
    "BatchNorm2d, mean of all": (lambda: nn.BatchNorm2d(3, momentum=None), (2, 3, 4, 4)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, track_running_stats=True), (2, 3, 4, 4)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (2, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 3, 3)),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1), (2, 3, 7, 7)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2, ceil_mode=True), (2, 3, 7, 7)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(3), (2, 3, 7, 7)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(3), (2, 3, 7, 7)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 3, 3)),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(2), (1, 2, 5, 5)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (1, 8, 3, 3)),
    "GELU": (nn.GELU, (3, 4)),
    "a block": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
                                      nn.Flatten(), nn.Linear(36, 2)), (2, 2, 5, 5)),
}  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("training", [True, False])
def test_module(make: Callable[[], nn.Module], shape: tuple[int, ...], training: bool) -> None:
    def run(device: str) -> list[Any]:
        tc.manual_seed(3)
        module = make().double().to(device).train(training)
        x = tc.randn(*shape, dtype=tc.float64).to(device).requires_grad_()
        with no_synchronisation():
            y = module(x)
            grads = tc.grad((y * y).sum(), [x, *module.parameters()])
        return [y, *grads, *module.buffers()]

    found = run("cuda")
    assert all(type(t.array) is fake_cupy.ndarray for t in found)
    assert_all_close(found, run("cpu"), 1e-12)


def test_embedding_and_dropout() -> None:
    words = tc.tensor([[1, 2], [0, 1]], device="cuda")
    table = nn.Embedding(4, 3).to("cuda")
    x = tc.ones(200, 50, device="cuda")
    with no_synchronisation(), measured() as meter:
        table(words).sum().backward()
        dropped = F.dropout(x, 0.25)
    assert table.weight.grad is not None
    assert table.weight.grad.tolist() == [[1.0] * 3, [2.0] * 3, [1.0] * 3, [0.0] * 3]
    assert meter.host_to_device == 0  # the mask is made on the device
    kept = (dropped.cpu().numpy() != 0).mean()
    assert kept == pytest.approx(0.75, abs=0.02)
    tc.manual_seed(5)
    first = F.dropout(x, 0.5).tolist()
    assert F.dropout(x, 0.5).tolist() != first
    tc.manual_seed(5)
    assert F.dropout(x, 0.5).tolist() == first


# ------------------------------------------------------------------------ with kernels of our own


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_operation_with_own_kernels(op: Op, sample: Sample) -> None:
    on_both(op.name, op, sample)


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize(("name", "function", "sample"), FIXED)
def test_function_with_own_kernels(name: str, function: Any, sample: Sample) -> None:
    on_both(name, function, sample)


@pytest.mark.usefixtures("own_kernels")
def test_launches_of_a_train_step_with_own_kernels() -> None:
    assert launches_of_a_train_step() <= LAUNCHES["own"]


@pytest.mark.usefixtures("own_kernels")
def test_a_max_pools_backward_asks_the_windows() -> None:
    """No thread adds up a whole plane: the geometry of the pool has come along."""
    x = tc.randn(2, 3, 7, 7, device="cuda", requires_grad=True)
    with measured() as meter:
        F.max_pool2d(x, 3, 2, 1).sum().backward()
    assert meter.kernels["max_pool2d_input"] == 1
    assert meter.kernels["pool_scatter"] == 0


@pytest.mark.usefixtures("own_kernels")
def test_running_statistics_take_one_launch_also_as_the_mean_of_all_batches() -> None:
    def trained(device: str) -> dict[str, Any]:
        tc.manual_seed(2)
        norm = nn.BatchNorm2d(3, momentum=None).to(device)
        for _ in range(3):
            norm(tc.randn(4, 3, 5, 5).to(device))
        return {key: value.cpu().numpy() for key, value in norm.state_dict().items()}

    with no_synchronisation(), measured() as meter:
        nn.BatchNorm2d(3, momentum=None, device="cuda")(tc.randn(4, 3, 5, 5, device="cuda"))
    assert meter.kernels["move_statistics"] == 1
    assert meter.kernels["add"] == 0
    found, expected = trained("cuda"), trained("cpu")
    assert found["num_batches_tracked"] == 3
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_train_steps_with_own_kernels(name: str) -> None:
    """Losses, parameters and running statistics after two steps are those of the CPU."""
    step, same = Step("cuda", name), Step("cpu", name)
    with no_synchronisation(), measured() as meter:
        losses = [step() for _ in range(2)]
    assert meter.kernels["im2col"] == 2 * 9
    for loss in losses:
        assert loss.item() == pytest.approx(same().item(), rel=1e-4)
    expected = same.model.state_dict()
    for key, value in step.model.state_dict().items():
        scale = max(float(abs(expected[key]).max()), 1)
        found = value.cpu().numpy()
        np.testing.assert_allclose(found, expected[key].numpy(), atol=1e-4 * scale, err_msg=key)


@pytest.mark.usefixtures("own_kernels")
def test_what_computes_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Step("cuda")()
    tc.show_config()
    said = capsys.readouterr().out
    assert 'cuda: kernels "fast" from own, xp, reference' in said
    assert "conv2d: 9 by own" in said
    (line,) = [str(finding) for finding in doctor.examine() if finding.topic == "cuda"]
    assert "own" in line


# ------------------------------------------------------------------------------ deterministic mode


def test_deterministic_mode_adds_without_atomics() -> None:
    x = tc.randn(2, 3, 8, 8, device="cuda", requires_grad=True)
    index = tc.tensor([0, 2, 0, 0, 1, 2], device="cuda")

    def gradient() -> tuple[Any, ...]:
        y = F.max_pool2d(x, 3, 1).sum() + (x.flatten()[index] * tc.arange(6, device="cuda")).sum()
        return tc.grad(y, x)

    with measured() as meter:
        (expected,) = gradient()
    assert meter.atomics == 2
    tc.use_deterministic_algorithms(True)
    assert tc.are_deterministic_algorithms_enabled()
    with measured() as meter, no_synchronisation():
        (found,) = gradient()
    assert meter.atomics == 0
    np.testing.assert_allclose(found.cpu().numpy(), expected.cpu().numpy(), rtol=1e-6)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-50, 50)), max_size=40))
def test_deterministic_sums_are_those_of_add_at(pairs: list[tuple[int, int]]) -> None:
    places = np.array([place for place, _ in pairs], np.int64)
    values = np.array([value for _, value in pairs], np.float64)
    expected = np.ones(7)
    np.add.at(expected, places, values)
    tc.use_deterministic_algorithms(True)
    out = fake_cupy.cupy.ones(7)
    backend_named("cuda").add_at(
        out, fake_cupy.asarray(places), fake_cupy.asarray(values)
    )
    np.testing.assert_array_equal(out.get(), expected)


def test_tf32_is_asked_of_cublas() -> None:
    chosen = fake_cupy.cupy._core._routines_linalg.chosen
    tc.zeros(1, device="cuda")
    assert chosen[np.dtype("float32")] == 1
    tc.set_float32_precision("tf32")
    assert tc.get_float32_precision() == "tf32"
    assert chosen[np.dtype("float32")] == 7
    with pytest.raises(ValueError, match="'highest' or 'tf32'"):
        tc.set_float32_precision("medium")
    tc.set_float32_precision("highest")
    assert chosen[np.dtype("float32")] == 1


# ------------------------------------------------------------------------------------ devices


def test_names_of_devices() -> None:
    assert tc.device("cuda") == "cuda"
    assert tc.device("cuda:0") == tc.device("cuda", 0) == "cuda:0"
    assert (tc.device("cuda:1").type, tc.device("cuda:1").index) == ("cuda", 1)
    assert tc.device("cpu").index is None
    assert repr(tc.device("cuda", 0)) == "device(type='cuda', index=0)"
    assert pickle.loads(pickle.dumps(tc.device("cuda:1"))).index == 1
    for wrong in ("tpu", "cuda:", "cuda:x", "cuda:-1"):
        with pytest.raises(tc.DeviceError, match="no backend for"):
            tc.device(wrong)


def test_a_tensor_moves_and_its_gradient_moves_back() -> None:
    x = tc.randn(3, 4, requires_grad=True)
    y = x.to("cuda")
    assert (y.device, y.is_cuda, x.is_cuda) == ("cuda", True, False)
    assert y.to("cuda") is y
    assert y.to(tc.device("cuda", 0)) is y
    assert y.cuda() is y
    (y * 2).sum().cpu().backward()
    assert type(x.grad.array) is np.ndarray
    assert x.grad.tolist() == [[2.0] * 4] * 3
    assert x.to("cuda", tc.float64).dtype == tc.float64
    assert x.to(tc.zeros(1, dtype=tc.float64, device="cuda")).device == "cuda"
    (second,) = tc.grad((x.cuda() ** 3).sum(), x, create_graph=True)
    assert type(tc.grad(second.sum(), x)[0].array) is np.ndarray


def test_creation_on_the_device() -> None:
    made = [
        tc.zeros(2, device="cuda"), tc.ones(2, device="cuda"), tc.full((2,), 3, device="cuda"),
        tc.arange(3, device="cuda"), tc.linspace(0, 1, 3, device="cuda"),
        tc.eye(2, device="cuda"), tc.randn(2, device="cuda"), tc.rand(2, device="cuda"),
        tc.randint(5, (2,), device="cuda"), tc.randperm(3, device="cuda"),
        tc.tensor([1, 2.0], device="cuda"), tc.empty(2, device="cuda"),
        tc.tensor(np.ones(2), device="cuda"), nn.Linear(2, 3, device="cuda").weight,
    ]  # fmt: skip
    for t in made:
        assert type(t.array) is fake_cupy.ndarray
        assert tc.zeros_like(t).device == "cuda"
    tc.manual_seed(0)
    on_gpu = tc.randn(5, device="cuda").tolist()
    tc.manual_seed(0)
    assert tc.randn(5).tolist() == on_gpu  # the host draws: every device starts from the same
    array = fake_cupy.cupy.ones(3)
    assert tc.tensor(array).device == "cuda"
    assert tc.tensor(array, device="cpu").device == "cpu"


def test_a_module_moves_with_its_optimizer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    assert model.cuda() is model
    assert {t.device for t in [*model.parameters(), *model.buffers()]} == {"cuda"}
    model(tc.randn(2, 1, 5, 5, device="cuda")).sum().backward()
    optimizer.step()
    assert {t.device for t in model.cpu().parameters()} == {"cpu"}


MIXED: dict[str, Callable[[tc.Tensor, tc.Tensor], Any]] = {
    "add": lambda x, y: x + y,
    "matmul": lambda x, y: x @ y,
    "where": lambda x, y: tc.where(y > 0, x, 0.0),
    "gather": lambda x, y: x.gather(1, y.long()),
    "cat": lambda x, y: tc.cat([x, y]),
    "conv2d": lambda x, y: F.conv2d(x[None, None], y[None, None, :2, :2]),
    "batch_norm": lambda x, y: F.batch_norm(x, None, None, y[0], y[0], training=True),
    "affine": lambda x, y: tc.no_grad()(F.batch_norm)(x, y[0], y[1], y[2], y[3]),
    r"x\[...\]": lambda x, y: x[y[0].long()],
    "add_": lambda x, y: x.add_(y),
    r"x\[...\] = value": lambda x, y: x.__setitem__(0, y[0]),
    "grad": lambda x, y: tc.grad(x.detach().requires_grad_() * 2, x, y),
}


@pytest.mark.parametrize(("name", "mix"), MIXED.items(), ids=MIXED)
def test_mixed_devices_name_the_operation_and_both_operands(name: str, mix: Any) -> None:
    x, y = tc.ones(4, 4, device="cuda"), tc.ones(4, 4)
    if name == "grad":
        x.requires_grad_()
        mix = lambda x, y: tc.grad(x * 2, x, y)  # noqa: E731
    with pytest.raises(tc.DeviceError, match=rf"{name}: .* on (cuda|cpu) and .* on (cuda|cpu);"):
        mix(x, y)


@pytest.mark.parametrize(
    "mix",
    [lambda x, a: x + a, lambda x, a: a * x, lambda x, a: x.copy_(a), lambda x, a: x.mul_(a),
     lambda x, a: x[a.astype(np.int64)[0]], lambda x, a: x.__setitem__(0, a[0])],
    ids=["x + a", "a * x", "copy_", "mul_", "x[a]", "x[0] = a"],
)  # fmt: skip
def test_numpy_arrays_are_never_converted_silently(mix: Any) -> None:
    x, array = tc.ones(4, 4, device="cuda"), np.ones((4, 4), np.float32)
    with pytest.raises(tc.DeviceError, match="on cpu"), measured() as meter:
        mix(x, array)
    assert meter.host_to_device == 0


def test_what_may_cross_devices() -> None:
    x = tc.zeros(2, 3, device="cuda")
    x.copy_(tc.ones(3))  # a copy between devices is what copy_ is for, as in PyTorch
    assert x.tolist() == [[1.0] * 3] * 2
    assert x[[1, 0]].device == "cuda"  # a list is no array: it becomes one where x is
    assert (x + np.float32(1)).tolist() == [[2.0] * 3] * 2  # numbers go everywhere
    with pytest.raises(tc.DeviceError, match=r"x\.cpu\(\)\.numpy\(\)"):
        x.numpy()


# ------------------------------------------------------------------ asking for what is not there


class Broken(types.ModuleType):
    """A CuPy whose driver says why there is no device."""

    __version__ = "14.2.0"

    def __init__(self, answer: Any) -> None:
        super().__init__("cupy")

        def count() -> int:
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=count))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (0, "no device is visible; see nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected"), "but no device"),
        (RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
         "the driver does not answer"),
    ],
    ids=["no device", "NoDevice", "no driver"],
)  # fmt: skip
def test_without_a_gpu_the_error_says_what_was_tried(
    answer: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # undone before the fake is taken out
        patch.setitem(sys.modules, "cupy", Broken(answer))
        assert not tc.cuda.is_available()
        assert tc.cuda.device_count() == 0
        with pytest.raises(tc.DeviceError, match=said):
            tc.zeros(2, device="cuda")


def test_without_cupy_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"cupy is not installed; pip install 'cupy-cuda12x"
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "cupy")
        patch.setattr(connection, "find_spec", lambda name: None)
        assert not tc.cuda.is_available()
        with pytest.raises(tc.DeviceError, match=said):
            nn.Linear(2, 2).to("cuda")


def test_a_second_gpu_is_refused_with_a_way_to_it() -> None:
    with pytest.raises(tc.DeviceError, match=r"tc\.cuda\.set_device\(1\)"):
        tc.zeros(2, device="cuda:1")


def test_the_cuda_namespace() -> None:
    assert tc.cuda.is_available()
    assert tc.cuda.why_not() is None
    assert tc.cuda.device_count() == 1
    assert tc.cuda.get_device_name() == "Fake GPU"
    with measured() as meter:
        tc.cuda.synchronize()
    assert meter.synchronisations == 1
    tc.cuda.empty_cache()
    assert tc.cuda.memory_allocated() == 0


def test_nothing_imports_cupy_before_it_is_asked_for() -> None:
    program = (
        "import sys, tinyconv as tc; tc.ones(2).sum(); tc.device('cuda'); tc.show_config();"
        "sys.exit('cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


# -------------------------------------------------------------------------------- the ladder


def layer(name: str, problem: str = "") -> types.ModuleType:
    """A layer of kernels that counts its calls, or that cannot work here."""
    made = types.ModuleType(f"tinyconv.backend.cuda.{name}")

    def prepare(cupy: Any) -> None:
        if problem:
            raise RuntimeError(problem)

    made.prepare = prepare
    made.relu = lambda x: reference.relu(x) if x.ndim == 2 else NotImplemented
    return made


def test_a_faster_layer_serves_what_it_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "RUNGS", ["swift"])
    monkeypatch.setitem(sys.modules, "tinyconv.backend.cuda.swift", layer("swift"))
    F.relu(tc.ones(2, 2, device="cuda"))
    F.relu(tc.ones(2, 2, 2, device="cuda"))
    served = backend_named("cuda").served
    assert served["relu", "swift"] == served["relu", "reference"] == 1
    assert "cuda: kernels \"fast\" from swift, xp, reference" in "\n".join(config.config_lines())


def test_one_warning_for_a_step_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ladder, "RUNGS", ["swift"])
    broken = layer("swift", "nvrtc is not there")
    monkeypatch.setitem(sys.modules, "tinyconv.backend.cuda.swift", broken)
    with pytest.warns(UserWarning, match="without the layer 'swift'.*nvrtc is not there") as told:
        tc.zeros(2, device="cuda")
    tc.zeros(2, device="cuda")
    assert len(told) == 1
    tc.show_config()
    assert "not swift: RuntimeError: nvrtc is not there" in capsys.readouterr().out
    lines = [str(finding) for finding in doctor.examine() if finding.topic == "cuda"]
    assert any("nvrtc is not there" in line for line in lines)


# ------------------------------------------------------------------------------ data, checkpoints


def test_mnist_on_the_device_sends_indices_only() -> None:
    host = tc.data.MNIST(source="sample")
    device = host.to("cuda")
    assert device.images.dtype == np.uint8
    assert host.to("cpu") is host
    assert type(host.images) is np.ndarray

    def shift(images: Any, rng: Any) -> Any:
        return tc.data.random_shift(images, 2, rng, host.black)

    def loader(dataset: Any) -> tc.data.DataLoader:
        return tc.data.DataLoader(dataset, 32, shuffle=True, seed=3, prefetch=0, transform=shift)

    with measured() as meter, no_synchronisation():
        images, labels = next(iter(loader(device)))
    assert meter.host_to_device <= 32 * 8 * 3  # 32 indices and 2 * 32 shifts
    assert (images.device, labels.device) == ("cuda", "cuda")
    expected, classes = next(iter(loader(host)))
    assert images.tolist() == expected.tolist()
    assert labels.tolist() == classes.tolist()
    image, label = device[5]
    assert image.tolist() == host[5][0].tolist()
    assert label == host[5][1]


@pytest.mark.usefixtures("own_kernels")
def test_a_batch_of_mnist_is_gathered_in_one_launch() -> None:
    host = tc.data.MNIST(source="sample")
    device, indices = host.to("cuda"), np.array([5, 3, 9999])
    with measured() as meter, no_synchronisation():
        images, _ = device.__getitems__(indices)
    assert meter.kernels == {"copy from host": 1, "gather_images": 1, "take": 1}
    assert images.get().tolist() == host.__getitems__(indices)[0].tolist()


def test_other_data_on_the_device() -> None:
    rng = np.random.default_rng(0)
    images = tc.randn(6, 1, 4, 4, device="cuda")
    dataset = tc.data.TensorDataset(images, tc.arange(6, device="cuda"))
    (batch, numbers), *_ = tc.data.DataLoader(dataset, 3, prefetch=0)
    assert batch.tolist() == images[:3].tolist()
    assert numbers.tolist() == [0, 1, 2]
    (single, _), *_ = tc.data.DataLoader([dataset[i] for i in range(4)], 4, prefetch=0)
    assert single.device == "cuda"
    flipped = tc.data.random_horizontal_flip(images.array, rng, p=1.0)
    assert flipped.tolist() == images.flip(3).tolist()


def test_a_checkpoint_moves_between_devices(tmp_path: Path) -> None:
    step = Step("cuda", "Adam")
    step()
    path = tmp_path / "run.safetensors"
    tc.save_checkpoint(path, model=step.model, optimizer=step.optimizer, schedule=step.schedule)
    expected = [step().item(), step().item()]
    for device in ("cuda", "cpu"):
        other = Step(device, "Adam")
        tc.load_checkpoint(path, model=other.model, optimizer=other.optimizer,
                           schedule=other.schedule)  # fmt: skip
        assert [other().item(), other().item()] == pytest.approx(expected, rel=1e-3)
        if device == "cuda":
            assert all(p.device == "cuda" for p in other.model.parameters())
    tc.save(step.model.state_dict(), tmp_path / "model.safetensors")
    assert tc.load(tmp_path / "model.safetensors")["fc.weight"].device == "cpu"
    loaded = tc.load(tmp_path / "model.safetensors", map_location="cuda")
    assert loaded["fc.weight"].device == "cuda"
    numpy_state = {k: v.cpu().numpy() for k, v in step.model.state_dict().items()}
    step.model.load_state_dict(numpy_state)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_train_mnist_on_the_device(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Few(tc.data.MNIST):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.images, self.labels = self.images[:64], self.labels[:64]

    monkeypatch.setitem(train.DATASETS, "mnist", Few)
    arguments = ["train", "mnist", "--data", "sample", "--epochs", "1", "--batch-size", "8"]
    assert cli.main([*arguments, "--device", asked, "--out", str(tmp_path)]) == 0
    assert train.Run(tmp_path).read_config().device == "cuda"
    assert (tmp_path / "report.html").exists()
    assert cli.main([*arguments[:2], "--resume", "--out", str(tmp_path)]) == 0


def test_the_trainer_reads_the_loss_when_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = train.Trainer(
        train.Config(data="sample", epochs=1, batch_size=4, device="cuda"), train.Run(tmp_path)
    )
    batches = iter(trainer.loader)
    monkeypatch.setattr(trainer, "note_every", 10**6)
    trainer.batch = 1
    with no_synchronisation(), measured() as meter:
        for _ in range(3):
            trainer.step(*next(batches))
    assert len(trainer.unread) == 3
    assert meter.host_to_device == 3 * (4 * 8 + 2 * 4 * 8)  # indices and shifts
    with measured() as meter:
        trainer.read()
    assert meter.synchronisations == 2  # three losses and three counts
    assert len(trainer.losses) == 3


# --------------------------------------------------------------------------- what people look at


def test_what_people_look_at_on_device_tensors() -> None:
    model, (images, labels) = resnet("cuda"), batch("cuda")

    def loss(x: tc.Tensor) -> tc.Tensor:
        return F.cross_entropy(model(x), labels)

    plain = resnet("cpu")
    found = tc.trace(loss, images, params=model, values=True, gradients=True).text()
    assert "cross_entropy" in found or "conv2d" in found
    assert tc.trace(model, images).text() == tc.trace(plain, images.cpu()).text()
    size = (2, 1, 28, 28)
    with tc.kernels("numpy"):  # what is kept for the backward pass is the kernels' own affair
        assert str(tc.summary(model, size)) == str(tc.summary(plain, size))
    assert str(tc.shapes(model, size)) == str(tc.shapes(plain, size))
    conv, x = nn.Conv2d(1, 2, 3, device="cuda"), tc.randn(1, 1, 5, 5, device="cuda")
    assert str(tc.explain(conv, x)) == str(tc.explain(conv.cpu(), x.cpu()))
    with tc.record() as tape:
        loss(images).backward()
    assert "conv1.grad" in str(tape)
    assert repr(images).startswith("tensor([[[[")


# ------------------------------------------------------------------------- other libraries' arrays


def test_memory_is_shared_with_cupy_in_both_directions() -> None:
    cupy = fake_cupy.cupy
    array = cupy.arange(6, dtype=np.float32).reshape(2, 3)
    with measured() as meter:
        made = [tc.from_dlpack(array), tc.as_tensor(array), tc.from_dlpack(OnlyInterface(array))]
        back = [cupy.from_dlpack(made[0]), cupy.asarray(made[0])]
    assert meter.launches == 0
    array.fill(7.0)
    assert all(t.tolist() == [[7.0] * 3] * 2 for t in made)
    assert all(a.tolist() == [[7.0] * 3] * 2 for a in back)
    assert {t.device for t in made} == {"cuda"}
    assert made[0].__dlpack_device__() == (2, 0)


class OnlyInterface:
    """An array as Numba has them: no DLPack."""

    def __init__(self, array: Any) -> None:
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def test_the_graph_is_not_lost_on_the_way_to_another_library() -> None:
    x = tc.ones(3, device="cuda", requires_grad=True)
    for lend in (fake_cupy.cupy.from_dlpack, fake_cupy.cupy.asarray):
        with pytest.raises(tc.GraphError, match=r"x\.detach\(\)"):
            lend(x)
    with pytest.raises(tc.GraphError, match="detach"):
        fake_cupy.cupy.ones(3) * x


# ------------------------------------------------------------------------- the tests are tested


def numpy_index(x: Any) -> Any:
    return x[np.array([2, 0, 1])]


def masked_ufunc(x: Any) -> Any:
    xp = array_module(x)
    return xp.add(x, 1, where=x > 0, out=xp.zeros_like(x))


def host_scalar(x: Any) -> Any:
    return x * float(x.max())


def sliding_windows(x: Any) -> Any:
    return array_module(x).lib.stride_tricks.sliding_window_view(x, (2, 2)).sum((2, 3))


def list_operand(x: Any) -> Any:
    return x + [[1.0], [2.0], [3.0]]  # noqa: RUF005


def to_the_host_and_back(x: Any) -> Any:
    return array_module(x).asarray(np.exp(backend_of(x).to_numpy(x)))


def out_of_range(x: Any) -> Any:
    if array_module(x) is np:
        return x[np.array([0])]
    return x[fake_cupy.asarray([3])]


@pytest.mark.parametrize(
    "forward",
    [numpy_index, masked_ufunc, host_scalar, sliding_windows, list_operand, to_the_host_and_back,
     out_of_range],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_an_operation_that_a_gpu_would_not_run_is_caught(forward: Any) -> None:
    wrong = tc.op(differentiable=False)(forward)
    call = sample((3, 4))
    ours(Call(wrong, call))  # right on the CPU
    with pytest.raises((TypeError, NotImplementedError, AssertionError, tc.DTypeError)):
        on_both(wrong.name, wrong, call)
