"""The engine: operations, the graph that they record, and the walk back through it.

An operation (`Op`) is a forward function on plain arrays and one vector-Jacobian product (VJP)
per input.  Calling it on Tensors records a `Node`; edges point from a node to its inputs only, so
the graph has no cycle and is freed by reference counting.  `grad` walks it, consumers before
producers, and calls each node's VJPs.

Reference: Baydin et al., Automatic differentiation in machine learning: a survey, JMLR 2018.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.exceptions import AxisError

from tinyconv.backend import BACKENDS, Array, array_module, backend_of
from tinyconv.backend.memory import is_lent
from tinyconv.backend.silence import SILENT, hush, silence, unhush
from tinyconv.clock import date_write, last_write, owner, tick, written
from tinyconv.context import Setting, context
from tinyconv.dtypes import float16, float32, int64
from tinyconv.errors import (
    DeviceError,
    DTypeError,
    GraphError,
    ShapeError,
    TinyconvError,
    no_axis,
    no_integer,
    not_taken,
    where,
)
from tinyconv.hints import hints_for
from tinyconv.samples import Sample, plain

if TYPE_CHECKING:
    from tinyconv.tensor import Tensor

Vjp: TypeAlias = Callable[..., Any]

WORTH = 2**15  # numbers from which on a sum is worth a kernel
MANY = 2**18  # numbers whose copy is worth recycled memory
FEW = 2**9  # numbers that are copied before it is known whose they are

# Keywords that hold neither a Tensor nor one of NumPy's numbers.
PLAIN = frozenset((bool, int, float, str, tuple, dict, type(None)))

# What `dim` may be where it is annotated so: several axes would have another meaning, or none.
ONE_AXIS: dict[str, tuple[type, ...]] = {"int": (int,), "int | None": (int, type(None))}

OPS: dict[str, Op] = {}  # every operation there is


# ---------------------------------------------------------------------------------- the graph


class Meta:
    """What is left of an array that no VJP reads."""

    __slots__ = ("dtype", "shape")

    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Node:
    """One recorded call: where a tensor came from, and what its VJPs will read.

    A node does not hold its output's array unless a VJP reads it; that is why it is not the
    Tensor itself (measured: docs/architecture.md).  `Op.__call__` fills it in, which is quicker
    than an __init__.
    """

    __slots__ = (
        "__weakref__",
        "aux",
        "dtype",
        "hooks",
        "links",
        "op",
        "output",
        "params",
        "reads",
        "scope",
        "seq",
        "shape",
    )

    op: Op
    links: list[Any]  # `inputs`; behind them, if VJPs read any of it, what they get of each input
    output: Any  # its array, if a VJP reads it
    reads: Reads | None  # None once freed
    params: dict[str, Any]
    aux: Any
    shape: tuple[int, ...]
    dtype: Any
    seq: int
    scope: str
    hooks: list[Callable[[Any], Any]] | None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def inputs(self) -> list[Edge | None]:
        """An edge per argument, None where no gradient is wanted."""
        links, reads = self.links, self.reads
        return links if reads is None else links[: reads.arity]

    @property
    def saved(self) -> list[Any] | None:
        """[output, *inputs] as VJPs get them: what none reads is None, or has but a shape.

        None once freed.  A new list each time.
        """
        output, links, reads = self.output, self.links, self.reads
        return None if reads is None else [output, *links[reads.start :]]

    def __repr__(self) -> str:
        where = f" in {self.scope}" if self.scope else ""
        return f"<{self.op.name} -> {self.shape} {self.dtype}{where}>"


class Variable:
    """What the engine needs of a Tensor; `tinyconv.tensor.Tensor` adds what people call."""

    __slots__ = ("__weakref__", "_grad", "array", "hooks", "node", "requires_grad")

    tensor_type: type[Tensor]  # set by tensor.py: the class that operations return
    seq = 0  # a leaf is older than every node

    array: Array
    _grad: Tensor | None
    requires_grad: bool
    node: Node | None  # None for a leaf
    hooks: list[Callable[[Any], Any]] | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def inputs(self) -> Sequence[Edge | None]:
        return () if self.node is None else self.node.inputs

    def _set_grad(self, value: Tensor | None) -> None:
        if value is not None:
            _check_grad(self, value)
        self._grad = value

    # What backward() accumulated; in place, so that whoever holds it sees it.  Another Tensor or
    # None may be assigned.
    grad = property(attrgetter("_grad"), _set_grad)


def _check_grad(x: Variable, value: Any) -> None:
    """An error unless the value can be the gradient of x: its shape, dtype and device."""
    if not isinstance(value, Variable):
        kind = type(value).__name__
        raise DTypeError("x.grad = value", f"the value is a {kind}, need a Tensor or None")
    if value is x:
        raise GraphError("x.grad = x", "a tensor is not its own gradient; x.grad = x.clone()")
    if value.shape != x.shape:
        said = f"the value has shape {value.shape}, x {x.shape}: a gradient has the shape of x"
        raise ShapeError("x.grad = value", said)
    if value.dtype != x.dtype:
        said = f"the value is {value.dtype}, x {x.dtype}; convert it: value.to(tc.{x.dtype})"
        raise DTypeError("x.grad = value", said)
    check_devices("x.grad = value", (x.array, value.array))


_new = object.__new__
_NO_PARAMS: dict[str, Any] = {}  # of most nodes, one for all
Edge: TypeAlias = Node | Variable  # a Variable where the edge ends at a leaf


@dataclass(slots=True)
class Reads:
    """What the VJPs of an operation's call read, by the number of the argument."""

    arity: int  # of the call
    start: int  # of what they get, in a node's links: the arity, or 0 where the edges will do
    wanted: tuple[int, ...]  # those with a gradient
    output: bool
    values: tuple[int, ...]
    shapes: tuple[int, ...]  # of arguments without an edge, which has a shape itself


def wrap(data: Array, node: Node | None = None) -> Tensor:
    """A Tensor around an array, no questions asked."""
    out = object.__new__(Variable.tensor_type)
    out.array = data
    out._grad = None
    out.requires_grad = node is not None
    out.node = node
    out.hooks = None
    return out


def is_tensor(x: Any) -> bool:
    return isinstance(x, Variable)


# ----------------------------------------------------------------------------- the operations


