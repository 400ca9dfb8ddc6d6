"""Where the pieces of a definition meet, special values, axes of numbers and axes of nothing."""

import math
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calls import Call
from torch_twins import function_twin, to_torch, twin

import tinyconv as tc
from tinyconv.autograd import OPS
from tinyconv.samples import FUNCTIONS, Draw, Sample

torch = pytest.importorskip("torch")

INF, NAN = math.inf, math.nan
# limits of the pieces of every function below, with a number on each side; and special values
POINTS = [
    0.0, -0.0, 1e-30, 1e-3, -1e-3, 0.3, 0.5, 1.0, -1.0, 1.3, 2.0, -2.0, 3.0, -3.0, 6.0, 6.5, -6.0,
    20.0, 20.5, -20.0, 30.0, -30.0, 80.0, -80.0, 800.0, -800.0, 1e30, -1e30, INF, -INF, NAN,
]  # fmt: skip
CHANCES = [0.0, 1e-30, 1e-12, 1e-8, 0.3, 0.5, 1 - 1e-8, 1.0]

ORDERS = ("value", "first", "second")


def orders(library: Any, function: Any, points: list[float], dtype: str) -> list[Any]:
    """A function of one row of numbers, and its first and second derivative there."""
    grad = torch.autograd.grad if library is torch else tc.grad
    x = library.tensor(np.array(points, dtype), requires_grad=True)
    found = [function(library, x)]
    while len(found) < 3:
        last, zero = found[-1], np.zeros(len(points))
        if isinstance(last, np.ndarray) or not last.requires_grad:
            found.append(zero)
        else:
            (g,) = grad(last.sum(), x, create_graph=True, allow_unused=True)
            found.append(zero if g is None else g)
    return [y if isinstance(y, np.ndarray) else array(y) for y in found]


def array(x: Any) -> Any:
    return x.detach().cpu().numpy() if isinstance(x, tc.Tensor) else x.numpy(force=True)


def row(library: Any, x: Any, value: float) -> Any:
    """A constant row beside x."""
    return library.tensor(np.full(x.shape, value, str(x.dtype).removeprefix("torch.")))


def functional(name: str, *args: Any, **options: Any) -> Callable[[Any, Any], Any]:
    return lambda library, x: getattr(library.nn.functional, name)(x, *args, **options)


def loss(name: str, target: float, **options: Any) -> Callable[[Any, Any], Any]:
    return lambda library, x: getattr(library.nn.functional, name)(
        x, row(library, x, target), reduction="none", **options
    )


def plain(name: str) -> Callable[[Any, Any], Any]:
    return lambda library, x: getattr(library, name)(x)


def against(name: str, value: float, first: bool = True) -> Callable[[Any, Any], Any]:
    def call(library: Any, x: Any) -> Any:
        pair = (x, row(library, x, value)) if first else (row(library, x, value), x)
        return getattr(library, name)(*pair)

    return call


PIECES: dict[str, Callable[[Any, Any], Any]] = {
    name: plain(name)
    for name in ("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid",
                 "abs", "sign", "relu", "erf", "neg")
}  # fmt: skip
PIECES |= {
    name: functional(name)
    for name in ("relu6", "leaky_relu", "elu", "gelu", "silu", "hardtanh", "softplus")
}
PIECES |= {
    "elu(0.5)": functional("elu", 0.5),
    "leaky_relu(-0.3)": functional("leaky_relu", -0.3),
    "hardtanh(-0.5, 2)": functional("hardtanh", -0.5, 2.0),
    "gelu(tanh)": functional("gelu", approximate="tanh"),
    "softplus(2)": functional("softplus", 2.0),
    "clamp(-1, 2)": lambda library, x: library.clamp(x, -1.0, 2.0),
    "clamp(min)": lambda library, x: library.clamp(x, min=-1.0),
    "clamp(max)": lambda library, x: library.clamp(x, max=2.0),
    "clamp(tensors)": lambda library, x: library.clamp(
        x, row(library, x, -1.0), row(library, x, 2.0)
    ),
    "remainder": lambda library, x: x % 1.5,
    "square": lambda library, x: x * x,
}
for _k in (0.0, 1.0, INF, NAN):
    PIECES[f"maximum(x, {_k})"] = against("maximum", _k)
    PIECES[f"minimum({_k}, x)"] = against("minimum", _k, first=False)
for _p in (0, 1, 2, 3, -1, -2, 0.5, 2.5):
    PIECES[f"x ** {_p}"] = lambda library, x, p=_p: x**p
