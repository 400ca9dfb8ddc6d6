"""The explainer: its frames add up to autograd's and PyTorch's numbers, its words are true."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from explain_pages import added_up, numbers_of, unread_in
from hypothesis import HealthCheck, assume, given, reject, settings, strategies as st

import tinyconv as tc
from tinyconv import nn
from tinyconv.cli import main
from tinyconv.see.explain import geometry, steps, text

try:
    import torch
except ImportError:
    torch = None

ORACLES = [
    "autograd",
    pytest.param("torch", marks=pytest.mark.skipif(torch is None, reason="PyTorch is not there")),
]
drawn = settings(max_examples=60, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.too_slow])  # fmt: skip


# --- what is right


def by_autograd(layer: nn.Module, x: Any, grad: Any) -> dict[str, Any]:
    x = tc.tensor(x, requires_grad=True)
    layer.zero_grad()
    y = layer(x)
    y.backward(tc.tensor(grad))
    return _answers(layer, x, y)


def by_torch(layer: nn.Module, x: Any, grad: Any) -> dict[str, Any]:
    twin = twin_of(layer)
    x = torch.tensor(x, requires_grad=True)
    y = twin(x)
    y.backward(torch.tensor(grad))
    return _answers(twin, x, y)


def twin_of(layer: Any) -> Any:
    """The same layer of PyTorch, with the same numbers."""
    if isinstance(layer, nn.AvgPool2d):  # its printed form leaves out half of it
        return torch.nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode,
                                  layer.count_include_pad, layer.divisor_override)  # fmt: skip
    words = {w: w for w in ("same", "valid", "reflect", "replicate", "circular")}
    twin = eval(f"torch.nn.{layer!r}", {"torch": torch, **words})
    if list(layer.parameters()):
        twin.load_state_dict({k: torch.tensor(v.numpy()) for k, v in layer.state_dict().items()})
    return twin


def _answers(layer: Any, x: Any, y: Any) -> dict[str, Any]:
    found = {"forward": y, "zeros": y, "dx": x.grad}
    found |= {f"d{k[0]}": p.grad for k, p in layer.named_parameters()}
    return {name: np.asarray(value.detach().numpy()) for name, value in found.items()}


def check(layer: nn.Module, x: Any, grad: Any, oracle: str = "autograd") -> None:
    """The saved page's frames add up to the right numbers, in every pass."""
    data = numbers_of(tc.explain(layer, x, grad=grad).html())
    right = {"autograd": by_autograd, "torch": by_torch}[oracle](layer, x, grad)
    assert not data["leftOut"]
    for name in (p["name"] for p in data["passes"]):
        scale = np.abs(right[name]).max(initial=1.0)
        np.testing.assert_allclose(
            added_up(data, name), right[name], rtol=1e-4, atol=2e-5 * scale, err_msg=name
        )