class Op:
    """An operation: called on Tensors it computes and records; called on arrays it just computes.

    The second is what makes a first-order backward pass cheap: a VJP is written once, in
    operations, and runs on plain arrays unless the gradient itself must be differentiable.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        name: str,
        *,
        same: Sequence[int] | None,
        differentiable: bool,
        samples: Sequence[Sample],
        takes: str = "any",
    ) -> None:
        self.forward = forward
        self.name = name
        self.differentiable = differentiable
        self.takes = takes
        self.ruled = takes != "any"
        self.number = as_number  # how a Python number becomes an operand of integers
        self.float32_number = False  # does it count in float32 beside float16?
        self.vjps: tuple[Vjp | None, ...] = ()
        self.fused: Vjp | None = None
        self.samples = list(samples)
        self.__doc__ = forward.__doc__
        self.__name__ = name
        parameters = inspect.signature(forward).parameters.values()
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.operands = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.arity = len(self.operands)
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.keywords = [p.name for p in keywords]
        self.__signature__ = _as_called(parameters)
        self.defaults = {p.name: p.default for p in keywords if p.default is not p.empty}
        axis = [inspect.formatannotation(p.annotation) for p in keywords if p.name == "dim"]
        self.axis = ONE_AXIS.get(axis[0]) if axis else None
        self._same = same
        self.same: Sequence[int] = same or ()
        self.agree = len(self.same) > 1
        self.apart = self.arity > max(len(self.same), 1)
        self._reads: dict[Any, Reads] = {}

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def defvjp(
        self, *vjps: Vjp | None, fused: Vjp | None = None, samples: Sequence[Sample] = ()
    ) -> None:
        """One VJP per array input (None: no gradient): ``lambda g, y, *inputs, **params: ...``.

        TypeError where one is missing or cannot take these arguments.

        g is the gradient of the output y.  Name an argument with a leading underscore when only
        its shape and dtype are read: its values are then not kept for the backward pass.
        A variadic operation has one VJP, ``lambda i, g, y, *inputs, **params``, for input i.
        Of a function of one array, without keywords, it may be an operation of (g, y).

        fused: all gradients of a first-order backward at once,
        ``(g, y, aux, *inputs, **params) -> tuple``; it may read the auxiliary arrays ``aux`` that
        the forward returned as ``(y, aux)``.  The VJPs serve every higher order.
        """
        for vjp in vjps:
            fits = self.arity == 1 and not self.keywords
            if type(vjp) is Op and not (fits and vjp.arity == 2):
                raise TypeError(
                    f"{self.name}: {vjp.name} cannot be its VJP; that takes an operation of (g, y) "
                    "and a function of one array. Write lambda g, y, *inputs, **params: ..."
                )
        self._check_vjps(vjps)
        self.vjps = vjps
        self.fused = fused
        self.samples += samples
        if self._same is None:
            self.same = tuple(i for i, vjp in enumerate(vjps) if vjp is not None)
        self.agree = len(self.same) > 1 or self.variadic
        self.apart = self.arity > max(len(self.same), 1)  # some may have a dtype of their own

    def _check_vjps(self, vjps: Sequence[Vjp | None]) -> None:
        wanted = 1 if self.variadic else self.arity
        if not self.differentiable:
            raise TypeError(f"{self.name} is declared differentiable=False: it takes no VJP")
        if len(vjps) != wanted:
            raise TypeError(
                f"{self.name}: {len(vjps)} VJP{'s' * (len(vjps) != 1)} given, need {wanted}: one "
                f"per array input ({', '.join(self.operands) or 'variadic: one for all'}), None "
                "for an input that has no gradient"
            )
        if not any(vjps):
            raise TypeError(
                f"{self.name}: no input has a VJP. To make the result a constant to the "
                "derivative, declare it: @tc.op(differentiable=False), without defvjp"
            )
        usage = self._usage()
        for i, vjp in enumerate(vjps):
            if vjp is None or type(vjp) is Op:
                continue
            if not callable(vjp):
                raise TypeError(f"{self.name}: its VJP {i} is a {type(vjp).__name__}; {usage}")
            try:
                takes = inspect.signature(vjp)
            except ValueError:  # of a function written in C nothing is known
                raise TypeError(
                    f"{self.name}: its VJP {i} has no signature to read; {usage}"
                ) from None
            given = ["g", "y", *self.operands]
            if self.variadic:
                given = ["i", "g", "y"] + ["x"] * 3
            try:
                takes.bind(*given, **dict.fromkeys(self.keywords))
            except TypeError as error:
                said = f"{self.name}: its VJP {i} takes {takes}: {error}; {usage}"
                raise TypeError(said) from None

    def _usage(self) -> str:
        """How to write a VJP of this operation."""
        names = ["i", "g", "y", "*inputs"] if self.variadic else ["g", "y", *self.operands]
        keywords = ["*", *self.keywords] if self.keywords and not self.variadic else self.keywords
        return f"write it as lambda {', '.join([*names, *keywords])}: ..."

    @overload
    def __call__(self, x: Tensor, /, *args: Any, **params: Any) -> Tensor: ...
    @overload
    def __call__(self, *args: Any, **params: Any) -> Any: ...
    def __call__(self, *args: Any, **params: Any) -> Any:
        if len(args) != self.arity and not self.variadic:
            args, params = self._arranged(args, params)
        if self.defaults:
            params = {**self.defaults, **params}
        for arg in args:
            if isinstance(arg, Variable):
                break
        else:  # just compute: what a first-order backward does, above all
            try:
                out = self.forward(*args, **params) if params else self.forward(*args)
            except (AttributeError, TypeError):
                check_operands(self.name, args)
                if not any(hasattr(arg, "dtype") for arg in args):
                    raise DTypeError(
                        self.name, f"{args} holds no tensor; make one: tc.tensor({args[0]})"
                    ) from None
                raise
            except AxisError as error:
                out = self._of_number(error, args, params)
            return out if self.fused is None else out[0]
        if params:
            if not PLAIN.issuperset(map(type, params.values())):
                params = self._plain(params)
            if self.axis is not None and type(params.get("dim", 0)) not in self.axis:
                raise no_integer(self.name, "dim", params["dim"])
        arrays: list[Any] = []
        edges: list[Any] = []
        wanted, bit = 0, 1  # bit i: a gradient is wanted of argument i
        for arg in args:
            edge = None
            if isinstance(arg, Variable):
                if arg.requires_grad:
                    wanted += bit
                    edge = arg.node or arg
                arg = arg.array
            arrays.append(arg)
            edges.append(edge)
            bit += bit
        forward = self.forward
        if self.ruled and getattr(arrays[0], "dtype", None) is not float32:
            arrays = self._admitted(arrays, params)
        if self.agree and (
            len(arrays) != 2
            or type(arrays[0]) is not type(arrays[1])
            or arrays[0].dtype is not arrays[1].dtype
        ):
            arrays = self._agree(arrays)
            if self.float32_number and np.float32 in map(type, arrays):
                forward = self._in_float32
        if self.apart and len(BACKENDS) > 1:
            check_devices(self.name, arrays)
        token = hush(SILENT)
        try:
            data = forward(*arrays, **params) if params else forward(*arrays)
        except ValueError as error:
            data = self._of_number(error, arrays, params)
        except (TypeError, OverflowError) as error:
            refused = self._refused(error, arrays, params)
            raise refused or error from error.__cause__
        finally:
            unhush(token)
        aux = None
        try:
            if self.fused is not None:
                data, aux = data
            shape = data.shape
        except (AttributeError, TypeError, ValueError):
            raise self._no_array(data) from None
        if not shape:
            data = _whole(data)  # a NumPy reduction returned a scalar
        now = context.__dict__  # this thread's, looked up once
        dtype = data.dtype
        is_float = dtype is float32 or dtype.kind == "f"  # the first is quicker
        if wanted and now["grad_enabled"] and is_float and (self.vjps or self._needs_vjps()):
            try:
                reads = self._reads[wanted + bit]
            except KeyError:
                if isinstance(data, Variable):
                    raise self._no_array(data) from None
                reads = self._find_reads(wanted, edges)
            start = reads.start
            if start:  # one list: each object more is one for the garbage collector
                edges += edges
                for i in reads.values:
                    edges[start + i] = arrays[i]
                for i in reads.shapes:
                    a = arrays[i]
                    edges[start + i] = _meta(a.shape, a.dtype) if hasattr(a, "dtype") else a
            node = Node()
            node.op = self
            node.links = edges
            node.output = data if reads.output else None
            node.reads = reads
            node.params = params or _NO_PARAMS
            node.aux = aux
            node.shape = shape
            node.dtype = dtype
            node.seq = tick()
            node.scope = now["scope"]
            node.hooks = None
            if now["watch"] is not None:
                now["watch"](node, data)
            result = _new(Variable.tensor_type)  # `wrap` in place: a call less
            result.array = data
            result._grad = result.hooks = None
            result.requires_grad = True
            result.node = node
        else:
            result = wrap(data)
        return result if aux is None else (result, aux)

    apply = __call__  # the same, without the detour that calling an object takes

    def _arranged(
        self, args: tuple[Any, ...], params: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Metadata may come by position, arrays by name: sum(x, 1) means sum(x, dim=1)."""
        surplus = args[self.arity :]
        names = self.keywords[: len(surplus)]
        if surplus and len(names) == len(surplus) and params.keys().isdisjoint(names):
            return args[: self.arity], {**params, **dict(zip(names, surplus, strict=True))}
        try:
            given = self.__signature__.bind(*args, **params).arguments
        except TypeError as error:
            usage = f"{self.name}{self.__signature__}"
            raise TypeError(f"{where(self.name)}: {error}; it is {usage}") from None
        return tuple(given.pop(name) for name in self.operands), given

    def _plain(self, params: dict[str, Any]) -> dict[str, Any]:
        """The keywords with Python's numbers for NumPy's; DTypeError for a Tensor."""
        for name, value in params.items():
            if isinstance(value, Variable):
                raise DTypeError(
                    self.name,
                    f"its keyword {name} is a Tensor, whose gradient would be lost: keywords are "
                    f"numbers and options. Pass a number, {name}={name}.item(), or make {name} an "
                    "array argument of the operation, before the *, with a VJP of its own",
                )
        return plain(params)

    def _needs_vjps(self) -> bool:
        """GraphError where a result would be taken for a constant that nobody declared."""
        if self.differentiable:
            usage = self._usage().removeprefix("write it as ")
            raise GraphError(
                self.name,
                "an input requires grad, but this operation has no VJP. Give it one per array "
                f"input: {self.name}.defvjp({usage}), or declare that its result is a constant to "
                "the derivative: @tc.op(differentiable=False)",
            )
        return False

    def _no_array(self, data: Any) -> DTypeError:
        """What the forward returned in the place of an array, and how to return one."""
        kind = "None" if data is None else f"a {type(data).__name__}"
        if self.fused is not None:
            fix = "with fused= it returns (array, auxiliary arrays)"
        elif data is None:
            fix = "does it lack a return?"
        elif isinstance(data, tuple):
            fix = ("an operation has one output: return xp.stack([a, b]) with "
                   "xp = array_module(x), and take the parts from the result, y[0] and y[1]")
        elif isinstance(data, Variable):
            fix = "it gets arrays and returns one: compute with array_module(x), or return y.array"
        else:
            fix = "make an array of it: array_module(x).asarray(...)"
        return DTypeError(self.name, f"its forward returned {kind}, not an array; {fix}")

    def _find_reads(self, wanted: int, edges: list[Edge | None]) -> Reads:
        """What is read when gradients are wanted of the arguments whose bits are set."""
        n = len(edges)
        reads = [[False] * (n + 1)]
        targets = tuple(i for i in range(n) if wanted >> i & 1 and (self.variadic or self.vjps[i]))
        if self.variadic:
            reads += [self._vjp_reads(self.vjps[0], n, skip=1)]
        else:
            reads += [self._vjp_reads(self.vjps[i], n) for i in targets]
        if self.fused:
            output, _aux, *inputs = self._vjp_reads(self.fused, n + 1)
            reads.append([output, *inputs])
        output, *inputs = (any(read) for read in zip(*reads, strict=True))
        values = tuple(i for i in range(n) if inputs[i])
        shapes = tuple(i for i in range(n) if not wanted >> i & 1 and i not in values)
        start = n if values or shapes else 0
        found = self._reads[wanted + 2**n] = Reads(n, start, targets, output, values, shapes)
        return found

    @staticmethod
    def _vjp_reads(vjp: Vjp | None, n_inputs: int, skip: int = 0) -> list[bool]:
        """By name: a leading underscore means that the values are not read."""
        assert vjp is not None
        if type(vjp) is Op:
            return [True] + [False] * n_inputs
        names: list[str] = []
        for p in inspect.signature(vjp).parameters.values():
            if p.kind is p.VAR_POSITIONAL:
                names += [p.name] * (skip + n_inputs + 2 - len(names))
            elif p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY):
                names.append(p.name)
        return [not name.startswith("_") for name in names[1 + skip : skip + n_inputs + 2]]

    def _agree(self, arrays: list[Any]) -> list[Any]:
        """Operands of one dtype and one device, or an error; numbers take the tensor's dtype."""
        same = range(len(arrays)) if self.variadic else self.same
        first = arrays[same[0]]
        if not hasattr(first, "dtype"):
            return self._promote(arrays, same)
        kind = type(first)
        for i in same:
            other = arrays[i]
            if other is not None and (type(other) is not kind or other.dtype is not first.dtype):
                return self._promote(arrays, same)
        return arrays

    def _promote(self, arrays: list[Any], same: Sequence[int]) -> list[Any]:
        # np.float64(2) counts as the number 2: it must not widen float32
        arrays = [a.item() if isinstance(a, np.generic) else a for a in arrays]
        numbers = [i for i in same if type(arrays[i]) in (int, float, bool)]
        tensors = [i for i in same if i not in numbers and arrays[i] is not None]
        for i in tensors:
            if not hasattr(arrays[i], "astype"):  # no array
                check_operands(self.name, arrays)
                said = f"operand {i} has a Tensor as its .array, need an array: x.array = y.array"
                raise DTypeError(self.name, said)
        check_devices(self.name, arrays)
        floats = {arrays[i].dtype for i in tensors if arrays[i].dtype.kind == "f"}
        if len(floats) > 1:
            listed = " and ".join(f"operand {i} is {arrays[i].dtype}" for i in tensors)
            target = min(floats, key=lambda d: abs(d.itemsize - 4))
            raise DTypeError(self.name, f"{listed}; convert one: x.to(tc.{target})")
        if floats:
            (target,) = floats
            if self.float32_number and target == float16:
                for i in numbers:
                    arrays[i] = wide_number(arrays[i])
        elif self.takes == "promoted":
            return arrays
        elif tensors:
            target = common_dtype([arrays[i] for i in (*tensors, *numbers)])
            for i in numbers:
                arrays[i] = self.number(self.name, arrays[i], target)
        for i in tensors:
            arrays[i] = arrays[i].astype(target, copy=False)
        return arrays

    def _in_float32(self, *arrays: Any, **params: Any) -> Any:
        """The forward of float16 and a number, which may be too large or too small for that."""
        return self.forward(*arrays, **params).astype(float16)

    def _admitted(self, arrays: list[Any], params: dict[str, Any]) -> list[Any]:
        """What `takes` promises; integers as float32 where they are "promoted"."""
        if params.get("dtype") is not None:  # says what to compute in
            return arrays
        places = range(len(arrays)) if self.variadic else self.same or range(len(arrays))
        if self.takes in ("floats", "promoted") and self.agree:
            arrays = self._agree(arrays)  # integers beside floats become floats
        dtypes = {i: arrays[i].dtype for i in places if hasattr(arrays[i], "dtype")}
        for i, dtype in dtypes.items():
            if dtype.kind == "b" or (dtype.kind in "iu" and self.takes in ("floats", "promoted")):
                if self.takes != "promoted":
                    raise not_taken(self.name, i, dtype)
                arrays[i] = arrays[i].astype(float32)
        mixed = self.takes == "alike" and len(set(dtypes.values())) > 1
        if mixed and all(dtype.kind != "f" for dtype in dtypes.values()):
            listed = " and ".join(f"operand {i} is {dtype}" for i, dtype in dtypes.items())
            raise DTypeError(self.name, f"{listed}; convert them: x.long()")
        return arrays

    def _refused(
        self, error: Exception, arrays: Sequence[Any], params: dict[str, Any]
    ) -> Exception | None:
        """NumPy's word on integers that a function does not take, or on a number too large."""
        for key in ("dim", "dims"):
            axes = params.get(key)
            named = axes if isinstance(axes, (tuple, list)) else (axes,)
            if axes is not None and any(type(d) is not int for d in named):
                return no_integer(self.name, key, axes)
        kinds = [x.dtype.kind for x in arrays if hasattr(x, "dtype")]
        for i, x in enumerate(arrays):
            if x is None and type(error) is TypeError:
                return DTypeError(self.name, f"operand {i} is None; need a tensor or a number")
        if isinstance(error, TinyconvError) or ("f" in kinds and type(error) is TypeError):
            return None
        listed = " and ".join(str(getattr(x, "dtype", x)) for x in arrays)
        return DTypeError(self.name, f"operands {listed}: {error}; convert them: x.float()")

    def _of_number(
        self, error: ValueError, arrays: Sequence[Any], params: dict[str, Any]
    ) -> Any:
        """What a forward gives that found no axis because all arrays are 0-d.

        Axis 0 of a number, or -1, is the number itself, as in PyTorch: that of a row of one.
        """
        key = next((k for k in ("dim", "dims") if k in params), "")
        dims = params.get(key)
        named = dims if isinstance(dims, (tuple, list)) else (dims,)
        numbers = all(getattr(a, "shape", None) == () for a in arrays)
        known = len(named) == 1 and named[0] in (0, -1)
        if not (isinstance(error, AxisError) and numbers and known):
            raise self._explained(error, arrays) from error
        rows = [a.reshape(1) for a in arrays]
        return self.forward(*rows, **{**params, key: dims}).reshape(())

    def _explained(self, error: ValueError, arrays: Sequence[Any]) -> Exception:
        """NumPy's complaint with the operation's name and the operands' shapes in front."""
        if isinstance(error, ShapeError):
            return error
        if isinstance(error, AxisError) and error.axis is not None:
            return no_axis(self.name, arrays[0].shape, error.axis)
        shapes = [getattr(a, "shape", ()) for a in arrays]
        said = _clash(shapes) if "broadcast" in str(error) else ""
        listed = " and ".join(str(getattr(a, "shape", a)) for a in arrays)
        return ShapeError(self.name, f"operands {listed}: {said or error}")