for _p in (0.0, 1.0, 2.0, 3.0, -1.0):
    PIECES[f"x ** tensor({_p})"] = against("pow", _p)
for _b in (0.0, 0.5, 1.0, 2.0):
    PIECES[f"{_b} ** x"] = lambda library, x, b=_b: b**x
    PIECES[f"tensor({_b}) ** x"] = against("pow", _b, first=False)
for _t in (0.0, 0.3, 1.0):
    for _name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        PIECES[f"{_name}(x, {_t})"] = loss(_name, _t)
    PIECES[f"bce_with_logits(x, {_t})"] = loss("binary_cross_entropy_with_logits", _t)
PIECES |= {
    "huber_loss(delta=2)": loss("huber_loss", 0.0, delta=2.0),
    "smooth_l1_loss(beta=2)": loss("smooth_l1_loss", 0.0, beta=2.0),
    "smooth_l1_loss(beta=0)": loss("smooth_l1_loss", 0.3, beta=0.0),
}

# (function, order) -> the points at which another number than PyTorch's is meant, and why
MEANT: dict[tuple[str, str], tuple[Callable[[Any], Any], str]] = {}


def meant(names: list[str], order: str, where: Callable[[Any], Any], why: str) -> None:
    MEANT.update({(name, order): (where, why) for name in names})


def zero(x: Any) -> Any:
    return x == 0


meant(["elu", "elu(0.5)"], "second", zero, "of the piece that has the value and the slope at 0")
meant(["softplus"], "second", lambda x: x == 20, "the curve's, whose slope is used at 20")
meant(["softplus(2)"], "second", lambda x: x == 10, "the same")
meant(["x ** 0.5"], "first", lambda x: zero(x) | (x == -INF), "IEEE 754's pow, not a root")
meant(["x ** tensor(0.0)"], "second", lambda x: ~(abs(x) > 1e-20), "a^0 is 1 everywhere")
meant(
    ["0.0 ** x", "tensor(0.0) ** x"], "second", lambda x: x >= 0, "0^x is 0: not NaN beside it"
)
meant(["gelu"], "value", lambda x: x == INF, "inf: PyTorch's vectorised float32 loop gives NaN")
meant(["gelu"], "second", lambda x: abs(x) > 1e20, "0: PyTorch's float32 x^2 overflows")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PIECES)
def test_pieces_against_torch(name: str, dtype: str) -> None:
    ours = orders(tc, PIECES[name], POINTS, dtype)
    theirs = orders(torch, PIECES[name], POINTS, dtype)
    x = np.array(POINTS)
    rtol, atol = (1e-9, 1e-14) if dtype == "float64" else (2e-4, 1e-6)
    for order, a, b in zip(ORDERS, ours, theirs, strict=True):
        excused, _ = MEANT.get((name, order), (lambda x: x != x + 0 * x, ""))
        wrong = ~np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
        if (name, order) in MEANT:
            wrong &= ~excused(x)
        at = [(x[i], a[i], b[i]) for i in np.flatnonzero(wrong)]
        assert not at, f"{order}: at x, ours, PyTorch's: {at}"


def test_every_meant_difference_is_one() -> None:
    """Else the list would hide what is the same by now."""
    for (name, order), (where, why) in MEANT.items():
        differs = False
        for dtype in ("float32", "float64"):
            k = ORDERS.index(order)
            a = orders(tc, PIECES[name], [*POINTS, 10.0], dtype)[k]
            b = orders(torch, PIECES[name], [*POINTS, 10.0], dtype)[k]
            at = where(np.array([*POINTS, 10.0]))
            differs |= not np.allclose(a[at], b[at], rtol=1e-6, atol=1e-12, equal_nan=True)
        assert differs, f"{name}, {order}: {why}"


def test_the_table_has_every_operation_of_one_number() -> None:
    """Elementwise operations that are added later must be added to PIECES."""
    one = Sample((Draw((3, 4)),))
    others = {"to_dtype", "to_device", "clone", "zeros_like", "ones_like", "isnan", "isfinite"}
    others |= {"reshape", "all_reduce"}
    for name, op in OPS.items():
        of_one = op.arity == 1 and not op.variadic and one.args in [s.args for s in op.samples]
        if not of_one or name in others or not op.vjps or op.keywords:
            continue
        shape = op.forward(np.ones((3, 4))).shape
        assert shape == () or any(name in key for key in PIECES), name


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_binary_cross_entropy_at_0_and_1(target: float) -> None:
    ours = orders(tc, loss("binary_cross_entropy", target), CHANCES, "float64")
    theirs = orders(torch, loss("binary_cross_entropy", target), CHANCES, "float64")
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)  # PyTorch's 1e-12 is a float32
    p, tiny = np.array(CHANCES), 1e-12
    right = target / (p + tiny) ** 2 + (1 - target) / (1 - p + tiny) ** 2
    np.testing.assert_allclose(ours[2], right, rtol=1e-9)
    far = abs(p - target) > 1e-6  # PyTorch's bound hides the curvature where p is the target
    np.testing.assert_allclose(ours[2][far], theirs[2][far], rtol=1e-3)


