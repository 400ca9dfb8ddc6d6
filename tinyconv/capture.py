"""A train step recorded once as CUDA graphs, and launched as a whole: `tc.cuda.graph`.

What runs on the GPU is captured.  What has to be computed anew for each step on the host is not:
the optimizer's step, whose learning rate and step count change; a schedule's step; the seeds of
dropout.  They ask `context.capture`, which notes what is to be done there, after the graph that is
being captured if it launches something.  So a captured step is a list: graph, optimizer, schedule,
graph.

Reference: NVIDIA, CUDA C++ Programming Guide, "CUDA Graphs".
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinyconv.autograd import wrap
from tinyconv.backend import Array, Backend, backend_named, backend_of
from tinyconv.backend.cuda import cublas
from tinyconv.context import context
from tinyconv.errors import (
    DeviceError,
    DTypeError,
    GraphError,
    ShapeError,
    TinyconvError,
    not_a_tensor,
)
from tinyconv.tensor import Tensor

NAME = "cuda.graph"
PACKAGE = str(Path(__file__).parent)


class Captured:
    """Called like the step, with inputs of the captured shapes; see `tc.cuda.graph`.

    The first call runs the step as it is: kernels are compiled and the optimizer's memory is made.
    The second captures it and launches what it captured, as does every later one.
    """

    def __init__(self, step: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
        self.step = step
        self.backend = _backend()
        self.buffers = [self._buffer(i, x) for i, x in enumerate(inputs)]
        self.ran = False
        self.recording: Recording | None = None
        self.outputs: Any = None

    def __call__(self, *inputs: Tensor) -> Any:
        """One step: its outputs, detached, in memory of their own."""
        if context.capture is not None:
            raise DeviceError(NAME, "a captured step inside of a step that is being captured")
        self._take(inputs)
        tensors = [wrap(buffer) for buffer in self.buffers]
        if not self.ran:
            outputs = each(self.step(*tensors), Tensor.detach)
            self.ran = True
            return outputs
        if self.recording is None:
            recording = Recording(self.backend.xp)
            self.outputs = recording.run(self.step, tensors)
            self.recording = recording
        self.recording.launch()
        return each(self.outputs, lambda t: wrap(t.array.copy()))  # the next step overwrites them

    def _buffer(self, i: int, x: Tensor) -> Array:
        if not isinstance(x, Tensor):
            raise DTypeError(NAME, not_a_tensor(f"input {i}", x, "x"))
        if x.requires_grad:
            raise GraphError(NAME, f"input {i} {x.shape} requires grad; x.detach()")
        if backend_of(x.array) is not self.backend:
            raise DeviceError(
                NAME, f"input {i} {x.shape} is on {x.device}; what is captured runs on a GPU: "
                'x.to("cuda")'
            )  # fmt: skip
        return x.array.copy("C")

    def _take(self, inputs: Sequence[Tensor]) -> None:
        """Copy the inputs to where the graphs read them."""
        if len(inputs) != len(self.buffers):
            raise TypeError(
                f"{NAME}: the step was captured with {len(self.buffers)} inputs, got {len(inputs)}"
            )
        for i, (x, buffer) in enumerate(zip(inputs, self.buffers, strict=True)):
            if not isinstance(x, Tensor):
                raise DTypeError(NAME, not_a_tensor(f"input {i}", x, "x"))
            if backend_of(x.array) is not self.backend:
                raise DeviceError(
                    NAME, f'input {i} is on {x.device}, it was captured on cuda: x.to("cuda")'
                )
            if x.shape != buffer.shape:
                raise ShapeError(
                    NAME, f"input {i} is {x.shape}, the step was captured with {buffer.shape}. A "
                    "smaller last batch: DataLoader(..., drop_last=True); other shapes need a "
                    "graph of their own"
                )  # fmt: skip
            if x.dtype != buffer.dtype:
                raise DTypeError(
                    NAME, f"input {i} is {x.dtype}, the step was captured with {buffer.dtype}; "
                    f"x.to(tc.{buffer.dtype})"
                )  # fmt: skip
            if x.array is not buffer:
                buffer[...] = x.array


def _backend() -> Backend:
    """The GPU's, if its kernels are those that can be captured."""
    backend = backend_named("cuda")
    if not any(layer.__name__.endswith(".own") for layer in backend.layers):
        why = backend.reasons.get("own", f"the chosen kernels are {backend.choice!r}")
        raise DeviceError(NAME, f"plain CuPy cannot be captured, it needs the layer 'own': {why}")
    return backend