def common_dtype(operands: Sequence[Any]) -> Any:
    """The dtype that PyTorch computes in, of arrays of which at most one kind of float is there.

    Floats come before integers, integers before booleans; within one kind an array with axes
    counts, then a 0-d one, then a Python number.
    """
    ranked: dict[tuple[int, int], Any] = {}
    for x in operands:
        dtype = _NUMBERS[type(x)] if not hasattr(x, "dtype") else x.dtype
        place = (2 if getattr(x, "shape", ()) else 1) if hasattr(x, "dtype") else 0
        rank = ("biuf".index(dtype.kind) + 1) // 2, place  # i and u are one kind
        held = ranked.get(rank)
        ranked[rank] = dtype if held is None else np.promote_types(held, dtype)
    return np.dtype(ranked[max(ranked)])


_NUMBERS = {bool: np.dtype(bool), int: int64, float: float32}


def wide_number(value: float) -> np.float32:
    """A Python number that widens float16, as in PyTorch: 65536 is infinite in float16."""
    with silence():
        return np.float32(value)


def as_number(name: str, value: Any, dtype: Any) -> Any:
    """A Python number as an operand of this dtype: integers wrap as PyTorch's, uint8 * -1."""
    if dtype.kind == "f" or type(value) is float:
        return value
    if not -(2**63) <= value < 2**64:
        raise DTypeError(name, f"{value} does not fit into 64 bits; use a float: {float(value)}")
    if dtype.kind == "b":
        return bool(value)
    bits = 8 * dtype.itemsize
    low = 0 if dtype.kind == "u" else -(2 ** (bits - 1))
    return (int(value) - low) % 2**bits + low


