"""PyTorch's own databases of operations, modules and optimizers, tried on tinyconv.

PyTorch's wheel carries the lists that its own tests are drawn from: `op_db` (samples of every
operation's arguments, and arguments that must raise), `module_db` and `optim_db`.  Every entry
whose name exists here is called with the same arguments in both libraries.

    python tests/torch_db.py                    all of it, as a table
    python tests/torch_db.py --only softmax     the entries whose names match
    python tests/torch_db.py --dtype float64 --layout plain --show wrong

What can come of one call, an `Outcome.kind`:

    same             the same values, dtypes and shapes, or both raise
    refused          tinyconv raises an error of its own, for a reason that `REFUSALS` names
    unlisted         it raises an error of its own for a reason that nobody wrote down
    wrong            other values, another dtype, another shape, another gradient
    crash            an exception that is not tinyconv's: NumPy's, or Python's inside tinyconv
    no error         PyTorch raises, tinyconv computes
    missing          the name is not here in this form; no failure
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import linecache
import re
import sys
import types
import unittest
import unittest.mock
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tinyconv as tc
from tinyconv.errors import TinyconvError


def _databases() -> tuple[Any, Any, Any]:
    """op_db, module_db, optim_db; expecttest, which they import and do not use, may be absent."""
    try:
        import expecttest  # noqa: F401
    except ImportError:
        stand_in: Any = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stand_in
    # What is imported would forbid every later test of the process to set torch's flags.
    untouched = unittest.mock.patch.object(torch.backends, "disable_global_flags")
    with warnings.catch_warnings(), untouched:
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
        from torch.testing._internal.common_optimizers import optim_db
    return op_db, module_db, optim_db


op_db, module_db, optim_db = _databases()

FLOATS = (torch.float32, torch.float64)
DTYPES = (
    *FLOATS, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.bool,
)
LAYOUTS = ("plain", "strided", "transposed", "negative", "broadcast")
SOURCE = str(Path(tc.__file__).parent)
FAILURES = ("wrong", "crash", "no error", "unlisted")

# Names that mean something else here.
OTHER_MEANING = {
    "trace": "tc.trace draws what a model computes; the sum of a diagonal is einsum('ii', x)",
    "dist": "tc.dist is training in several processes",
}

# What tinyconv refuses on purpose: the entry's name and the message (regular expressions), why.
OPTIONS = (
    "antialias|memory_format|recompute_scale_factor|layout|pin_memory|out|dtype|capturable|max_norm|"
    "scale_grad_by_freq|sparse"
)
REFUSALS: tuple[tuple[str, str, str], ...] = (
    ("", r"complex", "there are no complex numbers"),
    ("", r"bfloat16|uint16|uint32|uint64|float8", "not an element type of tinyconv"),
    ("", rf"unexpected keyword argument '({OPTIONS})'", "an option that tinyconv does not have"),
    ("^norm", r"p is 'nuc'", "there is no singular value decomposition"),
    ("interpolate", r"mode='(nearest-exact|bicubic|area|trilinear)'", "modes that are not here"),
    ("interpolate", r"is 5-D", "there are no volumes"),
    ("", r"must hold floats", "a function of floats: integers are refused, not cut"),
    ("", r"must hold numbers, not booleans", "booleans are not added or multiplied unasked"),
    ("batch_norm", r"the memory is read-only", "running statistics cannot be written there"),
    ("batch_norm", r"input \(0,\) is 1-D", "there is no axis of channels"),
    ("^(std|var)", r"entries leave", "an error where PyTorch warns and returns NaN"),
    ("^(add|sub)", r"alpha=(True|False) would change", "alpha is a number, not a boolean"),
    ("^rand", r"numbers drawn are fractions", "refused before it is asked how many"),
    ("^zero_$", r"in-place writes are not recorded", "so a tensor of the graph is not overwritten"),
    ("^linspace", r"booleans are no row", "neither has PyTorch a kernel"),
    ("^einsum", r"that may overflow", "PyTorch adds some of these in int64 and some not"),
    ("avg_pool2d", r"stride=\(\)", "an empty stride; leave it out"),
    ("pow", r"negative integer", "what is no integer is not cut to 0"),
    ("", r"is float\d+ and operand \d is float\d+; convert one", "floats of two kinds: say which"),
    ("^(gather|scatter_add)$", r"as many axes", "an index without entries must fit, too"),
    ("^(gather|index_select|scatter_add)$", r"index is uint8", "even an index without entries"),
)
NOT_NUMBERS = r"must be Tensor, not|got \(int, |doesn't apply to a 'int'"
# What PyTorch refuses and tinyconv computes on purpose.
COMPUTED: tuple[tuple[str, str, str], ...] = (
    ("", NOT_NUMBERS, "a number may stand for a tensor in every operation of the table"),
    ("one_hot", r"LongTensor", "classes may be integers of any kind"),
    ("", r"not implemented for 'Bool'|does not support bool dtypes on CPU",
     "PyTorch has no such kernel; the result is that of False = 0 and True = 1"),
    ("max_pool2d|interpolate.nearest|pad", r"not implemented for '(Long|Int|Short|Char|Byte)'",
     "PyTorch has no such kernel; moves and maxima of integers are exact"),
)


def _names_a_place_twice(sample: Any) -> bool:
    """Does an index of max_unpool2d stand twice in one plane?"""
    places = sample.args[0].flatten(-2).sort(-1).values
    return bool((places[..., 1:] == places[..., :-1]).any())


# Samples for which PyTorch's own result is arbitrary.
ARBITRARY: dict[str, tuple[Callable[[Any], bool], str]] = {
    "nn.functional.max_unpool2d": (
        _names_a_place_twice, "which of two entries PyTorch writes depends on its threads"
    ),
}


# Losses near 0 are what is left of logits of this size: as exact as those are.
CANCELS = {"nn.CrossEntropyLoss": 0.1}


def _ignores_all(case: Any) -> bool:
    """A mean over no target is NaN, its gradient 0: by the seed PyTorch differentiates to NaN."""
    ignored = case.constructor_input.kwargs.get("ignore_index")
    targets = case.forward_input.args[1]
    return ignored is not None and not targets.is_floating_point() and bool(
        (targets == ignored).all()
    )


# Where a broadcast input has no second derivative: PyTorch gives NaN, tinyconv 0 as in the first.
SINGULAR = {"std": "the root of a variance of 0"}


@dataclasses.dataclass
class Outcome:
    """What came of one call."""

    entry: str
    kind: str
    detail: str = ""
    form: str = ""
    dtype: str = ""
    layout: str = ""
    sample: str = ""

    def line(self) -> str:
        where = " ".join(p for p in (self.entry, self.form, self.dtype, self.layout) if p)
        return f"{self.kind}: {where}: {self.detail[:300]}  [{self.sample[:260]}]"


# ----------------------------------------------------------------------------- what an error is


ARGUMENTS = re.compile(
    r"unexpected keyword argument|missing \d+ required|takes .* positional argument|"
    r"multiple values for"
)


@lru_cache(None)
def _raises(file: str) -> frozenset[int]:
    """The lines of a file on which ``raise`` statements stand."""
    tree = ast.parse("".join(linecache.getlines(file)))
    return frozenset(
        line for node in ast.walk(tree) if isinstance(node, ast.Raise)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )


def is_ours(error: BaseException) -> bool:
    """Did tinyconv write this message?

    It did where the error left a ``raise`` in tinyconv: what C code of NumPy raises has no frame
    of its own, so its last frame is the line that called it, and that is no ``raise``.  Python's
    own word on arguments that a function does not take is clear enough.
    """
    if isinstance(error, TinyconvError):  # whose cause is not a mistake in our own derivative
        return re.search(r"its VJP \d+ raised", str(error)) is None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename if trace else ""
    if file.startswith(SOURCE) and trace is not None and trace.tb_lineno in _raises(file):
        return True
    return isinstance(error, TypeError) and ARGUMENTS.search(str(error)) is not None


def _listed(table: Iterable[tuple[str, str, str]], entry: str, message: str) -> bool:
    return any(re.search(name, entry) and re.search(text, message) for name, text, _ in table)


def refused_or_crashed(error: BaseException, entry: str) -> tuple[str, str]:
    """The kind of an exception, and its text."""
    text = f"{type(error).__name__}: {error}".replace("\n", " ")
    if not is_ours(error):
        trace = error.__traceback__
        last = ""
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename.startswith(SOURCE):
                last = f" (tinyconv{code.co_filename[len(SOURCE):]}:{trace.tb_lineno})"
            trace = trace.tb_next
        return "crash", text + last
    return ("refused" if _listed(REFUSALS, entry, text) else "unlisted"), text


# ----------------------------------------------------------------------------- arguments


def _memory(a: np.ndarray, layout: str) -> np.ndarray:
    """A copy of ``a`` with the same values (broadcast: with those of its first entry)."""
    a = np.array(a, order="C")
    if not a.ndim:
        return a
    if layout == "transposed":
        return np.array(a, order="F")
    if layout == "negative":
        return np.flip(np.array(np.flip(a), order="C"))
    if layout == "strided":
        wide = np.zeros((*a.shape[:-1], a.shape[-1] * 2), a.dtype)
        wide[..., ::2] = a
        return wide[..., ::2]
    if layout == "broadcast" and a.shape[0] > 1 and a.dtype.kind == "f":
        return np.broadcast_to(a[:1], a.shape)
    return a


class Arguments:
    """One sample's arguments in both libraries, and the leaves among them."""

    def __init__(self, layout: str = "plain", requires_grad: bool = False) -> None:
        self.layout, self.requires_grad = layout, requires_grad
        self.theirs: list[torch.Tensor] = []
        self.ours: list[tc.Tensor] = []

    def pair(self, value: Any) -> tuple[Any, Any]:
        """The value for PyTorch and for tinyconv."""
        if isinstance(value, torch.Tensor):
            return self._tensors(value)
        if type(value) in (list, tuple) or isinstance(value, torch.Size):
            pairs = [self.pair(v) for v in value]
            kind = list if type(value) is list else tuple
            return kind(p[0] for p in pairs), kind(p[1] for p in pairs)
        if isinstance(value, dict):
            both = {k: self.pair(v) for k, v in value.items()}
            return {k: v[0] for k, v in both.items()}, {k: v[1] for k, v in both.items()}
        return value, to_ours(value)

    def _tensors(self, value: torch.Tensor) -> tuple[torch.Tensor, tc.Tensor]:
        grad = self.requires_grad and value.requires_grad
        value = value.detach()
        if value.dtype in (torch.bfloat16, torch.uint16, torch.uint32, torch.uint64):
            return value, _refuse(str(value.dtype))
        array = value.resolve_conj().resolve_neg().cpu().numpy()
        theirs = _memory(array, "plain" if self.layout == "negative" else self.layout)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a broadcast array is not writable
            t = torch.from_numpy(theirs)
        x = tc.from_numpy(_memory(array, self.layout))
        if grad:
            self.theirs.append(t.requires_grad_())
            self.ours.append(x.requires_grad_())
        return t, x