@pytest.mark.parametrize("p", [3.0, 1.5, 2.5, 4.0, 0.5, 1.0, 2.0, INF, -INF, -1.0, -2.5])
@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [0.0, 2.0, -3.0], [1.0, -1.0, 0.5]])
def test_norms_at_zeros(p: float, values: list[float]) -> None:
    found = [orders(m, lambda _, x: x.norm(p), values, "float64")[:2] for m in (tc, torch)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    pair = [
        orders(m, lambda m, x: m.nn.functional.normalize(x, p, 0), values, "float64")
        for m in (tc, torch)
    ]
    for a, b in zip(*[found[:2] for found in pair], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_second_derivatives_of_lengths_at_0() -> None:
    def second(f: Any) -> Any:
        return orders(tc, f, [0.0, 0.0], "float64")[2]

    assert np.isnan(second(lambda _, x: x.norm())).all()  # it has none
    assert np.isnan(second(lambda _, x: x.norm() ** 2)).all()  # of a root, as in PyTorch
    assert (second(lambda _, x: (x * x).sum()) == 2).all()
    assert (second(lambda m, x: m.nn.functional.normalize(x, dim=0)) == 0).all()  # x / eps
    assert (second(lambda _, x: x.norm(3.0)) == 0).all()
    assert (second(lambda _, x: (x * 0 + 1).std()) == 0).all()


@pytest.mark.parametrize("a", [0.0, 2.0, 0.5])
@pytest.mark.parametrize("b", [0.0, 1.0, 2.0, 3.0, -1.0])
def test_powers_to_second_order_in_both(a: float, b: float) -> None:
    """All four second derivatives; b = 0 and 1 with a = 0 as PyTorch has it, without its NaN."""

    def hessian(library: Any, grad: Any) -> Any:
        x = library.tensor(np.array([a]), requires_grad=True)
        y = library.tensor(np.array([b]), requires_grad=True)
        first = grad((x**y).sum(), (x, y), create_graph=True)
        second = [grad(g.sum(), (x, y), retain_graph=True, allow_unused=True) for g in first]
        flat = [0.0 if h is None else h.item() for row in second for h in row]
        return [g.item() for g in first], flat

    ours, theirs = hessian(tc, tc.grad), hessian(torch, torch.autograd.grad)
    np.testing.assert_allclose(ours[0], theirs[0])
    if a:
        right = [
            b * (b - 1) * a ** (b - 2),
            a ** (b - 1) * (1 + b * math.log(a)),
            a ** (b - 1) * (1 + b * math.log(a)),
            a**b * math.log(a) ** 2,
        ]
        np.testing.assert_allclose(ours[1], right, atol=1e-12)
    else:
        known = ~np.isnan(theirs[1])
        np.testing.assert_allclose(np.array(ours[1])[known], np.array(theirs[1])[known])


@pytest.mark.parametrize("name", ["max", "min", "amax", "amin"])
@pytest.mark.parametrize("values", [[1.0, NAN, 0.0], [NAN, NAN, 1.0], [2.0, 2.0, 1.0], [INF, INF]])
def test_extremes_with_nan(name: str, values: list[float]) -> None:
    ours, theirs = (
        orders(m, lambda _, x: getattr(x, name)(), values, "float64") for m in (tc, torch)
    )
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_nan_stays_in_its_row() -> None:
    x = tc.tensor([[1.0, NAN], [3.0, 2.0]], requires_grad=True)
    x.amax(1).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[NAN, NAN], [1, 0]])