def exact_number(name: str, value: Any, dtype: Any) -> Any:
    """A number that is written into this dtype; DTypeError where PyTorch finds no room for it."""
    if dtype.kind in "iu" and not isinstance(value, bool):
        most = np.iinfo(dtype).max
        least = -most if dtype.kind == "u" else -most - 1  # PyTorch lets -1 be 255, but not 300
        if not least <= value <= most:
            raise DTypeError(name, f"{value} does not fit into {dtype}; convert: x.float()")
        return as_number(name, int(value), dtype)
    return bool(value) if dtype.kind == "b" else value


def check_operands(name: str, operands: Iterable[Any]) -> None:
    """DTypeError for what is neither a tensor, an array nor a number: a list, say."""
    for i, x in enumerate(operands):
        if not (x is None or hasattr(x, "dtype") or isinstance(x, (int, float))):
            raise DTypeError(name, f"operand {i} is a {type(x).__name__}; use tc.tensor(...)")


def check_devices(name: str, operands: Sequence[Any]) -> None:
    """DeviceError unless all arrays are on one device; numbers go everywhere."""
    held = [(i, x) for i, x in enumerate(operands) if hasattr(x, "strides")]
    held = [(i, x) for i, x in held if not isinstance(x, np.generic)]
    if len({type(x) for _, x in held}) > 1 and len({backend_of(x) for _, x in held}) > 1:
        listed = " and ".join(f"operand {i} {x.shape} on {backend_of(x).device}" for i, x in held)
        raise DeviceError(
            name, f"{listed}; move one: x.to(y.device), of an array tc.tensor(a, device=y.device)"
        )


