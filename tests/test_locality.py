"""A fast algorithm must not change what an output depends on."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.backend import compiled, reference

GEOMETRY: Any = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
SHAPES = [(4, 16, 16, 12), (2, 16, 32, 13), (9, 32, 16, 5)]  # N, C, O, height and width


def place(rng: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(rng.integers(0, n)) for n in shape)


def one_hot(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    x = np.zeros(shape)
    x[place(rng, shape)] = rng.standard_normal()
    return x


def with_one(rng: Any, shape: tuple[int, ...], value: float) -> np.ndarray:
    x = rng.standard_normal(shape)
    x[place(rng, shape)] = value
    return x


KINDS: dict[str, Callable[[Any, tuple[int, ...]], np.ndarray]] = {
    "ordinary": lambda rng, shape: rng.standard_normal(shape),
    "non-negative": lambda rng, s: np.abs(rng.standard_normal(s)) * (rng.random(s) < 0.5),
    "positive": lambda rng, shape: rng.random(shape) + 0.1,
    "one-hot": one_hot,
    "sparse": lambda rng, s: rng.standard_normal(s) * (rng.random((s[0], 1, *s[2:])) < 0.05),
    "ones": lambda rng, shape: np.ones(shape),
    "huge": lambda rng, shape: with_one(rng, shape, 10.0 ** rng.integers(3, 30)),
    "not finite": lambda rng, s: with_one(rng, s, rng.choice([np.nan, np.inf, -np.inf])),
}


def triad(kernels: Any, x: Any, w: Any, g: Any) -> list[Any]:
    return [
        kernels.conv2d(x, w, **GEOMETRY),
        kernels.conv2d_input(g, w, input_size=x.shape[2:], **GEOMETRY),
        kernels.conv2d_weight(x, g, kernel_size=(3, 3), **GEOMETRY),
    ]


def faults(y: np.ndarray, x: Any, w: Any, g: Any, which: int) -> list[str]:
    """What is wrong with the result `which` of `triad`."""
    with np.errstate(all="ignore"):
        wide = [a.astype("float64") for a in (x, w, g)]
        exact = triad(reference, *wide)[which]
        size = triad(reference, *map(np.abs, wide))[which]
    found = []
    finite = np.isfinite(size) & (size < 1e38)
    if not np.isfinite(y[finite]).all():
        found.append("not finite")
    if (y[finite & (size == 0)] != 0).any():
        found.append("not zero")
    if (y[finite & (exact == size)] < 0).any():
        found.append("negative")
    return found


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at infinities
@pytest.mark.parametrize("kernels", ["fast", "numpy", "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_an_output_depends_on(
    shape: tuple[int, ...], kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "FEW", 0)
    N, C, O, S = shape
    cases = [(a, b, "positive") for a, b in itertools.product(KINDS, KINDS)]
    cases += [("ordinary", b, "not finite") for b in KINDS]
    for seed, (a, b, c) in enumerate(cases):
        rng = np.random.default_rng(seed)
        x, g, w = (
            KINDS[kind](rng, s).astype("float32")
            for kind, s in ((a, (N, C, S, S)), (b, (N, O, S, S)), (c, (O, C, 3, 3)))
        )
        with tc.kernels(kernels):
            computed = triad(tc.backend.CPU, x, w, g)
        for which, y in enumerate(computed):
            assert not faults(y, x, w, g, which), (a, b, c, which)


@pytest.mark.parametrize("kernels", ["fast", "numpy"])
def test_a_receptive_field_by_its_gradient(kernels: str) -> None:
    layers = (nn.Conv2d(1 if i == 0 else 16, 16, 3, padding=1) for i in range(3))
    net = nn.Sequential(*layers)
    x = tc.randn(1, 1, 28, 28).requires_grad_()
    with tc.kernels(kernels):
        net(x)[0, 0, 14, 14].backward()
    assert x.grad is not None
    assert int((x.grad.array != 0).sum()) == 49


def test_the_checker_sees_another_pixels_rounding() -> None:
    rng = np.random.default_rng(0)
    x, w, g = (np.abs(rng.standard_normal(s)) for s in ((1, 2, 5, 5), (2, 2, 3, 3), (1, 2, 5, 5)))
    x[:, :, :3] = 0
    y = reference.conv2d(x, w, **GEOMETRY)
    assert not faults(y, x, w, g, 0)
    y[0, 0, 0, 0] = -1e-7
    assert faults(y, x, w, g, 0) == ["not zero", "negative"]
    y[0, 0, 0, 0] = np.nan
    assert "not finite" in faults(y, x, w, g, 0)


def test_the_switch_makes_a_convolution_depend_on_nothing_else_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype("float32") for s in ((1, 16, 16, 16), (16, 16, 3, 3)))
    other = x.copy()
    other[0, 0, 5, 5] += 1
    assert not tc.are_direct_convolutions_enabled()
    tc.use_direct_convolutions(True)
    try:
        first, second = (np.asarray(tc.backend.CPU.conv2d(a, w, **GEOMETRY)) for a in (x, other))
    finally:
        tc.use_direct_convolutions(False)
    assert {(h, w) for _, _, h, w in np.argwhere(first != second)} <= {
        (h, w) for h in (4, 5, 6) for w in (4, 5, 6)
    }