def _refuse(dtype: str) -> Any:
    raise tc.DTypeError("dtype", f"{dtype} is not an element type of tinyconv")


def to_ours(value: Any) -> Any:
    """A value that is no tensor, in tinyconv's terms."""
    if isinstance(value, torch.dtype):
        name = str(value).removeprefix("torch.")
        if name in ("bfloat16",):
            _refuse(name)
        return np.dtype(name)  # tinyconv refuses those that it does not have
    if isinstance(value, torch.device):
        return str(value)
    return value


class Shim:
    """``torch`` in the eyes of a function of the database that is to run on tinyconv."""

    Tensor = tc.Tensor

    class nn:
        functional = tc.nn.functional

    def __getattr__(self, name: str) -> Any:
        found = getattr(torch, name)
        if isinstance(found, torch.dtype):
            return to_ours(found)
        return getattr(tc, name, None) or getattr(tc.Tensor, name)


def _seedless(function: Any, *args: Any, **kwargs: Any) -> Any:
    """In the place of the database's wrapper_set_seed: randomness that shows."""
    return function(*args, **kwargs)


def _rebound(function: types.FunctionType, **names: Any) -> Any:
    """The function with other globals."""
    made = types.FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__,
        function.__defaults__, function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


# ----------------------------------------------------------------------------- forms of an entry