def _clash(shapes: Sequence[tuple[int, ...]]) -> str:
    """The axis that keeps shapes from broadcasting; from the end if their lengths differ."""
    longest = max(map(len, shapes))
    for back in range(1, longest + 1):
        sizes = sorted({shape[-back] for shape in shapes if len(shape) >= back} - {1})
        if len(sizes) > 1:
            axis = longest - back if all(len(s) == longest for s in shapes) else -back
            return f"axis {axis} has sizes {' and '.join(map(str, sizes))}; only 1 is broadcast"
    return ""


def _as_called(parameters: Iterable[inspect.Parameter]) -> inspect.Signature:
    """How an operation is called: its metadata by name or by position, as PyTorch's functions."""
    parameters = [p.replace(annotation=p.empty) for p in parameters]
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        parameters = [p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in parameters]
    return inspect.Signature(parameters)


def _whole(g: Any) -> Any:
    """An array, also where NumPy made a scalar of a 0-d result."""
    return np.asarray(g) if isinstance(g, np.generic) else g


@lru_cache(maxsize=1024)  # one for all that are alike, for the overhead of small operations
def _meta(shape: tuple[int, ...], dtype: Any) -> Meta:
    meta = Meta()
    meta.shape = shape
    meta.dtype = dtype
    return meta


@overload
def op(forward: Callable[..., Any], /) -> Op: ...
@overload
def op(
    *,
    name: str | None = None,
    same: Sequence[int] | None = None,
    differentiable: bool = True,
    samples: Sequence[Sample] = (),
    takes: str = "any",
) -> Callable[[Callable[..., Any]], Op]: ...
def op(
    forward: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    same: Sequence[int] | None = None,
    differentiable: bool = True,
    samples: Sequence[Sample] = (),
    takes: str = "any",
) -> Op | Callable[[Callable[..., Any]], Op]:
    """Make an operation of a function on arrays and register it in OPS.

    The function takes arrays as positional arguments and everything else as keywords; what it
    returns may share their memory.  same: the positions of the inputs that must agree in dtype
    (default: those with a VJP).  samples: what to test it with.  differentiable=False: the result
    is a constant to the derivative; without it, a float result needs VJPs (`Op.defvjp`).

    takes: the element types of those inputs, if they are Tensors.  "any"; "floats": integers and
    booleans raise a DTypeError; "promoted": they are computed as float32; "numbers": no booleans;
    "alike": no booleans, nor integers of two dtypes.

    ValueError if another operation has the name; the same function may be defined again.
    """

    def register(function: Callable[..., Any]) -> Op:
        made = Op(
            function, name or function.__name__,
            same=same, differentiable=differentiable, samples=samples, takes=takes,
        )
        _check_free(made)
        OPS[made.name] = made
        return made

    return register if forward is None else register(forward)


def _check_free(made: Op) -> None:
    """ValueError if the name is taken, save by an earlier version of the same function."""
    taken = OPS.get(made.name)
    if taken is None:
        return
    old, new = taken.forward, made.forward
    if old is not new and (old.__module__, old.__qualname__) != (new.__module__, new.__qualname__):
        raise ValueError(
            f"{made.name} is the name of an operation already (of {old.__module__}); choose "
            f"another: @tc.op(name='my_{made.name}')"
        )


# ------------------------------------------------------------------------------------ the walk


def _order(roots: Iterable[Edge]) -> list[Edge]:
    """All that the roots depend on, newest first.

    A node is younger than its inputs, so newest first is a topological order: when the walk
    reaches a node, every consumer has already sent its share of the gradient.
    """
    seen = set(roots)
    stack = list(seen)
    while stack:
        for edge in stack.pop().inputs:
            if edge is not None and edge not in seen:
                seen.add(edge)
                stack.append(edge)
    return sorted(seen, key=attrgetter("seq"), reverse=True)


def _leading_to(targets: Iterable[Edge], order: list[Edge]) -> set[Edge]:
    """The part of the graph through which the targets are reached."""
    needed = set(targets)
    for node in reversed(order):
        if node not in needed and any(edge in needed for edge in node.inputs):
            needed.add(node)
    return needed


