"""Mixed precision: float16 products, float32 everything else, and the scaling of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_cupy import measured

import tinyconv as tc
from tinyconv import nn, optim
from tinyconv.nn import functional as F

try:
    import torch
except ImportError:
    torch = None


def network(device: str = "cpu") -> nn.Module:
    tc.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2),
        nn.Flatten(), nn.Linear(98, 3),
    ).to(device)  # fmt: skip


def data(device: str = "cpu") -> tuple[tc.Tensor, tc.Tensor]:
    rng = np.random.default_rng(1)
    images = rng.standard_normal((8, 1, 8, 8)).astype(np.float32)
    return tc.tensor(images, device=device), tc.tensor(rng.integers(0, 3, 8), device=device)


def products(loss: tc.Tensor) -> set[str]:
    """The dtypes in which the network's products were computed."""
    kinds, stack = set(), [loss.node]
    while stack:
        node = stack.pop()
        if getattr(node, "op", None) is None:
            continue
        if node.op.name in ("conv2d", "conv2d_input", "matmul"):
            kinds.add(str(node.dtype))
        stack += [edge for edge in node.inputs if edge is not None]
    return kinds


def test_autocast_multiplies_in_float16_and_returns_float32() -> None:
    model, (images, labels) = network(), data()
    exact = F.cross_entropy(model(images), labels)
    with tc.amp.autocast():
        loss = F.cross_entropy(model(images), labels)
    assert (products(exact), products(loss)) == ({"float32"}, {"float16"})
    assert loss.dtype == tc.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    assert loss.item() != exact.item()
    loss.backward()
    assert {p.grad.dtype for p in model.parameters()} == {tc.float32}
    with tc.amp.autocast(), tc.amp.autocast(enabled=False):
        assert products(model(images).sum()) == {"float32"}
    assert products(model(images).sum()) == {"float32"}
    double = network().double()
    with tc.amp.autocast():
        assert products(double(images.double()).sum()) == {"float64"}


def test_small_gradients_survive_with_scaling() -> None:
    weight = tc.ones(1, 4, requires_grad=True)
    x = tc.full((1, 4), 1e-3)

    def gradient(scaler: tc.amp.GradScaler) -> float:
        with tc.amp.autocast():
            loss = F.linear(x, weight).sum() * 1e-6
        (g,) = tc.grad(scaler.scale(loss), weight)
        return float(g[0, 0]) / scaler.get_scale()

    assert gradient(tc.amp.GradScaler(enabled=False)) == 0.0
    assert gradient(tc.amp.GradScaler()) == pytest.approx(1e-9, rel=1e-2)


def one_step(scaler: tc.amp.GradScaler, p: Any, optimizer: Any, factor: float) -> None:
    optimizer.zero_grad()
    scaler.scale((p * factor).sum()).backward()
    scaler.step(optimizer)
    scaler.update()


def test_a_step_with_inf_is_left_out_and_the_scale_follows() -> None:
    p = nn.Parameter(tc.ones(2))
    optimizer = optim.SGD([p], 0.5)
    scaler = tc.amp.GradScaler(init_scale=8.0, growth_interval=2)
    one_step(scaler, p, optimizer, float("inf"))
    assert p.tolist() == [1.0, 1.0]
    assert scaler.get_scale() == 4.0
    one_step(scaler, p, optimizer, 1.0)
    assert p.tolist() == [0.5, 0.5]
    assert scaler.get_scale() == 4.0
    one_step(scaler, p, optimizer, 1.0)
    assert scaler.get_scale() == 8.0


@pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
def test_the_scale_goes_pytorchs_way() -> None:
    theirs = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=3)
    ours = tc.amp.GradScaler(init_scale=16.0, growth_interval=3)
    q, p = torch.nn.Parameter(torch.ones(2)), nn.Parameter(tc.ones(2))
    sgd, own = torch.optim.SGD([q], 0.1), optim.SGD([p], 0.1)
    for factor in (1.0, 2.0, float("nan"), 1.0, 1.0, 1.0, 1.0, float("inf"), 3.0):
        one_step(theirs, q, sgd, factor)
        one_step(ours, p, own, factor)
        assert ours.get_scale() == theirs.get_scale()
        assert p.tolist() == pytest.approx(q.tolist(), abs=1e-6)
    assert ours.state_dict() == theirs.state_dict()


def test_unscale_before_clipping() -> None:
    p = nn.Parameter(tc.ones(2))
    optimizer = optim.SGD([p], 1.0)
    scaler = tc.amp.GradScaler(init_scale=1024.0)
    scaler.scale((p * 3).sum()).backward()
    scaler.unscale_(optimizer)
    assert p.grad.tolist() == [3.0, 3.0]
    with pytest.raises(RuntimeError, match="divided twice"):
        scaler.unscale_(optimizer)
    optim.clip_grad_norm_([p], 1.0)
    scaler.step(optimizer)
    assert p[0].item() == pytest.approx(1 - 0.5**0.5, rel=1e-4)


def test_what_would_overflow_or_vanish_is_refused() -> None:
    scaler = tc.amp.GradScaler()
    with pytest.raises(tc.DTypeError, match=r"logits\.float\(\)"):
        scaler.scale(tc.ones(1, dtype=tc.float16))
    p = nn.Parameter(tc.ones(2, dtype=tc.float16))
    p.grad = tc.ones(2, dtype=tc.float16)
    with pytest.raises(tc.DTypeError, match="autocast"):
        scaler.step(optim.SGD([p], 0.1))
    with pytest.raises(RuntimeError, match="comes after step"):
        tc.amp.GradScaler().update()
    with pytest.raises(ValueError, match="growth_factor"):
        tc.amp.GradScaler(growth_factor=1.0)
    with pytest.raises(tc.DTypeError, match="float64"):
        tc.amp.autocast(dtype=tc.float64)


def test_a_scaler_is_saved(tmp_path: Any) -> None:
    scaler = tc.amp.GradScaler(init_scale=4.0)
    tc.save(scaler.state_dict(), tmp_path / "scaler.safetensors")
    other = tc.amp.GradScaler()
    other.load_state_dict(tc.load(tmp_path / "scaler.safetensors"))
    assert other.state_dict() == scaler.state_dict()


def test_mixed_precision_learns() -> None:
    model, (images, labels) = network(), data()
    optimizer, scaler = optim.Adam(model.parameters(), 1e-2), tc.amp.GradScaler()
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        with tc.amp.autocast():
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_one_wait_a_step_on_the_device(gpu: Any) -> None:
    model, (images, labels) = network("cuda"), data("cuda")
    optimizer, scaler = optim.SGD(model.parameters(), 0.1), tc.amp.GradScaler()
    with measured() as meter:
        with tc.amp.autocast():
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert meter.synchronisations == 1
    assert meter.device_to_host == 1