def _is_written_for_the_database(function: Any) -> bool:
    return isinstance(function, types.FunctionType) and function.__module__.startswith(
        "torch.testing"
    )


def _function(name: str) -> Any:
    """tinyconv's function of that name in PyTorch, or None."""
    if name in OTHER_MEANING:
        return None
    found: Any = tc
    for part in name.split("."):
        found = getattr(found, part, None)
    is_function = callable(found) and not isinstance(found, (types.ModuleType, np.dtype, type))
    return found if is_function else None


def forms(info: Any) -> dict[str, tuple[Any, Any]]:
    """Every form in which an entry exists here: PyTorch's callable and tinyconv's."""
    last = info.name.split(".")[-1]
    is_method = "." not in info.name and hasattr(tc.Tensor, last)
    found: dict[str, tuple[Any, Any]] = {}
    if _is_written_for_the_database(info.op):
        if (is_method or _function(info.name)) and info.name not in OTHER_MEANING:
            found["function"] = (
                _rebound(info.op, wrapper_set_seed=_seedless),
                _rebound(info.op, wrapper_set_seed=_seedless, torch=Shim()),
            )
    elif (function := _function(info.name)) is not None:
        found["function"] = (info.op, function)
    elif is_method and info.name not in OTHER_MEANING:
        found["function"] = (info.op, getattr(tc.Tensor, last))
    if not found:
        return {}
    is_builtin = isinstance(getattr(torch.Tensor, last, None), types.MethodDescriptorType)
    if is_method and is_builtin and not _is_written_for_the_database(info.op):
        found["method"] = (getattr(torch.Tensor, last), getattr(tc.Tensor, last))
    if info.get_inplace() is not None and hasattr(tc.Tensor, f"{last}_") and is_method:
        found["in place"] = (getattr(torch.Tensor, f"{last}_"), getattr(tc.Tensor, f"{last}_"))
    if callable(getattr(info, "operator_variant", None)):
        name = info.operator_variant.__name__
        if hasattr(tc.Tensor, f"__{name.strip('_')}__"):
            found["operator"] = (info.operator_variant, info.operator_variant)
    for alias in info.aliases:
        if (function := _function(alias.name)) is not None:
            found[f"alias {alias.name}"] = (alias.op, function)
    return found


def entries() -> list[Any]:
    """The operations of PyTorch's database that exist here."""
    return [info for info in op_db if forms(info)]


def entry_name(info: Any) -> str:
    return f"{info.name}.{info.variant_test_name}" if info.variant_test_name else info.name


# ----------------------------------------------------------------------------- comparing

# rtol and atol; the latter times the largest number of the result
TOLERANCE = {"float16": (2e-3, 1e-3), "float32": (2e-5, 4e-6), "float64": (1e-9, 1e-11)}


def close(
    got: np.ndarray, want: np.ndarray, slack: float = 1.0, least: float = 1e-3
) -> bool:
    """Is every number the same up to rounding?  NaN is NaN, infinity is infinity.

    least: results below it may be what is left of terms of that size.
    """
    if got.dtype.kind != "f":
        return bool(np.array_equal(got, want))
    rtol, atol = TOLERANCE[got.dtype.name]
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.abs(want[np.isfinite(want)])
    size = max(finite.max(initial=0.0), least)
    return bool(np.allclose(got, want, rtol * slack, atol * slack * size, equal_nan=True))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [part for item in value for part in _flat(item)]
    return [value]


def _array(x: torch.Tensor) -> np.ndarray:
    return x.numpy(force=True)


