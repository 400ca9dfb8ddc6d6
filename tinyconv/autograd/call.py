"""What calling an operation does: compute, and record.

`naive.naive_call` says it in fifteen lines.  This is the quick way: of a small operation's two
microseconds each Python call costs a tenth (benchmarks/overhead.py), so it is one long function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.exceptions import AxisError

from tinyconv.autograd.failures import explained, no_array, not_several, refused
from tinyconv.autograd.graph import Node, Variable, meta_of, whole, wrap
from tinyconv.autograd.operands import admit, agree, check_devices, check_operands
from tinyconv.autograd.outputs import tensors_of
from tinyconv.autograd.reads import Reads, find_reads
from tinyconv.autograd.rule import Rule
from tinyconv.backend import BACKENDS
from tinyconv.backend.silence import SILENT, hush, unhush
from tinyconv.clock import tick
from tinyconv.context import context
from tinyconv.dtypes import float16, float32
from tinyconv.errors import DTypeError, GraphError, no_integer, where
from tinyconv.samples import plain

if TYPE_CHECKING:
    from tinyconv.tensor import Tensor

# Keywords that hold neither a Tensor nor one of NumPy's numbers.
PLAIN = frozenset((bool, int, float, str, tuple, dict, type(None)))

_NO_PARAMS: dict[str, Any] = {}  # of most nodes, one for all
_new = object.__new__


class Op(Rule):
    """An operation: called on Tensors it computes and records; called on arrays it just computes.

    The second is what makes a first-order backward pass cheap: a VJP is written once, in
    operations, and runs on plain arrays unless the gradient itself must be differentiable.
    """

    def __init__(self, *args: Any, **params: Any) -> None:
        super().__init__(*args, **params)
        self._reads: dict[int, Reads] = {}  # by the arguments of which gradients are wanted

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
            return out
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
            arrays = admit(self, arrays, params)
        if self.agree and (
            len(arrays) != 2
            or type(arrays[0]) is not type(arrays[1])
            or arrays[0].dtype is not arrays[1].dtype
        ):
            arrays = agree(self, arrays)
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
            raise refused(self, error, arrays, params) or error from error.__cause__
        finally:
            unhush(token)
        several = None
        if self.outputs != 1:
            if type(data) is not tuple or len(data) != self.outputs:
                raise not_several(self, data)
            several = data
            data = several[self.variable[0]]
        try:
            shape = data.shape
        except AttributeError:
            raise no_array(self, data) from None
        if not shape:
            data = whole(data)  # a NumPy reduction returned a scalar
        now = context.__dict__  # this thread's, looked up once
        dtype = data.dtype
        is_float = dtype is float32 or dtype.kind == "f"  # the first is quicker
        if wanted and now["grad_enabled"] and is_float and (self.vjps or self._needs_vjps()):
            try:
                reads = self._reads[wanted + bit]
            except KeyError:
                if isinstance(data, Variable):
                    raise no_array(self, data) from None
                reads = self._reads[wanted + bit] = find_reads(self, wanted, len(edges))
            start = reads.start
            if start:  # one list: each object more is one for the garbage collector
                edges += edges
                for i in reads.values:
                    edges[start + i] = arrays[i]
                for i in reads.shapes:
                    a = arrays[i]
                    edges[start + i] = meta_of(a.shape, a.dtype) if hasattr(a, "dtype") else a
            node = Node()
            node.op = self
            node.links = edges
            node.output = data if reads.outputs else None
            node.reads = reads
            node.params = params or _NO_PARAMS
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
        return result if several is None else tensors_of(self, several, result)

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
            usage = self.usage().removeprefix("write it as ")
            raise GraphError(
                self.name,
                "an input requires grad, but this operation has no VJP. Give it one per array "
                f"input: {self.name}.defvjp({usage}), or declare that its result is a constant to "
                "the derivative: @tc.op(differentiable=False)",
            )
        return False

    def _in_float32(self, *arrays: Any, **params: Any) -> Any:
        """The forward of float16 and a number, which may be too large or too small for that."""
        return self.forward(*arrays, **params).astype(float16)

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
            raise explained(self, error, arrays) from error
        rows = [a.reshape(1) for a in arrays]
        return self.forward(*rows, **{**params, key: dims}).reshape(())