def _walk(
    roots: dict[Edge, Any], targets: Sequence[Edge] | None, retain_graph: bool, create_graph: bool
) -> dict[Edge, Any]:
    """Gradients of the targets (None: of all leaves), given those of the roots.

    Gradients travel as plain arrays, as Tensors when ``create_graph``.  A gradient is dropped as
    soon as it was passed on, a node's saved arrays too unless ``retain_graph``.
    """
    wanted = None if targets is None else set(targets)
    needed = None if wanted is None else _leading_to(wanted, _order(roots))
    pending = dict(roots)
    newest = [(-edge.seq, edge) for edge in roots if edge.seq]  # a heap of the pending nodes
    heapify(newest)
    only: Any = None  # the one that is pending where there is no other: of a chain always
    finished: dict[Edge, Any] = {}
    tape = context.tape
    if tape is not None:
        tape.start(roots)
    with grad_mode(create_graph), silence():
        while newest or only is not None:
            node: Any = heappop(newest)[1] if only is None else only
            only = None
            g = pending.pop(node)
            if node.hooks:
                g = _run_hooks(node.hooks, g)
            if wanted is not None and node in wanted:
                finished[node] = _as_of(node, g)
            if needed is not None and needed.isdisjoint(node.inputs):
                continue  # a target that leads to no other target is neither read nor freed
            for edge, share in _vjp(node, g, needed, create_graph):
                if edge in pending:
                    pending[edge] = _added(pending, edge, share)
                else:
                    pending[edge] = share
                    if edge.seq and only is None and not newest:
                        only = edge
                    elif edge.seq:
                        heappush(newest, (-edge.seq, edge))
                        if only is not None:
                            heappush(newest, (-only.seq, only))
                            only = None
                if tape is not None:
                    tape.send(node, edge, share, pending[edge])
            if not retain_graph:
                reads = node.reads
                if reads is not None and (reads.output or reads.values or node.aux is not None):
                    node.reads = None  # first: another thread may walk here, too
                    if reads.start:
                        node.links = node.links[: reads.start]
                    node.output = node.aux = None
            del g
        for leaf in list(pending):
            g = pending.pop(leaf)
            g = _run_hooks(leaf.hooks, g) if leaf.hooks else g
            if wanted is None or leaf in wanted:
                finished[leaf] = _as_of(leaf, g)
    return finished


def _as_of(edge: Edge, g: Any) -> Any:
    """The finished gradient as an array, or a Tensor, of the edge's dtype: a VJP may widen it."""
    g = _whole(g)
    dtype = edge.dtype
    if g.dtype is dtype or g.dtype == dtype:
        return g
    return g.to(dtype) if is_tensor(g) else g.astype(dtype)


def _added(pending: dict[Edge, Any], edge: Edge, b: Any) -> Any:
    """What is pending plus b; large arrays on all threads, in place where nobody would see it."""
    a = [pending[edge]]
    if isinstance(b, Variable) or b.size < WORTH or (b.shape, b.dtype) != (a[0].shape, a[0].dtype):
        return a[0] + b
    return (backend_of(b).add_to if _unshared(a) else backend_of(b).add)(a[0], b)


def _vjp(
    node: Node, g: Any, needed: set[Edge] | None, create_graph: bool
) -> list[tuple[Edge, Any]]:
    """What one node sends to each of its inputs."""
    op, output, links = node.op, node.output, node.links
    reads = node.reads  # last: if another thread has freed the node then that shows
    if reads is None:
        raise GraphError(
            op.name,
            f"this graph{_of(node)} was already walked and freed. Run the forward pass again, or "
            "keep the graph with backward(retain_graph=True) the first time",
        )
    values: Sequence[Any] = links[reads.start :] if reads.start else links
    if last_write[0] > node.seq:
        _check_unwritten(node, reads, values)
    if create_graph:
        output, *values = _as_tensors(node, output, values)
    elif op.fused is not None:
        shares = op.fused(g, output, node.aux, *values, **node.params)
        return [
            (e, s)
            for e, s in zip(node.inputs, shares, strict=True)
            if e is not None and (needed is None or e in needed)
        ]
    out = []
    params = node.params
    try:
        for i in reads.wanted:
            edge = links[i]
            if needed is not None and edge not in needed:
                continue
            share: Any = op  # stands there still if the VJP raises
            if op.variadic:
                share = op.vjps[0](i, g, output, *values, **params)  # type: ignore[misc]
            else:
                vjp: Any = op.vjps[i]
                if type(vjp) is Op:
                    share = vjp(g, output) if create_graph else vjp.forward(g, output)
                else:
                    share = vjp(g, output, *values, **params) if params else vjp(g, output, *values)
            if share.shape != edge.shape:
                raise _misshaped(op, i, share, edge)
            out.append((edge, share))
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, TinyconvError):
            if share is op:
                error.args = (f"{op.name}: its VJP {i} failed: {error}",)
            raise
        raise _vjp_failed(op, i, share, error, [output, *values]) from error
    return out


def _misshaped(op: Op, i: int, share: Any, edge: Edge) -> ShapeError:
    said = f"its VJP {i} returned {share.shape} for an input of shape {edge.shape}"
    if len(share.shape) > len(edge.shape) or any(n == 1 for n in edge.shape):
        said += ". If the input was broadcast: unbroadcast(..., x.shape) of tinyconv.ops.shape"
    elif len(share.shape) < len(edge.shape):
        said += ". If the forward sums: g.broadcast_to(x.shape) spreads it again"
    return ShapeError(op.name, said)


def _vjp_failed(op: Op, i: int, share: Any, error: Exception, saved: Sequence[Any]) -> Exception:
    """What is wrong with a VJP that raised Python's or NumPy's exception, and how to write it."""
    raised = share is op or hasattr(share, "shape")
    usage, wrong = op._usage(), "" if raised else type(share).__name__
    if wrong == "NoneType":
        said = ("returned None; does it lack a return? Where an input has no gradient, None stands "
                f"in the place of the VJP: {op.name}.defvjp(..., None)")
    elif wrong:
        said = f"returned a {wrong}, need the gradient of input {i} alone, an array; {usage}"
    else:
        said = f"raised {type(error).__name__}: {error}. "
        said += _lie(op, i, str(error), saved) or (
            "It is called on plain arrays, and on Tensors with create_graph=True: write it in what "
            "both have, operators and functions of tc, such as g * (x > 0) or tc.exp(x)"
        )
    kind = ShapeError if isinstance(error, (ValueError, IndexError)) else DTypeError
    return kind(op.name, f"its VJP {i} {said}")