def difference(
    got: Any, want: Any, better: Callable[[], Any] | None = None, values: bool = True,
    slack: float = 1.0, least: float = 1e-3,
) -> str:
    """What is not the same in two results, or ""; ``better``: PyTorch's result in float64."""
    ours, theirs = _flat(got), _flat(want)
    if len(ours) != len(theirs):
        return f"{len(ours)} results, not {len(theirs)}"
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        nth = f"result {i}: " if len(ours) > 1 else ""
        if not isinstance(b, torch.Tensor):
            if isinstance(a, tc.Tensor) or (values and not _same_number(a, b)):
                return f"{nth}{a!r}, not {b!r}"
            continue
        if isinstance(a, (int, float)) and b.ndim == 0:  # of two numbers a number
            a = tc.tensor(np.asarray(a, str(b.dtype).removeprefix("torch.")))
        if not isinstance(a, tc.Tensor):
            return f"{nth}a {type(a).__name__}, not a tensor"
        if a.shape != tuple(b.shape):
            return f"{nth}shape {a.shape}, not {tuple(b.shape)}"
        if str(a.dtype) != str(b.dtype).removeprefix("torch."):
            return f"{nth}dtype {a.dtype}, not {b.dtype}"
        x, y = np.asarray(a.array), _array(b)
        if values and not close(x, y, slack, least):
            exact = _better(better, i)
            if exact is None or not close(x, exact.astype(x.dtype), slack):
                return nth + _worst(x, y)
    return ""


def _better(better: Callable[[], Any] | None, i: int) -> np.ndarray | None:
    if better is None:
        return None
    with np.errstate(all="ignore"):
        try:
            return _array(_flat(better())[i])
        except Exception:  # PyTorch has no such kernel for float64
            return None