def each(outputs: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same structure of tuples, lists and dicts, with every Tensor in it changed."""
    if outputs is None:
        return None
    if isinstance(outputs, Tensor):
        return change(outputs)
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(each(output, change) for output in outputs)
    if isinstance(outputs, dict):
        return {key: each(output, change) for key, output in outputs.items()}
    kind = type(outputs).__name__
    raise TypeError(
        f"{NAME}: the step returned a {kind}, which would be the same after each "
        "launch; return Tensors, in tuples, lists or dicts, or None"
    )


class Recording:
    """What a step turns into; while it does, it is `context.capture`.

    parts: the launches of graphs, and what the host does before, between and after them
    pool:  memory for all that the step allocates; nothing else may ever get it
    """

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.parts: list[Callable[[], Any]] = []
        self.pool = cupy.cuda.MemoryPool()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        try:
            self.blas = cublas.Blas(cupy, self.stream)
        except (ImportError, OSError, RuntimeError) as error:
            raise DeviceError(NAME, f"cuBLAS cannot be used without CuPy: {error}") from error
        self.workspace = self.blas.workspace
        self.leaves: dict[int, Tensor] = {}  # those that got a gradient, by their ids

    def run(self, step: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
        """Capture the step; nothing is computed yet.  Returns its outputs, to be computed."""
        cupy, before = self.cupy, context.capture
        context.capture = self
        try:
            with self.stream, cupy.cuda.using_allocator(self.pool.malloc):
                self.stream.begin_capture()
                try:
                    outputs = each(step(*inputs), Tensor.detach)
                except BaseException:
                    self._give_up()
                    raise
                self._end_graph()
        except Exception as error:
            if isinstance(error, TinyconvError) or "captur" not in str(error):
                raise  # a mistake of the step's own
            raise _explained(error) from error
        finally:
            context.capture = before
            self.blas.close()
        return outputs

    def launch(self) -> None:
        """All that the step does, once."""
        for part in self.parts:
            part()

    def _end_graph(self) -> None:
        self.parts.append(self.stream.end_capture().launch)

    def _give_up(self) -> None:
        """End the capture of a step that failed, and forget the gradients that nobody computes."""
        with contextlib.suppress(RuntimeError):  # CUDA says once more that the capture is lost
            self.stream.end_capture()
        for leaf in self.leaves.values():
            leaf.grad = None

    # --- what the parts of tinyconv ask for that a graph cannot hold

    def host(self, action: Callable[[], Any]) -> None:
        """Something that the host does in each step and that launches nothing."""
        self.parts.append(action)

    def between(self, action: Callable[[], Any]) -> None:
        """Something that launches what is not captured: after the launches before it."""
        self._end_graph()
        self.parts.append(action)
        self.stream.begin_capture()

    def number(self, draw: Callable[[], Any], dtype: Any) -> Array:
        """A number on the device, (), drawn anew on the host before each launch."""
        cell = self.cupy.empty((), dtype)
        self.host(lambda: cell.fill(draw()))
        return cell

    def matmul(self, a: Array, b: Array) -> Array:
        """a @ b, which CuPy refuses here."""
        return self.blas.matmul(a, b)

    def check_gradient(self, leaf: Tensor) -> None:
        """A captured backward writes gradients, or adds to those of the same step, to no others."""
        if leaf.grad is not None and id(leaf) not in self.leaves:
            raise GraphError(
                "backward",
                f"a leaf {leaf.shape} has a .grad from before the captured step; the graph would "
                "add to that one for ever: begin the step with optimizer.zero_grad()",
            )
        self.leaves[id(leaf)] = leaf


def _explained(error: Exception) -> DeviceError:
    """The error with the line of the step that a capture cannot hold."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame.filename.startswith((PACKAGE, contextlib.__file__)) for frame in frames]
    called = [i for i in range(len(frames) - 1) if ours[i + 1] and not ours[i]]
    frame = frames[called[-1]] if called else frames[-1]
    said = str(error).splitlines()[0]
    return DeviceError(
        NAME,
        f"{Path(frame.filename).name}:{frame.lineno}, `{frame.line}`, cannot be captured: {said}. "
        "A captured step must not look at a value (item(), float(), print, if x > 0), nor move "
        "data between host and GPU; return the tensor and look at it outside",
    )
