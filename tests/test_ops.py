"""Every operation in OPS on its own samples: an operation without samples fails here."""

import dis
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from calls import Call, derivatives, draw_like, ours

import tinyconv as tc
from tinyconv.autograd import OPS, Op, meta_of
from tinyconv.gradcheck import gradcheck
from tinyconv.samples import FUNCTIONS, Draw, Sample

try:
    import torch
    from torch_twins import function_twin, to_torch, twin
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")

CASES = [
    pytest.param(op, s, id=f"{name}-{i}")
    for name, op in sorted(OPS.items())
    for i, s in enumerate(op.samples)
]
GRADS = [case for case in CASES if case.values[0].vjps]
FUNCTION_CASES = [
    pytest.param(name, f, s, id=f"{name}-{i}")
    for name, (f, samples) in sorted(FUNCTIONS.items())
    for i, s in enumerate(samples)
]
FIXED = [case for case in FUNCTION_CASES if "dropout" not in case.values[0]]  # not random
SMOOTH = [
    case
    for case in FIXED
    if case.values[2].smooth  # else a finite step would cross a kink
    and any(isinstance(a, Draw) and a.kind == "float" for a in case.values[2].args)
]
THIRD = {"conv2d", "conv2d_input", "conv2d_weight", "batch_norm", "cross_entropy"}
THIRD |= {"conv1d", "conv_transpose1d", "conv_transpose2d"}
THIRD |= {"layer_norm", "group_norm", "instance_norm"}
HEAVY = {"conv", "loss", "norm", "pool"}  # modules whose operations have several implementations


def theirs(call: Call, twin: Any, with_gradients: bool = True) -> list[Any]:
    leaves = [to_torch(a, requires_grad=i not in call.constants) for i, a in enumerate(call.arrays)]
    f = partial(call.on, function=twin, convert=to_torch)
    return derivatives(f, leaves, torch.autograd.grad, torch.tensor, with_gradients)


def host(x: Any) -> Any:
    return x.detach().cpu().numpy() if isinstance(x, tc.Tensor) else x.numpy(force=True)


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    if found is None or expected is None:  # not reached by the graph: zero
        other = expected if found is None else found
        assert other is None or not host(other).any()
        return
    a, b = host(found), host(expected)
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    if a.dtype.kind != "f":
        assert np.array_equal(a, b)
    elif a.size:
        scale = max(1.0, float(np.abs(b).max()))
        assert np.abs(a.astype(np.float64) - b).max() <= tolerance * scale


def assert_all_close(found: list[Any], expected: list[Any], tolerance: float) -> None:
    for i in range(max(len(found), len(expected))):
        a = found[i] if i < len(found) else None
        b = expected[i] if i < len(expected) else None
        assert_close(a, b, tolerance)


def test_every_operation_has_samples() -> None:
    assert [name for name, op in OPS.items() if not op.samples] == []


@needs_torch
def test_every_operation_has_a_twin() -> None:
    assert [name for name in OPS if twin(name) is None] == []


@needs_torch
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_against_torch(op: Op, sample: Sample, dtype: str, tolerance: float, device: str) -> None:
    call = Call(op, sample, dtype, device)
    assert_all_close(ours(call), theirs(call, twin(op.name), bool(op.vjps)), tolerance)


def check_numerically(name: str, function: Any, sample: Sample, device: str, order: int) -> None:
    call = Call(function, sample, device=device)

    def named(*leaves: Any) -> Any:
        return call.on(leaves)

    named.__name__ = name
    gradcheck(named, call.tensors(), order)


@pytest.mark.parametrize(("op", "sample"), GRADS)
def test_gradcheck(op: Op, sample: Sample, device: str) -> None:
    check_numerically(op.name, op, sample, device, 3 if op.name in THIRD else 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("op", "sample"), GRADS)
def test_dtype_is_kept(op: Op, sample: Sample, dtype: str, device: str) -> None:
    for t in ours(Call(op, sample, dtype, device)):
        assert t is None or t.dtype == dtype
        assert t is None or type(t.array) is type(tc.zeros(1, device=device).array)


def broadcast(a: Any) -> Any:
    return np.broadcast_to(a[:1], a.shape) if a.ndim and len(a) else a


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda a: a.copy("F"),
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "channels last": lambda a: (
        np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1) if a.ndim > 2 else a
    ),
    "broadcast": broadcast,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("op", "sample"), CASES)
def test_memory_layout_does_not_matter(op: Op, sample: Sample, layout: str) -> None:
    call = Call(op, sample)
    if layout == "broadcast":
        call.arrays = [broadcast(a).copy() for a in call.arrays]
    assert_all_close(ours(call, LAYOUTS[layout]), ours(call, np.copy), 1e-12)


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_inputs_are_not_modified(op: Op, sample: Sample) -> None:
    def locked(a: Any) -> Any:
        a = a.copy()
        a.flags.writeable = False  # a kernel that writes into its input fails
        return a

    ours(Call(op, sample), locked)


