"""Integers and booleans, through every operation and function: PyTorch's numbers or a refusal."""

import warnings
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from calls import Call

from tinyconv.autograd import OPS
from tinyconv.errors import DTypeError, TinyconvError
from tinyconv.samples import FUNCTIONS, Draw, Sample

torch = pytest.importorskip("torch")
from torch_twins import function_twin, to_torch, twin  # noqa: E402

INTEGERS = ["int64", "int32", "uint8", "int8", "bool"]
# called by no user, on what an operation before them made; their twins are made of others
INNER = {"relu_backward", "conv2d_input", "conv2d_weight", "affine", "affine_relu", "sum_to"}
TIES = {"topk"}  # whose first of equal entries is not PyTorch's
PEERS = {
    "maximum": lambda a, b: torch.maximum(torch.as_tensor(a), torch.as_tensor(b)),
    "minimum": lambda a, b: torch.minimum(torch.as_tensor(a), torch.as_tensor(b)),
}
CALLS = [
    pytest.param(function, sample, PEERS.get(name) or find(name), id=f"{name}-{i}")
    for table, find in ((OPS, twin), (FUNCTIONS, function_twin))
    for name, entry in sorted(table.items())
    for function, samples in [(entry, entry.samples) if table is OPS else entry]
    for i, sample in enumerate(samples)
    if name not in INNER | TIES and "dropout" not in name
]


def drawn(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Over the whole range of a small type, far beyond that of float16 and uint8 for a large."""
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    most = np.iinfo(dtype).max
    low = 0 if dtype == "uint8" else -min(most, 1000)
    numbers = rng.integers(low, min(most, 1000), shape, endpoint=True)
    return np.asarray(numbers).astype(dtype)


def as_integers(sample: Sample, dtypes: Sequence[Any], kind: Any = None) -> Sample:
    """The sample with integers where it draws floats; kind: those numbers in another dtype."""
    rng, turn = np.random.default_rng(3), cycle(dtypes)

    def one(value: Any) -> Any:
        if isinstance(value, Draw) and value.kind in ("float", "constant"):
            numbers = drawn(next(turn), value.shape, rng)
            return numbers if kind is None else numbers.astype(kind)
        return tuple(map(one, value)) if type(value) is tuple else value

    return Sample(tuple(map(one, sample.args)), {k: one(v) for k, v in sample.params.items()})


def tried(call: Any, *args: Any) -> Any:
    """What it returns, or the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*args)
    except Exception as error:
        return error


def differences(function: Any, sample: Sample, dtypes: Sequence[Any], peer: Any) -> str:
    """What is wrong with tinyconv's answer, given PyTorch's; "" if nothing is."""
    call = Call(function, as_integers(sample, dtypes), np.float32)
    ours = tried(call.on, call.tensors())
    theirs = asked(call, peer)
    if isinstance(ours, Exception):
        refusal = DTypeError if not isinstance(theirs, Exception) else (TinyconvError, ValueError)
        numpys = type(ours).__module__.startswith("numpy")
        return "" if isinstance(ours, refusal) and not numpys else f"raises {ours!r}"
    if not isinstance(theirs, Exception):
        return compared(ours, theirs)
    exact = asked(Call(function, as_integers(sample, dtypes, np.float64), np.float32), peer)
    if isinstance(exact, Exception):
        return f"computes {ours} where PyTorch raises {theirs!r}"
    return compared(ours, exact, dtypes=False)  # then at least no number is another


def asked(call: Call, peer: Any) -> Any:
    return tried(call.on, [torch.tensor(a) for a in call.arrays], peer, to_torch)


def compared(ours: list[Any], theirs: list[Any], dtypes: bool = True) -> str:
    for a, b in zip(ours, theirs, strict=True):
        x, y = np.asarray(getattr(a, "array", a)), b.numpy()
        if x.shape != y.shape or (dtypes and x.dtype != y.dtype):
            return f"{x.dtype} {x.shape}, PyTorch {y.dtype} {y.shape}"
        scale = 1e-5 * max(1, np.abs(y[np.isfinite(y)].astype(float)).max(initial=0))
        if not np.allclose(x, y, 1e-5, scale if y.dtype.kind == "f" else 0, equal_nan=True):
            return f"{x.tolist()}, PyTorch {y.tolist()}"
    return ""


@pytest.mark.parametrize("dtypes", [[d] for d in INTEGERS], ids=str)
@pytest.mark.parametrize(("function", "sample", "peer"), CALLS)
def test_integers_are_computed_as_pytorch_does_or_refused(
    function: Any, sample: Sample, peer: Any, dtypes: list[str]
) -> None:
    assert differences(function, sample, dtypes, peer) == ""


SEVERAL = [
    case
    for case in CALLS
    if sum(isinstance(a, (Draw, tuple)) for a in case.values[1].args) > 1
]  # fmt: skip


@pytest.mark.parametrize(
    "dtypes",
    [["uint8", "int8"], ["int32", "bool"], ["uint8", "int64"], ["bool", "uint8"]],
    ids=" ".join,
)
@pytest.mark.parametrize(("function", "sample", "peer"), SEVERAL)
def test_mixed_integers_are_promoted_as_pytorch_does_or_refused(
    function: Any, sample: Sample, peer: Any, dtypes: list[str]
) -> None:
    assert differences(function, sample, dtypes, peer) == ""