def numbers_for(layer: nn.Module, shape: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    """An input and an output gradient."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    return x, rng.standard_normal(layer(tc.tensor(x)).shape).astype(np.float32)


def drawn_numbers(layer: nn.Module, shape: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    """The same; a drawn shape that the layer cannot take, or that is large, is passed over."""
    try:
        x, grad = numbers_for(layer, shape, seed)
    except tc.ShapeError:
        reject()
    assume(grad.size * x[0].size <= 40_000)
    return x, grad


# --- drawn layers

small = st.integers(1, 3)
pairs = st.tuples(small, small)
paddings = st.tuples(st.integers(0, 2), st.integers(0, 2))
dilations = st.tuples(st.integers(1, 2), st.integers(1, 2))
seeds = st.integers(0, 1000)
images = st.tuples(st.integers(1, 2), st.integers(3, 6), st.integers(3, 7))


@st.composite
def convolutions(draw: Any) -> nn.Module:
    groups = draw(st.integers(1, 2))
    channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]
    padding = draw(st.one_of(paddings, st.sampled_from(["same", "valid"])))
    stride = (1, 1) if padding == "same" else draw(pairs)
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    return nn.Conv2d(*channels, kernel, stride, padding, draw(dilations),
                     groups, draw(st.booleans()), mode)  # fmt: skip


@st.composite
def transposed(draw: Any) -> nn.Module:
    groups = draw(st.integers(1, 2))
    channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]
    stride = draw(pairs)
    extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
    return nn.ConvTranspose2d(*channels, draw(pairs), stride, draw(paddings), extra, groups,
                              draw(st.booleans()), draw(dilations))  # fmt: skip


@st.composite
def pools(draw: Any) -> nn.Module:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride, padding = draw(pairs), tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return draw(st.sampled_from([
        nn.MaxPool2d(kernel, stride, padding, draw(st.integers(1, 2)), ceil_mode=False),
        nn.MaxPool2d(kernel, stride, padding, ceil_mode=True),
        nn.AvgPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans())),
        nn.AdaptiveAvgPool2d(size), nn.AdaptiveMaxPool2d(size),
    ]))  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even:UserWarning")  # PyTorch's
@pytest.mark.parametrize("oracle", ORACLES)
@drawn
@given(layer=convolutions(), image=images, seed=seeds)
def test_the_frames_of_a_convolution_add_up(oracle: str, layer: Any, image: Any, seed: int) -> None:
    check(layer, *drawn_numbers(layer, (image[0], layer.in_channels, *image[1:]), seed), oracle)


@pytest.mark.parametrize("oracle", ORACLES)
@drawn
@given(layer=transposed(), image=st.tuples(st.just(1), *[st.integers(1, 4)] * 2), seed=seeds)
def test_the_frames_of_a_transposed_convolution_add_up(
    oracle: str, layer: Any, image: Any, seed: int
) -> None:
    check(layer, *drawn_numbers(layer, (image[0], layer.in_channels, *image[1:]), seed), oracle)


@pytest.mark.parametrize("oracle", ORACLES)
@drawn
@given(layer=pools(), image=images, seed=seeds)
def test_the_frames_of_a_pool_add_up(oracle: str, layer: Any, image: Any, seed: int) -> None:
    check(layer, *drawn_numbers(layer, (image[0], 2, *image[1:]), seed), oracle)


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("options", [{"count_include_pad": False}, {"divisor_override": 5}])
def test_averages_that_count_otherwise(options: Any, oracle: str) -> None:
    layer = nn.AvgPool2d((2, 3), 2, 1, ceil_mode=True, **options)
    check(layer, *numbers_for(layer, (2, 2, 6, 7)), oracle)


@drawn
@given(layer=convolutions(), image=images)
def test_the_pixels_marked_unread_get_no_gradient(layer: Any, image: Any) -> None:
    x, grad = drawn_numbers(layer, (1, layer.in_channels, *image[1:]), 0)
    rows, columns = unread_in(numbers_of(tc.explain(layer, x).html()), "x")
    layer.weight.array[...] = 1.0
    marked = np.zeros(x.shape[2:], bool)
    marked[rows], marked[:, columns] = True, True
    assert np.array_equal(by_autograd(layer, x, np.ones_like(grad))["dx"][0, 0] == 0, marked)


# --- the check itself is checked: index errors put in on purpose


def _shifted(self: Any, driver: Any) -> Any:
    for (n, c, h, w), tap in TRIPLES(self, driver):
        yield (n, c, h, min(w + 1, self.columns.places[-1])), tap


def _turned(self: Any, driver: Any) -> Any:
    for place, (o, c, t, u) in TRIPLES(self, driver):
        yield place, (o, c, u, t)


def _one_group(self: Any, driver: Any) -> Any:
    for (n, c, h, w), tap in TRIPLES(self, driver):
        yield (n, c % self.per_group, h, w), tap


def _late_start(*args: Any, **options: Any) -> Any:
    axis = STRIDED(*args, **options)
    axis.windows[-1][:] = axis.windows[0]
    return axis


TRIPLES, STRIDED = geometry.Geometry.triples, geometry.strided
WRONG: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "one column to the right": lambda m: m.setattr(geometry.Geometry, "triples", _shifted),
    "kernel rows and columns exchanged": lambda m: m.setattr(geometry.Geometry, "triples", _turned),
    "groups forgotten": lambda m: m.setattr(geometry.Geometry, "triples", _one_group),
    "the last window at the first place": lambda m: m.setattr(geometry, "strided", _late_start),
}


@pytest.mark.parametrize("error", WRONG)
@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_an_index_error_is_caught(
    kind: Any, oracle: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = kind(4, 4, 3, 2, 1, groups=2)
    x, grad = numbers_for(layer, (1, 4, 5, 5), 0)
    check(layer, x, grad, oracle)
    WRONG[error](monkeypatch)
    with pytest.raises(AssertionError):
        check(layer, x, grad, oracle)


def test_a_kernel_that_is_not_flipped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.ConvTranspose2d(2, 2, 3, 2)
    x, grad = numbers_for(layer, (1, 2, 3, 3), 0)
    monkeypatch.setattr(steps, "_flipped", lambda w, _groups: w.swapaxes(0, 1))
    with pytest.raises(AssertionError, match="zeros"):
        check(layer, x, grad)


def test_a_product_that_is_not_that_of_its_frame_is_caught() -> None:
    layer = nn.Conv2d(1, 1, 3)
    data = numbers_of(tc.explain(layer, tc.randn(1, 1, 4, 4)).html())
    added_up(data, "forward")
    data["scenes"][0]["places"]["patterns"][0][4] += 1
    with pytest.raises(AssertionError):
        added_up(data, "forward")


# --- words


def ramp(*shape: int) -> Any:
    return tc.arange(int(np.prod(shape))).float().reshape(shape)


def counting(layer: Any) -> Any:
    """The layer with 1, 2, 3, ... as its kernel, and the bias 10."""
    layer.weight.array[...] = np.arange(1, layer.weight.numel() + 1).reshape(layer.weight.shape)
    layer.bias.array[...] = 10.0
    return layer


def test_the_text_of_a_forward_step() -> None:
    shown = tc.explain(counting(nn.Conv2d(1, 1, 2, padding=1)), ramp(1, 1, 2, 2))
    assert len(shown) == 9
    assert (
        shown.step(1)
        == """\
forward, step 2 of 9: y[0,0,0,1]
  rows     0*1 + kh*1 - 1 = -1, 0
  columns  1*1 + kw*1 - 1 = 0, 1
  + x[0,0,-1,0] (padding) * w[0,0,0,0]   0 * 1 = 0
  + x[0,0,-1,1] (padding) * w[0,0,0,1]   0 * 2 = 0
  + x[0,0,0,0] * w[0,0,1,0]              0 * 3 = 0
  + x[0,0,0,1] * w[0,0,1,1]              1 * 4 = 4
  + b[0]                                 10
  y[0,0,0,1] = 14
"""
    )
    assert shown.step(-1) == shown.step(8)


def test_the_text_of_the_backward_steps() -> None:
    layer, x = counting(nn.Conv2d(1, 1, 2, padding=(0, 1))), ramp(1, 1, 2, 2)
    grad = 2 * np.ones((1, 1, 1, 3))
    assert (
        tc.explain(layer, x, show="dx", grad=grad).step(1)
        == """\
dX, step 2 of 3: dy[0,0,0,1]
  rows     0*1 + kh*1 - 0 = 0, 1
  columns  1*1 + kw*1 - 1 = 0, 1
  dx[0,0,0,0] += dy[0,0,0,1] * w[0,0,0,0]   2 * 1 = 2   now 6
  dx[0,0,0,1] += dy[0,0,0,1] * w[0,0,0,1]   2 * 2 = 4   now 4
  dx[0,0,1,0] += dy[0,0,0,1] * w[0,0,1,0]   2 * 3 = 6   now 14
  dx[0,0,1,1] += dy[0,0,0,1] * w[0,0,1,1]   2 * 4 = 8   now 8
"""
    )
    assert "dx[0,0,0,-1] += dy[0,0,0,0] * w[0,0,0,0]   2 * 1 = 2   falls off: padding" in (
        tc.explain(layer, x, show="dx", grad=grad).step(0)
    )
    weighed = tc.explain(layer, x, show="dw", grad=grad)
    assert "dw[0,0,0,1] += dy[0,0,0,1] * x[0,0,0,1]   2 * 1 = 2   now 2" in weighed.step(1)
    assert tc.explain(layer, x, show="db", grad=grad).step(2).endswith("dy[0,0,0,2]   2   now 6\n")


def test_the_text_of_pools() -> None:
    x = tc.tensor([[[[1.0, 5.0], [5.0, 2.0]]]])
    assert "x[0,0,0,1]   5  <- the greatest\n    x[0,0,1,0]   5\n" in (
        tc.explain(nn.MaxPool2d(2), x).step(0)
    )  # the first of two that are equal, as PyTorch
    assert "+ x[0,0,1,1] * share   2 * 0.25 = 0.5" in tc.explain(nn.AvgPool2d(2), x).step(0)
    shared = tc.explain(nn.AvgPool2d(2), x, show="dx", grad=np.full((1, 1, 1, 1), 8.0)).step(0)
    assert shared.count("8 * 0.25 = 2   now 2") == 4


def test_the_formula_of_a_pass() -> None:
    conv = tc.explain(nn.Conv2d(1, 1, 2), tc.ones(1, 1, 3, 3), show="dx")
    assert text.formula(conv.walk) == "dx[n,c,h,w] += dy[n,o,i,j] * w[o,c,kh,kw]"
    back = tc.explain(nn.ConvTranspose2d(1, 1, 2), tc.ones(1, 1, 3, 3))
    assert text.formula(back.walk) == "y[n,o,h,w] += x[n,c,i,j] * w[c,o,kh,kw]"
    assert text.formula(back.of("zeros")) == "y[n,o,i,j] += z[n,c,h,w] * wf[o,c,kh,kw]"
    mean = tc.explain(nn.AvgPool2d(2), tc.ones(1, 1, 4, 4), show="dx")
    assert text.formula(mean.walk) == "dx[n,c,h,w] += dy[n,c,i,j] * 1/size"


def test_padding_never_wins_a_maximum() -> None:
    shown = tc.explain(nn.MaxPool2d(2, 2, 1), -tc.ones(1, 1, 2, 2)).step(0)
    assert "x[0,0,-1,-1] (padding)   -inf\n" in shown
    assert "x[0,0,0,0]               -1  <- the greatest" in shown


def test_a_nan_wins_and_infinity_is_no_error() -> None:
    x = np.array([[[[1, np.nan, np.inf, 2], [3, 4, 7, 5]]]], np.float32)
    for layer in (nn.MaxPool2d(2), nn.AvgPool2d(2)):
        data = numbers_of(tc.explain(layer, x).html())
        y = layer(tc.tensor(x)).numpy()
        np.testing.assert_array_equal(added_up(data, "forward"), y)


@pytest.mark.parametrize(("layer", "size", "line"), [
    (nn.Conv2d(1, 1, 3, 2), 64, ("floor((64 + 2*0 - 1*(3-1) - 1)/2) + 1 = 31   "
                                "remainder 1: input column 63 is never read")),
    (nn.Conv2d(1, 1, 3, 2, 1), 28, ("floor((28 + 2*1 - 1*(3-1) - 1)/2) + 1 = 14   "
                                   "remainder 1: only padding goes unread")),
    (nn.Conv2d(1, 1, 4, padding="same"), 9, ("floor((9 + 1 + 2 - 1*(4-1) - 1)/1) + 1 = 9   "
                                            "padded 1 before and 2 after")),
    (nn.Conv2d(1, 1, 2, 4, dilation=2), 11, ("floor((11 + 2*0 - 2*(2-1) - 1)/4) + 1 = 3   "
                                            "input columns 1, 3, 5, 7 and 9 are never read: "
                                            "stride 4 and dilation 2 share the factor 2")),
    (nn.ConvTranspose2d(1, 1, 2, 3), 3, ("(3-1)*3 - 2*0 + 1*(2-1) + 0 + 1 = 8   "
                                        "output columns 2 and 5 get no stamp, only the bias")),
    (nn.ConvTranspose2d(1, 1, 3, 2, 1, 1), 3, "(3-1)*2 - 2*1 + 1*(3-1) + 1 + 1 = 6"),
    (nn.MaxPool2d(2, ceil_mode=True), 5, ("ceil((5 + 2*0 - 1*(2-1) - 1)/2) + 1 = 3   "
                                       "the last window reaches 1 column beyond the end")),
    (nn.MaxPool2d(1, 3, ceil_mode=True), 5,
     ("ceil((5 + 2*0 - 1*(1-1) - 1)/3) + 1 = 3, less 1 that would start in the padding = 2   "
      "remainder 1: input column 4 is never read   "
      "input columns 1 and 2 are never read: the stride 3 is greater than the window's 1")),
    (nn.AdaptiveAvgPool2d(3), 7, ("3 as asked; window i reads floor(i*7/3) up to "
                                  "ceil((i+1)*7/3) - 1: 0-2, 2-4, 4-6   "
                                  "columns 2 and 4 lie in more than one window")),
])  # fmt: skip
def test_the_formula_of_the_output_size(layer: Any, size: int, line: str) -> None:
    region = np.s_[0:1, 0:1]
    assert tc.explain(layer, tc.ones(1, 1, size, size), region=region).sizes[1] == f"W: {line}"


@drawn
@given(layer=st.one_of(convolutions(), pools()), image=images)
def test_the_formula_gives_the_output_size(layer: Any, image: Any) -> None:
    x, grad = drawn_numbers(layer, (1, getattr(layer, "in_channels", 1), *image[1:]), 0)
    for line, size in zip(tc.explain(layer, x).sizes, grad.shape[2:], strict=True):
        if "as asked" in line:
            continue
        formula = re.match(r"[HW]: (floor|ceil)\((.*)/(\d+)\) \+ 1 = (\d+)(?:, less 1.* = (\d+))?",
                           line)  # fmt: skip
        assert formula
        up, free, stride, most, least = formula.groups()
        steps_ = eval(free) / int(stride)
        assert (-(-steps_ // 1) if up == "ceil" else steps_ // 1) + 1 == int(most)
        assert int(least or most) == size


def test_the_title_is_the_articles() -> None:
    title = tc.explain(nn.Conv2d(3, 2, (5, 2)), tc.ones(1, 3, 7, 9)).title
    assert title == ("Input Shape : (3, 7, 9) - Output Shape : (2, 3, 8) - K : (5, 2) - "
                     "P : (0, 0) - S : (1, 1) - D : (1, 1) - G : 1")  # fmt: skip


def test_numbers_in_words() -> None:
    assert [text.number(v) for v in (0.25, -3.0, -0.0, 1e-6, 12345.678)] == [
        "0.25", "-3", "0", "1e-06", "1.235e+04",
    ]  # fmt: skip


# --- too much, and parts


def test_too_many_steps_come_with_a_region_that_fits() -> None:
    layer, x = nn.Conv2d(16, 32, 3, padding=1), tc.randn(2, 16, 28, 28)
    with pytest.raises(tc.ShapeError, match=r"2\*32\*28\*28 = 50,176 steps of 144") as caught:
        tc.explain(layer, x)
    region = re.search(r"region=(np\.s_\[.*\])", str(caught.value))
    assert region
    cropped = tc.explain(layer, x, region=eval(region[1]))
    assert 0 < len(cropped) <= steps.MOST_STEPS
    assert text.CROPPED in cropped.text()
    assert numbers_of(cropped.html())["cropped"] == text.CROPPED


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d])
def test_a_region_adds_up_to_the_gradient_of_its_cells(kind: Any) -> None:
    layer = kind(3, 2, 1) if kind is nn.MaxPool2d else kind(2, 2, 3, 2, 1)
    x, grad = numbers_for(layer, (2, 2, 7, 7), 0)
    region = np.s_[1:2, 1, 1:3, 0:2]
    stepped = x if kind is nn.ConvTranspose2d else grad
    only = np.zeros_like(stepped)
    only[region] = stepped[region]
    part = (only, grad) if kind is nn.ConvTranspose2d else (x, only)
    data = numbers_of(tc.explain(layer, x, grad=grad, region=region).html())
    passes = {p["name"] for p in data["passes"]} - {"zeros", "forward", "db"}
    for name in passes - ({"dx"} if kind is nn.ConvTranspose2d else set()):
        walk = tc.explain(layer, x, grad=grad, region=region, show=name).walk
        right, shape = by_autograd(layer, *part)[name], walk.result.values.shape
        *_, (_, result) = walk.running()
        box = tuple(slice(o, o + n) for o, n in zip(walk.result.origin, shape, strict=True))
        if walk.target == "window":  # what is drawn may reach into the padding
            lows = [max(0, b.start) for b in box]
            highs = [min(n, b.stop) for n, b in zip(right.shape, box, strict=True)]
            inner = tuple(slice(a - b.start, z - b.start)
                          for a, z, b in zip(lows, highs, box, strict=True))  # fmt: skip
            box, result = tuple(map(slice, lows, highs)), result[inner]
        np.testing.assert_allclose(result, right[box], rtol=1e-4, atol=1e-5)
        outside = right.copy()
        outside[box] = 0
        assert not outside.any(), "the region reaches further than is drawn"


def test_a_pass_with_too_many_steps_is_left_out_of_the_page() -> None:
    shown = tc.explain(nn.ConvTranspose2d(1, 4, 3, 4), tc.ones(1, 1, 8, 8))
    data = numbers_of(shown.html())
    assert [p["name"] for p in data["passes"]] == ["forward", "dx", "dw"]
    assert set(data["leftOut"]) == {"as zeros + conv", "db"}
    assert "region=np.s_" in data["leftOut"]["db"]


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no such pass": (lambda: tc.explain(nn.MaxPool2d(2), tc.ones(1, 1, 4, 4), show="dw"),
                     ValueError, r"MaxPool2d\(k2, s2\) has no pass 'dw'; there is 'forward', 'dx'"),
    "no bias": (lambda: tc.explain(nn.Conv2d(1, 1, 3, bias=False), tc.ones(1, 1, 4, 4), show="db"),
                ValueError, "no pass 'db'"),
    "a network": (lambda: tc.explain(nn.Sequential(nn.Conv2d(1, 1, 3)), tc.ones(1, 1, 4, 4)),
                  TypeError, "Sequential is not explained; .* one layer of it"),
    "another layer": (lambda: tc.explain(nn.ReLU(), tc.ones(1, 1, 4, 4)), TypeError, "ReLU"),
    "no layer": (lambda: tc.explain(tc.ones(1), tc.ones(1)), TypeError, "Tensor is not a layer"),
    "a shape that does not fit": (lambda: tc.explain(nn.Conv2d(1, 1, 3), tc.ones(1, 2, 4, 4)),
                                  tc.ShapeError, "axis 1 has 2 channels"),
    "another gradient": (lambda: tc.explain(nn.MaxPool2d(2), tc.ones(1, 1, 4, 4), grad=[1.0]),
                         tc.ShapeError, r"grad \(1,\) must have the output's shape \(1, 1, 2, 2\)"),
    "an empty region": (
        lambda: tc.explain(nn.MaxPool2d(2), tc.ones(1, 1, 4, 4), region=np.s_[5:9]),
        tc.ShapeError, "5:9 takes nothing of axis 3, which has 2"),
    "a region of strings": (
        lambda: tc.explain(nn.MaxPool2d(2), tc.ones(1, 1, 4, 4), region="all"),
        tc.ShapeError, r"'all' is no position and no start:stop; region=np.s_"),
    "a region of five axes": (
        lambda: tc.explain(nn.MaxPool2d(2), tc.ones(1, 1, 4, 4), region=(0,) * 5),
        tc.ShapeError, "region has 5 axes, the steps have 4"),
    "no such step": (lambda: tc.explain(nn.MaxPool2d(2), tc.ones(1, 1, 4, 4)).step(4),
                     IndexError, r"step 4: there are 4, 0\.\.3"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake: str) -> None:
    make, error, words = MISTAKES[mistake]
    with pytest.raises(error, match=words):
        make()


# --- files


@pytest.fixture
def shown() -> Any:
    return tc.explain(nn.Conv2d(1, 2, 3), tc.randn(1, 1, 6, 6))


def test_an_svg_is_a_document_with_the_steps_text(shown: Any, tmp_path: Path) -> None:
    root = ElementTree.parse(shown.save(tmp_path / "a.svg", step=3)).getroot()
    space = {"svg": "http://www.w3.org/2000/svg"}
    assert root.findtext("svg:desc", namespaces=space) == shown.step(3)
    words = " ".join(t.text or "" for t in root.findall("svg:text", space))
    assert all(part in words for part in shown.title.split(" - "))
    heavy = root.findall("svg:rect[@stroke-width='2']", space)
    assert len(heavy) == 18  # the window and the kernel; the driver has 4
    assert shown.save(tmp_path / "b.svg", step=3).read_bytes() == (tmp_path / "a.svg").read_bytes()


def test_a_gif_shows_every_step_within_five_seconds(shown: Any, tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    assert len(shown) == 32
    began = time.perf_counter()
    path = shown.save(tmp_path / "a.gif", fps=4)
    assert time.perf_counter() - began < 5
    with Image.open(path) as image:
        assert image.n_frames == 32
        assert image.info["duration"] == 250
        assert image.info["comment"].decode() == shown.title
        frames = set()
        for i in range(32):
            image.seek(i)
            frames.add(image.convert("RGB").tobytes())
    assert len(frames) == 32
    with pytest.raises(ValueError, match="fps=0"):
        shown.save(tmp_path / "b.gif", fps=0)
    assert not (tmp_path / "b.gif").exists()


def test_a_png_is_the_frame(shown: Any, tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    root = ElementTree.parse(shown.save(tmp_path / "a.svg")).getroot()
    with Image.open(shown.save(tmp_path / "a.png")) as image:
        assert image.size == (int(root.attrib["width"]), int(root.attrib["height"]))
        cells = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("x")]
        for cell in cells:
            if cell.get("fill") not in ("none", "#ffffff"):  # a corner, away from the letters
                at = (int(cell.attrib["x"]) + 5, int(cell.attrib["y"]) + 5)
                assert "#{:02x}{:02x}{:02x}".format(*image.getpixel(at)) == cell.get("fill")


def test_pictures_without_pillow_say_what_to_install(
    shown: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pillow"):
        shown.save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    shown.save(tmp_path / "a.svg")


def test_files_that_cannot_be(shown: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.pdf'; there is \.html, \.gif, \.svg, \.png, \.txt"):
        shown.save(tmp_path / "a.pdf")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        shown.save(tmp_path / "no" / "a.svg")
    with pytest.raises(IndexError, match="step 32"):
        shown.save(tmp_path / "a.svg", step=32)


def test_text_files_hold_every_step(shown: Any, tmp_path: Path) -> None:
    words = shown.save(tmp_path / "a.txt").read_text()
    assert words == str(shown)
    assert all(shown.step(i) in words for i in range(32))
    assert shown.title in words
    assert repr(shown) == "<explanation of Conv2d(1->2, k3), forward: 32 steps>"


@pytest.mark.parametrize("channels", [(1, 1), (1, 4), (3, 2)])
def test_the_page_of_a_16x16_input_is_small(channels: tuple[int, int]) -> None:
    layer = nn.Conv2d(*channels, 3, padding=1)
    assert len(tc.explain(layer, tc.randn(1, channels[0], 16, 16)).html().encode()) < 500_000


def test_the_page_needs_nothing_else() -> None:
    page = tc.explain(nn.Conv2d(1, 1, 3, padding=1), tc.randn(1, 1, 16, 16)).html()
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]
    assert "{{" not in page
    assert not re.search(r"<link(?![^>]*href=\"data:)|<img|@import|url\(", page)


def test_a_notebook_shows_the_page(shown: Any) -> None:
    frame = shown._repr_html_()
    source = re.fullmatch(r'<iframe srcdoc="([^"]*)"[^>]*></iframe>', frame)
    assert source
    assert html.unescape(source[1]) == shown.html()


def test_the_layer_and_the_input_stay_as_they_were(rng: np.random.Generator) -> None:
    layer = nn.Conv2d(1, 1, 3).double()
    x = tc.tensor(rng.standard_normal((1, 1, 4, 4)), requires_grad=True)
    before = layer.weight.tolist()
    tc.explain(layer, x, show="dw").html()
    assert layer.weight.tolist() == before
    assert layer.weight.grad is None
    assert x.grad is None


def test_an_explanation_keeps_the_numbers_of_its_day() -> None:
    layer, x = nn.Conv2d(1, 1, 3).double(), tc.randn(1, 1, 4, 4, dtype=tc.float64)
    shown = tc.explain(layer, x)
    before = tc.explain(layer, x).html()
    layer.weight.array += 1
    x.array += 1
    assert shown.html() == before


# --- the command


@pytest.mark.parametrize("line", [
    "conv --input 6x6 -k 3 -s 2 -p 1 -d 1 -g 1 --pass dx",
    "conv --input 4x6x7 -k 2x3 -p same -g 2 --out-channels 4 --pass dw --no-bias",
    "conv --input 6x6 -p valid -d 2 --pass db",
    "convT --input 3x4 -k 3 -s 2 -p 1 --output-padding 1x0 --pass zeros",
    "maxpool --input 2x1x6x6 -k 3 -s 2 -p 1 --pass dx",
    "avgpool --input 6x6",
    "adaptive-avgpool --input 7x7 --output-size 3x2 --pass dx",
    "adaptive-maxpool --input 7x7",
    "conv --input 3x64x64 --region 0,2:4,:3",
])  # fmt: skip
def test_the_command(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *line.split()]) == 0
    words = capsys.readouterr().out
    name = line.split("--pass ")[1].split()[0] if "--pass" in line else "forward"
    assert f"\n{text.NAMES[name]}, step 1 of " in words
    assert main(["explain", *line.split(), "-o", str(tmp_path / "a.html")]) == 0
    page = (tmp_path / "a.html").read_text()
    assert numbers_of(page)["show"] == name
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'a.html'}: Input Shape : ")


def test_the_commands_numbers_add_up(tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    assert main(["explain", "conv", "--input", "2x5x5", "-g", "2", "-o", str(file)]) == 0
    data = numbers_of(file.read_text())
    arrays = {a["name"]: np.reshape(a["values"], a["shape"]) for a in data["arrays"]}
    layer = nn.Conv2d(2, 2, 3, groups=2)
    layer.weight.array[...] = arrays["w"]
    layer.bias.array[...] = data["passes"][0]["bias"]
    right = by_autograd(layer, arrays["x"].astype(np.float32), arrays["dy"].astype(np.float32))
    for name in ("forward", "dx", "dw", "db"):
        np.testing.assert_array_equal(added_up(data, name), right[name])


@pytest.mark.parametrize(("line", "words"), [
    ("conv --input 3x64x64", "Crop the steps: --region 0:1,0:1,"),
    ("conv --input 2x2", "Smallest padding that fits: 1"),
    ("maxpool --output-size 3", "explain maxpool: it has no --output-size"),
    ("convT -p same", "padding 'same' is for conv"),
    ("conv -o a.pdf", "suffix '.pdf'"),
    ("conv --open", "which one to write: -o out.html"),
    ("conv --step 99 -o a.svg", "step 99: there are 16, 0..15"),
])  # fmt: skip
def test_mistakes_in_the_command(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *line.split()]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("line", ["conv --input 6", "conv --input 6x0", "conv -k 3x3x3",
                                  "conv -k a", "conv --region a:b", "dense"])  # fmt: skip
def test_options_that_are_none(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", *line.split()])
    assert "error: argument" in capsys.readouterr().err


def test_the_browser_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["explain", "conv", "--open", "-o", str(tmp_path / "a.html")]) == 0
    assert opened == [(tmp_path / "a.html").as_uri()]
