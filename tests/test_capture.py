"""Captured train steps, on the fake CuPy: what a graph computes is what the step would compute."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import fake_cupy
import numpy as np
import pytest
from fake_cublas import Cublas
from fake_cupy import measured, no_synchronisation

import tinyconv as tc
from tinyconv import nn, optim, train
from tinyconv.backend import backend_named
from tinyconv.backend.cuda import cublas
from tinyconv.nn import functional as F

pytestmark = pytest.mark.usefixtures("own_kernels", "blas")
BATCH = 4


@pytest.fixture
def blas(monkeypatch: pytest.MonkeyPatch) -> Cublas:
    made = Cublas()
    monkeypatch.setattr(cublas, "library", lambda: made)
    return made


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, momentum=None), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 4 * 4, 5),
    )  # fmt: skip


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.2, weight_decay=5e-4),
    "Adam": lambda p: optim.Adam(p, 1e-2, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, 1e-2),
    "RMSprop": lambda p: optim.RMSprop(p, 1e-2, momentum=0.9),
}


class Training:
    """A model, what trains it, and the step as people write it."""

    def __init__(self, name: str = "SGD", model: Callable[[], nn.Module] = network) -> None:
        tc.manual_seed(1)
        self.model = model().to("cuda")
        self.optimizer = OPTIMIZERS[name](self.model.parameters())
        self.schedule = optim.StepLR(self.optimizer, 2, gamma=0.5)

    def step(self, images: tc.Tensor, labels: tc.Tensor) -> dict[str, tc.Tensor]:
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optim.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return {"loss": loss, "right": (logits.argmax(1) == labels).sum()}

    def state(self) -> list[np.ndarray]:
        parts = [self.model.state_dict(), *self.optimizer.state_dict()["state"].values()]
        tensors = [t for part in parts for t in part.values() if isinstance(t, tc.Tensor)]
        steps = [np.asarray(part.get("step", 0)) for part in parts[1:]]
        rates = np.asarray(self.schedule.get_last_lr())
        return [*[t.cpu().numpy() for t in tensors], *steps, rates]


def batches(count: int) -> list[tuple[tc.Tensor, tc.Tensor]]:
    rng = np.random.default_rng(7)
    made = [
        (rng.standard_normal((BATCH, 1, 12, 12)).astype(np.float32), rng.integers(0, 5, BATCH))
        for _ in range(count)
    ]
    return [tuple(tc.tensor(a, device="cuda") for a in pair) for pair in made]  # type: ignore[misc]


def assert_same_bits(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_captured_steps_give_the_bits_of_plain_steps(name: str) -> None:
    """Parameters, running statistics, moments, step counts and a learning rate that changes."""
    plain, same = Training(name), Training(name)
    data = batches(7)
    captured = tc.cuda.graph(same.step, data[0])
    for i, (images, labels) in enumerate(data):
        expected, found = plain.step(images, labels), captured(images, labels)
        assert found["loss"].item() == expected["loss"].item()
        assert found["right"].item() == expected["right"].item()
        if i == 3:  # what a user writes counts as well
            for training in (plain, same):
                training.optimizer.param_groups[0]["lr"] *= 3
    assert_same_bits(same.state(), plain.state())
    assert same.schedule.last_epoch == 7
    for p, q in zip(same.model.parameters(), plain.model.parameters(), strict=True):
        np.testing.assert_array_equal(p.grad.cpu().numpy(), q.grad.cpu().numpy())


def test_one_launch_takes_the_place_of_the_step() -> None:
    training, (data, *_) = Training(), batches(1)
    captured = tc.cuda.graph(training.step, data)
    with no_synchronisation():
        captured(*data)
        with measured() as first:
            captured(*data)
        with measured() as meter:
            captured(*data)
    assert first.kernels == meter.kernels  # capturing launches nothing
    # two inputs, what comes before the optimizer and after it, two outputs
    assert meter.kernels == {"__setitem__": 2, "graph": 2, "sgd": 1, "copy": 2}
    assert meter.host_to_device == meter.device_to_host == 0


def test_the_products_of_a_capture_are_cublass(blas: Cublas) -> None:
    training, (data, *_) = Training(), batches(1)
    captured = tc.cuda.graph(training.step, data)
    captured(*data)
    assert blas.calls == []
    tc.set_float32_precision("tf32")
    captured(*data)
    assert blas.calls == ["tf32"] * (2 + 2 + 1 + 3)  # convolutions, of the second also dx; linear
    assert blas.handles == {}
    captured(*data)
    assert len(blas.calls) == 8


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "shapes",
    [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((1, 4), (4, 1)),
     ((3, 0), (0, 2)), ((2, 3, 4), (4, 5))],
    ids=str,
)  # fmt: skip
def test_products_of_every_layout(shapes: Any, dtype: str) -> None:
    xp, rng = fake_cupy.cupy, np.random.default_rng(0)
    hosts = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    for turned in [(False, False), (True, False), (False, True), (True, True)]:
        operands = [
            xp.asarray(h.swapaxes(-1, -2).copy()).swapaxes(-1, -2) if turn else xp.asarray(h)
            for h, turn in zip(hosts, turned, strict=True)
        ]
        stream = xp.cuda.Stream(non_blocking=True)
        with stream:
            made = cublas.Blas(xp, stream)
            found = made.matmul(*operands)
        assert found.dtype == dtype
        tolerance = 1e-2 if dtype == "float16" else 1e-5
        np.testing.assert_allclose(found.get(), np.matmul(*hosts), rtol=tolerance, atol=tolerance)
        made.close()


def test_the_fakes_functions_take_what_the_real_ones_take() -> None:
    for name, types in cublas.SIGNATURES.items():
        assert len(inspect.signature(getattr(Cublas(), name)).parameters) == len(types)


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 8), nn.Dropout(0.5),
                         nn.Linear(8, 5))  # fmt: skip


def test_dropout_draws_anew_from_the_hosts_stream() -> None:
    data = batches(5)
    states, losses = [], []
    for capture in (False, True):
        training = Training(model=with_dropout)
        run = tc.cuda.graph(training.step, data[0]) if capture else training.step
        tc.manual_seed(3)
        with no_synchronisation():
            found = [run(*data[0])["loss"] for _ in data]
        losses.append([loss.item() for loss in found])
        states.append(training.state())
    assert losses[0] == losses[1]
    assert len(set(losses[1])) == 5
    assert_same_bits(*states)


def test_outputs_have_memory_of_their_own() -> None:
    training, data = Training(), batches(3)
    captured = tc.cuda.graph(training.step, data[0])
    losses = [captured(*pair)["loss"] for pair in data]
    assert len({loss.item() for loss in losses}) == 3
    assert not any(loss.requires_grad for loss in losses)


def test_the_memory_of_a_capture_is_its_own_and_kept() -> None:
    training, (data, *_) = Training(), batches(1)
    captured = tc.cuda.graph(training.step, data)
    captured(*data)
    captured(*data)
    recording = captured.recording
    assert recording is not None
    assert recording.pool.used_bytes() > 0
    assert tc.cuda.memory_allocated() == 0  # of the default pool's, nothing was taken in a capture
    launch = recording.parts[0]
    del captured, recording, training
    gc.collect()
    with pytest.raises(fake_cupy.Undefined, match="memory pool"):
        launch()


def test_an_evaluation_is_captured_as_well() -> None:
    model, (data, *_) = network().to("cuda").eval(), batches(1)

    @tc.no_grad()
    def predict(images: tc.Tensor) -> tuple[tc.Tensor]:
        return (model(images).softmax(1),)

    captured = tc.cuda.graph(predict, data[:1])
    for _ in range(3):
        (found,) = captured(data[0])
        np.testing.assert_array_equal(found.cpu().numpy(), predict(data[0])[0].cpu().numpy())


def test_a_resnets_step() -> None:
    rng = np.random.default_rng(2)
    images = tc.tensor(rng.standard_normal((2, 1, 28, 28)).astype(np.float32), device="cuda")
    labels = tc.tensor(rng.integers(0, 10, 2), device="cuda")
    plain, same = (Training(model=lambda: nn.resnet.resnet8(in_channels=1)) for _ in range(2))
    captured = tc.cuda.graph(same.step, (images, labels))
    for _ in range(3):
        with measured() as meter:
            captured(images, labels)
        plain.step(images, labels)
    assert meter.launches == 2 + 2 + 1 + 2  # inputs, graphs, the optimizer, outputs
    assert_same_bits(same.state(), plain.state())


@pytest.mark.usefixtures("own_kernels", "cudnn")
def test_a_step_with_cudnns_convolutions() -> None:
    """To some digits: the fake's sums depend on where memory begins, also from run to run."""
    plain, same, data = Training(), Training(), batches(4)
    captured = tc.cuda.graph(same.step, data[0])
    for pair in data:
        found, expected = captured(*pair), plain.step(*pair)
        assert found["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    for a, b in zip(same.state(), plain.state(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert backend_named("cuda").served["conv2d", "cudnn"] > 0


def test_a_state_that_is_loaded_counts() -> None:
    training, data = Training("Adam"), batches(3)
    captured = tc.cuda.graph(training.step, data[0])
    captured(*data[0])
    model = {key: value.clone() for key, value in training.model.state_dict().items()}
    optimizer = deepcopy_on_device(training.optimizer.state_dict())
    expected = [captured(*pair)["loss"].item() for pair in data]
    training.model.load_state_dict(model)
    training.optimizer.load_state_dict(optimizer)
    training.schedule.last_epoch = 1
    assert [captured(*pair)["loss"].item() for pair in data] == expected


def deepcopy_on_device(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: deepcopy_on_device(value) for key, value in state.items()}
    if isinstance(state, list):
        return [deepcopy_on_device(value) for value in state]
    return state.clone() if isinstance(state, tc.Tensor) else state


def test_something_between_two_optimizers() -> None:
    """Each begins a graph of its own: the second part sees what the first optimizer did."""
    x = tc.tensor([[3.0, 1.0]], device="cuda")

    def run(capture: bool) -> list[float]:
        a, b = (tc.ones(2, device="cuda", requires_grad=True) for _ in range(2))
        first, second = optim.SGD([a], 0.1), optim.Adam([b], 0.1)

        def step(x: tc.Tensor) -> tc.Tensor:
            first.zero_grad()
            second.zero_grad()
            (a * x).sum().backward()
            first.step()
            loss = (a.detach() * b * x).sum()
            loss.backward()
            second.step()
            return loss

        call = tc.cuda.graph(step, [x]) if capture else step
        return [call(x).item() for _ in range(4)]

    assert run(True) == run(False)


def test_the_trainer_captures_its_step(tmp_path: Path) -> None:
    """What it notes, the losses, the counts and the weights are those of a plain run."""

    def run(capture: bool) -> tuple[train.Trainer, list[float]]:
        config = train.Config(
            data="sample", epochs=1, batch_size=8, device="cuda", cuda_graph=capture
        )
        trainer = train.Trainer(config, train.Run(tmp_path / str(capture)))
        trainer.note_every = 2
        for images, labels in islice(trainer.loader, 5):
            trainer.step(images, labels)
            trainer.batch += 1
        trainer.read()
        return trainer, [trainer.sums["loss"], trainer.sums["correct"]]

    (plain, expected), (captured, found) = run(False), run(True)
    assert captured.captured is not None
    assert found == expected
    assert captured.notes == plain.notes
    for a, b in zip(captured.model.parameters(), plain.model.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().cpu().numpy(), b.detach().cpu().numpy())


def test_the_trainer_captures_on_a_gpu_only(tmp_path: Path) -> None:
    config = train.Config(data="sample", device="cpu", cuda_graph=True)
    with pytest.raises(ValueError, match="--cuda-graph captures the step of one GPU"):
        train.Trainer(config, train.Run(tmp_path))


# --------------------------------------------------------------------------- what is refused


def capture(step: Callable[..., Any], *inputs: tc.Tensor) -> None:
    captured = tc.cuda.graph(step, inputs)
    captured(*inputs)
    captured(*inputs)


def optimizer_of(x: tc.Tensor) -> optim.Optimizer:
    w = x.detach().clone().requires_grad_()
    (w * w).sum().backward()
    return optim.SGD([w], 0.1)


REFUSED: dict[str, tuple[Callable[[tc.Tensor], Any], str]] = {
    "item": (lambda x: x * x.sum().item(), r"x\.sum\(\)\.item\(\)"),
    "float": (lambda x: x * float(x.max()), r"float\(x\.max\(\)\)"),
    "if": (lambda x: x if x.sum() > 0 else -x, r"if x\.sum\(\) > 0"),
    "a mask": (lambda x: x[x > 0].sum(), r"x\[x > 0\]"),
    "to the CPU": (lambda x: x.cpu().sum().to("cuda"), r"x\.cpu\(\)"),
    "from the CPU": (lambda x: x + tc.ones(3).to("cuda"), r"tc\.ones\(3\)\.to"),
    "host random numbers": (lambda x: x + tc.randn(3, device="cuda"), r"tc\.randn"),
    "tolist": (lambda x: tc.tensor(x.tolist(), device="cuda"), r"x\.tolist\(\)"),
    "synchronize": (lambda x: tc.cuda.synchronize() or x, r"tc\.cuda\.synchronize\(\)"),
    "a scaler": (lambda x: tc.amp.GradScaler().step(optimizer_of(x)), r"GradScaler\(\)\.step"),
}  # fmt: skip


@pytest.mark.parametrize(("step", "said"), REFUSED.values(), ids=REFUSED)
def test_what_waits_or_moves_data_is_named(step: Any, said: str) -> None:
    with pytest.raises(tc.DeviceError, match=rf"cuda\.graph: test_capture\.py:\d+, `.*{said}"):
        capture(step, tc.tensor([1.0, 2.0, 3.0], device="cuda"))


def test_a_refused_step_leaves_nothing_behind() -> None:
    w = tc.ones(3, device="cuda", requires_grad=True)
    optimizer = optim.SGD([w], 0.1)
    x = tc.tensor([1.0, 2.0, 3.0], device="cuda")

    def step(x: tc.Tensor, look: bool = True) -> tc.Tensor:
        optimizer.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        optimizer.step()
        return loss * loss.item() if look else loss

    with pytest.raises(tc.DeviceError, match=r"loss\.item\(\)"):
        capture(step, x)
    assert w.grad is None
    assert w.tolist() == pytest.approx([0.9, 0.8, 0.7])  # of the first call, which ran as it is
    assert step(x, False).item() == pytest.approx(0.9 + 1.6 + 2.1)


def test_errors_of_the_step_itself_stay_what_they_are() -> None:
    calls: list[int] = []

    def step(x: tc.Tensor) -> tc.Tensor:
        calls.append(1)
        return x if len(calls) == 1 else x.reshape(7)

    with pytest.raises(tc.ShapeError, match="reshape"):
        capture(step, tc.ones(3, device="cuda"))
    assert tc.ones(2, device="cuda").sum().item() == 2  # nothing captures any more


def test_gradients_from_before_the_step_are_refused() -> None:
    w = tc.ones(3, device="cuda", requires_grad=True)

    def step(x: tc.Tensor) -> tc.Tensor:
        loss = (w * x).sum()
        loss.backward()
        return loss

    with pytest.raises(tc.GraphError, match=r"begin the step with optimizer\.zero_grad\(\)"):
        capture(step, tc.ones(3, device="cuda"))


def test_two_backwards_of_one_step_add_up() -> None:
    w = tc.ones(3, device="cuda", requires_grad=True)
    optimizer = optim.SGD([w], 1.0)

    def step(x: tc.Tensor) -> tc.Tensor:
        optimizer.zero_grad()
        for _ in range(2):
            (w * x).sum().backward()
        optimizer.step()
        return w

    captured = tc.cuda.graph(step, [tc.ones(3, device="cuda")])
    for i in range(1, 4):
        captured(tc.ones(3, device="cuda"))
        assert w.tolist() == [1.0 - 2 * i] * 3


def test_inputs_that_differ_from_the_captured_ones() -> None:
    training, (data, *_) = Training(), batches(1)
    images, labels = data
    captured = tc.cuda.graph(training.step, data)
    with pytest.raises(tc.ShapeError, match=r"input 0 is \(3, 1, 12, 12\).*with \(4, 1, 12, 12\)"):
        captured(images[:3], labels[:3])
    with pytest.raises(tc.DTypeError, match=r"input 0 is float64.*x\.to\(tc\.float32\)"):
        captured(images.double(), labels)
    with pytest.raises(tc.DeviceError, match=r'input 1 is on cpu.*x\.to\("cuda"\)'):
        captured(images, labels.cpu())
    with pytest.raises(TypeError, match="with 2 inputs, got 1"):
        captured(images)
    with pytest.raises(tc.DTypeError, match="not a Tensor"):
        captured(images, [1, 2])
    for wrong, error in [
        ([images.cpu()], tc.DeviceError),
        ([images.clone().requires_grad_()], tc.GraphError),
        ([[1.0]], tc.DTypeError),
    ]:
        with pytest.raises(error, match="input 0"):
            tc.cuda.graph(training.step, wrong)


def test_an_output_that_would_stay_the_same() -> None:
    with pytest.raises(TypeError, match="returned a int"):
        capture(lambda x: (x, 3), tc.ones(3, device="cuda"))


def test_plain_cupy_cannot_be_captured() -> None:
    x = tc.ones(3, device="cuda")
    with (
        tc.kernels("reference"),
        pytest.raises(tc.DeviceError, match="it needs the layer 'own': the chosen kernels are"),
    ):
        tc.cuda.graph(lambda x: x, [x])


def test_without_cublas_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'cuda.pathfinder'")

    monkeypatch.setattr(cublas, "library", missing)
    with pytest.raises(tc.DeviceError, match=r"cuBLAS cannot be used.*cuda\.pathfinder"):
        capture(lambda x: x * 2, tc.ones(3, device="cuda"))
