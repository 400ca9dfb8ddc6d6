"""Batch norm, ReLU and a residual in one pass: only where nobody could tell the difference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn import functional as F
from tinyconv.nn.norm import fuses

Change = Callable[[Any, Any, Any], None]  # (library, the batch norm, the ReLU)


@contextmanager
def restored() -> Iterator[None]:
    """Classes and namespaces as they were before."""
    owners = [
        owner
        for lib in (tc, torch)
        for owner in (
            lib.nn.functional, lib.nn.Module, lib.nn.ReLU, lib.nn.BatchNorm2d,
            *lib.nn.BatchNorm2d.__mro__[1:3],
        )
    ]
    before = [dict(vars(owner)) for owner in owners]
    try:
        yield
    finally:
        for owner, attributes in zip(owners, before, strict=True):
            for name in ("forward", "__call__", "relu", "batch_norm"):
                if name in attributes:
                    setattr(owner, name, attributes[name])
                elif name in vars(owner):
                    delattr(owner, name)


def scaled(function: Any, factor: float, offset: float = 0.5) -> Any:
    return lambda *args, **params: function(*args, **params) * factor + offset


def replace(owner: Any, name: str, factor: float) -> None:
    setattr(owner, name, scaled(getattr(owner, name), factor))


def set_options(norm: Any, **options: Any) -> None:
    for name, value in options.items():
        setattr(norm, name, value)


def as_class(module: Any, base: Any) -> None:
    class Changed(base):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return super().forward(x) * -3

    module.__class__ = Changed


CHANGES: dict[str, Change] = {
    "nothing": lambda lib, n, r: None,
    "the norm's forward": lambda lib, n, r: replace(n, "forward", 2),
    "the ReLU's forward": lambda lib, n, r: replace(r, "forward", -2),
    "both forwards": lambda lib, n, r: (replace(n, "forward", 2), replace(r, "forward", -2)),
    "the norm class's forward": lambda lib, n, r: replace(lib.nn.BatchNorm2d, "forward", 2),
    "its base's forward": lambda lib, n, r: replace(
        next(c for c in lib.nn.BatchNorm2d.__mro__ if "forward" in vars(c)), "forward", 2
    ),
    "the ReLU class's forward": lambda lib, n, r: replace(lib.nn.ReLU, "forward", -2),
    "the norm class's __call__": lambda lib, n, r: replace(lib.nn.BatchNorm2d, "__call__", 2),
    "the ReLU class's __call__": lambda lib, n, r: replace(lib.nn.ReLU, "__call__", -2),
    "F.relu": lambda lib, n, r: replace(lib.nn.functional, "relu", -2),
    "F.batch_norm": lambda lib, n, r: replace(lib.nn.functional, "batch_norm", -2),
    "a subclass of the norm": lambda lib, n, r: as_class(n, lib.nn.BatchNorm2d),
    "a subclass of the ReLU": lambda lib, n, r: as_class(r, lib.nn.ReLU),
    "a hook of the norm": lambda lib, n, r: n.register_forward_hook(lambda m, a, y: y * 2),
    "a hook of the ReLU": lambda lib, n, r: r.register_forward_hook(lambda m, a, y: y * 2),
    "a pre-hook of the norm": lambda lib, n, r: n.register_forward_pre_hook(
        lambda m, a: (a[0] + 1,)
    ),
    "a pre-hook of the ReLU": lambda lib, n, r: r.register_forward_pre_hook(
        lambda m, a: (a[0] + 1,)
    ),
    "eval": lambda lib, n, r: n.eval(),
    "no momentum": lambda lib, n, r: set_options(n, momentum=None),
    "momentum 0": lambda lib, n, r: set_options(n, momentum=0.0),
    "eps": lambda lib, n, r: set_options(n, eps=0.5),
    "no scale": lambda lib, n, r: set_options(n, weight=None, bias=None),
    "no statistics": lambda lib, n, r: set_options(
        n, running_mean=None, running_var=None, track_running_stats=False
    ),
    "a sigmoid on the instance": lambda lib, n, r: set_options(
        r, forward=lambda x: lib.sigmoid(x)
    ),
    "momentum None and F.batch_norm": lambda lib, n, r: (
        set_options(n, momentum=None), replace(lib.nn.functional, "batch_norm", 2)
    ),
}


def block(lib: Any, norm: Any, relu: Any, x: Any, residual: bool) -> Any:
    if lib is tc:
        if residual:
            return nn.norm.norm_relu(norm, relu, x, x * 2)
        return nn.Sequential(norm, relu)(x)
    return relu(norm(x) + x * 2) if residual else relu(norm(x))


def run(lib: Any, change: Change, residual: bool, inplace: bool) -> list[Any]:
    norm, relu = lib.nn.BatchNorm2d(3), lib.nn.ReLU(inplace=inplace)
    change(lib, norm, relu)
    values = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
    x = lib.tensor(values, requires_grad=True)
    for _ in range(2):
        y = block(lib, norm, relu, x * 1, residual)
        (y * y).sum().backward()
    state = {**norm.state_dict(), "y": y, "dx": x.grad}
    return [(name, value.detach().numpy()) for name, value in state.items()]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_module_computes_what_pytorch_computes(
    case: str, residual: bool, inplace: bool
) -> None:
    with restored():
        ours = run(tc, CHANGES[case], residual, inplace)
        theirs = run(torch, CHANGES[case], residual, inplace)
    for (name, a), (other, b) in zip(ours, theirs, strict=True):
        assert name == other
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=name)


def test_fusion_comes_back_when_the_change_is_undone() -> None:
    norm, relu = nn.BatchNorm2d(3), nn.ReLU()
    assert fuses(norm, relu)
    for case in ("F.relu", "F.batch_norm", "the ReLU class's forward", "its base's forward"):
        with restored():
            CHANGES[case](tc, norm, relu)
            assert not fuses(norm, relu), case
        assert fuses(norm, relu), case
    handle = relu.register_forward_hook(lambda m, a, y: None)
    assert not fuses(norm, relu)
    handle.remove()
    relu.forward = lambda x: x  # type: ignore[method-assign]
    assert not fuses(norm, relu)
    del relu.forward
    assert fuses(norm, relu)


@pytest.mark.parametrize("block", [nn.BasicBlock(2, 2), nn.Bottleneck(8, 2)])
def test_the_blocks_see_a_change(block: Any) -> None:
    x = tc.randn(2, block.inplanes, 5, 5)
    block.relu.forward = lambda x: x * 0 + 5
    assert bool((block(x) == 5).all())
    del block.relu.forward
    norms = [block.bn1, block.bn2, getattr(block, "bn3", block.bn2)]
    for norm in norms:
        norm.forward = lambda x: x * 0 + 9
    assert bool((block(x) == F.relu(x + 9)).all())