def test_cross_entropy_with_all_targets_ignored() -> None:
    for library, grad in ((tc, tc.grad), (torch, torch.autograd.grad)):
        x = library.tensor(np.ones((2, 3)), requires_grad=True)
        target = library.tensor(np.array([-100, -100]))
        y = library.nn.functional.cross_entropy(x, target)
        assert math.isnan(y.item())
        (g,) = grad(y, x, create_graph=True)
        (h,) = grad((g * g).sum() + (g * x).sum(), x)
        assert (array(g) == 0).all()
        assert (array(h) == 0).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize(
    "values",
    [[30.0, -30, 800, -800], [INF, 1, 2], [-INF, 1, 2], [-INF, -INF], [INF, INF], [NAN, 1], [1e30]],
)
def test_softmax_at_its_ends(name: str, values: list[float]) -> None:
    for dtype in ("float32", "float64"):
        ours, theirs = (
            orders(m, lambda _, x: getattr(x, name)(0) ** 2, values, dtype) for m in (tc, torch)
        )
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# --- products


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8])
def test_products_to_second_order_with_zeros(n: int, zeros: int) -> None:
    values = np.random.default_rng(n).uniform(0.5, 2, (3, n))
    values[:, : min(zeros, n)] = 0
    found = []
    for library, grad in ((tc, tc.grad), (torch, torch.autograd.grad)):
        x = library.tensor(values, requires_grad=True)
        weights = library.tensor(np.arange(1.0, n + 1))
        (g,) = grad(x.prod(1).sum(), x, create_graph=True)
        second = grad((g * weights).sum(), x, allow_unused=True)[0] if n > 1 else None
        found.append([array(g), np.zeros(1) if second is None else array(second)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_product_takes_linear_memory() -> None:
    n = 100_000
    x = tc.ones(n, requires_grad=True)
    tracemalloc.start()
    x.prod().backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * x.nbytes
    assert (x.grad.array == 1).all()


# --- the axis of a number


def outcome(f: Callable[[], Any]) -> Any:
    """The results as arrays, or "refused": by an error that is the library's own."""
    try:
        y = f()
    except tc.errors.TinyconvError:
        return "refused"
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        if "tinyconv" in error.__traceback__.tb_next.tb_frame.f_globals["__name__"]:
            raise  # NumPy's or Python's
        return "refused"
    return [array(t) for t in (y if isinstance(y, (tuple, list)) else (y,))]


SKIPPED = {"cat", "permute", "broadcast_to", "sum_to", "getitem", "put_add", "scatter_into"}
SKIPPED |= {"band_product"}


def with_dim() -> list[Any]:
    """Every operation and function that takes a dim: its name and the call (library, x, dim)."""
    found = {}
    for name, op in OPS.items():
        if "dim" in op.keywords and op.arity == 1 and not op.variadic and name not in SKIPPED:
            found[name] = (op, twin(name), name in ("softmax", "log_softmax"))
    for name, (function, _) in FUNCTIONS.items():
        code = getattr(function, "__wrapped__", function).__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if "dim" in names and names[0] in ("x", "input") and name not in SKIPPED:
            found[name] = (function, function_twin(name), False)
    return sorted((name, *rest[:2]) for name, rest in found.items())


EXTRA: dict[str, tuple[Any, ...]] = {  # what these take between the tensor and the dim
    "split": (1,), "chunk": (1,), "topk": (1,),
    "gather": ("index",), "scatter_add": ("index",), "index_select": ("index",),
    "norm_p": (), "norm": (),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")  # PyTorch's
@pytest.mark.parametrize("dim", [0, -1, 1, -2])
@pytest.mark.parametrize(("name", "ours", "theirs"), with_dim())
def test_a_dim_of_a_number(name: str, ours: Any, theirs: Any, dim: int) -> None:
    def call(function: Any, library: Any) -> Any:
        x = library.tensor(2.5, requires_grad=name not in ("all", "any", "argmax"))
        params: dict[str, Any] = {"dim": dim}
        if name == "norm_p":
            params["p"] = 3.0
        args = [library.tensor(0) if a == "index" else a for a in EXTRA.get(name, ())]
        if name == "split":
            return library.split(x, 1, dim)
        if name in ("gather", "scatter_add", "index_select"):
            src = [library.tensor(1.5)] if name == "scatter_add" else []
            y = function(x, dim, *args, *src)
        else:
            y = function(x, *args, **params)
        first = y[0] if isinstance(y, tuple) else y
        if not first.requires_grad:
            return y
        grad = tc.grad if library is tc else torch.autograd.grad
        return [*(y if isinstance(y, tuple) else (y,)), *grad(first.sum(), x)]

    a, b = outcome(lambda: call(ours, tc)), outcome(lambda: call(theirs, torch))
    if "refused" in (a, b) or name in ("max", "min"):
        assert isinstance(a, str) == isinstance(b, str), (a, b)
    if isinstance(a, str):
        with pytest.raises((tc.errors.TinyconvError, ValueError)):
            call(ours, tc)
        return
    assert len(a) == len(b)
    for p, q in zip(a, b, strict=True):
        assert p.shape == q.shape
        np.testing.assert_allclose(p, q, rtol=1e-6)


def test_axes_of_numbers_in_lists() -> None:
    x = tc.tensor(2.5)
    assert x.sum((0,)).shape == x.mean([-1]).shape == x.flip(0).shape == x.roll(3).shape == ()
    for y in (x.sum(0, keepdim=True), x.max(0, True).values, x.sort().values):
        assert y.shape == ()
    assert tc.nn.functional.normalize(x, dim=0).item() == 1
    for mistake in (
        lambda: x.sum((0, -1)), lambda: tc.ones(2, 2).sum((0, 0)), lambda: x.squeeze(10),
        lambda: tc.ones(2, 2).var((0, -2)), lambda: tc.ones(2, 2).flip(0, 0), lambda: x.roll(1, 0),
    ):  # fmt: skip
        with pytest.raises(tc.errors.ShapeError):
            mistake()


# --- axes of nothing


def emptied(sample: Sample, axis: int) -> Sample | None:
    """The sample with axis number ``axis`` of its first array at 0 entries; None if it has none."""
    first = sample.args[0] if sample.args else None
    if not isinstance(first, Draw) or len(first.shape) <= axis or len(sample.args) > 1:
        return None
    shape = tuple(0 if i == axis else n for i, n in enumerate(first.shape))
    empty = Draw(shape, first.low, first.high, first.kind)
    return Sample((empty, *sample.args[1:]), sample.params)


IMAGES = ("pool", "window", "fold", "conv", "interpolate", "pad", "pixel")  # tests of their own
FIXED = {  # a shape or an index in the sample that no longer fits
    "sum_to", "put_add", "scatter_into", "getitem", "permute", "flatten", "reshape", "tile",
    "all_reduce",
}  # fmt: skip
EMPTY = [
    pytest.param(name, f, of(name), empty, id=f"{name}-{i}-{axis}")
    for table, of in (
        ({n: (op, op.samples) for n, op in OPS.items()}, twin),
        (FUNCTIONS, function_twin),
    )
    for name, (f, samples) in sorted(table.items())
    if name not in FIXED and not any(part in name for part in (*IMAGES, "dropout"))
    for i, s in enumerate(samples)
    for axis in range(2)
    if (empty := emptied(s, axis))
]


@pytest.mark.parametrize(("name", "ours", "theirs", "sample"), EMPTY)
def test_empty_axes(name: str, ours: Any, theirs: Any, sample: Sample) -> None:
    call = Call(ours, sample, "float32")

    def results(leaves: list[Any], grad: Any, *how: Any) -> list[Any]:
        ys = call.on(leaves, *how)
        wanted = [y.sum() for y in ys if y.requires_grad]
        xs = [x for x in leaves if x.requires_grad]
        grads = grad(wanted, xs, allow_unused=True) if wanted and xs else ()
        zeros = (x.detach() * 0 for x in xs)  # PyTorch's None
        return [*ys, *(z if g is None else g for g, z in zip(grads, zeros, strict=False))]

    def run_theirs() -> Any:
        leaves = [to_torch(a, requires_grad=True) for a in call.arrays]
        return results(leaves, torch.autograd.grad, theirs, to_torch)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's
        expected = outcome(run_theirs)
    found = outcome(lambda: results(call.tensors(), tc.grad))
    assert isinstance(found, str) == isinstance(expected, str), (found, expected)
    if isinstance(found, str):
        return
    assert [(a.shape, a.dtype) for a in found] == [(b.shape, b.dtype) for b in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b)


F = tc.nn.functional
NOTHING: dict[str, Callable[[Any, Any], Any]] = {
    "group_norm": lambda m, z: m.nn.functional.group_norm(z(0, 6, 4), 3),
    "group_norm of no pixels": lambda m, z: m.nn.functional.group_norm(z(2, 6, 0), 3),
    "batch_norm": lambda m, z: m.nn.functional.batch_norm(z(0, 3), None, None, training=True),
    "batch_norm of no channels": lambda m, z: m.nn.functional.batch_norm(
        z(2, 0, 3), None, None, training=True
    ),
    "instance_norm": lambda m, z: m.nn.functional.instance_norm(z(0, 3, 4)),
    "layer_norm": lambda m, z: m.nn.functional.layer_norm(z(2, 0), (0,)),
    "linear": lambda m, z: m.nn.functional.linear(z(0, 3), z(2, 3), z(2)),
    "linear of no features": lambda m, z: m.nn.functional.linear(z(2, 0), z(3, 0)),
    "matmul": lambda m, z: z(2, 0) @ z(0, 3),
    "einsum": lambda m, z: m.einsum("ij,jk->ik", z(2, 0), z(0, 3)),
    "cross_entropy": lambda m, z: m.nn.functional.cross_entropy(z(0, 3), z(0).long()),
    "cross_entropy sum": lambda m, z: m.nn.functional.cross_entropy(
        z(0, 3), z(0).long(), reduction="sum"
    ),
    "cross_entropy of probabilities": lambda m, z: m.nn.functional.cross_entropy(z(0, 3), z(0, 3)),
    "nll_loss": lambda m, z: m.nn.functional.nll_loss(z(0, 3), z(0).long(), reduction="sum"),
    "bce": lambda m, z: m.nn.functional.binary_cross_entropy(z(0, 3), z(0, 3)),
    "mse": lambda m, z: m.nn.functional.mse_loss(z(0, 3), z(0, 3)),
    "huber": lambda m, z: m.nn.functional.huber_loss(z(0), z(0), reduction="sum"),
    "embedding": lambda m, z: m.nn.functional.embedding(z(0).long(), z(3, 2)),
    "one_hot": lambda m, z: m.nn.functional.one_hot(z(0).long(), 3),
    "one_hot of how many?": lambda m, z: m.nn.functional.one_hot(z(0).long()),
    "cat": lambda m, z: m.cat([z(0, 3), z(2, 3), z(0, 3)]),
    "cat to the empty list": lambda m, z: m.cat([z(0), z(2, 3)], 1),
    "cat of empty lists": lambda m, z: m.cat([z(0), z(0)]),
    "stack": lambda m, z: m.stack([z(0, 3), z(0, 3)], 1),
    "split": lambda m, z: z(0, 3).split(2),
    "split by 0": lambda m, z: z(0, 3).split(0),
    "split of 3 by 0": lambda m, z: z(3).split(0),
    "split, listed": lambda m, z: z(0).split([0, 0]),
    "chunk": lambda m, z: z(0, 3).chunk(3),
    "unbind": lambda m, z: z(0, 3).unbind(),
    "topk": lambda m, z: z(0, 3).topk(0, 0),
    "topk(1)": lambda m, z: z(0, 3).topk(1, 0),
    "sort": lambda m, z: z(2, 0).sort(),
    "max()": lambda m, z: z(0).max(),
    "max(0)": lambda m, z: z(0, 3).max(0),
    "max(1)": lambda m, z: z(0, 3).max(1),
    "argmin(0)": lambda m, z: z(0, 3).argmin(0),
    "argmin()": lambda m, z: z(0, 3).argmin(),
    "norm": lambda m, z: z(0).norm(),
    "norm(3)": lambda m, z: z(0).norm(3),
    "norm(inf)": lambda m, z: z(0).norm(INF),
    "norm(inf, 1)": lambda m, z: z(0, 3).norm(INF, 1),
    "var": lambda m, z: z(0).var(),
    "std": lambda m, z: z(2, 0).std(1),
    "prod": lambda m, z: z(2, 0).prod(1),
    "logsumexp": lambda m, z: z(2, 0).logsumexp(1),
    "roll": lambda m, z: z(0, 3).roll(1, 0),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_against_torch(name: str) -> None:
    def of(m: Any, grad: Any) -> Any:
        leaves = []

        def z(*shape: int) -> Any:
            leaves.append(m.zeros(*shape, requires_grad=True))
            return leaves[-1]

        y = NOTHING[name](m, z)
        ys = list(y) if isinstance(y, (tuple, list)) else [y]
        reached = [t.sum() for t in ys if t.requires_grad]
        grads = grad(reached, leaves, allow_unused=True) if reached else []
        return [*ys, *(g for g in grads if g is not None)]

    found = outcome(lambda: of(tc, tc.grad))
    expected = outcome(lambda: of(torch, torch.autograd.grad))
    assert isinstance(found, str) == isinstance(expected, str), (found, expected)
    if not isinstance(found, str):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_array_equal(a, b)


def test_an_empty_batch_leaves_the_running_statistics() -> None:
    norm, twin = tc.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    y = norm(tc.zeros(0, 2, 4, 4, requires_grad=True))
    y.sum().backward()
    twin(torch.zeros(0, 2, 4, 4))
    for name, value in twin.state_dict().items():
        np.testing.assert_array_equal(norm.state_dict()[name].numpy(), value.numpy())
    assert (norm.weight.grad.array == 0).all()


# --- freedom, rounding, refusals


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's
@pytest.mark.parametrize("correction", [None, 0, 1, 2, 3, 5, 0.5])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_var_and_std_by_correction(n: int, correction: Any) -> None:
    for name in ("var", "std"):
        a, b = (
            orders(m, lambda _, x, name=name: getattr(x, name)(correction=correction),
                   [1.0, 2.5, 4.0][:n], "float64")[:2]
            for m in (tc, torch)
        )  # fmt: skip
        np.testing.assert_allclose(a[0], b[0])
        if n > (1 if correction is None else correction):
            np.testing.assert_allclose(a[1], b[1], atol=1e-12)


@pytest.mark.parametrize("mode", [None, "floor", "trunc"])
def test_division_by_rounding_mode(mode: Any) -> None:
    for values, by in (([7.0, -7.0, 7.0, 0.0], [2.0, 2.0, 0.0, 0.0]), ([7, -7, 8], [2, 2, -2])):
        found = tc.tensor(values).div(tc.tensor(by), rounding_mode=mode)
        expected = torch.tensor(values).div(torch.tensor(by), rounding_mode=mode)
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
        assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
    if mode:
        with pytest.raises(tc.DTypeError, match=r"integers cannot be divided by 0.*x.float\(\)"):
            tc.div(tc.tensor([7]), 0, rounding_mode=mode)


X = tc.ones(2, 3)
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: tc.tensor([7]) // 0, tc.DTypeError, "floor_divide: integers cannot be divided by 0"),
    (lambda: tc.tensor([7]) % tc.tensor([0]), tc.DTypeError, "remainder: integers cannot be"),
    (lambda: tc.div(X, 2, rounding_mode="up"), ValueError, "none of None, 'floor', 'trunc'"),
    (lambda: X.mean(dtype=tc.int64), tc.DTypeError, "dtype is int64, a mean needs floats"),
    (lambda: X.roll((1, 1), 0), tc.ShapeError, r"shifts \(1, 1\), dims 0: need one shift"),
    (lambda: X.roll(1, (0, 1)), tc.ShapeError, "need one shift for each dim"),
    (lambda: X.roll((1, 2)), tc.ShapeError, "need one shift for each dim"),
    (lambda: tc.einsum("...ij...->ij", X), tc.ShapeError, r"one '\.\.\.' for an operand"),
    (lambda: F.embedding(tc.tensor([0]), tc.ones(2, 3, 4)), tc.ShapeError, r"is 3-D, need \(V,D"),
    (lambda: F.embedding(tc.tensor([0]), tc.ones(2)), tc.ShapeError, r"is 1-D, need \(V,D"),
    (lambda: tc.nn.BatchNorm1d(3, eps=-1)(X), ValueError, r"eps is -1\.0, it must be above 0"),
    (lambda: tc.nn.BatchNorm1d(3, eps=0.0)(X), ValueError, "must be above 0 in training"),
    (lambda: tc.nn.BatchNorm1d(3, eps=-1).eval()(X), ValueError, "it must be at least 0"),
    (lambda: F.hardtanh(X, 0.5, -0.5), ValueError, "min_val 0.5 is above max_val -0.5"),
    (lambda: tc.cat([X, None]), tc.DTypeError, "tensor 1 is None"),
    (lambda: tc.stack([X, 1.0]), tc.DTypeError, "tensor 1 is a float, not a Tensor"),
    (lambda: F.nll_loss(tc.tensor(1.0), tc.tensor(0)), tc.ShapeError, "a number without an axis"),
    (lambda: F.cross_entropy(tc.tensor(1.0), tc.tensor(0)), tc.ShapeError, "without an axis"),
    (lambda: F.group_norm(tc.ones(4), 1), tc.ShapeError, r"\(4,\) is 1-D, need \(N,C"),
    (lambda: F.group_norm(tc.ones(2, 4), 0), tc.ShapeError, "4 channels in 0 groups"),
    (lambda: tc.zeros(0, 3).amax(0), tc.ShapeError, "no entry along dim 0"),
    (lambda: tc.max(2, 3), tc.DTypeError, "max: x is an int, not a Tensor"),
    (lambda: tc.zeros(0).argmax(), tc.ShapeError, "of nothing there is none"),
]


@pytest.mark.parametrize(("mistake", "error", "text"), REFUSED)
def test_refused(mistake: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mistake()


def test_to_takes_pytorchs_positions() -> None:
    x = tc.ones(2)
    assert x.to("cpu", tc.float64, True, True).dtype == tc.float64
    assert x.to(tc.float32) is x
    assert x.to(tc.float32, False, False) is x
    copied = x.to(tc.float32, False, True)
    assert copied is not x
    assert not np.shares_memory(copied.array, x.array)
    assert x.to("cpu", copy=True) is not x


# --- silence


def test_infinities_come_in_silence_and_numpys_user_is_left_alone() -> None:
    before = np.geterr()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        x = tc.tensor([1e38, -1e38, 0.0, INF], requires_grad=True)
        y = (x * 1e10 - x * 1e10 + 1 / x).sum() + tc.log(x * 0).sum()
        y.backward()
        with tc.no_grad():
            x.mul_(1e10)
            x.copy_(tc.tensor([1e300, 0, 0, 0], dtype=tc.float64))
        tc.optim.RMSprop([x]).step()
        tc.tensor(1e300)
        tc.zeros(0).mean()
        tc.tensor([NAN]).long()
        tc.ones(3).half().mul(60000.0).sum()
    assert [str(w.message) for w in said] == []
    assert np.geterr() == before
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        _ = np.ones(1) / np.zeros(1)
    with np.errstate(divide="raise"):
        assert (tc.ones(1) / tc.zeros(1)).item() == INF
        with pytest.raises(FloatingPointError):
            _ = np.ones(1) / np.zeros(1)


# --- what PyTorch refuses, and what Python would say of it

REFUSED: dict[str, Callable[[Any], Any]] = {
    "flatten a number from axis 1": lambda m: m.tensor(1.0).flatten(1),
    "Flatten() of a number": lambda m: m.nn.Flatten()(m.tensor(1.0)),
    "Unflatten of a number": lambda m: m.nn.Unflatten(0, (1, 2))(m.tensor(1.0)),
    "Unflatten along an axis that is not there": lambda m: m.nn.Unflatten(5, (3, 1))(m.zeros(2, 3)),
    "Unflatten into 0 and the rest": lambda m: m.nn.Unflatten(1, (0, -1))(m.zeros(2, 3)),
    "size along an axis that is not there": lambda m: m.zeros(2, 3).size(2),
    "split into a negative piece": lambda m: m.zeros(5).split([2, -1, 4]),
    "expand a new axis by -1": lambda m: m.zeros(3).expand(-1, 3),
    "max_unpool2d, one index, negative": lambda m: m.nn.functional.max_unpool2d(
        m.ones(1, 1, 1, 1), m.tensor([[[[-1]]]]), 2
    ),
    "no groups": lambda m: m.nn.GroupNorm(0, 4),
    "layer_norm over a number": lambda m: m.nn.functional.layer_norm(m.zeros(2, 3), 3),
    "a probability of 2 as target": lambda m: m.nn.BCELoss()(m.zeros(2), m.zeros(2) + 2),
    "NaN as target": lambda m: m.nn.BCELoss()(m.zeros(2), m.zeros(2) + NAN),
    "a tensor plus None": lambda m: m.zeros(2) + None,
    "running sums along all axes": lambda m: m.zeros(2, 3).cumsum(None),
    "softmax along two axes": lambda m: m.zeros(2, 3).softmax((0, 1)),
    "a triangle from 1.5": lambda m: m.zeros(2, 3).tril(1.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_refuses_is_a_tinyconv_error(name: str) -> None:
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError)):
        REFUSED[name](torch)
    with pytest.raises(tc.errors.TinyconvError):
        REFUSED[name](tc)


def test_the_largest_of_a_window_is_its_infinite_norm() -> None:
    x = np.array([[[[1.0, -3, 2, 0], [0, -1, -2, -5]]]], np.float32)
    found = [m.nn.functional.lp_pool2d(m.tensor(x), INF, 2).tolist() for m in (tc, torch)]
    assert found[0] == found[1] == [[[[3, 5]]]]


def test_gradients_of_a_transposed_convolution_of_no_rows() -> None:
    x = tc.zeros(1, 2, 0, 5, requires_grad=True)
    layer = tc.nn.ConvTranspose2d(2, 3, 3)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert (layer.weight.grad == 0).all()


def test_broadcast_to_takes_sizes_as_expand_does() -> None:
    x = tc.arange(3)
    assert x.broadcast_to(2, 3).tolist() == x.broadcast_to((2, 3)).tolist() == [[0, 1, 2]] * 2
