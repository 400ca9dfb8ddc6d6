"""Running a model for the tracer: what it recorded, and the call that failed if one did."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import tinyconv
from tinyconv import samples
from tinyconv.autograd import Node, Op, enable_grad
from tinyconv.context import context
from tinyconv.nn.module import Module
from tinyconv.random import get_rng_state, set_rng_state
from tinyconv.see.graph import Failure
from tinyconv.tensor import Tensor

_LIBRARY = Path(tinyconv.__file__).parent


class Outcome:
    """What a run left: its output, or the error and where it came from; every node it recorded."""

    def __init__(self) -> None:
        self.output: Any = None
        self.error: Exception | None = None
        self.failure: Failure | None = None
        self.nodes: list[Node] = []


def run(
    function: Callable[..., Any],
    inputs: tuple[Any, ...],
    models: Iterable[Any],
    see: Callable[[Node, Any], None],
) -> Outcome:
    """``function(*inputs)``, recorded also under no_grad; ``see`` meets each node and its array.

    The random numbers' state, and the buffers of those ``models`` that are Modules, are put back.
    """
    outcome = Outcome()

    def watch(node: Node, array: Any) -> None:
        outcome.nodes.append(node)
        see(node, array)

    buffers = [b for model in models if isinstance(model, Module) for b in model.buffers()]
    # What is read-only, a memory map say, nobody changes.
    buffers = [b for b in buffers if getattr(b.array.flags, "writeable", True)]
    with _put_back(buffers), _watched(watch), enable_grad():
        try:
            outcome.output = function(*inputs)
        except Exception as error:  # whatever it is, it is drawn
            outcome.error = error
            outcome.failure = _failure(error, function)
    return outcome


@contextmanager
def _watched(watch: Callable[[Node, Any], None]) -> Iterator[None]:
    before, context.watch = context.watch, watch
    try:
        yield
    finally:
        context.watch = before


@contextmanager
def _put_back(buffers: list[Tensor]) -> Iterator[None]:
    state = get_rng_state()
    before = [buffer.array.copy() for buffer in buffers]
    try:
        yield
    finally:
        set_rng_state(state)
        for buffer, data in zip(buffers, before, strict=True):
            buffer.array[...] = data  # not an operation: the graph's own saved arrays stay valid


def input_names(function: Any, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """The tensors among the arguments, by the names that the function gives them."""
    forward = function.forward if isinstance(function, Module) else function
    try:
        given = inspect.signature(forward).bind(*inputs).arguments
    except (TypeError, ValueError):  # the call will say what is wrong; builtins have no signature
        given = {f"input {i}": value for i, value in enumerate(inputs)}
    return {name: value for name, value in given.items() if isinstance(value, Tensor)}


def outputs(value: Any) -> list[Tensor]:
    """The tensors with a graph in what a model returned: one, or a tuple, list or dict of them."""
    found: list[Tensor] = []
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            found += [value] if value.requires_grad else []
        elif isinstance(value, Mapping):
            todo += reversed(list(value.values()))
        elif isinstance(value, (tuple, list)):
            todo += reversed(value)
    return found


# --- which call failed: an exception carries its frames, and they hold the operands


def _failure(error: Exception, function: Any) -> Failure:
    """The innermost layer that was running, or what its hand-written forward had called."""
    frames = _frames(error)
    at = max((i for i, f in enumerate(frames) if f.f_code is _CODE_OF_A_MODULE), default=None)
    message = str(error) or type(error).__name__
    if at is None:  # no module: the first frame is the function's
        scope, forward, layer = "", 0, getattr(function, "__name__", "function")
    else:
        module, scope = frames[at].f_locals["self"], frames[at].f_locals["path"]
        layer = module.brief()
        if module.is_layer:
            return Failure(layer, scope, _tensors(frames[at].f_locals["args"]), message)
        forward = at + 1
    called = next(filter(_in_library, frames[forward + 1 :]), None)
    if called is not None:
        ours = forward < len(frames) and _in_library(frames[forward])  # BasicBlock, Residual
        return Failure(
            layer if ours else _called(called), scope, _tensors(_arguments(called)), message
        )
    seen = frames[forward].f_locals if forward < len(frames) else {}
    return Failure(layer, scope, _tensors(seen.values()), message)


def _in_library(frame: FrameType) -> bool:
    return _LIBRARY in Path(frame.f_code.co_filename).parents


_CODE_OF_A_MODULE: CodeType = Module.__call__.__code__


def _frames(error: Exception) -> list[FrameType]:
    """From the function that was run to where the error was raised."""
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append(step.tb_frame)
        step = step.tb_next
    rest = frames[1:]  # without our own
    last = rest[-1:]
    # A wrapper is not what the user called; where it raised itself it stands for the function.
    return [f for f in rest[:-1] if f.f_code.co_filename != samples.__file__] + last


def _called(frame: FrameType) -> str:
    """``conv2d`` for the operation, ``add`` for Tensor.__add__, a function by its name."""
    self = frame.f_locals.get("self")
    if isinstance(self, Op):
        return self.name
    name: str = frame.f_locals.get("key", frame.f_code.co_name)  # a wrapper knows it as its key
    return name.strip("_")


def _arguments(frame: FrameType) -> list[Any]:
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    return [frame.f_locals.get(name) for name in code.co_varnames[:count]]


def _tensors(values: Any) -> tuple[Tensor, ...]:
    """Those among arguments, also in lists; each once."""
    found: dict[int, Tensor] = {}
    for value in values:
        for item in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(item, Tensor):
                found[id(item)] = item
    return tuple(found.values())
