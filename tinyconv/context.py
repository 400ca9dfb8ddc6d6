"""What holds while the code runs: is the graph recorded, and in which module are we?

Each thread has its own, as in PyTorch: one may evaluate under no_grad while another trains.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from typing import Any


class Context(threading.local):
    def __init__(self) -> None:
        self.grad_enabled = True
        self.scope = ""  # attribute path of the module that is running, e.g. "layer2.0.conv1"
        self.module: Any = None  # that module
        self.paths: dict[int, str] = {}  # id(module) -> attribute path, of the outermost call
        self.tape: Any = None  # what writes down every gradient that is sent (see.tape)
        self.autocast: Any = None  # the dtype in which float32 products are computed (see amp)
        self.capture: Any = None  # what records a train step for a GPU (see capture.Recording)
        self.watch: Any = None  # called with each new node and its output's array


context = Context()


class Setting:
    """Gives one of the context's attributes another value: in a ``with`` block, in each call of a

    decorated function, and while a decorated generator or coroutine itself runs, not while its
    caller does.  What to put back belongs to the call and the thread, not to this object: several
    threads may share it, and it may be entered again inside of itself.
    """

    attribute: str
    value: Any

    def __init__(self, value: Any) -> None:
        self.value = value
        self._before: dict[int, list[Any]] = {}  # by thread: a stack

    def __enter__(self) -> Any:
        before = context.__dict__[self.attribute]
        self._before.setdefault(threading.get_ident(), []).append(before)
        context.__dict__[self.attribute] = self.value

    def __exit__(self, *_: object) -> None:
        context.__dict__[self.attribute] = self._before[threading.get_ident()].pop()

    def __call__(self, function: Callable[..., Any]) -> Any:
        """The function, generator function or async function with the setting."""
        wrapped = _wrapped(function, self.attribute, self.value)
        return functools.wraps(function)(wrapped)


def _wrapped(function: Callable[..., Any], attribute: str, value: Any) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):
        return _wrapped_async_generator(function, attribute, value)
    if inspect.iscoroutinefunction(function):

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return await _Steps(function(*args, **kwargs), attribute, value)

        return coroutine
    if inspect.isgeneratorfunction(function):

        def generator(*args: Any, **kwargs: Any) -> Any:
            return (yield from _steps(function(*args, **kwargs), attribute, value))

        return generator

    def call(*args: Any, **kwargs: Any) -> Any:
        now = context.__dict__
        before = now[attribute]
        try:
            now[attribute] = value
            return function(*args, **kwargs)
        finally:
            now[attribute] = before

    return call


def _wrapped_async_generator(
    function: Callable[..., Any], attribute: str, value: Any
) -> Callable[..., Any]:
    async def generator(*args: Any, **kwargs: Any) -> Any:
        inner = function(*args, **kwargs)
        step = inner.__anext__()
        while True:
            try:
                found = await _Steps(step, attribute, value)
            except StopAsyncIteration:
                return
            try:
                sent = yield found
            except GeneratorExit:
                await _Steps(inner.aclose(), attribute, value)
                raise
            except BaseException as error:
                step = inner.athrow(error)
            else:
                step = inner.asend(sent)

    return generator


class _Steps:
    """An awaitable whose steps run with the setting."""

    def __init__(self, awaitable: Any, attribute: str, value: Any) -> None:
        self.awaitable, self.setting = awaitable, (attribute, value)

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from _steps(self.awaitable.__await__(), *self.setting))


def _steps(inner: Any, attribute: str, value: Any) -> Generator[Any, Any, Any]:
    """A generator, each step of it with the setting, and what is around as it was."""
    step = functools.partial(next, inner)
    while True:
        now = context.__dict__  # asked for each step: another thread may take the next one
        before = now[attribute]
        try:
            now[attribute] = value
            found = step()
        except StopIteration as end:
            return end.value
        finally:
            now[attribute] = before
        try:
            sent = yield found
        except GeneratorExit:
            _wrapped(inner.close, attribute, value)()
            raise
        except BaseException as error:
            step = functools.partial(inner.throw, error)
        else:
            # An iterator that is no generator, of a future say, has no send.
            if sent is None:
                step = functools.partial(next, inner)
            else:
                step = functools.partial(inner.send, sent)