def _same_number(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    return bool(a == b or (a != a and b != b)) if not isinstance(b, float) else bool(
        np.isclose(a, b, 1e-5, equal_nan=True)
    )


def _worst(x: np.ndarray, y: np.ndarray) -> str:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gap = np.abs(x.astype(np.float64) - y.astype(np.float64))
        gap = np.where((x == y) | ((x != x) & (y != y)), 0, np.where(gap == gap, gap, np.inf))
    at = np.unravel_index(int(gap.argmax()), gap.shape)
    place = tuple(int(n) for n in at)
    return f"at {place} of {x.shape}: {x[at]!r}, not {y[at]!r}"


# ----------------------------------------------------------------------------- one call


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _call(function: Any, arguments: tuple[Any, dict[str, Any]]) -> Any:
    with _quiet():
        return function(*arguments[0], **arguments[1])


def _sample_pairs(sample: Any, arguments: Arguments) -> tuple[Any, Any]:
    """((args, kwargs) for PyTorch, (args, kwargs) for tinyconv)."""
    args, kwargs = arguments.pair((sample.input, *sample.args)), arguments.pair(sample.kwargs)
    ours = {
        name: value for name, value in kwargs[1].items()
        if not (name in UNSAID and any(value is default for default in UNSAID[name]))
    }
    return (args[0], kwargs[0]), (args[1], ours)


# Options that tinyconv does not have, and what they are in PyTorch where nobody names them.
UNSAID = {
    "memory_format": (torch.preserve_format,), "layout": (torch.strided,), "pin_memory": (False,),
    "recompute_scale_factor": (None, False), "max_norm": (None,), "sparse": (False,),
    "scale_grad_by_freq": (False,),
}


def _is_random(theirs: Any, arguments: Any, first: Any) -> bool:
    """Does PyTorch itself give other numbers the second time?"""
    torch.manual_seed(12345)
    second = _call(theirs, arguments)
    return any(
        isinstance(a, torch.Tensor) and a.shape == b.shape
        and not torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        for a, b in zip(_flat(first), _flat(second), strict=True)
    )


def summary(sample: Any) -> str:
    """The sample's shapes and numbers in a line."""
    try:
        return re.sub(r"SampleInput\(|device=\"cpu\", |, broadcasts_input=.*", "", sample.summary())
    except Exception:
        return "?"


def _doubled(sample: Any) -> Any:
    """The sample with every float in float64: what rounding may make of it is then known."""

    def wide(t: Any) -> Any:
        is_float = isinstance(t, torch.Tensor) and t.is_floating_point()
        return t.double().requires_grad_(t.requires_grad) if is_float else t

    return sample.transform(wide)


def check_call(entry: str, pair: tuple[Any, Any], sample: Any, layout: str, **more: Any) -> Outcome:
    """Values, dtypes and shapes of one call."""
    theirs, ours = pair
    made = lambda kind, detail="": Outcome(  # noqa: E731
        entry, kind, detail, layout=layout, sample=summary(sample), **more
    )
    try:
        for_torch, for_tc = _sample_pairs(sample, Arguments(layout))
    except TinyconvError as error:
        return made(*refused_or_crashed(error, entry))
    torch.manual_seed(1)
    try:
        want = _call(theirs, for_torch)
    except Exception as error:
        return _must_raise(entry, ours, for_tc, made, error)
    try:
        got = _call(ours, for_tc)
    except Exception as error:
        return made(*refused_or_crashed(error, entry))
    better = lambda: _call(  # noqa: E731
        theirs, _sample_pairs(_doubled(sample), Arguments(layout))[0]
    )
    wrong = difference(got, want, better)
    if wrong and entry in _ORDERS and _is_another_order(entry, sample, got, want):
        wrong = ""
    if wrong and (
        entry.startswith("empty")
        or (more.get("form") != "in place" and _is_random(theirs, for_torch, want))
    ):
        wrong = difference(got, want, values=False)
    return made("wrong", wrong) if wrong else made("same")


_ORDERS = {"sort": 1, "argsort": 1, "topk": 2}  # where ``dim`` stands among the arguments


def _is_another_order(entry: str, sample: Any, got: Any, want: Any) -> bool:
    """Do the places differ only among equal numbers?  stable=True leaves no choice."""
    if sample.kwargs.get("stable"):
        return False
    at = _ORDERS[entry] - 1
    dim = sample.kwargs.get("dim", sample.args[at] if len(sample.args) > at else -1)
    places = [torch.from_numpy(np.array(_flat(got)[-1].array)), _flat(want)[-1]]
    values = _flat(got)[:-1], _flat(want)[:-1]
    if places[0].shape != places[1].shape or difference(*values):
        return False
    x = sample.input.detach()
    a, b = (_array(x.gather(dim, p) if x.ndim else x) for p in places)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _must_raise(entry: str, ours: Any, arguments: Any, made: Any, theirs: Exception) -> Outcome:
    """PyTorch raises: so must tinyconv, in its own words."""
    reason = f"{type(theirs).__name__}: {theirs}".replace("\n", " ")
    try:
        got = _call(ours, arguments)
    except Exception as error:
        kind, text = refused_or_crashed(error, entry)
        return made("crash", text) if kind == "crash" else made("same", "both raise")
    if _listed(COMPUTED, entry, reason):
        return made("refused", reason)
    shapes = [getattr(x, "shape", x) for x in _flat(got)]
    return made("no error", f"PyTorch: {reason[:200]}; here: {str(shapes)[:80]}")


def check_error(entry: str, pair: tuple[Any, Any], case: Any, **more: Any) -> Outcome:
    """Arguments that must raise, by the database."""
    sample = case.sample_input
    made = lambda kind, detail="": Outcome(  # noqa: E731
        entry, kind, detail, sample=summary(sample), layout="error", **more
    )
    try:
        for_torch, for_tc = _sample_pairs(sample, Arguments())
    except Exception:  # another device, a sparse tensor, a dtype that NumPy does not have
        return made("same", "no such tensors here")
    try:
        _call(pair[0], for_torch)
    except Exception as error:
        return _must_raise(entry, pair[1], for_tc, made, error)
    return made("same", "PyTorch does not raise in this form")


# ----------------------------------------------------------------------------- gradients


def _outputs(library: Any, result: Any) -> list[Any]:
    return [x for x in _flat(result) if isinstance(x, library.Tensor) and x.requires_grad]


def _grad(library: Any, outputs: Any, inputs: Any, seeds: Any) -> list[Any]:
    grad = torch.autograd.grad if library is torch else tc.grad
    return list(grad(outputs, inputs, seeds, create_graph=True, allow_unused=True))


def _both_orders(library: Any, outputs: Any, leaves: Any, seeds: Any, along: Any) -> Any:
    """Gradients, and the gradients of these along given directions."""
    first = _grad(library, outputs, leaves, seeds)
    terms = [
        (g * v).sum() for g, v in zip(first, along, strict=True)
        if g is not None and g.requires_grad
    ]
    if not terms:
        return first, []
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return first, _grad(library, [total], [*leaves, *seeds], None)


def _filled(gradients: list[Any], like: list[Any]) -> list[np.ndarray]:
    """As arrays, None as zeros."""
    if not gradients:
        return [np.zeros(tuple(x.shape)) for x in like]
    return [
        np.zeros(tuple(x.shape)) if g is None
        else np.asarray(g.numpy(force=True) if isinstance(g, torch.Tensor) else g.array)
        for g, x in zip(gradients, like, strict=True)
    ]


SLACK = {"float16": 20.0, "float32": 20.0, "float64": 1000.0}  # sums of products of sums


def _compare_gradients(found: Any, expected: Any) -> str:
    for name, got, want in zip(("gradient", "second gradient"), found, expected, strict=True):
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            if a.shape != b.shape:
                return f"{name} {i}: shape {a.shape}, not {b.shape}"
            # what is left where terms cancel, of seeds in -1..1; float64 says it more exactly
            least = 1e-3 if a.dtype == np.float64 else 1.0
            if not close(a, b, SLACK[a.dtype.name], least):
                return f"{name} {i}: {_worst(a, b)}"
    return ""


def gradient_difference(
    want: Any, got: Any, leaves: tuple[list[Any], list[Any]], second: bool,
    better: Callable[[], tuple[Any, list[Any]]] | None = None,
) -> tuple[str, Exception | None]:
    """What is not the same in gradients of first and second order; what tinyconv raised.

    better: PyTorch's result and leaves in float64, which say what float32 should have given.
    """
    theirs, ours = _outputs(torch, want), _outputs(tc, got)
    if len(theirs) != len(ours):
        return f"{len(ours)} outputs require grad, not {len(theirs)}", None
    if not theirs:
        return "", None
    rng = np.random.default_rng(0)
    draw = lambda x: rng.uniform(-1, 1, tuple(x.shape)).astype(_array(x).dtype)  # noqa: E731
    seeds, along = [draw(x) for x in theirs], [draw(x) for x in leaves[0]]
    try:
        expected = _gradients(torch, theirs, leaves[0], seeds, along, second)
    except Exception:
        return "", None  # PyTorch has no such derivative
    try:
        found = _gradients(tc, ours, leaves[1], seeds, along, second)
    except Exception as error:
        return "", error
    wrong = _compare_gradients(found, expected)
    if wrong and better is not None:
        result, wide = better()
        seeds, along = [[v.astype(np.float64) for v in vs] for vs in (seeds, along)]
        exact = _gradients(torch, _outputs(torch, result), wide, seeds, along, second)
        if not _compare_gradients(found, exact):
            return "", None
    return wrong, None


def _gradients(
    library: Any, outputs: Any, leaves: Any, seeds: Any, along: Any, second: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    made = torch.from_numpy if library is torch else tc.from_numpy
    g = [made(seed.copy()).requires_grad_(second) for seed in seeds]
    with _quiet():
        if not second:
            return _filled(_grad(library, outputs, leaves, g), leaves), []
        first, then = _both_orders(library, outputs, leaves, g, [made(a) for a in along])
    return _filled(first, leaves), _filled(then, [*leaves, *outputs])


def check_gradients(
    info: Any, entry: str, pair: tuple[Any, Any], sample: Any, layout: str, **more: Any
) -> Outcome | None:
    """Gradients and gradients of gradients; None where PyTorch has none."""
    made = lambda kind, detail="": Outcome(  # noqa: E731
        entry, kind, detail, layout=f"{layout} gradients", sample=summary(sample), **more
    )
    arguments = Arguments(layout, requires_grad=True)
    try:
        for_torch, for_tc = _sample_pairs(sample, arguments)
        torch.manual_seed(1)
        want = _call(pair[0], for_torch)
        if not arguments.theirs or not _outputs(torch, want):
            return None
        if _is_random(pair[0], for_torch, want):
            return None
    except Exception:
        return None  # the plain call has said it
    try:
        got = _call(pair[1], for_tc)
    except Exception as error:
        return made(*refused_or_crashed(error, entry))
    leaves = (arguments.theirs, arguments.ours)

    def better() -> tuple[Any, list[Any]]:
        wide = Arguments(layout, requires_grad=True)
        given = _sample_pairs(_doubled(sample), wide)[0]
        return _call(pair[0], given), wide.theirs

    second = info.supports_gradgrad and not (layout == "broadcast" and info.name in SINGULAR)
    wrong, error = gradient_difference(want, got, leaves, second, better)
    if error is not None:
        return made(*refused_or_crashed(error, entry))
    return made("wrong", wrong) if wrong else made("same")


# ----------------------------------------------------------------------------- an operation


def _picked(items: Iterable[Any], most: int | None) -> list[Any]:
    """At most ``most`` of them, from first to last."""
    items = list(items)
    if most is None or len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _samples(info: Any, dtype: torch.dtype, grad: bool, reference: bool) -> list[Any]:
    try:
        with _quiet():
            draw = info.reference_inputs if reference else info.sample_inputs
            return list(draw("cpu", dtype, requires_grad=grad))
    except Exception:  # the database has no samples of this dtype
        return []


def _fitting(info: Any, found: dict[str, Any], sample: Any) -> Iterator[tuple[str, Any]]:
    """The forms that can be called so: a method is a tensor's, an operator takes no keywords."""
    dunder = info.name.startswith("__")
    for form, pair in found.items():
        is_method = form in ("method", "in place") or (form == "function" and dunder)
        if is_method and not isinstance(sample.input, torch.Tensor):
            continue
        if form == "operator" and sample.kwargs:
            continue
        yield form, pair


def check_operation(
    info: Any,
    dtypes: Iterable[torch.dtype] = DTYPES,
    layouts: Iterable[str] = LAYOUTS,
    most: int | None = None,
    reference: bool = False,
) -> Iterator[Outcome]:
    """Every form of an entry with every sample: values, gradients, errors."""
    entry, found = entry_name(info), forms(info)
    known = info.supported_dtypes("cpu")
    for dtype in dtypes:
        if dtype not in known and dtype.is_floating_point:
            continue  # PyTorch lacks the kernel; that says nothing of ours
        more = {"dtype": str(dtype).removeprefix("torch.")}
        grad = dtype in FLOATS and info.supports_autograd
        samples = _picked(_samples(info, dtype, grad, reference), most)
        for sample in samples:
            if info.name in ARBITRARY and ARBITRARY[info.name][0](sample):
                continue
            for form, pair in _fitting(info, found, sample):
                for layout in layouts if form == "function" else ("plain",):
                    yield check_call(entry, pair, sample, layout, form=form, **more)
                    if grad and form in ("function", "operator"):
                        checked = check_gradients(
                            info, entry, pair, sample, layout, form=form, **more
                        )
                        if checked is not None:
                            yield checked
    yield from check_errors(info, entry, found)


def check_errors(info: Any, entry: str, found: dict[str, tuple[Any, Any]]) -> Iterator[Outcome]:
    if info.error_inputs_func is None:
        return
    with _quiet():
        cases = list(info.error_inputs("cpu"))
    for case in cases:
        for form, pair in _fitting(info, found, case.sample_input):
            yield check_error(entry, pair, case, form=form)


# ----------------------------------------------------------------------------- modules


def modules() -> list[Any]:
    return [
        info for info in module_db
        if info.name.startswith("nn.") and hasattr(tc.nn, info.name.removeprefix("nn."))
    ]


def _state(module: torch.nn.Module) -> dict[str, Any]:
    return {k: tc.tensor(v.detach().numpy().copy()) for k, v in module.state_dict().items()}


def _construct(info: Any, case: Any, dtype: torch.dtype, arguments: Arguments) -> Any:
    """PyTorch's module; a function that makes tinyconv's with the same weights."""
    args, ours = arguments.pair(tuple(case.constructor_input.args))
    kwargs, our_kwargs = arguments.pair(dict(case.constructor_input.kwargs))
    module = info.module_cls(*args, **kwargs).to(dtype)
    state = _state(module)

    def twin() -> Any:
        made = getattr(tc.nn, info.name.removeprefix("nn."))(*ours, **our_kwargs)
        made.to(dtype=to_ours(dtype))
        made.load_state_dict(state)
        return made.train(module.training)

    return module, twin


def check_module(
    info: Any, dtypes: Iterable[torch.dtype] = FLOATS, layouts: Iterable[str] = LAYOUTS,
    most: int | None = None,
) -> Iterator[Outcome]:
    """A module with every sample, training and not: outputs, buffers, gradients, errors."""
    modes = (True, False) if info.train_and_eval_differ else (True,)
    for dtype in dtypes:
        if dtype not in info.supported_dtypes("cpu"):
            continue
        for training in modes:
            with _quiet():
                cases = info.module_inputs_func(
                    info, device="cpu", dtype=dtype, requires_grad=True, training=training
                )
            for case in _picked(cases, most):
                for layout in layouts:
                    yield _check_module_call(info, case, dtype, training, layout)
    if info.module_error_inputs_func is not None:
        yield from _check_module_errors(info)


def _check_module_call(
    info: Any, case: Any, dtype: torch.dtype, training: bool, layout: str
) -> Outcome:
    entry = info.name
    text = f"{case.constructor_input.args} {case.constructor_input.kwargs} {case.desc}"
    made = lambda kind, detail="": Outcome(  # noqa: E731
        entry, kind, detail, "train" if training else "eval",
        str(dtype).removeprefix("torch."), layout, " ".join(text.split())[:200],
    )
    arguments = Arguments(layout, requires_grad=True)
    torch.manual_seed(0)
    try:
        with _quiet():
            module, twin = _construct(info, case, dtype, Arguments())
            module.train(training)
            args = arguments.pair(tuple(case.forward_input.args))
            kwargs = arguments.pair(dict(case.forward_input.kwargs))
            want = module(*args[0], **kwargs[0])
    except TinyconvError as error:
        return made(*refused_or_crashed(error, entry))
    except Exception as error:
        return made("same", f"PyTorch raises: {error}")
    try:
        with _quiet():
            ours = twin()
            got = ours(*args[1], **kwargs[1])
    except Exception as error:
        return made(*refused_or_crashed(error, entry))
    is_random = "Dropout" in entry and training
    wrong = difference(got, want, values=not is_random, least=CANCELS.get(entry, 1e-3))
    if not wrong:
        wrong = _buffer_difference(ours, module)
    if wrong or is_random:
        return made("wrong", wrong) if wrong else made("same")
    named = dict(ours.named_parameters())
    leaves = (
        [*arguments.theirs, *module.parameters()],
        [*arguments.ours, *(named[name] for name, _ in module.named_parameters())],
    )
    if not leaves[0]:
        return made("same")
    second = info.supports_gradgrad and not (entry in CANCELS and _ignores_all(case))
    wrong, error = gradient_difference(want, got, leaves, second)
    if error is not None:
        return made(*refused_or_crashed(error, entry))
    return made("wrong", wrong) if wrong else made("same")


def _buffer_difference(ours: Any, module: Any) -> str:
    found = dict(ours.named_buffers())
    for name, buffer in module.named_buffers():
        if name in found and (wrong := difference(found[name], buffer)):
            return f"buffer {name}: {wrong}"
    return ""


def _check_module_errors(info: Any) -> Iterator[Outcome]:
    for training in (True, False):
        cases = info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
        )
        for case in cases:
            made_of = case.module_error_input
            text = f"{made_of.constructor_input.args} {made_of.constructor_input.kwargs}"
            made = lambda kind, detail="", text=text: Outcome(  # noqa: E731
                info.name, kind, detail, layout="error", dtype="float32", sample=text
            )
            yield _must_raise(
                info.name, lambda m=made_of: _run_twin(info, m), ((), {}), made,
                case.error_type(case.error_regex),
            )


def _run_twin(info: Any, case: Any) -> Any:
    """tinyconv's module, made and called."""
    arguments = Arguments()
    args = arguments.pair(tuple(case.constructor_input.args))[1]
    kwargs = arguments.pair(dict(case.constructor_input.kwargs))[1]
    made = getattr(tc.nn, info.name.removeprefix("nn."))(*args, **kwargs)
    if case.forward_input is None:
        return made
    args = arguments.pair(tuple(case.forward_input.args))[1]
    return made(*args, **arguments.pair(dict(case.forward_input.kwargs))[1])


# ----------------------------------------------------------------------------- optimizers


def optimizers() -> list[Any]:
    return [info for info in optim_db if hasattr(tc.optim, info.name)]


def check_optimizer(info: Any, dtypes: Iterable[torch.dtype] = FLOATS) -> Iterator[Outcome]:
    """Steps with every choice of options, schedules, and options that must raise."""
    for dtype in dtypes:
        if not dtype.is_floating_point or dtype is torch.float16:
            continue
        for case in info.optim_inputs_func(device="cpu", dtype=dtype):
            yield _check_steps(info, case.kwargs, case.desc, dtype)
        for number, schedules in enumerate(info.scheduler_inputs):
            listed = schedules if isinstance(schedules, (list, tuple)) else [schedules]
            if all(
                hasattr(tc.optim, name) for s in listed for name in s.__code__.co_names
            ):
                yield _check_steps(info, {"lr": 0.01}, f"schedule {number}", dtype, listed)
    for case in info.optim_error_inputs_func("cpu", torch.float32):
        yield _check_optimizer_error(info, case)


def _check_steps(
    info: Any, options: dict[str, Any], text: str, dtype: torch.dtype, schedules: Any = ()
) -> Outcome:
    made = lambda kind, detail="": Outcome(  # noqa: E731
        info.name, kind, detail, dtype=str(dtype).removeprefix("torch."),
        sample=f"{text} {options}",
    )
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(s).astype(to_ours(dtype)) for s in ((3, 4), (5,), ())]
    grads = [[rng.standard_normal(p.shape).astype(p.dtype) for p in start] for _ in range(12)]
    theirs = [torch.from_numpy(np.array(p)).requires_grad_() for p in start]
    ours = [tc.from_numpy(np.array(p)).requires_grad_() for p in start]
    their_options, our_options = Arguments().pair(options)
    try:
        optimizer = getattr(tc.optim, info.name)(ours, **our_options)
        plans = [_rebound(s, **vars(tc.optim))(optimizer) for s in schedules]
        _steps(optimizer, plans, ours, grads, tc.from_numpy)
    except Exception as error:
        return made(*refused_or_crashed(error, info.name))
    with _quiet():
        twin = info.optim_cls(theirs, **their_options)
        _steps(twin, [s(twin) for s in schedules], theirs, grads, torch.from_numpy)
    wrong = difference(ours, theirs, slack=10)
    return made("wrong", wrong) if wrong else made("same")


