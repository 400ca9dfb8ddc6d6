"""nn.functional against PyTorch in float64: values and gradients on drawn configurations."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn import functional as F

try:
    import torch
    import torch.nn.functional as TF
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

drawn = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
sizes = st.integers
flags = st.booleans()
pairs = st.tuples(sizes(1, 3), sizes(1, 3))
seeds = st.integers(0, 10_000)


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def assert_equal_to_torch(
    name: str, arrays: list[Any], *args: Any, tolerance: float = 1e-10, **params: Any
) -> None:
    """F.name(*arrays, *args, **params) against PyTorch: outputs, and gradients of the floats."""
    mine = [tc.tensor(a) if a is not None else None for a in arrays]
    other = [torch.tensor(a) if a is not None else None for a in arrays]
    for pair in zip(mine, other, strict=True):
        for leaf in pair:
            if leaf is not None and leaf.is_floating_point():
                leaf.requires_grad_()
    found = flat(getattr(F, name)(*mine, *args, **params))
    expected = flat(getattr(TF, name)(*other, *args, **params))
    for a, b in zip(found, expected, strict=True):
        close(a, b, tolerance)
    y, z = found[0], expected[0]
    direction = array(*y.shape, seed=99)
    y.backward(tc.tensor(direction))
    z.backward(torch.tensor(direction))
    for a, b in zip(mine, other, strict=True):
        if b is not None and b.grad is not None:
            close(a.grad, b.grad, tolerance)


def close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    a, b = found.detach().numpy(), expected.detach().numpy()
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    scale = max(1.0, np.abs(b).max(initial=0.0)) if np.isfinite(b).all() else 1.0
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


# --- convolutions


@st.composite
def convolutions(draw: Any, dims: int) -> tuple[list[Any], tuple[Any, ...]]:
    """(x, w, b), (stride, padding, dilation, groups)"""
    groups = draw(sizes(1, 3))
    c, o = groups * draw(sizes(1, 2)), groups * draw(sizes(1, 2))
    kernel = [draw(sizes(1, 4)) for _ in range(dims)]
    dilation = tuple(draw(sizes(1, 3)) for _ in range(dims))
    padding = draw(st.sampled_from(["numbers", "numbers", "same", "valid"]))
    stride = tuple(1 if padding == "same" else draw(sizes(1, 3)) for _ in range(dims))
    pads = tuple(draw(sizes(0, 2)) for _ in range(dims))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [span + draw(sizes(0, 5)) for span in spans]
    bias = array(o, seed=3) if draw(flags) else None
    arrays = [array(draw(sizes(1, 3)), c, *size), array(o, c // groups, *kernel, seed=1), bias]
    return arrays, (stride, pads if padding == "numbers" else padding, dilation, groups)


@needs_torch
@drawn
@given(convolutions(2))
def test_conv2d(case: Any) -> None:
    assert_equal_to_torch("conv2d", case[0], *case[1])


@needs_torch
@drawn
@given(convolutions(1))
def test_conv1d(case: Any) -> None:
    assert_equal_to_torch("conv1d", case[0], *case[1])


@st.composite
def transposed(draw: Any, dims: int) -> tuple[list[Any], tuple[Any, ...]]:
    """(x, w, b), (stride, padding, output_padding, groups, dilation)"""
    groups = draw(sizes(1, 3))
    c, o = groups * draw(sizes(1, 2)), draw(sizes(1, 2))
    kernel = [draw(sizes(1, 4)) for _ in range(dims)]
    stride = tuple(draw(sizes(1, 3)) for _ in range(dims))
    dilation = tuple(draw(sizes(1, 3)) for _ in range(dims))
    extra = tuple(draw(sizes(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    size = [draw(sizes(1, 5)) for _ in range(dims)]
    pads = []
    for n, k, s, d, e in zip(size, kernel, stride, dilation, extra, strict=True):
        pads.append(draw(sizes(0, min(3, ((n - 1) * s + d * (k - 1) + e) // 2))))
    bias = array(o * groups, seed=3) if draw(flags) else None
    arrays = [array(draw(sizes(1, 3)), c, *size), array(c, o, *kernel, seed=1), bias]
    return arrays, (stride, tuple(pads), extra, groups, dilation)


@needs_torch
@drawn
@given(transposed(2))
def test_conv_transpose2d(case: Any) -> None:
    assert_equal_to_torch("conv_transpose2d", case[0], *case[1])


@needs_torch
@drawn
@given(transposed(1))
def test_conv_transpose1d(case: Any) -> None:
    assert_equal_to_torch("conv_transpose1d", case[0], *case[1])


@needs_torch
@drawn
@given(pairs, pairs, st.tuples(sizes(0, 2), sizes(0, 2)), pairs, sizes(0, 4), sizes(0, 4))
def test_unfold_and_fold(
    kernel: Any, dilation: Any, padding: Any, stride: Any, more_h: int, more_w: int
) -> None:
    size = tuple(
        d * (k - 1) + 1 + m
        for k, d, m in zip(kernel, dilation, (more_h, more_w), strict=True)
    )
    x = array(2, 3, *size)
    assert_equal_to_torch("unfold", [x], kernel, dilation, padding, stride)
    columns = F.unfold(tc.tensor(x), kernel, dilation, padding, stride)
    assert_equal_to_torch(
        "fold", [array(*columns.shape)], size, kernel, dilation, padding, stride
    )


# --- pooling


@st.composite
def pools(draw: Any, dilated: bool) -> tuple[Any, ...]:
    kernel = draw(pairs)
    padding = tuple(draw(sizes(0, k // 2)) for k in kernel)
    dilation = draw(pairs) if dilated else (1, 1)
    size = tuple(
        d * (k - 1) + 1 + draw(sizes(0, 6)) for k, d in zip(kernel, dilation, strict=True)
    )
    stride = draw(st.one_of(st.none(), pairs))
    return array(2, 3, *size), kernel, stride, padding, dilation


@needs_torch
@drawn
@given(pools(True), flags, flags)
def test_max_pool2d(case: Any, ceil_mode: bool, return_indices: bool) -> None:
    x, kernel, stride, padding, dilation = case
    assert_equal_to_torch(
        "max_pool2d", [x], kernel, stride, padding, dilation, ceil_mode, return_indices
    )


@needs_torch
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pool2d_of_ties_and_nan(ceil_mode: bool) -> None:
    x = np.zeros((1, 2, 5, 5))
    x[0, 1, 2, 3] = math.nan
    x[0, 0, :3] = -math.inf
    assert_equal_to_torch("max_pool2d", [x], 2, 2, 1, 1, ceil_mode, True)


@needs_torch
@drawn
@given(pools(False), flags, flags, st.sampled_from([None, None, 1, 7]))
def test_avg_pool2d(case: Any, ceil_mode: bool, include: bool, divisor: int | None) -> None:
    x, kernel, stride, padding, _ = case
    assert_equal_to_torch("avg_pool2d", [x], kernel, stride, padding, ceil_mode, include, divisor)


@needs_torch
@drawn
@given(pools(False), flags, st.sampled_from([1.0, 2.0, 3.0]))
def test_lp_pool2d(case: Any, ceil_mode: bool, p: float) -> None:
    x, kernel, stride, _, _ = case
    assert_equal_to_torch("lp_pool2d", [np.abs(x) + 0.1], p, kernel, stride, ceil_mode)


@pytest.mark.parametrize("pool", [F.avg_pool2d, F.max_pool2d])
def test_pools_need_a_stride(pool: Any) -> None:
    with pytest.raises(ValueError, match=r"stride \(0, 0\).*must be at least 1"):
        pool(tc.ones(1, 1, 4, 4), 2, 0)


def test_avg_pool2d_divides_by_no_zero() -> None:
    with pytest.raises(ValueError, match="divisor_override is 0"):
        F.avg_pool2d(tc.ones(1, 1, 4, 4), 2, divisor_override=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.conv2d(x, x, stride=2.0), "stride is 2.0, it must be an integer; use"),
        (lambda x: F.conv2d(x, x, padding=(1, 0.5)), "padding is 0.5, it must be an integer"),
        (lambda x: F.max_pool2d(x, 3.0), "kernel_size is 3.0, it must be an integer; use"),
        (lambda x: F.conv1d(x[0], x[0], dilation=[1.5]), "dilation is 1.5, it must be an integer"),
    ],
)
def test_sizes_are_integers(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(tc.ones(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(1, 1, 3.0), "Conv2d: kernel_size is 3.0, .*use 3, and //"),
        (lambda: nn.MaxPool2d(2.0), "MaxPool2d: kernel_size is 2.0, .*use 2, and //"),
        (lambda: nn.MaxPool2d(2, (2, 1.5)), "MaxPool2d: stride is 1.5, it must be an integer$"),
        (lambda: nn.MaxPool2d(3, padding=1.0), "MaxPool2d: padding is 1.0, .*use 1, and //"),
        (lambda: nn.MaxPool2d(3, dilation=2.0), "MaxPool2d: dilation is 2.0, .*use 2, and //"),
        (lambda: nn.AvgPool2d(2.0), "AvgPool2d: kernel_size is 2.0, .*use 2, and //"),
        (lambda: nn.LPPool2d(2, 3, 6 / 2), "LPPool2d: stride is 3.0, .*use 3, and //"),
        (lambda: nn.BatchNorm2d(16 / 2), "BatchNorm2d: num_features is 8.0, .*use 8, and //"),
        (lambda: nn.InstanceNorm1d(4 / 2), "InstanceNorm1d: num_features is 2.0, .*use 2, and //"),
        (lambda: nn.GroupNorm(8 / 4, 8), "GroupNorm: num_groups is 2.0, .*use 2, and //"),
        (lambda: nn.GroupNorm(2, 8 / 2), "GroupNorm: num_channels is 4.0, .*use 4, and //"),
        (lambda: nn.LayerNorm(8 / 2), "LayerNorm: normalized_shape is 4.0, .*use 4, and //"),
        (lambda: nn.LayerNorm([3, 8 / 2]), "LayerNorm: normalized_shape is 4.0, .*use 4, and //"),
    ],
)
def test_sizes_of_layers_are_integers(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("one", [[nn.ReLU()], (nn.ReLU(),), iter([nn.ReLU()])])
def test_a_row_of_layers_is_to_be_unpacked(one: Any) -> None:
    with pytest.raises(TypeError, match=r"modules, not one \w+ of them: nn.Sequential\(\*layers\)"):
        nn.Sequential(one)


@needs_torch
def test_sizes_may_be_tuples_of_one() -> None:
    x = array(2, 3, 6, 6)
    assert_equal_to_torch("conv2d", [x, array(2, 3, 3, 3)], stride=(2,), padding=[1])
    assert_equal_to_torch("max_pool2d", [x], (2,))
    with pytest.raises(ValueError, match=r"stride=\(1, 2\) must be one number"):
        F.conv1d(tc.ones(1, 1, 8), tc.ones(1, 1, 2), stride=(1, 2))


outputs = st.one_of(st.none(), sizes(1, 9))


@needs_torch
@pytest.mark.parametrize("name", ["adaptive_avg_pool2d", "adaptive_max_pool2d"])
@drawn
@given(sizes(1, 8), sizes(1, 8), st.one_of(sizes(1, 9), st.tuples(outputs, outputs)))
def test_adaptive_pools(name: str, h: int, w: int, output_size: Any) -> None:
    assert_equal_to_torch(name, [array(2, 3, h, w)], output_size)
    if name == "adaptive_max_pool2d":
        assert_equal_to_torch(name, [array(2, 3, h, w)], output_size, True)


@needs_torch
@drawn
@given(pools(False))
def test_max_unpool2d(case: Any) -> None:
    x, kernel, _, padding, _ = case
    y, i = TF.max_pool2d(torch.tensor(x), kernel, None, padding, return_indices=True)
    assert_equal_to_torch("max_unpool2d", [y.numpy(), i.numpy()], kernel, None, padding, x.shape)


# --- shapes


@st.composite
def paddings(draw: Any) -> tuple[Any, list[int], str]:
    mode = draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    size = [draw(sizes(2, 5)), draw(sizes(2, 5))]
    most = {"constant": 4, "replicate": 6}
    pads = []
    for n in reversed(size):
        top = most.get(mode, n - 1 if mode == "reflect" else n)
        low = -1 if mode == "constant" else 0
        pads += [draw(sizes(low, top)), draw(sizes(0, top))]
    return array(2, 3, *size), pads, mode


@needs_torch
@drawn
@given(paddings(), st.sampled_from([None, 1.5, -math.inf]))
def test_pad(case: Any, value: float | None) -> None:
    x, pads, mode = case
    if mode == "constant":
        assert_equal_to_torch("pad", [x], pads, mode, value)
    else:
        assert_equal_to_torch("pad", [x], pads, mode)


@needs_torch
@drawn
@given(
    sizes(1, 6), sizes(1, 6), sizes(1, 9), sizes(1, 9),
    st.sampled_from(["nearest", "bilinear", "corners"]),
)  # fmt: skip
def test_interpolate_to_a_size(h: int, w: int, oh: int, ow: int, mode: str) -> None:
    options = {"mode": mode} if mode != "corners" else {"mode": "bilinear", "align_corners": True}
    assert_equal_to_torch("interpolate", [array(2, 3, h, w)], (oh, ow), **options)


@pytest.mark.parametrize("align_corners", [True, False])
def test_nearest_has_no_corners(align_corners: bool) -> None:
    x = tc.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match="mode='nearest'; leave it out or use mode='bilinear'"):
        F.interpolate(x, (3, 3), align_corners=align_corners)


factors = st.sampled_from([0.5, 0.7, 1.0, 1.2, 1.5, 2, 2.5, 3, 3.3])


@needs_torch
@settings(drawn, max_examples=60)
@given(
    sizes(2, 6), sizes(2, 6), st.one_of(factors, st.tuples(factors, factors)),
    st.sampled_from(["nearest", "bilinear", "corners"]),
)  # fmt: skip
def test_interpolate_by_a_factor(h: int, w: int, factor: Any, mode: str) -> None:
    options = {"mode": mode} if mode != "corners" else {"mode": "bilinear", "align_corners": True}
    assert_equal_to_torch("interpolate", [array(2, 3, h, w)], scale_factor=factor, **options)


@needs_torch
@drawn
@given(sizes(1, 6), sizes(1, 9), st.sampled_from(["nearest", "linear"]))
def test_interpolate_signals(n: int, out: int, mode: str) -> None:
    assert_equal_to_torch("interpolate", [array(2, 3, n)], out, mode=mode)


@needs_torch
@drawn
@given(sizes(1, 3), sizes(1, 3), sizes(1, 3), sizes(1, 3))
def test_pixel_shuffle(r: int, c: int, h: int, w: int) -> None:
    assert_equal_to_torch("pixel_shuffle", [array(2, c * r * r, h, w)], r)
    assert_equal_to_torch("pixel_unshuffle", [array(2, c, h * r, w * r)], r)


# --- norms


@needs_torch
@drawn
@given(st.lists(sizes(2, 4), min_size=0, max_size=2), sizes(1, 3), flags, st.floats(1e-6, 0.1))
def test_layer_and_group_norm(size: list[int], groups: int, affine: bool, eps: float) -> None:
    c = 2 * groups
    x = array(3, c, *size)
    vectors = [array(c, seed=1), array(c, seed=2)] if affine else [None, None]
    shape = x.shape[1:]
    tables = [array(*shape, seed=1), array(*shape, seed=2)] if affine else [None, None]
    mine, other = _with(x, vectors)
    _same_with_gradients(
        lambda x, w, b: F.group_norm(x, groups, w, b, eps),
        lambda x, w, b: TF.group_norm(x, groups, w, b, eps), mine, other,
    )  # fmt: skip
    mine, other = _with(x, tables)
    _same_with_gradients(
        lambda x, w, b: F.layer_norm(x, shape, w, b, eps),
        lambda x, w, b: TF.layer_norm(x, shape, w, b, eps), mine, other,
    )  # fmt: skip


def _with(x: Any, more: list[Any]) -> tuple[list[Any], list[Any]]:
    arrays = [x, *more]
    return (
        [None if a is None else tc.tensor(a).requires_grad_() for a in arrays],
        [None if a is None else torch.tensor(a, requires_grad=True) for a in arrays],
    )


def _same_with_gradients(
    f: Callable[..., Any], g: Callable[..., Any], mine: list[Any], other: list[Any]
) -> None:
    y, z = f(*mine), g(*other)
    close(y, z)
    direction = array(*y.shape, seed=99)
    y.backward(tc.tensor(direction))
    z.backward(torch.tensor(direction))
    for a, b in zip(mine, other, strict=True):
        if b is not None:
            close(a.grad, b.grad)


def _normed(f: Any, running: list[Any], options: tuple[Any, ...], x: Any, w: Any, b: Any) -> Any:
    return f(x, *running, w, b, *options)


@needs_torch
@drawn
@given(
    st.lists(sizes(1, 4), min_size=0, max_size=2), flags, st.floats(0.0, 1.0), st.floats(1e-6, 0.1)
)
def test_batch_norm_and_its_running_statistics(
    size: list[int], affine: bool, momentum: float, eps: float
) -> None:
    vectors = [array(3, seed=1), array(3, seed=2)] if affine else [None, None]
    ours = [tc.zeros(3, dtype=tc.float64), tc.ones(3, dtype=tc.float64)]
    theirs = [torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    for step in range(4):
        options = (step < 3, momentum, eps)  # the last step evaluates
        mine, other = _with(array(4, 3, *size, seed=step), vectors)
        _same_with_gradients(
            partial(_normed, F.batch_norm, ours, options),
            partial(_normed, TF.batch_norm, theirs, options),
            mine, other,
        )  # fmt: skip
        for a, b in zip(ours, theirs, strict=True):
            close(a, b)


@needs_torch
@drawn
@given(st.lists(sizes(2, 4), min_size=1, max_size=2), flags, flags, st.floats(0.0, 1.0))
def test_instance_norm(
    size: list[int], affine: bool, use_input_stats: bool, momentum: float
) -> None:
    vectors = [array(3, seed=1), array(3, seed=2)] if affine else [None, None]
    ours = [tc.zeros(3, dtype=tc.float64), tc.ones(3, dtype=tc.float64)]
    theirs = [torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    for step in range(2):
        mine, other = _with(array(2, 3, *size, seed=step), vectors)
        _same_with_gradients(
            lambda x, w, b: F.instance_norm(x, *ours, w, b, use_input_stats, momentum),
            lambda x, w, b: TF.instance_norm(x, *theirs, w, b, use_input_stats, momentum),
            mine, other,
        )  # fmt: skip
        for a, b in zip(ours, theirs, strict=True):
            close(a, b)


@needs_torch
@drawn
@given(st.sampled_from([1.0, 2.0, 3.0, math.inf]), sizes(0, 2))
def test_normalize(p: float, dim: int) -> None:
    x = array(2, 3, 4)
    x[0] = 0 if dim == 2 and p == 2 else x[0]
    assert_equal_to_torch("normalize", [x], p, dim)


# --- losses


@st.composite
def classified(draw: Any) -> tuple[Any, Any, Any]:
    """logits, targets (some -100), class weights or None"""
    shape = draw(st.sampled_from([(), (1,), (5,), (2, 3), (2, 2, 3)]))
    classes = draw(sizes(1, 4))
    rng = np.random.default_rng(draw(seeds))
    target = rng.integers(0, classes, shape)
    target = np.where(rng.random(shape) < draw(st.sampled_from([0, 0.3, 1])), -100, target)
    logits = rng.standard_normal((*shape[:1], classes, *shape[1:]))
    return logits, target, rng.random(classes) + 0.5 if draw(flags) else None


reductions = st.sampled_from(["mean", "sum", "none"])


@needs_torch
@settings(drawn, max_examples=60)
@given(classified(), reductions, st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([-100, 0]))
def test_cross_entropy(case: Any, reduction: str, smoothing: float, ignore_index: int) -> None:
    logits, target, weight = case
    target = target if ignore_index == -100 else np.maximum(target, 0)
    ours = tc.tensor(logits).requires_grad_()
    theirs = torch.tensor(logits, requires_grad=True)
    options = {
        "ignore_index": ignore_index, "reduction": reduction, "label_smoothing": smoothing,
    }  # fmt: skip
    y = F.cross_entropy(
        ours, tc.tensor(target), None if weight is None else tc.tensor(weight), **options
    )
    z = TF.cross_entropy(
        theirs, torch.tensor(target),
        None if weight is None else torch.tensor(weight), **options,
    )  # fmt: skip
    close(y, z)
    y.sum().backward()
    z.sum().backward()
    if theirs.grad.isfinite().all():
        close(ours.grad, theirs.grad)


@needs_torch
@drawn
@given(classified(), reductions, st.sampled_from([0.0, 0.2]))
def test_cross_entropy_of_probabilities(case: Any, reduction: str, smoothing: float) -> None:
    logits, _, weight = case
    target = np.abs(array(*logits.shape, seed=5))
    options = {"reduction": reduction, "label_smoothing": smoothing}
    assert_equal_to_torch("cross_entropy", [logits, target, weight], **options)


@needs_torch
@drawn
@given(classified(), reductions)
def test_nll_loss(case: Any, reduction: str) -> None:
    logits, target, weight = case
    constant = [None if weight is None else f(weight) for f in (tc.tensor, torch and torch.tensor)]
    ours = tc.tensor(logits).requires_grad_()
    theirs = torch.tensor(logits, requires_grad=True)
    y = F.nll_loss(ours, tc.tensor(target), constant[0], reduction=reduction)
    z = TF.nll_loss(theirs, torch.tensor(target), constant[1], reduction=reduction)
    close(y, z)
    y.sum().backward()
    z.sum().backward()
    close(ours.grad, theirs.grad)


@needs_torch
@drawn
@given(reductions, flags, flags, seeds)
def test_binary_cross_entropies(reduction: str, weighed: bool, positive: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, target = 8 * rng.standard_normal((3, 4)), rng.random((3, 4))
    weight = rng.random((3, 4)) if weighed else None
    pos = {"pos_weight": rng.random(4) + 0.5} if positive else {}
    for name, x, options in [
        ("binary_cross_entropy_with_logits", logits, pos),
        ("binary_cross_entropy", rng.random((3, 4)), {}),
    ]:
        mine, other = _with(x, [target])
        y = getattr(F, name)(
            *mine, None if weight is None else tc.tensor(weight), reduction=reduction,
            **{k: tc.tensor(v) for k, v in options.items()},
        )  # fmt: skip
        z = getattr(TF, name)(
            *other, None if weight is None else torch.tensor(weight), reduction=reduction,
            **{k: torch.tensor(v) for k, v in options.items()},
        )  # fmt: skip
        close(y, z)
        y.sum().backward()
        z.sum().backward()
        for a, b in zip(mine, other, strict=True):
            close(a.grad, b.grad)


@needs_torch
def test_binary_cross_entropy_at_0_and_1() -> None:
    p, t = np.array([0.0, 1.0, 0.0, 1.0, 0.5]), np.array([0.0, 1.0, 1.0, 0.0, 0.3])
    y = F.binary_cross_entropy(tc.tensor(p), tc.tensor(t), reduction="none")
    close(y, TF.binary_cross_entropy(torch.tensor(p), torch.tensor(t), reduction="none"))
    x = np.array([-1e4, -50.0, 0.0, 50.0, 1e4])
    assert_equal_to_torch("binary_cross_entropy_with_logits", [x, t])


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_and_its_gradient_at_the_ends(dtype: str) -> None:
    p = np.array([0.0, 1.0, 0.0, 1.0, 0.5, 1e-13, 1 - 1e-7, 1e-20], dtype)
    t = np.array([1.0, 1.0, 0.0, 0.0, 0.3, 1.0, 0.5, 0.0], dtype)
    ours, theirs = tc.tensor(p).requires_grad_(), torch.tensor(p, requires_grad=True)
    y = F.binary_cross_entropy(ours, tc.tensor(t), reduction="none")
    z = TF.binary_cross_entropy(theirs, torch.tensor(t), reduction="none")
    np.testing.assert_allclose(y.detach(), z.detach(), rtol=1e-6)
    y.sum().backward()
    z.sum().backward()
    assert ours.grad.dtype == dtype
    np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-6)
    assert F.binary_cross_entropy(ours[:2], tc.tensor(t[:2])).item() == 50.0


@needs_torch
@drawn
@given(
    st.sampled_from(["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"]), reductions,
    st.sampled_from([0.25, 1.0, 2.0]),
)  # fmt: skip
def test_distances(name: str, reduction: str, width: float) -> None:
    x = array(3, 4)
    t = x + np.array([0.0, 0.25, -1.0, 2.0])  # the corners of each curve
    options = {"smooth_l1_loss": {"beta": width}, "huber_loss": {"delta": width}}.get(name, {})
    assert_equal_to_torch(name, [x, t], reduction=reduction, **options)


def test_binary_cross_entropy_of_integers_says_float() -> None:
    with pytest.raises(TypeError, match=r"binary_cross_entropy: target is int64; target.float\(\)"):
        F.binary_cross_entropy(tc.rand(3), tc.tensor([1, 0, 1]))


@needs_torch
def test_huber_takes_reduction_and_delta_in_pytorchs_order() -> None:
    assert_equal_to_torch("huber_loss", [array(3, 4), array(3, 4, seed=1)], "sum", 0.5)


@pytest.mark.parametrize("beta", [-1.0, -0.5])
def test_smooth_l1_needs_a_width(beta: float) -> None:
    with pytest.raises(ValueError, match=f"beta is {beta}"):
        F.smooth_l1_loss(tc.ones(2), tc.ones(2), beta=beta)


# --- activations

CORNERS = np.array([-np.inf, -30.0, -6.0, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 6.0, 20.0, 30.0])


@needs_torch
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("relu", {}), ("leaky_relu", {}), ("leaky_relu", {"negative_slope": 0.3}),
        ("elu", {}), ("elu", {"alpha": 0.7}), ("gelu", {}), ("gelu", {"approximate": "tanh"}),
        ("silu", {}), ("softplus", {}), ("softplus", {"beta": 2.0, "threshold": 1.0}),
        ("hardtanh", {}), ("hardtanh", {"min_val": -6.0, "max_val": 0.5}), ("relu6", {}),
        ("sigmoid", {}), ("tanh", {}),
    ],
)  # fmt: skip
def test_activations_at_their_corners(name: str, params: dict[str, float]) -> None:
    assert_equal_to_torch(name, [CORNERS[1:]], **params, tolerance=1e-14)


@needs_torch
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 3, 2, 2)])
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_softmax_takes_the_class_axis_by_default(name: str, shape: tuple[int, ...]) -> None:
    assert_equal_to_torch(name, [array(*shape)])
    assert_equal_to_torch(name, [array(*shape)], -1)
    assert getattr(F, name)(tc.ones(*shape), -1, dtype=tc.float64).dtype == tc.float64


# --- dropout


def test_dropout_keeps_the_mean() -> None:
    x = tc.ones(200, 500)
    y = F.dropout(x, 0.3).numpy()
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 0.01
    assert np.allclose(y[kept], 1 / 0.7)
    assert y.dtype == np.float32


@pytest.mark.parametrize("function", [F.dropout, F.dropout2d])
def test_dropout_follows_the_seed(function: Any) -> None:
    x = tc.ones(4, 8, 3, 3, requires_grad=True)
    tc.manual_seed(3)
    y = function(x, 0.5)
    tc.manual_seed(3)
    assert np.array_equal(function(x, 0.5).detach(), y.detach())
    assert not np.array_equal(function(x, 0.5).detach(), y.detach())
    y.sum().backward()
    assert np.array_equal(x.grad, y.detach())  # the gradient meets the same mask


def test_dropout2d_drops_whole_planes() -> None:
    y = F.dropout2d(tc.ones(50, 40, 3, 2), 0.25).numpy().reshape(2000, 6)
    assert (y == y[:, :1]).all()
    assert abs((y[:, 0] == 0).mean() - 0.25) < 0.05
    assert y.max() == np.float32(1 / 0.75)


@pytest.mark.parametrize("function", [F.dropout, F.dropout2d])
def test_dropout_without_chance(function: Any) -> None:
    x = tc.ones(2, 3, 4, 4)
    assert function(x, 0.0) is x
    assert function(x, 0.9, training=False) is x
    assert not function(x, 1.0).numpy().any()


# --- tables


@needs_torch
@drawn
@given(st.one_of(st.none(), sizes(-4, 3)))
def test_embedding(padding_idx: int | None) -> None:
    index, table = np.array([[0, 1, 3], [3, 3, 2]]), array(4, 5)
    assert_equal_to_torch("embedding", [index, table], padding_idx)


@needs_torch
@drawn
@given(st.lists(sizes(0, 4), min_size=1, max_size=6), st.sampled_from([-1, 5, 8]))
def test_one_hot(values: list[int], classes: int) -> None:
    found = F.one_hot(tc.tensor(values), classes)
    close(found, TF.one_hot(torch.tensor(values), classes))


@needs_torch
@drawn
@given(st.lists(sizes(1, 3), min_size=0, max_size=3), flags)
def test_linear(lead: list[int], bias: bool) -> None:
    arrays = [array(*lead, 4), array(3, 4, seed=1), array(3, seed=2) if bias else None]
    assert_equal_to_torch("linear", arrays)
    bias_of_one = np.array(0.5) if bias and len(lead) != 1 else None  # PyTorch refuses it in 2-D
    assert_equal_to_torch("linear", [arrays[0], array(4, seed=1), bias_of_one])


def test_linear_of_another_weight() -> None:
    with pytest.raises(ValueError, match=r"got 4 .*expects 3. Linear\(4, 1\)"):
        F.linear(tc.ones(2, 4), tc.ones(3))
    with pytest.raises(ValueError, match=r"weight \(1, 2, 4\) must be \(out, in\) or \(in,\)"):
        F.linear(tc.ones(2, 4), tc.ones(1, 2, 4))


# --- the whole module


def public() -> dict[str, Any]:
    return {n: f for n, f in vars(F).items() if callable(f) and not n.startswith("_")}


@pytest.mark.parametrize("name", sorted(public()))
def test_every_function_is_documented(name: str) -> None:
    assert public()[name].__doc__


OURS = {"batch_norm_relu"}  # PyTorch has no such function
LEFT_OUT = {
    "size_average", "reduce",  # deprecated: what follows them is given by name
    "max_norm", "norm_type", "scale_grad_by_freq", "sparse",  # of embedding
    "recompute_scale_factor", "antialias", "out", "_stacklevel",
}  # fmt: skip


@needs_torch
@pytest.mark.parametrize("name", sorted(set(public()) - OURS))
def test_arguments_are_pytorchs(name: str) -> None:
    """Names, order and defaults; those left out come after the others or the rest is by name."""
    ours = inspect.signature(public()[name]).parameters
    assert not [p for p in ours if p.startswith("_")]
    try:
        theirs = inspect.signature(getattr(TF, name)).parameters
    except ValueError:  # written in C++
        return
    if {"args", "kwargs"} <= set(theirs):
        return
    skipped = LEFT_OUT - set(ours)
    weightless = name in ("huber_loss", "mse_loss", "l1_loss")  # theirs comes last
    wanted = [p for p in theirs if p not in skipped and not (weightless and p == "weight")]
    assert list(ours) == wanted
    for p in wanted:
        if theirs[p].default is not inspect.Parameter.empty:
            assert ours[p].default == theirs[p].default
    if "size_average" in theirs:
        after = list(theirs)[list(theirs).index("size_average") :]
        assert all(ours[p].kind is inspect.Parameter.KEYWORD_ONLY for p in after if p in ours)


ISSUE = """
conv1d conv2d conv_transpose1d conv_transpose2d unfold fold max_pool2d max_unpool2d avg_pool2d
adaptive_avg_pool2d adaptive_max_pool2d lp_pool2d batch_norm layer_norm group_norm instance_norm
linear pad interpolate pixel_shuffle dropout dropout2d one_hot embedding normalize relu leaky_relu
elu gelu silu softplus hardtanh relu6 sigmoid tanh softmax log_softmax cross_entropy nll_loss
mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits
"""


def test_nothing_is_missing() -> None:
    assert [name for name in ISSUE.split() if name not in public()] == []