@pytest.mark.parametrize("choice", ["naive", "reference"])
@pytest.mark.parametrize(
    ("op", "sample"),
    [c for c in CASES if c.values[0].forward.__module__.rsplit(".", 1)[-1] in HEAVY],
)
def test_kernels_agree(op: Op, sample: Sample, choice: str) -> None:
    fast = ours(Call(op, sample))
    with tc.kernels(choice):
        assert_all_close(ours(Call(op, sample)), fast, 1e-11)


# --- functions made of operations


def test_every_function_has_samples() -> None:
    assert [name for name, (_, samples) in FUNCTIONS.items() if not samples] == []


@needs_torch
def test_every_function_has_a_twin() -> None:
    assert [name for name in FUNCTIONS if function_twin(name) is None] == []


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # of PyTorch
@needs_torch
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize(("name", "function", "sample"), FIXED)
def test_function_against_torch(
    name: str, function: Any, sample: Sample, dtype: str, tolerance: float, device: str
) -> None:
    call = Call(function, sample, dtype, device)
    assert_all_close(ours(call), theirs(call, function_twin(name)), tolerance)


@pytest.mark.parametrize(("name", "function", "sample"), SMOOTH)
def test_function_gradcheck(name: str, function: Any, sample: Sample, device: str) -> None:
    check_numerically(name, function, sample, device, 3 if name in THIRD else 2)


@pytest.mark.parametrize(("name", "function", "sample"), FUNCTION_CASES)
def test_function_keeps_float32_and_its_inputs(
    name: str, function: Any, sample: Sample, device: str
) -> None:
    call = Call(function, sample, "float32", device)
    before = [a.copy() for a in call.arrays]
    for t in ours(call):
        assert t is None or t.dtype == "float32" or not t.is_floating_point()
    for a, b in zip(call.arrays, before, strict=True):
        assert np.array_equal(a, b)


# --- the underscore: a name says whether the backward pass keeps the values


def vjp_calls(op: Op, sample: Sample) -> Iterator[tuple[Any, list[Any], Any, list[str]]]:
    """Each VJP as a function of [*outputs, *inputs], those, its code and their names in it."""
    call = Call(op, sample)
    args, params = call.inputs(), {**op.defaults, **call.params}
    out = op.forward(*args, **params)
    outs = list(out) if op.outputs != 1 else [np.asarray(out)]
    gs = tuple(draw_like(outs[i], 2 + i) for i in op.variable)
    g = gs[0] if len(gs) == 1 else gs
    for i, arg in enumerate(args):
        vjp = op.vjps[0 if op.variadic else i]
        if vjp is None or not isinstance(arg, np.ndarray) or arg.dtype.kind != "f":
            continue
        leading = (i, g) if op.variadic else (g,)
        if isinstance(vjp, Op):
            vjp = of_output(vjp)
        code = vjp.__code__
        names = list(code.co_varnames[len(leading) : code.co_argcount])
        if op.variadic:
            names += [code.co_varnames[code.co_argcount + code.co_kwonlyargcount]] * len(args)
        yield partial(run, vjp, leading, params), [*outs, *args], code, names


def of_output(operation: Op) -> Any:
    """What an operation in the place of a VJP stands for."""
    return lambda g, y, _x: operation(g, y)


def run(vjp: Any, leading: tuple[Any, ...], params: dict[str, Any], values: list[Any]) -> Any:
    return vjp(*leading, *values, **params)


def meta(value: Any) -> Any:
    return meta_of(value.shape, value.dtype) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(("op", "sample"), GRADS)
def test_underscored_values_are_not_read(op: Op, sample: Sample) -> None:
    for call, values, _, names in vjp_calls(op, sample):
        left = [meta(v) if n.startswith("_") else v for n, v in zip(names, values, strict=True)]
        assert np.array_equal(call(values), call(left))


@pytest.mark.parametrize(("op", "sample"), GRADS)
def test_other_values_are_read(op: Op, sample: Sample) -> None:
    """Else the array would be kept for nothing."""
    for call, values, code, names in vjp_calls(op, sample):
        loaded = {n for step in dis.get_instructions(code) for n in _names(step.argval)}
        for k, name in enumerate(names):
            if name.startswith("_"):
                continue
            assert name in loaded, f"{op.name}: {name} is never read"
            if not op.variadic and isinstance(values[k], np.ndarray):
                with pytest.raises((TypeError, ValueError, AttributeError, IndexError)):
                    call([meta(v) if j == k else v for j, v in enumerate(values)])


def _names(argval: Any) -> tuple[Any, ...]:
    return argval if isinstance(argval, tuple) else (argval,)


def test_draws_have_no_ties() -> None:
    values = Draw((4, 5)).array(np.random.default_rng(0), np.float32)
    assert len(np.unique(values)) == 20
    assert np.abs(values).min() > 0.01