def _steps(optimizer: Any, plans: Any, params: Any, grads: Any, made: Any) -> None:
    for step in grads:
        for p, g in zip(params, step, strict=True):
            p.grad = made(np.array(g))
        optimizer.step()
        for plan in plans:
            plan.step()


def _check_optimizer_error(info: Any, case: Any) -> Outcome:
    given = case.optimizer_error_input
    made = lambda kind, detail="": Outcome(  # noqa: E731
        info.name, kind, detail, layout="error", sample=f"{given.desc} {given.kwargs}"
    )

    def run() -> Any:
        arguments = Arguments(requires_grad=True)
        memo: dict[int, Any] = {}

        def ours(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                if id(value) not in memo:
                    memo[id(value)] = arguments.pair(value)[1]
                return memo[id(value)]
            if isinstance(value, (list, tuple)):
                return type(value)(ours(v) for v in value)
            if isinstance(value, dict):
                return {k: ours(v) for k, v in value.items()}
            return value

        params = [tc.ones(2, 3, requires_grad=True)] if given.params is None else ours(given.params)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer = getattr(tc.optim, info.name)(params, **ours(given.kwargs))
        if case.error_on.name == "STEP_ERROR":
            for p in params:
                p.grad = tc.ones_like(p)
            optimizer.step()
        return optimizer

    return _must_raise(info.name, run, ((), {}), made, case.error_type(case.error_regex))


# ----------------------------------------------------------------------------- all of it


def everything(
    only: str = "", dtypes: Iterable[torch.dtype] = DTYPES, layouts: Iterable[str] = LAYOUTS,
    most: int | None = None, reference: bool = False,
) -> Iterator[Outcome]:
    """Every entry whose name matches."""
    for info in entries():
        if re.search(only, entry_name(info)):
            yield from check_operation(info, dtypes, layouts, most, reference)
    floats = [d for d in dtypes if d in FLOATS]
    for info in modules():
        if re.search(only, info.name):
            yield from check_module(info, floats, layouts, most)
    for info in optimizers():
        if re.search(only, info.name):
            yield from check_optimizer(info, floats)


def table(outcomes: list[Outcome]) -> str:
    """Counts of every kind, for every entry that is not the same throughout, and in all."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.entry, Counter())[outcome.kind] += 1
    kinds = ("same", "refused", *FAILURES)
    lines = [f"{'':44}" + "".join(f"{kind:>10}" for kind in kinds)]
    for entry, count in counts.items():
        if any(count[kind] for kind in kinds[1:]):
            lines.append(f"{entry:44}" + "".join(f"{count[kind] or '':>10}" for kind in kinds))
    total = sum(counts.values(), Counter())
    lines.append(f"{len(counts)} entries".ljust(44) + "".join(f"{total[k]:>10}" for k in kinds))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="a regular expression of names")
    parser.add_argument("--dtype", action="append", help="may be given more than once")
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--most", type=int, help="samples of each entry")
    parser.add_argument("--reference", action="store_true", help="the larger set of samples")
    parser.add_argument("--show", action="append", help="print the calls of this kind")
    options = parser.parse_args()
    dtypes = [getattr(torch, d) for d in options.dtype] if options.dtype else DTYPES
    shown = options.show or list(FAILURES)
    outcomes = []
    seen: set[tuple[str, ...]] = set()
    for outcome in everything(
        options.only, dtypes, options.layout or LAYOUTS, options.most, options.reference
    ):
        outcomes.append(outcome)
        key = (outcome.kind, outcome.entry, outcome.form, re.sub(r"[\d.e+-]+", "", outcome.detail))
        if outcome.kind in shown and key not in seen:
            seen.add(key)
            print(outcome.line(), flush=True)
    print(table(outcomes))
    return int(any(o.kind in FAILURES for o in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