def _lie(op: Op, i: int, said: str, saved: Sequence[Any]) -> str:
    """What to do if an argument was read whose name promises that its values are not."""
    vjp = op.vjps[0 if op.variadic else i]
    given = list(inspect.signature(vjp).parameters)[2 if op.variadic else 1 :]  # type: ignore[arg-type]
    lies = [
        name for name, value in zip(given, saved, strict=False)
        if name.startswith("_") and not hasattr(value, "strides") and type(value).__name__ in said
    ]
    if not lies:
        return ""
    listed = " or ".join(lies)
    return (f"Does it read the values of {listed}? The underscore promises that it reads the shape "
            "and dtype alone, so they were not kept: take the underscore away")


def _as_tensors(node: Node, output: Any, values: Sequence[Any]) -> list[Any]:
    """The saved arrays, joined to the graph again so that their VJPs can be differentiated."""
    tensors: list[Any] = [None if output is None else wrap(output, node)]
    for i, (array, edge) in enumerate(zip(values, node.inputs, strict=True)):
        if not hasattr(array, "strides"):  # a number, or a shape without values
            tensors.append(array)
        elif isinstance(edge, Variable):
            if edge.array is not array:
                raise GraphError(
                    node.op.name,
                    f"the backward pass{_of(node)} needs its input {i}, whose .array was replaced "
                    "after the forward pass. Replace it after backward()",
                )
            tensors.append(edge)
        else:
            tensors.append(wrap(array, edge))
    return tensors


def _of(node: Node) -> str:
    return f" of {node.scope}" if node.scope else ""


def _check_unwritten(node: Node, reads: Reads, values: Sequence[Any]) -> None:
    """GraphError if anything that the node's VJPs read was written in place since."""
    if reads.output and written(node.output) > node.seq:
        raise _overwritten(node, "its output")
    for i in reads.values:
        if written(values[i]) > node.seq:
            raise _overwritten(node, f"its input {i}")


def _overwritten(node: Node, what: str) -> GraphError:
    return GraphError(
        node.op.name,
        f"the backward pass{_of(node)} needs {what}, which was overwritten in place after "
        "the forward pass. Write it after backward(), or compute with a copy: x.clone()",
    )


class RemovableHandle:
    """What registering a hook returns: ``remove()`` takes the hook out again."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self.hooks, self.hook = hooks, hook
        hooks.append(hook)

    def remove(self) -> None:
        if self.hook in self.hooks:
            self.hooks.remove(self.hook)


def _run_hooks(hooks: Iterable[Callable[[Any], Any]], g: Any) -> Any:
    plain = not is_tensor(g)
    for hook in list(hooks):  # a hook may remove itself
        tensor = wrap(_whole(g)) if plain else g
        replaced = hook(tensor)
        if replaced is not None:
            if not is_tensor(replaced) or (replaced.shape, replaced.dtype) != (g.shape, g.dtype):
                what = f"{getattr(replaced, 'shape', '')} {getattr(replaced, 'dtype', '')}"
                raise ShapeError(
                    "hook",
                    f"it returned a {type(replaced).__name__} {what}, need {g.shape} {g.dtype}",
                )
            g = replaced.array if plain else replaced
    return g


# --------------------------------------------------------------------------- the two entrances


def _seed(output: Variable, gradient: Any, caller: str) -> Any:
    """The gradient that the walk starts with at one output."""
    if not output.requires_grad:
        raise GraphError(
            caller,
            f"the output {output.shape} does not require grad: nothing that it was computed from "
            "does, or it was computed under no_grad(). Call x.requires_grad_() before the forward",
        )
    if gradient is None:
        if output.array.size != 1:
            raise ShapeError(
                caller,
                f"the output has shape {output.shape}; only a scalar has a gradient without being "
                "told in which direction. Reduce it, y.sum().backward(), or pass a gradient of "
                f"shape {output.shape}",
            )
        return array_module(output.array).ones_like(output.array)
    if not hasattr(gradient, "shape"):
        kind = type(gradient).__name__
        raise DTypeError(caller, f"gradient is a {kind}, need a tensor of shape {output.shape}")
    if gradient.shape != output.shape:
        raise ShapeError(caller, f"gradient has shape {gradient.shape}, the output {output.shape}")
    check_devices(caller, (output.array, gradient.array if is_tensor(gradient) else gradient))
    if gradient.dtype != output.dtype:
        raise DTypeError(
            caller,
            f"gradient is {gradient.dtype}, the output {output.dtype}; "
            f"convert it: gradient.to(tc.{output.dtype})",
        )
    return gradient


def _roots(
    outputs: Sequence[Variable], gradients: Sequence[Any], create_graph: bool, caller: str
) -> dict[Edge, Any]:
    roots: dict[Edge, Any] = {}
    for output, gradient in zip(outputs, gradients, strict=True):
        seed = _seed(output, gradient, caller)
        if create_graph:
            seed = seed if is_tensor(seed) else wrap(seed)
        else:
            seed = seed.array if is_tensor(seed) else seed
        edge = output.node or output
        roots[edge] = roots[edge] + seed if edge in roots else seed
    return roots


def _listed(tensors: Any) -> list[Any]:
    return [tensors] if is_tensor(tensors) else list(tensors)


def _target(i: int, x: Variable) -> Edge:
    """Where the walk meets the i-th input of `grad`."""
    if not x.requires_grad:
        raise GraphError(
            "grad",
            f"input {i} {x.shape} does not require grad; call x.requires_grad_() before the "
            "forward pass",
        )
    return x.node or x


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """Gradients of the sum of ``outputs`` with respect to each of ``inputs``, as a tuple.

    grad_outputs: the vector of the vector-Jacobian product, one per output (None for scalars).
    retain_graph: keep the graph for another walk (default: the value of ``create_graph``).
    create_graph: make the gradients differentiable themselves.
    allow_unused: None instead of a GraphError for an input that the outputs do not depend on.

    Nothing is written to ``.grad``.  Same meaning as torch.autograd.grad.
    """
    outs, ins = _listed(outputs), _listed(inputs)
    seeds = [None] * len(outs) if grad_outputs is None else _listed(grad_outputs)
    if len(seeds) != len(outs):
        raise ValueError(f"grad: {len(outs)} outputs but {len(seeds)} grad_outputs")
    targets = [_target(i, x) for i, x in enumerate(ins)]
    retain = create_graph if retain_graph is None else retain_graph
    found = _walk(_roots(outs, seeds, create_graph, "grad"), targets, retain, create_graph)
    unused = [i for i, edge in enumerate(targets) if edge not in found]
    if unused and not allow_unused:
        raise GraphError(
            "grad",
            f"the outputs do not depend on input {unused[0]} {ins[unused[0]].shape}; "
            "pass allow_unused=True to get None for it",
        )
    grads = [found.get(edge) for edge in targets]
    return tuple(g if g is None or is_tensor(g) else wrap(g) for g in grads)


def backward(
    output: Variable,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add the gradient of ``output`` to ``.grad`` of every leaf that it depends on.

    In place where there is one already, so that a reference to it, and a buffer that it is a view
    of, has the sum; with ``create_graph`` the sum is a new tensor, as in PyTorch.
    """
    retain = create_graph if retain_graph is None else retain_graph
    roots = _roots([output], [gradient], create_graph, "backward")
    found = _walk(roots, None, retain, create_graph)
    if gradient is not None:
        _set_apart(found, gradient)
    tape, capture = context.tape, context.capture
    with grad_mode(create_graph):
        for leaf in list(found):
            assert isinstance(leaf, Variable)
            g = found.pop(leaf)  # nobody else is to refer to it
            g = g if is_tensor(g) else wrap(g)
            if tape is not None:
                tape.store(leaf, g)
            if capture is not None:
                capture.check_gradient(leaf)
            _accumulate(leaf, g)


def _accumulate(leaf: Variable, g: Tensor) -> None:
    held = leaf._grad
    if held is None:
        leaf._grad = _kept(g)
        return
    into, share = held.array, g.array
    if into.shape != share.shape:  # x.data was replaced since
        raise ShapeError(
            "backward", f"a leaf {leaf.shape} has a .grad {into.shape} from before; x.grad = None"
        )
    alike = type(into) is type(share) and into.dtype == share.dtype
    if context.grad_enabled or not alike or not getattr(into.flags, "writeable", True):
        leaf._grad = held + g
        return
    date_write(into)
    if share.size < WORTH:
        into += share
    else:
        backend_of(into).add_to(into, share)


def _set_apart(found: dict[Edge, Any], gradient: Any) -> None:
    """Copies of the gradients if the walk started with memory of a ``.grad`` that they add to.

    They may be views of it, which the first addition would change.
    """
    memory = owner(gradient.array if is_tensor(gradient) else gradient)
    held = [leaf._grad for leaf in found if isinstance(leaf, Variable)]
    if any(grad is not None and owner(grad.array) is memory for grad in held):
        for leaf, g in found.items():
            found[leaf] = g if is_tensor(g) else g.copy()


def _kept(g: Tensor) -> Tensor:
    """g with an array of its own: a VJP may return a view, or one array for two inputs.

    A copy of a large one is in recycled memory, one of a small one row-major, as parameters are.
    """
    if g.node is not None:
        return g.clone()
    few = g.array.size < FEW and type(g.array) is np.ndarray  # quicker than to find out; no GPU
    if not few and _alone(g):
        return g
    if g.array.size < MANY:
        return wrap(g.array.copy("C"))
    return wrap(backend_of(g.array).copy(g.array))


_UNSHARED = np.empty(0)  # for comparison: one variable refers to it


def _alone(g: Tensor) -> bool:
    """Does nothing but g refer to its row-major array?"""
    data = [g.array]
    return data[0].flags.c_contiguous and _unshared(data)


def _unshared(array: list[Array], more: int = 0) -> bool:
    """Does only one more than this list refer to the array in it, and nothing but the array to its

    base?  That is the one of which an array is a reshaped view: it must have memory of its own.
    more: how many further references to the array are known.
    """
    base = [array[0].base]
    if base[0] is None:
        owns = array[0].flags.owndata
    else:
        same = type(base[0]) is type(array[0]) and base[0].size == array[0].size
        owns = same and ((base[0].base is None and base[0].flags.owndata) or is_lent(base[0]))
    if not (owns and getattr(array[0].flags, "writeable", True)):  # CuPy has no such flag
        return False
    unshared = [_UNSHARED]
    # counted alike: in a list each, and referred to once more
    counts = [sys.getrefcount(held[0]) for held in (unshared, array, base) if held[0] is not None]
    counts[1] -= more
    return max(counts) == counts[0]


def is_seen(x: Variable) -> bool:
    """May anything but x, and the node that computed it, refer to the memory of x?"""
    node = x.node
    more = 1 if node is not None and node.output is x.array else 0
    if sys.getrefcount(x.array) - more > _REFERRED_BY_ONE:
        return True
    return x.array.base is not None and not _unshared([x.array], more)


_ONE = _new(Variable)
_ONE.array = np.empty(0)
_REFERRED_BY_ONE = sys.getrefcount(_ONE.array)  # counted as in `is_seen`


# ------------------------------------------------------------------------------------- modes


class grad_mode(Setting):
    """Record operations, or do not, inside a ``with`` block or a decorated function."""

    attribute = "grad_enabled"


class _WithoutArguments(grad_mode):
    """``@tc.no_grad`` without parentheses decorates, too."""

    def __new__(cls, function: Any = None) -> Any:
        return super().__new__(cls) if function is None else cls()(function)


class no_grad(_WithoutArguments):
    """Nothing inside is recorded: for evaluation and for writing parameters."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_WithoutArguments):
    """Record again inside a `no_grad` block."""

    def __init__(self) -> None:
        super().__init__(True)


class inference_mode(grad_mode):
    """PyTorch's other name of `no_grad`."""

    def __new__(cls, mode: Any = True) -> Any:
        return cls()(mode) if callable(mode) else super().__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode)


class set_grad_enabled(grad_mode):
    """Record from here on, or do not; as a ``with`` block or a decorator, only inside."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        # What to put back in this thread, should the object turn out to be for a block only.
        self._acted = [(context.__dict__, context.grad_enabled)]
        context.grad_enabled = self.value

    def _take_back(self) -> None:
        while self._acted and self._acted[0][0] is context.__dict__:
            context.grad_enabled = self._acted.pop()[1]

    def __enter__(self) -> None:
        self._take_back()
        super().__enter__()

    def __call__(self, function: Any) -> Any:
        self._take_back()
        return super().__call__(function)


def is_grad_enabled() -> bool:
    return context.grad_enabled


if not TYPE_CHECKING:  # mypy goes on to report a name that is not there
    __getattr__ = hints_for(__name__)
